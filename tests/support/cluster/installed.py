"""The operator as a user installs it: what the chart renders; the kubelet of the tests runs its pod."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from support.cluster.builders import a_namespace, holds
from support.cluster.client import Client
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node, Shape
from support.cluster.wire import Object
from support.helm import RELEASE, render
from support.manifests import merged
from support.waiting import wait_until

SYSTEM = "rephrase-system"
_TAINT = "rephrase.io/operator"
QUICK: Mapping[str, Any] = {
    "reconcileSeconds": 1,
    "tolerations": [{"key": _TAINT, "operator": "Exists"}],
    "nodeSelector": {"kubernetes.io/hostname": "operator"},
}
"""Values of an operator that looks often, on the node `operator`."""


class Operator:
    """An installed operator.

    Args:
        client: may do everything.
        kubelet: runs its pod.
        node: that it runs on.
    """

    def __init__(self, client: Client, kubelet: Kubelet, node: Node) -> None:
        self._client = client.in_namespace(SYSTEM)
        self._kubelet = kubelet
        self.node = node

    @property
    def pod(self) -> Object:
        """Its pod."""
        (pod,) = (pod for pod in self._pods if "deletionTimestamp" not in pod["metadata"])
        return pod

    @property
    def _pods(self) -> list[Object]:
        return self._client.list("pods", labels="app.kubernetes.io/component=operator")

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return self._kubelet.log_of(SYSTEM, self.pod["metadata"]["name"])

    def kill(self) -> None:
        """SIGKILL; returns once the kubelet has started it anew and it answers its probes."""
        name, before = self.pod["metadata"]["name"], self._status["restartCount"]
        wait_until(
            lambda: self._kubelet.run_out_of_memory(SYSTEM, name, "operator"), "it is killed"
        )
        wait_until(
            lambda: self._status["restartCount"] > before and self._status["ready"],
            "it is started anew",
            within=120,
        )

    @property
    def _status(self) -> Object:
        (status,) = self.pod["status"]["containerStatuses"]
        return dict(status)

    def stop(self) -> None:
        """There is none for a while."""
        self._scale(0)
        for pod in self._pods:
            self._client.wait_gone("pods", pod["metadata"]["name"])

    def start(self) -> None:
        """There is one again."""
        self._scale(1)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until it answers its probes."""
        self._client.wait_for(
            "deployments",
            RELEASE,
            lambda found: holds(found, "Available"),
            "it is available",
            within=120,
        )

    def metrics(self) -> str:
        """The body of its /metrics."""
        return get(f"http://{self.pod['status']['podIP']}:8081/metrics")

    def _scale(self, replicas: int) -> None:
        self._client.patch("deployments", RELEASE, {"spec": {"replicas": replicas}})


@contextmanager
def installed(
    client: Client, kubelet: Kubelet, values: Mapping[str, Any] | None = None
) -> Iterator[Operator]:
    """Install the chart and wait until the operator answers; nothing is removed at the end.

    Args:
        client: may do everything.
        kubelet: gets a node for the operator.
        values: of the chart, over those that make it quick.
    """
    operator = Operator(client, kubelet, prepared(client, kubelet))
    for manifest in render(SYSTEM, merged(QUICK, values or {})):
        namespace = manifest["metadata"].get("namespace")
        client.in_namespace(namespace).apply(manifest)
    operator.wait_ready()
    yield operator


def prepared(client: Client, kubelet: Kubelet) -> Node:
    """Make namespace and node of an operator that is about to be installed."""
    node = kubelet.add_node("operator", Shape(taints=[f"{_TAINT}:NoSchedule"]))
    client.create(a_namespace(SYSTEM))
    client.in_namespace(SYSTEM).wait_for("serviceaccounts", "default", bool, "it is there")
    return node


def get(url: str) -> str:
    """The body at a URL of this machine."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()
