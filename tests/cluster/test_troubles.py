"""What goes wrong on a cluster says why and what to do, spins nothing, and goes on once it is repaired."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.builders import condition
from support.cluster.client import Client
from support.cluster.installed import Operator
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.runs import QUICK, SLOW, Runs
from support.cluster.wire import Object
from support.manifests import merged
from support.s3 import S3

AddNode = Callable[..., Node]
SOON = 30
"""Seconds within which a trouble must be told."""


@pytest.fixture
def runs(operator: Operator, namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path) -> Runs:
    """A namespace with a node, a source and credentials, looked after by the operator."""
    add_node("cpu")
    return Runs(namespace, s3, tmp_path)


def pool(runs: Runs, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML values
    """Workers of one pool, with these fields."""
    (cpu,) = runs.manifest()["spec"]["workers"]["pools"]
    return {"pools": [merged(cpu, fields)]}


def told(run: Object, kind: ConditionType = ConditionType.WORKERS_AVAILABLE) -> str:
    return str(condition(run, kind)["message"])


def pods_made(runs: Runs) -> int:
    """Pods that Jobs have made so far, by their events."""
    events = runs.namespace.list("events", fields="reason=SuccessfulCreate")
    return sum(event.get("count") or 1 for event in events)


def test_a_column_or_model_that_is_not_there_fails_the_run_before_any_worker(runs: Runs) -> None:
    runs.apply("column", source={"columns": {"id": "nope"}})
    model = {"uri": "/nowhere", "name": None, "engine": {"type": "VLLM", "args": None}}
    runs.apply("model", model=model)

    column = runs.wait(ConditionType.FAILED, name="column", within=SOON)
    model = runs.wait(ConditionType.FAILED, name="model", within=SOON)
    repaired = runs.manifest("repaired")
    repaired["spec"]["output"]["uri"] = runs.manifest("column")["spec"]["output"]["uri"]
    runs.namespace.apply(repaired)

    assert condition(column, "Failed")["reason"] == "InvalidSpec"
    assert 'spec.source.columns.id: no column "nope"' in told(column, ConditionType.FAILED)
    assert condition(model, "Failed")["reason"] == "InvalidModel"
    assert "/nowhere: no such folder" in told(model, ConditionType.FAILED)
    assert "new object" in told(model, ConditionType.FAILED)
    assert runs.jobs("worker", run="column") + runs.jobs("worker", run="model") == []
    runs.complete("repaired")


@pytest.mark.full
def test_refused_credentials_are_told_and_tried_again_with_the_new_secret(runs: Runs) -> None:
    runs.put_secret("wrong", "nobody", "knows")
    runs.apply(output={"secretRef": {"name": "wrong"}})

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "AccessRefused", within=SOON)
    made = pods_made(runs)
    good = runs.namespace.get("secrets", "store")["data"]
    runs.namespace.patch("secrets", "wrong", {"data": good})

    assert "access denied by the store" in told(run)
    assert "tried again by itself" in told(run)
    assert condition(run, "Failed")["status"] == "False"
    assert made <= 3
    runs.complete(within=180)


@pytest.mark.full
def test_a_missing_secret_is_told(runs: Runs) -> None:
    runs.apply(output={"secretRef": {"name": "later"}})

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "VolumeMount", within=SOON)
    good = runs.namespace.get("secrets", "store")["data"]
    metadata = {"name": "later"}
    runs.namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": good})

    assert '"later" not found' in told(run)
    runs.complete()


def test_a_missing_service_account_is_told(runs: Runs) -> None:
    runs.apply(serviceAccountName="ghost")

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "PodCreationBlocked", within=SOON)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ghost"}}
    runs.namespace.create(account)

    assert 'serviceaccount "ghost" not found' in told(run)
    assert "tried again by itself" in told(run)
    runs.complete()


def test_an_exceeded_quota_is_told(runs: Runs, add_node: AddNode) -> None:
    add_node("gpu", gpus=2)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "0"}},
    }
    runs.namespace.create(quota)
    runs.apply(workers=pool(runs, gpu={"count": 1}))

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "PodCreationBlocked", within=SOON)
    runs.namespace.patch(
        "resourcequotas", "gpus", {"spec": {"hard": {"requests.nvidia.com/gpu": "2"}}}
    )

    assert "exceeded quota: gpus" in told(run)
    runs.complete(within=180)


def test_a_pod_that_pod_security_refuses_is_told(runs: Runs) -> None:
    port = {"name": "worker", "ports": [{"containerPort": 8000, "hostPort": 8000}]}
    runs.apply(workers=pool(runs, podTemplate={"spec": {"containers": [port]}}))

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "PodCreationBlocked", within=SOON)
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": pool(runs)}})

    assert "violates PodSecurity" in told(run)
    assert "hostPort" in told(run)
    runs.complete()


def test_a_gpu_that_no_node_has_is_told(runs: Runs, add_node: AddNode) -> None:
    runs.apply(workers=pool(runs, gpu={"count": 1}))

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "Unschedulable", within=SOON)
    add_node("gpu", gpus=2)

    assert "Insufficient nvidia.com/gpu" in told(run)
    assert "Add such nodes" in told(run)
    assert run["status"]["workers"]["pools"][0]["pending"] == 2
    runs.complete()


def test_an_image_that_cannot_be_pulled_is_told(runs: Runs, kubelet: Kubelet) -> None:
    image = "rephrase.invalid/typo:1"
    kubelet.host.missing_images.add(image)
    runs.apply(image={"runner": image})

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "ImagePull", within=SOON)
    runs.namespace.patch("rephraseruns", "test", {"spec": {"image": {"runner": None}}})

    assert image in told(run)
    assert "spec.image" in told(run)
    runs.complete()


@pytest.mark.full
def test_workers_that_never_start_stop_the_run_until_the_spec_changes(runs: Runs) -> None:
    command = {"name": "worker", "command": ["sh", "-c", "echo no such thing >&2; exit 1"]}
    template = {"podTemplate": {"spec": {"containers": [command]}}}
    runs.apply(workers=pool(runs, **template), retries={"workerBackoffLimit": 0})

    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "CrashLoop", within=SOON)

    assert "exit 1" in told(run)
    assert "no such thing" in told(run)
    assert run["status"]["workerFailures"] >= 1
    assert run["status"]["recentFailures"][0]["reason"] == "Exit1"
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": pool(runs)}})
    runs.complete()


def test_a_template_that_the_api_server_refuses_is_not_accepted(runs: Runs) -> None:
    bad = {"podTemplate": {"spec": {"containers": [{"name": "worker", "imagePullPolicy": "No"}]}}}
    runs.apply(workers=pool(runs, **bad))
    forbidden = pool(runs, podTemplate={"spec": {"hostNetwork": True}})
    runs.apply("forbidden", workers=forbidden)

    other = runs.wait(ConditionType.ACCEPTED, "False", "InvalidSpec", name="forbidden", within=SOON)
    run = runs.wait(ConditionType.ACCEPTED, "False", "PodTemplateRejected", within=SOON)
    made = runs.jobs()
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": pool(runs)}})

    assert "imagePullPolicy" in told(run, ConditionType.ACCEPTED)
    place = "spec.workers.pools[0].podTemplate.spec.hostNetwork"
    assert place in told(other, ConditionType.ACCEPTED)
    assert made + runs.jobs(run="forbidden") == []
    runs.complete()


def test_a_run_whose_template_has_become_unreadable_can_still_be_stopped(runs: Runs) -> None:
    runs.apply(model=SLOW)
    runs.wait(ConditionType.WORKERS_AVAILABLE)
    unreadable = pool(runs, podTemplate={"spec": {"volumes": "none"}})
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": unreadable}})
    refused = runs.wait(ConditionType.ACCEPTED, "False", "PodTemplateRejected", within=SOON)
    went_on = runs.pods("worker")
    runs.namespace.patch("rephraseruns", "test", {"spec": {"suspend": True}})
    runs.wait(ConditionType.SUSPENDED, "True", "Requested")
    left = runs.pods("worker")
    quick = {"spec": {"suspend": False, "workers": pool(runs), **QUICK["spec"]}}
    runs.namespace.patch("rephraseruns", "test", quick)
    runs.complete()

    assert "podTemplate.spec.volumes" in told(refused, ConditionType.ACCEPTED)
    assert (len(went_on), left) == (2, [])
    assert runs.verify().returncode == 0


@pytest.mark.full
def test_a_budget_without_a_price_is_not_accepted_and_a_spent_one_drains(runs: Runs) -> None:
    dear = pool(runs, pricePerGPUHour="3600")  # one a second
    runs.apply("unpriced", scaling={"budget": {"amount": "5"}},
               workers=pool(runs, pricePerGPUHour=None))  # fmt: skip
    slow = {"engine": {"args": ["--latency-seconds=2", "--concurrency=2"]}}
    runs.apply("dear", scaling={"budget": {"amount": "20"}}, workers=dear, model=slow)

    unpriced = runs.wait(ConditionType.ACCEPTED, "False", "PriceMissing", name="unpriced")
    spent = runs.wait(ConditionType.SUSPENDED, "True", "BudgetExhausted", name="dear")
    left = runs.pods("worker", run="dear")
    more = {"scaling": {"budget": {"amount": "9999"}}, "model": {"engine": {"args": []}}}
    runs.namespace.patch("rephraseruns", "dear", {"spec": more})

    assert "set pricePerGPUHour of cpu" in told(unpriced, ConditionType.ACCEPTED)
    assert "raise spec.scaling.budget.amount" in told(spent, ConditionType.SUSPENDED)
    assert condition(spent, "BudgetExhausted")["status"] == "True"
    assert left == []
    runs.complete("dear")


@pytest.mark.full
def test_too_many_failed_documents_stop_the_run_until_the_limit_is_raised(runs: Runs) -> None:
    failing = {"engine": {"args": ["--fail-on=district"]}}
    limit = {"maxFailedDocuments": {"share": "1%", "count": 10}, "requestAttempts": 1}
    runs.apply(model=failing, retries=limit)

    stopped = runs.wait(ConditionType.SUSPENDED, "True", "FailureLimit", within=90)
    raised = {"retries": {"maxFailedDocuments": {"count": 500}}}
    runs.namespace.patch("rephraseruns", "test", {"spec": raised})
    run = runs.complete(within=120)

    assert "documents failed, more than" in told(stopped, ConditionType.SUSPENDED)
    assert runs.pods("worker") == []
    assert run["status"]["progress"]["samples"]["failed"] == 600
