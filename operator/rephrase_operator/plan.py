"""What is to be done next for a run: make, renew, drain, each with its reason. Pure.

What holds of every plan, and is tested as such:
- never more workers than `spec.workers.max`, nor more of a pool than its `max`;
- planning twice gives the same plan, and plans that are carried out are soon followed by an empty one;
- no worker is made before the run is planned, while it is stopped, refused or over;
- as long as the canary is not done, there is one worker, and it does nothing but the canary;
- a Job is deleted only once its ended pods are settled; live ones are drained and settled when they end.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from rephrase_api.errors import ExitCode
from rephrase_api.launch import bit_reversed_start
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import Reason
from rephrase_api.v1alpha1.status import AvoidedNode, RephraseRunStatus
from rephrase_operator.capacity import Stockout, by_priority, spread
from rephrase_operator.observed import (
    Ending,
    JobSeen,
    Observed,
    PodSeen,
    ending,
    ready_pods,
)
from rephrase_operator.settle import AVOID_FOR
from rephrase_operator.verdict import REMEMBERED_STOPS, Verdict, recorded_stop

MOST_STARTS = 50
"""Jobs made at one look: the API server is everybody's."""
LOST_SECONDS = 60
"""A pod that outlives its grace by so long is on a silent node."""
RETRY_SECONDS: Mapping[int | None, int] = {ExitCode.REFUSED: 60}
"""Pause before a slot whose Job has failed for good is tried anew, by the last exit code."""
RETRY_SECONDS_OTHERWISE = 300
ROLLING_SHARE = 10
"""One worker in so many is replaced at a time when the spec's image, resources or arguments change."""
LONG_WAIT_SECONDS = 180
"""A new worker that has no node for so long holds up the replacement of others no more."""
STOP_TOLERANCE = 4
"""A worker's time to stop is written anew once it is off by one in so many parts of the time left."""
UNREAD_SECONDS = 60
"""How long a worker's own end, or a driver's, may be known to its Job before the rest has read it."""


@dataclass(frozen=True, slots=True)
class StartDriver:
    """Make the driver's Job."""

    reason: str


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Make a worker's Job."""

    slot: int
    attempt: int
    pool: str
    start: int
    reason: str
    avoid: tuple[str, ...] = ()
    stop_at: datetime | None = None
    units: int = 0


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job; a live pod of it is drained."""

    name: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """Delete the run object, whose time to live is over; data never is."""

    reason: str


@dataclass(frozen=True, slots=True)
class PutOffStop:
    """Tell a worker when it is to drain by itself; None = never."""

    pod: str
    uid: str
    until: datetime | None


Action = StartDriver | StartWorker | DeleteJob | DeleteRun | PutOffStop


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        actions: in the order to carry them out.
        desired: workers there should be, by pool.
        unfinished: there is more to do for this spec than is done at once.
    """

    actions: tuple[Action, ...]
    desired: Mapping[str, int]
    unfinished: bool = False


