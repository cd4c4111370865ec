"""The process kubelet keeps the promises of a real one, on a genuine control plane."""

import sys
from collections.abc import Callable

from support.cluster.builders import a_container, a_job, holds
from support.cluster.client import Client, Object
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node

AddNode = Callable[..., Node]


def python(code: str) -> list[str]:
    """A command that runs this."""
    return [sys.executable, "-c", code]


def state(pod: Object) -> Object:
    """State of a pod's only container, terminated or not."""
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    found: Object = statuses[0]["state"]
    return found


def terminated(pod: Object) -> Object:
    found: Object = state(pod).get("terminated") or {}
    return found


def test_a_job_runs_to_completion(namespace: Client, add_node: AddNode, kubelet: Kubelet) -> None:
    add_node()

    namespace.create(a_job("hello", a_container(python("print('hello from a pod')"))))

    job = namespace.wait_for("jobs", "hello", lambda job: holds(job, "Complete"), "it completes")
    (pod,) = namespace.list("pods", labels="job-name=hello")
    assert job["status"]["succeeded"] == 1
    assert pod["status"]["phase"] == "Succeeded"
    assert kubelet.log_of(str(namespace.namespace), pod["metadata"]["name"]) == "hello from a pod\n"
