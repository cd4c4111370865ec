"""A cluster for these tests: a genuine control plane, and a kubelet whose containers are local processes.

The control plane that KUBECONFIG speaks of is used if it is one of ours (`python -m support.cluster.up`);
otherwise one is started. Nothing is ever asked of a cluster whose context is not named for tests.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.access import Access, is_for_tests, read_kubeconfig
from support.cluster.binary import AUTOSCALER, CONTROL_PLANE
from support.cluster.builders import holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.installed import Operator, installed
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node, Shape
from support.cluster.namespaces import own_namespace
from support.cluster.report import report
from support.helm import kubectl as find_kubectl
from support.waiting import wait_until

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that the tests share.

    Attributes:
        access: may do everything.
        kubeconfig: the same as a file.
    """

    access: Access
    kubeconfig: Path

    def client(self) -> Client:
        """A client that may do everything."""
        return Client(self.access)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Build programs before the first test that needs them, when no time limit runs yet."""
    needed = []
    if _HERE in item.path.parents and item.get_closest_marker("skip") is None:
        needed.append(CONTROL_PLANE)
        if "karpenter" in getattr(item, "fixturenames", ()):
            needed.append(AUTOSCALER)
    for program in needed:
        if not program.is_built:
            reporter = item.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                told = f"building {program.what}, about {program.minutes} minutes, this once"
                reporter.write_line(f"\n{told} ...")
            program.binary()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what stands in the test's namespace to the report of its failure."""
    found = yield
    fixtures: dict[str, Any] = getattr(item, "funcargs", {})
    if found.failed and found.when == "call" and "namespace" in fixtures:
        logs = fixtures["kubelet"].host.logs if "kubelet" in fixtures else Path()
        found.sections.append(("cluster", report(fixtures["namespace"], logs)))
    return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A genuine control plane."""
    folder = tmp_path_factory.mktemp("cluster")
    given = os.environ.get("KUBECONFIG", "")
    if given and is_for_tests(Path(given)):
        yield Cluster(read_kubeconfig(Path(given), folder), Path(given))
        return
    with ControlPlane(folder / "plane") as plane:
        yield Cluster(plane.access, plane.kubeconfig)


@pytest.fixture(scope="session")
def cluster_client(cluster: Cluster) -> Client:
    """A client that may do everything, in no namespace."""
    return cluster.client()


@pytest.fixture(scope="session")
def crd(cluster_client: Client) -> None:
    """The RephraseRun API is served."""
    for path in (_ROOT / "crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        cluster_client.apply(definition)
        name = definition["metadata"]["name"]
        cluster_client.wait_for(
            "customresourcedefinitions", name, lambda crd: holds(crd, "Established"), "established"
        )
    wait_until(lambda: cluster_client.serves("rephraseruns"), "RephraseRuns are served")


@pytest.fixture(scope="session")
def kubelet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A kubelet with one node that takes no pods: where all nodes are silent nothing is ever evicted."""
    with Kubelet(cluster.client(), tmp_path_factory.mktemp("kubelet")) as kubelet:
        steady = kubelet.add_node("steady", Shape(taints=["rephrase.io/steady:NoSchedule"]))
        yield kubelet
        kubelet.remove_node(steady)


@pytest.fixture(scope="session")
def operator(cluster_client: Client, crd: None, kubelet: Kubelet) -> Iterator[Operator]:
    """The operator, installed by its chart for the whole cluster."""
    with installed(cluster_client, kubelet) as operator:
        yield operator


@pytest.fixture(scope="session")
def model() -> Path:
    """Folder of SmolLM2-135M-Instruct, as the demo makes it."""
    script = _ROOT / "examples" / "demo" / "model.py"
    made = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    return Path(made.stdout.strip().splitlines()[-1])


@pytest.fixture
def own_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane that a test has to itself, whose programs it may kill and start anew."""
    with ControlPlane(tmp_path / "plane") as plane:
        yield plane


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client within a namespace of this test's own, which enforces Pod Security `restricted`."""
    with own_namespace(cluster.client(), request.node.name) as client:
        yield client


@pytest.fixture
def add_node(kubelet: Kubelet, namespace: Client) -> Iterator[Callable[..., Node]]:
    """Adds a node: `add_node("spot", gpus=1)`. Its name becomes unique; it goes with the test."""
    nodes: list[Node] = []

    def add(name: str = "node", **shape: Any) -> Node:  # noqa: ANN401 - attributes of `Shape`
        nodes.append(kubelet.add_node(f"{namespace.namespace}-{name}", Shape(**shape)))
        return nodes[-1]

    yield add
    for node in nodes:
        kubelet.remove_node(node)
    errors, kubelet.errors[:] = list(kubelet.errors), []
    assert errors == [], "the kubelet itself made a mistake"


@pytest.fixture
def kubectl(cluster: Cluster, namespace: Client) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs kubectl in the test's namespace: `kubectl("get", "pods").stdout`."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(find_kubectl()),
            "--kubeconfig",
            str(cluster.kubeconfig),
            "-n",
            str(namespace.namespace),
        ]
        return subprocess.run(
            [*command, "--request-timeout=30s", *args], text=True, capture_output=True, check=False
        )

    return run
