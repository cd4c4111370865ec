"""The operator's doors against an API server and drivers that answer by script."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from rephrase_api.progress import Progress, Units
from rephrase_operator.cluster import (
    MOST_AT_ONCE,
    Cluster,
    ComingAndGoing,
    Gone,
    NameTaken,
    Outdated,
    Refused,
)
from rephrase_operator.driver_client import DriverClient
from support.loopback import Answer, answering
from support.waiting import eventually

Connect = Callable[[Answer], AbstractAsyncContextManager[Cluster]]
JOB: dict[str, Any] = {
    "metadata": {"namespace": "here", "name": "run-driver", "ownerReferences": [{"uid": "ours"}]}
}
RUN: dict[str, Any] = {
    "apiVersion": "rephrase.io/v1alpha1",
    "kind": "RephraseRun",
    "metadata": {
        "namespace": "here",
        "name": "run",
        "uid": "run-uid",
        "resourceVersion": "1",
        "generation": 1,
    },
    "status": {"phase": "Pending"},
}


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A connection to an API server that answers by script."""

    @asynccontextmanager
    async def connect(answer: Answer) -> AsyncIterator[Cluster]:
        async with answering(answer) as (host, port):
            config = tmp_path / "kubeconfig"
            config.write_text(
                yaml.safe_dump(
                    {
                        "current-context": "c",
                        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
                        "users": [{"name": "u", "user": {"token": "t"}}],
                    }
                )
            )
            monkeypatch.setenv("KUBECONFIG", str(config))
            monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
            cluster = Cluster()
            await cluster.open()
            try:
                yield cluster
            finally:
                await cluster.close()

    return connect


def conflict(found: dict[str, Any]) -> Answer:
    """409 to a create, and this object to whoever reads it then."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.json_response({"message": "already exists"}, status=409)
        return web.json_response({"metadata": found})

    return answer


def always(response: Callable[[], web.Response]) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return response()

    return answer


async def test_a_job_of_ours_that_is_there_already_is_as_good_as_made(connected: Connect) -> None:
    there = {"uid": "first", "ownerReferences": [{"uid": "ours"}]}
    async with connected(conflict(there)) as cluster:
        found = await cluster.create_job(JOB)

    assert found["metadata"] == there


async def test_a_job_of_another_owner_is_named(connected: Connect) -> None:
    async with connected(conflict({"ownerReferences": [{"uid": "theirs"}]})) as cluster:
        with pytest.raises(NameTaken, match="here/run-driver belongs to somebody else"):
            await cluster.create_job(JOB)


async def test_a_job_that_is_being_deleted_is_made_later(connected: Connect) -> None:
    leaving = {"ownerReferences": [{"uid": "ours"}], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    async with connected(conflict(leaving)) as cluster:
        with pytest.raises(ComingAndGoing):
            await cluster.create_job(JOB)


@pytest.mark.parametrize("code", [404, 409])
async def test_deleting_what_is_gone_or_another_by_now_is_fine(
    connected: Connect, code: int
) -> None:
    async with connected(always(lambda: web.json_response({}, status=code))) as cluster:
        await cluster.delete_job("here", "run-driver", "uid")


async def test_a_job_that_is_gone_or_another_by_now_is_none(connected: Connect) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/gone"):
            return web.json_response({}, status=404)
        return web.json_response({"metadata": {"name": "run-w000-1", "uid": "its-own"}})

    async with connected(answer) as cluster:
        wanted = {"its-own": "run-w000-1", "of-the-last": "run-w000-1", "its-end": "gone"}
        found = await cluster.get_jobs("here", "run", wanted)

    assert found == {
        "its-own": {"metadata": {"name": "run-w000-1", "uid": "its-own"}},
        "of-the-last": None,
        "its-end": None,
    }


async def test_a_job_is_deleted_with_its_pods_and_only_that_very_job(connected: Connect) -> None:
    bodies: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({})

    async with connected(answer) as cluster:
        await cluster.delete_job("here", "run-driver", "uid")

    assert [(body["propagationPolicy"], body["preconditions"]) for body in bodies] == [
        ("Background", {"uid": "uid"})
    ]


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (lambda: web.json_response({"message": "quota"}, status=403), 403, "quota"),
        (lambda: web.Response(text="<html>", status=502), 502, "no JSON"),
    ],
)
async def test_what_the_api_server_or_a_balancer_says_is_told(
    connected: Connect, response: Callable[[], web.Response], code: int, words: str
) -> None:
    async with connected(always(response)) as cluster:
        with pytest.raises(Refused, match=words) as refused:
            await cluster.create_job(JOB)

    assert refused.value.code == code


async def hung_up(request: web.Request) -> web.Response:
    """The connection is cut before there is an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def test_each_answer_is_counted_by_method_and_status_and_silence_too(
    connected: Connect,
) -> None:
    counted: list[tuple[str, int]] = []
    for answer in (conflict({"uid": "theirs"}), hung_up):
        async with connected(answer) as cluster:
            cluster.answered = lambda method, code: counted.append((method, code))
            with pytest.raises((NameTaken, Refused)):
                await cluster.create_job(JOB)

    assert counted == [("POST", 409), ("GET", 200), ("POST", 0)]


