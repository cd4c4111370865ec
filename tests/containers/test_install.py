"""README's way to a cluster, line by line, with real images on a genuine node of a locked-down cluster.

All of it is one story: images, chart, first run, on the way one worker that runs out of memory and one whose
node is drained. What each container may do and what it has written is looked at while it runs and at the end.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rephrase_api import names
from rephrase_api.v1alpha1.conditions import ConditionType
from support import corpora
from support.cluster.builders import a_namespace, condition
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.containers.confinement import Container, containers, excess_of, files_below
from support.containers.images import Builder
from support.containers.machine import HERE, Machine
from support.containers.node import GenuineNode
from support.containers.registry import Registry
from support.helm import helm, kubectl
from support.pages import commands
from support.s3 import S3, SeaweedFS
from support.waiting import wait_until

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
RUN, NAMESPACE, BUCKET = "quickstart-cluster", "rephrase", "rephrase-quickstart"
DOCUMENTS = 3_000
_SHARED = "/dev/shm"  # noqa: S108 - in a container, where the runtime makes it
RESTRICTED = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: restricted, enforce-version: latest}
"""


@dataclass
class Cluster:
    """A cluster of one genuine node, and what a user has at hand."""

    client: Client
    machine: Machine
    node: GenuineNode
    store: S3
    environment: dict[str, str]

    def sh(self, command: str, *, seconds: int = 600) -> str:
        """What a command of the shell says.

        Raises:
            AssertionError: it fails.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT, env=os.environ | self.environment, timeout=seconds,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def run(self) -> dict[str, Any]:
        return self.client.in_namespace(NAMESPACE).get("rephraseruns", RUN)

    def workers(self) -> list[dict[str, Any]]:
        """Pods of workers that are ready: they answer."""
        labels = names.worker_selector(RUN)
        found = self.client.in_namespace(NAMESPACE).list("pods", labels=labels)
        there = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in there if pod["status"]["phase"] == "Running"]


@pytest.fixture
def cluster(tmp_path: Path, builder: Builder) -> Iterator[Cluster]:
    config = tmp_path / "admission.yaml"
    config.write_text(RESTRICTED)
    flags = {"kube-apiserver": {
        "enable-admission-plugins": "NodeRestriction",
        "admission-control-config-file": config,
    }}  # fmt: skip
    (tmp_path / "store").mkdir()
    with (
        Machine(tmp_path / "machine") as machine,
        Registry(tmp_path / "registry", HERE) as registry,
        SeaweedFS(tmp_path / "store", HERE) as store,
        ControlPlane(tmp_path / "plane", address=HERE, flags=flags) as plane,
        GenuineNode(plane, machine, registry.host) as node,
    ):
        builder.make_pause(registry.host)
        s3 = S3(store.endpoint, BUCKET, "source")
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, program in (("helm", helm()), ("kubectl", kubectl())):
            (programs / name).symlink_to(str(program))
        environment = builder.environment() | s3.env | {
            "KUBECONFIG": str(plane.kubeconfig),
            "HELM_CACHE_HOME": str(tmp_path / "helm"),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "REGISTRY": f"{registry.host}/rephrase",
        }  # fmt: skip
        cluster = Cluster(plane.client(), machine, node, s3, environment)
        fill(cluster, tmp_path)
        yield cluster


def fill(cluster: Cluster, folder: Path) -> None:
    """A bucket with documents, and a name in the cluster for the server that has it."""
    source = folder / "docs.parquet"
    corpora.write_parquet(source, corpora.rows(DOCUMENTS))
    store = cluster.store.client()
    store.create_bucket(Bucket=BUCKET)
    store.upload_file(Filename=str(source), Bucket=BUCKET, Key="source/docs.parquet")
    cluster.client.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "storage"}}
    )
    inside = cluster.client.in_namespace("storage")
    inside.create({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3"},
        "spec": {"ports": [{"name": "s3", "port": 8333}]},
    })  # fmt: skip
    inside.create({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s3", "labels": {"kubernetes.io/service-name": "s3"}},
        "endpoints": [{"addresses": [HERE]}],
        "ports": [{"name": "s3", "port": int(cluster.store.endpoint.rsplit(":", 1)[1])}],
    })  # fmt: skip


@pytest.mark.timeout(1200)
def test_readme_installs_it_and_a_run_completes_though_one_worker_is_oom_killed_and_one_drained(
    cluster: Cluster,
) -> None:
    first, *lines = commands("README.md", "On a cluster")
    # the one thing that is a user's own
    assert first == "export REGISTRY=registry.example.com/rephrase"
    said = {}
    for line in lines:
        said[line] = cluster.sh(line)
        if line.startswith("helm"):
            cluster.sh("helm test rephrase-operator -n rephrase-system")
        if line.startswith("kubectl apply"):
            run_out_of_memory(cluster)
            drain(cluster)
            nothing_is_allowed_or_written(cluster)

    (logs,) = (text for line, text in said.items() if line.startswith("kubectl logs"))
    the_logs_are_as_told(cluster, logs)
    nothing_is_allowed_or_written(cluster)
    run = cluster.run()
    assert condition(run, ConditionType.COMPLETE)["status"] == "True"
    done = run["status"]["progress"]["samples"]
    assert done["written"] == DOCUMENTS * 4, done
    verified = cluster.sh(
        f".venv/bin/rephrase verify s3://{BUCKET}/output --endpoint {cluster.store.endpoint}"
        " --region us-east-1 --allow-http"
    )
    assert verified.startswith(f"s3://{BUCKET}/output: sound; ")
    who_writes_and_may_write_is_found_out(cluster)


def run_out_of_memory(cluster: Cluster) -> None:
    """Fill the memory of a worker's container until the kernel kills its largest process, the worker."""
    pod = at_work(cluster)
    fill_up = "exec dd if=/dev/zero of=/dev/shm/fill bs=1M"
    subprocess.run(
        ["bash", "-c", f"kubectl exec --namespace {NAMESPACE} {pod} -- sh -c '{fill_up}'"],
        env=os.environ | cluster.environment, capture_output=True, check=False, timeout=120,
    )  # fmt: skip

    def told() -> list[dict[str, Any]]:
        failures = cluster.run()["status"].get("recentFailures") or []
        return [one for one in failures if pod.startswith(one["worker"])]

    (failure,) = wait_until(told, "the failure is told", within=60)
    assert failure["reason"] == "OOMKilled", failure


