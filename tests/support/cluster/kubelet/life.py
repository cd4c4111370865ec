"""The life of one container of a pod: its image, its starts, its end, and whether it is started again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from support.cluster.client import Client
from support.cluster.kubelet.clock import now
from support.cluster.kubelet.container import Files, NotStarted, Running, hosts_of, spec_of
from support.cluster.kubelet.environment import arguments_of, environment_of
from support.cluster.kubelet.fields import BadReference
from support.cluster.kubelet.host import Host
from support.cluster.kubelet.probes import observe
from support.cluster.kubelet.status import Ended, View
from support.cluster.kubelet.volumes import Volume
from support.cluster.wire import Object, Refused, Unreachable

AGAIN_SECONDS = 0.5
"""Until what has failed is tried again."""
_LONGEST_PAUSE_SECONDS = 300.0
_LOST = Ended.lost("The container could not be located when the pod was terminated")


class Stopped(Exception):
    """The pod is to end; nothing of it is started any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a pod is to its containers.

    Attributes:
        host: what the kubelet has for all.
        client: within the pod's namespace.
        folder: of the pod.
        logs: its folder for logs.
        allocatable: resources of its node.
        pod: the object, with the addresses that this kubelet gave it.
        stopping: set when the pod is to end.
        report: tell the API server how the pod is.
        event: kind, reason, message of what happened.
    """

    host: Host
    client: Client
    folder: Path
    logs: Path
    allocatable: Mapping[str, str]
    pod: Callable[[], Object]
    stopping: asyncio.Event
    report: Callable[[], Awaitable[None]]
    event: Callable[[str, str, str], None]

    async def pause(self, seconds: float) -> None:
        """Let time go by.

        Raises:
            Stopped: the pod is to end.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        if self.stopping.is_set():
            raise Stopped


class Life:
    """One container's.

    Args:
        container: of the pod's spec.
        place: what the pod is to it.
        restart: its policy, Always, OnFailure or Never.
    """

    def __init__(self, container: Object, place: Place, restart: str) -> None:
        self.name: str = container["name"]
        self.view = View(self.name, container["image"])
        self._container = container
        self._place = place
        self._restart = restart
        self._running: Running | None = None
        self._out_of_memory = False

    @property
    def running(self) -> Running | None:
        """Its processes, while there are any."""
        return None if self._running is None or self._running.has_ended else self._running

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.view.ended is not None and self.view.ended.code == 0

    def run_out_of_memory(self) -> None:
        """Have it killed as the kernel kills what exceeds its memory limit."""
        if self.running:
            self._out_of_memory = True
            self.running.kill()

    def settle(self) -> None:
        """What does not run now will not run any more."""
        if not self.view.ended:
            self.view = self.view.now(ended=self.view.last or _LOST)

    async def run(self, volumes: Mapping[str, Volume]) -> None:
        """From its image to its last end. It stays unfinished if the pod is to end before it started."""
        pause = self._place.host.restart_seconds
        with suppress(Stopped):
            while True:
                await self._pull()
                ended = await self._run_once(volumes)
                await self._show(ended=ended)
                if self._restart == "Never" or (self._restart == "OnFailure" and ended.code == 0):
                    return
                await self._place.pause(AGAIN_SECONDS)
                told = f"back-off {pause:g}s restarting failed container={self.name}"
                starts = self.view.starts + 1
                await self._show(
                    waiting="CrashLoopBackOff", waiting_message=told, last=ended, starts=starts
                )
                await self._place.pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _pull(self) -> None:
        """Wait until its image is there."""
        image, host, event = self._container["image"], self._place.host, self._place.event
        while image in host.missing_images:
            failed = f'Failed to pull image "{image}": not found'
            event("Warning", "Failed", failed)
            await self._show(waiting="ErrImagePull", waiting_message=failed)
            await self._place.pause(AGAIN_SECONDS)
            backs_off = f'Back-off pulling image "{image}"'
            event("Normal", "BackOff", backs_off)
            await self._show(waiting="ImagePullBackOff", waiting_message=backs_off)
            while image in host.missing_images:
                await self._place.pause(AGAIN_SECONDS)
        await self._place.pause(host.pull_seconds)

    async def _run_once(self, volumes: Mapping[str, Volume]) -> Ended:
        place = self._place
        files = Files.make(place.folder, place.logs, self.name, self.view.starts)
        spec = await self._spec(files, volumes)
        begun = now()
        try:
            running = self._running = await Running.start(spec, files)
        except NotStarted as why:
            place.event("Warning", "Failed", f"Error: {why}")
            return Ended(128, "StartError", str(why), begun, now())
        if place.stopping.is_set():  # it was asked to end while it was starting
            running.terminate()
        place.event("Normal", "Started", f"Started container {self.name}")
        code = await self._observed(running, begun)
        reason = "OOMKilled" if self._out_of_memory else "Error" if code else "Completed"
        self._out_of_memory = False
        message = files.message_of(code, self._container.get("terminationMessagePolicy", "File"))
        return Ended(code, reason, message, begun, now())

    async def _spec(self, files: Files, volumes: Mapping[str, Volume]) -> dict[str, Any]:
        """What the launcher is told, as soon as there is what its environment refers to."""
        place = self._place
        while True:
            try:
                return await place.host.call(partial(self._spec_now, files, volumes))
            except BadReference as bad:
                place.event("Warning", "Failed", f"Error: {bad}")
                await self._show(waiting="CreateContainerConfigError", waiting_message=str(bad))
            except (Refused, *Unreachable) as trouble:
                place.host.log.warning("%s: environment: %s", files.log, trouble)
            await place.pause(AGAIN_SECONDS)

    def _spec_now(self, files: Files, volumes: Mapping[str, Volume]) -> dict[str, Any]:
        place, pod = self._place, self._place.pod()
        environment = environment_of(
            self._container,
            pod,
            place.client,
            image=place.host.image_environment,
            allocatable=place.allocatable,
        )
        argv = arguments_of(self._container, environment)
        return spec_of(
            self._container,
            pod,
            files,
            volumes=volumes,
            argv=argv,
            environment=environment,
            hosts=hosts_of(place.client),
        )

    async def _observed(self, running: Running, begun: datetime) -> int:
        """Its exit code, after its probes have been followed until its end."""

        async def show(*, is_ready: bool) -> None:
            await self._show(started=begun, ready=is_ready)

        await show(is_ready=False)
        address = self._place.pod()["status"]["podIP"]
        probing = asyncio.create_task(observe(self._container, address, show, running.terminate))
        try:
            return await running.ended()
        finally:
            probing.cancel()

    async def _show(self, **changes: Any) -> None:  # noqa: ANN401 - attributes of `View`
        self.view = self.view.now(**changes)
        await self._place.report()
