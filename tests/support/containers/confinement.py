"""What a node's containers may do and have written, as the kernel and containerd tell it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support.containers.machine import Machine
from support.containers.node import GenuineNode

USER = 65532
_OF_THE_RUNTIME = ("/proc", "/sys", "/dev")
"""Mounts of the kernel's; nothing of them is on a disk."""
_OF_THE_KUBELET = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"}
"""Single files that a kubelet mounts."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod, running or ended.

    Attributes:
        pod: its name.
        name: of the container.
        pid: of its first process, as the machine counts; 0 if it has ended.
        places: where something is mounted.
        written: files of its root that are not those of the image, but for places to mount at.
    """

    pod: str
    name: str
    pid: int
    places: frozenset[str]
    written: frozenset[str]


def containers(node: GenuineNode, machine: Machine) -> list[Container]:
    """All containers that containerd has, but for those that only hold a pod's namespaces."""
    return list(_containers(node, machine))


def _containers(node: GenuineNode, machine: Machine) -> Iterator[Container]:
    rows = [line.split() for line in node.ctr("tasks", "list").splitlines()[1:]]
    running = {row[0]: int(row[1]) for row in rows if row[2] == "RUNNING"}
    for key in node.ctr("containers", "list", "--quiet").split():
        about: dict[str, Any] = json.loads(node.ctr("containers", "info", key))
        labels = about["Labels"]
        if labels.get("io.cri-containerd.kind") != "container":
            continue
        mounted = {mount["destination"] for mount in about["Spec"]["mounts"]}
        # of a Debian /var/run is a link
        places = frozenset(place.replace("/var/run/", "/run/") for place in mounted)
        yield Container(
            labels["io.kubernetes.pod.name"],
            labels["io.kubernetes.container.name"],
            running.get(key, 0),
            places,
            frozenset(_written(machine, _upper(node, about["SnapshotKey"]), places)),
        )


def _upper(node: GenuineNode, snapshot: str) -> str:
    """The folder, on the machine, that takes what is written to a root."""
    options = node.ctr("snapshots", "mounts", "/mnt", snapshot).split()
    (upper,) = (
        one.removeprefix("upperdir=")
        for option in options
        for one in option.split(",")
        if one.startswith("upperdir=")
    )
    return upper


def _written(machine: Machine, upper: str, places: frozenset[str]) -> Iterator[str]:
    root = machine.path(upper)
    for path in root.rglob("*"):
        inside = "/" + str(path.relative_to(root))
        on_the_way = any(place == inside or place.startswith(f"{inside}/") for place in places)
        if not on_the_way or (path.is_file() and path.stat().st_size):
            yield inside


def excess_of(machine: Machine, container: Container, emptydirs: set[str]) -> list[str]:
    """What a running container may do beyond what it should, in words; nothing if all is well.

    Args:
        machine: that it runs on.
        container: the container.
        emptydirs: where its pod has such.
    """
    proc = f"/proc/{container.pid}"
    lines = machine.run("cat", f"{proc}/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    found = [f"{key} is {value}" for key, value in status.items() if not _is_fine(key, value)]
    for line in machine.run("cat", f"{proc}/mountinfo").splitlines():
        place, options = line.split()[4:6]
        if "rw" not in options.split(","):
            continue
        if place in emptydirs | _OF_THE_KUBELET or place.startswith(_OF_THE_RUNTIME):
            continue
        found.append(f"{place} may be written")
    return found


def _is_fine(key: str, value: str) -> bool:
    """Whether a line of /proc/PID/status says no more than it should."""
    match key:
        case "Uid" | "Gid":
            return set(value.split()) == {str(USER)}
        case "NoNewPrivs":
            return value == "1"
        case "Seccomp":
            return value == "2"
        case _:
            return not key.startswith("Cap") or int(value, 16) == 0


def files_below(machine: Machine, container: Container, place: str) -> list[str]:
    """Files in a folder of a running container."""
    root = machine.path(f"/proc/{container.pid}/root") / place.lstrip("/")
    return [str(path) for path in root.rglob("*") if path.is_file()]
