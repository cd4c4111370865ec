"""A driver's last steps: nothing is waited for that has happened already."""

import asyncio
import json
from pathlib import Path

import pytest

from rephrase_api.launch import DriverLaunch, WorkerLaunch
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_runner.driver import Driver, Pace
from rephrase_runner.preflight import Mounted
from rephrase_runner.processes import run_driver, run_worker
from support.corpora import rows, write_parquet
from support.manifests import a_manifest
from support.waiting import eventually

A_TICK_TOO_LONG = Pace(tick=3600)


@pytest.mark.usefixtures("own_logging")
async def test_a_driver_that_sees_the_last_commit_publishes_and_ends_at_once(
    tmp_path: Path,
) -> None:
    write_parquet(tmp_path / "source" / "part-0.parquet", rows(40))
    manifest = a_manifest(
        source={"uri": str(tmp_path / "source"), "unit": {"targetDocuments": 10}},
        output={"uri": str(tmp_path / "output")},
    )
    launch = DriverLaunch(run="test", manifest=json.dumps(manifest))
    stop = asyncio.Event()
    first = asyncio.ensure_future(run_driver(launch, stop))
    await eventually(lambda: list(tmp_path.glob("output/_run/*/plan.json")), "the run is planned")
    stop.set()
    await asyncio.wait([first])
    await run_worker(WorkerLaunch(run="test", output_uri=str(tmp_path / "output")), asyncio.Event())
    driver = Driver(
        RephraseRun.from_api(manifest).spec,
        run="other",
        pace=A_TICK_TOO_LONG,
        engine_here=True,
        mounted=Mounted(),
    )

    async with asyncio.timeout(60):
        found = await driver.run()

    assert found.documents == 40
    assert (tmp_path / "output" / "_run" / "manifest.json").exists()
