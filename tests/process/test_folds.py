"""A driver keeps the commits it has read together, so that the next one reads few objects."""

import pytest

from rephrase_runner.ledger import Ledger, read_spec
from rephrase_runner.store import Store
from rephrase_runner.watch import Watch
from support.laptop import Laptop
from support.runs import small_run

EVERY = 4


@pytest.fixture
async def book(laptop: Laptop) -> Ledger:
    """The ledger of a finished run."""
    small_run(laptop)
    assert laptop.run("--workers", "1").code == 0
    for snapshot in laptop.ledger("folds"):  # of its driver's end
        snapshot.unlink()
    return await ledger_of(laptop)


async def ledger_of(laptop: Laptop) -> Ledger:
    store = Store(str(laptop.output))
    spec = await read_spec(store)
    assert spec is not None
    return Ledger(store, spec.run)


async def watch(book: Ledger) -> Watch:
    """What a driver knows after its first look at a run whose workers are gone."""
    plan = await book.plan()
    assert plan is not None
    rollouts = {"brief": 1, "twice": 2}
    found = Watch(
        book, plan, await book.units(plan), rollouts, lease_seconds=3, snapshot_every=EVERY
    )
    await found.look(0)
    return found


async def test_commits_are_read_from_a_snapshot_by_the_next_driver(
    laptop: Laptop, book: Ledger
) -> None:
    first = await watch(book)
    known = first.committed.committed
    (snapshot,) = laptop.ledger("folds")
    for commit in laptop.ledger("commits"):
        commit.unlink()

    second = await watch(book)

    assert known >= EVERY
    assert snapshot.name == f"{known:08d}.parquet"
    assert second.committed.committed == known
    assert second.account == first.account
    assert second.commits == first.commits


async def test_a_run_ends_with_all_its_commits_in_a_snapshot(laptop: Laptop) -> None:
    small_run(laptop)
    assert laptop.run("--workers", "1").code == 0
    for commit in laptop.ledger("commits"):
        commit.unlink()

    known = await watch(await ledger_of(laptop))

    assert [path.name for path in laptop.ledger("folds")] == ["00000020.parquet"]
    assert known.committed.committed == 20


async def test_a_damaged_snapshot_costs_only_its_reading(laptop: Laptop, book: Ledger) -> None:
    first = await watch(book)
    (snapshot,) = laptop.ledger("folds")
    snapshot.write_bytes(b"PAR1 and then nothing")

    second = await watch(book)

    assert second.account == first.account


async def test_a_snapshot_is_no_part_of_the_account(laptop: Laptop, book: Ledger) -> None:
    await watch(book)

    verified = laptop.rephrase("verify", "output")
    collected = laptop.rephrase("gc", "output")

    assert verified.code == 0, verified.said
    assert collected.code == 0, collected.said
    assert "folds" not in collected.out
