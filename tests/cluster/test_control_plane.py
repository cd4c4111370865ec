"""The control plane itself: who may use it, what it survives, and that nothing of it stays behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cluster.access import Access, NotForTests, is_for_tests, read_kubeconfig
from support.cluster.builders import a_container, a_namespace, a_pod, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.wire import Refused, Unreachable
from support.tiers import ROOT
from support.waiting import wait_until

UP = [sys.executable, "-m", "support.cluster.up"]
AddNode = Callable[..., object]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "tests")}


def alive(mark: str) -> bool:
    """Whether a process has this in its command line."""
    return subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False).returncode == 0


# -- who may use it -------------------------------------------------------------------------------


def test_a_cluster_that_is_not_for_tests_is_refused(cluster_client: Client, tmp_path: Path) -> None:
    access = cluster_client.wire.access
    ours = access.write_kubeconfig(tmp_path / "ours")
    theirs = tmp_path / "theirs"
    theirs.write_text(ours.read_text().replace("rephrase-tests", "production"))

    assert is_for_tests(ours)
    assert not is_for_tests(tmp_path / "nowhere")
    with pytest.raises(NotForTests, match="the current context is not 'rephrase-tests'"):
        read_kubeconfig(theirs, tmp_path)


def test_a_token_has_the_rights_of_its_service_account_and_no_more(
    namespace: Client, tmp_path: Path
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}
    namespace.create(account)
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    namespace.create(rbac | {"kind": "Role", "metadata": {"name": "reader"}, "rules": rules})
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    }
    namespace.create(rbac | binding)

    access = namespace.wire.access.with_token(namespace.token("reader"))
    reader = Client(access, namespace.namespace)

    assert reader.list("pods") == []
    with pytest.raises(Refused, match=r"403 Forbidden: secrets is forbidden: User .*:reader"):
        reader.list("secrets")
    assert "token" in access.write_kubeconfig(tmp_path / "kubeconfig").read_text()


# -- what it survives -----------------------------------------------------------------------------


def test_pods_go_on_while_the_control_plane_is_down(
    own_plane: ControlPlane, tmp_path: Path
) -> None:
    client = own_plane.client()
    client.create(a_namespace("outage"))
    namespace = client.in_namespace("outage")
    namespace.wait_for("serviceaccounts", "default", bool, "it is there")
    gate = tmp_path / "gate"
    code = "import os, sys; print('ready', flush=True); sys.stdin = open('/gate/it'); sys.stdin.read(); sys.exit(7)"

    with Kubelet(client, tmp_path / "kubelet") as kubelet:
        kubelet.add_node("node")
        container = a_container([sys.executable, "-c", code])
        namespace.create(a_pod("works", container))
        namespace.wait_for("pods", "works", lambda pod: holds(pod, "Ready"), "it runs")
    assert gate
