"""A node of a process kubelet: the object, its heartbeat, and what may befall a machine in a cloud."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, Self, TypeVar

from support.cluster.binary import kubernetes_version
from support.cluster.kubelet.clock import micro_stamp, now, stamp
from support.cluster.kubelet.host import ARCHITECTURE, Host
from support.cluster.kubelet.pod import Pod, Stop
from support.cluster.wire import STRATEGIC, Object, Refused, Unreachable

T = TypeVar("T")
_BEAT_SECONDS = 2.0
_WELCOME_SECONDS, _WELCOME_TRIES = 10.0, 200
_LEASES = "kube-node-lease"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine has.

    Attributes:
        cpu: cores.
        memory: bytes.
        gpus: of NVIDIA.
        pods: that may run on it.
        labels: of the node.
        taints: ``key=value:Effect`` or ``key:Effect``.
    """

    cpu: str = "8"
    memory: str = "32Gi"
    gpus: int = 0
    pods: int = 110
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[str] = ()

    @classmethod
    def of(cls, found: Object) -> Self:
        """As a Node says that its machine is."""
        has = found["status"]["allocatable"]
        gpus = int(has.get("nvidia.com/gpu", 0))
        return cls(has["cpu"], has["memory"], gpus, int(has["pods"]))

    @property
    def capacity(self) -> dict[str, str]:
        """As a node's `capacity`."""
        given = {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods)}
        given["ephemeral-storage"] = "100Gi"
        return given | ({"nvidia.com/gpu": str(self.gpus)} if self.gpus else {})


class Fleet(Protocol):
    """What a node asks of its kubelet."""

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Carry out work in the kubelet's loop and wait for it."""

    def pods_on(self, node: "Node") -> list[Pod]:
        """Pods that this kubelet runs on a node."""

    async def take_up(self, node: "Node") -> None:
        """Run what is bound to a node."""

    async def drop(self, node: "Node") -> None:
        """Kill everything on a node and tell nobody."""