def plan(
    run: RephraseRun,
    status: RephraseRunStatus,
    observed: Observed,
    verdict: Verdict,
    *,
    template_hashes: Mapping[str, str],
    now: datetime,
    target: int | None = None,
    worth: int | None = None,
    affordable: int | None = None,
    avoid: Sequence[AvoidedNode] = (),
    stockouts: Mapping[str, Stockout] = MappingProxyType({}),
    gives_up: str | None = None,
    stop_at: datetime | None = None,
    units: int | None = None,
) -> Plan:
    """Decide what to do now.

    Args:
        run: as the API server has it.
        status: as it was last written.
        observed: what is there.
        verdict: where the run stands.
        template_hashes: of the Jobs the spec asks for now: of each pool by its name, of the driver by "".
        now: the time.
        target: workers that were decided on; None = as many as the spec allows.
        worth: no worker is started beyond so many, it would end before it had begun; None = no limit.
        affordable: starts that the budget allows now; None = any number.
        avoid: nodes that new workers keep away from.
        stockouts: of pools, by name.
        gives_up: pool that one worker is moved away from, to a cheaper one.
        stop_at: when workers drain by themselves, should no operator put it off; None = never.
        units: of the canary that is to be done first; None = of no canary, 0 = nobody knows yet.
    """
    settled = frozenset(status.settling)
    if verdict.over:
        failed = verdict.failed is not None
        return Plan(tuple(_clean_up(run, status, observed, settled, now, failed=failed)), {})
    if verdict.stopped is not None:
        unrecorded = verdict.stopped.reason in REMEMBERED_STOPS and not recorded_stop(run, status)
        drained = () if unrecorded else tuple(_drain(observed, settled, verdict.stopped.reason))
        return Plan(drained, {})
    planned, committed = _units(status, observed)
    most = min(run.spec.workers.max, target if target is not None else run.spec.workers.max)
    placed = _placed(observed, stockouts, now)
    if gives_up is not None:
        placed[gives_up] -= 1
    desired = spread(run, min(most, planned), placed=placed, short=stockouts, now=now)
    put_off = tuple(_put_off(observed, stop_at, now))
    if verdict.refused is not None:
        return Plan(put_off, desired)
    driver = tuple(_driver(observed, template_hashes[""], now))
    if not planned:
        return Plan((*driver, *put_off), desired)
    workers = _Workers(
        run, observed, desired, settled, template_hashes, planned, planned - committed, now, avoid
    )
    workers.ceilings = spread(run, most, placed=placed, short=stockouts, now=now)
    workers.worth = worth
    workers.affordable = affordable
    workers.stop_at = stop_at
    workers.units = units
    actions = (*driver, *workers.actions())
    gone = {action.uid for action in actions if isinstance(action, DeleteJob)}
    owners = {pod.uid: pod.owner for pod in observed.worker_pods}
    actions += tuple(one for one in put_off if owners[one.uid] not in gone)
    outdated = sum(job.template_hash != template_hashes.get(job.pool) for job in workers.jobs)
    return Plan(actions, desired, unfinished=bool(outdated) or workers.held_back)


def _put_off(observed: Observed, stop_at: datetime | None, now: datetime) -> Iterable[PutOffStop]:
    """Workers whose time to stop is off by more than a quarter of what is left."""
    for pod in observed.worker_pods:
        if pod.terminal or pod.deletion is not None:
            continue
        if stop_at is None or pod.stop_at is None:
            off = pod.stop_at is not stop_at
        else:
            off = abs(pod.stop_at - stop_at) > (stop_at - now) / STOP_TOLERANCE
        if off:
            yield PutOffStop(pod.name, pod.uid, stop_at)


def _placed(observed: Observed, stockouts: Mapping[str, Stockout], now: datetime) -> Counter[str]:
    """Workers that stay in their pool: all but those that wait in one that is passed over."""
    jobs = _by_slot(job for job in observed.worker_jobs if not job.deleting).values()
    passed_over = {name for name, one in stockouts.items() if now < one.until}
    return Counter(
        job.pool for job in jobs if job.pool not in passed_over or observed.has_node(job)
    )


def _by_slot(jobs: Iterable[JobSeen]) -> dict[int, JobSeen]:
    """The Job that has each slot.

    Two operators that did not know of each other's Job, or a watch that is behind, may show two: then it is
    the younger one, of which both know, but never one that has ended beside one that has not.
    """
    return {job.slot: job for job in sorted(jobs, key=lambda job: (not job.finished, job.attempt))}


def _units(status: RephraseRunStatus, observed: Observed) -> tuple[int, int]:
    """Planned and committed units, as far as anybody knows: a driver that starts anew knows none at first."""
    told = observed.progress.units if observed.progress is not None else None
    if told is not None and told.planned:
        return told.planned, told.committed
    units = status.progress.units if status.progress is not None else None
    return ((units.planned or 0), (units.committed or 0)) if units is not None else (0, 0)


