"""Runs on machines that a genuine autoscaler makes, runs out of, takes back and removes."""

import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.cluster.builders import a_container, a_job, condition, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.diary import Diary
from support.cluster.installed import Operator, installed
from support.cluster.karpenter import CAPACITY, ON_DEMAND, SPOT, TAINT, Karpenter
from support.cluster.kubelet.clock import now
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.namespaces import own_namespace
from support.cluster.runs import Runs
from support.cluster.wire import Object
from support.manifests import echo
from support.s3 import S3
from support.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
TOLERATES = [{"key": TAINT, "operator": "Exists", "effect": "NoSchedule"}]
WORKS = """
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
threading.Event().wait()
"""
POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own: Karpenter makes a machine for every pod that has none."""
    with ControlPlane(tmp_path_factory.mktemp("karpenter") / "plane") as plane:
        yield plane


@pytest.fixture(scope="module")
def kubelet(plane: ControlPlane) -> Iterator[Kubelet]:
    """One with a node that no worker fits on, for drivers."""
    with Kubelet(plane.client(), plane.folder / "kubelet") as kubelet:
        kubelet.add_node("cpu")
        yield kubelet


@pytest.fixture(scope="module")
def karpenter(plane: ControlPlane, kubelet: Kubelet) -> Iterator[Karpenter]:
    """The autoscaler."""
    with Karpenter(plane.client(), kubelet, plane.folder / "karpenter") as karpenter:
        yield karpenter


@pytest.fixture
def namespace(
    plane: ControlPlane, karpenter: Karpenter, kubelet: Kubelet, request: pytest.FixtureRequest
) -> Iterator[Client]:
    """A namespace in a cluster without machines and with all in stock, before the test and after it."""
    with own_namespace(plane.client(), request.node.name) as client:
        yield client
    karpenter.restock(SPOT, ON_DEMAND)
    wait_until(lambda: not karpenter.nodes(), "the machines are gone", within=120)
    errors, kubelet.errors[:] = list(kubelet.errors), []
    assert errors == [], "the kubelet itself made a mistake"


@pytest.fixture
def diary(namespace: Client, request: pytest.FixtureRequest) -> Diary:
    """Says what happens when, with the events of the namespace."""
    return Diary(namespace, request.node.name)


# -- the autoscaler itself ------------------------------------------------------------------------


def a_gpu_job(capacity: str, **spec: Any) -> Object:  # noqa: ANN401 - fields of a Job's spec
    gpu = {"limits": {TAINT: "1"}}
    container = a_container([sys.executable, "-c", WORKS], resources=gpu)
    place = {"nodeSelector": {CAPACITY: capacity}, "tolerations": TOLERATES}
    return a_job("gpu", container, place, podFailurePolicy=POLICY, **spec)


def pods(namespace: Client) -> list[Object]:
    return namespace.list("pods", labels="job-name=gpu")


def ready_pod(namespace: Client, *, but: str = "", within: float = 60) -> Object:
    """The ready pod of the Job that has not this uid."""

    def found() -> Object | None:
        ready = (pod for pod in pods(namespace) if holds(pod, "Ready"))
        return next((pod for pod in ready if pod["metadata"]["uid"] != but), None)

    return wait_until(found, "a pod runs", within=within)


def says_ready(kubelet: Kubelet, pod: Object) -> bool:
    metadata = pod["metadata"]
    return "ready" in kubelet.log_of(metadata["namespace"], metadata["name"])


def test_a_job_gets_a_machine_which_goes_when_the_job_is_deleted(
    namespace: Client, karpenter: Karpenter, diary: Diary
) -> None:
    namespace.create(a_gpu_job(SPOT))
    diary.note("Job created")

    pod = ready_pod(namespace)
    diary.note("its pod runs")
    (node,) = karpenter.nodes(SPOT)
    namespace.delete("jobs", "gpu")
    diary.note("Job deleted")
    wait_until(lambda: not karpenter.nodes(), "the machine is gone", within=120)
    diary.note("the machine is gone")

    assert pod["spec"]["nodeName"] == node["metadata"]["name"]
    assert node["status"]["allocatable"][TAINT] == "1"
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "gpu-1"


def test_a_stock_out_is_told_to_the_pod_and_ends_with_it(
    namespace: Client, karpenter: Karpenter, diary: Diary
) -> None:
    karpenter.stock_out(SPOT)
    namespace.create(a_gpu_job(SPOT))
    diary.note("Job created while spot is out of stock")

    fields = "reason=InsufficientCapacityError"
    (event,) = wait_until(lambda: namespace.list("events", fields=fields), "the pod is told")
    diary.note("the pod is told")
    told = wait_until(partial(not_schedulable, namespace), "there is nothing to try", within=60)
    diary.note("Karpenter has nothing to try")
    waiting, nodes = pods(namespace), karpenter.nodes()
    karpenter.restock(SPOT)
    diary.note("restocked")
    ready_pod(namespace, within=90)
    diary.note("its pod runs")

    assert event["source"]["component"] == "karpenter"
    assert "no capacity is left for gpu-1/test-zone-a/spot" in event["message"]
    assert told["message"].startswith("Failed to schedule pod")
    assert [condition(pod, "PodScheduled")["reason"] for pod in waiting] == ["Unschedulable"]
    assert nodes == []


def not_schedulable(namespace: Client) -> Object | None:
    """Karpenter's event that there is nothing to try; the scheduler's have the same reason."""
    events = namespace.list("events", fields="reason=FailedScheduling")
    return next((one for one in events if one["source"].get("component") == "karpenter"), None)


def test_an_interrupted_machine_s_pod_is_evicted_and_not_counted(
    namespace: Client, karpenter: Karpenter, kubelet: Kubelet, diary: Diary
) -> None:
    namespace.create(a_gpu_job(SPOT))
    pod = ready_pod(namespace)
    wait_until(partial(says_ready, kubelet, pod), "it says so")
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    diary.note("its pod runs")

    karpenter.interrupt(node)
    diary.note("interrupted")
    gone = namespace.wait_for(
        "pods", name, lambda pod: pod["status"]["phase"] == "Failed", "it ends", within=60
    )
    diary.note("its pod has ended")
    other = ready_pod(namespace, but=pod["metadata"]["uid"], within=90)
    diary.note("another runs")

    assert condition(gone, "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"
    assert gone["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 75
    assert other["spec"]["nodeName"] != node
    assert "failed" not in namespace.get("jobs", "gpu")["status"]


# -- runs on its machines -------------------------------------------------------------------------

FALLBACK_SECONDS = 10
SLOWER = echo(concurrency=1, latency=0.5)
QUICK: Object = {"spec": {"model": {"engine": {"args": []}}}}


def a_pool(name: str, price: str, **more: Any) -> Object:  # noqa: ANN401 - fields of a pool
    """A pool of workers with a GPU each."""
    base: Object = {
        "name": name,
        "gpu": {"count": 1},
        "pricePerGPUHour": price,
        "tolerations": TOLERATES,
        "fallbackAfterSeconds": FALLBACK_SECONDS,
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    return base | more


CHEAP = a_pool("spot", "1.00", capacityType="Spot", priority=10, nodeSelector={CAPACITY: SPOT})
DEAR = a_pool("od", "4.00", nodeSelector={CAPACITY: ON_DEMAND})


class Watched:
    """A run as `kubectl get rr -o wide` shows it. All that is shown on the way is checked and told."""

    def __init__(self, runs: Runs, diary: Diary) -> None:
        self._runs = runs
        self._diary = diary
        self._last = ""

    def wait(self, workers: str, *reasons: str, within: float = 90) -> Object:
        """Wait until the columns Workers and Reason say this; returns the run as it was then."""

        def there() -> Object | None:
            cells, run = self.look()
            fits = cells["Workers"] == workers and cells["Reason"] in reasons
            return run if fits else None

        return wait_until(there, f"it shows {workers} {' or '.join(reasons)}", within=within)

    def look(self) -> tuple[Object, Object]:
        """Columns, and the run that they are of."""
        cells, run = self._runs.row()
        said = condition(run, "WorkersAvailable")
        shown = " ".join(str(cells[name]) for name in ("Phase", "Progress", "Workers", "Reason"))
        told = f"{cells['Workers']} {cells['Reason']} {said.get('message')}"
        if told != self._last:
            self._last = told
            self._diary.note(f"shows {shown} ({said.get('message')})")
        if said:
            check_row(cells, run)
        return cells, run


def check_row(cells: Object, run: Object) -> None:
    """The columns are those of the status, and one sentence says why there are too few workers."""
    status, said = run["status"], condition(run, "WorkersAvailable")
    workers, units = status["workers"], (status.get("progress") or {}).get("units")
    ready, desired = workers["ready"], workers["desired"]
    assert cells["Phase"] == status["phase"]
    assert cells["Workers"] == f"{ready}/{desired}"
    assert cells["Reason"] == said["reason"]
    assert cells["Progress"] == (f"{units['committed']}/{units['planned']}" if units else None)
    assert cells["Cost"] == (status.get("cost") or {}).get("total")
    if ready < desired:
        silent = said["message"] == "the driver does not answer, so readiness is unknown"
        assert silent or said["message"].startswith(f"{ready} of {desired} ready; "), said
        assert len(said["message"]) > len(f"{ready} of {desired} ready; ")


def running(runs: Runs, pool: str = "") -> list[Object]:
    """Workers' pods that run, and are not about to end."""
    return [
        pod
        for pod in runs.pods("worker")
        if pod["status"]["phase"] == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and pod["metadata"]["labels"]["rephrase.io/pool"] in (pool or "spot od hasty").split()
    ]


