"""The parts of the cluster tests that need no cluster: where the control plane comes from, and pure rules."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.cluster import binary as binaries
from support.cluster.binary import (
    AUTOSCALER,
    CONTROL_PLANE,
    DNS,
    FAKE_NODES,
    NODE,
    PAUSE,
    REGISTRY,
    GoProgram,
    NotBuilt,
)  # fmt: skip
from support.cluster.kubelet.environment import expanded
from support.cluster.kubelet.fields import BadReference, field, resource_field
from support.cluster.kubelet.limits import unsupported
from support.cluster.kubelet.quantities import amount, divided
from support.cluster.resources import path_of, resource_of

PROGRAMS = (CONTROL_PLANE, AUTOSCALER, FAKE_NODES, NODE, DNS, PAUSE, REGISTRY)
POD: dict[str, Any] = {
    "metadata": {
        "name": "a-pod",
        "namespace": "tests",
        "uid": "u",
        "labels": {"pool": "spot", "slot": "7"},
        "annotations": {"note": 'says "hi"'},
    },
    "spec": {"nodeName": "a-node", "containers": [{"name": "main"}]},
    "status": {"podIP": "127.20.0.2", "hostIP": "127.20.0.1"},
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in PROGRAMS:
        monkeypatch.delenv(program.given, raising=False)


# -- where programs come from ---------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.folder)
def test_without_go_it_is_said_what_to_install(
    program: GoProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "INSTALLED", str(tmp_path))

    reason = program.missing()

    assert reason.startswith(f"no `go` on PATH, which builds {program.what}; install Go 1.26")
    assert program.given in reason
    with pytest.raises(NotBuilt):
        program.binary()


def test_a_binary_built_elsewhere_needs_no_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(CONTROL_PLANE.given, sys.executable)

    assert CONTROL_PLANE.missing() == ""
    assert CONTROL_PLANE.is_built
    assert CONTROL_PLANE.binary() == Path(sys.executable)


def test_a_binary_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONTROL_PLANE.given, str(tmp_path / "nothing"))

    assert "nothing: there is no program that may be executed" in CONTROL_PLANE.missing()


def test_the_release_of_kubernetes_is_that_of_the_module() -> None:
    assert binaries.kubernetes_version() == "v1.37.2"


# -- rules of a kubelet ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "is_"),
    [("500m", "0.5"), ("2Gi", 2**31), ("1.5k", 1500), (3, 3), ("1e3", 1000), ("64Mi", 2**26)],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: str | int, is_: str | int) -> None:
    assert amount(quantity) == Decimal(is_)


def test_a_division_is_rounded_up() -> None:
    assert divided("1500m", "1") == "2"
    assert divided("1Gi", "1Mi") == "1024"
    assert divided("250m", "1m") == "250"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "a-pod"),
        ("status.podIP", "127.20.0.2"),
        ("metadata.labels['slot']", "7"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'pool="spot"\nslot="7"'),
        ("metadata.annotations", 'note="says \\"hi\\""'),
    ],
)
def test_fields_are_written_as_a_kubelet_writes_them(path: str, value: str) -> None:
    assert field(POD, path) == value


def test_a_field_that_a_pod_may_not_know_is_refused() -> None:
    with pytest.raises(BadReference, match=r"spec\.containers is not known"):
        field(POD, "spec.containers")


def test_a_limit_that_is_not_set_is_what_the_node_has() -> None:
    container = {"resources": {"requests": {"cpu": "100m"}}}
    reference = {"resource": "limits.memory", "divisor": "1Gi"}

    assert resource_field(container, reference, {"memory": "32Gi"}) == "32"
    assert resource_field(container, {"resource": "requests.cpu", "divisor": "1m"}, {}) == "100"


def test_names_in_brackets_are_replaced_and_two_dollars_are_one() -> None:
    assert expanded("$(A)/$(B) $$(A) $A", {"A": "x"}) == "x/$(B) $(A) $A"


def test_what_this_kubelet_cannot_do_is_named() -> None:
    container = {"name": "main", "livenessProbe": {"exec": {}}, "readinessProbe": {"httpGet": {}}}
    spec = {
        "containers": [container],
        "initContainers": [{"name": "sidecar", "restartPolicy": "Always"}],
        "volumes": [{"name": "a", "nfs": {}}, {"name": "b", "emptyDir": {}}],
    }

    assert unsupported(spec) == [
        "volumes.nfs",
        "initContainers.restartPolicy",
        "containers.livenessProbe",
    ]


@pytest.mark.parametrize(
    ("manifest", "path"),
    [
        ({"kind": "Pod"}, "/api/v1/namespaces/tests/pods"),
        ({"kind": "NetworkPolicy"}, "/apis/networking.k8s.io/v1/namespaces/tests/networkpolicies"),
        ({"kind": "PriorityClass"}, "/apis/scheduling.k8s.io/v1/priorityclasses"),
        ({"kind": "RephraseRun"}, "/apis/rephrase.io/v1alpha1/namespaces/tests/rephraseruns"),
        ({"kind": "EndpointSlice"}, "/apis/discovery.k8s.io/v1/namespaces/tests/endpointslices"),
    ],
)
def test_paths_are_those_of_the_api_server(manifest: dict[str, Any], path: str) -> None:
    assert path_of(resource_of(manifest), "tests") == path
