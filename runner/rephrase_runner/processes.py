"""What `rephrase driver` and `rephrase worker` do: build the objects of a process and let them run.

A process ends with an exit code of `rephrase_api.errors.ExitCode` and, if that is not 0, a last log line
"exit" with reason and error. Signals only set an event; the loops decide.
"""

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from rephrase_api import logs
from rephrase_api.errors import (
    Drained,
    EngineFailed,
    ExitCode,
    InvalidModel,
    LedgerDamaged,
    RephraseError,
    SpecMismatch,
)
from rephrase_api.launch import DriverLaunch, Launch, WorkerLaunch
from rephrase_api.v1alpha1 import RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1.source import SourceFormat
from rephrase_runner import engines, openings
from rephrase_runner.checking import Checker, checks_of
from rephrase_runner.columns import schema_from_text
from rephrase_runner.engines.base import Completion, Engine, EngineDead, Request, RequestFailed
from rephrase_runner.job import Job, Pace
from rephrase_runner.ledger import Ledger, read_spec
from rephrase_runner.preflight import Mounted, engine_settings
from rephrase_runner.prepare import Preparer
from rephrase_runner.prompts import CompiledPrompt, compile_prompts
from rephrase_runner.records import SpecRecord
from rephrase_runner.source import Reader
from rephrase_runner.store import StorageOptions, Store, is_local
from rephrase_runner.vitals import Vitals
from rephrase_runner.worker import Worker

logger = logging.getLogger(__name__)
T = TypeVar("T")
L = TypeVar("L", bound=Launch)

LOCAL_POLL_SECONDS = 1
REMOTE_POLL_SECONDS = 5
REMOTE_TICK_SECONDS = 10
UNREAD_SECONDS = 60
"""How long a finished driver in a cluster goes on serving `/progress`, so that the operator reads the end."""
TERMINATION_LOG = Path("/dev/termination-log")
_TERMINATION_BYTES = 4096
_WARM_UP_PAUSE_SECONDS = 1.0
_OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""The interpreter has 700."""


def worker_main(environment: dict[str, str]) -> int:
    """Run a worker until all units that it is to do are committed; returns the exit code."""
    return _main(WorkerLaunch, environment, run_worker)


def driver_main(environment: dict[str, str]) -> int:
    """Run a driver until the manifest is written; returns the exit code."""
    return _main(DriverLaunch, environment, run_driver)


def _main(
    kind: type[L],
    environment: dict[str, str],
    run: Callable[[L, asyncio.Event], Awaitable[None]],
) -> int:
    logs.configure("Info")
    try:
        launch = kind.from_environment(environment)
        logs.configure(launch.log_level, run=launch.run, slot=getattr(launch, "slot", None))
        asyncio.run(_with_signals(launch, run))
    except RephraseError as error:
        level = logging.INFO if error.exit_code is ExitCode.DRAINED else logging.ERROR
        logger.log(
            level,
            "exit",
            extra={
                "exit_code": int(error.exit_code),
                "reason": error.reason,
                "error": str(error),
            },
        )
        _last_words(f"{error.reason}: {error}")
        return int(error.exit_code)
    return int(ExitCode.OK)


async def _with_signals(launch: L, run: Callable[[L, asyncio.Event], Awaitable[None]]) -> None:
    drain = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain.set)
    if (
        launch.watch_stdin
    ):  # the supervisor holds the other end: it closes when he dies, however he dies
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        watching = asyncio.ensure_future(_drain_at_end(reader, drain))
        try:
            await run(launch, drain)
        finally:
            watching.cancel()
    else:
        await run(launch, drain)


async def _drain_at_end(reader: asyncio.StreamReader, drain: asyncio.Event) -> None:
    await reader.read()
    drain.set()


# -- driver --


async def run_driver(launch: DriverLaunch, drain: asyncio.Event) -> None:
    """Carry the run to its end, serving `/progress` meanwhile.

    Raises:
        Drained: stopped on request; a driver holds nothing, so it just ends.
        RephraseError: a person must act.
    """
    from rephrase_runner import driver, health, metrics  # a local worker starts sooner without them

    # as an object of the API server: the operator may be newer than this image
    spec = RephraseRun.from_api(json.loads(launch.manifest)).spec
    local = is_local(spec.output.uri)
    beat = spec.durability.heartbeat_seconds  # nothing new is told more often
    pace = driver.Pace(tick=LOCAL_POLL_SECONDS if local else min(beat, REMOTE_TICK_SECONDS))
    process = driver.Driver(
        spec,
        run=secrets.token_hex(8),
        pace=pace,
        engine_here=not launch.pod_uid,
        mounted=_mounted(launch),
    )
    measured = metrics.ProcessMetrics(lambda: process.store, None, asyncio.get_running_loop().time)
    async with health.serve(
        launch.host, launch.port, metrics=measured.render, progress=process.progress
    ):
        try:
            await until_drained(process.run(), drain)
        except RephraseError as error:
            process.failed(error.reason, str(error))
            raise
        end = process.progress()
        logger.info("finished", extra={"progress": end.model_dump(mode="json", by_alias=True)})
        _last_words(end.model_dump_json(by_alias=True, exclude={"workers"}))
        if launch.pod_uid:
            await _wait(drain, UNREAD_SECONDS)


def _mounted(launch: DriverLaunch) -> Mounted:
    templates = {}
    if launch.templates:
        for path in sorted(Path(launch.templates).iterdir()):
            if not path.name.startswith("."):  # ..data is Kubernetes' own
                templates[path.name] = path.read_text(encoding="utf-8")
    return Mounted(launch.source_credentials, launch.output_credentials, templates)


async def until_drained(work: Awaitable[T], drain: asyncio.Event) -> T:
    """The result of `work`, or Drained as soon as the event is set; `work` is then cancelled."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(drain.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Drained("stopped on request", remedy="Run again to continue.")
    finally:
        stop.cancel()
        task.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


