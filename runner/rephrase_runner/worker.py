"""The worker: claim -> read -> prompt -> generate -> checkpoint -> commit, until all is committed.

One event loop that never blocks: reading, tokenizing and Parquet run in threads. A drain cancels everything
at once, wherever it stands; then what is finished is checkpointed and every unit let go. A dead engine is
rebuilt in place while the heart goes on beating: Kubernetes' back-off must not slow the search for what
killed it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rephrase_api.errors import Drained, EngineFailed, RephraseError, SpecMismatch, first_cause
from rephrase_runner import records
from rephrase_runner.checking import Checker
from rephrase_runner.claiming import Claimer
from rephrase_runner.claims import runs
from rephrase_runner.engines.base import Engine, EngineDead
from rephrase_runner.heart import Heart
from rephrase_runner.holding import Holding
from rephrase_runner.job import Job, Pace
from rephrase_runner.ledger import Ledger, read_spec
from rephrase_runner.prepare import Preparer
from rephrase_runner.records import Hold
from rephrase_runner.scribe import Scribe
from rephrase_runner.shift import Shift
from rephrase_runner.source import Reader
from rephrase_runner.store import Unclear
from rephrase_runner.vitals import Vitals

logger = logging.getLogger(__name__)

_SAVE_SECONDS = 4.5
_GOODBYE_SECONDS = 1.5
"""A drain never waits longer for the store: 15 s of grace are assumed (GKE spot)."""
_CHECK_SECONDS = 1.5
"""Of those to save in; what is checked is not to be lost for what is not."""
_BEATS_PER_LOOK_AT_SPEC = 10


class Worker:
    """One worker process.

    Args:
        ledger: the run.
        job: what it asks.
        build: builds an engine that has answered a first request; called again when one has died.
        preparer: made for an engine: documents to requests, completions to samples.
        checker: looks at rewrites beside generation.
        reader: reads units of the source.
        vitals: this process's counters, running since its start.
        identity: constant heartbeat fields (worker, pod, node, slot, pool, gpus).
        start: unit to begin at.
        units: only those below are worked on; 0 = all.
        pace: clocks.
        drain: set to stop; may be set before `run`.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: Job,
        *,
        build: Callable[[], Awaitable[Engine]],
        preparer: Callable[[Engine], Preparer],
        reader: Reader,
        checker: Checker,
        vitals: Vitals,
        identity: dict[str, Any],
        start: int,
        units: int,
        pace: Pace,
        drain: asyncio.Event,
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._build = build
        self._preparer = preparer
        self._reader = reader
        self._checker = checker
        self._vitals = vitals
        vitals.requests = self._requests
        self._identity = identity
        self._pace = pace
        self._drain = drain
        self._clock = asyncio.get_running_loop().time
        self._holdings: dict[int, Holding] = {}
        self._engine: Engine | None = None
        self._shift: Shift | None = None
        self._heart = Heart(
            ledger,
            identity,
            self._describe,
            interval_seconds=pace.heartbeat,
            lease_seconds=pace.lease,
        )
        self._claimer = Claimer(
            ledger,
            min(units or len(job.units), len(job.units)),
            self._heart,
            start=start,
            describe=self._hold,
            report=vitals.found_commit,
            lease_seconds=pace.lease,
            refresh_seconds=pace.poll,
        )
        self._scribe = Scribe(ledger, job, self._heart, vitals, self._clock)

    async def run(self) -> None:
        """Work until every unit that is ours to do is committed.

        Raises:
            Drained: stopped on request; all that was finished is checkpointed, every unit let go.
            EngineFailed: it died too often without a new sample in between; likewise.
            RephraseError: a person must act (access, space, another run in this output).
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._stop_on_drain())]
                self._engine = await self._build()  # one that cannot start never touches the ledger
                await self._heart.beat_until_acknowledged()
                keepers += [
                    tasks.create_task(keep())
                    for keep in (
                        self._heart.run,
                        self._keep_checkpoints,
                        self._keep_watch,
                        self._keep_run,
                    )
                ]
                await self._work_shifts(tasks)
                for keeper in keepers:
                    keeper.cancel()
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from errors
        finally:
            # nothing is being generated any more; its end takes seconds that a drain has not
            closing = asyncio.ensure_future(asyncio.to_thread(self._close))
            if self._heart.acknowledged is not None:
                await self._leave()
            self._checker.close()
            await closing

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    # -- shifts --

    async def _work_shifts(self, tasks: asyncio.TaskGroup) -> None:
        fruitless = 0
        while True:
            samples = self._vitals.samples
            dead = await self._work_shift(tasks)
            if dead is None:
                return
            if self._drain.is_set():  # on Python 3.11 the inner group has eaten the cancellation
                raise Drained("stopped on request", remedy="Run again to continue.")
            await self._bury_all(dead)
            fruitless = 0 if self._vitals.samples > samples else fruitless + 1
            if fruitless > self._job.engine_rebuilds:
                raise EngineFailed(
                    f"the engine died {fruitless} times in a row without a new sample, at last: {dead}",
                    remedy="See its log above; spec.retries.engineRebuilds is the limit.",
                )
            await self._rebuild()

    async def _work_shift(self, tasks: asyncio.TaskGroup) -> EngineDead | None:
        """Work with the engine there is; how it died, or None if all is committed."""
        if self._engine is None:
            raise AssertionError("no engine")
        self._shift = Shift(
            self._ledger,
            self._job,
            claimer=self._claimer,
            scribe=self._scribe,
            holdings=self._holdings,
            spawn=lambda work: work.close() if self._drain.is_set() else tasks.create_task(work),
            reader=self._reader,
            preparer=self._preparer(self._engine),
            checker=self._checker,
            engine=self._engine,
            vitals=self._vitals,
            pace=self._pace,
        )
        # A task of its own: on Python 3.11 a task group that fails while its body ends leaves a cancellation
        # behind in the task it ran in, which would hit the next shift (python/cpython gh-116720).
        shift = asyncio.ensure_future(self._shift.run())
        try:
            await shift
        except BaseExceptionGroup as errors:
            cause = first_cause(errors)
            if not isinstance(cause, EngineDead):
                raise
            this = asyncio.current_task()
            if this is not None and this.cancelling():  # the shift has eaten a cancellation of ours
                raise asyncio.CancelledError from errors
            return EngineDead(
                cause.cause, str(cause)
            )  # whose traceback holds nothing of the engine
        return None

    async def _bury_all(self, dead: EngineDead) -> None:
        """Write down who was in flight, and let the units go."""
        logger.error("engine died", extra={"reason": dead.cause, "error": str(dead)})
        for holding in list(self._holdings.values()):
            if not holding.finishing:
                await self._bury(holding, dead)
        await self._keep_helping()
        await self._heart.beat()

    async def _rebuild(self) -> None:
        self._vitals.enter("loading", self._clock())
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
            self._engine = None
        self._engine = await self._build()
        logger.info("engine rebuilt")

    async def _bury(self, holding: Holding, dead: EngineDead) -> None:
        await self._scribe.checkpoint(holding)
        if holding.in_flight:
            death = records.Death(
                run=self._ledger.run,
                worker=self._heart.worker,
                node=str(self._identity.get("node", "")),
                cause=dead.cause,
                in_flight=tuple(runs(sorted(holding.in_flight))),
                message=str(dead),
            )
            await self._ledger.record_death(holding.unit.index, holding.epoch, death)
        self._let_go(holding)

    # -- keepers --

    async def _stop_on_drain(self) -> None:
        """Cancels everything else, wherever it stands."""
        await self._drain.wait()
        raise Drained("stopped on request", remedy="Run again to continue.")

    async def _keep_checkpoints(self) -> None:
        while True:
            await asyncio.sleep(self._pace.checkpoint)
            with self._store_may_be_away():
                for holding in list(self._holdings.values()):
                    if not holding.finishing and not await self._drop_if_superseded(holding):
                        await self._scribe.checkpoint(holding)
                await self._keep_helping()

    async def _keep_helping(self, *, patience: float | None = None) -> None:
        """Checkpoint the slice we help with; drop it once its unit is committed."""
        helping = self._shift.helping if self._shift is not None else None
        if helping is None:
            return
        if await self._ledger.read_commit(helping.unit.index) is not None:
            helping.lost = True
            await helping.cancel()
        else:
            await self._scribe.checkpoint(helping, patience=patience)

    async def _keep_watch(self) -> None:
        """After a pause longer than the lease, drop what others have taken over meanwhile."""
        while True:
            await self._heart.overslept.wait()
            self._heart.overslept.clear()
            with self._store_may_be_away():
                for holding in list(self._holdings.values()):
                    if not holding.finishing:
                        await self._drop_if_superseded(holding)

    async def _keep_run(self) -> None:
        """End once the output belongs to another run (it was deleted and used again)."""
        while True:
            await asyncio.sleep(self._pace.heartbeat * _BEATS_PER_LOOK_AT_SPEC)
            with self._store_may_be_away():
                spec = await read_spec(self._ledger.store)
                if spec is None or spec.run != self._ledger.run:
                    raise SpecMismatch(
                        "this output was deleted or given to another run",
                        where=self._ledger.store.uri,
                        remedy="Nothing is to be done: this worker belonged to the old run.",
                    )

    @contextmanager
    def _store_may_be_away(self) -> Iterator[None]:
        """Work goes on in memory while the store is away; what was to be done comes again."""
        try:
            yield
        except Unclear as error:
            logger.warning("the store is away; going on", extra={"reason": str(error)})

    async def _drop_if_superseded(self, holding: Holding) -> bool:
        """Give a unit up that another has taken over; samples that no checkpoint has are lost."""
        unit, epoch = holding.unit.index, holding.epoch
        if not await self._ledger.superseded(unit, epoch):
            return False
        logger.warning("unit was taken over by another", extra={"unit": unit, "epoch": epoch})
        holding.lost = True
        await holding.cancel()
        self._let_go(holding)
        return True

    def _let_go(self, holding: Holding) -> None:
        self._holdings.pop(holding.unit.index, None)
        self._claimer.release(holding.unit.index, holding.epoch)

    async def _leave(self) -> None:
        """Checkpoint what is finished, let every unit go, say so; bounded, whatever the store does."""
        self._vitals.enter("draining", self._clock())
        holdings = list(self._holdings.values())
        saving = [self._scribe.checkpoint(one, patience=_CHECK_SECONDS) for one in holdings]
        try:
            async with asyncio.timeout(_SAVE_SECONDS):
                for outcome in await asyncio.gather(
                    *saving,
                    self._keep_helping(patience=_CHECK_SECONDS),
                    return_exceptions=True,
                ):
                    if isinstance(outcome, BaseException):
                        logger.error("samples were not saved", extra={"error": str(outcome)})
        except TimeoutError:
            logger.error("samples were not saved: the store did not answer in time")
        for holding in holdings:
            self._let_go(holding)
        self._vitals.enter("gone", self._clock())
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._heart.beat()
        except (TimeoutError, RephraseError) as error:  # then the lease has to run out
            logger.warning("left without a last word", extra={"reason": str(error)})

    # -- for heartbeats --

    def _hold(self, unit: int, epoch: int) -> Hold:
        holding = self._holdings.get(unit)
        return holding.describe() if holding is not None else Hold(unit=unit, epoch=epoch)

    def _describe(self) -> dict[str, Any]:
        return self._vitals.describe(self._clock())

    def _requests(self) -> tuple[int, int]:
        if self._shift is None:
            return 0, 0
        answerer = self._shift.answerer
        return answerer.asked, answerer.slots.taken - answerer.asked
