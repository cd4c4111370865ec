"""The operator under fire: everything that takes a worker away, and what is counted, done and told then."""

import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random  # noqa: TID251 - seeded

import pytest

from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.builders import a_container, a_namespace, a_pod, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.installed import SYSTEM, Operator, installed
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.local_operator import environment
from support.cluster.runs import QUICK, SLOW, Runs
from support.cluster.seen import Seen
from support.cluster.wire import Object, Refused, Unreachable
from support.helm import RELEASE
from support.manifests import echo
from support.s3 import BUCKET, S3
from support.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
AddNode = Callable[..., Node]
DOCUMENTS = 3000
"""Of the run that lives through everything: more than it gets done before it is told to hurry."""
SLOWER = echo(concurrency=1, latency=0.5)


@pytest.fixture
def runs(operator: Operator, namespace: Client, s3: S3, tmp_path: Path) -> Runs:
    """A namespace with a source and credentials, looked after by the operator; it has no node yet."""
    return Runs(namespace, s3, tmp_path)


def running(runs: Runs) -> list[Object]:
    """Workers' pods that run, and are not about to end."""
    return [
        pod
        for pod in runs.pods("worker")
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def wait_running(
    runs: Runs, count: int, *, but: Collection[str] = (), within: float = 60
) -> list[Object]:
    """Wait until so many workers run on other nodes than `but`."""

    def there() -> list[Object] | None:
        found = [pod for pod in running(runs) if pod["spec"]["nodeName"] not in but]
        return found if len(found) >= count else None

    return wait_until(there, f"{count} workers run", within=within)


def others(runs: Runs, uid: str) -> list[Object]:
    return [pod for pod in running(runs) if pod["metadata"]["uid"] != uid]


def counts(run: Object) -> tuple[int, int]:
    status = run.get("status") or {}
    return status.get("disruptions", 0), status.get("workerFailures", 0)


def wait_counted(runs: Runs, *, within: float = 120) -> Object:
    """Wait until a pod that ended is counted as one or the other."""
    return runs.namespace.wait_for(
        "rephraseruns",
        "test",
        lambda run: sum(counts(run)) >= 1,
        "the end is counted",
        within=within,
    )


def test_a_worker_that_is_preempted_seven_times_is_back_within_seconds(
    runs: Runs, add_node: AddNode
) -> None:
    add_node("cpu")
    runs.apply(model=SLOWER, workers={"max": 1})
    (pod,) = wait_running(runs, 1)
    seconds = []
    for _ in range(7):
        runs.namespace.evict(pod["metadata"]["name"])
        began, old = time.monotonic(), pod["metadata"]["uid"]
        (pod,) = wait_until(partial(others, runs, old), "another worker runs", within=60)
        seconds.append(time.monotonic() - began)
    run = runs.namespace.wait_for(
        "rephraseruns", "test", lambda run: counts(run) == (7, 0), "seven are counted"
    )

    assert max(seconds) < 15, seconds
    assert not run["status"].get("recentFailures")
    runs.namespace.patch("rephraseruns", "test", QUICK)
    runs.complete()
    assert runs.verify().returncode == 0


Meddling = Callable[[Runs, Node, str], None]


def taint(runs: Runs, node: Node, pod: str) -> None:
    spec = {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}
    runs.namespace.in_namespace(None).patch("nodes", node.name, {"spec": spec})


def preempt(runs: Runs, node: Node, pod: str) -> None:
    """Fill the node with a pod of higher priority."""
    cluster = runs.namespace.in_namespace(None)
    cluster.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "urgent"},
            "value": 1000,
        }
    )
    large = a_container(["sleep", "600"], resources={"requests": {"cpu": "7950m"}})
    place = {"kubernetes.io/hostname": node.name}
    runs.namespace.create(a_pod("urgent", large, priorityClassName="urgent", nodeSelector=place))


def reboot(runs: Runs, node: Node, pod: str) -> None:
    node.lose_power()
    node.boot()


DISRUPTIONS: dict[str, Meddling] = {
    "evicted": lambda runs, node, pod: runs.namespace.evict(pod),
    "deleted by hand": lambda runs, node, pod: runs.namespace.delete("pods", pod),
    "preempted by the scheduler": preempt,
    "tainted": taint,
    "node shut down": lambda runs, node, pod: node.shut_down(),
    "node low on memory": lambda runs, node, pod: node.run_low_on_memory(),
    "spot node reclaimed": lambda runs, node, pod: node.reclaim(notice_seconds=1),
    "node gone without notice": lambda runs, node, pod: node.vanish(),
    "node rebooted under its old name": reboot,
}


