"""What is there: Jobs and pods as the API server has them, and the driver's word. Pure.

Extracts only what decisions need; kopf's indexes hold these small values, never whole objects. How an
ended pod is judged (`Ending`) follows the Job controller and the kubelet of Kubernetes 1.30 to 1.37.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from rephrase_api import names
from rephrase_api.errors import REASONS, ExitCode
from rephrase_api.progress import Progress

_PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_LOST_CONTAINER = {"ContainerStatusUnknown", "Unknown"}
_TOLD_TO_GO = {"EvictionByEvictionAPI", "TerminationByKubelet"}
"""Of the reasons of condition DisruptionTarget (KEP-3329); a taint's comes when a node dies too."""


_NO_CAPACITY = ("InsufficientCapacityError", "NotTriggerScaleUp", "filtered out all available")
"""In an Event of Karpenter or cluster-autoscaler on a pod."""

_AT_WORK = {"generating", "idle"}
"""Phases of a worker that has its model loaded."""


class Ending(Enum):
    """What the end of a pod means."""

    DONE = "done"
    """All units that it was to do are committed."""
    EXPECTED = "expected"
    """The operator, or the user, stopped it."""
    DISRUPTION = "disruption"
    """Its node was taken, or would not have it: no fault of the worker."""
    FAILURE = "failure"
    """The worker failed by itself."""


class Disruption(StrEnum):
    """How a worker's place was taken; the label `reason` of `rephrase_run_disruptions`."""

    PREEMPTED = "Preempted"
    """The scheduler gave it to a pod of higher priority."""
    EVICTED = "Evicted"
    """It was told to go, with time to save: a drain, a spot notice, pressure on the node, a deletion."""
    LOST = "Lost"
    """It ended unseen: its node or pod went without notice, or the kubelet did not take it."""


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A Job of a run.

    Attributes:
        owner: uid of the run it belongs to.
        slot: of a worker; -1 of the driver.
        suspended: a queue (Kueue) holds it back.
        failure: reason of its failure (PodFailurePolicy, FailedIndexes ...), else empty.
        message: Kubernetes' sentence on the failure.
        ended: when it was complete or had failed.
        resumed: when its queue last held it back or let it go on; None if it never did.
        units: its worker does only the first so many; 0 = all.
    """

    name: str
    uid: str
    owner: str
    role: str
    pool: str
    slot: int
    attempt: int
    template_hash: str
    created: datetime
    deleting: bool
    suspended: bool
    complete: bool
    failure: str
    message: str
    ended: datetime | None
    resumed: datetime | None = None
    units: int = 0

    @property
    def finished(self) -> bool:
        """Whether it will make no more pods."""
        return self.complete or bool(self.failure)


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod of a run.

    Attributes:
        run: uid of the run it belongs to.
        job: name of its Job.
        owner: uid of its Job.
        phase: Pending, Running, Succeeded or Failed.
        ip: its address, empty before it has one.
        scheduled: when it got its node: the node is paid from then on.
        started: when its container started, None before, and of one that has ended.
        deletion: when its grace is over, of one that is being deleted.
        disruption: reason of a true DisruptionTarget condition, else empty.
        exit_code: of its container, None while it has none.
        reason: why it is not running (Unschedulable, ImagePullBackOff, OOMKilled, Evicted ...).
        message: the sentence beside it: the scheduler's, the kubelet's, or the process's last words.
        gpus: its worker runs on.
        port: where it answers HTTP, 0 if nowhere.
        stop_at: when it drains by itself; None if never.
        gone: it was deleted; this is how it was last seen.
    """

    name: str
    uid: str
    run: str
    job: str
    owner: str
    role: str
    pool: str
    slot: int
    phase: str
    node: str
    ip: str
    created: datetime
    scheduled: datetime | None
    finished: datetime | None
    deletion: datetime | None
    disruption: str
    exit_code: int | None
    reason: str
    message: str
    gpus: int
    port: int
    started: datetime | None = None
    stop_at: datetime | None = None
    gone: bool = False

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.gone or self.phase in {"Succeeded", "Failed"}

    @property
    def last_words(self) -> tuple[str, str]:
        """Reason and sentence that its process left (`<Reason>: <sentence>`); reason may be empty."""
        reason, _, sentence = self.message.partition(": ")
        told = self.exit_code not in (None, 0) and reason in REASONS
        return (reason, sentence) if told else ("", self.message)

    @property
    def final_progress(self) -> Progress | None:
        """What a finished driver left as its last word; None if it is none."""
        if self.role != names.DRIVER or self.exit_code != 0:
            return None
        try:
            found = Progress.model_validate_json(self.message)
        except ValidationError:
            return None
        return found if found.finished else None

    def billed_seconds(self, now: datetime) -> float:
        """Seconds that its node was paid for it, image pull and loading included; 0 before it had one."""
        if self.scheduled is None:
            return 0.0
        end = (self.finished or now) if self.terminal else now
        return max(0.0, (end - self.scheduled).total_seconds())


