"""Writes what a worker has finished: checkpoints of open units, parts and commits of complete ones."""

import asyncio
import logging
from collections.abc import Callable

from rephrase_runner import parts
from rephrase_runner.account import tally
from rephrase_runner.heart import Heart
from rephrase_runner.holding import Holding
from rephrase_runner.job import Job
from rephrase_runner.ledger import Ledger
from rephrase_runner.records import Commit
from rephrase_runner.rows import Sample
from rephrase_runner.store import Outcome
from rephrase_runner.vitals import Vitals

logger = logging.getLogger(__name__)


class Scribe:
    """Makes finished samples durable.

    Tokens go into a heartbeat before they go into anything durable: else a worker that dies in between
    would seem to have generated less than was committed of it (ledger, invariant 7).

    Args:
        ledger: the run.
        job: what it asks.
        heart: of this process.
        vitals: of this process.
        clock: the loop's, seconds.
    """

    def __init__(
        self, ledger: Ledger, job: Job, heart: Heart, vitals: Vitals, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._heart = heart
        self._vitals = vitals
        self._clock = clock

    async def checkpoint(self, holding: Holding, *, patience: float | None = None) -> None:
        """Keep the samples of a unit that are in no checkpoint yet; nothing if there are none.

        Not those of a unit whose source changed: the planned version may come back, and then its filter
        leaves rows out that all count here.

        Args:
            holding: the unit.
            patience: seconds that the checks are waited for; what they are not done with is not kept.
        """
        await holding.wait_for_checks(everything=False, patience=patience)
        samples = [] if holding.changed else holding.unsaved()
        if not samples:
            return
        unit, epoch = holding.unit.index, holding.epoch
        holding.checkpoints += 1
        number, worker = holding.checkpoints, self._heart.worker
        if holding.slice is None:
            name = self._ledger.names.checkpoint(unit, epoch, worker, number)
        else:
            name = self._ledger.names.shared(unit, holding.slice, worker, number)
        try:
            data = await asyncio.to_thread(self._encode, holding, samples)
            await self._heart.beat_until_acknowledged()
            await self._ledger.write_checkpoint(name, data)
        except BaseException:  # a drain may cut this off: then the last checkpoint takes them along
            holding.keep_unsaved(samples)
            raise
        self._vitals.samples_checkpointed += len(samples)
        self._vitals.saved(self._clock())
        logger.info(
            "checkpoint written", extra={"unit": unit, "epoch": epoch, "samples": len(samples)}
        )

    async def commit(self, holding: Holding) -> None:
        """Write the part of a complete unit, then its commit; the first commit of a unit stands."""
        unit, epoch = holding.unit.index, holding.epoch
        await holding.wait_for_checks(everything=True)
        samples = holding.close()
        data = await asyncio.to_thread(self._encode, holding, samples)
        await self._heart.beat_until_acknowledged()
        part = await self._ledger.write_part(unit, epoch, self._heart.worker, data)
        commit = await asyncio.to_thread(self._commit, holding, samples, part, data)
        if await self._ledger.commit(commit) is Outcome.MINE:
            self._vitals.committed(commit)
            self._vitals.saved(self._clock())
            logger.info(
                "unit committed",
                extra={
                    "unit": unit,
                    "epoch": epoch,
                    "samples": len(samples),
                    "reused": holding.reused,
                    "tokens": commit.tokens.completion,
                    "seconds": commit.seconds,
                },
            )
        else:  # somebody who took the unit over was first; his samples are as good as ours
            self._vitals.discarded(commit)
            await self._ledger.store.delete(part)
            logger.info("unit was committed by another", extra={"unit": unit, "epoch": epoch})
        if epoch > 1 or holding.checkpoints or holding.shared:
            await self._ledger.sweep_unit(unit)

    def _commit(self, holding: Holding, samples: list[Sample], part: str, data: bytes) -> Commit:
        summary = tally(
            samples,
            self._job.rollouts,
            part_bytes=len(data),
            openings_below=self._job.openings_below,
        )
        return Commit(
            run=self._ledger.run,
            unit=holding.unit.index,
            epoch=holding.epoch,
            worker=self._heart.worker,
            beat=self._heart.next_beat,
            part=part,
            sha256=parts.digest(data),
            bytes=len(data),
            rows=holding.unit.rows,
            filtered=holding.filtered or 0,
            counts=summary.counts,
            reasons=summary.reasons,
            flags=summary.flags,
            tokens=summary.tokens,
            truncated=summary.truncated,
            noticed=summary.noticed,
            openings=summary.openings,
            seconds=round(self._clock() - holding.since, 3),
            reused=holding.reused,
            etag=self._job.etag(holding.unit),
        )

    def _encode(self, holding: Holding, samples: list[Sample]) -> bytes:
        return parts.encode(
            samples,
            origin=parts.Origin(
                run=self._ledger.run,
                unit=holding.unit.index,
                plan=self._job.plan.sha256,
                etag=self._job.etag(holding.unit),
                filtered=holding.filtered,
            ),
            kept=self._job.kept,
            source_files=[file.name for file in self._job.plan.files],
        )