# -- worker --


async def load(settings: engines.EngineSettings) -> Engine:
    """Build the engine in a thread of its own; a drain meanwhile ends the process at once."""
    threads = ThreadPoolExecutor(1, thread_name_prefix="engine")
    building = asyncio.get_running_loop().run_in_executor(threads, engines.build, settings)
    threads.shutdown(wait=False)
    engine = await building
    _collect_seldom()
    return engine


def _collect_seldom() -> None:
    """Leave the collector of reference cycles little to do: samples and requests are in none.

    Modules and an engine are here to stay, and thousands of samples are held at once: to look through all
    of them again and again took a seventh of a worker's time.
    """
    gc.unfreeze()  # an engine that died is garbage now, and in cycles
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


Load = Callable[[engines.EngineSettings], Awaitable[Engine]]


async def run_worker(launch: WorkerLaunch, drain: asyncio.Event, load: Load = load) -> None:
    """Load the engine, then claim and commit units until none is left.

    Args:
        launch: what it is started with.
        drain: set to stop.
        load: builds an engine.

    Raises:
        Drained, EngineFailed, RephraseError: as `Worker.run`.
    """
    noticing = asyncio.ensure_future(_drain_on_notice(launch, drain))
    try:
        await _run_worker(launch, drain, load)
    finally:
        noticing.cancel()


async def _run_worker(launch: WorkerLaunch, drain: asyncio.Event, load: Load) -> None:
    identity = _identity(launch)
    logs.configure(launch.log_level, run=launch.run, slot=launch.slot, worker=identity["worker"])
    vitals = Vitals(asyncio.get_running_loop().time())
    store = Store(
        launch.output_uri, StorageOptions.of(launch.output_storage, launch.output_credentials)
    )
    # a store that is away for a while must not keep a drained worker either
    worker = await until_drained(_make_worker(launch, store, identity, vitals, drain, load), drain)
    if worker is None:
        logger.info("nothing to do: the run is complete")
        return
    async with _measured(launch, store, vitals):
        await worker.run()


