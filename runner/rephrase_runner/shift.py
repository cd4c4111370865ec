"""A shift: one engine's life in a worker. Claims units, keeps the engine full, ends when all is done.

While the last documents of a unit are being answered, those of the next one are already submitted. Units
with a history of deaths are done in the order of the ledger protocol, section 6: unsuspected documents as
always, suspects in windows of their own. Where nothing is left to claim, others are helped (section 7).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeVar

from rephrase_api.errors import EngineFailed
from rephrase_runner.answering import Answerer
from rephrase_runner.checking import Checker
from rephrase_runner.claiming import Claimed, Claimer
from rephrase_runner.documents import Tally
from rephrase_runner.engines.base import Engine, EngineDead
from rephrase_runner.holding import Holding
from rephrase_runner.job import Job, Pace
from rephrase_runner.ledger import KeyFilter, Ledger
from rephrase_runner.prepare import Prepared, Preparer
from rephrase_runner.rows import Document, Problem, Status
from rephrase_runner.scribe import Scribe
from rephrase_runner.source import Reader, failed_rows
from rephrase_runner.store import Outcome, SourceChanged, Unclear
from rephrase_runner.suspects import Suspicion, deaths_allowed, next_window, suspect
from rephrase_runner.tail import last_free_slice, slice_of, slice_range, slowest_first
from rephrase_runner.units import Unit
from rephrase_runner.vitals import Vitals

logger = logging.getLogger(__name__)
T = TypeVar("T")
_UNITS_HELD = 3
"""One that is being written, one whose last answers come, and the one that follows it."""
_DOCUMENTS_HELD = 4
"""For each request that the engine takes at once: of small units many are held."""
_HELP_LOOKS = 4
"""Units looked at in one go for a slice to help with: a look costs two listings."""
_NOBODY = Suspicion((), ())


class Shift:
    """Works until every unit that is ours to do is committed or the engine dies.

    Args:
        ledger: the run.
        job: what it asks.
        claimer: gives units.
        scribe: makes samples durable.
        holdings: units in this worker's hands, shared with its keepers.
        spawn: starts a task that outlives the engine (a commit).
        reader: reads units, in one thread.
        preparer: documents to requests.
        checker: looks at rewrites beside generation.
        engine: ready to answer.
        vitals: of this process.
        pace: clocks.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: Job,
        *,
        claimer: Claimer,
        scribe: Scribe,
        holdings: dict[int, Holding],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        reader: Reader,
        preparer: Preparer,
        checker: Checker,
        engine: Engine,
        vitals: Vitals,
        pace: Pace,
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._claimer = claimer
        self._scribe = scribe
        self._holdings = holdings
        self._spawn = spawn
        self._reader = reader
        self._preparer = preparer
        self._engine = engine
        self._vitals = vitals
        self._pace = pace
        self._clock = asyncio.get_running_loop().time
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._ended = asyncio.Event()
        self._helped_out: set[int] = set()  # units that nobody can help with any more
        self.helping: Holding | None = None
        """A slice of another's unit that we are helping with."""
        self.answerer = Answerer(
            engine,
            preparer,
            vitals,
            checker,
            attempts=job.request_attempts,
            retry_seconds=pace.retry,
        )

    async def run(self) -> None:
        """Work until every unit that is ours to do is committed.

        Raises:
            BaseExceptionGroup: with EngineDead (rows in flight are in the holdings), or whatever else
                ended it.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watchers = [
                    tasks.create_task(self._watch_engine()),
                    tasks.create_task(self._watch_shares()),
                ]
                await self._work(tasks)
                for watcher in watchers:
                    watcher.cancel()
                for holding in list(self._holdings.values()):  # all committed: by others, these
                    if not holding.finishing:
                        await self.abandon(holding)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while not self._claimer.all_committed:
            await self.answerer.slots.some()
            claimed = None
            if self._has_room():
                claimed = await self._next()
            if claimed is not None:
                self._vitals.enter("generating", self._clock())
                await self._do(await self._open(claimed), claimed, tasks)
            elif not self._claimer.all_committed and not await self._help(tasks):
                if not self._holdings:
                    self._vitals.enter("idle", self._clock())
                await self._wait_for_room()

    async def _next(self) -> Claimed | None:
        try:
            return await self._claimer.next()
        except Unclear as error:  # there is nothing to claim while the store is away
            logger.warning("the store is away; going on", extra={"reason": str(error)})
            return None

    def _has_room(self) -> bool:
        """Whether to claim more, now that the engine has room and all that was claimed is submitted.

        A store that is slower than the engine, or a few answers that take for ever, must not make the units
        many whose samples are in memory.
        """
        rows = [holding.unit.rows for holding in self._holdings.values()]
        return len(rows) < _UNITS_HELD or sum(rows) < _DOCUMENTS_HELD * self._engine.max_in_flight

    async def _wait_for_room(self) -> None:
        """Wait for a unit to end, or until it is time to look for work again."""
        self._ended.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.poll):
                await self._ended.wait()

    async def _watch_engine(self) -> None:
        """An engine that has requests and neither makes progress nor answers any hangs."""
        signs, since = (0, 0), self._clock()
        while True:
            await asyncio.sleep(self._pace.hang / 8)
            seen = self._engine.steps, self.answerer.answers
            if seen != signs or self.answerer.asked == 0:
                signs, since = seen, self._clock()
            elif self._clock() - since > self._pace.hang:
                raise EngineDead("hang", f"no progress for {self._pace.hang:.0f} s")

    async def _watch_shares(self) -> None:
        """At the tail, see which slices of our units helpers have taken."""
        while True:
            await asyncio.sleep(self._pace.heartbeat)
            with contextlib.suppress(Unclear):  # the store is away: only the help is missed
                await self._claimer.look_around(force=False)
                if self._claimer.tail:
                    for holding in list(self._holdings.values()):
                        holding.shared = await self._ledger.shared_slices(holding.unit.index)

    # -- one unit --

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
        self._vitals.leases_expired += claimed.why == "stale"
        if claimed.epoch > 1:
            unreadable = await self._merge(holding)
            logger.info(
                "unit taken over",
                extra={
                    "unit": unit.index,
                    "epoch": claimed.epoch,
                    "reason": claimed.why,
                    "reused": holding.reused,
                    "unreadable_checkpoints": unreadable,
                },
            )
        return holding

    async def _merge(self, holding: Holding) -> int:
        """Take over what checkpoints hold; returns how many of them could not be used."""
        found = await self._ledger.checkpoints(
            holding.unit.index,
            plan=self._job.plan.sha256,
            etag=self._job.etag(holding.unit),
            planned_keys=KeyFilter(holding.unit, self._job.rollouts),
        )
        holding.reuse(found.samples)
        return found.unreadable

    async def _do(self, holding: Holding, claimed: Claimed, tasks: asyncio.TaskGroup) -> None:
        """Submit a unit's documents as the engine has room; return when all are submitted."""
        unit = holding.unit
        suspicion = _NOBODY
        if claimed.epoch > 1:
            ends = await self._ledger.history(unit.index, claimed.epoch)
            rows = range(unit.first_row, unit.first_row + unit.rows)
            open_rows = set(rows) - holding.done_rows()
            suspicion = suspect(ends, open_rows, kills=self._job.engine_kills)
            if suspicion.fruitless > deaths_allowed(unit.rows):
                raise EngineFailed(
                    f"{suspicion.fruitless} engine deaths over unit {unit.index} and no document that "
                    "could be blamed",
                    where=self._ledger.names.deaths(unit.index),
                    remedy="The engine or its machine is at fault: try other engine arguments or nodes.",
                )
        read = Tally()
        try:
            batches = self._reader.read_unit(unit, read)
            aside = await self._feed(batches, holding, suspicion, tasks)
        except SourceChanged:
            logger.error("source file changed", extra={"unit": unit.index})
            await holding.cancel()
            holding.forget()
            rows_failed = failed_rows(
                unit,
                self._job.plan.files,
                reason="source_changed",
                message="the file is not the one that was planned",
            )
            aside = await self._feed(rows_failed, holding, _NOBODY, tasks)
            read.filtered = 0
        holding.filtered = read.filtered
        suspects = {row: one for row, one in aside.items() if row in suspicion.rows}
        if suspects and not holding.lost:
            await self._try_suspects(holding, suspicion, suspects)
        if len(aside) > len(suspects) and not holding.lost:
            await self._do_shared_rest(holding, aside, tasks)
        self._finish_if_complete(holding)

    async def _feed(
        self,
        batches: Iterator[Sequence[Document]],
        holding: Holding,
        suspicion: Suspicion,
        tasks: asyncio.TaskGroup,
    ) -> dict[int, Prepared]:
        """Submit what nobody suspects or helps with; returns the others, by row."""
        guilty = {one.row: one for one in suspicion.guilty}
        suspects = suspicion.rows
        aside: dict[int, Prepared] = {}
        prepared = (
            [self._preparer.prepare(document, holding.missing(document)) for document in batch]
            for batch in batches
        )
        async with aclosing(self._ahead(prepared)) as ahead:
            async for batch in ahead:
                for one in batch:
                    row = one.document.row
                    if row in guilty:
                        evidence = ", ".join(guilty[row].evidence)
                        self.answerer.record(one, holding, _engine_killer(evidence))
                    elif one.requests and (row in suspects or self._is_shared(holding, row)):
                        aside[row] = one
                    else:
                        await self._submit(one, holding, tasks)
                    if holding.lost:
                        return {}
                    holding.next_row = row + 1
        return aside

    async def _submit(self, prepared: Prepared, holding: Holding, tasks: asyncio.TaskGroup) -> None:
        self.answerer.record_problems(prepared, holding)
        if prepared.requests:
            await self.answerer.slots.take(len(prepared.requests))
            begun = asyncio.Event()
            task = tasks.create_task(self._answer(prepared, holding, begun))
            holding.tasks.add(task)

            def done(task: asyncio.Task[None]) -> None:
                holding.tasks.discard(task)
                if (
                    not begun.is_set()
                ):  # canceled before its first step: it gives nothing back itself
                    self.answerer.slots.give(len(prepared.requests))

            task.add_done_callback(done)

    async def _answer(self, prepared: Prepared, holding: Holding, begun: asyncio.Event) -> None:
        begun.set()
        row = prepared.document.row
        holding.in_flight.add(row)
        await self.answerer.answer(prepared, holding)
        holding.in_flight.discard(row)  # not if it was cut off: then the row is evidence
        self._finish_if_complete(holding)

    async def _try_suspects(
        self, holding: Holding, suspicion: Suspicion, aside: dict[int, Prepared]
    ) -> None:
        """Answer suspects a few at a time with nothing else in flight, telling the ledger before."""
        await self.answerer.slots.none_taken()
        await self._scribe.checkpoint(holding)
        groups = [group & aside.keys() for group in suspicion.groups if group & aside.keys()]
        number = 0
        while groups and not holding.lost:
            window = next_window(groups)
            number += 1
            await self._ledger.open_window(holding.unit.index, holding.epoch, number, window)
            logger.warning(
                "trying suspects alone",
                extra={"unit": holding.unit.index, "epoch": holding.epoch, "rows": len(window)},
            )
            await self._answer_alone([aside[row] for row in sorted(window)], holding)
            await self._scribe.checkpoint(holding)
            groups = [group - window for group in groups if group - window]

    async def _answer_alone(self, window: Collection[Prepared], holding: Holding) -> None:
        async with asyncio.TaskGroup() as tasks:
            for prepared in window:
                await self._submit(prepared, holding, tasks)

    # -- the tail of the run --

    def _is_shared(self, holding: Holding, row: int) -> bool:
        return slice_of(holding.unit, row, self._job.plan.slice_rows) in holding.shared

    async def _do_shared_rest(
        self, holding: Holding, aside: dict[int, Prepared], tasks: asyncio.TaskGroup
    ) -> None:
        """Our own rows are submitted: take what helpers have finished, and do what is still missing.

        From the last row on, since a helper begins with the first one of his slice. A sample that both
        make costs GPU time, not truth, and helpers may be dead.
        """
        merged = self._clock() - self._pace.poll
        for row in sorted(aside, reverse=True):
            if self._clock() - merged >= self._pace.poll:
                await self._merge(holding)
                merged = self._clock()
            missing = holding.missing(aside[row].document)
            if missing and not holding.lost:
                await self._submit(
                    self._preparer.prepare(aside[row].document, missing), holding, tasks
                )
        while holding.tasks and not holding.complete and not holding.lost:
            await asyncio.wait(holding.tasks, timeout=self._pace.poll)
            await self._merge(holding)

    async def _help(self, tasks: asyncio.TaskGroup) -> bool:
        """Do a slice of the unit that will take its holder longest; False if nobody needs help."""
        if self._holdings:
            return False
        needy = [held for held in self._claimer.tail if held.unit not in self._helped_out]
        for held in slowest_first(needy)[:_HELP_LOOKS]:
            unit = self._job.units[held.unit]
            taken = await self._ledger.shared_slices(unit.index)
            number = last_free_slice(
                unit, self._job.plan.slice_rows, taken=taken, next_row=held.next
            )
            if number is None or await self._ledger.has_deaths(unit.index):
                self._helped_out.add(unit.index)
                continue
            worker = self._claimer.worker
            try:
                outcome = await self._ledger.take_share(unit.index, number, worker)
            except Unclear:  # a share that nobody works on costs its holder nothing
                continue
            if outcome is Outcome.MINE:
                await self._do_slice(unit, held.epoch, number, tasks)
                return True
        return False

    async def _do_slice(
        self, unit: Unit, epoch: int, number: int, tasks: asyncio.TaskGroup
    ) -> None:
        logger.info("helping", extra={"unit": unit.index, "slice": number})
        holding = Holding(
            unit,
            epoch,
            self._job.rollouts,
            include_source_text=self._job.include_source_text,
            since=self._clock(),
            slice_=number,
        )
        self.helping = holding
        self._vitals.enter("generating", self._clock())
        await self._merge(holding)
        rows = slice_range(unit, number, self._job.plan.slice_rows)
        try:
            batches = (
                [document for document in batch if document.row in rows]
                for batch in self._reader.read_unit(unit, Tally())
            )
            await self._feed(batches, holding, _NOBODY, tasks)
            await self.answerer.slots.none_taken()
            if not holding.lost:
                await self._scribe.checkpoint(holding)
        except SourceChanged:
            pass  # its holder will find out too, and say so
        self.helping = None

    # -- the end of a unit --

    def _finish_if_complete(self, holding: Holding) -> None:
        if holding.slice is None and holding.complete and not (holding.finishing or holding.lost):
            holding.finishing = True
            self._spawn(self._finish(holding))

    async def _finish(self, holding: Holding) -> None:
        await holding.cancel()  # what a helper finished first need not be answered
        await self._scribe.commit(holding)
        self._claimer.committed(holding.unit.index)
        self._let_go(holding)

    async def abandon(self, holding: Holding) -> None:
        """Give a unit up: others have it, or the engine is dead."""
        holding.lost = True
        await holding.cancel()
        self._let_go(holding)

    def _let_go(self, holding: Holding) -> None:
        self._holdings.pop(holding.unit.index, None)
        self._claimer.release(holding.unit.index, holding.epoch)
        self._ended.set()

    async def _ahead(self, items: Iterator[T]) -> AsyncGenerator[T, None]:
        """Run a blocking iterator in the reading thread, one item ahead of the consumer."""
        loop = asyncio.get_running_loop()
        step: Callable[[], T | None] = lambda: next(items, None)  # noqa: E731 - carries its type
        coming = loop.run_in_executor(self._threads, step)
        try:
            while (item := await coming) is not None:
                coming = loop.run_in_executor(self._threads, step)
                yield item
        finally:
            coming.cancel()


def _engine_killer(evidence: str) -> Problem:
    return Problem(
        Status.FAILED,
        "engine_killer",
        f"alone in flight when engine or worker died, see {evidence}",
    )
