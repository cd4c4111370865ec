"""A process dies exactly before or after any of its requests to the store; another continues: same result.

A point is "after PUT commits 2": the process ends at once when its second put of a commit has been carried
out and before it learns of it. `make test` tries a sample of the points, `make test-full` all of them.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random  # noqa: TID251 - seeded
from typing import Any

import pyarrow as pa
import pytest

from rephrase_api.launch import DriverLaunch, WorkerLaunch
from rephrase_api.manifest import parse_run
from rephrase_runner import verify as verification
from rephrase_runner.store import Store
from support.corpora import rows, write_parquet
from support.crashing import DIED, Child, Nursery, Point, points_of
from support.laptop import Laptop
from support.manifests import a_manifest, echo
from support.waiting import wait_until

SEED = 1
SAMPLE = 10
"""Points of each kind of process that `make test` tries, most of them at puts and deletes."""
MISSED = 0.1
"""Share of the points that a life may not come to: it has checkpoints by the clock, for example."""
UNIT_DOCUMENTS, UNITS = 16, 3
KILLER = "grenade"
CLOCKS: dict[str, Any] = {
    "heartbeat_seconds": 0.2,
    "lease_seconds": 1,
    "checkpoint_seconds": 0.15,
}
DEAD_LETTER_FACTS = ("source_file", "source_row", "prompt", "rollout", "outcome", "reason")
"""The rest of a dead letter tells how it came about, which is not the same after a crash."""


class Scene:
    """A small run whose driver and worker can be started again and again, each in a new folder.

    Args:
        nursery: starts them.
        folder: empty.
        args: of the engine.
    """

    def __init__(self, nursery: Nursery, folder: Path, *args: str) -> None:
        self._nursery, self._folder = nursery, folder
        self._args = args
        self.laptop = Laptop(folder)
        self._takes = 0
        self._processes = 0

    def new_take(self) -> None:
        """Forget everything and begin anew."""
        self._nursery.kill_all()
        self._takes += 1
        self.laptop = Laptop(self._folder / f"take-{self._takes}")
        self.laptop.folder.mkdir()
        documents = rows(UNIT_DOCUMENTS * UNITS)
        documents[3]["text"] = ""
        documents[20]["text"] += f" {KILLER}"
        write_parquet(self.laptop.source / "part-0.parquet", documents, row_group_rows=8)
        engine = echo(*self._args, concurrency=12, latency=0.1)
        source = {"unit": {"targetDocuments": UNIT_DOCUMENTS}}
        output = {"targetFileBytes": 8 * 1024}
        self.laptop.write(a_manifest(source=source, output=output, model=engine))

    def start(self, kind: str, point: Point | None = None) -> Child:
        """Start a driver or worker of this take."""
        run = parse_run(self.laptop.manifest.read_text(), where="run.yaml")
        args = run.spec.model.engine.args
        launch: DriverLaunch | WorkerLaunch
        if kind == "driver":
            launch = DriverLaunch(run="test", manifest=json.dumps(run.to_api()))
        else:
            launch = WorkerLaunch(run="test", output_uri="output", engine_args=args, **CLOCKS)
        self._processes += 1
        return self._nursery.start(
            kind,
            self.laptop.environment(launch.to_environment()),
            folder=self.laptop.folder,
            name=f"{kind}-{self._processes}",
            point=point,
        )

    def is_planned(self) -> bool:
        """Whether workers can be started."""
        return bool(list(self.laptop.output.glob("_run/*/plan.json")))

    def play(self, victim: str, point: Point | None = None) -> Child:
        """A run whose `victim` dies at the point and is started again; returns the one that died."""
        self.new_take()
        first = {"driver": self.start("driver", point if victim == "driver" else None)}
        wait_until(lambda: self.is_planned() or first["driver"].code(), "planned, or dead")
        if not self.is_planned():
            first["driver"], dead = self.start("driver"), first["driver"]
            wait_until(self.is_planned, "the run is planned")
        else:
            dead = first["driver"]
        first["worker"] = self.start("worker", point if victim == "worker" else None)
        if victim == "worker":
            dead = first["worker"]
        code = dead.ended()
        living = [child for child in first.values() if child is not dead]
        if code == DIED and dead in first.values():
            living.append(self.start(victim))
        for child in living:
            assert child.ended() == 0, child.last_lines
        assert code in (0, DIED), f"{code}: {dead.last_lines}"
        return dead

    def result(self) -> tuple[pa.Table, list[dict[str, Any]]]:
        """What was published."""
        letters = self.laptop.dead_letters()
        return self.laptop.samples(), [{n: one[n] for n in DEAD_LETTER_FACTS} for one in letters]

    def check(self, expected: tuple[pa.Table, list[dict[str, Any]]]) -> None:
        """The result is the one of an undisturbed run, and all invariants hold."""
        samples, letters = self.result()
        assert samples.equals(expected[0]), "samples differ"
        assert letters == expected[1], "dead letters differ"
        report = asyncio.run(verification.verify(Store(str(self.laptop.output))))
        assert report.faults == []


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as found:
        yield found


def crash_at(scene: Scene, victim: str, *, sample: int | None) -> None:
    """Let the victim die at points of its life, one life each.

    Raises:
        AssertionError: names every point after which the result was another one, with the reason.
    """
    witness = scene.play(victim)
    expected = scene.result()
    points = points_of(witness.trace)
    if sample is not None:
        points = some_of(points, sample)
    harm, missed = [], []
    for point in points:
        try:
            dead = scene.play(victim, point)
            scene.check(expected)
            missed += [point.name] if dead.ended() != DIED else []
        except AssertionError as found:
            harm.append(f"{point.name}: {found}")
    assert not harm, f"seed {SEED}, {len(points)} points of a {victim}\n" + "\n\n".join(harm)
    assert len(missed) <= max(1, MISSED * len(points)), missed


def some_of(points: list[Point], sample: int) -> list[Point]:
    """A sample of the points, in their order."""
    random = Random(SEED)  # noqa: S311
    writing = [point for point in points if point.writes]
    reading = [point for point in points if not point.writes]
    chosen = random.sample(writing, sample * 3 // 4) + random.sample(reading, sample // 4)
    return [point for point in points if point in chosen]


@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_process_may_die_at_a_request_to_the_store(
    nursery: Nursery, tmp_path: Path, victim: str
) -> None:
    crash_at(Scene(nursery, tmp_path), victim, sample=SAMPLE)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_process_may_die_at_any_request_to_the_store(
    nursery: Nursery, tmp_path: Path, victim: str
) -> None:
    crash_at(Scene(nursery, tmp_path), victim, sample=None)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_worker_may_die_at_any_request_while_it_searches_what_kills_its_engine(
    nursery: Nursery, tmp_path: Path
) -> None:
    crash_at(Scene(nursery, tmp_path, f"--die-on={KILLER}"), "worker", sample=None)
