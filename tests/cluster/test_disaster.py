"""All is gone but the bucket: docs/operations.md says what to do then, and this does it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.cluster.builders import a_namespace
from support.cluster.control_plane import ControlPlane
from support.cluster.installed import installed
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Shape
from support.cluster.runs import QUICK, SLOW, Runs
from support.s3 import BUCKET, S3

GPUS = {"pools": [{"name": "gpus", "gpu": {"count": 1}, "pricePerGPUHour": "1.50"}]}


@contextmanager
def a_cluster(folder: Path, s3: S3) -> Iterator[Runs]:
    """A new cluster with the operator and a namespace for runs; it ends as if its power were cut."""
    folder.mkdir()
    with ExitStack() as stack:
        client = stack.enter_context(ControlPlane(folder / "plane")).client()
        kubelet = stack.enter_context(Kubelet(client, folder / "kubelet"))
        client.create(a_namespace("team"))
        stack.enter_context(installed(client, kubelet))
        kubelet.add_node("gpus", Shape(cpu="8", gpus=2))
        yield Runs(client.in_namespace("team"), s3, folder)


@pytest.mark.full
def test_a_run_goes_on_in_another_cluster_when_all_but_its_bucket_is_gone(
    seaweedfs: str, tmp_path: Path
) -> None:
    s3 = S3(seaweedfs, BUCKET, "disaster")
    with a_cluster(tmp_path / "first", s3) as runs:
        runs.apply(model=SLOW, workers=GPUS)
        runs.wait_committed(3)

    with a_cluster(tmp_path / "second", s3) as runs:
        runs.apply(model=SLOW, workers=GPUS)
        first_seen = runs.wait_committed(1)["status"]
        runs.namespace.patch("rephraseruns", "test", QUICK)
        status = runs.complete()["status"]
        verified = runs.verify()

    assert first_seen["progress"]["units"]["committed"] >= 3
    assert status["progress"]["samples"]["written"] == 600
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert (
        status["inheritedGPUSeconds"] > 0
    )  # what the first cluster used, and this one does not pay for
    assert (status["disruptions"], status["workerFailures"]) == (0, 0)