@pytest.mark.parametrize("what", DISRUPTIONS)
def test_what_is_no_fault_of_a_worker_is_a_disruption(
    what: str, runs: Runs, add_node: AddNode
) -> None:
    first = add_node("first")
    runs.apply(model=SLOW, workers={"max": 1})
    (pod,) = wait_running(runs, 1)
    add_node("second")

    DISRUPTIONS[what](runs, first, pod["metadata"]["name"])
    run = wait_counted(runs)
    runs.namespace.patch("rephraseruns", "test", QUICK)
    runs.complete(within=180)

    assert counts(run) == (1, 0)
    assert runs.verify().returncode == 0


def test_a_pod_over_its_storage_limit_is_a_failure_that_says_so(
    runs: Runs, add_node: AddNode
) -> None:
    node = add_node("cpu")
    runs.apply(model=SLOW, workers={"max": 1})
    (pod,) = wait_running(runs, 1)

    node.exceed_storage_limit(pod["metadata"]["name"])
    run = wait_counted(runs)

    assert counts(run) == (0, 1)
    assert "exceeds the limit" in run["status"]["recentFailures"][0]["message"]


def test_a_node_that_refuses_a_worker_is_taken_last(runs: Runs, add_node: AddNode) -> None:
    bad = add_node("bad")
    runs.apply(model=SLOW, workers={"max": 0})
    runs.wait(ConditionType.PLANNED)
    bad.reject_next()
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": {"max": 1}}})
    run = wait_counted(runs)
    good = add_node("good")

    (avoided,) = run["status"]["workers"]["avoidNodes"]
    (pod,) = wait_running(runs, 1)
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": {"max": 2}}})
    wait_running(runs, 1, but=[bad.name])

    assert counts(run) == (1, 0)
    assert avoided["name"] == bad.name
    assert avoided["reason"] == "UnexpectedAdmissionError"
    assert pod["spec"]["nodeName"] in {bad.name, good.name}


def test_a_node_on_which_workers_fail_again_and_again_is_taken_last(
    runs: Runs, add_node: AddNode, kubelet: Kubelet
) -> None:
    bad = add_node("bad")
    runs.apply(model=SLOW, workers={"max": 1})
    for _ in range(2):
        (pod,) = wait_running(runs, 1)
        kubelet.run_out_of_memory(pod["metadata"]["namespace"], pod["metadata"]["name"], "worker")
        wait_until(partial(others, runs, pod["metadata"]["uid"]), "it is tried again", within=120)
    run = runs.namespace.wait_for(
        "rephraseruns", "test", lambda run: run["status"]["workers"].get("avoidNodes"), "avoided"
    )
    add_node("good")
    runs.namespace.patch("rephraseruns", "test", {"spec": {"workers": {"max": 2}}})
    wait_running(runs, 1, but=[bad.name])

    assert [node["name"] for node in run["status"]["workers"]["avoidNodes"]] == [bad.name]
    assert counts(runs.get())[1] == 2


def test_a_silent_node_gets_a_substitute_and_its_zombie_does_no_harm(
    runs: Runs, add_node: AddNode
) -> None:
    silent = add_node("silent")
    runs.apply(model=SLOWER, workers={"max": 1})
    wait_running(runs, 1)
    add_node("other")

    silent.lose_network()
    wait_running(runs, 1, but=[silent.name], within=240)
    silent.regain_network()
    runs.namespace.patch("rephraseruns", "test", QUICK)
    run = runs.complete(within=180)

    assert run["status"]["workerFailures"] == 0
    assert runs.verify().returncode == 0