def _clean_up(
    run: RephraseRun,
    status: RephraseRunStatus,
    observed: Observed,
    settled: frozenset[str],
    now: datetime,
    *,
    failed: bool,
) -> Iterable[Action]:
    """A run that is over keeps nothing; its end stands in the status first."""
    ended = status.completion_time
    if ended is None:
        return
    for job in observed.jobs:
        if job.deleting:
            continue
        pods = observed.pods_of(job)
        unread = [pod for pod in pods if pod.terminal and pod.uid not in settled]
        live = [pod for pod in pods if not pod.terminal]
        is_driver = job == observed.driver_job
        late = now >= ended + timedelta(seconds=UNREAD_SECONDS)
        if is_driver or (not unread and (not live or late or failed)):
            yield DeleteJob(job.name, job.uid, "the run is over and its end is recorded")
    ttl = run.spec.ttl_seconds_after_finished
    if ttl is not None and not observed.jobs and now >= ended + timedelta(seconds=ttl):
        yield DeleteRun(f"finished {ttl} s ago (spec.ttlSecondsAfterFinished)")


def _drain(observed: Observed, settled: frozenset[str], reason: Reason) -> Iterable[Action]:
    """No workers; then no driver either."""
    for job in observed.worker_jobs:
        if not job.deleting and _may_be_deleted(observed, job, settled):
            yield DeleteJob(job.name, job.uid, f"the run is stopped: {reason}")
    driver = observed.driver_job
    gone = not any(not pod.terminal for pod in observed.worker_pods) and not observed.worker_jobs
    if driver is not None and not driver.deleting and gone:
        yield DeleteJob(driver.name, driver.uid, f"the run is stopped: {reason}")


def _may_be_deleted(observed: Observed, job: JobSeen, settled: frozenset[str]) -> bool:
    """Its live pods will be settled when they end; those that have ended must be already."""
    ended = [pod for pod in observed.pods_of(job) if pod.terminal]
    return all(pod.uid in settled for pod in ended)


def _driver(observed: Observed, template_hash: str, now: datetime) -> Iterable[Action]:
    job = observed.driver_job
    if job is None:
        yield StartDriver("the run has no driver")
    elif job.deleting:
        return
    elif job.template_hash != template_hash:
        yield DeleteJob(job.name, job.uid, "the spec has changed")
    elif (live := observed.driver_pod) is not None and _is_lost(live, now):
        yield DeleteJob(job.name, job.uid, "its node is silent")
    elif job.finished:
        last = observed.driver_pod
        code = last.exit_code if last is not None else None
        pause = _retry_seconds(code) if job.failure else UNREAD_SECONDS
        if job.ended is None or now >= job.ended + timedelta(seconds=pause):
            yield DeleteJob(job.name, job.uid, "the driver ended before the run did")


def _retry_seconds(code: int | None) -> int:
    return RETRY_SECONDS.get(code, RETRY_SECONDS_OTHERWISE)


def _is_lost(pod: PodSeen, now: datetime) -> bool:
    """Whether its kubelet should have ended it by now."""
    late = pod.deletion is not None and now >= pod.deletion + timedelta(seconds=LOST_SECONDS)
    return late and not pod.terminal


class _Workers:
    """The decisions about workers of one look."""

    def __init__(
        self,
        run: RephraseRun,
        observed: Observed,
        desired: Mapping[str, int],
        settled: frozenset[str],
        template_hashes: Mapping[str, str],
        planned: int,
        left: int,
        now: datetime,
        avoid: Sequence[AvoidedNode],
    ) -> None:
        self._run = run
        self._observed = observed
        self._desired = desired
        self._settled = settled
        self._hashes = template_hashes
        self._planned = planned
        self._left = left
        self._now = now
        self._avoid = {node.name: node.until - AVOID_FOR for node in avoid}
        self.jobs = [job for job in observed.worker_jobs if not job.deleting]
        self._pods = {job.name: observed.pods_of(job) for job in self.jobs}
        lease = run.spec.durability.lease_seconds
        self._ready = {pod.uid for pod in ready_pods(observed, lease_seconds=lease)}
        told = observed.progress.workers if observed.progress is not None else ()
        self._rates = {one.uid.partition(".")[0]: one.tokens_per_second for one in told}
        self.ceilings: Mapping[str, int] = desired
        """Most workers of each pool, however few units are left."""
        self.worth: int | None = None
        """Most workers for which a start pays; None = no limit."""
        self.affordable: int | None = None
        """Starts that the budget allows now; None = any number."""
        self.stop_at: datetime | None = None
        """When new workers drain by themselves."""
        self.units: int | None = None
        """Units of the canary that workers are kept to; 0 = not known yet, None = no canary is going on."""
        self.held_back = False
        """More workers are to be made than are made at one look."""

    def actions(self) -> Iterable[Action]:
        """What to do about workers."""
        gone: set[str] = set()
        for job in self.jobs:
            if len(gone) < MOST_STARTS and (reason := self._renewal(job)):
                gone.add(job.name)
                yield DeleteJob(job.name, job.uid, reason)
        kept = [job for job in self.jobs if job.name not in gone]
        surplus = list(self._surplus(kept))
        yield from surplus
        gone |= {action.name for action in surplus}
        if not surplus:
            outdated = list(self._outdated(kept))
            yield from outdated
            gone |= {action.name for action in outdated}
        yield from self._starts([job for job in kept if job.name not in gone])

    def _renewal(self, job: JobSeen) -> str:
        """Why a Job is to make way for the slot's next attempt; empty if it is not."""
        pods = self._pods[job.name]
        last = pods[-1] if pods else None
        if last is not None and not last.terminal:
            return "its node is silent" if _is_lost(last, self._now) else ""
        if not _may_be_deleted(self._observed, job, self._settled):
            return ""
        if job.complete:
            if job.units and self.units is None and self._left:
                return "the canary is done"
            late = job.ended is None or self._passed(job.ended, UNREAD_SECONDS)
            return "it ended though units are left" if late and self._left else ""
        if last is None:
            return "its pods are gone" if job.failure else ""
        end = ending(last, job=job)
        if end is Ending.DONE:
            return ""  # its Job is about to be complete
        if end is Ending.EXPECTED:  # a queue took its place, or it never had one
            return "another try" if job.failure else ""
        if end is Ending.DISRUPTION:
            if job.failure:
                return "interrupted more often than Kubernetes allows"
            refused_at = self._avoid.get(last.node)
            if last.exit_code is None and refused_at is not None and job.created < refused_at:
                return f"its node would not have it ({last.reason})"  # a new Job goes elsewhere
            # a worker that drains by itself, or that its node refuses again, keeps the back-off
            taken = bool(last.disruption) or last.deletion is not None
            # Kubernetes would wait 10 s, then 20, 40 and so on up to ten minutes
            return "interrupted" if taken else ""
        if self._progressed(pods):
            return "it failed after it had got something done"
        if job.failure:
            since = job.ended or last.finished or self._now
            return "another try" if self._passed(since, _retry_seconds(last.exit_code)) else ""
        return ""

    def _progressed(self, pods: Iterable[PodSeen]) -> bool:
        """Whether a process of these pods committed or saved anything."""
        uids = {pod.uid for pod in pods}
        progress = self._observed.progress
        return progress is not None and any(
            worker.uid.partition(".")[0] in uids
            and (worker.units_committed or worker.samples_checkpointed)
            for worker in progress.workers
        )

    def _passed(self, since: datetime, seconds: float) -> bool:
        return self._now >= since + timedelta(seconds=seconds)

    def _surplus(self, jobs: list[JobSeen]) -> Iterable[DeleteJob]:
        """Workers beyond what is wanted: those without a node first, then the slowest, the highest slots.

        That few units are left is no reason to stop a worker: it helps the others, and ends by itself. One
        that still waits for a node would come too late.
        """
        by_slot = _by_slot(jobs)
        extra = [(job, "another Job has its slot") for job in jobs if job is not by_slot[job.slot]]
        for pool, mine in _by_pool(by_slot.values()).items():
            mine.sort(key=lambda job: (self._observed.has_node(job), self._rate(job), -job.slot))
            why = "fewer are wanted" if pool in self.ceilings else "the spec has no such pool"
            over = len(mine) - self.ceilings.get(pool, 0)
            extra += [(job, f"pool {pool}: {why}") for job in mine[: max(0, over)]]
        if self.units:
            listed = {job.name for job, _ in extra}
            free = [job for job in jobs if not job.units and job.name not in listed]
            extra += [(job, "the canary comes first") for job in free]
        gone = {job.name for job, _ in extra}
        waiting = [job for job in jobs if not self._observed.has_node(job) and job.name not in gone]
        late = len(jobs) - len(gone) - max(1, self._left)
        waiting.sort(key=lambda job: -job.slot)
        extra += [(job, "too few units are left for it") for job in waiting[: max(0, late)]]
        for job, reason in extra:
            if _may_be_deleted(self._observed, job, self._settled):
                yield DeleteJob(job.name, job.uid, reason)

    def _rate(self, job: JobSeen) -> float:
        """Tokens per second of its worker, as the driver knows it."""
        return sum(self._rates.get(pod.uid, 0.0) for pod in self._pods[job.name])

    def _outdated(self, jobs: list[JobSeen]) -> Iterable[DeleteJob]:
        """Workers of an older spec, a few at a time; those that do not run at once."""
        old = [job for job in jobs if job.template_hash != self._hashes.get(job.pool)]
        running = [job for job in old if self._observed.has_node(job)]
        # those that are renewed at this look count too
        new = [job for job in self.jobs if job.template_hash == self._hashes.get(job.pool)]
        unproven = sum(self._is_unproven(job) for job in new)
        few = max(0, max(1, len(self.jobs) // ROLLING_SHARE) - unproven)
        if self._observed.progress is None:  # nobody knows whether the last ones work
            few = 0
        for job in [*(job for job in old if job not in running), *running[:few]]:
            if _may_be_deleted(self._observed, job, self._settled):
                yield DeleteJob(job.name, job.uid, "the spec has changed")

    def _is_unproven(self, job: JobSeen) -> bool:
        """Whether it has yet to show that it works; one that waits long for a node or a queue cannot."""
        pods = self._pods[job.name]
        if any(pod.uid in self._ready for pod in pods):
            return False
        last = pods[-1] if pods else None
        waits = job.suspended or (last is not None and last.scheduled is None and not last.terminal)
        since = last.created if last is not None else job.created
        return not (waits and self._passed(since, LONG_WAIT_SECONDS))

    def _starts(self, jobs: list[JobSeen]) -> Iterable[StartWorker]:
        """New workers for free slots, the lowest first."""
        if self.units == 0:
            return
        have = Counter(job.pool for job in jobs)
        taken = {job.slot for job in jobs}
        attempts = dict(self._observed.attempts)
        for job in self._observed.worker_jobs:
            attempts[job.slot] = max(attempts.get(job.slot, 0), job.attempt)
        # with fewer units left than workers, those help each other, and a new one would come too late
        room = min(self._run.spec.workers.max, self._left) - len(taken)
        if self.worth is not None:
            room = min(room, self.worth - len(taken))
        if self.affordable is not None:
            room = min(room, self.affordable)
        started = 0
        for pool in by_priority(self._run):
            for _ in range(self._desired[pool.name] - have[pool.name]):
                if started >= min(room, MOST_STARTS):
                    self.held_back = room > MOST_STARTS
                    return
                slot = _lowest_free(taken)
                taken.add(slot)
                started += 1
                units = self.units or 0
                start = bit_reversed_start(slot, units or self._planned)
                reason = f"{self._desired[pool.name]} workers are wanted in pool {pool.name}"
                avoid = tuple(sorted(self._avoid))
                yield StartWorker(
                    slot,
                    attempts.get(slot, 0) + 1,
                    pool.name,
                    start,
                    reason,
                    avoid,
                    stop_at=self.stop_at,
                    units=units,
                )


def _by_pool(jobs: Iterable[JobSeen]) -> dict[str, list[JobSeen]]:
    found: dict[str, list[JobSeen]] = {}
    for job in jobs:
        found.setdefault(job.pool, []).append(job)
    return found


def _lowest_free(taken: set[int]) -> int:
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)
