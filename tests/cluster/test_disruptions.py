"""What befalls nodes and pods in a cloud, as the control plane and the Job controller see it."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.cluster.builders import a_container, a_job, a_pod, condition, holds
from support.cluster.client import Client
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.wire import Object
from support.waiting import wait_until

AddNode = Callable[..., Node]
Start = Callable[[Object], Object]

WORKS = """
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
threading.Event().wait()
"""
POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": "main", "operator": "In", "values": [75]},
        },
    ]
}
LEAVES_SOON = [
    {
        "key": f"node.kubernetes.io/{name}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    for name in ("not-ready", "unreachable")
]


def a_worker_job(name: str = "worker", **pod: Any) -> Object:  # noqa: ANN401 - fields of a pod's spec
    container = a_container([sys.executable, "-c", WORKS])
    return a_job(
        name,
        container,
        {"tolerations": LEAVES_SOON, **pod},
        completionMode="Indexed",
        completions=1,
        parallelism=1,
        backoffLimit=None,
        backoffLimitPerIndex=3,
        podFailurePolicy=POLICY,
    )


@pytest.fixture
def start(namespace: Client, kubelet: Kubelet) -> Start:
    """Creates a Job; returns its pod once that says that it is ready."""

    def start(job: Object) -> Object:
        namespace.create(job)
        pod = the_pod(namespace, job["metadata"]["name"], but="")
        # before it has a handler SIGTERM does nothing to it, since it is process 1
        name = pod["metadata"]["name"]
        wait_until(lambda: "ready" in kubelet.log_of(str(namespace.namespace), name), "it says so")
        return pod

    return start


def the_pod(namespace: Client, job: str, *, but: str) -> Object:
    """The ready pod of a Job that is not the one with this uid."""

    def found() -> Object | None:
        pods = namespace.list("pods", labels=f"job-name={job}")
        return next((p for p in pods if holds(p, "Ready") and p["metadata"]["uid"] != but), None)

    return wait_until(found, f"{job} has a ready pod", within=60)


def ended(namespace: Client, pod: Object) -> Object:
    """A pod once it has ended."""
    return namespace.wait_for(
        "pods",
        pod["metadata"]["name"],
        lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"),
        "it ends",
        within=60,
    )


def failures(pod: Object) -> tuple[str, str]:
    """Failures and ignored failures before this pod, as the Job controller counts them."""
    found = pod["metadata"]["annotations"]
    index = "batch.kubernetes.io/job-index"
    return found[f"{index}-failure-count"], found.get(f"{index}-ignored-failure-count", "0")


def test_an_evicted_worker_keeps_its_condition_and_is_not_counted(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    add_node()
    pod = start(a_worker_job())

    namespace.evict(pod["metadata"]["name"])

    gone = ended(namespace, pod)
    replacement = the_pod(namespace, "worker", but=pod["metadata"]["uid"])
    assert condition(gone, "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"
    assert gone["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 75
    assert failures(replacement) == ("0", "1")
    assert "failed" not in namespace.get("jobs", "worker")["status"]


def test_graceful_node_shutdown_ends_pods_without_deleting_them(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    node = add_node()
    pod = start(a_worker_job())

    node.shut_down(grace_seconds=5)

    gone = ended(namespace, pod)
    assert gone["status"]["reason"] == "Terminated"
    assert condition(gone, "DisruptionTarget")["reason"] == "TerminationByKubelet"
    assert "deletionTimestamp" not in gone["metadata"]


def test_eviction_under_memory_pressure_is_a_disruption(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    node = add_node()
    pod = start(a_worker_job())

    node.run_low_on_memory()

    gone = ended(namespace, pod)
    assert gone["status"]["reason"] == "Evicted"
    assert condition(gone, "DisruptionTarget")["reason"] == "TerminationByKubelet"


def test_a_pod_over_its_storage_limit_is_counted(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    node = add_node()
    stubborn = a_container(["/bin/sh", "-c", "echo ready; sleep 1000"])
    job = a_worker_job()
    job["spec"]["template"]["spec"]["containers"] = [stubborn]
    pod = start(job)

    node.exceed_storage_limit(pod["metadata"]["name"])

    gone = ended(namespace, pod)
    replacement = the_pod(namespace, "worker", but=pod["metadata"]["uid"])
    assert gone["status"]["reason"] == "Evicted"
    assert condition(gone, "DisruptionTarget") == {}
    assert failures(replacement) == ("1", "0")


def test_a_pod_that_the_node_rejects_fails_without_containers(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    node = add_node()
    node.reject_next()

    namespace.create(a_pod("rejected", a_container(["true"])))

    pod = namespace.wait_for(
        "pods", "rejected", lambda pod: pod["status"]["phase"] == "Failed", "it is rejected"
    )
    assert pod["status"]["reason"] == "UnexpectedAdmissionError"
    assert "containerStatuses" not in pod["status"]


def test_a_node_without_power_becomes_unknown_and_its_pods_are_to_be_deleted_but_stay(
    namespace: Client, add_node: AddNode, start: Start, kubelet: Kubelet
) -> None:
    node = add_node()
    pod = start(a_worker_job())
    (life,) = kubelet.pod(str(namespace.namespace), pod["metadata"]["name"]).running
    running = life.running

    node.lose_power()

    assert running is not None
    assert running.has_ended
    cluster = namespace.in_namespace(None)
    cluster.wait_for(
        "nodes",
        node.name,
        lambda n: condition(n, "Ready")["status"] == "Unknown",
        "Unknown",
        within=60,
    )
    tainted = namespace.wait_for(
        "pods",
        pod["metadata"]["name"],
        lambda pod: "deletionTimestamp" in pod["metadata"],
        "the taint manager deletes it",
        within=60,
    )
    assert condition(tainted, "DisruptionTarget")["reason"] == "DeletionByTaintManager"
    assert tainted["status"]["phase"] == "Running"


def test_a_node_without_network_runs_on_as_a_zombie_until_it_is_back(
    namespace: Client, add_node: AddNode, start: Start, kubelet: Kubelet
) -> None:
    node = add_node()
    pod = start(a_worker_job())
    name = pod["metadata"]["name"]
    (life,) = kubelet.pod(str(namespace.namespace), name).running
    zombie = life.running
    assert zombie is not None

    node.lose_network()

    namespace.wait_for(
        "pods",
        name,
        lambda pod: "deletionTimestamp" in pod["metadata"],
        "the taint manager deletes it",
        within=60,
    )
    ran_on = not zombie.has_ended
    node.regain_network()
    gone = ended(namespace, pod)
    assert ran_on
    assert condition(gone, "DisruptionTarget")["reason"] == "DeletionByTaintManager"
    assert gone["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 75


def test_a_node_that_comes_back_has_lost_what_ran_on_it(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    node = add_node()
    pod = start(a_worker_job())

    node.lose_power()
    node.boot()

    gone = ended(namespace, pod)
    state = gone["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["exitCode"], state["reason"]) == (137, "ContainerStatusUnknown")
    assert condition(gone, "DisruptionTarget") == {}


@pytest.mark.full  # PodGC waits 40 s and looks every 20 s
def test_a_vanished_spot_node_costs_no_retry(
    namespace: Client, add_node: AddNode, start: Start
) -> None:
    node = add_node("spot")
    pod = start(a_worker_job())
    add_node("other")

    node.reclaim(notice_seconds=0.5)

    namespace.in_namespace(None).wait_gone("nodes", node.name)
    gone = namespace.wait_for(
        "pods",
        pod["metadata"]["name"],
        lambda pod: holds(pod, "DisruptionTarget"),
        "PodGC finds it",
        within=120,
    )
    replacement = the_pod(namespace, "worker", but=pod["metadata"]["uid"])
    assert condition(gone, "DisruptionTarget")["reason"] == "DeletionByPodGC"
    assert failures(replacement) == ("0", "1")