def nodes_of(pods: list[Object]) -> set[str]:
    return {pod["spec"]["nodeName"] for pod in pods}


def names_of(nodes: list[Object]) -> set[str]:
    return {node["metadata"]["name"] for node in nodes}


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, karpenter: Karpenter, kubelet: Kubelet) -> Iterator[Operator]:
    """The operator, installed by its chart."""
    with installed(plane.client(), kubelet) as operator:
        yield operator


@pytest.fixture
def runs(operator: Operator, namespace: Client, s3: S3, tmp_path: Path) -> Runs:
    """A namespace with a long source and credentials, looked after by the operator."""
    return Runs(namespace, s3, tmp_path, documents=2000)


@pytest.fixture
def watched(runs: Runs, diary: Diary) -> Watched:
    """The run."""
    return Watched(runs, diary)


def finish(runs: Runs, diary: Diary, karpenter: Karpenter) -> Object:
    """Let it run to its end, which leaves no machine."""
    runs.namespace.patch("rephraseruns", "test", QUICK)
    diary.note("made quick")
    run = runs.complete(within=240)
    diary.note("complete")
    wait_until(lambda: not karpenter.nodes(), "the machines are gone", within=120)
    diary.note("the machines are gone")
    assert runs.verify().returncode == 0
    return run