def test_a_job_that_its_queue_takes_back_is_pending_and_no_disruption(
    runs: Runs, add_node: AddNode
) -> None:
    """Kueue's part, as its documentation has it: it suspends and resumes Jobs with its label."""
    add_node("cpu")
    (cpu,) = runs.manifest()["spec"]["workers"]["pools"]
    runs.apply(model=SLOW, workers={"max": 1, "pools": [cpu | {"queueName": "team-a"}]})
    wait_running(runs, 1)
    (job,) = runs.jobs("worker")
    name = job["metadata"]["name"]

    runs.namespace.patch("jobs", name, {"spec": {"suspend": True}})
    run = runs.wait(ConditionType.WORKERS_AVAILABLE, "False", "QuotaPending")
    left = running(runs)
    runs.namespace.patch("jobs", name, {"spec": {"suspend": False}})
    wait_running(runs, 1)
    (same,) = runs.jobs("worker")
    run = runs.complete(within=180)

    assert left == []
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert same["metadata"]["uid"] == job["metadata"]["uid"]
    assert counts(run) == (0, 0)
    assert runs.verify().returncode == 0


def test_a_pool_without_nodes_is_passed_over_and_the_workers_start_in_the_next(
    runs: Runs, add_node: AddNode
) -> None:
    add_node("cpu")
    (cpu,) = runs.manifest()["spec"]["workers"]["pools"]
    spot = {"name": "spot", "priority": 10, "nodeSelector": {"kind": "spot"}}
    pools = [cpu | spot | {"fallbackAfterSeconds": 4}, cpu | {"name": "od"}]
    runs.apply(model=SLOW, workers={"max": 2, "pools": pools})

    running = wait_running(runs, 2)
    run = runs.namespace.wait_for(
        "rephraseruns", "test", lambda run: run["status"]["workers"]["ready"] == 2, "both work"
    )
    runs.namespace.patch("rephraseruns", "test", QUICK)
    runs.complete(within=180)

    assert {pod["metadata"]["labels"]["rephrase.io/pool"] for pod in running} == {"od"}
    spot, od = run["status"]["workers"]["pools"]
    assert (spot["desired"], od["desired"], spot["stockouts"]) == (0, 2, 1)
    assert counts(run) == (0, 0)
    events = runs.namespace.list("events", fields="reason=PoolFallback")
    assert ["pool spot had no node in time" in event["message"] for event in events] == [True]


def test_jobs_that_a_user_deletes_are_made_again(runs: Runs, add_node: AddNode) -> None:
    add_node("cpu")
    runs.apply(model=SLOW)
    wait_running(runs, 2)

    for job in runs.jobs():
        runs.namespace.delete("jobs", job["metadata"]["name"])
    wait_until(lambda: not running(runs), "the old ones are gone")
    wait_running(runs, 2)
    runs.namespace.patch("rephraseruns", "test", QUICK)
    run = runs.complete()

    assert run["status"]["workerFailures"] == 0
    assert runs.verify().returncode == 0


@dataclass(frozen=True, slots=True)
class Own:
    """A cluster with an operator that these tests have to themselves."""

    plane: ControlPlane
    client: Client
    kubelet: Kubelet
    operator: Operator


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """One whose programs may be killed."""
    folder = tmp_path_factory.mktemp("own")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(folder / "plane"))
        client = plane.client()
        kubelet = stack.enter_context(Kubelet(client, folder / "kubelet"))
        operator = stack.enter_context(installed(client, kubelet))
        yield Own(plane, client, kubelet, operator)


