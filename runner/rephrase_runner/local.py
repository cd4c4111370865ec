"""`rephrase run`: a laptop's Job controller. Driver and workers as processes, restarted by exit code.

The children are the same processes that pods run, started with the same environment; nothing here knows
what they write. They live in sessions of their own, so that Ctrl-C reaches only this process, and they
drain by themselves when their standard input closes, so that they never outlive it for long.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from rephrase_api.errors import AccessRefused, ExitCode
from rephrase_api.launch import DriverLaunch, WorkerLaunch, bit_reversed_start, engine_arguments
from rephrase_api.progress import CanaryProgress, Progress
from rephrase_api.v1alpha1 import EngineType, RephraseRun
from rephrase_api.v1alpha1.policy import LogLevel
from rephrase_runner.display import Display
from rephrase_runner.openings import WARN_ABOVE

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 15
"""How long children may take to drain before they are killed; safe at any moment, see `docs/ledger.md`."""
_POLL_SECONDS = 0.5
_RESTART_SECONDS = 1.0
_LOG_LINES = 50
_NOTED = {"warning", "error", "critical"}


@dataclass(frozen=True, slots=True)
class Result:
    """How a local run ended. `error` is empty unless something went wrong."""

    code: ExitCode
    reason: str
    error: str
    progress: Progress


@dataclass(slots=True, eq=False)
class Child:
    """A process and what it said last."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    reading: asyncio.Task[None] | None = None
    ended: dict[str, Any] = field(default_factory=dict)
    port: int | None = None
    ready: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))