def drain(cluster: Cluster) -> None:
    """Drain the node of one worker, as whoever repairs machines does."""
    pod = at_work(cluster)
    slot = cluster.client.in_namespace(NAMESPACE).get("pods", pod)["metadata"]["labels"][
        names.SLOT_LABEL
    ]
    who = f"{names.ROLE_LABEL}={names.WORKER},{names.SLOT_LABEL}={slot}"
    cluster.sh(
        f"kubectl drain {cluster.node.name} --delete-emptydir-data --pod-selector '{who}' --timeout 120s"
    )
    cluster.sh(f"kubectl uncordon {cluster.node.name}")
    wait_until(lambda: len(cluster.workers()) == 2, "both workers run", within=120)


def at_work(cluster: Cluster) -> str:
    """Name of a worker's pod, once two run and the last one has done something."""

    def two() -> list[dict[str, Any]]:
        found = cluster.workers()
        return found if len(found) == 2 else []

    pods = wait_until(two, "two workers run", within=180)
    before = committed(cluster)
    wait_until(lambda: committed(cluster) > before, "units are committed", within=120)
    return str(pods[-1]["metadata"]["name"])


def committed(cluster: Cluster) -> int:
    progress = (cluster.run().get("status") or {}).get("progress") or {}
    return int((progress.get("units") or {}).get("committed", 0))


def nothing_is_allowed_or_written(cluster: Cluster) -> None:
    """The kernel's word on each container."""
    pods = {pod["metadata"]["name"]: pod for pod in cluster.client.in_namespace(None).list("pods")}
    seen = set()
    for found in containers(cluster.node, cluster.machine):
        if found.pod not in pods:
            continue
        spec = pods[found.pod]["spec"]
        seen.add(found.name)
        assert found.written == frozenset(), f"{found.pod} wrote to its root"
        if not found.pid:
            continue
        (container,) = spec["containers"]
        empty = {volume["name"] for volume in spec.get("volumes", []) if "emptyDir" in volume}
        places = {
            mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in empty
        }
        assert excess_of(cluster.machine, found, places) == [], found.pod
        if _SHARED not in places:
            assert files_below(cluster.machine, found, _SHARED) == []
    assert seen >= {"operator", names.DRIVER, names.WORKER}


def who_writes_and_may_write_is_found_out(cluster: Cluster) -> None:
    """The look at a container has teeth: here is one that is not ours and keeps no rule."""
    cluster.client.create(a_namespace("lax", security="privileged"))
    lax = cluster.client.in_namespace("lax")
    lax.wait_for("serviceaccounts", "default", bool, "it is there")
    lax.create({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lax"},
        "spec": {"containers": [{
            "name": "lax", "image": f"{cluster.environment['REGISTRY']}/driver:{version('rephrase')}",
            "securityContext": {"runAsUser": 0},
            "command": ["sh", "-c", "touch /srv/written && exec sleep infinity"],
        }]},
    })  # fmt: skip

    def wrote() -> list[Container]:
        found = [one for one in containers(cluster.node, cluster.machine) if one.pod == "lax"]
        return [one for one in found if one.pid and "/srv/written" in one.written]

    (found,) = wait_until(wrote, "what it wrote is found", within=60)
    excess = " ".join(excess_of(cluster.machine, found, set()))
    for word in ("Uid is 0", "CapEff is", "NoNewPrivs is 0", "Seccomp is 0", "/ may be written"):
        assert word in excess, excess


def the_logs_are_as_told(cluster: Cluster, text: str) -> None:
    """Lines of `kubectl logs --prefix`: the container, then an object as docs/metrics.md tells."""
    entries = [json.loads(line.partition("] ")[2]) for line in text.splitlines()]
    operator = cluster.sh("kubectl logs -n rephrase-system deploy/rephrase-operator --tail=-1")
    looks = [json.loads(line) for line in operator.splitlines()]
    for message, among in (("unit committed", entries), ("looked", looks)):
        found = [entry for entry in among if entry["message"] == message]
        assert found, message
        assert all(told_fields(message) <= entry.keys() for entry in found), found[0]
    assert {entry["run"] for entry in entries} == {RUN}
    assert {"run planned", "engine ready"} <= {entry["message"] for entry in entries}
    assert corpora.a_text(1)[:30] not in text


def told_fields(message: str) -> set[str]:
    """Fields that the document has for a line of a log."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{message}` |")]
    return set(re.findall(r"`(\w+)`", row.split("|")[3]))
