"""A kill storm: a run whose processes are killed and paused at random moments, then left to finish.

`tests/chaos/storm.py` is the command; `tests/process/test_storm.py` does small ones.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - seeded, and the seed is printed
from typing import Any

from typing_extensions import override

from rephrase_api.errors import ExitCode
from rephrase_runner.store import Store
from support.corpora import write_corpus
from support.faulty_proxy import FaultyProxy, Trouble, calm, faulty_proxy, stormy
from support.fleet import ON_A_FOLDER, ON_S3, Clocks, Fleet, Member, look_at
from support.laptop import Laptop
from support.manifests import a_manifest
from support.s3 import BUCKET, S3, SeaweedFS
from support.waiting import eventually

DOCUMENTS_PER_KILL = 20
MIN_DOCUMENTS = 600
UNIT_DOCUMENTS = 40
SAMPLES_PER_DOCUMENT = 3
CONCURRENCY = 16
SECONDS_PER_KILL = 1.3
"""On average. A process needs one second to start, of the machine's two cores."""
DRAIN_SECONDS = 10
_DEEDS = {
    signal.SIGKILL: 0.65,
    signal.SIGTERM: 0.35,
}
_PAUSES_PER_KILL = 0.3
_ZOMBIES = 0.4
"""Share of the pauses that are longer than the lease."""
_AT_WORK = 0.8
"""Share of the blows that hit one that is past its start, if there is one."""
_DRIVERS = 0.2
"""Share of the blows that hit a driver."""


