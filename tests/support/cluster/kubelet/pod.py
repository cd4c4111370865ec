"""The life of one pod on a node: volumes, containers, its end, and what is told of it.

A pod is one task. What the API server says of it comes in through `update`, what a test does to it through
`stop`; both are carried out by the task. Cancelling it is a power cut: all processes are gone and nothing
is told.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from support.cluster.kubelet.clock import now, stamp
from support.cluster.kubelet.fields import BadReference
from support.cluster.kubelet.host import Host
from support.cluster.kubelet.life import AGAIN_SECONDS, Life, Place, Stopped
from support.cluster.kubelet.status import PodView
from support.cluster.kubelet.volumes import Volume, Volumes
from support.cluster.wire import STRATEGIC, Object, Refused, Unreachable


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and how a pod is ended before its time.

    Attributes:
        reason: of the pod as a whole, ``Evicted`` for example; empty when somebody deleted it.
        message: more about that.
        grace_seconds: at most so long from SIGTERM to SIGKILL; None: as long as the pod asks for.
        disruption: whether the kubelet sets the condition `DisruptionTarget`.
    """

    reason: str = ""
    message: str = ""
    grace_seconds: float | None = None
    disruption: bool = False


class Pod:
    """A pod bound to a node of this kubelet.

    Args:
        found: the object.
        host: what the kubelet has for all its pods.
        node_address: of its node.
        allocatable: resources of its node.
        online: set while its node reaches the API server.
    """

    def __init__(
        self,
        found: Object,
        host: Host,
        node_address: str,
        allocatable: Mapping[str, str],
        online: asyncio.Event,
    ) -> None:
        metadata, spec = found["metadata"], found["spec"]
        self.namespace, self.name, self.uid = (metadata[k] for k in ("namespace", "name", "uid"))
        self.node = spec["nodeName"]
        self.logs = host.logs / self.namespace / f"{self.name}_{self.uid[:8]}"
        self.has_ended = asyncio.Event()
        self._latest = found
        self._online = online
        self._host = host
        self._client = host.client.in_namespace(self.namespace)
        self._stop: Stop | None = None
        self._stopping = asyncio.Event()
        self._deleted = asyncio.Event()
        self._reporting = asyncio.Lock()
        self._reported: Object = {}
        self._made: Volumes | None = None
        known = (found.get("status") or {}).get("podIP")  # before the node lost its power
        self._view = PodView(known or host.addresses.take(), node_address, now())
        self._place = Place(
            host=host,
            client=self._client,
            folder=host.folder / "pods" / f"{self.namespace}_{self.name}_{self.uid[:8]}",
            logs=self.logs,
            allocatable=allocatable,
            pod=self._placed,
            stopping=self._stopping,
            report=self._report,
            event=self._event,
        )
        restart = spec.get("restartPolicy", "Always")
        before = "Never" if restart == "Never" else "OnFailure"
        self._init = [Life(one, self._place, before) for one in spec.get("initContainers") or []]
        self._lives = [Life(one, self._place, restart) for one in spec["containers"]]
        self.update(found)

    def update(self, found: Object) -> None:
        """Take in what the API server says of it."""
        self._latest = found
        if self._made is not None:
            self._made.follow(self._placed())
        if found["metadata"].get("deletionTimestamp"):
            self._deleted.set()
            self.stop(Stop())

    def stop(self, how: Stop) -> None:
        """Have it end; the first reason counts."""
        self._stop = self._stop or how
        self._stopping.set()

    @property
    def running(self) -> list[Life]:
        """Its containers that run."""
        return [life for life in (*self._init, *self._lives) if life.running]

    async def live(self) -> None:
        """Its whole life on this node."""
        status = self._latest.get("status") or {}
        if status.get("phase") not in ("Succeeded", "Failed"):
            # what ran here before the node lost its power: nobody knows how that ended
            if not _was_started(status):
                await self._live_through()
            for life in (*self._init, *self._lives):
                life.settle()
            self._view.final = True
            await self._report()
        await self._let_go()

    async def reject(self, reason: str, message: str) -> None:
        """Refuse to run it, as a kubelet does that lacks what the scheduler took it to have."""
        status = {"phase": "Failed", "reason": reason, "message": message}
        await self._patch(status | {"startTime": stamp(now())})
        await self._let_go()

    async def _let_go(self) -> None:
        """Once somebody has deleted it, it is the kubelet that says that nothing of it is left."""
        self.has_ended.set()
        await self._deleted.wait()
        delete = partial(self._client.delete, "pods", self.name, grace_seconds=0, uid=self.uid)
        await self._tell(delete)

    # -- from start to end ------------------------------------------------------------------------

    async def _live_through(self) -> None:
        everything = asyncio.create_task(self._run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({everything, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                await self._end(everything)
            await everything
        finally:
            stopping.cancel()
            everything.cancel()
            for life in self.running:
                if running := life.running:
                    running.kill()
                    await running.ended()
        if self._stop and self._stop.reason:
            self._view.failed = True
            self._view.reason, self._view.message = self._stop.reason, self._stop.message
            self._view.disrupted = self._stop.message if self._stop.disruption else ""

    async def _run(self) -> None:
        """All containers, until none of them will run any more."""
        await self._report()
        with suppress(Stopped):
            volumes = await self._volumes()
            for life in self._init:
                await life.run(volumes)
                if self._stopping.is_set() or not life.succeeded:
                    return
            self._view.initialized = True
            async with asyncio.TaskGroup() as group:
                for life in self._lives:
                    group.create_task(life.run(volumes))

    async def _end(self, everything: "asyncio.Task[None]") -> None:
        """SIGTERM, then SIGKILL when the grace is over; a second deletion may shorten it."""
        for life in self.running:
            self._event("Normal", "Killing", f"Stopping container {life.name}")
            if running := life.running:
                running.terminate()
        clock = asyncio.get_running_loop()
        begun = clock.time()
        while (left := begun + self._grace_seconds() - clock.time()) > 0:
            if (await asyncio.wait({everything}, timeout=min(left, AGAIN_SECONDS)))[0]:
                return
        for life in self.running:
            if running := life.running:
                running.kill()
        await asyncio.wait({everything})

    def _grace_seconds(self) -> float:
        own: float = self._latest["spec"].get("terminationGracePeriodSeconds", 30)
        own = self._latest["metadata"].get("deletionGracePeriodSeconds", own)
        limit = self._stop.grace_seconds if self._stop else None
        return own if limit is None else min(own, limit)

    async def _volumes(self) -> dict[str, Volume]:
        """Its volumes, as soon as there is what they are to hold."""
        place = self._place
        folder = place.folder / "volumes"
        volumes = Volumes(folder, self._placed(), self._client, place.allocatable)
        while True:
            try:
                found = await self._host.call(volumes.prepare)
                self._made = volumes
                volumes.follow(self._placed())
                return found
            except BadReference as missing:
                self._event("Warning", "FailedMount", f"MountVolume.SetUp failed: {missing}")
            except (Refused, *Unreachable) as trouble:
                self._host.log.warning("%s: volumes: %s", self.name, trouble)
            await place.pause(AGAIN_SECONDS)

    def _placed(self) -> Object:
        addresses = {"podIP": self._view.address, "hostIP": self._view.node_address}
        return self._latest | {"status": (self._latest.get("status") or {}) | addresses}

    # -- what is told -----------------------------------------------------------------------------

    async def _report(self) -> None:
        """Tell the API server how it is, if that has changed."""
        async with self._reporting:
            self._view.init = [life.view for life in self._init]
            self._view.containers = [life.view for life in self._lives]
            status = self._view.as_status(now())
            if status != self._reported:
                await self._patch(status)
                self._reported = status

    async def _patch(self, status: Object) -> None:
        # not a JSON merge patch: that would wipe out the conditions that others have set
        body = {"metadata": {"uid": self.uid}, "status": status}
        await self._tell(
            partial(self._client.patch, "pods", self.name, body, "status", how=STRATEGIC)
        )

    async def _tell(self, request: partial[Any]) -> None:
        """Send a request until it is answered; that the pod has gone is an answer.

        Raises:
            Refused: it makes no sense, which is a mistake of this kubelet.
        """
        while True:
            await self._online.wait()
            try:
                await self._host.call(request)
                return
            except Refused as refused:
                self._host.log.warning("%s: %s", self.name, refused)
                if refused.code == 404:
                    return
                if refused.code == 422:
                    raise
            except Unreachable as trouble:
                self._host.log.warning("%s: %s", self.name, trouble)
            await asyncio.sleep(AGAIN_SECONDS)

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._host.event(self._latest, self.node, kind, reason, message)


def _was_started(status: Object) -> bool:
    states = [one.get("state") or {} for one in status.get("containerStatuses") or []]
    return any("waiting" not in state for state in states)
