"""A genuine autoscaler: Karpenter, whose machines are nodes of the process kubelet and can be out of stock.

    with Karpenter(plane.client(), kubelet, folder) as karpenter:
        karpenter.stock_out("spot")
        ...
        karpenter.interrupt(pod["spec"]["nodeName"])

Two NodePools, `spot` and `on-demand`, give tainted machines with one GPU of NVIDIA each, on demand four
times as dear; each is removed ten seconds after its last pod. Karpenter acts on every pending pod, so it
needs a control plane that no other test uses.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from support.cluster.binary import AUTOSCALER
from support.cluster.builders import holds
from support.cluster.client import Client
from support.cluster.control_plane import Program, flags_of
from support.cluster.kubelet.host import ARCHITECTURE
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.wire import Object, Refused
from support.s3 import free_ports
from support.waiting import wait_until

SPOT, ON_DEMAND = "spot", "on-demand"
CAPACITY = "karpenter.sh/capacity-type"
"""Label of nodes."""
TAINT = "nvidia.com/gpu"
"""Key of their taint."""
STOCKOUT_SECONDS = 10
"""How long Karpenter believes that there is none of what it was refused; three minutes on AWS."""
_MODULE = "sigs.k8s.io/karpenter"
_CRDS = ("kwok/charts/crds", "kwok/apis/crds")
_FAKE = "kwok.x-k8s.io/node"
_ZONE = "test-zone-a"
_PRICES = {SPOT: 1.0, ON_DEMAND: 4.0}
_GPUS = {"gpu-1": 1, "gpu-8": 8}
"""Instance types; the pools take the smaller only, else four workers would share a machine."""
_START_SECONDS = 60.0


class Karpenter:
    """An autoscaler; a context manager.

    Args:
        client: that may do everything.
        kubelet: is the machines.
        folder: for its files and its log.
    """

    def __init__(self, client: Client, kubelet: Kubelet, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._client = client
        self._kubelet = kubelet
        self._stockouts = folder / "stockouts"
        self._out: set[str] = set()
        types = folder / "instance-types.json"
        types.write_text(json.dumps([_instance_type(name, gpus) for name, gpus in _GPUS.items()]))
        self.log = folder / "karpenter.log"
        metrics, self._probes = free_ports(2)
        flags = flags_of({
            "instance-types-file-path": types,
            "metrics-port": metrics,
            "health-probe-port": self._probes,
            "kube-client-qps": 1000,
            "kube-client-burst": 2000,
            "cpu-requests": 2000,
            "batch-idle-duration": "1s",
            "batch-max-duration": "10s",
        })  # fmt: skip
        environment = {
            "KUBECONFIG": str(client.wire.access.write_kubeconfig(folder / "kubeconfig")),
            "DISABLE_LEADER_ELECTION": "true",
            "SYSTEM_NAMESPACE": "kube-system",
            "KUBERNETES_MIN_VERSION": "1.19.0-0",
            "STOCKOUTS": str(self._stockouts),
            "STOCKOUT_TTL": f"{STOCKOUT_SECONDS}s",
        }
        command = [str(AUTOSCALER.binary()), *flags]
        self._program = Program("karpenter", command, self.log, environment)

    def __enter__(self) -> Self:
        self.restock(*self._out)
        self._install_crds()
        self._program.start()
        try:
            self._wait_ready()
            self._client.apply(_of("karpenter.kwok.sh/v1alpha1", "KWOKNodeClass", "fake", {}))
            for capacity in _PRICES:
                self._client.apply(_node_pool(capacity))
            for capacity in _PRICES:
                self._client.wait_for(
                    "nodepools", capacity, lambda pool: holds(pool, "Ready"), "it is ready"
                )
        except BaseException:
            self._program.kill()
            raise
        self._kubelet.adopt(_FAKE)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()

    def stock_out(self, *what: str) -> None:
        """There are no such machines any more: `spot`, `on-demand`, or ``gpu-1/test-zone-a/spot``."""
        self._out.update(what)
        self._write_stockouts()

    def restock(self, *what: str) -> None:
        """There are some again; Karpenter sees it within `STOCKOUT_SECONDS`."""
        self._out.difference_update(what)
        self._write_stockouts()

    def interrupt(self, node: str) -> None:
        """Take a spot machine back: Karpenter evicts its pods, which get their grace, then it is gone."""
        self._client.delete("nodeclaims", self.claim_of(node)["metadata"]["name"])

    def claim_of(self, node: str) -> Object:
        """The NodeClaim that a node was made for."""
        claims = self._client.list("nodeclaims")
        return next(one for one in claims if one.get("status", {}).get("nodeName") == node)

    def nodes(self, capacity: str = "") -> list[Object]:
        """Nodes that it made, of one capacity type or of both."""
        return self._client.list("nodes", labels=f"{CAPACITY}={capacity}" if capacity else CAPACITY)

    def _write_stockouts(self) -> None:
        half_written = self._stockouts.with_suffix(".partial")
        half_written.write_text("".join(f"{one}\n" for one in sorted(self._out)))
        half_written.rename(self._stockouts)

    def _install_crds(self) -> None:
        source = AUTOSCALER.source_of(_MODULE)
        for folder in _CRDS:
            for path in (source / folder).glob("*.yaml"):
                definition = yaml.safe_load(path.read_text())
                self._client.apply(definition)
                self._client.wait_for(
                    "customresourcedefinitions", definition["metadata"]["name"],
                    lambda crd: holds(crd, "Established"), "established",
                )  # fmt: skip

    def _wait_ready(self) -> None:
        from support.cluster.installed import get

        def ready() -> bool:
            self._program.check()
            try:
                self._client.list("nodepools")
                return bool(get(f"http://127.0.0.1:{self._probes}/readyz"))
            except (Refused, OSError):
                return False

        wait_until(ready, "Karpenter is ready", within=_START_SECONDS)


def _instance_type(name: str, gpus: int) -> dict[str, Any]:
    resources = {"cpu": 8 * gpus, "memory": f"{32 * gpus}Gi", "nvidia.com/gpu": gpus}
    return {
        "name": name,
        "architecture": ARCHITECTURE,
        "operatingSystems": ["linux"],
        "resources": {k: str(v) for k, v in resources.items()}
        | {"pods": "110", "ephemeral-storage": "100Gi"},
        "offerings": [
            {
                "Price": price * gpus,
                "Available": True,
                "Requirements": [
                    _is(CAPACITY, capacity),
                    _is("topology.kubernetes.io/zone", _ZONE),
                ],
            }
            for capacity, price in _PRICES.items()
        ],
    }


def _node_pool(capacity: str) -> Object:
    template = {
        "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "fake"},
        "taints": [{"key": TAINT, "value": "present", "effect": "NoSchedule"}],
        "requirements": [
            _is(CAPACITY, capacity),
            _is("node.kubernetes.io/instance-type", "gpu-1"),
        ],
    }
    disruption = {
        "consolidationPolicy": "WhenEmpty",
        "consolidateAfter": "10s",
        "budgets": [{"nodes": "100%"}],
    }
    spec = {"template": {"spec": template}, "disruption": disruption}
    return _of("karpenter.sh/v1", "NodePool", capacity, spec)


def _is(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}


def _of(version: str, kind: str, name: str, spec: Mapping[str, Any]) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
