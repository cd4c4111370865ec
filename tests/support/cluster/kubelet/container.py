"""One container: what it may see and be, and the process tree that it is while it runs."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.cluster.builders import holds
from support.cluster.client import Client
from support.cluster.kubelet.fields import BadReference
from support.cluster.kubelet.volumes import Volume
from support.cluster.wire import Object

_LAUNCHER = Path(__file__).with_name("launcher.py")
_MESSAGE_BYTES = 4096
_LOG_BYTES, _LOG_LINES = 2048, 80
"""What is taken from the log where a container leaves no message."""


class NotStarted(Exception):
    """A container's program cannot be run; says why."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of one start of a container lie on this machine."""

    spec: Path
    scratch: Path
    hosts: Path
    message: Path
    log: Path

    @classmethod
    def make(cls, folder: Path, logs: Path, name: str, start: int) -> Self:
        """Make them; `start` counts the starts of the container, from 0."""
        own = folder / f"{name}-{start}"
        log = logs / f"{name}-{start}.log"
        files = cls(own / "spec.json", own / "scratch", own / "hosts", own / "message", log)
        files.scratch.mkdir(parents=True, exist_ok=True)
        files.log.parent.mkdir(parents=True, exist_ok=True)
        files.message.touch()
        files.message.chmod(0o666)
        return files

    def message_of(self, code: int, policy: str) -> str:
        """The termination message of a container that ended with this code."""
        message = self.message.read_bytes()[:_MESSAGE_BYTES].decode(errors="replace")
        if message or code == 0 or policy != "FallbackToLogsOnError":
            return message
        tail = self.log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
        return "".join(tail.splitlines(keepends=True)[-_LOG_LINES:])


def spec_of(
    container: Object,
    pod: Object,
    files: Files,
    *,
    volumes: Mapping[str, Volume],
    argv: list[str],
    environment: Mapping[str, str],
    hosts: Mapping[str, str],
) -> dict[str, Any]:
    """What the launcher is told about a container.

    Raises:
        BadReference: it is to run as nobody in particular, but not as root; or mounts no volume.
    """
    pod_rights = pod["spec"].get("securityContext") or {}
    rights = pod_rights | (container.get("securityContext") or {})
    user = rights.get("runAsUser", 0)
    if user == 0 and rights.get("runAsNonRoot"):
        raise BadReference("container has runAsNonRoot and image will run as root")
    group = rights.get("runAsGroup", 0)
    more = [*pod_rights.get("supplementalGroups", []), pod_rights.get("fsGroup", group)]
    message = container.get("terminationMessagePath", "/dev/termination-log")
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    known = {"localhost": "127.0.0.1", name: address, **hosts}
    files.hosts.write_text("".join(f"{known[host]} {host}\n" for host in known))
    return {
        "scratch": str(files.scratch),
        "needed": _needed(),
        "mounts": [
            *(_mount(mount, volumes) for mount in container.get("volumeMounts") or []),
            {"source": str(files.message), "target": message, "readOnly": False},
            {"source": str(files.hosts), "target": "/etc/hosts", "readOnly": False},
        ],
        "readOnlyRoot": bool(rights.get("readOnlyRootFilesystem")),
        "hostname": name[:63],
        "workingDir": container.get("workingDir") or "/",
        "user": user,
        "group": group,
        "groups": sorted({group, *more}),
        "noNewPrivileges": rights.get("allowPrivilegeEscalation") is False,
        "argv": argv,
        "env": dict(environment),
    }


def hosts_of(client: Client) -> dict[str, str]:
    """Addresses behind the namespace's headless Services, by the names that a cluster's DNS would have.

    They are in no EndpointSlice: the API server takes no loopback addresses there.
    """
    found = {}
    for service in client.list("services"):
        name, spec = service["metadata"]["name"], service["spec"]
        if spec["clusterIP"] != "None":
            continue
        labels = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
        ready = [pod for pod in client.list("pods", labels=labels) if holds(pod, "Ready")]
        for end in ("", f".{client.namespace}", f".{client.namespace}.svc") if ready else ():
            found[f"{name}{end}"] = str(ready[0]["status"]["podIP"])
    return found


def _mount(mount: Object, volumes: Mapping[str, Volume]) -> dict[str, Any]:
    volume = volumes[mount["name"]]
    if volume.folder is None:
        return {"target": mount["mountPath"], "tmpfs": volume.options}
    return {
        "source": str(volume.folder),
        "subPath": mount.get("subPath"),
        "target": mount["mountPath"],
        "readOnly": volume.read_only or bool(mount.get("readOnly")),
    }


def _needed() -> list[str]:
    """What programs of the tests need of this machine, whoever runs them."""
    repository = Path(__file__).parents[4]
    return [str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, repository)]


class Running:
    """The process tree of a container. It exists until the last of its processes has ended."""

    def __init__(self, launcher: subprocess.Popen[bytes]) -> None:
        self.pid = 0
        self._launcher = launcher
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._handle = os.pidfd_open(launcher.pid)
        asyncio.get_running_loop().add_reader(self._handle, self._collect)

    @classmethod
    async def start(cls, spec: Mapping[str, Any], files: Files) -> Self:
        """Start it; its program runs when this returns.

        Raises:
            NotStarted: it does not.
        """
        files.spec.write_text(json.dumps(spec))
        reading, writing = os.pipe()
        with files.log.open("ab") as log:
            # started by the thread of the loop: should that die, its containers die with it
            launcher = subprocess.Popen(  # noqa: ASYNC220 - it is quick
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(files.spec), str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=[writing],
                start_new_session=True,
            )
        os.close(writing)
        running = cls(launcher)
        try:
            told = await asyncio.to_thread(_read, reading)
        except asyncio.CancelledError:
            running.kill()
            await running.ended()  # else nobody would collect it
            raise
        lines = told.splitlines()
        running.pid = next((int(line) for line in lines if line.isdecimal()), 0)
        trouble = " ".join(line for line in lines if not line.isdecimal())
        if trouble or not running.pid:
            await running.ended()
            raise NotStarted(trouble or files.log.read_text(errors="replace")[-1000:])
        return running

    @property
    def has_ended(self) -> bool:
        """Whether all of it has."""
        return self._ended.done()

    async def ended(self) -> int:
        """Wait for its end; the code it ended with, 128 and the signal if one killed it."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Ask it to end: SIGTERM to its first process."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all of it."""
        self._signal(signal.SIGUSR1)  # the launcher kills, and ends after it

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def _collect(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        code = self._launcher.wait()
        os.close(self._handle)
        self._ended.set_result(128 - code if code < 0 else code)


def _read(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode(errors="replace")
