"""Probes of a container: HTTP and TCP against the pod's own address."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import urllib3

from support.cluster.wire import Object


class Tell(Protocol):
    """Is told whenever readiness changes."""

    async def __call__(self, *, is_ready: bool) -> None:
        """Readiness is this now."""


async def observe(container: Object, address: str, ready: Tell, dead: Callable[[], None]) -> None:
    """Watch a running container until cancelled.

    Args:
        container: of the pod's spec.
        address: of the pod.
        ready: is told whenever readiness changes.
        dead: is called when the container is to be killed.
    """
    startup = container.get("startupProbe")
    if startup and not await _until(startup, container, address, passes=True):
        dead()
        return
    async with asyncio.TaskGroup() as group:
        if probe := container.get("livenessProbe"):
            group.create_task(_live(probe, container, address, dead))
        if probe := container.get("readinessProbe"):
            group.create_task(_readiness(probe, container, address, ready))
        else:
            await ready(is_ready=True)


async def _live(probe: Object, container: Object, address: str, dead: Callable[[], None]) -> None:
    await _until(probe, container, address, passes=False)
    dead()


async def _readiness(probe: Object, container: Object, address: str, ready: Tell) -> None:
    while True:
        await _until(probe, container, address, passes=True, patient=True)
        await ready(is_ready=True)
        await _until(probe, container, address, passes=False)
        await ready(is_ready=False)


async def _until(
    probe: Object, container: Object, address: str, *, passes: bool, patient: bool = False
) -> bool:
    """Probe until it passes, or until it has failed often enough; whether it passes then."""
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    failures, limit = 0, probe.get("failureThreshold", 3)
    while True:
        if await asyncio.to_thread(_passes, probe, container, address):
            failures = 0
            if passes:
                return True
        else:
            failures += 1
            if failures >= limit and not patient:
                return False
        await asyncio.sleep(probe.get("periodSeconds", 10))


def _passes(probe: Object, container: Object, address: str) -> bool:
    target = probe.get("httpGet") or probe["tcpSocket"]
    host, port = target.get("host") or address, _port(target["port"], container)
    seconds = float(probe.get("timeoutSeconds", 1))
    connect = urllib3.HTTPConnectionPool(host, port, timeout=seconds, retries=False)
    try:
        if "tcpSocket" in probe:
            connect.ConnectionCls(host, port, timeout=seconds).connect()
            return True
        answer = connect.request("GET", target.get("path", "/"))
        return 200 <= answer.status < 400
    except (urllib3.exceptions.HTTPError, OSError):
        return False
    finally:
        connect.close()


def _port(port: Any, container: Object) -> int:  # noqa: ANN401 - a number or a name
    if isinstance(port, int):
        return port
    named = {one.get("name"): one["containerPort"] for one in container.get("ports") or []}
    return int(named[port])