async def test_a_connection_that_is_cut_is_no_answer(connected: Connect) -> None:
    async with connected(hung_up) as cluster:
        with pytest.raises(Refused, match="does not answer") as refused:
            await cluster.patch_status(RUN, {"phase": "Running"})

    assert refused.value.code == 0
    assert not refused.value.for_good


def another(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - values of an object
    """The run as somebody else has made it: `metadata` and `status` changed."""
    meta = RUN["metadata"] | {"resourceVersion": "2"} | changes.get("metadata", {})
    return RUN | {"metadata": meta, "status": changes.get("status", RUN["status"])}


def only_at(version: str, now: dict[str, Any], written: list[dict[str, Any]]) -> Answer:
    """Patches what is at this version, and shows what is there `now`; what is written is kept."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(now)
        body = await request.json()
        if body["metadata"]["resourceVersion"] != version:
            return web.json_response({"message": "the object has been modified"}, status=409)
        written.append(body["status"])
        return web.json_response(now | {"status": body["status"]})

    return answer


async def test_a_status_is_written_if_only_the_metadata_has_changed(connected: Connect) -> None:
    written: list[dict[str, Any]] = []
    async with connected(only_at("2", another(), written)) as cluster:
        latest = await cluster.patch_status(RUN, {"phase": "Running"})

    assert written == [{"phase": "Running"}]
    assert latest["status"] == {"phase": "Running"}


@pytest.mark.parametrize(
    "changes", [{"status": {"phase": "Failed"}}, {"metadata": {"generation": 2}}]
)
async def test_a_status_of_what_has_changed_is_not_written(
    connected: Connect, changes: dict[str, Any]
) -> None:
    written: list[dict[str, Any]] = []
    now = another(**changes)
    async with connected(only_at("2", now, written)) as cluster:
        with pytest.raises(Outdated) as outdated:
            await cluster.patch_status(RUN, {"phase": "Running"})

    assert outdated.value.latest == now
    assert written == []


async def test_a_status_is_not_written_to_a_namesake(connected: Connect) -> None:
    written: list[dict[str, Any]] = []
    async with connected(only_at("2", another(metadata={"uid": "other"}), written)) as cluster:
        with pytest.raises(Gone):
            await cluster.patch_status(RUN, {"phase": "Running"})

    assert written == []


async def test_nothing_is_asked_while_the_api_server_has_asked_to_wait(connected: Connect) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        if len(asked) > 1:
            return web.json_response(RUN)
        return web.json_response({"message": "busy"}, status=429, headers={"Retry-After": "1"})

    async with connected(answer) as cluster:
        for _ in range(3):
            with pytest.raises(Refused):
                await cluster.get_run("here", "run", "run-uid")
        early = len(asked)

        async def answered() -> bool:
            with suppress(Refused):
                return bool(await cluster.get_run("here", "run", "run-uid"))
            return False

        await eventually(answered, "it is asked again")

    assert early == 1
    assert len(asked) == 2


async def test_requests_that_wait_for_their_turn_are_not_sent_after_it_has_asked_to_wait(
    connected: Connect,
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"message": "busy"}, status=429, headers={"Retry-After": "60"})

    async with connected(answer) as cluster:
        runs = (cluster.get_run("here", f"run-{number}", "uid") for number in range(100))
        told = await asyncio.gather(*runs, return_exceptions=True)

    assert all(isinstance(one, Refused) for one in told)
    assert len(asked) <= MOST_AT_ONCE


@pytest.mark.parametrize(("jobs", "requests"), [(3, 3), (1000, 1)])
async def test_jobs_are_read_with_few_requests_however_many_they_are(
    connected: Connect, jobs: int, requests: int
) -> None:
    wanted = {f"uid-{slot}": f"run-w{slot}" for slot in range(jobs)}
    there = {
        name: {"metadata": {"name": name, "uid": uid}}
        for uid, name in wanted.items()
        if uid != "uid-1"
    }
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        if request.path.endswith("/jobs"):
            return web.json_response({"items": list(there.values())})
        found = there.get(request.path.rpartition("/")[2])
        return web.json_response(found or {}, status=200 if found else 404)

    async with connected(answer) as cluster:
        found = await cluster.get_jobs("here", "run", wanted)

    assert found == {uid: there.get(name) for uid, name in wanted.items()}
    assert len(asked) == requests
    assert jobs == 3 or asked[0].query["labelSelector"] == "rephrase.io/run=run"


async def test_that_a_namespace_ends_is_no_fault_of_a_job(connected: Connect) -> None:
    ends = {"message": "it ends", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    async with connected(always(lambda: web.json_response(ends, status=403))) as cluster:
        ending = await cluster.is_ending("here", JOB)
        with pytest.raises(Refused) as refused:
            await cluster.create_job(JOB)

    assert ending
    assert not refused.value.for_good


async def test_events_are_not_asked_for_again_where_they_may_not_be_read(
    connected: Connect,
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"message": "no"}, status=403)

    async with connected(answer) as cluster:
        told = [await cluster.warnings_of("here", "uid") for _ in range(2)]

    assert told == [[], []]
    assert len(asked) == 1


async def test_warnings_are_told_oldest_first(connected: Connect) -> None:
    items = [
        {
            "metadata": {},
            "lastTimestamp": "2026-01-01T00:00:01Z",
            "message": "middle",
            "reason": "R",
        },
        {"metadata": {}, "lastTimestamp": "2026-01-01T00:00:02Z", "message": "last"},
        {"metadata": {}, "eventTime": "2026-01-01T00:00:00Z", "message": "first"},
    ]
    async with connected(always(lambda: web.json_response({"items": items}))) as cluster:
        told = await cluster.warnings_of("here", "uid")

    assert told == [("", "first"), ("R", "middle"), ("", "last")]


@asynccontextmanager
async def driver(answer: Answer) -> AsyncIterator[Progress | None]:
    """What the operator takes from a driver that answers so."""
    client = DriverClient()
    await client.open()
    try:
        async with answering(answer) as (host, port):
            yield await client.progress(host, port)
    finally:
        await client.close()


async def test_a_drivers_word_is_read() -> None:
    told = Progress(phase="Running", units=Units(planned=7, committed=3))
    body = told.model_dump_json(by_alias=True)
    async with driver(always(lambda: web.Response(text=body))) as found:
        assert found == told


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(text="not JSON"),
        lambda: web.Response(text='{"units": {"planned": -1}}'),
        lambda: web.Response(text='{"schemaVersion": 2}'),
        lambda: web.Response(status=500),
        lambda: web.Response(status=302, headers={"Location": "http://169.254.169.254/"}),
        lambda: web.Response(body=b" " * ((1 << 20) + 1)),
        lambda: web.Response(text=json.dumps({"lastProgressTime": "2026-01-01T00:00:00"})),
    ],
    ids=["text", "negative", "version", "error", "redirect", "huge", "no zone"],
)
async def test_what_no_driver_says_is_not_taken(response: Callable[[], web.Response]) -> None:
    async with driver(always(response)) as found:
        assert found is None


async def test_nobody_there_is_no_answer() -> None:
    client = DriverClient()
    await client.open()
    assert await client.progress("127.0.0.1", 1) is None
    await client.close()
