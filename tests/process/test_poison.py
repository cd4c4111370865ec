"""Documents that kill, hang or fail the engine are found, given up by name, and cost nobody else anything.

Each kind of poison is a word in a document's text: `--die-on`, `--hang-on` and `--fail-on` go by it.
"""

import asyncio
import math
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251 - seeded
from typing import Any

import pytest

from rephrase_api.errors import ExitCode
from support.corpora import rows, write_parquet
from support.fleet import ON_A_FOLDER, Fleet
from support.laptop import Laptop
from support.manifests import a_manifest, echo
from support.waiting import eventually

KILLER, HANGER, FAILER = "grenade", "quicksand", "nettle"
SEED = 1
CONCURRENCY = 32
ONE = {"name": "brief", "template": "Shorten.\n\n[[DOCUMENT]]"}
CLOCKS = {**ON_A_FOLDER, "hang_seconds": 2, "engine_rebuilds": 3}


@dataclass(frozen=True, slots=True)
class Poison:
    """Which documents hold which word."""

    killers: Sequence[int] = ()
    hangers: Sequence[int] = ()
    failers: Sequence[int] = ()

    @property
    def rows(self) -> set[int]:
        """All of them."""
        return {*self.killers, *self.hangers, *self.failers}

    @property
    def reasons(self) -> dict[int, str]:
        """What each is to be given up for."""
        deadly = {row: "engine_killer" for row in (*self.killers, *self.hangers)}
        return deadly | {row: "echo_failed" for row in self.failers}


def some_poison(documents: int, each: int) -> Poison:
    """So many of each kind at random places."""
    places = Random(SEED).sample(range(documents), 3 * each)  # noqa: S311 - no secret
    return Poison(*(sorted(places[kind * each : (kind + 1) * each]) for kind in range(3)))


def poisoned_run(
    laptop: Laptop,
    documents: int,
    poison: Poison,
    *,
    unit: int,
    **spec: Any,  # noqa: ANN401
) -> None:
    """Documents with the words in them, and a manifest for them."""
    found = rows(documents)
    words = {KILLER: poison.killers, HANGER: poison.hangers, FAILER: poison.failers}
    for word, places in words.items():
        for row in places:
            found[row]["text"] += f" Beware of the {word}."
    write_parquet(laptop.source / "part-0.parquet", found)
    laptop.write(poisoned_manifest(unit=unit, **spec))


def poisoned_manifest(*, unit: int, **spec: Any) -> dict[str, Any]:  # noqa: ANN401
    """One prompt, and an engine that minds the words."""
    minds = [f"--die-on={KILLER}", f"--hang-on={HANGER}", f"--fail-on={FAILER}"]
    base: dict[str, Any] = {
        "source": {"unit": {"targetDocuments": unit}},
        "prompts": [ONE],
        "model": echo(*minds, concurrency=CONCURRENCY, latency=0.2),
    }
    return a_manifest(**base | spec)


def reasons(laptop: Laptop) -> dict[int, str]:
    """Why each dead letter is one, by row."""
    return {letter["source_row"]: letter["reason"] for letter in laptop.dead_letters()}


def written(laptop: Laptop) -> list[int]:
    """Rows that were rewritten."""
    found: list[int] = laptop.samples()["source_row"].to_pylist()
    return sorted(found)


def most_deaths(killers: int, suspects: int) -> int:
    """Engine deaths that so many killers may cost, each among so many suspects (protocol, section 6)."""
    return killers * (2 + math.ceil(math.log2(suspects)))


async def assert_found(fleet: Fleet, documents: int, poison: Poison) -> None:
    """Exactly the poisoned documents are dead letters, each with its evidence."""
    laptop = fleet.laptop
    assert await fleet.faults() == []
    assert reasons(laptop) == poison.reasons
    assert written(laptop) == sorted(set(range(documents)) - poison.rows)
    for letter in laptop.dead_letters():
        if letter["reason"] == "engine_killer":
            # deaths that were recorded, or windows whose worker vanished with it
            evidence = re.findall(r"_run/[^, ]+\.json", letter["message"])
            assert len(evidence) >= 2, letter
            assert all((laptop.output / name).exists() for name in evidence), letter


def engine_deaths(fleet: Fleet) -> int:
    """How often an engine died, whatever became of its worker afterwards."""
    return len(list(fleet.logged("worker", "engine died")))


async def kill_workers(fleet: Fleet, kills: int) -> None:
    """SIGKILL workers at random moments of their work, unless the run ends before."""
    random = Random(SEED)  # noqa: S311 - no secret
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.5, 3))  # a moment of its own choice
        await eventually(lambda: fleet.over or fleet.ready("worker"), "a worker works", within=60)
        if fleet.over:
            return
        random.choice(fleet.ready("worker")).signal(signal.SIGKILL)