@dataclass(frozen=True)
class Observed:
    """Everything a plan looks at.

    Attributes:
        jobs: of the run, deleted ones included until they are gone.
        pods: of the run; those lately gone too, as they were last seen.
        progress: the driver's word; None where it did not answer.
        warnings: what the Warning events about a Job or pod without progress say, by its uid: `telling`.
        attempts: the highest that was seen of each slot, of Jobs that are gone too.
    """

    jobs: Sequence[JobSeen]
    pods: Sequence[PodSeen]
    progress: Progress | None
    warnings: Mapping[str, str]
    attempts: Mapping[int, int] = field(default_factory=dict)

    @property
    def driver_job(self) -> JobSeen | None:
        """The driver's Job."""
        return next((job for job in self.jobs if job.role == names.DRIVER), None)

    @property
    def worker_jobs(self) -> list[JobSeen]:
        """The workers' Jobs, by slot and attempt."""
        found = [job for job in self.jobs if job.role == names.WORKER]
        return sorted(found, key=lambda job: (job.slot, job.attempt))

    def pods_of(self, job: JobSeen) -> list[PodSeen]:
        """The pods of a Job, oldest first."""
        return self._by_owner.get(job.uid, [])

    def has_node(self, job: JobSeen) -> bool:
        """Whether a live pod of it has its node."""
        return any(pod.scheduled and not pod.terminal for pod in self.pods_of(job))

    def job_of(self, pod: PodSeen) -> JobSeen | None:
        """The Job of a pod, None if it is gone."""
        return self._by_uid.get(pod.owner)

    @cached_property
    def _by_owner(self) -> dict[str, list[PodSeen]]:
        found: dict[str, list[PodSeen]] = {}
        for pod in sorted(self.pods, key=lambda pod: pod.created):
            found.setdefault(pod.owner, []).append(pod)
        return found

    @cached_property
    def _by_uid(self) -> dict[str, JobSeen]:
        return {job.uid: job for job in self.jobs}

    @property
    def worker_pods(self) -> list[PodSeen]:
        """The workers' pods."""
        return [pod for pod in self.pods if pod.role == names.WORKER]

    @property
    def driver_pod(self) -> PodSeen | None:
        """The driver's youngest pod."""
        found = [pod for pod in self.pods if pod.role == names.DRIVER]
        return max(found, key=lambda pod: pod.created, default=None)


