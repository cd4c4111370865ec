"""What a kubelet has for all its pods: folders, addresses, images, a client, and a voice for events."""

import asyncio
import logging
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from support.cluster.client import Client
from support.cluster.kubelet.addresses import Addresses
from support.cluster.kubelet.clock import now, stamp
from support.cluster.wire import Object, Refused, Unreachable

T = TypeVar("T")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def image_environment(server: str) -> dict[str, str]:
    """What all containers are given: programs of the tests' own environment first, and the API server."""
    path = [
        str(Path(sys.prefix, "bin")),
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    given = {"PATH": ":".join(path), "HOME": "/"}
    url = urlsplit(server)
    given |= {
        "KUBERNETES_SERVICE_HOST": str(url.hostname),
        "KUBERNETES_SERVICE_PORT": str(url.port),
    }
    if "PYTHONPATH" in os.environ:
        given["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return given


@dataclass(slots=True)
class Host:
    """What a kubelet has for all its pods.

    Attributes:
        client: that may do everything.
        folder: for volumes and the like.
        logs: folder with a folder for each namespace, with one for each pod.
        addresses: for pods and nodes.
        log: of the kubelet.
        image_environment: what all containers are given.
        missing_images: that cannot be pulled.
        pull_seconds: how long it takes to pull any other.
        restart_seconds: pause before the first restart of a container; it doubles with each.
    """

    client: Client
    folder: Path
    logs: Path
    addresses: Addresses
    log: logging.Logger
    image_environment: dict[str, str]
    missing_images: set[str] = field(default_factory=set)
    pull_seconds: float = 0.0
    restart_seconds: float = 1.0
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, "kubelet"))
    _told: set[tuple[str, str, str]] = field(default_factory=set)

    async def call(self, request: Callable[[], T]) -> T:
        """Carry out what waits for the network, outside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, request)

    def event(self, pod: Object, node: str, kind: str, reason: str, message: str) -> None:
        """Tell of something, once for each pod; if it cannot be told, so be it."""
        metadata = pod["metadata"]
        key = (metadata["uid"], reason, message)
        if key in self._told:
            return
        self._told.add(key)
        when = stamp(now())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "generateName": f"{metadata['name']}.",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                **{name: metadata[name] for name in ("namespace", "name", "uid")},
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet",
            "reportingInstance": node,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }
        self._threads.submit(self._send, self.client.in_namespace(metadata["namespace"]), event)

    def close(self) -> None:
        """Let what is under way come to its end."""
        self._threads.shutdown(cancel_futures=True)
        for handler in self.log.handlers:
            handler.close()

    def _send(self, client: Client, event: Object) -> None:
        try:
            client.create(event)
        except (Refused, *Unreachable) as trouble:
            self.log.warning("event %s: %s", event["reason"], trouble)