async def _make_worker(
    launch: WorkerLaunch,
    store: Store,
    identity: dict[str, Any],
    vitals: Vitals,
    drain: asyncio.Event,
    load: Load,
) -> Worker | None:
    """Read what the run asks from the ledger; None if it is complete."""
    loop = asyncio.get_running_loop()
    record, ledger = await _open_run(store, launch)
    spec = spec_of(record, launch)
    plan = await ledger.plan()
    if plan is None:
        raise LedgerDamaged(
            "the run has no plan yet", where=store.uri, remedy="Start workers once it is planned."
        )
    if await ledger.manifest() is not None:
        return None
    settings = replace(
        engine_settings(
            spec,
            revision=record.resolved.model_revision,
            max_model_length=record.resolved.max_model_length,
            gpus=launch.gpus,
            uses_min_p=any(prompt.sampling.get("min_p") for prompt in record.resolved.prompts),
        ),
        args=launch.engine_args,
        base_url=launch.endpoint,
        api_key_file=launch.api_key_file,
    )
    kept = schema_from_text(plan.kept_schema)
    source = StorageOptions.of(launch.source_storage, launch.source_credentials)
    documents = plan.rows * Decimal(spec.source.sample.fraction)

    def compiled(engine: Engine) -> tuple[CompiledPrompt, ...]:
        system_message = record.resolved.system_message
        return compile_prompts(
            record.resolved.prompts, engine.tokenizer, system_message=system_message
        )

    async def build() -> Engine:
        started = loop.time()
        engine = await load(settings)
        await warm_up(engine, compiled(engine), patience_seconds=launch.hang_seconds)
        logger.info("engine ready", extra={"seconds": round(loop.time() - started, 1)})
        return engine

    return Worker(
        ledger,
        Job(
            plan=plan,
            units=await ledger.units(plan),
            rollouts={prompt.name: prompt.rollouts for prompt in record.resolved.prompts},
            kept=kept,
            include_source_text=spec.output.include_source_text,
            openings_below={
                prompt.name: openings.bound(round(documents * prompt.rollouts))
                for prompt in record.resolved.prompts
            },
            request_attempts=launch.request_attempts,
            engine_kills=launch.engine_kills,
            engine_rebuilds=launch.engine_rebuilds,
        ),
        build=build,
        preparer=lambda engine: Preparer(
            compiled(engine),
            engine.tokenizer,
            context_tokens=engine.context_tokens,
            max_document_tokens=spec.source.max_document_tokens,
            seed=spec.sampling.seed,
            quality=spec.quality,
        ),
        reader=Reader(
            spec.source, plan.files, format=SourceFormat(plan.format), kept=kept, storage=source
        ),
        checker=Checker(checks_of(spec)),
        vitals=vitals,
        identity=identity,
        start=launch.start,
        units=launch.units,
        pace=Pace(
            heartbeat=launch.heartbeat_seconds,
            lease=launch.lease_seconds,
            checkpoint=launch.checkpoint_seconds,
            poll=LOCAL_POLL_SECONDS if store.local else REMOTE_POLL_SECONDS,
            hang=launch.hang_seconds,
        ),
        drain=drain,
    )


@asynccontextmanager
async def _measured(launch: WorkerLaunch, store: Store, vitals: Vitals) -> AsyncIterator[None]:
    """Serve metrics, in a pod."""
    if not launch.pod_uid:
        yield
        return
    from rephrase_runner import health, metrics

    clock = asyncio.get_running_loop().time
    measured = metrics.ProcessMetrics(lambda: store, vitals, clock)
    async with health.serve(launch.host, launch.port, metrics=measured.render):
        yield


