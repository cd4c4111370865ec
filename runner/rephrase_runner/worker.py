"""The worker: claim -> read -> prompt -> generate -> checkpoint -> commit, until all is committed.

One event loop that never blocks: reading, tokenizing and Parquet run in threads. The engine is kept
full across unit boundaries: while the last documents of a unit are being answered, those of the next
one are already submitted. A drain cancels everything at once; then what is finished is checkpointed
and every unit let go.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from rephrase_api.errors import Drained, EngineFailed, RephraseError, SpecMismatch
from rephrase_runner import parts
from rephrase_runner.account import tally
from rephrase_runner.answering import Answerer
from rephrase_runner.claiming import Claimed, Claimer
from rephrase_runner.documents import Tally
from rephrase_runner.engines.base import Engine, EngineDead
from rephrase_runner.heart import Heart
from rephrase_runner.holding import Holding
from rephrase_runner.ledger import KeyFilter, Ledger, read_spec
from rephrase_runner.prepare import Prepared, Preparer
from rephrase_runner.records import Commit, Hold, Plan
from rephrase_runner.rows import Document, Sample
from rephrase_runner.source import Reader, failed_rows
from rephrase_runner.store import Outcome, SourceChanged
from rephrase_runner.units import Unit
from rephrase_runner.vitals import Vitals

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEAVE_SECONDS = 8
"""A drain never waits longer for the store: 15 s of grace are assumed (GKE spot), see `docs/ledger.md`."""
_MAX_HOLDINGS = 8
_BEATS_PER_LOOK_AT_SPEC = 10


@dataclass(frozen=True, slots=True)
class Pace:
    """The worker's clocks, in seconds; none of them changes what is written."""

    heartbeat: float = 10
    lease: float = 60
    checkpoint: float = 60
    poll: float = 5
    retry: float = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What the run asks of every worker, read from the ledger.

    Attributes:
        units: of the plan, in order.
        rollouts: per prompt.
        kept: types of the kept columns.
        request_attempts: engine calls per sample before it fails.
    """

    plan: Plan
    units: Sequence[Unit]
    rollouts: dict[str, int]
    kept: pa.Schema
    include_source_text: bool
    request_attempts: int


class Worker:
    """One worker process.

    Args:
        ledger: the run.
        job: what it asks.
        reader: reads units of the source.
        preparer: documents to requests, completions to samples.
        engine: ready to answer.
        vitals: this process's counters, running since its start.
        identity: constant heartbeat fields (worker, pod, node, slot, pool, gpus).
        start: unit to begin at.
        pace: clocks.
        drain: set to stop; may be set before `run`.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: Job,
        *,
        reader: Reader,
        preparer: Preparer,
        engine: Engine,
        vitals: Vitals,
        identity: dict[str, Any],
        start: int,
        pace: Pace,
        drain: asyncio.Event,
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._reader = reader
        self._preparer = preparer
        self._vitals = vitals
        self._pace = pace
        self._drain = drain
        self._clock = asyncio.get_running_loop().time
        self._holdings: dict[int, Holding] = {}
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._answerer = Answerer(
            engine,
            preparer,
            vitals,
            attempts=job.request_attempts,
            retry_seconds=pace.retry,
        )
        self._heart = Heart(
            ledger,
            identity,
            self._describe,
            interval_seconds=pace.heartbeat,
            lease_seconds=pace.lease,
        )
        self._claimer = Claimer(
            ledger,
            len(job.units),
            self._heart,
            start=start,
            describe=self._hold,
            lease_seconds=pace.lease,
            refresh_seconds=pace.poll,
        )

    async def run(self) -> None:
        """Work until every unit of the plan is committed.

        Raises:
            Drained: stopped on request; all that was finished is checkpointed, every unit let go.
            EngineFailed: the engine died; likewise.
            RephraseError: a person must act (access, space, another run in this output).
        """
        try:
            await self._heart.beat_until_acknowledged()
            async with asyncio.TaskGroup() as tasks:
                keepers = [
                    tasks.create_task(keep())
                    for keep in (
                        self._heart.run,
                        self._keep_checkpoints,
                        self._keep_watch,
                        self._keep_run,
                        self._stop_on_drain,
                    )
                ]
                await self._work(tasks)
                for holding in list(self._holdings.values()):  # all committed: by others, these
                    if not holding.finishing:
                        await self._abandon(holding)
                for keeper in keepers:
                    keeper.cancel()
        except BaseExceptionGroup as errors:
            cause = first_cause(errors)
            if isinstance(cause, EngineDead):
                raise EngineFailed(
                    f"the engine died ({cause.cause}): {cause}", remedy="See its log above."
                ) from errors
            raise cause from errors
        finally:
            await self._leave()

    # -- the loop --

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while not self._claimer.all_committed:
            await self._answerer.slots.some()
            claimed = None
            if len(self._holdings) < _MAX_HOLDINGS:
                claimed = await self._claimer.next()
            if claimed is not None:
                self._vitals.enter("generating", self._clock())
                await self._feed(await self._open(claimed), tasks)
            elif not self._claimer.all_committed:
                if not self._holdings:
                    self._vitals.enter("idle", self._clock())
                await asyncio.sleep(self._pace.poll)

    async def _open(self, claimed: Claimed) -> Holding:
        """Begin with a unit; keep what earlier holders finished."""
        unit = self._job.units[claimed.unit]
        holding = Holding(
            unit,
            claimed.epoch,
            self._job.rollouts,
            include_source_text=self._job.include_source_text,
            since=self._clock(),
        )
        self._holdings[unit.index] = holding
        if claimed.epoch > 1:
            found = await self._ledger.checkpoints(
                unit.index,
                plan=self._job.plan.sha256,
                etag=self._job.plan.files[unit.file].etag,
                planned_keys=KeyFilter(unit, self._job.rollouts),
            )
            holding.reuse(found.samples)
            logger.info(
                "unit taken over",
                extra={
                    "unit": unit.index,
                    "epoch": claimed.epoch,
                    "reused": len(found.samples),
                    "unreadable_checkpoints": found.unreadable,
                },
            )
        return holding

    async def _feed(self, holding: Holding, tasks: asyncio.TaskGroup) -> None:
        """Submit the unit's documents as the engine has room; return when all are submitted."""
        read = Tally()
        try:
            await self._submit(self._reader.read_unit(holding.unit, read), holding, tasks)
        except SourceChanged:
            logger.error("source file changed", extra={"unit": holding.unit.index})
            await holding.cancel()
            holding.forget()
            rows = failed_rows(
                holding.unit,
                self._job.plan.files,
                reason="source_changed",
                message="the file is not the one that was planned",
            )
            await self._submit(rows, holding, tasks)
            read.filtered = 0
        holding.filtered = read.filtered
        self._finish_if_complete(holding, tasks)

    async def _submit(
        self,
        batches: Iterator[Sequence[Document]],
        holding: Holding,
        tasks: asyncio.TaskGroup,
    ) -> None:
        prepared = (
            [self._preparer.prepare(document, holding.missing(document)) for document in batch]
            for batch in batches
        )
        async with aclosing(self._ahead(prepared)) as ahead:
            async for batch in ahead:
                for one in batch:
                    self._answerer.record_problems(one, holding)
                    if one.requests:
                        await self._answerer.slots.take(len(one.requests))
                        task = tasks.create_task(self._answer(one, holding, tasks))
                        holding.tasks.add(task)
                        task.add_done_callback(holding.tasks.discard)
                    if holding.lost:
                        return

    async def _answer(self, prepared: Prepared, holding: Holding, tasks: asyncio.TaskGroup) -> None:
        await self._answerer.answer(prepared, holding)
        self._finish_if_complete(holding, tasks)

    # -- finishing a unit --

    def _finish_if_complete(self, holding: Holding, tasks: asyncio.TaskGroup) -> None:
        if holding.complete and not holding.finishing and not holding.lost:
            holding.finishing = True
            tasks.create_task(self._finish(holding))

    async def _finish(self, holding: Holding) -> None:
        """Write the unit's part, then its commit; the first commit of a unit stands."""
        unit, epoch = holding.unit.index, holding.epoch
        samples = holding.close()
        data = await asyncio.to_thread(self._encode, holding, samples)
        # Tokens go into a heartbeat before they go into a commit: else a worker that dies in between
        # would seem to have generated less than it committed.
        await self._heart.beat_until_acknowledged()
        part = await self._ledger.write_part(unit, epoch, self._heart.worker, data)
        commit = self._commit(holding, samples, part, data)
        outcome = await self._ledger.commit(commit)
        if outcome is Outcome.MINE:
            self._vitals.committed(unit)
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
            await self._ledger.store.delete(part)
            logger.info("unit was committed by another", extra={"unit": unit, "epoch": epoch})
        if holding.epoch > 1 or holding.checkpoints:
            await self._ledger.sweep_unit(unit)
        self._claimer.committed(unit)
        self._let_go(holding)

    def _commit(self, holding: Holding, samples: list[Sample], part: str, data: bytes) -> Commit:
        summary = tally(samples, self._job.rollouts, part_bytes=len(data))
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
            tokens=summary.tokens,
            truncated=summary.truncated,
            seconds=round(self._clock() - holding.since, 3),
            reused=holding.reused,
            etag=self._job.plan.files[holding.unit.file].etag,
        )

    def _encode(self, holding: Holding, samples: list[Sample]) -> bytes:
        return parts.encode(
            samples,
            origin=parts.Origin(
                run=self._ledger.run,
                unit=holding.unit.index,
                plan=self._job.plan.sha256,
                etag=self._job.plan.files[holding.unit.file].etag,
                filtered=holding.filtered,
            ),
            kept=self._job.kept,
            source_files=[file.name for file in self._job.plan.files],
        )

    # -- keepers --

    async def _stop_on_drain(self) -> None:
        """Cancels everything else, wherever it stands."""
        await self._drain.wait()
        raise Drained("stopped on request", remedy="Run again to continue.")

    async def _keep_checkpoints(self) -> None:
        while True:
            await asyncio.sleep(self._pace.checkpoint)
            for holding in list(self._holdings.values()):
                if not holding.finishing and not await self._drop_if_superseded(holding):
                    await self._checkpoint(holding)

    async def _checkpoint(self, holding: Holding) -> None:
        """Keep the samples of a unit that are in no checkpoint yet."""
        samples = holding.unsaved()
        if not samples:
            return
        unit, epoch = holding.unit.index, holding.epoch
        data = await asyncio.to_thread(self._encode, holding, samples)
        await self._heart.beat_until_acknowledged()
        holding.checkpoints += 1
        await self._ledger.write_checkpoint(
            unit, epoch, self._heart.worker, holding.checkpoints, data
        )
        self._vitals.samples_checkpointed += len(samples)
        logger.info(
            "checkpoint written", extra={"unit": unit, "epoch": epoch, "samples": len(samples)}
        )

    async def _keep_watch(self) -> None:
        """After a pause longer than the lease, drop what others have taken over meanwhile."""
        while True:
            await self._heart.overslept.wait()
            self._heart.overslept.clear()
            for holding in list(self._holdings.values()):
                if not holding.finishing:
                    await self._drop_if_superseded(holding)

    async def _keep_run(self) -> None:
        """End once the output belongs to another run (it was deleted and used again)."""
        while True:
            await asyncio.sleep(self._pace.heartbeat * _BEATS_PER_LOOK_AT_SPEC)
            spec = await read_spec(self._ledger.store)
            if spec is None or spec.run != self._ledger.run:
                raise SpecMismatch(
                    "this output was deleted or given to another run",
                    where=self._ledger.store.uri,
                    remedy="Nothing is to be done: this worker belonged to the old run.",
                )

    async def _drop_if_superseded(self, holding: Holding) -> bool:
        """Give a unit up that another has taken over; samples that no checkpoint has are lost."""
        unit, epoch = holding.unit.index, holding.epoch
        if not await self._ledger.superseded(unit, epoch):
            return False
        logger.warning("unit was taken over by another", extra={"unit": unit, "epoch": epoch})
        await self._abandon(holding)
        return True

    async def _abandon(self, holding: Holding) -> None:
        holding.lost = True
        await holding.cancel()
        self._let_go(holding)

    def _let_go(self, holding: Holding) -> None:
        self._holdings.pop(holding.unit.index, None)
        self._claimer.release(holding.unit.index, holding.epoch)

    async def _leave(self) -> None:
        """Checkpoint what is finished, let every unit go, say so; at most `LEAVE_SECONDS`."""
        self._vitals.enter("draining", self._clock())
        self._reading.shutdown(wait=False, cancel_futures=True)
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                for holding in list(self._holdings.values()):
                    await self._checkpoint(holding)
                    self._let_go(holding)
                self._vitals.enter("gone", self._clock())
                await self._heart.beat()
        except (TimeoutError, RephraseError) as error:
            logger.warning("left without a last word", extra={"reason": str(error)})

    # -- small things --

    async def _ahead(self, items: Iterator[T]) -> AsyncGenerator[T, None]:
        """Run a blocking iterator in the reading thread, one item ahead of the consumer."""
        loop = asyncio.get_running_loop()
        step: Callable[[], T | None] = lambda: next(items, None)  # noqa: E731 - carries its type
        coming = loop.run_in_executor(self._reading, step)
        try:
            while (item := await coming) is not None:
                coming = loop.run_in_executor(self._reading, step)
                yield item
        finally:
            coming.cancel()

    def _hold(self, unit: int, epoch: int) -> Hold:
        holding = self._holdings.get(unit)
        return holding.describe() if holding is not None else Hold(unit=unit, epoch=epoch)

    def _describe(self) -> dict[str, Any]:
        return self._vitals.describe(self._clock()) | {"running": self._answerer.slots.taken}


def first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of a group: what a person must act on first, a drain after everything else."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [errors]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            flat.append(error)
    return min(
        flat, key=lambda error: (isinstance(error, Drained), not isinstance(error, RephraseError))
    )
