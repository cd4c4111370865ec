"""The life of one pod on a node: volumes, containers, their restarts, its end, and what is told of it.

A pod is one task. What the API server says of it comes in through `update`; what a test does to it through
`stop`, `run_out_of_memory` and the like; both are carried out by the task. Cancelling it is a power cut: all
processes are gone and nothing is told.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from support.cluster.client import STRATEGIC, Object, Refused, Unreachable
from support.cluster.kubelet.clock import now, stamp
from support.cluster.kubelet.container import Files, NotStarted, Running, spec_of
from support.cluster.kubelet.environment import arguments_of, environment_of
from support.cluster.kubelet.fields import BadReference
from support.cluster.kubelet.host import Host
from support.cluster.kubelet.probes import observe
from support.cluster.kubelet.status import Ended, PodView, View, views_of
from support.cluster.kubelet.volumes import Volume, Volumes

_AGAIN_SECONDS = 0.5
_LOST = Ended.lost("The container could not be located when the pod was terminated")


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


class _Stopped(Exception):
    """The pod is to end; nothing of it is started any more."""


class Pod:
    """A pod bound to a node of this kubelet.

    Args:
        found: the object.
        host: what the kubelet has for all its pods.
        node_address: of its node.
        allocatable: resources of its node.
    """

    def __init__(
        self, found: Object, host: Host, node_address: str, allocatable: dict[str, str]
    ) -> None:
        metadata, spec = found["metadata"], found["spec"]
        self.namespace, self.name, self.uid = (metadata[k] for k in ("namespace", "name", "uid"))
        self.node = spec["nodeName"]
        self.latest = found
        self.folder = host.folder / "pods" / f"{self.namespace}_{self.name}_{self.uid[:8]}"
        self.logs = host.logs / self.namespace / f"{self.name}_{self.uid[:8]}"
        self._host = host
        self._client = host.client.in_namespace(self.namespace)
        self._allocatable = allocatable
        self._view = PodView(
            address=host.addresses.take(),
            node_address=node_address,
            started=now(),
            containers=views_of(spec["containers"]),
            init=views_of(spec.get("initContainers")),
        )
        self._running: dict[str, Running] = {}
        self._out_of_memory: set[str] = set()
        self._stop: Stop | None = None
        self._stopping = asyncio.Event()
        self._deleted = asyncio.Event()
        self.has_ended = asyncio.Event()
        self._reporting = asyncio.Lock()
        self._reported: Object = {}
        self.update(found)

    def update(self, found: Object) -> None:
        """Take in what the API server says of it."""
        self.latest = found
        if found["metadata"].get("deletionTimestamp"):
            self._deleted.set()
            self.stop(Stop())

    def stop(self, how: Stop) -> None:
        """Have it end; the first reason counts."""
        self._stop = self._stop or how
        self._stopping.set()

    def run_out_of_memory(self, container: str) -> None:
        """Have a running container killed as the kernel kills what exceeds its memory limit."""
        self._out_of_memory.add(container)
        self._running[container].kill()

    @property
    def running(self) -> dict[str, Running]:
        """Its running containers, by name."""
        return {n: one for n, one in self._running.items() if not one.has_ended}

    async def live(self) -> None:
        """Its whole life on this node."""
        status = self.latest.get("status") or {}
        if status.get("phase") not in ("Succeeded", "Failed"):
            if status.get("containerStatuses") and _was_started(status):
                self._lose()
            else:
                await self._live_through()
            self._view.final = True
            await self._report()
        await self._let_go()

    async def reject(self, reason: str, message: str) -> None:
        """Refuse to run it, as a kubelet does that lacks what the scheduler took it to have."""
        status = {
            "phase": "Failed",
            "reason": reason,
            "message": message,
            "startTime": stamp(now()),
        }
        await self._patch(status)
        await self._let_go()

    async def _let_go(self) -> None:
        """Once somebody has deleted it, it is the kubelet that says that nothing of it is left."""
        self.has_ended.set()
        await self._deleted.wait()
        await self._tell(
            partial(self._client.delete, "pods", self.name, grace_seconds=0, uid=self.uid)
        )

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
            for running in self.running.values():
                running.kill()
                await running.ended()
        if self._stop and self._stop.reason:
            self._view.failed = True
            self._view.reason, self._view.message = self._stop.reason, self._stop.message
            self._view.disrupted = self._stop.message if self._stop.disruption else ""

    async def _end(self, everything: "asyncio.Task[None]") -> None:
        """SIGTERM, then SIGKILL when the grace is over; a second deletion may shorten it."""
        self._event("Normal", "Killing", "Stopping container " + ", ".join(self.running))
        for running in self.running.values():
            running.terminate()
        clock = asyncio.get_running_loop()
        begun = clock.time()
        while (left := begun + self._grace_seconds() - clock.time()) > 0:
            if (await asyncio.wait({everything}, timeout=min(left, _AGAIN_SECONDS)))[0]:
                return
        for running in self.running.values():
            running.kill()
        await asyncio.wait({everything})

    def _grace_seconds(self) -> float:
        own: float = self.latest["spec"].get("terminationGracePeriodSeconds", 30)
        own = self.latest["metadata"].get("deletionGracePeriodSeconds", own)
        limit = self._stop.grace_seconds if self._stop else None
        return own if limit is None else min(own, limit)

    def _lose(self) -> None:
        """It ran on this node before the node lost its power: nobody knows how it ended."""
        for views in (self._view.init, self._view.containers):
            views[:] = [view.now(ended=_LOST) for view in views]

    # -- containers -------------------------------------------------------------------------------

    async def _run(self) -> None:
        """All containers, until none of them will run any more."""
        spec, view = self.latest["spec"], self._view
        await self._report()
        with suppress(_Stopped):
            volumes = await self._volumes()
            for index, container in enumerate(spec.get("initContainers") or []):
                await self._run_container(container, view.init, index, volumes)
                if self._stopping.is_set() or _failed(view.init[index]):
                    raise _Stopped
            view.initialized = True
            async with asyncio.TaskGroup() as group:
                for index, container in enumerate(spec["containers"]):
                    group.create_task(
                        self._run_container(container, view.containers, index, volumes)
                    )
        # what does not run now will not run any more
        for views in (view.init, view.containers):
            views[:] = [one if one.ended else one.now(ended=one.last or _LOST) for one in views]

    async def _volumes(self) -> dict[str, Volume]:
        """Its volumes, as soon as there is what they are to hold."""
        volumes = Volumes(self.folder / "volumes", self._placed(), self._client, self._allocatable)
        while True:
            try:
                return await self._host.call(volumes.prepare)
            except BadReference as missing:
                self._event("Warning", "FailedMount", f"MountVolume.SetUp failed: {missing}")
            except (Refused, *Unreachable) as trouble:
                self._host.log.warning("%s: volumes: %s", self.name, trouble)
            await self._pause(_AGAIN_SECONDS)

    async def _run_container(
        self, container: Object, views: list[View], index: int, volumes: dict[str, Volume]
    ) -> None:
        """One container, with its restarts, until it will not run any more."""

        async def show(**changes: Any) -> None:  # noqa: ANN401 - attributes of `View`
            views[index] = views[index].now(**changes)
            await self._report()

        pause = self._host.restart_seconds
        with suppress(_Stopped):
            while True:
                await self._pull(container, show)
                ended = await self._run_once(container, views[index].starts, volumes, show)
                await show(ended=ended)
                if not self._starts_again(ended.code, views):
                    return
                await self._pause(_AGAIN_SECONDS)
                views[index] = views[index].now(last=ended, starts=views[index].starts + 1)
                message = f"back-off {pause:g}s restarting failed container={container['name']}"
                await show(waiting="CrashLoopBackOff", waiting_message=message)
                await self._pause(pause)
                pause = min(pause * 2, 300)

    def _starts_again(self, code: int, views: list[View]) -> bool:
        policy = self.latest["spec"].get("restartPolicy", "Always")
        if views is self._view.init:
            return code != 0 and policy != "Never"
        return policy == "Always" or (policy == "OnFailure" and code != 0)

    async def _pull(self, container: Object, show: Any) -> None:  # noqa: ANN401
        """Wait until its image is there."""
        image = container["image"]
        while image in self._host.missing_images:
            failed = f'Failed to pull image "{image}": not found'
            self._event("Warning", "Failed", failed)
            await show(waiting="ErrImagePull", waiting_message=failed)
            await self._pause(_AGAIN_SECONDS)
            backs_off = f'Back-off pulling image "{image}"'
            self._event("Normal", "BackOff", backs_off)
            await show(waiting="ImagePullBackOff", waiting_message=backs_off)
            while image in self._host.missing_images:
                await self._pause(_AGAIN_SECONDS)
        await self._pause(self._host.pull_seconds)

    async def _run_once(
        self,
        container: Object,
        start: int,
        volumes: dict[str, Volume],
        show: Any,  # noqa: ANN401
    ) -> Ended:
        files = Files.make(self.folder, self.logs, container["name"], start)
        while True:
            try:
                spec = await self._host.call(partial(self._spec, container, files, volumes))
                break
            except BadReference as bad:
                self._event("Warning", "Failed", f"Error: {bad}")
                await show(waiting="CreateContainerConfigError", waiting_message=str(bad))
            except (Refused, *Unreachable) as trouble:
                self._host.log.warning("%s: environment: %s", self.name, trouble)
            await self._pause(_AGAIN_SECONDS)
        begun, name = now(), container["name"]
        try:
            running = self._running[name] = await Running.start(spec, files)
        except NotStarted as why:
            self._event("Warning", "Failed", f"Error: {why}")
            return Ended(128, "StartError", str(why), begun, now())
        if self._stopping.is_set():  # it was asked to end while it was starting
            running.terminate()
        self._event("Normal", "Started", f"Started container {name}")
        code = await self._observed(running, container, begun, show)
        reason = "Completed" if code == 0 else "Error"
        if name in self._out_of_memory:
            self._out_of_memory.discard(name)
            reason = "OOMKilled"
        message = files.message_of(code, container.get("terminationMessagePolicy", "File"))
        return Ended(code, reason, message, begun, now())

    async def _observed(self, running: Running, container: Object, begun: Any, show: Any) -> int:  # noqa: ANN401
        """Its exit code, after it has been watched until its end."""

        async def ready(*, is_ready: bool) -> None:
            await show(started=begun, ready=is_ready)

        await ready(is_ready=False)
        probing = asyncio.create_task(
            observe(container, self._view.address, ready, running.terminate)
        )
        try:
            return await running.ended()
        finally:
            probing.cancel()

    def _spec(self, container: Object, files: Files, volumes: dict[str, Volume]) -> dict[str, Any]:
        pod = self._placed()
        environment = environment_of(
            container, pod, self._client, image=self._host.image_environment,
            allocatable=self._allocatable,
        )  # fmt: skip
        argv = arguments_of(container, environment)
        return spec_of(container, pod, files, volumes=volumes, argv=argv, environment=environment)

    def _placed(self) -> Object:
        """The pod with the addresses that this kubelet gave it."""
        addresses = {"podIP": self._view.address, "hostIP": self._view.node_address}
        return self.latest | {"status": (self.latest.get("status") or {}) | addresses}

    async def _pause(self, seconds: float) -> None:
        """Let time go by, unless the pod is to end."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise _Stopped

    # -- what is told -----------------------------------------------------------------------------

    async def _report(self) -> None:
        """Tell the API server how it is, if that has changed."""
        async with self._reporting:
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
        """Send a request until it is answered; that the pod has gone is an answer."""
        while True:
            try:
                await self._host.call(request)
                return
            except Refused as refused:
                self._host.log.warning("%s: %s", self.name, refused)
                if refused.code in (404, 422):
                    return
            except Unreachable as trouble:
                self._host.log.warning("%s: %s", self.name, trouble)
            await asyncio.sleep(_AGAIN_SECONDS)

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._host.event(self.latest, self.node, kind, reason, message)


def _was_started(status: Object) -> bool:
    return any("waiting" not in (one.get("state") or {}) for one in status["containerStatuses"])


def _failed(view: View) -> bool:
    return view.ended is None or view.ended.code != 0
