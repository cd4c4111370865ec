"""A worker that is asked to end does so within seconds, whatever it is doing and whatever the store does."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rephrase_api.errors import ExitCode
from rephrase_api.launch import WorkerLaunch
from rephrase_api.v1alpha1.shared import Storage
from rephrase_runner.parts import decode
from support.corpora import rows, write_parquet
from support.faulty_proxy import faulty_proxy, swallowing
from support.fleet import ON_A_FOLDER, ON_S3, Fleet, Member, look_at, read_all
from support.laptop import Laptop
from support.manifests import BRIEF, a_manifest, echo
from support.s3 import S3
from support.scripted_s3 import Fault, scripted_s3
from support.waiting import eventually

logger = logging.getLogger(__name__)
IN_FLIGHT = 256
DRAIN_SECONDS = 10
"""Kubernetes gives 30 s, a spot machine of GKE 15."""
LATENCY = 2.0
"""Mean seconds until an answer: the first come after half of it, when all the others are in flight."""


def slow_run(laptop: Laptop, **spec: Any) -> None:  # noqa: ANN401
    """One unit of many documents."""
    write_parquet(laptop.source / "part-0.parquet", rows(2_000))
    base = {
        "source": {"unit": {"targetDocuments": 2_000}},
        "prompts": [BRIEF],
        "model": echo(concurrency=IN_FLIGHT, latency=LATENCY),
    }
    laptop.write(a_manifest(**base | spec))


@asynccontextmanager
async def busy(fleet: Fleet) -> AsyncIterator[Member]:
    """A worker that has as many requests in flight as its engine takes."""
    async with fleet:
        await eventually(lambda: fleet.working("worker"), "a worker was started")
        await eventually(lambda: has_in_flight(fleet, IN_FLIGHT), "it is busy", within=60)
        (worker,) = fleet.working("worker")
        yield worker


async def has_in_flight(fleet: Fleet, count: int) -> bool:
    """Whether a worker said that its engine has so many requests."""
    ledger = await fleet.ledger()
    return ledger is not None and any(b.running >= count for b in await fleet.heartbeats())


async def has_finished(fleet: Fleet) -> bool:
    """Whether there is something to lose."""
    return any(beat.samples for beat in await fleet.heartbeats())


async def drained(fleet: Fleet, worker: Member) -> float:
    """Seconds that the worker took to end after it was asked to."""
    await eventually(
        lambda: any(member is worker for member, _ in fleet.ended), "the worker ends", within=60
    )
    (code,) = (code for member, code in fleet.ended if member is worker)
    assert code == ExitCode.DRAINED, worker.last_lines
    logger.info("drained in %.1f s", fleet.drain_seconds[-1])
    return fleet.drain_seconds[-1]


async def checkpointed(fleet: Fleet) -> int:
    """Samples in checkpoints."""
    ledger = await fleet.the_ledger()
    found = await read_all(fleet.store, f"{ledger.names.folder}/checkpoints")
    return sum(len(decode(data)[1]) for data in found)


@pytest.mark.parametrize("signals", [1, 2], ids=["once", "twice"])
async def test_a_busy_worker_that_is_asked_to_end_saves_what_is_finished_within_seconds(
    laptop: Laptop, signals: int
) -> None:
    slow_run(laptop)
    clocks = {**ON_A_FOLDER, "checkpoint_seconds": 600}
    fleet = Fleet(laptop, clocks=clocks)

    async with busy(fleet) as worker:
        await eventually(lambda: has_finished(fleet), "some documents are finished")
        for _ in range(signals):
            worker.signal(signal.SIGTERM)
        seconds = await drained(fleet, worker)
        beats = [beat for beat in await fleet.heartbeats() if beat.state == "gone"]

        assert seconds < DRAIN_SECONDS
        assert [beat.holds for beat in beats] == [()]
        assert 0 < beats[0].samples == beats[0].samples_checkpointed
        assert await checkpointed(fleet) == beats[0].samples


async def test_a_worker_whose_time_to_stop_has_come_saves_what_is_finished(laptop: Laptop) -> None:
    slow_run(laptop)
    told = laptop.folder / "stop-at"
    told.write_text("2999-01-01T00:00:00+00:00")
    fleet = Fleet(
        laptop, clocks={**ON_A_FOLDER, "checkpoint_seconds": 600, "stop_at_file": str(told)}
    )

    async with busy(fleet) as worker:
        await eventually(lambda: has_finished(fleet), "some documents are finished")
        told.write_text("2026-01-01T00:00:00+00:00")
        await eventually(
            lambda: any(member is worker for member, _ in fleet.ended), "it ends", within=60
        )
        codes = [code for member, code in fleet.ended if member is worker]

        assert codes == [ExitCode.DRAINED]
        assert await checkpointed(fleet) > 0
        await eventually(  # another would not begin
            lambda: sum(code == ExitCode.DRAINED for _, code in fleet.ended) > 1, "so does the next"
        )


async def test_a_worker_whose_store_hangs_ends_within_seconds_too(laptop: Laptop, s3: S3) -> None:
    async with faulty_proxy(s3.endpoint) as proxy:
        behind = S3(proxy.endpoint, s3.bucket, s3.prefix)
        output = {"uri": s3.uri("output"), "storage": behind.storage}
        slow_run(laptop, output=output)
        fleet = Fleet(
            laptop,
            clocks={**ON_S3, "checkpoint_seconds": 600},
            store=look_at(s3.uri("output"), s3.storage),
            environment=behind.env,
        )

        async with busy(fleet) as worker:
            await eventually(lambda: has_finished(fleet), "some documents are finished")
            proxy.weather = swallowing("PUT", "GET", "HEAD", "LIST", "DELETE")
            worker.signal(signal.SIGTERM)

            assert await drained(fleet, worker) < DRAIN_SECONDS


async def test_a_worker_that_cannot_read_the_ledger_yet_ends_within_seconds_too(
    tmp_path: Path,
) -> None:
    async with scripted_s3() as server:
        server.faults = [Fault("GET", "hang", effect=False, times=100)]
        place = {"endpoint": server.endpoint, "region": "us-east-1", "allowHTTP": True}
        launch = WorkerLaunch(
            run="test",
            output_uri="s3://bucket/output",
            output_storage=Storage.from_api(place),
        )
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        worker = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("rephrase")),
            "worker",
            env=os.environ | keys | launch.to_environment(),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await eventually(lambda: server.count("GET"), "it asks for the ledger", within=60)
        began = time.monotonic()
        worker.terminate()
        code = await worker.wait()

    assert code == ExitCode.DRAINED
    assert time.monotonic() - began < DRAIN_SECONDS
