"""A Job controller for tests: keeps real `rephrase driver` and `rephrase worker` processes alive.

Unlike `rephrase run` it can give workers any clocks, run several drivers, work on a bucket, and its
processes may be killed and paused from outside: what dies is started again at once.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rephrase_api.errors import ExitCode
from rephrase_api.launch import DriverLaunch, WorkerLaunch, bit_reversed_start
from rephrase_api.manifest import parse_run
from rephrase_runner import verify as verification
from rephrase_runner.ledger import Ledger, gather_bounded, read_spec
from rephrase_runner.records import Claim, Heartbeat, Plan
from rephrase_runner.store import StorageOptions, Store
from support.laptop import Laptop
from support.waiting import eventually

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rephrase-tests" / "pyc"
"""Compiled modules: processes are started by the hundred, and half of a start is compiling."""
_LAST_LINES = 30
_MANY_DEATHS = 5
"""A process that ends so often by itself, always wrongly, would do so for ever."""

Clocks = Mapping[str, Any]
"""Fields of `WorkerLaunch` that say how a worker works."""

ON_A_FOLDER: Clocks = {"heartbeat_seconds": 0.5, "lease_seconds": 3, "checkpoint_seconds": 1}
ON_S3: Clocks = {"heartbeat_seconds": 1, "lease_seconds": 6, "checkpoint_seconds": 1}
"""S3 tells times in whole seconds."""


@dataclass(slots=True, eq=False)
class Member:
    """A process of the fleet.

    Attributes:
        kind: driver or worker.
        slot: its place; the one that is started in its stead has the same.
        log: file with all that it says.
        signals: what was sent to it from here.
    """

    kind: str
    slot: int
    number: int
    process: asyncio.subprocess.Process
    log: Path
    signals: list[signal.Signals] = field(default_factory=list)
    paused: bool = False
    asked_at: float | None = None
    """When it was asked to end (or, paused then, went on)."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind} {self.slot} (process {self.number})"

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; fine if it has just ended."""
        self.signals.append(number)
        if number is signal.SIGSTOP:
            self.paused = True
        if number is signal.SIGCONT:
            self.paused = False
        if signal.SIGTERM in self.signals and not self.paused and self.asked_at is None:
            self.asked_at = time.monotonic()
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def entries(self, message: str) -> Iterator[dict[str, Any]]:
        """What it logged with this message."""
        for line in self.log.read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if entry["message"] == message:
                    yield entry

    @property
    def last_lines(self) -> str:
        """What it said last."""
        return "\n".join(self.log.read_text().splitlines()[-_LAST_LINES:])


class Fleet:
    """Drivers and workers of one run.

    Args:
        laptop: where they live; `run.yaml` there is their manifest.
        workers: how many to keep alive.
        drivers: the same for drivers.
        clocks: fields of every `WorkerLaunch`.
        store: where the run is written, to look at from here; by default the laptop's folder.
        environment: of all processes.
        engine_args: asked for each worker that is started; by default those of the manifest.
        tolerated: exit codes of workers that are no fault of theirs here.
    """

    def __init__(
        self,
        laptop: Laptop,
        *,
        workers: int = 1,
        drivers: int = 1,
        clocks: Clocks = ON_A_FOLDER,
        store: Store | None = None,
        environment: Mapping[str, str] | None = None,
        engine_args: Callable[[], Collection[str]] | None = None,
        tolerated: Collection[ExitCode] = (),
    ) -> None:
        self.laptop = laptop
        self.run = parse_run(laptop.manifest.read_text(), where=str(laptop.manifest))
        self.store = store or Store(str(laptop.output), create=True)
        self.members: set[Member] = set()
        self.ended: list[tuple[Member, int]] = []
        self.code: ExitCode | None = None
        """How the run ended, as its driver says."""
        self.drain_seconds: list[float] = []
        """From SIGTERM to the end of each process that was asked to end."""
        self._workers, self._drivers = workers, drivers
        self._clocks = dict(clocks)
        self._environment = dict(environment or {}) | {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(_CACHE),
            "PYTHONPATH": str(Path(__file__).parent / "lean"),
        }
        spec = self.run.spec
        self._engine_args = engine_args or (lambda: spec.model.engine.args)
        self._tolerated = frozenset(tolerated)
        self._own_deaths: Counter[tuple[str, int]] = Counter()
        self._keepers: list[asyncio.Task[None]] = []
        self._started = 0
        self._plan: Plan | None = None

    async def __aenter__(self) -> "Fleet":
        """Start everything."""
        kinds = {"driver": self._drivers, "worker": self._workers}
        self._keepers = [
            asyncio.create_task(self._keep(kind, slot))
            for kind, count in kinds.items()
            for slot in range(count)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill everything."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for member in list(self.members):
            member.signal(signal.SIGKILL)
            await member.process.wait()

    async def end(self, *, within: float) -> ExitCode:
        """Wait until the driver has said how the run ended and every process has ended by itself."""
        try:
            async with asyncio.timeout(within):
                await asyncio.gather(*self._keepers)
        except TimeoutError:
            alive = "\n\n".join(f"{one.name}:\n{one.last_lines}" for one in self.members)
            raise AssertionError(f"not within {within:g} s: all have ended\n{alive}") from None
        if self.code is None:
            raise AssertionError("no driver said how the run ended")
        return self.code

    @property
    def over(self) -> bool:
        """Whether the run has ended, or something happened that is a fault: `end` raises it."""
        failed = any(keeper.done() and keeper.exception() for keeper in self._keepers)
        return self.code is not None or failed

    def working(self, *kinds: str) -> list[Member]:
        """Living processes, in a fixed order."""
        chosen = kinds or ("driver", "worker")
        found = [member for member in self.members if member.alive and member.kind in chosen]
        return sorted(found, key=lambda member: member.number)

    def untouched(self, kind: str) -> list[Member]:
        """Living processes that nobody has asked to end."""
        asked = {signal.SIGKILL, signal.SIGTERM}
        return [member for member in self.working(kind) if not asked & set(member.signals)]

    def ready(self, kind: str) -> list[Member]:
        """Those of them that are past their start: the engine has answered, the driver listens."""
        word = {"worker": "engine ready", "driver": "listening"}[kind]
        return [member for member in self.untouched(kind) if any(member.entries(word))]

    def logged(self, kind: str, message: str) -> Iterator[dict[str, Any]]:
        """What all processes of a kind, dead or alive, logged with this message."""
        everybody = [member for member, _ in self.ended] + list(self.members)
        for member in everybody:
            if member.kind == kind:
                yield from member.entries(message)

    # -- keeping them alive -----------------------------------------------------------------------

    async def _keep(self, kind: str, slot: int) -> None:
        if kind == "worker":
            await eventually(self._is_planned, "the run is planned", within=120)
        while self.code is None:
            member = await self._start(kind, slot)
            code = await member.process.wait()
            if member.asked_at is not None and code != -signal.SIGKILL:
                self.drain_seconds.append(time.monotonic() - member.asked_at)
            self.members.discard(member)
            self.ended.append((member, code))
            if kind == "driver" and code in (ExitCode.OK, ExitCode.FAILED, ExitCode.INVALID):
                self.code = ExitCode(code)
            if code == ExitCode.OK:
                return
            self._check_end(member, code)

    def _check_end(self, member: Member, code: int) -> None:
        """A process may only end as it was told to."""
        expected = {-number for number in member.signals}
        if signal.SIGTERM in member.signals or self.code is not None:
            expected.add(ExitCode.DRAINED)
        if code in expected or (member.kind == "driver" and self.code is not None):
            return
        self._own_deaths[member.kind, member.slot] += 1
        tolerated = code in self._tolerated or code == ExitCode.DRAINED  # the driver said stop
        if not tolerated or self._own_deaths[member.kind, member.slot] > 20 * _MANY_DEATHS:
            raise AssertionError(f"{member.name} ended with {code}:\n{member.last_lines}")

    async def _start(self, kind: str, slot: int) -> Member:
        launch = self._driver_launch() if kind == "driver" else await self._worker_launch(slot)
        self._started += 1
        folder = self.laptop.folder / "logs"
        folder.mkdir(exist_ok=True)
        log = folder / f"{self._started:04d}-{kind}-{slot}.log"
        environment = self.laptop.environment(launch.to_environment() | self._environment)
        with log.open("wb") as to_log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rephrase_runner",
                kind,
                cwd=self.laptop.folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=to_log,
                stderr=to_log,
                start_new_session=True,
            )
        member = Member(kind, slot, self._started, process, log)
        self.members.add(member)
        return member

    def _driver_launch(self) -> DriverLaunch:
        return DriverLaunch(run=self.run.metadata.name, manifest=json.dumps(self.run.to_api()))

    async def _worker_launch(self, slot: int) -> WorkerLaunch:
        spec, plan = self.run.spec, await self._planned()
        values: dict[str, Any] = {
            "run": self.run.metadata.name,
            "output_uri": spec.output.uri,
            "output_storage": spec.output.storage,
            "source_storage": spec.source.storage,
            "slot": slot,
            "start": bit_reversed_start(slot, plan.units if plan is not None else 0),
            "engine_args": tuple(self._engine_args()),
            "request_attempts": spec.retries.request_attempts,
            "engine_kills": spec.retries.document_engine_kills,
            "engine_rebuilds": spec.retries.engine_rebuilds,
        }
        return WorkerLaunch(**values | self._clocks)

    # -- what is in the ledger --------------------------------------------------------------------

    async def _planned(self) -> Plan | None:
        if self._plan is None and (ledger := await self.ledger()) is not None:
            self._plan = await ledger.plan()
        return self._plan

    async def _is_planned(self) -> bool:
        return await self._planned() is not None

    async def ledger(self) -> Ledger | None:
        """The run's ledger, once there is one."""
        spec = await read_spec(self.store)
        return None if spec is None else Ledger(self.store, spec.run)

    async def the_ledger(self) -> Ledger:
        """The ledger of a run that has one."""
        ledger = await self.ledger()
        if ledger is None:
            raise AssertionError("no run was begun")
        return ledger

    async def committed_share(self) -> float:
        """Share of the units that have a commit."""
        ledger, plan = await self.ledger(), await self._planned()
        if ledger is None or plan is None:
            return 0.0
        return len(await ledger.committed_units()) / plan.units

    async def claims(self) -> list[Claim]:
        """Every claim that was ever made."""
        ledger = await self.the_ledger()
        return [
            Claim.from_bytes(data) for data in await read_all(self.store, ledger.names.claims())
        ]

    async def heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of every worker there ever was."""
        ledger = await self.the_ledger()
        seen = await ledger.read_heartbeats(await ledger.heartbeat_metas())
        return [one.heartbeat for one in seen]

    async def faults(self) -> list[str]:
        """What `rephrase verify` finds wrong."""
        return (await verification.verify(self.store)).faults

    async def fetch(self) -> None:
        """Copy a bucket's output to the laptop's folder, to look at it as at any other."""
        if not self.store.local:
            for meta in await self.store.list():
                got = await self.store.get(meta.name)
                path = self.laptop.output / meta.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(got.data if got is not None else b"")


async def read_all(store: Store, folder: str) -> list[bytes]:
    """All objects below a folder, in order of their names."""
    metas = await store.list(folder)
    found = await gather_bounded([store.get(meta.name) for meta in metas])
    return [got.data for got in found if got is not None]


def look_at(uri: str, storage: Mapping[str, Any]) -> Store:
    """An output as `spec.output` names it, opened from here."""
    options = StorageOptions(storage["endpoint"], storage["region"], bool(storage["allowHTTP"]))
    return Store(uri, options)
