"""A run on a genuine control plane, by an operator that the chart installed: from apply to a dataset."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.builders import condition
from support.cluster.client import Client
from support.cluster.installed import Operator, get
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.runs import SLOW, Runs
from support.cluster.wire import Object
from support.manifests import echo
from support.s3 import S3
from support.waiting import wait_until

AddNode = Callable[..., Node]
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runs(operator: Operator, namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path) -> Runs:
    """A namespace with a node, a source and credentials, looked after by the operator."""
    add_node("cpu", cpu="8")
    return Runs(namespace, s3, tmp_path)


def samples(run: Object) -> int:
    return int(run["status"]["progress"]["samples"]["written"])


def events(namespace: Client) -> list[str]:
    found = namespace.list("events", fields="involvedObject.kind=RephraseRun")
    return [event["reason"] for event in found]


def workers(run: Object) -> str:
    return str(((run.get("status") or {}).get("workers") or {}).get("display"))


def test_a_run_becomes_a_verified_dataset_and_leaves_nothing_behind(
    runs: Runs, operator: Operator, kubectl: Kubectl
) -> None:
    uid = runs.apply(model=echo(concurrency=8, latency=0.3))["metadata"]["uid"]
    runs.wait(ConditionType.WORKERS_AVAILABLE)
    jobs = runs.jobs()
    run = runs.complete()

    waited = kubectl("wait", "rr/test", "--for=condition=Complete", "--timeout=10s")
    shown = kubectl("get", "rr", "test").stdout.splitlines()[1].split()
    assert {job["metadata"]["ownerReferences"][0]["uid"] for job in jobs} == {uid}
    assert waited.returncode == 0, waited.stderr
    assert shown[:4] == ["test", "Succeeded", "10/10", "0/0"]
    assert samples(run) == 600
    assert run["status"]["progress"]["documents"] == {"total": 200, "done": 200}
    assert run["status"]["observedGeneration"] == run["metadata"]["generation"]
    assert run["status"]["cost"]["basis"] == "Static"
    assert float(run["status"]["cost"]["total"]) > 0
    wait_until(lambda: not runs.jobs(), "the Jobs are removed")
    wait_until(lambda: not runs.namespace.list("pods"), "the pods are gone")
    verified = runs.verify()
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert {"Planned", "WorkersScaled", "WorkersAvailable", "Completed"} <= set(
        events(runs.namespace)
    )
    metrics = operator.metrics()
    labels = f'namespace="{runs.namespace.namespace}",run="test"'
    assert f'rephrase_run_units{{{labels},state="committed"}} 10.0' in metrics


@pytest.mark.full
def test_drivers_and_workers_tell_their_metrics(runs: Runs) -> None:
    runs.apply(model=SLOW)
    runs.wait(ConditionType.PROGRESSING)

    (driver,) = runs.pods("driver")
    worker = runs.pods("worker")[0]
    of_driver = get(f"http://{driver['status']['podIP']}:8000/metrics")
    of_worker = get(f"http://{worker['status']['podIP']}:8000/metrics")

    assert 'rephrase_store_request_duration_seconds_count{op="list"}' in of_driver
    assert 'rephrase_worker_phase_seconds_total{phase="generating"}' in of_worker
    assert "rephrase_generated_tokens_total" in of_worker


def test_a_suspended_run_frees_its_pods_and_goes_on_where_it_was(runs: Runs) -> None:
    runs.apply(model=SLOW)
    runs.wait_committed(1)

    runs.namespace.patch("rephraseruns", "test", {"spec": {"suspend": True}})
    suspended = runs.wait(ConditionType.SUSPENDED, "True", "Requested", within=30)
    left = runs.pods("worker")
    before = suspended["status"]["progress"]["units"]["committed"]
    runs.namespace.patch(
        "rephraseruns", "test", {"spec": {"suspend": False, "model": {"engine": {"args": []}}}}
    )
    run = runs.complete()

    assert left == []
    assert suspended["status"]["phase"] == "Suspended"
    assert before >= 1
    assert run["status"]["disruptions"] == 0
    assert run["status"]["workerFailures"] == 0
    assert runs.verify().returncode == 0


def test_a_deleted_run_leaves_no_pods_and_an_output_that_another_completes(runs: Runs) -> None:
    runs.apply(model=SLOW)
    runs.wait_committed(1)

    runs.namespace.delete("rephraseruns", "test")
    runs.namespace.wait_gone("rephraseruns", "test", within=45)
    left = runs.jobs() + runs.pods()
    runs.apply(model={"engine": {"args": []}})
    run = runs.complete()

    assert left == []
    assert samples(run) == 600
    assert runs.verify().returncode == 0


def test_an_operator_that_is_killed_again_and_again_takes_the_same_next_steps(
    runs: Runs, operator: Operator
) -> None:
    runs.apply(model=SLOW)
    for units in (0, 1, 2):
        runs.wait_committed(units)
        operator.kill()
        operator.wait_ready()
    jobs = [job["metadata"]["name"] for job in runs.jobs()]
    runs.namespace.patch("rephraseruns", "test", {"spec": {"model": {"engine": {"args": []}}}})
    run = runs.complete()

    assert sorted(jobs) == ["test-driver", "test-w000-1", "test-w001-1"]
    assert samples(run) == 600
    assert runs.verify().returncode == 0


def test_a_canary_waits_for_approval_with_an_estimate_and_then_all_workers_go_on(
    runs: Runs, operator: Operator, kubectl: Kubectl
) -> None:
    """Two units of 20 documents; both are done by one worker, and nobody works while it waits."""
    canary = {"documents": 30, "approval": "Manual"}
    runs.apply(model=echo(concurrency=8, latency=0.1), canary=canary)

    waiting = runs.wait(ConditionType.SUSPENDED, "True", "AwaitingApproval", within=90)
    wait_until(lambda: not runs.jobs(), "worker and driver are gone")
    operator.kill()
    operator.wait_ready()
    still, jobs = runs.wait(ConditionType.SUSPENDED, "True", "AwaitingApproval"), runs.jobs()
    patch = '{"spec":{"canary":{"approved":true}}}'
    patched = kubectl("patch", "rr/test", "--type=merge", "-p", patch)
    passed = runs.wait(ConditionType.CANARY_PASSED, "True", "WithinLimits")
    run = runs.complete()

    status = waiting["status"]
    assert (jobs, patched.returncode) == ([], 0)
    assert status["progress"]["display"] == "2/10"
    assert status["canary"]["documents"] == 40
    assert status["canary"]["completionTokensPerSecond"] > 0
    assert status["canary"]["pool"] == "cpu"
    assert {one["name"] for one in status["canary"]["prompts"]} == {"brief", "twice"}
    assert status["estimate"]["basis"].startswith("all in pool cpu: measured by a canary")
    assert float(status["estimate"]["cost"]["high"]) > 0
    assert {"time", "workers", "gpuHours", "completionTokens"} <= status["estimate"].keys()
    assert still["status"]["canary"] == status["canary"] == passed["status"]["canary"]
    assert samples(run) == 600
    assert run["status"]["workerFailures"] == 0
    assert runs.verify().returncode == 0
    told = events(runs.namespace)
    assert {"AwaitingApproval", "Resumed", "CanaryPassed", "Completed"} <= set(told)


@pytest.mark.full
def test_workers_go_on_and_are_replaced_while_there_is_no_operator(
    runs: Runs, operator: Operator
) -> None:
    runs.apply(model=SLOW)
    runs.wait_committed(1)

    operator.stop()
    try:
        victim = runs.pods("worker")[0]["metadata"]["name"]
        runs.namespace.evict(victim)
        runs.namespace.wait_gone("pods", victim)
        wait_until(lambda: len(runs.pods("worker")) == 2, "another takes its place", within=60)
    finally:
        operator.start()
    runs.namespace.patch("rephraseruns", "test", {"spec": {"model": {"engine": {"args": []}}}})

    run = runs.complete()
    assert run["status"]["workerFailures"] == 0
    assert runs.verify().returncode == 0


@pytest.mark.full
def test_kubectl_scale_adds_and_drains_workers(runs: Runs, kubectl: Kubectl) -> None:
    runs.apply(model=SLOW)
    runs.wait(ConditionType.WORKERS_AVAILABLE)

    kubectl("scale", "rr/test", "--replicas=3")
    wait_until(lambda: len(runs.pods("worker")) == 3, "a third worker")
    kubectl("scale", "rr/test", "--replicas=1")
    wait_until(lambda: len(runs.pods("worker")) == 1, "one is left")
    run = runs.namespace.wait_for(
        "rephraseruns", "test", lambda run: workers(run) == "1/1", "one is ready"
    )

    assert run["status"]["disruptions"] == 0
    (left,) = (job["metadata"]["name"] for job in runs.jobs("worker"))
    assert left in {
        "test-w000-1",
        "test-w001-1",
    }  # the slower of them went after the one that only began


@pytest.mark.full
def test_new_engine_arguments_reach_the_workers_one_after_the_other(runs: Runs) -> None:
    runs.apply(model=SLOW)
    runs.wait(ConditionType.WORKERS_AVAILABLE)

    runs.namespace.patch("rephraseruns", "test", {"spec": {"model": {"engine": {"args": []}}}})

    run = runs.complete()
    assert run["status"]["workerFailures"] == 0
    assert runs.verify().returncode == 0


def test_a_preempted_worker_is_a_disruption_and_one_out_of_memory_a_failure(
    runs: Runs, kubelet: Kubelet
) -> None:
    runs.apply(model=SLOW)
    runs.wait_committed(1)
    first, second = (pod["metadata"]["name"] for pod in runs.pods("worker"))

    runs.namespace.evict(first)
    kubelet.run_out_of_memory(str(runs.namespace.namespace), second, "worker")
    run = runs.namespace.wait_for(
        "rephraseruns",
        "test",
        lambda run: run["status"]["disruptions"] and run["status"]["workerFailures"],
        "both are counted",
        within=60,
    )
    runs.namespace.patch("rephraseruns", "test", {"spec": {"model": {"engine": {"args": []}}}})
    runs.complete()

    assert (run["status"]["disruptions"], run["status"]["workerFailures"]) == (1, 1)
    (failure,) = run["status"]["recentFailures"]
    assert failure["reason"] == "OOMKilled"
    assert "out of memory" in failure["message"]
    assert runs.verify().returncode == 0


@pytest.mark.full
def test_a_finished_run_goes_after_its_time_and_its_dataset_stays(runs: Runs) -> None:
    runs.apply(ttlSecondsAfterFinished=1)

    runs.namespace.wait_gone("rephraseruns", "test", within=120)

    assert runs.verify().returncode == 0


@pytest.mark.full
def test_another_run_with_the_same_output_is_refused_by_name(runs: Runs) -> None:
    runs.apply(model=SLOW)
    runs.wait(ConditionType.ACCEPTED)
    other = runs.manifest("other", model=SLOW)
    other["spec"]["output"] = runs.manifest("test")["spec"]["output"]

    runs.namespace.apply(other)
    refused = runs.wait(ConditionType.ACCEPTED, "False", "OutputInUse", name="other")
    runs.namespace.delete("rephraseruns", "test")
    runs.wait(ConditionType.ACCEPTED, name="other", within=60)

    assert f"{runs.namespace.namespace}/test" in condition(refused, "Accepted")["message"]
    assert runs.jobs(run="other") == [] or runs.get("other")["status"]["phase"] != "Pending"


@pytest.mark.full
@pytest.mark.needs("engine")
@pytest.mark.timeout(1200)
def test_a_run_with_a_real_model_becomes_a_verified_dataset(runs: Runs, model: Path) -> None:
    arguments = ["--enforce-eager", "--max-num-seqs=16"]
    engine = {"type": "VLLM", "args": arguments}
    runs.apply(
        model={"name": None, "uri": str(model), "maxModelLength": 1024, "engine": engine},
        sampling={"maxTokens": 16, "seed": None},
        source={"limit": {"documents": 8}},
        workers={"max": 1},
        durability={"heartbeatSeconds": 5, "leaseSeconds": 60, "checkpointSeconds": 10},
    )

    run = runs.complete(within=900)

    assert samples(run) == 24
    assert run["status"]["tokens"]["completion"] > 24
    assert runs.verify().returncode == 0
