"""The invariants at the head of `plan`, over a small cluster that carries plans out.

The cluster is the Job controller, the scheduler and the kubelet in a few lines: back-off as Kubernetes
1.37 counts it, pods that are preempted, fail, get lost or are rejected, models that load, nodes that run
out; and a status whose writing may fail.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api import names
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.look import Look, decide
from rephrase_operator.observed import JobSeen, Observed, PodSeen
from rephrase_operator.plan import DeleteJob, Plan, StartDriver, StartWorker
from rephrase_operator.settings import Settings
from rephrase_operator.status import status_of
from rephrase_operator.verdict import Verdict
from support.looks import (
    NOW,
    a_driver_job,
    a_job,
    a_pod,
    a_progress,
    a_run,
    at_work,
    observed,
    two_pools,
)

BACKOFF_LIMIT = 3
LOOK_SECONDS = 30
LOADING_SECONDS = 90
NEVER = Settings(crash_loop_failures=10**6)


class Cluster:
    """A run in a cluster, and the operator that looks at it."""

    def __init__(self, *, most: int = 3, pools: bool = False, settings: Settings = NEVER) -> None:
        self.now = NOW
        self.settings = settings
        self.generation = 1
        self.spec: dict[str, Any] = (
            two_pools({"max": 2}, {"max": 2}, max=most) if pools else {"workers": {"max": most}}
        )
        self.run = a_run(generation=1, **self.spec)
        self.template = 0
        self.status = RephraseRunStatus()
        self.jobs: dict[str, JobSeen] = {}
        self.pods: dict[str, PodSeen] = {}
        self.gone: dict[str, PodSeen] = {}
        self.failed: dict[str, tuple[int, int, datetime]] = {}
        self.worked: set[str] = set()
        self.planned, self.committed, self.finished = 50, 0, False
        self.answers = True
        self.nodes = 10
        self.serial = 0
        self.broken_template = -1
        self.used: dict[str, float] = {}
        self.lost: set[str] = set()
        self.counted: list[str] = []

    # -- what users and fate do --

    def edit(self, **spec: Any) -> None:  # noqa: ANN401
        self.spec |= spec
        self.generation += 1
        self.run = a_run(generation=self.generation, **self.spec)

    def scale(self, most: int) -> None:
        self.edit(workers={**self.spec["workers"], "max": most})

    def change_image(self) -> None:
        self.template += 1
        self.edit()

    def live(self, role: str = names.WORKER) -> list[PodSeen]:
        return [pod for pod in self.pods.values() if not pod.terminal and pod.role == role]

    def ends(self, pod: PodSeen, code: int | None, **more: Any) -> None:  # noqa: ANN401
        self._account(pod)
        phase = "Succeeded" if code == 0 else "Failed"
        end = {"phase": phase, "exit_code": code, "finished": self.now}
        self.pods[pod.uid] = replace(pod, **{**end, **more})
        owner = next((job for job in self.jobs.values() if job.uid == pod.owner), None)
        if owner is None:
            self.vanish(pod.uid)
        elif code == 0:
            self.jobs[owner.name] = replace(owner, complete=True, ended=self.now)
        else:
            ignored = bool(more.get("disruption")) or code == 75
            counted, not_counted, _ = self.failed.get(owner.name, (0, 0, self.now))
            counted, not_counted = counted + (not ignored), not_counted + ignored
            self.failed[owner.name] = counted, not_counted, self.now
            if counted > BACKOFF_LIMIT:
                self.jobs[owner.name] = replace(owner, failure="FailedIndexes", ended=self.now)

    def vanish(self, uid: str) -> None:
        pod = self.pods.pop(uid)
        self._account(pod)
        if pod.role == names.WORKER and uid not in self.counted:
            self.gone[uid] = replace(pod, gone=True, finished=pod.finished or self.now)

    def restart(self) -> None:
        self.lost |= self.gone.keys() - set(self.counted)
        self.gone.clear()

    def _account(self, pod: PodSeen) -> None:
        if pod.role == names.WORKER:
            self.used.setdefault(pod.uid, pod.billed_seconds(self.now))

    def is_loaded(self, pod: PodSeen) -> bool:
        since = pod.scheduled
        return since is not None and self.now >= since + timedelta(seconds=LOADING_SECONDS)

    def ready(self) -> list[PodSeen]:
        running = [pod for pod in self.live() if pod.phase == "Running" and pod.node != "silent"]
        return [pod for pod in running if self.is_loaded(pod)]

    # -- what Kubernetes does --

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        for pod in self.live(names.WORKER) + self.live(names.DRIVER):
            if pod.deletion is not None and pod.deletion <= self.now and pod.node != "silent":
                self.ends(pod, 75)
            elif self.is_loaded(pod) and self.is_broken(pod):
                self.ends(pod, 1, reason="Error")
        for job in list(self.jobs.values()):
            self._control(job)
        used = sum(pod.phase == "Running" for pod in self.live())
        for pod in self.live():
            if pod.phase == "Pending" and used < self.nodes:
                used += 1
                self.pods[pod.uid] = replace(
                    pod, phase="Running", scheduled=self.now, reason="", node="node"
                )

    def is_broken(self, pod: PodSeen) -> bool:
        broken = f"t{self.broken_template}"
        return any(
            job.uid == pod.owner and job.template_hash == broken for job in self.jobs.values()
        )

    def _control(self, job: JobSeen) -> None:
        mine = [pod for pod in self.pods.values() if pod.owner == job.uid]
        if job.finished or any(not pod.terminal for pod in mine):
            return
        counted, ignored, last = self.failed.get(job.name, (0, 0, self.now))
        tries = counted + ignored
        wait = min(600, 10 * 2 ** (tries - 1)) if tries else 0
        if self.now < last + timedelta(seconds=wait):
            return
        self.serial += 1
        is_driver = job.role == names.DRIVER
        pod = a_pod(
            job,
            created=self.now,
            name=f"{job.name}-0-{self.serial}",
            uid=f"pod-{self.serial}",
            phase="Running" if is_driver else "Pending",
            scheduled=self.now if is_driver else None,
            reason="" if is_driver else "Unschedulable",
            node="",
        )
        self.pods[pod.uid] = pod

    def _delete(self, action: DeleteJob) -> None:
        job = self.jobs.get(action.name)
        if job is None or job.uid != action.uid:
            return
        del self.jobs[action.name]
        self.failed.pop(action.name, None)
        for pod in list(self.pods.values()):
            if pod.owner != job.uid:
                continue
            if pod.terminal or pod.phase == "Pending":
                self.vanish(pod.uid)
            elif pod.deletion is None:
                self.pods[pod.uid] = replace(pod, deletion=self.now + timedelta(seconds=60))

    def _create(self, job: JobSeen) -> None:
        if job.name not in self.jobs:
            self.serial += 1
            self.jobs[job.name] = replace(job, uid=f"job-{self.serial}", created=self.now)

    # -- what the operator does --

    def observe(self) -> Observed:
        driver = [pod for pod in self.live(names.DRIVER) if pod.phase == "Running"]
        pods = list({**self.gone, **self.pods}.values())
        if not driver or not self.answers:
            return observed(list(self.jobs.values()), pods)
        workers = []
        for pod in self.pods.values():
            phase = "generating" if self.is_loaded(pod) else "loading"
            if pod.role == names.WORKER and (pod.phase == "Running" or pod.uid in self.worked):
                done = int(pod.uid in self.worked)
                workers += at_work(pod, phase=phase, unitsCommitted=done)
        progress = a_progress(
            self.planned,
            self.committed,
            workers=workers,
            finished=self.finished,
            phase="Complete" if self.finished else "Running",
        )
        return observed(list(self.jobs.values()), pods, progress)

    def decide(self) -> Look:
        pools = self.run.spec.pools()
        return decide(
            self.run,
            self.status,
            self.observe(),
            refused=None,
            prices={},
            template_hashes={"": "driver"} | {pool.name: f"t{self.template}" for pool in pools},
            settings=self.settings,
            now=self.now,
        )

    def look(self, *, written: bool = True) -> Plan:
        look = self.decide()
        there, todo = look.observed, look.plan
        self.check(there, look.verdict, todo)
        self.carry_out(todo)
        if todo.actions and not look.verdict.over:
            # a driver's Job, and those of an older spec where there are too many, take one more
            self.carry_out(self.decide().plan)
            assert self.decide().plan.actions == (), "plans that are carried out come to an end"
        if written:
            before, self.status = self.status, RephraseRunStatus.from_api(status_of(look).to_api())
            for uid in before.settling:
                self.gone.pop(uid, None)
            self.counted += [pod.uid for pod, _ in look.settlement.ended]
        return todo

    def carry_out(self, todo: Plan) -> None:
        had = len(self.jobs)
        for action in todo.actions:
            if isinstance(action, DeleteJob):
                self._delete(action)
        for action in todo.actions:
            if isinstance(action, StartDriver):
                self._create(a_driver_job(template_hash="driver"))
            elif isinstance(action, StartWorker):
                fields = {"pool": action.pool, "template_hash": f"t{self.template}"}
                self._create(a_job(action.slot, action.attempt, **fields))
        workers = [job for job in self.jobs.values() if job.role == names.WORKER]
        assert len(workers) <= max(self.run.spec.workers.max, had)
        assert len({job.slot for job in workers}) == len(workers)

    def check(self, there: Observed, verdict: Verdict, todo: Plan) -> None:
        """What holds of every plan."""
        assert self.decide().plan == todo, "planning twice gives the same plan"
        starts = [action for action in todo.actions if isinstance(action, StartWorker)]
        deletes = [action for action in todo.actions if isinstance(action, DeleteJob)]
        if verdict.over or verdict.stopped is not None:
            assert not starts
        assert sum(todo.desired.values()) <= self.run.spec.workers.max
        for pool in self.run.spec.pools():
            assert todo.desired.get(pool.name, 0) <= (pool.max if pool.max is not None else 10**9)
        deleted = {action.name for action in deletes}
        assert len(deleted) == len(deletes)
        for job in there.worker_jobs:
            ended = {pod.uid for pod in there.pods_of(job) if pod.terminal}
            assert job.name not in deleted or ended <= {*self.status.settling}, "not settled"
        kept = [job for job in there.worker_jobs if job.name not in deleted]
        assert not starts or len(kept) + len(starts) <= self.run.spec.workers.max

    def watch(self, looks: int, seconds: float = LOOK_SECONDS) -> Plan:
        for _ in range(looks):
            self.pass_time(seconds)
            last = self.look()
        return last

    def calm(self, most: int = 80) -> None:
        """Time without faults, until nothing was to be done for longer than any pause."""
        self.answers, self.nodes = True, 10
        quiet = 0
        for _ in range(most):
            self.pass_time(LOOK_SECONDS)
            quiet = 0 if self.look().actions else quiet + 1
            if quiet * LOOK_SECONDS > 660:
                return
        raise AssertionError("there is always something left to do")


ENDINGS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "preempted": (75, {"disruption": "EvictionByEvictionAPI"}),
    "killed": (137, {"disruption": "TerminationByKubelet", "reason": "Terminated"}),
    "failed": (1, {"reason": "Error"}),
    "refused": (69, {"reason": "Error", "message": "AccessRefused: x"}),
    "done": (0, {"reason": "Completed"}),
    "drained": (75, {}),
    "lost": (137, {"reason": "ContainerStatusUnknown"}),
    "rejected": (None, {"reason": "OutOfcpu"}),
}
EVENTS = st.sampled_from(
    [
        *("look", "look", "look", "wait", "wait", "lost patch", "restart", "worked", "vanished"),
        *("silent", "scale", "image", "driver dies", "driver silent", "no nodes", "nodes"),
        *ENDINGS,
    ]
)
STORY = st.lists(st.tuples(EVENTS, st.integers(0, 5)), max_size=40)
Story = list[tuple[str, int]]


def live_through(cluster: Cluster, story: Story) -> None:
    for _ in range(3):
        cluster.look()
        cluster.pass_time(1)
    for event, number in story:
        running = [pod for pod in cluster.live() if pod.phase == "Running"]
        pod = running[number % len(running)] if running else None
        match event:
            case "look":
                cluster.look()
            case "lost patch":
                cluster.look(written=False)
            case "wait":
                cluster.pass_time((5, 30, 60, 120, 600, 1)[number])
            case "restart":
                cluster.restart()
            case "scale":
                cluster.scale(number)
            case "image":
                cluster.change_image()
            case "no nodes" | "nodes":
                cluster.nodes = 0 if event == "no nodes" else 10
            case "driver silent":
                cluster.answers = not cluster.answers
            case "driver dies":
                for driver in cluster.live(names.DRIVER):
                    cluster.ends(driver, 1, reason="Error")
            case "worked" if pod is not None:
                cluster.worked.add(pod.uid)
            case "vanished" if pod is not None:
                cluster.vanish(pod.uid)
            case "silent" if pod is not None:
                cluster.pods[pod.uid] = replace(
                    pod, node="silent", deletion=cluster.now, disruption="DeletionByTaintManager"
                )
            case _ if pod is not None and event in ENDINGS:
                code, more = ENDINGS[event]
                cluster.ends(pod, code, **more)
            case _:
                pass


@settings(max_examples=200)
@given(story=STORY, pools=st.booleans())
def test_after_all_faults_the_wanted_workers_run_and_every_pod_is_counted_once(
    story: Story, *, pools: bool
) -> None:
    cluster = Cluster(pools=pools)

    live_through(cluster, story)
    cluster.calm()

    wanted = min(cluster.run.spec.workers.max, 4 if pools else 10)
    owners = {job.uid: job for job in cluster.jobs.values()}
    templates = [owners[pod.owner].template_hash for pod in cluster.ready()]
    assert templates == [f"t{cluster.template}"] * wanted
    assert len(cluster.jobs) == wanted + 1
    assert cluster.status.observed_generation == cluster.generation
    assert sorted(cluster.counted) == sorted(cluster.used.keys() - cluster.lost)
    settled = sum(pool.gpu_seconds for pool in cluster.status.settled)
    assert settled == sum(cluster.used[uid] for uid in cluster.counted)


@settings(max_examples=20)
@given(STORY)
def test_a_stop_leaves_no_job_and_its_end_brings_all_back(story: Story) -> None:
    cluster = Cluster()

    live_through(cluster, story)
    cluster.edit(suspend=True)
    for uid in [uid for uid, pod in cluster.pods.items() if pod.node == "silent"]:
        cluster.vanish(uid)
    cluster.calm()

    assert cluster.jobs == {}
    assert cluster.status.phase == "Suspended"

    cluster.edit(suspend=False)
    cluster.calm()

    assert len(cluster.ready()) == cluster.run.spec.workers.max


@settings(max_examples=20)
@given(STORY)
def test_the_end_of_a_run_leaves_no_job_and_then_no_run(story: Story) -> None:
    cluster = Cluster()
    cluster.edit(ttlSecondsAfterFinished=0)

    live_through(cluster, story)
    cluster.committed, cluster.finished, cluster.answers = cluster.planned, True, True
    last = cluster.watch(30)

    assert cluster.jobs == {}
    assert cluster.status.phase == "Succeeded"
    assert [type(action).__name__ for action in last.actions] == ["DeleteRun"]


def test_a_preempted_worker_is_back_before_the_back_off_would_let_it() -> None:
    cluster = Cluster(most=1)
    cluster.calm()
    waits = []

    for _ in range(12):
        (pod,) = cluster.live()
        cluster.ends(pod, 75, disruption="EvictionByEvictionAPI")
        since = cluster.now
        while not any(one.phase == "Running" for one in cluster.live()):
            cluster.pass_time(5)
            cluster.look()
        waits.append((cluster.now - since).total_seconds())

    assert max(waits) <= 30
    assert sum(pool.disruptions for pool in cluster.status.settled) >= 11
    assert sum(pool.failures for pool in cluster.status.settled) == 0


@pytest.mark.parametrize("trouble", ["none", "no nodes", "broken"])
def test_a_new_spec_takes_only_a_tenth_of_the_workers_away_at_a_time(trouble: str) -> None:
    cluster = Cluster(most=20)
    cluster.nodes = 20
    cluster.watch(10)
    assert len(cluster.ready()) == 20

    cluster.change_image()
    cluster.nodes = 19 if trouble == "no nodes" else 20
    cluster.broken_template = 1 if trouble == "broken" else -1
    fewest = 20
    for _ in range(400):
        cluster.pass_time(5)
        cluster.look()
        fewest = min(fewest, len(cluster.ready()))

    new = [job for job in cluster.jobs.values() if job.template_hash == "t1"]
    assert fewest >= (17 if trouble == "no nodes" else 18)
    assert (len(new) == 20) == (trouble != "broken")
    assert cluster.status.observed_generation == (1 if trouble == "broken" else 2)


@pytest.mark.parametrize("cure", [{"model": {"engine": {"args": ["--a=1"]}}}, {"suspend": True}])
def test_a_worker_that_always_fails_stops_the_run_until_somebody_acts(cure: dict[str, Any]) -> None:
    cluster = Cluster(most=1, settings=Settings(crash_loop_failures=8))
    cluster.broken_template = 0
    cluster.watch(100)

    assert cluster.jobs == {}
    assert (cluster.status.phase, cluster.status.worker_failures) == ("Suspended", 8)
    assert cluster.status.stop is not None
    assert cluster.status.stop.reason == "WorkersNeverReady"

    cluster.broken_template = -1
    cluster.edit(**cure)
    cluster.calm()
    cluster.edit(suspend=False)
    cluster.calm()

    assert len(cluster.ready()) == 1
