"""The four verbs against a store that loses answers, answers wrongly, or does nothing."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rephrase_api.errors import AccessRefused, InvalidSpec
from rephrase_runner.store import Outcome, StorageOptions, Store, Unclear, probe
from support.scripted_s3 import Answer, Fault, ScriptedS3, scripted_s3


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    async with scripted_s3() as server:
        yield server


@pytest.fixture
def store(server: ScriptedS3) -> Store:
    options = StorageOptions(server.endpoint, "us-east-1", allow_http=True)
    return Store("s3://bucket/run", options)


def stored(server: ScriptedS3, name: str) -> bytes:
    return server.objects[f"run/{name}"][0]


@pytest.mark.parametrize("source", ["spec", "secret", "environment"])
async def test_the_endpoint_is_that_of_the_spec_then_the_secret_then_the_environment(
    server: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    wrong = "http://127.0.0.1:1"
    told = ["spec", "secret", "environment"]
    spec, secret, environment = (
        server.endpoint if one == source else wrong if told.index(one) > told.index(source) else ""
        for one in told
    )
    secrets = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": secret}
    for name, value in secrets.items():
        if value:
            (tmp_path / name).write_text(value)
    if environment:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", environment)
    options = StorageOptions(spec, "us-east-1", allow_http=True, credentials=str(tmp_path))

    await Store("s3://bucket/run", options).put_new("a", b"here")

    assert stored(server, "a") == b"here"


async def test_the_first_put_is_ours_and_the_second_is_not(store: Store) -> None:
    assert await store.put_new("a", b"first") is Outcome.MINE
    assert await store.put_new("a", b"second") is Outcome.THEIRS

    got = await store.get("a")
    assert got is not None
    assert got.data == b"first"


@pytest.mark.parametrize("answer", ["500", "503", "cut"])
async def test_a_put_whose_answer_is_lost_is_still_ours(
    server: ScriptedS3, store: Store, answer: Answer
) -> None:
    server.faults = [Fault("PUT", answer, effect=True)]

    assert await store.put_new("claim", b"worker-1") is Outcome.MINE
    assert stored(server, "claim") == b"worker-1"


async def test_a_conflict_that_stored_nothing_is_put_again(
    server: ScriptedS3, store: Store
) -> None:
    server.faults = [Fault("PUT", "409", effect=False, times=2)]

    assert await store.put_new("commit", b"mine") is Outcome.MINE
    assert stored(server, "commit") == b"mine"


async def test_a_lost_answer_does_not_hide_that_another_was_first(
    server: ScriptedS3, store: Store
) -> None:
    await store.put_new("claim", b"worker-1")
    server.faults = [Fault("PUT", "500", effect=False)]

    assert await store.put_new("claim", b"worker-2") is Outcome.THEIRS
    assert stored(server, "claim") == b"worker-1"


async def test_reading_back_goes_on_until_the_store_answers(
    server: ScriptedS3, store: Store
) -> None:
    server.faults = [
        Fault("PUT", "500", effect=True, times=3),
        Fault("GET", "503", effect=False, times=4),
    ]

    assert await store.put_new("claim", b"worker-1") is Outcome.MINE
    assert store.errors == 2, "one of the puts, one of the reads: the client has tried more often"


async def test_a_put_that_is_never_answered_is_unclear(server: ScriptedS3, store: Store) -> None:
    server.faults = [Fault("PUT", "500", effect=False, times=10_000)]

    with pytest.raises(Unclear, match="no answer"):
        await store.put_new("claim", b"worker-1", deadline_seconds=0.5)


async def test_refused_credentials_are_told_after_one_more_try(
    server: ScriptedS3, store: Store
) -> None:
    server.faults = [Fault("PUT", "403", effect=False, times=10_000)]

    with pytest.raises(AccessRefused, match="s3://bucket/run/claim: access denied"):
        await store.put_new("claim", b"worker-1")
    assert server.count("PUT") == 2


async def test_a_large_object_is_recognized_by_its_size_without_reading_it(
    server: ScriptedS3, store: Store
) -> None:
    server.faults = [Fault("PUT", "500", effect=True)]
    data = b"x" * 10_000_000

    assert await store.put_new("part", data, bulk=True, own_name=True) is Outcome.MINE
    assert server.count("GET") == 0


async def test_missing_objects_are_answers(store: Store) -> None:
    assert await store.get("nothing") is None
    assert await store.head("nothing") is None
    assert await store.list("nothing") == []
    await store.delete("nothing")


async def test_the_probe_leaves_nothing(server: ScriptedS3, store: Store) -> None:
    await probe(store, token="t")

    assert server.objects == {}


async def test_the_probe_refuses_a_store_that_ignores_the_condition(
    server: ScriptedS3, store: Store
) -> None:
    server.ignore_conditions = True

    with pytest.raises(InvalidSpec, match="does not support put-if-absent"):
        await probe(store, token="t")
    assert server.objects == {}


async def test_a_folder_keeps_the_same_promises(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "new" / "output"), create=True)

    await probe(store, token="t")
    assert await store.put_new("claims/0/1", b"worker-1") is Outcome.MINE
    assert await store.put_new("claims/0/1", b"worker-1") is Outcome.MINE
    assert await store.put_new("claims/0/1", b"worker-2") is Outcome.THEIRS
    assert [meta.name for meta in await store.list("claims")] == ["claims/0/1"]


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(AccessRefused, match="cannot make the folder"):
        Store(str(tmp_path / "file" / "output"), create=True)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """On a file system of its own, 64 KiB large, in a mount namespace of its own."""
    script = f"mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec {sys.executable} -c '{FILL}' {tmp_path}"
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")

    done = subprocess.run([*unshare, script], check=False, capture_output=True, text=True)

    assert "StorageFull" in done.stderr
    assert "no space left on device. Free space and run again." in done.stderr


FILL = """
import asyncio, sys
from rephrase_runner.store import Store
asyncio.run(Store(sys.argv[1]).put_new("name", b"x" * 100_000))
"""
