"""What the operator may do: exactly what the chart grants it, in both modes, on a real authorizer."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.installed import SYSTEM, Operator, installed
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.wire import Object, Refused
from support.helm import RELEASE

GRANTED = {
    ("rephrase.io", "rephraseruns"): {"get", "list", "watch", "patch", "delete"},
    ("rephrase.io", "rephraseruns/status"): {"patch"},
    ("rephrase.io", "rephraseruns/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"list", "watch", "patch"},
    ("", "events"): {"create", "list"},
}
SCANNING = {
    ("", "namespaces"): {"list", "watch"},
    ("apiextensions.k8s.io", "customresourcedefinitions"): {"list", "watch"},
}
FORBIDDEN = [
    ("get", "", "secrets"),
    ("list", "", "secrets"),
    ("get", "", "configmaps"),
    ("get", "", "nodes"),
    ("get", "", "pods/log"),
    ("create", "", "pods/exec"),
    ("create", "", "pods"),
    ("delete", "", "pods"),
    ("update", "batch", "jobs"),
    ("patch", "batch", "jobs"),
    ("update", "rephrase.io", "rephraseruns"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("impersonate", "", "users"),
]


def as_account(client: Client, account: str, namespace: str | None = None) -> Client:
    """A client with nothing but the token of a ServiceAccount beside the operator."""
    token = client.in_namespace(SYSTEM).token(account)
    return Client(client.wire.access.with_token(token), namespace)


def rules(client: Client, namespace: str) -> dict[tuple[str, str], set[str]]:
    """Verbs by resource that the operator has in a namespace, but for what every ServiceAccount has."""
    everybodys = rules_of(as_account(client, "default"), namespace)
    mine = rules_of(as_account(client, RELEASE), namespace)
    return {what: verbs for what, verbs in mine.items() if everybodys.get(what) != verbs}


def rules_of(client: Client, namespace: str) -> dict[tuple[str, str], set[str]]:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    found: dict[tuple[str, str], set[str]] = {}
    for rule in client.create(review)["status"]["resourceRules"]:
        for what in ((g, r) for g in rule["apiGroups"] for r in rule["resources"]):
            found.setdefault(what, set()).update(rule["verbs"])
    return found


def allowed(client: Client, verb: str, group: str, resource: str, namespace: str) -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes | {"subresource": subresource}},
    }
    return bool(as_account(client, RELEASE).create(review)["status"]["allowed"])


def test_the_operator_of_a_cluster_may_do_what_the_table_says_and_no_more(
    operator: Operator, cluster_client: Client, namespace: Client
) -> None:
    name = str(namespace.namespace)

    assert rules(cluster_client, name) == GRANTED | SCANNING
    assert [what for what in FORBIDDEN if allowed(cluster_client, *what, namespace=name)] == []


def test_the_operator_cannot_read_a_secret(
    operator: Operator, cluster_client: Client, namespace: Client
) -> None:
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}}
    namespace.create(secret)

    with pytest.raises(Refused, match="secrets") as refused:
        as_account(cluster_client, RELEASE, namespace.namespace).get("secrets", "key")

    assert refused.value.code == 403


@pytest.fixture
def of_one_namespace(own_plane: ControlPlane, tmp_path: Path) -> Iterator[tuple[Client, Kubelet]]:
    """A cluster of its own, with an operator that looks after the namespace `mine` only."""
    from support.cluster.builders import a_namespace

    client = own_plane.client()
    with ExitStack() as stack:
        kubelet = stack.enter_context(Kubelet(client, tmp_path / "kubelet"))
        for name in ("mine", "yours"):
            client.create(a_namespace(name))
        stack.enter_context(installed(client, kubelet, {"watchNamespaces": ["mine"]}))
        yield client, kubelet


@pytest.mark.full
def test_the_operator_of_a_namespace_works_there_with_no_right_elsewhere(
    of_one_namespace: tuple[Client, Kubelet], seaweedfs: str, tmp_path: Path
) -> None:
    from support.cluster.runs import Runs
    from support.s3 import BUCKET, S3

    client, kubelet = of_one_namespace
    kubelet.add_node("cpu")
    runs = Runs(client.in_namespace("mine"), S3(seaweedfs, BUCKET, "of-one-namespace"), tmp_path)
    runs.apply()
    there = Runs(client.in_namespace("yours"), S3(seaweedfs, BUCKET, "of-another"), tmp_path)
    there.apply()
    runs.complete()

    assert rules(client, "mine") == GRANTED
    assert rules(client, "yours") == {}
    assert "status" not in there.get()