@dataclass(slots=True)
class Figures:
    """What happened in a storm and what it cost."""

    seed: int
    store: str
    documents: int = 0
    units: int = 0
    samples: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    takeovers: Counter[str] = field(default_factory=Counter)
    processes: Counter[str] = field(default_factory=Counter)
    reused: int = 0
    generated: int = 0
    committed: int = 0
    discarded: int = 0
    storm_seconds: float = 0.0
    seconds: float = 0.0
    drain_seconds: list[float] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    troubles: Counter[Trouble] = field(default_factory=Counter)

    @override
    def __str__(self) -> str:
        """A table for people."""
        requests = {verb: f"{count / self.units:.1f}" for verb, count in self.requests.items()}
        drains = sorted(self.drain_seconds)
        rows = {
            "seed": self.seed,
            "run": f"{self.documents:,} documents, {self.units} units, {self.samples:,} samples",
            "blows": _listed(self.blows),
            "processes started": _listed(self.processes),
            "takeovers": _listed(self.takeovers) or "none",
            "samples reused": f"{self.reused:,}",
            "tokens": f"{self.generated:,} generated, {self.committed:,} committed, "
            f"{self.discarded:,} discarded ({self.discarded / max(1, self.generated):.1%})",
            "seconds": f"{self.storm_seconds:.0f} of storm, {self.seconds:.0f} in all",
            "drains": f"{len(drains)}, the longest {max(drains, default=0):.1f} s",
        }
        if self.requests:
            rows["requests per unit"] = _listed(requests)
            rows["troubled requests"] = _listed({t.value: n for t, n in self.troubles.items()})
        width = max(map(len, rows))
        title = f"storm of {sum(self.blows.values())} blows on {self.store}"
        return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def _listed(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class Site:
    """Where a storm takes place.

    Attributes:
        name: for people.
        output: fields of `spec.output`.
        clocks: of the workers.
        environment: of all processes.
        store: the output as seen from here, past the proxy; None for the laptop's folder.
        proxy: in front of the store, if there is one.
    """

    name: str
    output: Mapping[str, Any] = field(default_factory=dict)
    clocks: Clocks = field(default_factory=lambda: ON_A_FOLDER)
    environment: Mapping[str, str] = field(default_factory=dict)
    store: Store | None = None
    proxy: FaultyProxy | None = None


def on_a_folder() -> Site:
    """The laptop's own output folder."""
    return Site("a folder")


@asynccontextmanager
async def on_s3(s3: S3, seed: int) -> AsyncIterator[Site]:
    """A bucket behind a proxy with bad weather. This process must have the environment of `s3`."""
    async with faulty_proxy(s3.endpoint, stormy(seed), seed=seed) as proxy:
        behind = S3(proxy.endpoint, s3.bucket, s3.prefix)
        output = {"uri": s3.uri("output"), "storage": behind.storage}
        yield Site(
            "seaweedfs behind a faulty proxy",
            output=output,
            clocks=ON_S3,
            environment=behind.env,
            store=look_at(s3.uri("output"), s3.storage),
            proxy=proxy,
        )


@asynccontextmanager
async def on_an_own_s3(folder: Path, seed: int) -> AsyncIterator[Site]:
    """The same with a server of its own in an empty folder."""
    with SeaweedFS(folder) as server:
        s3 = S3(server.endpoint, BUCKET, "storm")
        os.environ.update(s3.env)
        async with on_s3(s3, seed) as site:
            yield site


class Storm:
    """One storm.

    Args:
        laptop: empty; gets source, manifest and logs.
        site: where the output is.
        kills: how many SIGKILLs and SIGTERMs; pauses come on top.
        workers: how many are kept alive.
        seed: of everything that is drawn.
        say: told what happens.
    """

    def __init__(
        self,
        laptop: Laptop,
        site: Site,
        *,
        kills: int,
        workers: int,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.figures = Figures(seed, site.name)
        self._laptop, self._site = laptop, site
        self._kills, self._workers = kills, workers
        self._random = Random(seed)  # noqa: S311 - no secret
        self._say = say
        self._speed = 0.0
        self._pauses: set[asyncio.Task[None]] = set()
        self.figures.documents = write_storm_corpus(laptop, kills)
        laptop.write(a_storm_manifest(site.output))
        self._fleet = Fleet(
            laptop,
            workers=workers,
            drivers=2,
            clocks=site.clocks,
            store=site.store,
            environment=site.environment,
            engine_args=self._engine_args,
        )

    async def run(self) -> Fleet:
        """Storm, then wait for the end, then count."""
        started = time.monotonic()
        async with self._fleet as fleet:
            await eventually(lambda: fleet.working("worker"), "the run is planned", within=60)
            governor = asyncio.create_task(self._govern())
            try:
                await self._rage()
            finally:
                governor.cancel()
            self.figures.storm_seconds = time.monotonic() - started
            self._say(f"{self._kills} kills done, {await fleet.committed_share():.0%} committed")
            await asyncio.gather(*self._pauses)
            self._replace_the_slow()
            code = await fleet.end(within=600)
            self.figures.seconds = time.monotonic() - started
            if self._site.proxy is not None:
                self._site.proxy.weather = calm
                await self._site.proxy.all_landed()
            assert code is ExitCode.OK, code
        await self._count()
        return fleet

    # -- blows ------------------------------------------------------------------------------------

    async def _rage(self) -> None:
        kills = 0
        while kills < self._kills:
            mean = SECONDS_PER_KILL / (1 + _PAUSES_PER_KILL)
            await asyncio.sleep(self._random.expovariate(1 / mean))  # a moment of its own choice
            if self._fleet.over:
                await self._fleet.end(within=60)
                raise AssertionError(f"the run ended after {kills} of {self._kills} kills")
            victim = self._choose()
            if victim is None:
                continue
            if self._random.random() < _PAUSES_PER_KILL / (1 + _PAUSES_PER_KILL):
                self._pause(victim)
            else:
                kills += 1
                self._kill(victim)

    def _choose(self) -> Member | None:
        kind = "driver" if self._random.random() < _DRIVERS else "worker"
        found = self._fleet.ready(kind) if self._random.random() < _AT_WORK else []
        found = found or self._fleet.untouched(kind)
        return self._random.choice(found) if found else None

    def _kill(self, victim: Member) -> None:
        deed = self._random.choices(list(_DEEDS), list(_DEEDS.values()))[0]
        paused = " while paused" if victim.paused else ""
        self.figures.blows[f"{deed.name}{paused}"] += 1
        self._say(f"{deed.name} to {victim.name}{paused}")
        victim.signal(deed)

    def _pause(self, victim: Member) -> None:
        if victim.paused:
            return
        lease = self._site.clocks["lease_seconds"]
        zombie = self._random.random() < _ZOMBIES
        seconds = (
            self._random.uniform(lease + 3, lease + 7)
            if zombie
            else self._random.uniform(0.1, lease)
        )
        self.figures.blows["SIGSTOP beyond the lease" if zombie else "SIGSTOP"] += 1
        self._say(f"SIGSTOP to {victim.name} for {seconds:.1f} s")
        task = asyncio.create_task(self._hold(victim, seconds))
        self._pauses.add(task)
        task.add_done_callback(self._pauses.discard)

    async def _hold(self, victim: Member, seconds: float) -> None:
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        if victim.alive:
            victim.signal(signal.SIGCONT)

    def _replace_the_slow(self) -> None:
        """The storm is over; who was made slow for it would only lengthen the wait."""
        self._speed = 1000.0
        for worker in self._fleet.working("worker"):
            if signal.SIGTERM not in worker.signals:
                self.figures.blows["SIGTERM after the storm"] += 1
                worker.signal(signal.SIGTERM)

    # -- speed: the run must neither end before the storm nor lag far behind it ---------------------

    async def _govern(self) -> None:
        """Compare what is committed with what is killed; workers started from now on go by that."""
        total = self.figures.documents * SAMPLES_PER_DOCUMENT
        even = total / self._kills / SECONDS_PER_KILL / self._workers
        while True:
            kills = sum(n for name, n in self.figures.blows.items() if "STOP" not in name)
            ahead = await self._fleet.committed_share() - 0.7 * kills / self._kills
            self._speed = even * (
                6 if ahead < -0.1 else 1 if ahead < 0 else 0.3 if ahead < 0.1 else 0.1
            )
            await asyncio.sleep(0.5)

    def _engine_args(self) -> Collection[str]:
        """Echo's answers are the same at any speed."""
        latency = CONCURRENCY / self._speed if self._speed else 1.0
        arguments = [*self._fleet.run.spec.model.engine.args]
        return [*arguments, f"--concurrency={CONCURRENCY}", f"--latency-seconds={latency:.3f}"]

    # -- what came of it --------------------------------------------------------------------------

    async def _count(self) -> None:
        figures, fleet = self.figures, self._fleet
        ledger = await fleet.the_ledger()
        manifest = await ledger.manifest()
        if manifest is None:
            raise AssertionError("no manifest")
        figures.units = manifest.units
        figures.samples = sum(counts.in_ for counts in manifest.counts.values())
        figures.processes = Counter(member.kind for member, _ in fleet.ended)
        figures.takeovers = Counter(c.why for c in await fleet.claims() if c.why != "free")
        figures.reused = sum(e["reused"] for e in fleet.logged("worker", "unit taken over"))
        figures.generated = sum(beat.generated_tokens for beat in await fleet.heartbeats())
        figures.committed = manifest.tokens.completion
        figures.discarded = manifest.discarded_tokens
        figures.drain_seconds = fleet.drain_seconds
        if self._site.proxy is not None:
            figures.requests = self._site.proxy.by_verb()
            figures.troubles = self._site.proxy.troubles
        await fleet.fetch()


def write_storm_corpus(laptop: Laptop, kills: int) -> int:
    """Documents enough for so many kills, in two files; returns how many."""
    documents = max(MIN_DOCUMENTS, kills * DOCUMENTS_PER_KILL)
    write_corpus(laptop.source, files=2, rows_per_file=documents // 2, row_group_rows=20)
    return documents


def a_storm_manifest(output: Mapping[str, Any]) -> dict[str, Any]:
    """The run of a storm."""
    return a_manifest(
        source={"unit": {"targetDocuments": UNIT_DOCUMENTS}},
        output={"targetFileBytes": 48 * 1024, **output},
    )


async def assert_unharmed(storm: Storm, fleet: Fleet, laptop: Laptop, undisturbed: Laptop) -> None:
    """The dataset is that of an undisturbed run, sample by sample, and the account is right.

    Raises:
        AssertionError: names what differs.
    """
    figures = storm.figures
    faults = await fleet.faults()
    assert not faults, f"verify: {faults}"
    assert laptop.keys() == undisturbed.keys(), "keys differ"
    assert laptop.samples().equals(undisturbed.samples()), "samples differ"
    assert laptop.dead_letters() == undisturbed.dead_letters(), "dead letters differ"
    assert figures.discarded > 0, figures
    assert figures.committed + figures.discarded <= figures.generated, figures
    assert max(figures.drain_seconds, default=0) < DRAIN_SECONDS, figures


def undisturbed_storm(laptop: Laptop, kills: int) -> Laptop:
    """The run of a storm of so many kills without the storm, in another, empty folder."""
    write_storm_corpus(laptop, kills)
    laptop.write(a_storm_manifest({}))
    ended = laptop.run("--workers", "2")
    assert ended.code == 0, ended.said
    return laptop
