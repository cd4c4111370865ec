"""Runs on machines that a genuine autoscaler makes, runs out of, takes back and removes."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from support.cluster.builders import a_container, a_job, condition, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.diary import Diary
from support.cluster.karpenter import CAPACITY, ON_DEMAND, SPOT, TAINT, Karpenter
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.namespaces import own_namespace
from support.cluster.wire import Object
from support.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(900), pytest.mark.needs("nodes", "helm")]
TOLERATES = [{"key": TAINT, "operator": "Exists", "effect": "NoSchedule"}]
WORKS = """
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
threading.Event().wait()
"""
POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own: Karpenter makes a machine for every pod that has none."""
    with ControlPlane(tmp_path_factory.mktemp("karpenter") / "plane") as plane:
        yield plane


@pytest.fixture(scope="module")
def kubelet(plane: ControlPlane) -> Iterator[Kubelet]:
    """One with a node that no worker fits on, for drivers."""
    with Kubelet(plane.client(), plane.folder / "kubelet") as kubelet:
        kubelet.add_node("cpu")
        yield kubelet


@pytest.fixture(scope="module")
def karpenter(plane: ControlPlane, kubelet: Kubelet) -> Iterator[Karpenter]:
    """The autoscaler."""
    with Karpenter(plane.client(), kubelet, plane.folder / "karpenter") as karpenter:
        yield karpenter


@pytest.fixture
def namespace(
    plane: ControlPlane, karpenter: Karpenter, kubelet: Kubelet, request: pytest.FixtureRequest
) -> Iterator[Client]:
    """A namespace in a cluster without machines and with all in stock, before the test and after it."""
    with own_namespace(plane.client(), request.node.name) as client:
        yield client
    karpenter.restock(SPOT, ON_DEMAND)
    wait_until(lambda: not karpenter.nodes(), "the machines are gone", within=120)
    errors, kubelet.errors[:] = list(kubelet.errors), []
    assert errors == [], "the kubelet itself made a mistake"


@pytest.fixture
def diary(namespace: Client, request: pytest.FixtureRequest) -> Diary:
    """Says what happens when, with the events of the namespace."""
    return Diary(namespace, request.node.name)


# -- the autoscaler itself ------------------------------------------------------------------------


def a_gpu_job(capacity: str, **spec: Any) -> Object:  # noqa: ANN401 - fields of a Job's spec
    gpu = {"limits": {TAINT: "1"}}
    container = a_container([sys.executable, "-c", WORKS], resources=gpu)
    place = {"nodeSelector": {CAPACITY: capacity}, "tolerations": TOLERATES}
    return a_job("gpu", container, place, podFailurePolicy=POLICY, **spec)


def pods(namespace: Client) -> list[Object]:
    return namespace.list("pods", labels="job-name=gpu")


def ready_pod(namespace: Client, *, but: str = "", within: float = 60) -> Object:
    """The ready pod of the Job that has not this uid."""

    def found() -> Object | None:
        ready = (pod for pod in pods(namespace) if holds(pod, "Ready"))
        return next((pod for pod in ready if pod["metadata"]["uid"] != but), None)

    return wait_until(found, "a pod runs", within=within)


def says_ready(kubelet: Kubelet, pod: Object) -> bool:
    metadata = pod["metadata"]
    return "ready" in kubelet.log_of(metadata["namespace"], metadata["name"])


def test_a_job_gets_a_machine_which_goes_when_the_job_is_deleted(
    namespace: Client, karpenter: Karpenter, diary: Diary
) -> None:
    namespace.create(a_gpu_job(SPOT))
    diary.note("Job created")

    pod = ready_pod(namespace)
    diary.note("its pod runs")
    (node,) = karpenter.nodes(SPOT)
    namespace.delete("jobs", "gpu")
    diary.note("Job deleted")
    wait_until(lambda: not karpenter.nodes(), "the machine is gone", within=120)
    diary.note("the machine is gone")

    assert pod["spec"]["nodeName"] == node["metadata"]["name"]
    assert node["status"]["allocatable"][TAINT] == "1"
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "gpu-1"


def test_a_stock_out_is_told_to_the_pod_and_ends_with_it(
    namespace: Client, karpenter: Karpenter, diary: Diary
) -> None:
    karpenter.stock_out(SPOT)
    namespace.create(a_gpu_job(SPOT))
    diary.note("Job created while spot is out of stock")

    fields = "reason=InsufficientCapacityError"
    (event,) = wait_until(lambda: namespace.list("events", fields=fields), "the pod is told")
    diary.note("the pod is told")
    told = wait_until(partial(not_schedulable, namespace), "there is nothing to try", within=60)
    diary.note("Karpenter has nothing to try")
    waiting, nodes = pods(namespace), karpenter.nodes()
    karpenter.restock(SPOT)
    diary.note("restocked")
    ready_pod(namespace, within=90)
    diary.note("its pod runs")

    assert event["source"]["component"] == "karpenter"
    assert "no capacity is left for gpu-1/test-zone-a/spot" in event["message"]
    assert told["message"].startswith("Failed to schedule pod")
    assert [condition(pod, "PodScheduled")["reason"] for pod in waiting] == ["Unschedulable"]
    assert nodes == []


def not_schedulable(namespace: Client) -> Object | None:
    """Karpenter's event that there is nothing to try; the scheduler's have the same reason."""
    events = namespace.list("events", fields="reason=FailedScheduling")
    return next((one for one in events if one["source"].get("component") == "karpenter"), None)


def test_an_interrupted_machine_s_pod_is_evicted_and_not_counted(
    namespace: Client, karpenter: Karpenter, kubelet: Kubelet, diary: Diary
) -> None:
    namespace.create(a_gpu_job(SPOT))
    pod = ready_pod(namespace)
    wait_until(partial(says_ready, kubelet, pod), "it says so")
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    diary.note("its pod runs")

    karpenter.interrupt(node)
    diary.note("interrupted")
    gone = namespace.wait_for(
        "pods", name, lambda pod: pod["status"]["phase"] == "Failed", "it ends", within=60
    )
    diary.note("its pod has ended")
    other = ready_pod(namespace, but=pod["metadata"]["uid"], within=90)
    diary.note("another runs")

    assert condition(gone, "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"
    assert gone["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 75
    assert other["spec"]["nodeName"] != node
    assert "failed" not in namespace.get("jobs", "gpu")["status"]
