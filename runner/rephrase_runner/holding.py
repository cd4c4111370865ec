"""One unit in a worker's hands: its samples so far, what is checkpointed, when it is done.

No I/O. The worker feeds documents in and outcomes as they come; at the end the account must close:
one sample for every key of the unit.
"""

import asyncio
from collections.abc import Mapping

from rephrase_api.errors import LedgerDamaged
from rephrase_runner.records import Hold
from rephrase_runner.rows import Document, Key, Problem, Sample
from rephrase_runner.units import Unit


class Holding:
    """The state of one claimed unit.

    Args:
        unit: the unit as planned.
        epoch: of our claim.
        rollouts: per prompt of the run.
        include_source_text: keep the document with each sample.
        since: the loop's clock when it was claimed, seconds.
    """

    def __init__(
        self,
        unit: Unit,
        epoch: int,
        rollouts: Mapping[str, int],
        *,
        include_source_text: bool,
        since: float,
    ) -> None:
        self.unit = unit
        self.epoch = epoch
        self.samples: dict[Key, Sample] = {}
        self.reused = 0
        self.checkpoints = 0
        self.filtered: int | None = None
        self.lost = False
        """Set once the unit was taken over or given up: nothing more is to be written for it."""
        self.finishing = False
        """Set once the part is being written: from then on it commits or loses to another commit."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Documents that are being answered."""
        self.since = since
        self._rollouts = dict(rollouts)
        self._include_source_text = include_source_text
        self._unsaved: list[Sample] = []

    @property
    def keys_per_row(self) -> int:
        """Samples of one document."""
        return sum(self._rollouts.values())

    @property
    def expected(self) -> int | None:
        """How many keys the unit has; None until its last row has been read."""
        if self.filtered is None:
            return None
        return (self.unit.rows - self.filtered) * self.keys_per_row

    @property
    def complete(self) -> bool:
        """Whether every key has its sample."""
        return self.expected is not None and len(self.samples) >= self.expected

    def describe(self) -> Hold:
        """For the heartbeat."""
        expected = self.expected
        if expected is None:
            expected = self.unit.rows * self.keys_per_row
        return Hold(
            unit=self.unit.index, epoch=self.epoch, left=max(0, expected - len(self.samples))
        )

    def reuse(self, samples: Mapping[Key, Sample]) -> None:
        """Take over what an earlier holder finished."""
        self.samples.update(samples)
        self.reused += len(samples)

    def missing(self, document: Document) -> list[Key]:
        """Keys of a document that have no sample yet, prompt by prompt."""
        return [
            key
            for prompt, rollouts in self._rollouts.items()
            for rollout in range(rollouts)
            if (key := Key(document.file, document.row, prompt, rollout)) not in self.samples
        ]

    def add(self, sample: Sample) -> None:
        """Record the outcome of one key."""
        if sample.key in self.samples:
            raise AssertionError(f"two samples for {sample.key}")
        self.samples[sample.key] = sample
        self._unsaved.append(sample)

    async def cancel(self) -> None:
        """Stop answering; when it returns, nothing more will be added."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def forget(self) -> None:
        """Drop all samples: the source is not what was planned (ledger protocol, section 5)."""
        self.samples.clear()
        self._unsaved.clear()
        self.reused = 0

    def outcome(
        self, document: Document, key: Key, problem: Problem, *, attempts: int = 0
    ) -> Sample:
        """A sample without a rewrite."""
        return Sample(
            key=key,
            source_id=document.source_id,
            status=problem.status,
            reason=problem.reason,
            message=problem.message,
            attempts=attempts,
            flags=document.flags,
            kept=document.kept,
            source_text=self.source_text(document),
        )

    def source_text(self, document: Document) -> str | None:
        """The document, if the output is to include it."""
        return document.text if self._include_source_text else None

    def unsaved(self) -> list[Sample]:
        """Samples that are in no checkpoint yet; they count as saved from now on."""
        saved, self._unsaved = self._unsaved, []
        return saved

    def close(self) -> list[Sample]:
        """All samples of the finished unit.

        Raises:
            LedgerDamaged: there are more samples than keys: an earlier checkpoint holds foreign rows.
        """
        expected = self.expected
        if expected is None or len(self.samples) != expected:
            raise LedgerDamaged(
                f"{len(self.samples)} samples for {expected} keys",
                where=f"unit {self.unit.index}",
                remedy="Nothing was written. Please report this; running again does the unit anew.",
            )
        return list(self.samples.values())