async def _drain_on_notice(launch: WorkerLaunch, drain: asyncio.Event) -> None:
    """Drain where the cloud tells before SIGTERM that the machine goes, or the time to stop has come."""
    notices = []
    if launch.spot_notice:
        from rephrase_runner import spot_notice

        cloud = spot_notice.Cloud(launch.spot_notice)
        notices.append(spot_notice.watch(cloud, address=launch.spot_notice_address))
    if launch.stop_at_file:
        from rephrase_runner import stop_time

        notices.append(stop_time.watch(Path(launch.stop_at_file)))

    async def heed(notice: Awaitable[None]) -> None:
        await notice
        drain.set()

    await asyncio.gather(*(heed(notice) for notice in notices))


async def _open_run(store: Store, launch: WorkerLaunch) -> tuple[SpecRecord, Ledger]:
    record = await read_spec(store)
    if record is None:
        raise LedgerDamaged(
            "no run here yet", where=store.uri, remedy="Start the driver first: it plans the run."
        )
    if launch.spec_hash and record.hash != launch.spec_hash:
        raise SpecMismatch(
            f"the run here has the spec {record.hash}, this worker was made for {launch.spec_hash}",
            where=store.uri,
            remedy="Use another output for another spec.",
        )
    return record, Ledger(store, record.run)


def spec_of(record: SpecRecord, launch: WorkerLaunch) -> RephraseRunSpec:
    """The run's spec as far as a worker needs it: what was declared, with its own way to the source."""
    spec = RephraseRunSpec.model_validate(record.declared)
    source = spec.source.model_copy(update={"storage": launch.source_storage})
    return spec.model_copy(update={"source": source})


def _identity(launch: WorkerLaunch) -> dict[str, Any]:
    host = launch.pod_uid or socket.gethostname()
    # new for every process, even if the pod or host is the same (ledger hole 8)
    return {
        "worker": f"{host}.{secrets.token_hex(4)}",
        "pod": launch.pod_uid,
        "node": launch.node,
        "slot": launch.slot,
        "pool": launch.pool,
        "gpus": launch.gpus,
    }


async def warm_up(
    engine: Engine, prompts: Sequence[CompiledPrompt], *, patience_seconds: float
) -> None:
    """Claim nothing before the engine has answered: one that cannot never touches the ledger.

    Every prompt is asked, so that a parameter that the engine does not know fails no document; again where
    none is answered: what breaks over all of them would break over every document.

    Raises:
        EngineFailed: it died or hung over its first request.
        InvalidModel: it refuses what the run would ask.
    """
    requests = [
        Request(
            prompt.around(engine.tokenizer.encode("Warm-up."), 8)[0],
            replace(prompt.sampling, max_tokens=1),
        )
        for prompt in prompts
    ]
    failed: list[RequestFailed] = []
    why = "it hangs"

    def deliver(_index: int, outcome: Completion | RequestFailed) -> None:
        if isinstance(outcome, RequestFailed):
            failed.append(outcome)

    try:
        async with asyncio.timeout(patience_seconds):
            await engine.generate(requests, deliver)
            while len(failed) == len(requests) and all(one.retryable for one in failed):
                why = failed[0].message
                failed.clear()
                await asyncio.sleep(_WARM_UP_PAUSE_SECONDS)
                await engine.generate(requests, deliver)
        refused = next((one for one in failed if not one.retryable), None)
        if refused is not None:
            raise InvalidModel(
                f"refuses the first request: {refused.message}",
                where="spec.model",
                remedy="Change what it names: all documents would fail so.",
            )
    except (EngineDead, TimeoutError) as error:
        await asyncio.to_thread(engine.close)
        raise EngineFailed(
            f"the engine did not answer its first request: {str(error) or why}",
            remedy="See its log above; try other engine arguments.",
        ) from error
    except RephraseError:
        await asyncio.to_thread(engine.close)
        raise


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _last_words(text: str) -> None:
    """Leave the reason where Kubernetes looks for it; does nothing outside a pod."""
    if os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_bytes(text.encode()[:_TERMINATION_BYTES])