class Node:
    """A node. Its methods may be called from any thread; they return when it is done.

    Args:
        name: of the node.
        shape: what it has.
        host: what the kubelet has for all.
        fleet: the kubelet.
    """

    def __init__(self, name: str, shape: Shape, host: Host, fleet: Fleet) -> None:
        self.name = name
        self.shape = shape
        self.address = host.addresses.take()
        self.powered = False
        self.online = asyncio.Event()
        self.rejections: list[tuple[str, str]] = []
        self._host = host
        self._fleet = fleet
        self._heart: asyncio.Task[None] | None = None

    # -- what may befall it -----------------------------------------------------------------------

    def boot(self) -> None:
        """Power on: it registers, or comes back under its name; what ran on it before is lost."""
        self._fleet.do(self.power_on)

    def lose_power(self) -> None:
        """Everything on it is killed and nothing is told any more; the Node object stays."""
        self._fleet.do(self.power_off)

    def lose_network(self) -> None:
        """It is silent to the API server and hears nothing from it, but its pods run on: zombies."""

        async def cut() -> None:
            self._stop_heart()

        self._fleet.do(cut)

    def regain_network(self) -> None:
        """It is heard again, and does what was asked of it meanwhile."""
        self._fleet.do(self.power_on)

    def vanish(self) -> None:
        """The machine is gone, and the cloud has removed the Node object: a spot VM taken back."""
        self._fleet.do(self.remove)

    def reclaim(self, *, notice_seconds: float) -> None:
        """`vanish` that long from now; returns at once."""

        async def later() -> None:
            self._reclaiming = asyncio.create_task(self._remove_after(notice_seconds))

        self._fleet.do(later)

    def shut_down(self, *, grace_seconds: float = 15) -> None:
        """Graceful node shutdown, as of a GKE spot VM: its pods end as `Terminated`; then `lose_power`."""

        async def gently() -> None:
            message = "Pod was terminated in response to imminent node shutdown."
            await self._end_all(Stop("Terminated", message, grace_seconds, disruption=True))
            await self.power_off()

        self._fleet.do(gently)

    def run_low_on_memory(self) -> None:
        """Node-pressure eviction of all its pods, the hard one: 1 s of grace."""
        message = "The node was low on resource: memory."
        self._fleet.do(lambda: self._end_all(Stop("Evicted", message, 1, disruption=True)))

    def exceed_storage_limit(self, pod: str) -> None:
        """Eviction of a pod that wrote more than an emptyDir's limit: no `DisruptionTarget`."""
        message = 'Usage of EmptyDir volume "tmp" exceeds the limit.'
        stop = Stop("Evicted", message, 1)
        self._fleet.do(lambda: self._end_all(stop, only=pod))

    def reject_next(self, reason: str = "UnexpectedAdmissionError", message: str = "") -> None:
        """Refuse the next pod that the scheduler puts here."""
        told = message or "Allocate failed due to no healthy devices present; cannot allocate"

        async def later() -> None:
            self.rejections.append((reason, told))

        self._fleet.do(later)

    # -- in the kubelet's loop --------------------------------------------------------------------

    async def power_on(self) -> None:
        """See `boot`."""
        await self._register()
        await self._welcomed()
        self.powered = True
        self.online.set()
        self._heart = asyncio.create_task(self._beat())
        await self._fleet.take_up(self)

    async def power_off(self) -> None:
        """See `lose_power`."""
        self.powered = False
        self._stop_heart()
        await self._fleet.drop(self)

    async def remove(self) -> None:
        """See `vanish`."""
        await self.power_off()
        await self._host.call(partial(self._host.client.delete, "nodes", self.name))

    def _stop_heart(self) -> None:
        self.online.clear()
        if self._heart:
            self._heart.cancel()

    async def _remove_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.remove()

    async def _end_all(self, stop: Stop, *, only: str = "") -> None:
        pods = [pod for pod in self._fleet.pods_on(self) if only in ("", pod.name)]
        for pod in pods:
            pod.stop(stop)
        for pod in pods:
            await pod.has_ended.wait()

    async def _register(self) -> None:
        client = self._host.client
        if await self._host.call(partial(client.find, "nodes", self.name)) is None:
            await self._host.call(partial(client.create, self._manifest()))
        await self._host.call(self._patch_status)
        await self._host.call(self._renew)

    async def _welcomed(self) -> None:
        """Wait until the controllers have seen that it is Ready, so that pods can be put on it."""
        for _ in range(_WELCOME_TRIES):  # they may be down
            if not await self._host.call(self._is_tainted):
                return
            await asyncio.sleep(_WELCOME_SECONDS / _WELCOME_TRIES)

    def _is_tainted(self) -> bool:
        taints = self._host.client.get("nodes", self.name)["spec"].get("taints") or []
        return any(taint["key"] == "node.kubernetes.io/not-ready" for taint in taints)

    def _manifest(self) -> Object:
        well_known = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": ARCHITECTURE,
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": well_known | dict(self.shape.labels)},
            "spec": {"taints": [_taint(text) for text in self.shape.taints]},
        }

    async def _beat(self) -> None:
        """Keep the lease fresh, and every now and then the conditions too."""
        for count in range(1, 1 << 62):
            await asyncio.sleep(_BEAT_SECONDS)
            try:
                await self._host.call(self._renew)
                if count % 5 == 0:
                    await self._host.call(self._patch_status)
            except (Refused, *Unreachable) as trouble:
                self._host.log.warning("%s: heartbeat: %s", self.name, trouble)

    def _renew(self) -> None:
        client = self._host.client.in_namespace(_LEASES)
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": 40,
            "renewTime": micro_stamp(now()),
        }
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
        client.apply(lease | {"metadata": {"name": self.name, "namespace": _LEASES}})

    def _patch_status(self) -> None:
        when = stamp(now())
        conditions = [
            {
                "type": kind,
                "status": holds,
                "reason": reason,
                "message": "by the process kubelet",
                "lastHeartbeatTime": when,
            }
            for kind, holds, reason in (
                ("Ready", "True", "KubeletReady"),
                ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                ("PIDPressure", "False", "KubeletHasSufficientPID"),
            )
        ]
        status: Object = {
            "capacity": self.shape.capacity,
            "allocatable": self.shape.capacity,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": self._host.addresses.own},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._host.addresses.port}},
            "nodeInfo": _NODE_INFO,
        }
        self._host.client.patch("nodes", self.name, {"status": status}, "status", how=STRATEGIC)


_NODE_INFO = {
    **dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion"), "test"),
    "kubeProxyVersion": "",
    "operatingSystem": "linux",
    "architecture": ARCHITECTURE,
    "osImage": "processes of the tests",
    "containerRuntimeVersion": "processes://1",
    "kubeletVersion": kubernetes_version(),
}


def _taint(text: str) -> Object:
    named, _, effect = text.rpartition(":")
    key, _, value = named.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})
