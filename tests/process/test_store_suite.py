"""One suite for every store we run on: what the ledger's safety and the reading of sources rest on."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rephrase_runner.store import Outcome, SourceChanged, StorageOptions, Store, probe
from support.s3 import S3

WRITERS = 16


@pytest.fixture(
    params=[
        "folder",
        pytest.param("seaweedfs", marks=pytest.mark.needs("s3")),
        pytest.param("moto", marks=pytest.mark.needs("s3")),
    ]
)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the same empty place again and again, as different processes would."""
    if request.param == "folder":
        return lambda: Store(str(tmp_path / "output"), create=True)
    place: S3 = request.getfixturevalue("s3" if request.param == "seaweedfs" else "moto_s3")
    options = StorageOptions(place.endpoint, "us-east-1", allow_http=True)
    return lambda: Store(place.uri("output"), options)


async def test_of_many_writers_of_a_name_exactly_one_is_told_that_it_is_his(
    open_store: Callable[[], Store],
) -> None:
    stores = [open_store() for _ in range(WRITERS)]

    for name in ("claims/00000000/0001.json", "claims/00000001/0001.json"):
        bodies = [f"worker {number}".encode() for number in range(WRITERS)]
        outcomes = await asyncio.gather(
            *(store.put_new(name, body) for store, body in zip(stores, bodies, strict=True))
        )

        assert outcomes.count(Outcome.MINE) == 1
        kept = await stores[0].get(name)
        assert kept is not None
        assert kept.data == bodies[outcomes.index(Outcome.MINE)]


async def test_the_same_bytes_again_are_still_ones_own(open_store: Callable[[], Store]) -> None:
    store = open_store()

    outcomes = [await store.put_new("part", b"rows") for _ in range(2)]

    assert outcomes == [Outcome.MINE, Outcome.MINE]


async def test_what_is_not_there_is_an_answer(open_store: Callable[[], Store]) -> None:
    store = open_store()

    assert await store.get("nothing") is None
    assert await store.head("nothing") is None
    assert await store.list("nothing") == []
    await store.delete("nothing")


async def test_a_listing_is_sorted_and_goes_by_whole_folders(
    open_store: Callable[[], Store],
) -> None:
    store = open_store()
    for name in ("commits/2", "commits/10", "commits/1", "commits-of-another/1"):
        await store.put_new(name, name.encode())

    listed = await store.list("commits")
    later = await store.list("commits", start_after="commits/1")

    assert [(meta.name, meta.size) for meta in listed] == [
        ("commits/1", 9),
        ("commits/10", 10),
        ("commits/2", 9),
    ]
    assert [meta.name for meta in later] == ["commits/10", "commits/2"]


async def test_an_own_object_is_overwritten_and_its_time_moves(
    open_store: Callable[[], Store],
) -> None:
    store = open_store()
    await store.put_own("workers/w", b"beat 1")
    first = await store.head("workers/w")

    await store.put_own("workers/w", b"beat 2")

    got = await store.get("workers/w")
    assert first is not None
    assert got is not None
    assert got.data == b"beat 2"
    assert got.meta.modified >= first.modified
    assert got.meta.etag != first.etag


async def test_a_reader_gets_the_version_that_was_planned_or_none(
    open_store: Callable[[], Store],
) -> None:
    store = open_store()
    await store.put_own("file.jsonl", b"0123456789")
    planned = await store.head("file.jsonl")
    assert planned is not None

    def read(start: int, end: int) -> bytes:
        return store.read_range("file.jsonl", start, end, etag=planned.etag)

    assert await asyncio.to_thread(read, 2, 5) == b"234"

    await store.put_own("file.jsonl", b"something else")
    with pytest.raises(SourceChanged):
        await asyncio.to_thread(read, 2, 5)


async def test_a_deleted_object_is_gone_from_listings(open_store: Callable[[], Store]) -> None:
    store = open_store()
    await store.put_new("checkpoints/00000000/a", b"rows")

    await store.delete("checkpoints/00000000/a")

    assert await store.list("checkpoints") == []


async def test_the_probe_is_content_and_leaves_nothing(open_store: Callable[[], Store]) -> None:
    store = open_store()

    await probe(store, token="0123")

    assert await store.list() == []
