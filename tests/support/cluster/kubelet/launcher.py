"""Program that becomes one container: a process tree in namespaces of its own, over a view of this machine.

`python launcher.py SPEC STATUS_FD`: SPEC is a JSON file (`container.Spec`). It writes the process id of the
container to STATUS_FD, and after it, if the container cannot be started, why. STATUS_FD is closed when the
container's own program runs. The launcher lives exactly as long as the container: it passes SIGTERM on, turns
SIGUSR1 into SIGKILL, and exits as the container did. If it is killed, so is the container.

What the container sees: `/` of this machine through an overlay whose changes vanish with it, its volumes,
a `/dev` with the usual devices, `/proc` with its own processes; its program is process 1, so that SIGTERM
without a handler does nothing and everything that it started ends when it does.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

_NEW_MOUNTS, _NEW_HOSTNAME, _NEW_IPC, _NEW_PIDS = 0x00020000, 0x04000000, 0x08000000, 0x20000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Start the container and wait for its end."""
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    status = int(sys.argv[2])
    fcntl.fcntl(status, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    _call("prctl", _SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    _call("unshare", _NEW_MOUNTS | _NEW_HOSTNAME | _NEW_IPC | _NEW_PIDS)
    child = os.fork()
    if child == 0:
        try:
            _become(spec)
        except BaseException as error:  # noqa: BLE001 - told to the kubelet, whatever it is
            with suppress(OSError):
                os.write(status, f"{type(error).__name__}: {error}".encode())
        os._exit(128)

    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL if number == signal.SIGUSR1 else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, pass_on)
    os.write(status, f"{child}\n".encode())
    os.close(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - code if code < 0 else code


def _become(spec: dict[str, Any]) -> None:
    """Arrange what the container sees and who it is, then run its program. Does not return."""
    _mount("none", "/", "", _RECURSIVE | _PRIVATE)
    # opened before the root changes, mounted after it: symbolic links are then those of the container
    sources = [
        os.open(mount["source"], os.O_PATH | os.O_CLOEXEC) if "source" in mount else -1
        for mount in spec["mounts"]
    ]
    devices = {name: os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC) for name in _DEVICES}
    _enter_root(spec["scratch"], spec["visible"])
    for name, device in devices.items():
        _bind(device, f"/dev/{name}", directory=False)
    for folder in spec["passable"]:
        os.chmod(folder, os.stat(folder).st_mode | 0o111)  # noqa: S103 - of the view, not of this machine
    for path, content in spec["files"].items():
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
    for mount, source in zip(spec["mounts"], sources, strict=True):
        _mount_volume(mount, source)
    if spec["readOnlyRoot"]:
        _mount("none", "/", "", _REMOUNT | _BIND | _READ_ONLY)
    hostname = spec["hostname"].encode()
    _call("sethostname", hostname, len(hostname))
    os.chdir(spec["workingDir"])
    _become_user(spec)
    _reset_signals()
    program = spec["argv"][0]
    os.execvpe(program, spec["argv"], spec["env"])  # noqa: S606 - this is the container's program


def _enter_root(scratch: str, visible: list[str]) -> None:
    """Make an overlay of `/`, with what else is to be seen, the root."""
    _mount("tmpfs", scratch, "tmpfs", 0, "mode=755")
    upper, work, root = (f"{scratch}/{name}" for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        os.mkdir(folder, 0o755)
    _mount("overlay", root, "overlay", 0, f"lowerdir=/,upperdir={upper},workdir={work}")
    for path in visible:  # lies on another file system, which an overlay of `/` does not show
        os.makedirs(root + path, exist_ok=True)
        _mount(path, root + path, "", _BIND | _RECURSIVE)
    _mount("/sys", f"{root}/sys", "", _BIND | _RECURSIVE)
    os.chroot(root)
    os.chdir("/")
    _mount("proc", "/proc", "proc", 0)
    _mount("tmpfs", "/dev", "tmpfs", 0, "mode=755,size=64k")
    os.mkdir("/dev/shm", 0o1777)  # noqa: S108
    _mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777,size=64m")  # noqa: S108
    for name, target in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")


def _mount_volume(mount: dict[str, Any], source: int) -> None:
    target = mount["target"]
    if source < 0:
        os.makedirs(target, exist_ok=True)
        _mount("tmpfs", target, "tmpfs", 0, mount["tmpfs"])
        return
    inside = mount.get("subPath")
    if inside:
        source = os.open(inside, os.O_PATH | os.O_CLOEXEC, dir_fd=source)
    _bind(source, target, directory=os.path.isdir(f"/proc/self/fd/{source}"))
    if mount["readOnly"]:
        _mount("none", target, "", _REMOUNT | _BIND | _READ_ONLY)


def _bind(source: int, target: str, *, directory: bool) -> None:
    if directory:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a", encoding="utf-8"):
            pass
    _mount(f"/proc/self/fd/{source}", target, "", _BIND | _RECURSIVE)


def _become_user(spec: dict[str, Any]) -> None:
    os.setgroups(spec["groups"])
    os.setgid(spec["group"])
    os.setuid(spec["user"])
    os.umask(0o022)
    if spec["noNewPrivileges"]:
        _call("prctl", _SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    # only now: a change of the user would forget it
    _call("prctl", _SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _reset_signals() -> None:
    """A new program inherits what is ignored, as Python ignores SIGPIPE."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), options.encode() or None, what=target)


def _call(name: str, *args: Any, what: str = "") -> None:  # noqa: ANN401 - as C takes them
    if getattr(_libc, name)(*args) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", what or None)


if __name__ == "__main__":
    sys.exit(main())