def test_a_run_makes_machines_for_its_workers_and_gives_them_back(
    runs: Runs, karpenter: Karpenter, watched: Watched, diary: Diary
) -> None:
    runs.apply(model=SLOWER, workers={"max": 2, "pools": [CHEAP, DEAR]})
    diary.note("applied")

    watched.wait("2/2", "MinimumReached")
    both, nodes = running(runs), karpenter.nodes()
    run = finish(runs, diary, karpenter)
    cells, _ = watched.look()

    assert nodes_of(both) == names_of(nodes)
    assert len(nodes) == 2
    assert {node["metadata"]["labels"][CAPACITY] for node in nodes} == {SPOT}
    assert (run["status"]["disruptions"], run["status"]["workerFailures"]) == (0, 0)
    assert (cells["Phase"], cells["Workers"], cells["Reason"]) == ("Succeeded", "0/0", "NoWorkLeft")


def test_workers_go_on_demand_while_spot_is_out_of_stock_and_back_to_spot_one_by_one_after_it(
    runs: Runs, karpenter: Karpenter, watched: Watched, diary: Diary
) -> None:
    karpenter.stock_out(SPOT)
    runs.apply(model=SLOWER, workers={"max": 2, "pools": [CHEAP, DEAR]})
    diary.note("applied while spot is out of stock")

    watched.wait("0/2", "Unschedulable", "CapacityStockout")
    first = {created(job) for job in runs.jobs("worker")}
    run = watched.wait("2/2", "MinimumReached")
    moved = {created(job) for job in runs.jobs("worker")}
    spot, od = run["status"]["workers"]["pools"]
    assert (spot["desired"], spot["ready"], spot["stockouts"]) == (0, 0, 1)
    assert (od["desired"], od["ready"]) == (2, 2)
    assert names_of(karpenter.nodes()) == names_of(karpenter.nodes(ON_DEMAND))
    assert (max(moved) - min(first)).total_seconds() <= FALLBACK_SECONDS + 5

    karpenter.restock(SPOT)
    scale(runs, 3)
    diary.note("restocked, and scaled to 3 during the pause")
    watched.wait("3/3", "MinimumReached")
    assert len(running(runs, "od")) == 3

    until, ready = datetime.fromisoformat(spot["stockoutUntil"]), []
    wait_until(lambda: watched.look() and now() > until, "the pause is over", within=600)
    diary.note("the pause is over")

    def is_back() -> bool:
        workers = watched.look()[1]["status"]["workers"]
        ready.append(workers["ready"])
        return [pool["ready"] for pool in workers["pools"]] == [3, 0]

    wait_until(is_back, "all work on spot again", within=240)
    diary.note("all work on spot again")
    assert min(ready) >= 2  # one after the other
    assert nodes_of(running(runs)) == names_of(karpenter.nodes(SPOT))
    wait_until(lambda: not karpenter.nodes(ON_DEMAND), "the dear machines are gone", within=120)
    diary.note("the dear machines are gone")

    run = finish(runs, diary, karpenter)
    assert (run["status"]["disruptions"], run["status"]["workerFailures"]) == (0, 0)
    fallbacks = runs.namespace.list("events", fields="reason=PoolFallback")
    assert ["pool spot had no node in time" in event["message"] for event in fallbacks] == [True]


