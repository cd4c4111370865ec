"""Program that becomes one container: a process tree in namespaces of its own, over a view of this machine.

`python launcher.py SPEC STATUS_FD`: SPEC is a JSON file (`container.spec_of`). It writes a line with the
process id of the container to STATUS_FD and, if the container cannot be started, another that says why.
STATUS_FD is closed when the container's own program runs. The launcher lives exactly as long as the
container: it passes SIGTERM on, turns SIGUSR1 into SIGKILL, and exits as the container did. If it is killed,
so is the container.

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
_NO_SETUID, _NO_DEVICES, _NO_PROGRAMS = 2, 4, 8
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
                os.write(status, f"{type(error).__name__}: {error}\n".encode())
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
    os.umask(0o022)
    _mount("none", "/", "", _RECURSIVE | _PRIVATE)
    root = _make_root(spec)
    for mount in sorted(spec["mounts"], key=lambda mount: len(mount["target"])):
        _mount_volume(root, mount)
    for path in spec["needed"]:  # an image has its programs, also where a checkout lies in /tmp
        if any(path.startswith(os.path.realpath(one["target"]) + "/") for one in spec["mounts"]):
            _bind(path, root + path)
    if spec["readOnlyRoot"]:
        _make_read_only(root)
    os.chroot(root)
    hostname = spec["hostname"].encode()
    _call("sethostname", hostname, len(hostname))
    os.chdir(spec["workingDir"])
    _become_user(spec)
    _reset_signals()
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - the container's program
    except OSError as error:
        raise OSError(error.errno, f"exec: {error.strerror}", spec["argv"][0]) from error


def _make_root(spec: dict[str, Any]) -> str:
    """An overlay of `/` with what else is to be seen; returns where it is mounted."""
    scratch = spec["scratch"]
    _mount("tmpfs", scratch, "tmpfs", 0, "mode=755")
    upper, work, root = (f"{scratch}/{name}" for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        os.mkdir(folder, 0o755)
    for path in spec["needed"]:
        _make_passable(upper, path)
    _mount("overlay", root, "overlay", 0, f"lowerdir=/,upperdir={upper},workdir={work}")
    for path in spec["needed"]:
        if os.stat(path).st_dev != os.stat("/").st_dev:  # an overlay of `/` does not show it
            _mount(path, root + path, "", _BIND | _RECURSIVE)
    _mount("/sys", f"{root}/sys", "", _BIND | _RECURSIVE)
    _mount("proc", f"{root}/proc", "proc", 0)
    _mount("tmpfs", f"{root}/dev", "tmpfs", 0, "mode=755,size=64k")
    shared_memory = os.path.join(root, "dev", "shm")
    os.mkdir(shared_memory, 0o1777)
    _mount("tmpfs", shared_memory, "tmpfs", 0, "mode=1777,size=64m")
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{root}/dev/{name}")
    for name, target in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")
    return root


def _make_passable(upper: str, path: str) -> None:
    """Let everybody pass on the way to a folder, in the overlay; Python may lie below /root."""
    here = ""
    for name in path.strip("/").split("/"):
        here = f"{here}/{name}"
        with suppress(FileExistsError):
            os.mkdir(upper + here)
        mode = os.stat(here).st_mode & 0o7777
        os.chmod(upper + here, mode | 0o111)  # noqa: S103 - of the overlay, not of this machine


def _mount_volume(root: str, mount: dict[str, Any]) -> None:
    # symbolic links are those of this machine, which the container sees too
    target = root + os.path.realpath(mount["target"])
    if "source" not in mount:
        os.makedirs(target, exist_ok=True)
        _mount("tmpfs", target, "tmpfs", 0, mount["tmpfs"])
        return
    inside = mount.get("subPath")
    _bind(os.path.join(mount["source"], inside) if inside else mount["source"], target)
    if mount["readOnly"]:
        _make_read_only(target)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            open(target, "x", encoding="utf-8").close()
    _mount(source, target, "", _BIND | _RECURSIVE)


def _make_read_only(target: str) -> None:
    kept = os.statvfs(target).f_flag & (_NO_SETUID | _NO_DEVICES | _NO_PROGRAMS)
    _mount("none", target, "", _REMOUNT | _BIND | _READ_ONLY | kept)


def _become_user(spec: dict[str, Any]) -> None:
    os.setgroups(spec["groups"])
    os.setgid(spec["group"])
    os.setuid(spec["user"])
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