def worker_count(run: RephraseRun, devices: int) -> int:
    """How many workers a laptop starts: one engine per GPU, one without, never above `workers.max`."""
    pool = run.spec.pools()[0]
    if run.spec.model.engine.type is EngineType.ECHO:
        return min(run.spec.workers.max, max(1, os.cpu_count() or 1))
    gpus = pool.gpu.count if pool.gpu is not None else 0
    return max(1, min(run.spec.workers.max, devices // gpus if gpus else 1))


def gpu_devices() -> int:
    """NVIDIA GPUs of this machine."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


class _Patience:
    """How often a child may fail in a row, and how long to wait each time; progress forgives."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures = 0
        self._committed = 0

    def pause_seconds(self, committed: int) -> float | None:
        """The child failed: seconds until it is started again, None if it failed too often.

        Args:
            committed: units of the run that are committed by now.
        """
        if committed > self._committed:
            self._committed, self._failures = committed, 0
        self._failures += 1
        if self._failures > self._limit:
            return None
        return _RESTART_SECONDS * 2.0 ** (self._failures - 1)


class Supervisor:
    """Runs a manifest on this machine.

    With `spec.canary` one worker does the canary before there are others.

    Args:
        run: the manifest.
        workers: how many worker processes.
        display: what is shown.
        logs: folder for the logs of the children.
        only_canary: end after the canary.
    """

    def __init__(
        self,
        run: RephraseRun,
        *,
        workers: int,
        display: Display,
        logs: Path,
        only_canary: bool = False,
    ) -> None:
        self._run = run
        self._workers = workers
        self._only_canary = only_canary
        self._display = display
        self._logs = logs
        self._children: set[Child] = set()
        self._progress = Progress()
        self._planned = asyncio.Event()
        self._passed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._devices = gpu_devices()
        self._signals = 0

    async def run(self) -> Result:
        """Run to the end, or until a signal; every child has ended when it returns."""
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AccessRefused(
                f"cannot make the folder for logs: {error.strerror}",
                where=str(self._logs),
                remedy="Set XDG_STATE_HOME to a folder that can be written.",
            ) from error
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            return await self._supervise()
        finally:
            await self._end_all()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._display.note("stopping: finished samples are being saved (again: kill at once)")
            self._stopping.set()
        else:
            for child in self._children:
                _kill(child)

    async def _supervise(self) -> Result:
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        tasks = [
            asyncio.ensure_future(self._keep_driver(result)),
            asyncio.ensure_future(self._watch_progress(result)),
            *(
                asyncio.ensure_future(self._keep_worker(slot, result))
                for slot in range(self._workers)
            ),
        ]
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await _first(result, stopping, tasks)
            if result.done():
                return result.result()
            return Result(ExitCode.DRAINED, "Drained", "stopped on request", self._progress)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    # -- the driver --

    async def _keep_driver(self, result: "asyncio.Future[Result]") -> None:
        """Start the driver, again if it dies; its end is the run's end."""
        launch = DriverLaunch(
            run=self._run.metadata.name,
            manifest=json.dumps(self._run.to_api()),
            log_level=self._log_level(),
            watch_stdin=True,
        )
        patience = _Patience(self._run.spec.retries.worker_backoff_limit)
        while not result.done():
            async with self._child("driver", launch.to_environment()) as child:
                code = await self._wait(child)
            pause = patience.pause_seconds(self._progress.units.committed)
            if self._is_final(code, child) or pause is None:
                self._settle(result, code, child)
            else:
                self._display.note(f"driver ended ({_said(child)}); starting it again")
                await asyncio.sleep(pause)

    def _is_final(self, code: ExitCode, child: Child) -> bool:
        """Whether it is of no use to start the driver again: it is done, or said what a person must do.

        A store that refuses us is asked again in the middle of a run, but not before it has begun.
        """
        final = {ExitCode.FAILED, ExitCode.INVALID}
        if not self._planned.is_set():
            final.add(ExitCode.REFUSED)
        return code is ExitCode.OK or (code in final and bool(child.ended))

    async def _watch_progress(self, result: "asyncio.Future[Result]") -> None:
        """Read the driver's `/progress` and show it."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                driver = next((child for child in self._children if child.name == "driver"), None)
                if driver is None or driver.port is None:
                    continue
                try:
                    async with session.get(f"http://127.0.0.1:{driver.port}/progress") as answer:
                        self._progress = Progress.model_validate_json(await answer.read())
                except (aiohttp.ClientError, TimeoutError, ValueError):
                    continue
                if self._progress.units.planned:
                    self._planned.set()
                self._display.show(self._progress)
                self._look_at_canary(result)

    def _look_at_canary(self, result: "asyncio.Future[Result]") -> None:
        """Let the others begin once the canary is done; one that failed too much ends with the driver."""
        canary, limit = self._progress.canary, self._run.spec.retries.max_failed_documents
        if canary is None or not self._planned.is_set() or self._passed.is_set():
            return
        if canary.done and not limit.exceeded_by_canary(canary.failed_documents, canary.documents):
            self._passed.set()
            self._display.note(f"canary: {said(canary)}")
            if self._only_canary and not result.done():
                result.set_result(Result(ExitCode.OK, "CanaryPassed", "", self._progress))

    # -- workers --

    async def _keep_worker(self, slot: int, result: "asyncio.Future[Result]") -> None:
        """Once the run is planned, keep one worker alive until all is committed.

        The first one does the canary, if there is one, and ends with it; then it and all others go on.
        """
        await self._planned.wait()
        if slot and self._run.spec.canary.documents:
            await self._passed.wait()
        patience = _Patience(self._run.spec.retries.worker_backoff_limit)
        while not result.done() and not self._all_done:  # else a model is loaded for nothing
            launch = self._worker_launch(slot, units=self._canary_units())
            async with self._child(
                f"worker-{slot}", launch.to_environment() | self._device(slot)
            ) as child:
                code = await self._wait(child)
            if code is ExitCode.OK and launch.units:
                await self._passed.wait()
                continue
            if code is ExitCode.OK:
                return
            pause = patience.pause_seconds(self._progress.units.committed)
            if code is ExitCode.INVALID or pause is None:
                self._settle(result, code, child)
                return
            self._display.note(f"worker {slot} ended ({_said(child)}); starting it again")
            await asyncio.sleep(pause)

    @property
    def _all_done(self) -> bool:
        """Whether nothing is left for a worker; a driver that starts anew does not know at first."""
        units = self._progress.units
        return self._progress.finished or 0 < units.planned <= units.committed

    def _canary_units(self) -> int:
        """Units that a worker is kept to; 0 = all."""
        canary = self._progress.canary
        return canary.units if canary is not None and not self._passed.is_set() else 0

    def _log_level(self) -> str:
        """At least Info: what children say there (port, model loaded, end) is what we go by."""
        level = self._run.spec.observability.log_level
        return (level if level is LogLevel.DEBUG else LogLevel.INFO).value

    def _worker_launch(self, slot: int, *, units: int = 0) -> WorkerLaunch:
        spec = self._run.spec
        pool = spec.pools()[0]
        endpoint = spec.model.engine.open_ai
        return WorkerLaunch(
            run=self._run.metadata.name,
            node=os.uname().nodename,
            log_level=self._log_level(),
            watch_stdin=True,
            output_uri=spec.output.uri,
            output_storage=spec.output.storage,
            source_storage=spec.source.storage,
            slot=slot,
            start=bit_reversed_start(slot, self._progress.units.planned),
            units=units,
            pool=pool.name,
            gpus=pool.gpu.count if pool.gpu is not None and self._devices else 0,
            engine_args=engine_arguments(spec.model.engine, pool.engine),
            endpoint=endpoint.base_url if endpoint is not None else "",
            heartbeat_seconds=spec.durability.heartbeat_seconds,
            lease_seconds=spec.durability.lease_seconds,
            checkpoint_seconds=spec.durability.checkpoint_seconds,
            request_attempts=spec.retries.request_attempts,
            engine_kills=spec.retries.document_engine_kills,
            engine_rebuilds=spec.retries.engine_rebuilds,
        )

    def _device(self, slot: int) -> dict[str, str]:
        """Give each worker its own GPUs, unless the user has chosen already."""
        count = self._worker_launch(slot).gpus
        if not count or self._workers == 1 or "CUDA_VISIBLE_DEVICES" in os.environ:
            return {}
        first = slot * count
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(first, first + count)))}

    # -- processes --

    @contextlib.asynccontextmanager
    async def _child(self, name: str, environment: dict[str, str]) -> AsyncIterator[Child]:
        kind = name.split("-", 1)[0]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rephrase_runner",
            kind,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
            limit=2**20,
        )
        child = Child(name, process, self._logs / f"{name}.log")
        child.reading = asyncio.ensure_future(self._read(child))
        self._children.add(child)
        try:
            yield child
        finally:
            if process.returncode is None:
                await self._drain(child)
            _kill(child)  # what it may have left in its session, an engine for example
            await child.reading
            self._children.discard(child)

    async def _wait(self, child: Child) -> ExitCode:
        code = await child.process.wait()
        if child.reading is not None:
            await child.reading
        return ExitCode(code) if code in set(ExitCode) else ExitCode.ENGINE

    async def _drain(self, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await child.process.wait()
        except TimeoutError:
            self._display.note(f"{child.name} did not drain in {DRAIN_SECONDS} s; killing it")
            _kill(child)
            await child.process.wait()

    async def _end_all(self) -> None:
        for child in list(self._children):
            _kill(child)

    async def _read(self, child: Child) -> None:
        """Copy a child's output to its log; learn its port, its last words and its warnings."""
        stream = child.process.stdout
        if stream is None:
            return
        with child.log.open("ab") as log:
            async for line in _lines(stream):
                log.write(line)
                log.flush()
                self._hear(child, line)

    def _hear(self, child: Child, line: bytes) -> None:
        try:
            entry = json.loads(line)
            message = entry["message"]
        except (ValueError, KeyError, TypeError):
            child.tail.append(line.decode(errors="replace").rstrip())
            return
        if message == "listening":
            child.port = int(entry["port"])
        elif message == "engine ready":
            child.ready = True
            self._display.note(f"{child.name}: model loaded in {entry.get('seconds')} s")
        elif message == "finished":
            self._progress = Progress.model_validate(entry["progress"])
        elif message == "exit":
            child.ended = entry
        elif entry.get("severity") in _NOTED and str(entry.get("logger")).startswith("rephrase_"):
            reason = entry.get("reason") or entry.get("error") or ""
            self._display.note(f"{child.name}: {message}{f' ({reason})' if reason else ''}")

    def _settle(self, result: "asyncio.Future[Result]", code: ExitCode, child: Child) -> None:
        if result.done():
            return
        if code is ExitCode.OK:
            result.set_result(Result(code, "Complete", "", self._progress))
            return
        error = str(child.ended.get("error") or "")
        if not error:
            error = f"{child.name} ended ({_how(child)}); last lines of {child.log}:\n"
            error += "\n".join(child.tail)
        reason = str(child.ended.get("reason") or code.name)
        result.set_result(Result(code, reason, error, self._progress))


async def _first(
    result: "asyncio.Future[Result]",
    stopping: "asyncio.Future[Any]",
    tasks: Sequence["asyncio.Future[None]"],
) -> None:
    """Wait for the result or a stop; an error in a task is raised at once."""
    waiting: set[asyncio.Future[Any]] = {result, stopping, *tasks}
    while not result.done() and not stopping.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in done - {result, stopping}:
            future.result()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a stream; an overlong one comes in pieces instead of an error."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            line = await stream.read(2**16)
        if not line:
            return
        yield line


def said(canary: CanaryProgress) -> str:
    """A canary in a sentence."""
    samples, made = canary.samples, max(1, canary.samples.finished)
    words = [
        f"{canary.documents:,} documents in {canary.committed:,} units done",
        f"{canary.failed_documents:,} failed",
        f"{canary.tokens_per_second:,.0f} tokens/s",
        *(f"{name} {mean:,.0f} tokens" for name, mean in canary.output_tokens.items()),
        *([f"{samples.skipped / made:.1%} of the samples skipped"] if samples.skipped else []),
        *(f"{count / made:.1%} {flag}" for flag, count in sorted(canary.flags.items())),
        *(
            f"{share:.0%} of {name} begin alike"
            for name, share in canary.alike.items()
            if share > WARN_ABOVE
        ),
    ]
    return ", ".join(words)


def _kill(child: Child) -> None:
    """End a child's whole session at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)


def _said(child: Child) -> str:
    if child.ended:
        return f"{child.ended.get('reason')}: {child.ended.get('error')}"
    return f"{_how(child)}: {child.tail[-1]}" if child.tail else _how(child)


def _how(child: Child) -> str:
    """`exit status 1`, or `SIGKILL`."""
    code = child.process.returncode or 0
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