def test_the_word_of_the_autoscaler_makes_a_patient_pool_give_up_within_a_minute_or_so(
    runs: Runs, karpenter: Karpenter, watched: Watched, diary: Diary
) -> None:
    karpenter.stock_out(SPOT)
    patient = CHEAP | {"fallbackAfterSeconds": 900}
    runs.apply(model=SLOWER, workers={"max": 1, "pools": [patient, DEAR]})
    diary.note("applied while spot is out of stock")

    run = watched.wait("0/1", "CapacityStockout")
    (waiting,) = runs.jobs("worker")
    watched.wait("1/1", "MinimumReached", within=150)
    (moved,) = runs.jobs("worker")

    message = condition(run, "WorkersAvailable")["message"]
    assert "no capacity is left for gpu-1/test-zone-a/spot" in message
    assert moved["metadata"]["labels"]["rephrase.io/pool"] == "od"
    assert 60 <= (created(moved) - created(waiting)).total_seconds() <= 75
    finish(runs, diary, karpenter)


def created(job: Object) -> datetime:
    return datetime.fromisoformat(job["metadata"]["creationTimestamp"])


def scale(runs: Runs, workers: int) -> None:
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": {"max": workers}}})


def test_a_machine_that_is_taken_back_costs_the_run_no_retry(
    runs: Runs, karpenter: Karpenter, watched: Watched, diary: Diary
) -> None:
    runs.apply(model=SLOWER, workers={"max": 2, "pools": [CHEAP, DEAR]})
    watched.wait("2/2", "MinimumReached")
    lost = running(runs)[0]["spec"]["nodeName"]

    karpenter.interrupt(lost)
    diary.note("one machine is interrupted")
    watched.wait("1/2", "MinimumReached")
    run = watched.wait("2/2", "MinimumReached")
    back = running(runs, "spot")
    run = finish(runs, diary, karpenter)

    assert lost not in nodes_of(back)
    assert len(back) == 2
    assert (run["status"]["disruptions"], run["status"]["workerFailures"]) == (1, 0)


def test_a_worker_that_is_deleted_because_its_machine_s_time_is_over_is_a_disruption(
    runs: Runs, karpenter: Karpenter, kubelet: Kubelet, watched: Watched, diary: Diary
) -> None:
    """With a `terminationGracePeriod` Karpenter deletes pods: no DisruptionTarget, and a shorter grace."""
    with karpenter.pool("hasty", SPOT, terminationGracePeriod="5s") as place:
        hasty = a_pool("hasty", "1.00", nodeSelector=place)
        runs.apply(model=SLOWER, workers={"max": 1, "pools": [hasty]})
        watched.wait("1/1", "MinimumReached")
        (pod,) = running(runs)
        name = pod["metadata"]["name"]

        karpenter.interrupt(pod["spec"]["nodeName"])
        diary.note("its machine is interrupted")
        gone = runs.namespace.wait_for(
            "pods", name, lambda pod: pod["status"]["phase"] == "Failed", "it ends"
        )
        diary.note("it has ended")
        runs.namespace.wait_for(
            "rephraseruns", "test", lambda run: run["status"].get("disruptions"), "it is counted"
        )
        watched.wait("1/1", "MinimumReached")
        run = finish(runs, diary, karpenter)

    (ended,) = gone["status"]["containerStatuses"]
    assert condition(gone, "DisruptionTarget") == {}
    assert gone["metadata"]["deletionGracePeriodSeconds"] < 10
    assert ended["state"]["terminated"]["exitCode"] == 75
    assert (run["status"]["disruptions"], run["status"]["workerFailures"]) == (1, 0)