class Blows:
    """What is done to one run, in any order; each leaves three workers running, or soon will."""

    def __init__(self, own: Own, runs: Runs, name: str) -> None:
        self._own = own
        self._runs = runs
        self._name = name
        self._spared: set[str] = set()
        self._nodes = {node.name: node for node in (self.add_node(number) for number in range(4))}

    def add_node(self, number: int) -> Node:
        return self._own.kubelet.add_node(f"{self._name}-{number}")

    def take_nodes_away(self) -> None:
        """The next run has nodes of its own."""
        for node in self._nodes.values():
            self._own.kubelet.remove_node(node)

    def evict_a_worker(self) -> None:
        self._runs.namespace.evict(self._worker()["metadata"]["name"])

    @contextmanager
    def darkness(self) -> Iterator[None]:
        """A worker's node is without power; other blows spare it, and the node of the driver."""
        (driver,) = self._runs.pods("driver")
        self._spared = {driver["spec"]["nodeName"]}
        node = self._nodes[self._worker()["spec"]["nodeName"]]
        node.lose_power()
        self._spared.add(node.name)
        try:
            yield
        finally:
            node.boot()
            self._spared = set()

    def kill_a_worker(self) -> None:
        self._kill(lambda: [self._worker()], "worker")

    def power_off_a_node(self) -> None:
        node = self._nodes[self._worker()["spec"]["nodeName"]]
        node.lose_power()
        node.boot()

    def reclaim_a_spot_node(self) -> None:
        node = self._nodes.pop(self._worker()["spec"]["nodeName"])
        node.reclaim(notice_seconds=0.5)
        wait_until(lambda: not self._own.kubelet.pods_on(node), "it is gone")

    def kill_the_driver(self) -> None:
        self._kill(lambda: self._runs.pods("driver"), "driver")

    def kill_the_operator(self) -> None:
        self._own.operator.kill()
        self._own.operator.wait_ready()

    def kill_the_control_plane(self) -> None:
        plane = self._own.plane
        plane.api_server.kill()
        plane.etcd.kill()
        plane.etcd.start()
        plane.api_server.start()
        wait_until(lambda: answers(self._own.client), "the API server answers", within=60)

    def _kill(self, pods: Callable[[], list[Object]], container: str) -> None:
        """SIGKILL; what the API server still calls running may be gone from its node already."""

        def killed() -> bool:
            for pod in pods():
                with suppress(LookupError):
                    name = pod["metadata"]["name"]
                    if self._own.kubelet.run_out_of_memory(self._name, name, container):
                        return True
            return False

        wait_until(killed, f"a {container} is killed", within=180)

    def _worker(self) -> Object:
        """One on a node that is still there: the API server calls others running for a while."""

        def there() -> Object | None:
            nodes = self._nodes.keys() - self._spared
            return next((p for p in running(self._runs) if p["spec"]["nodeName"] in nodes), None)

        return wait_until(there, "a worker runs", within=180)


BLOWS = (
    Blows.evict_a_worker,
    Blows.kill_a_worker,
    Blows.power_off_a_node,
    Blows.reclaim_a_spot_node,
    Blows.kill_the_driver,
    Blows.kill_the_operator,
    Blows.kill_the_operator,
    Blows.kill_the_control_plane,
)


@contextmanager
def ablaze(own: Own, name: str, seaweedfs: str, folder: Path) -> Iterator[tuple[Runs, Blows]]:
    """Three workers of a run that has begun, on nodes of its own; it must have come to a good end after."""
    own.operator.stop()  # one that was killed often is started later and later, up to five minutes
    own.operator.start()
    own.client.create(a_namespace(name))
    client = own.client.in_namespace(name)
    client.wait_for("serviceaccounts", "default", bool, "it is there")
    runs = Runs(client, S3(seaweedfs, BUCKET, name), folder, documents=DOCUMENTS)
    blows = Blows(own, runs, name)
    try:
        runs.apply(model=SLOW, workers={"max": 3})
        wait_running(runs, 3)
        runs.wait_committed(1)
        yield runs, blows
        runs.namespace.patch("rephraseruns", "test", QUICK)
        run = runs.complete(within=300)

        assert run["status"]["progress"]["samples"]["written"] == 3 * DOCUMENTS
        assert runs.verify().returncode == 0
        wait_until(lambda: not runs.jobs(), "the Jobs are removed")
    finally:
        blows.take_nodes_away()


@pytest.mark.parametrize("seed", range(20))
def test_a_run_survives_all_of_it_in_any_order(
    seed: int, own: Own, seaweedfs: str, tmp_path: Path
) -> None:
    with ablaze(own, f"fire-{seed}", seaweedfs, tmp_path) as (runs, blows):
        for blow in Random(seed).sample(BLOWS, len(BLOWS)):  # noqa: S311 - no secret
            blow(blows)
        wait_counted(runs)
    run = runs.get()

    # the killed worker and nothing else; none, if its pod went with its node while no operator was there
    assert run["status"]["workerFailures"] <= 1, run["status"].get("recentFailures")
    assert (
        run["status"]["disruptions"] >= 1
    )  # blows may meet in one worker, or the end comes before the last


