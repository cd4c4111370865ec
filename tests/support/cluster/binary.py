"""Programs of the tests that are built from source with Go: a control plane and what goes with it.

Each is built once and kept outside the clone, under a name that changes with its source and with Go.
`python -m support.cluster.binary` does it by hand.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INSTALLED = "/usr/local/go/bin"
"""Where Go's own installer puts it, which is on no PATH by itself."""
_HERE = Path(__file__).parent
_SOURCES = ("main.go", "go.mod", "go.sum")
_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-mod=readonly -buildvcs=false",
    "GOTOOLCHAIN": "auto",  # go.mod may ask for a newer Go than is installed; the proxy has them
}


class NotBuilt(Exception):
    """A program is not there and cannot be built; says what to install."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program whose source is a folder beside this module.

    Attributes:
        folder: its name, and the program's.
        what: it is, for messages.
        minutes: that it takes to build from empty caches.
        given: environment variable: path of a binary built elsewhere, for machines without Go.
        tells: module of Kubernetes whose release it says is its own.
        package: that is built, where it is not the folder's own.
    """

    folder: str
    what: str
    minutes: int
    given: str
    tells: str = ""
    package: str = "."

    @property
    def module(self) -> Path:
        """Folder of its source."""
        return _HERE / self.folder

    def binary(self) -> Path:
        """The program, built if need be.

        Raises:
            NotBuilt: there is neither a binary nor Go, or the build fails.
        """
        if given := os.environ.get(self.given):
            return self._elsewhere(given)
        built = self._place()
        if not built.exists():
            with _alone(built.with_suffix(".lock")):
                if not built.exists():  # else somebody else has just built it
                    self._build(built)
        return built

    def missing(self) -> str:
        """Why there can be no binary, empty if there is one or it can be built."""
        try:
            if given := os.environ.get(self.given):
                self._elsewhere(given)
            else:
                self.go()
        except NotBuilt as reason:
            return str(reason)
        return ""

    @property
    def is_built(self) -> bool:
        """Whether `binary()` returns at once."""
        return bool(os.environ.get(self.given)) or self._place().exists()

    def release_of(self, module: str) -> str:
        """Release of a module that go.mod names, such as ``v1.37.2``."""
        text = (self.module / "go.mod").read_text()
        found = re.search(rf"{re.escape(module)} (v\S+)", text)
        assert found, f"go.mod requires no {module}"
        return found[1]

    def source_of(self, module: str) -> Path:
        """Folder with the source of a module that go.mod names, fetched if need be.

        Raises:
            NotBuilt: there is no Go, or it cannot be fetched.
        """
        return Path(json.loads(self._run("mod", "download", "-json", module))["Dir"])

    def go(self) -> str:
        """The program `go`.

        Raises:
            NotBuilt: there is none; says what to install.
        """
        go = shutil.which("go") or shutil.which("go", path=INSTALLED)
        if go is None:
            raise NotBuilt(
                f"no `go` on PATH, which builds {self.what}; install Go 1.26 or newer, or set"
                f" {self.given} to a binary built from tests/support/cluster/{self.folder}"
            )
        return go

    def _run(self, *words: str) -> str:
        return _said_by_go(self.go(), self.module, *words)

    def _elsewhere(self, path: str) -> Path:
        if not os.access(path, os.X_OK):
            raise NotBuilt(f"{self.given}={path}: there is no program that may be executed")
        return Path(path).absolute()

    def _place(self) -> Path:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        digest = hashlib.sha256(_version(self.go(), self.module).encode())
        for name in _SOURCES:
            if (source := self.module / name).exists():
                digest.update(source.read_bytes())
        return caches / "rephrase-tests" / f"{self.folder}-{digest.hexdigest()[:16]}"

    def _build(self, target: Path) -> None:
        half_built = target.with_suffix(".partial")
        flags = " ".join(["-s", "-w", *self._stamps()])
        self._run("build", "-trimpath", "-ldflags", flags, "-o", str(half_built), self.package)
        half_built.rename(target)

    def _stamps(self) -> Iterator[str]:
        """What the linker writes into it."""
        if self.tells:
            version = self.release_of(self.tells)
            major, minor, _ = version.removeprefix("v").split(".")
            for name, value in (("Version", version), ("Major", major), ("Minor", minor)):
                yield f"-X k8s.io/component-base/version.git{name}={value}"


CONTROL_PLANE = GoProgram(
    "controlplane", "the control plane", 6, "REPHRASE_CONTROLPLANE", tells="k8s.io/kubernetes"
)
"""etcd, API server, controllers and scheduler in one binary."""
NODE = GoProgram("node", "the node", 4, "REPHRASE_NODE_PROGRAMS", tells="k8s.io/kubernetes")
"""kubelet and kube-proxy in one binary, apart from the control plane: only the containers' tier needs it."""
DNS = GoProgram("dns", "the cluster's DNS", 2, "REPHRASE_DNS")
"""CoreDNS."""
PAUSE = GoProgram("pause", "the sandbox of pods", 1, "REPHRASE_PAUSE")
"""What holds the namespaces of a pod of the node's, as the one program of an image."""
REGISTRY = GoProgram(
    "registry", "an image registry", 2, "REPHRASE_REGISTRY",
    package="github.com/distribution/distribution/v3/cmd/registry",
)  # fmt: skip
"""CNCF Distribution, a registry of images."""
AUTOSCALER = GoProgram("autoscaler", "the autoscaler", 3, "REPHRASE_AUTOSCALER")
"""Karpenter, with machines that are Node objects only and can be out of stock."""
FAKE_NODES = GoProgram(
    "fakenodes", "fake nodes", 2, "REPHRASE_FAKENODES", package="sigs.k8s.io/kwok/cmd/kwok"
)
"""kwok: nodes and pods that are objects only."""


def source_of(module: str) -> Path:
    """Folder with the source of any module, fetched if need be.

    Args:
        module: with its version, as ``example.org/module@v1.2.3``.

    Raises:
        NotBuilt: there is no Go, or it cannot be fetched.
    """
    told = _said_by_go(CONTROL_PLANE.go(), Path("/"), "mod", "download", "-json", module)
    return Path(json.loads(told)["Dir"])


def kubernetes_version() -> str:
    """Release of the control plane, such as ``v1.37.2``."""
    return CONTROL_PLANE.release_of(CONTROL_PLANE.tells)


@cache
def _version(go: str, module: Path) -> str:
    """The Go that builds a module, in its own words."""
    return _said_by_go(go, module, "version").strip()


def _said_by_go(go: str, module: Path, *words: str) -> str:
    """What a command of Go says in a module, whose go.mod chooses the toolchain."""
    done = subprocess.run(
        ["nice", go, *words],
        cwd=module,
        env=os.environ | _ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise NotBuilt(f"`go {' '.join(words)}` fails in {module}:\n{done.stderr[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock among all processes of this machine."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        for one in (CONTROL_PLANE, AUTOSCALER, FAKE_NODES, NODE, DNS, PAUSE, REGISTRY):
            sys.stdout.write(f"{one.binary()}\n")
    except NotBuilt as reason:
        sys.exit(str(reason))