async def find_poison(
    laptop: Laptop, *, documents: int, each: int, unit: int, kills: int = 0
) -> None:
    """A whole run of two workers over poisoned documents, and what must have come of it."""
    poison = some_poison(documents, each)
    poisoned_run(laptop, documents, poison, unit=unit)
    async with Fleet(laptop, workers=2, clocks=CLOCKS, tolerated=[ExitCode.ENGINE]) as fleet:
        await kill_workers(fleet, kills)
        code = await fleet.end(within=600)

    assert code is ExitCode.OK
    await assert_found(fleet, documents, poison)
    killers = len(poison.killers) + len(poison.hangers)
    if not kills:
        assert engine_deaths(fleet) <= most_deaths(killers, CONCURRENCY)
    assert engine_deaths(fleet) <= most_deaths(killers, 4 * unit)


async def test_poisoned_documents_are_found_and_given_up_by_name(laptop: Laptop) -> None:
    await find_poison(laptop, documents=600, each=2, unit=100)


async def test_no_innocent_is_condemned_while_workers_are_killed_too(laptop: Laptop) -> None:
    await find_poison(laptop, documents=600, each=1, unit=100, kills=6)


@pytest.mark.full
@pytest.mark.timeout(1200)
async def test_fifteen_poisoned_documents_among_five_thousand_are_found(laptop: Laptop) -> None:
    await find_poison(laptop, documents=5000, each=5, unit=500)


@pytest.mark.full
@pytest.mark.timeout(1200)
async def test_fifteen_among_five_thousand_are_found_while_workers_are_killed_too(
    laptop: Laptop,
) -> None:
    await find_poison(laptop, documents=5000, each=5, unit=500, kills=30)


def test_a_run_whose_documents_fail_stops_at_the_limit_and_goes_on_when_it_is_raised(
    laptop: Laptop,
) -> None:
    poison = Poison(failers=range(80, 120))
    limit = {"maxFailedDocuments": {"share": "1%", "count": 10}, "requestAttempts": 1}
    poisoned_run(laptop, 600, poison, unit=40, retries=limit)

    stopped = laptop.run("--workers", "1")
    still_there = laptop.committed()
    limit["maxFailedDocuments"] = {"share": "1%", "count": 40}
    laptop.write(poisoned_manifest(unit=40, retries=limit))
    raised = laptop.run("--workers", "1")

    assert stopped.code == ExitCode.FAILED, stopped.said
    assert "FailureLimit" in stopped.err
    assert "documents failed, more than 1% and 10 (spec.retries.maxFailedDocuments)" in stopped.err
    assert 0 < len(still_there) < 15, "it went on to the end"
    assert raised.code == ExitCode.OK, raised.said
    assert reasons(laptop) == poison.reasons
    assert laptop.rephrase("verify", "output").code == ExitCode.OK


def test_a_run_whose_documents_all_kill_the_engine_stops_and_says_why(laptop: Laptop) -> None:
    poison = Poison(killers=range(32))
    limit = {"maxFailedDocuments": {"share": "1%", "count": 5}, "workerBackoffLimit": 10}
    poisoned_run(laptop, 64, poison, unit=32, retries=limit)

    stopped = laptop.run("--workers", "1", within=200)

    assert stopped.code == ExitCode.FAILED, stopped.said
    assert "FailureLimit" in stopped.err
    deaths = list(laptop.log("worker-0", "engine died"))
    assert len(deaths) <= most_deaths(12, CONCURRENCY), "it was rebuilt on and on"


async def test_a_failing_document_that_waits_for_its_next_attempt_is_no_hang(
    laptop: Laptop,
) -> None:
    poison = Poison(failers=[18, 19])
    poisoned_run(laptop, 20, poison, unit=20)
    async with Fleet(laptop, clocks={**CLOCKS, "hang_seconds": 0.6}) as fleet:
        code = await fleet.end(within=60)

    assert code is ExitCode.OK
    assert engine_deaths(fleet) == 0
    assert reasons(laptop) == poison.reasons


@pytest.mark.parametrize("flag", ["--die-on", "--hang-on"])
async def test_an_engine_that_does_not_answer_its_first_request_touches_no_unit(
    laptop: Laptop, flag: str
) -> None:
    poisoned_run(laptop, 20, Poison(), unit=20, model=echo(f"{flag}=Shorten"))
    async with Fleet(laptop, clocks=CLOCKS, tolerated=[ExitCode.ENGINE]) as fleet:
        await eventually(lambda: [1 for m, _ in fleet.ended if m.kind == "worker"], "it ends")

    (worker, code), *_ = ((m, code) for m, code in fleet.ended if m.kind == "worker")
    assert code == ExitCode.ENGINE
    (said,) = worker.entries("exit")
    assert said["reason"] == "EngineFailed"
    assert "did not answer its first request" in said["error"]
    assert laptop.ledger("claims") == laptop.ledger("workers") == []