def job_seen(body: Mapping[str, Any]) -> JobSeen:
    """Extract of a batch/v1 Job."""
    meta, status = body["metadata"], body.get("status", {})
    labels = meta.get("labels", {})
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    failed = _true(conditions, "FailureTarget") or _true(conditions, "Failed")
    complete = _true(conditions, "SuccessCriteriaMet") or _true(conditions, "Complete")
    return JobSeen(
        name=meta["name"],
        uid=meta["uid"],
        owner=_owner(meta),
        role=labels.get(names.ROLE_LABEL, ""),
        pool=labels.get(names.POOL_LABEL, ""),
        slot=_number(labels.get(names.SLOT_LABEL), -1),
        attempt=_number(labels.get(names.ATTEMPT_LABEL), 0),
        template_hash=meta.get("annotations", {}).get(names.TEMPLATE_HASH_ANNOTATION, ""),
        created=_time(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        suspended=bool(body.get("spec", {}).get("suspend", False)),
        complete=complete is not None,
        failure=str(failed.get("reason", "Failed")) if failed is not None else "",
        message=str(failed.get("message", "")) if failed is not None else "",
        ended=_since(failed or complete),
        resumed=_since(conditions.get("Suspended")),
        units=_number(meta.get("annotations", {}).get(names.UNITS_ANNOTATION), 0),
    )


def pod_seen(body: Mapping[str, Any]) -> PodSeen:
    """Extract of a pod."""
    meta, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    labels = meta.get("labels", {})
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    disruption = _true(conditions, "DisruptionTarget")
    scheduled = _true(conditions, "PodScheduled")
    role = labels.get(names.ROLE_LABEL, "")
    state = _container_state(status, role)
    ended = state.get("terminated", {})
    reason, message = _why(status, conditions, state)
    created = _time(meta["creationTimestamp"])
    return PodSeen(
        name=meta["name"],
        uid=meta["uid"],
        run=labels.get(names.RUN_UID_LABEL, ""),
        job=labels.get("batch.kubernetes.io/job-name", ""),
        owner=_owner(meta),
        role=role,
        pool=labels.get(names.POOL_LABEL, ""),
        slot=_number(labels.get(names.SLOT_LABEL), -1),
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        created=created,
        scheduled=(_since(scheduled) or created) if scheduled is not None else None,
        finished=_end(status, ended),
        started=_time(begun) if (begun := state.get("running", {}).get("startedAt")) else None,
        stop_at=_stop_at(meta),
        deletion=_time(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        disruption=str(disruption.get("reason", "Disrupted")) if disruption is not None else "",
        exit_code=ended.get("exitCode"),
        reason=reason,
        message=message,
        gpus=_gpus(spec, role),
        port=_port(spec, role),
    )


def telling(warnings: Sequence[tuple[str, str]]) -> str:
    """The Warning that says most: an autoscaler's that it gets no node, else the last.

    Args:
        warnings: reason and message of each, oldest first, at least one.
    """
    texts = [f"{reason}: {message}" for reason, message in warnings]
    return next(filter(says_no_capacity, reversed(texts)), warnings[-1][1])


def says_no_capacity(told: str) -> bool:
    """Whether it is an autoscaler's word that it gets no node; a hint only, since Events may be missing."""
    return any(word in told for word in _NO_CAPACITY)


def ending(pod: PodSeen, *, job: JobSeen | None) -> Ending:
    """What the end of a worker's pod means.

    Args:
        pod: one that has ended or is gone.
        job: its Job, None if that is gone.
    """
    if pod.exit_code == ExitCode.OK:
        return Ending.DONE
    if pod.disruption:
        return Ending.DISRUPTION
    if job is None or job.deleting or job.suspended or not pod.node:
        return Ending.EXPECTED
    if job.resumed is not None and pod.created < job.resumed:  # its queue had taken it back
        return Ending.EXPECTED
    rejected = pod.exit_code is None and pod.reason != "Evicted"  # or gone before its end was seen
    lost = pod.reason in _LOST_CONTAINER
    if pod.exit_code == ExitCode.DRAINED or pod.deletion is not None or rejected or lost:
        return Ending.DISRUPTION
    return Ending.FAILURE


def disruption(pod: PodSeen) -> Disruption:
    """How the place of a pod was taken whose end is `Ending.DISRUPTION`."""
    if pod.disruption == "PreemptionByScheduler":
        return Disruption.PREEMPTED
    told = pod.disruption in _TOLD_TO_GO or pod.reason == "Evicted"
    if not told and (pod.exit_code is None or pod.reason in _LOST_CONTAINER):
        return Disruption.LOST
    return Disruption.EVICTED


def doubtful(observed: Observed, *, settled: Collection[str]) -> list[JobSeen]:
    """Jobs to be read anew before the ends of their pods are judged.

    One watch may tell that a worker has ended before another tells that its Job was deleted or held back,
    which is why it ended.

    Args:
        settled: uids of pods that are judged already.
    """
    jobs = {
        job.uid: job
        for pod in observed.worker_pods
        if pod.terminal and pod.uid not in settled and not pod.disruption
        if (job := observed.job_of(pod)) is not None
        if ending(pod, job=job) in {Ending.DISRUPTION, Ending.FAILURE}
    }
    return list(jobs.values())


def ready_pods(observed: Observed, *, lease_seconds: float) -> list[PodSeen]:
    """Pods whose worker has its model loaded, and said so within a lease; none while the driver is silent."""
    if observed.progress is None:
        return []
    at_work = {
        worker.uid.partition(".")[0]
        for worker in observed.progress.workers
        if worker.phase in _AT_WORK and worker.heartbeat_age_seconds <= lease_seconds
    }
    return [pod for pod in observed.worker_pods if not pod.terminal and pod.uid in at_work]


def _why(
    status: Mapping[str, Any],
    conditions: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Any],
) -> tuple[str, str]:
    """Why a pod is not running, best source first."""
    ended, waiting = state.get("terminated", {}), state.get("waiting", {})
    if status.get("reason"):  # Evicted, NodeShutdown, UnexpectedAdmissionError ...
        return str(status["reason"]), str(status.get("message", ""))
    if ended:
        return str(ended.get("reason", "")), str(ended.get("message", ""))
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason", "Unschedulable")), str(scheduled.get("message", ""))
    if waiting.get("reason") in _PULL_REASONS:
        return "ImagePull", str(waiting.get("message", ""))
    return str(waiting.get("reason", "")), str(waiting.get("message", ""))


def _container_state(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    state: Mapping[str, Any] = _named(status.get("containerStatuses", []), name).get("state", {})
    return state


def _named(containers: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Our container, which is named for its role; meshes and agents put others beside it."""
    return next((one for one in containers if one.get("name") == name), {})


def _end(status: Mapping[str, Any], ended: Mapping[str, Any]) -> datetime | None:
    """When it ended; where no container tells, when its last condition changed."""
    if ended.get("finishedAt"):
        return _time(ended["finishedAt"])
    if status.get("phase") not in {"Succeeded", "Failed"}:
        return None
    times = [one.get("lastTransitionTime") for one in status.get("conditions", [])]
    return max((_time(time) for time in times if time), default=None)


def _owner(meta: Mapping[str, Any]) -> str:
    owners = meta.get("ownerReferences", [])
    return next((str(one["uid"]) for one in owners if one.get("controller")), "")


def _stop_at(meta: Mapping[str, Any]) -> datetime | None:
    """As the operator wrote it; what somebody else made of it counts as none, and is written anew."""
    try:
        found = _time(meta.get("annotations", {}).get(names.STOP_AT_ANNOTATION, ""))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _gpus(spec: Mapping[str, Any], role: str) -> int:
    """As its Job said; limits may hold other devices beside them."""
    for variable in _named(spec.get("containers", []), role).get("env", []):
        if variable["name"] == "REPHRASE_GPUS" and variable.get("value", "").isdigit():
            return int(variable["value"])
    return 0


def _port(spec: Mapping[str, Any], role: str) -> int:
    for port in _named(spec.get("containers", []), role).get("ports", []):
        if port.get("name") == names.METRICS_PORT:
            return int(port["containerPort"])
    return 0


def _true(conditions: Mapping[str, Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    found = conditions.get(kind)
    return found if found is not None and found.get("status") == "True" else None


def _since(condition: Mapping[str, Any] | None) -> datetime | None:
    """Since when it is as it is; some kubelets write no time."""
    time = condition.get("lastTransitionTime") if condition is not None else None
    return _time(time) if time else None


def _number(text: str | None, otherwise: int) -> int:
    """Of a label that anybody may have edited: an object that cannot be read would not be seen at all."""
    return int(text) if text is not None and text.isdecimal() else otherwise


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
