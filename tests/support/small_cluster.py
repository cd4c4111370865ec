"""A small cluster that carries an operator's plans out, for property tests.

It is the Job controller, the scheduler and the kubelet in a few lines: back-off as Kubernetes 1.37 counts it,
pods that are preempted, fail, get lost or are rejected, models that load, nodes that run out, workers that
get something done; and a status whose writing may fail.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rephrase_api import names
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.look import Look, decide
from rephrase_operator.observed import JobSeen, Observed, PodSeen
from rephrase_operator.plan import DeleteJob, Plan, PutOffStop, StartDriver, StartWorker
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
)

BACKOFF_LIMIT = 3
LOOK_SECONDS = 30
LOADING_SECONDS = 90
UNIT = 2000
"""Samples of a unit."""
NEVER = Settings(crash_loop_failures=10**6)


class Cluster:
    """A run in a cluster, and the operator that looks at it.

    Args:
        spec: of the run, over the least that is allowed.
        settings: the operator's.
        prices: of a GPU hour, by pool.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        settings: Settings = NEVER,
        prices: Mapping[str, Decimal] | None = None,
    ) -> None:
        self.now = NOW
        self.settings = settings
        self.prices = dict(prices or {})
        self.generation = 1
        self.spec: dict[str, Any] = dict(spec)
        self.run = a_run(generation=1, **self.spec)
        self.speed = 0.0
        """Samples per second of one worker."""
        self.samples = 0.0
        self.room: dict[str, int] = {}
        """Nodes by pool, beside those of the cluster."""
        self.moves: Counter[str] = Counter()
        """Workers made, by pool."""
        self.template = 0
        self.status = RephraseRunStatus()
        self.jobs: dict[str, JobSeen] = {}
        self.pods: dict[str, PodSeen] = {}
        self.gone: dict[str, PodSeen] = {}
        self.failed: dict[str, tuple[int, int, datetime]] = {}
        self.worked: set[str] = set()
        self.failed_documents = 0
        """Of the canary."""
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
        self._work(seconds)
        for job in list(self.jobs.values()):
            self._control(job)
        used = sum(pod.phase == "Running" for pod in self.live())
        by_pool = Counter(pod.pool for pod in self.live() if pod.phase == "Running")
        for pod in self.live():
            full = by_pool[pod.pool] >= self.room.get(pod.pool, used + 1)
            if pod.phase == "Pending" and used < self.nodes and not full:
                used += 1
                by_pool[pod.pool] += 1
                self.pods[pod.uid] = replace(
                    pod, phase="Running", scheduled=self.now, reason="", node="node"
                )

    def _work(self, seconds: float) -> None:
        """What the workers get done; they end when nothing is left."""
        ready = self.ready()
        kept = [pod for pod in ready if self.units_of(pod)]
        free = len(ready) - len(kept)
        self.samples += self.speed * free * seconds
        most = max((self.units_of(pod) for pod in kept), default=0) * UNIT
        if self.samples < most:
            self.samples = min(most, self.samples + self.speed * len(kept) * seconds)
        self.committed = max(self.committed, min(self.planned, int(self.samples // UNIT)))
        if self.speed and self.committed == self.planned:
            self.finished = True
        for pod in ready:
            if self.finished or (self.speed and 0 < self.units_of(pod) <= self.committed):
                self.ends(pod, 0, reason="Completed")

    def units_of(self, pod: PodSeen) -> int:
        """Units that a worker is kept to; 0 = all."""
        return next((job.units for job in self.jobs.values() if job.uid == pod.owner), 0)

    @property
    def canary_units(self) -> int:
        """Units of the canary; 0 without one."""
        return -(-self.run.spec.canary.documents // UNIT)

    def _canary(self) -> dict[str, Any]:
        units = self.canary_units
        if not units:
            return {}
        done = min(units, self.committed)
        told = {
            "asked": self.run.spec.canary.documents,
            "units": units,
            "committed": done,
            "documents": done * UNIT,
            "failedDocuments": self.failed_documents,
            "samples": {"written": done * UNIT},
            "tokens": {"completion": done * UNIT * 10},
            "tokensPerSecond": self.speed * 10 * (done > 0),
            "pool": "default",
        }
        return {"canary": told}

    def _vitals(self, pod: PodSeen) -> dict[str, Any]:
        if not self.speed or pod.scheduled is None or not self.is_loaded(pod):
            return {}
        seconds = (self.now - pod.scheduled).total_seconds() - LOADING_SECONDS
        samples = int(self.speed * seconds)
        return {
            "tokensPerSecond": self.speed * 10,
            "samples": samples,
            "completionTokens": samples * 10,
            "generatingSeconds": seconds,
            "loadingSeconds": LOADING_SECONDS,
        }

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
                grace = self.run.spec.workers.termination_grace_period_seconds
                self.pods[pod.uid] = replace(pod, deletion=self.now + timedelta(seconds=grace))

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
                workers += at_work(pod, phase=phase, unitsCommitted=done, **self._vitals(pod))
        progress = a_progress(
            self.planned,
            self.committed,
            **({"samples": {"finished": int(self.samples)}} if self.speed else {}),
            workers=workers,
            **self._canary(),
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
            prices=self.prices,
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
            if isinstance(action, PutOffStop) and action.uid in self.pods:
                self.pods[action.uid] = replace(self.pods[action.uid], stop_at=action.until)
        for action in todo.actions:
            if isinstance(action, StartDriver):
                self._create(a_driver_job(template_hash="driver"))
            elif isinstance(action, StartWorker):
                fields = {
                    "pool": action.pool,
                    "template_hash": f"t{self.template}",
                    "units": action.units,
                }
                self.moves[action.pool] += 1
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
        if self.committed < self.canary_units:
            assert len(starts) <= 1, "one worker does the canary"
            assert all(start.units == self.canary_units for start in starts)

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
