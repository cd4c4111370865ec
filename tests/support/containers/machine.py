"""A machine for a node, made of namespaces of this one: network, mounts and processes of its own.

What runs in it can change no link, route, packet filter or mount of this machine, and all of it ends with
the one process that holds the namespaces, which ends with us. Three things reach further, and are put back:
settings of the kernel that belong to no namespace, control groups, and one link to here.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from support.cluster.control_plane import Program
from support.waiting import wait_until

HERE = "198.18.0.1"
"""Address of this machine on the link; of a range that is reserved for measuring networks."""
ADDRESS = "198.18.0.2"
"""Address of the other machine."""
PODS = "198.18.1.0/24"
GATEWAY = "198.18.1.1"
"""Address of the machine among its pods, on the bridge `BRIDGE`."""
BRIDGE = "pods"
CGROUP = "rephrase-node"
_LINK = "rephrase-node"
_CGROUPS = Path("/sys/fs/cgroup")
_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What a kubelet changes of the kernel, below /proc/sys."""


class Machine:
    """The machine; a context manager.

    Args:
        folder: for its disk and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._holder = self._program("machine", [
            "unshare", "--mount", "--net", "--pid", "--propagation", "private",
            "--fork", "--kill-child", "--mount-proc", "sleep", "infinity",
        ])  # fmt: skip
        self._stack = ExitStack()
        self._inside = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_settings_put_back())
            stack.enter_context(_cgroups())
            stack.callback(self._holder.kill)
            self._holder.start()
            self._inside = wait_until(self._first_process, "the machine has its namespaces")
            self._link()
            self._mount()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def program(self, name: str, command: Sequence[str]) -> Program:
        """A program that runs on it, and has its log here."""
        return self._program(name, self._there(command))

    def run(self, *command: str) -> str:
        """What a command says that is run on it to its end.

        Raises:
            AssertionError: it fails.
        """
        return _said(self._there(command))

    def in_network(self, *command: str) -> str:
        """The same with its network, and all else of this machine's."""
        return _said(["nsenter", f"--target={self._inside}", "--net", *command])

    def path(self, inside: str) -> Path:
        """A file of it as it is reached from here, also what lies on mounts of its own."""
        return Path(f"/proc/{self._inside}/root") / inside.lstrip("/")

    def _there(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self._inside}", "--net", "--mount", "--pid", *command]

    def _program(self, name: str, command: Sequence[str]) -> Program:
        self.logs.mkdir(parents=True, exist_ok=True)
        return Program(name, command, self.logs / f"{name}.log")

    def _first_process(self) -> int:
        self._holder.check()
        pid = self._holder.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "sleep":
            return int(children[0])
        return 0

    def _link(self) -> None:
        _said([
            "ip", "link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", str(self._inside)
        ])  # fmt: skip
        for command in (
            f"addr add {HERE}/30 dev {_LINK}",
            f"link set {_LINK} up",
            f"route add {PODS} via {ADDRESS}",
        ):
            _said(["ip", *command.split()])
        for command in (
            "link set lo up",
            f"addr add {ADDRESS}/30 dev eth0",
            "link set eth0 up",
            f"link add {BRIDGE} type bridge",
            f"addr add {GATEWAY}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ):
            self.in_network("ip", *command.split())
        self.in_network("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")

    def _mount(self) -> None:
        """What programs of a node write to is of the machine's own."""
        enter = ["nsenter", f"--target={self._inside}", "--mount"]
        for place in ("/var/lib", "/var/log"):
            own = self.folder / "disk" / place.lstrip("/")
            own.mkdir(parents=True)
            _said([*enter, "mount", "--bind", str(own), place])
        _said([*enter, "mount", "-t", "tmpfs", "tmpfs", "/run"])


@contextmanager
def _settings_put_back() -> Iterator[None]:
    files = [Path("/proc/sys") / name for name in _SETTINGS]
    before = {file: file.read_text() for file in files if file.exists()}
    try:
        yield
    finally:
        for file, text in before.items():
            if file.read_text() != text:
                file.write_text(text)


@contextmanager
def _cgroups() -> Iterator[None]:
    """A control group in each hierarchy; a kubelet wants to find its own."""
    groups = [one / CGROUP for one in _hierarchies()]
    try:
        for group in groups:
            group.mkdir(exist_ok=True)
        yield
    finally:
        for group in groups:
            wait_until(partial(_is_removed, group), f"{group} is empty")


def _hierarchies() -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [one for one in _CGROUPS.iterdir() if one.is_dir() and not one.is_symlink()]


def _is_removed(group: Path) -> bool:
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError:  # what was killed is still ending
        return False
    return not group.exists()


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout
