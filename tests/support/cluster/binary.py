"""The control plane's program: etcd, API server, controllers and scheduler in one binary, built from source.

Built once from `controlplane/` with Go, about six minutes from empty caches, and kept outside the clone,
under a name that changes with its source and with Go. `python -m support.cluster.binary` does it by hand.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

BINARY = "REPHRASE_CONTROLPLANE"
"""Environment variable: path of a binary built elsewhere, for machines without Go."""
MODULE = Path(__file__).parent / "controlplane"
INSTALLED = "/usr/local/go/bin"
"""Where Go's own installer puts it, which is on no PATH by itself."""
_SOURCES = ("main.go", "go.mod", "go.sum")


class NoControlPlane(Exception):
    """The program is not there and cannot be built; says what to install."""


def binary() -> Path:
    """The program, built if need be.

    Raises:
        NoControlPlane: there is neither a binary nor Go, or the build fails.
    """
    if given := os.environ.get(BINARY):
        return _given(given)
    built = _place(go_version())
    if not built.exists():
        with _alone(built.with_suffix(".lock")):
            if not built.exists():  # else somebody else has just built it
                _build(built)
    return built


def binary_missing() -> str:
    """Why there can be no binary, empty if there is one or it can be built."""
    try:
        if given := os.environ.get(BINARY):
            _given(given)
        else:
            go_version()
    except NoControlPlane as reason:
        return str(reason)
    return ""


def is_built() -> bool:
    """Whether `binary()` returns at once."""
    return bool(os.environ.get(BINARY)) or _place(go_version()).exists()


def kubernetes_version() -> str:
    """Release of Kubernetes that go.mod names, such as ``v1.37.2``."""
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    assert found, "go.mod requires no k8s.io/kubernetes"
    return found[1]


@cache
def go_version() -> str:
    """What `go version` says.

    Raises:
        NoControlPlane: there is no Go.
    """
    go = _go()
    if go is None:
        raise NoControlPlane(
            "no `go` on PATH, which builds the control plane; install Go 1.26 or newer, or set"
            f" {BINARY} to a binary built from tests/support/cluster/controlplane"
        )
    # inside the module, since go.mod may choose another toolchain
    told = subprocess.run([go, "version"], cwd=MODULE, text=True, capture_output=True, check=False)
    if told.returncode:
        raise NoControlPlane(f"`go version` fails in {MODULE}: {told.stderr.strip()}")
    return told.stdout.strip()


def _go() -> str | None:
    return shutil.which("go") or shutil.which("go", path=INSTALLED)


def _given(path: str) -> Path:
    if not os.access(path, os.X_OK):
        raise NoControlPlane(f"{BINARY}={path}: there is no program that may be executed")
    return Path(path).absolute()


def _place(go: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(go.encode())
    for name in _SOURCES:
        digest.update((MODULE / name).read_bytes())
    return caches / "rephrase-tests" / f"controlplane-{digest.hexdigest()[:16]}"


def _build(target: Path) -> None:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    about = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(
        f"-X k8s.io/component-base/version.{name}={value}" for name, value in about.items()
    )
    half_built = target.with_suffix(".partial")
    command = [
        str(_go()),
        "build",
        "-trimpath",
        "-ldflags",
        f"-s -w {flags}",
        "-o",
        str(half_built),
        ".",
    ]
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    done = subprocess.run(
        ["nice", *command], cwd=MODULE, env=environment, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise NoControlPlane(f"`{' '.join(command)}` fails in {MODULE}:\n{done.stderr[-4000:]}")
    half_built.rename(target)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock among all processes of this machine."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{binary()}\n")
    except NoControlPlane as reason:
        sys.exit(str(reason))
