"""The control plane itself: who may use it, what it survives, and that nothing of it stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.cluster.access import Access, NotForTests, is_for_tests, read_kubeconfig
from support.cluster.builders import a_container, a_namespace, a_pod, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.processes import alive
from support.cluster.wire import Refused, Unreachable
from support.tiers import ROOT
from support.waiting import wait_until

ENDS_ON_SIGTERM = """
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
threading.Event().wait()
"""
UP = [sys.executable, "-m", "support.cluster.up"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "tests")}


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


def test_what_happens_while_the_control_plane_is_down_is_told_when_it_is_back(
    own_plane: ControlPlane, tmp_path: Path
) -> None:
    client = own_plane.client()
    client.create(a_namespace("outage"))
    namespace = client.in_namespace("outage")
    namespace.wait_for("serviceaccounts", "default", bool, "it is there")
    with Kubelet(client, tmp_path / "kubelet") as kubelet:
        kubelet.add_node("node")
        namespace.create(a_pod("works", a_container([sys.executable, "-c", ENDS_ON_SIGTERM])))
        namespace.wait_for("pods", "works", lambda pod: holds(pod, "Ready"), "it runs")
        wait_until(lambda: "ready" in kubelet.log_of("outage", "works"), "it says so")
        (life,) = kubelet.pod("outage", "works").running
        running = life.running
        assert running is not None

        own_plane.etcd.kill()
        own_plane.api_server.kill()
        with pytest.raises(Unreachable):
            namespace.list("pods")
        running.terminate()
        wait_until(lambda: running.has_ended, "it ends")
        own_plane.etcd.start()
        own_plane.api_server.start()
        own_plane.wait_until_ready()

        pod = namespace.wait_for(
            "pods", "works", lambda pod: pod["status"]["phase"] == "Failed", "told"
        )
        assert kubelet.errors == []
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 75


# -- how it is started and ends -------------------------------------------------------------------


def test_a_command_runs_with_a_cluster_of_its_own(tmp_path: Path) -> None:
    shows = "import os; print(os.environ['KUBECONFIG']); raise SystemExit(3)"

    done = subprocess.run(
        [*UP, "--folder", str(tmp_path), "--", sys.executable, "-c", shows],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3, done.stderr
    assert done.stdout == f"{tmp_path}/control-plane/kubeconfig\n"
    assert not alive(str(tmp_path))


@pytest.mark.needs("nodes")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_nothing_outlives_who_started_it(ending: signal.Signals, tmp_path: Path) -> None:
    command = [*UP, "--folder", str(tmp_path), "--nodes", "1"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        told = up.stdout.readline()
        kubeconfig = Path(told.strip().partition("=")[2])
        (tmp_path / "access").mkdir()
        access: Access = read_kubeconfig(kubeconfig, tmp_path / "access")
        namespace = Client(access, "default")
        sleeps = a_container(["/bin/sh", "-c", f": {tmp_path}; sleep 1000; true"])
        namespace.create(a_pod("sleeps", sleeps))
        namespace.wait_for("pods", "sleeps", lambda pod: holds(pod, "Ready"), "it runs")

        up.send_signal(ending)
        up.wait(30)

    wait_until(lambda: not alive(str(tmp_path)), "all processes are gone")