def test_a_run_survives_all_of_it_with_one_failure_counted_and_every_story_told(
    own: Own, seaweedfs: str, tmp_path: Path
) -> None:
    with ablaze(own, "story", seaweedfs, tmp_path) as (runs, blows):
        with blows.darkness():
            blows.evict_a_worker()
            blows.kill_a_worker()
            wait_status(runs, lambda status: status["workerFailures"] == 1)
            blows.reclaim_a_spot_node()
            blows.kill_the_driver()
            wait_status(runs, lambda status: status["disruptions"] >= 2)
            blows.kill_the_operator()
            blows.kill_the_control_plane()
            blows.kill_the_operator()
        wait_status(runs, lambda status: status["disruptions"] >= 3)
    run = runs.get()
    told = {
        event["reason"]: event["message"]
        for event in runs.namespace.list("events", fields="involvedObject.kind=RephraseRun")
    }

    assert run["status"]["workerFailures"] == 1
    (failure,) = run["status"]["recentFailures"]
    assert "out of memory" in failure["message"]
    assert {"WorkerFailed", "WorkersInterrupted", "OperatorStarted", "Completed"} <= told.keys()
    assert "out of memory" in told["DriverUnreachable"], told


def wait_status(runs: Runs, fits: Callable[[Object], bool]) -> Object:
    """Wait until the run's status fits."""
    return runs.namespace.wait_for(
        "rephraseruns", "test", lambda run: fits(run["status"]), "the status tells", within=240
    )


def answers(client: Client) -> bool:
    try:
        client.list("rephraseruns")
    except (Refused, *Unreachable):
        return False
    return True


def test_a_stopped_operator_s_runs_are_let_go_by_the_documented_patch(
    own: Own, seaweedfs: str, tmp_path: Path
) -> None:
    own.client.create(a_namespace("let-go"))
    client, operator = own.client.in_namespace("let-go"), own.operator
    client.wait_for("serviceaccounts", "default", bool, "it is there")
    own.kubelet.add_node("let-go")
    runs = Runs(client, S3(seaweedfs, BUCKET, "let-go"), tmp_path)
    runs.apply(model=SLOW)
    runs.wait(ConditionType.PLANNED)
    operator.stop()

    client.delete("rephraseruns", "test")
    held = runs.get()
    patch = [{"op": "remove", "path": "/metadata/finalizers"}]
    client.patch("rephraseruns", "test", patch, how="application/json-patch+json")  # type: ignore[arg-type]
    client.wait_gone("rephraseruns", "test")

    assert held["metadata"]["finalizers"] == ["rephrase.io/drain"]
    wait_until(lambda: not client.list("jobs"), "garbage collection takes its Jobs", within=60)
    operator.start()


def test_an_operator_that_dies_at_every_write_makes_no_job_twice_and_counts_every_pod_once(
    operator: Operator,
    runs: Runs,
    add_node: AddNode,
    cluster_client: Client,
    tmp_path: Path,
) -> None:
    add_node("cpu")
    operator.stop()
    try:
        token = cluster_client.in_namespace(SYSTEM).token(RELEASE)
        access = cluster_client.wire.access.with_token(token)
        config = access.write_kubeconfig(tmp_path / "kubeconfig")
        runs.apply(model=SLOW)
        with Seen(runs.namespace) as seen:
            deaths = die_at_every_write(runs, config, tmp_path)
            operator.start()
            runs.complete()
            wait_until(lambda: not runs.jobs(), "the Jobs are removed")
            run = runs.get()
    finally:
        operator.start()

    assert deaths >= 6  # each of the first three writes of an operator, before and after
    assert sorted(seen.jobs.values()) == ["test-driver", "test-w000-1", "test-w001-1"]
    (settled,) = run["status"]["settled"]
    assert (settled["disruptions"], settled["failures"]) == (0, 0)
    assert abs(settled["gpuSeconds"] - seen.seconds) < 0.5
    assert runs.verify().returncode == 0


def die_at_every_write(runs: Runs, config: Path, folder: Path) -> int:
    """Start operators that die at their first, second ... write until the run is complete; how many died."""
    for number in range(200):
        fate = {"DIE_AT": str(number % 6 // 2 + 1), "DIE": ("before", "after")[number % 2]}
        with (folder / "operator.log").open("ab") as log:
            mortal = subprocess.Popen(
                [sys.executable, "-m", "support.cluster.mortal"],
                env=environment(config) | fate,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + 60
        while mortal.poll() is None and time.monotonic() < give_up:
            if holds(runs.get(), "Complete"):
                break
        mortal.kill()
        mortal.wait()
        if holds(runs.get(), "Complete"):
            return number
    raise AssertionError("not complete after 200 deaths")
