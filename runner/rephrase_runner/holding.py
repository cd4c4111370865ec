"""One unit (or a helper's slice of one) in a worker's hands: its samples so far, and when it is done.

No I/O. The worker feeds documents in and outcomes as they come; at the end the account must close:
one sample for every key of the unit.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

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
        slice_: set if this is only a slice of another worker's unit that we help with.
    """

    def __init__(
        self,
        unit: Unit,
        epoch: int,
        rollouts: Mapping[str, int],
        *,
        include_source_text: bool,
        since: float,
        slice_: int | None = None,
    ) -> None:
        self.unit = unit
        self.epoch = epoch
        self.since = since
        self.slice = slice_
        self.samples: dict[Key, Sample] = {}
        self.reused = 0
        self.checkpoints = 0
        self.filtered: int | None = None
        self.next_row = unit.first_row
        """First row that has not been submitted."""
        self.lost = False
        """Set once the unit was taken over or given up: nothing more is to be written for it."""
        self.changed = False
        """Set once the source was found to be another: its failed rows go into a part, all or none."""
        self.finishing = False
        """Set once the part is being written: from then on it commits or loses to another commit."""
        self.shared: dict[int, str] = {}
        """Slices that helpers took, with the helper."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Documents that are being answered."""
        self.in_flight: set[int] = set()
        """Their rows. A row stays here if its answer was cut off: evidence after an engine death."""
        self._rollouts = dict(rollouts)
        self._include_source_text = include_source_text
        self._unsaved: dict[Key, Sample] = {}
        self._unchecked: set[Key] = set()
        self._in_check: set[Key] = set()
        self._checked = asyncio.Event()
        self._check_error: Exception | None = None

    @property
    def expected(self) -> int | None:
        """How many keys the unit has; None until its last row has been read."""
        if self.filtered is None:
            return None
        return (self.unit.rows - self.filtered) * sum(self._rollouts.values())

    @property
    def complete(self) -> bool:
        """Whether every key has its sample."""
        return self.expected is not None and len(self.samples) >= self.expected

    def describe(self) -> Hold:
        """For the heartbeat."""
        expected = self.expected
        if expected is None:
            expected = self.unit.rows * sum(self._rollouts.values())
        return Hold(
            unit=self.unit.index,
            epoch=self.epoch,
            next=self.next_row,
            left=max(0, expected - len(self.samples)),
        )

    def reuse(self, samples: Mapping[Key, Sample]) -> None:
        """Take over what others finished; what is here already stays."""
        fresh = {key: sample for key, sample in samples.items() if key not in self.samples}
        self.samples.update(fresh)
        self.reused += len(fresh)

    def missing(self, document: Document) -> list[Key]:
        """Keys of a document that have no sample yet, prompt by prompt."""
        return [
            key
            for prompt, rollouts in self._rollouts.items()
            for rollout in range(rollouts)
            if (key := Key(document.file, document.row, prompt, rollout)) not in self.samples
        ]

    def done_rows(self) -> set[int]:
        """Rows whose keys all have a sample."""
        counts: dict[int, int] = {}
        for key in self.samples:
            counts[key.row] = counts.get(key.row, 0) + 1
        per_row = sum(self._rollouts.values())
        return {row for row, count in counts.items() if count == per_row}

    def add(self, sample: Sample, *, unchecked: bool = False) -> bool:
        """Record the outcome of one key; False if somebody else's sample was taken over meanwhile.

        Args:
            sample: the outcome.
            unchecked: it will be given to the checks, and is not written before `checked`.
        """
        if sample.key in self.samples:
            return False
        self.samples[sample.key] = sample
        self._unsaved[sample.key] = sample
        if unchecked:
            self._unchecked.add(sample.key)
        return True

    def in_check(self, samples: Iterable[Sample]) -> None:
        """These are with the checks now."""
        self._in_check.update(sample.key for sample in samples)

    def checked(self, before: Iterable[Sample], after: Iterable[Sample]) -> None:
        """Put checked samples in the place of what they were."""
        for old, new in zip(before, after, strict=True):
            if self.samples.get(new.key) is old:
                self.samples[new.key] = self._unsaved[new.key] = new
            self._unchecked.discard(new.key)
            self._in_check.discard(new.key)
        self._checked.set()

    def check_failed(self, error: Exception) -> None:
        """The checks are broken; whoever waits for them is told."""
        self._check_error = error
        self._checked.set()

    async def wait_for_checks(self, *, everything: bool, patience: float | None = None) -> None:
        """Wait for the checks of what they have, or of every sample there is; so many seconds at most."""
        waiting = set(self._unchecked if everything else self._in_check)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not waiting.isdisjoint(self._unchecked):
                    if self._check_error is not None:
                        raise self._check_error
                    self._checked.clear()
                    await self._checked.wait()

    async def cancel(self) -> None:
        """Stop answering; when it returns, nothing more will be added."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def forget(self) -> None:
        """Drop all samples: the source is not what was planned (ledger protocol, section 5)."""
        self.samples.clear()
        self._unsaved.clear()
        self._unchecked.clear()
        self._checked.set()
        self.in_flight.clear()
        self.reused = 0
        self.changed = True

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
        """Checked samples that are in no checkpoint yet; they count as saved from now on."""
        saved = [one for key, one in self._unsaved.items() if key not in self._unchecked]
        self._unsaved = {key: self._unsaved[key] for key in self._unchecked & self._unsaved.keys()}
        return saved

    def keep_unsaved(self, samples: list[Sample]) -> None:
        """These were not saved after all."""
        self._unsaved = {sample.key: sample for sample in samples} | self._unsaved

    def close(self) -> list[Sample]:
        """All samples of the finished unit.

        Raises:
            LedgerDamaged: there are more samples than keys: a checkpoint holds foreign rows.
        """
        expected = self.expected
        if expected is None or len(self.samples) != expected:
            raise LedgerDamaged(
                f"{len(self.samples)} samples for {expected} keys",
                where=f"unit {self.unit.index}",
                remedy="Nothing was written. Please report this; running again does the unit anew.",
            )
        return list(self.samples.values())
