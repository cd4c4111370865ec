"""Why a Job has no pod at work: one reason, one sentence, one remedy. Pure.

The best source comes first: the queue, the API server's refusal, the scheduler, the kubelet, the process's
own last words.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from rephrase_api.errors import ExitCode
from rephrase_api.v1alpha1.conditions import Reason
from rephrase_operator.observed import (
    Ending,
    JobSeen,
    Observed,
    PodSeen,
    ending,
    says_no_capacity,
)

SLOW_START_SECONDS = 600
"""A container that is not started after so long has a trouble with a volume: an image takes minutes."""

REMEDY: Mapping[Reason, str] = {
    Reason.QUOTA_PENDING: "Wait, or raise the queue's quota.",
    Reason.POD_CREATION_BLOCKED: (
        "Change what refuses the pod (ServiceAccount, ResourceQuota, Pod Security, webhook); it is tried "
        "again by itself."
    ),
    Reason.UNSCHEDULABLE: (
        "Add such nodes, or change nodeSelector, tolerations, gpu or resources of the pool."
    ),
    Reason.CAPACITY_STOCKOUT: (
        "Wait, or add a pool of other nodes: workers start there after fallbackAfterSeconds, or a minute if "
        "that is less."
    ),
    Reason.IMAGE_PULL: "Correct spec.image or spec.imagePullSecrets.",
    Reason.VOLUME_MOUNT: "See that the Secrets, ConfigMaps and claims that the spec names are there.",
    Reason.MODEL_LOADING: "",
    Reason.CRASH_LOOP: "See recentFailures and the logs of the pods.",
    Reason.BACKING_OFF: "",
    Reason.ACCESS_REFUSED: "Repair credentials or location; it is tried again by itself.",
    Reason.STORAGE_FULL: "Free space in the output; it is tried again by itself.",
}
"""What to do about each reason."""

_SEVERITY = (
    Reason.ACCESS_REFUSED,
    Reason.STORAGE_FULL,
    Reason.POD_CREATION_BLOCKED,
    Reason.IMAGE_PULL,
    Reason.VOLUME_MOUNT,
    Reason.CRASH_LOOP,
    Reason.UNSCHEDULABLE,
    Reason.CAPACITY_STOCKOUT,
    Reason.QUOTA_PENDING,
    Reason.BACKING_OFF,
    Reason.MODEL_LOADING,
)


@dataclass(frozen=True, slots=True)
class Blockage:
    """Why one Job has no pod at work.

    Attributes:
        job: name of the Job.
        pool: of the worker; empty for the driver.
        reason: one of the keys of `REMEDY`.
        message: the best sentence there is on it.
        pending: it waits for a node, so it costs nothing.
    """

    job: str
    pool: str
    reason: Reason
    message: str
    pending: bool = False


def blockage(
    job: JobSeen, observed: Observed, *, now: datetime, at_work: AbstractSet[str] = frozenset()
) -> Blockage | None:
    """Why a Job has no pod at work; None if it has one, is complete or is being deleted.

    Args:
        job: of a worker, or the driver's.
        observed: what is there.
        now: the time.
        at_work: uids of pods that do what they are for. Until one does, what ended the pod before it is
            still the reason: else each new try would hide it for a while.
    """
    if job.complete or job.deleting:
        return None
    pods = observed.pods_of(job)
    live = [pod for pod in pods if not pod.terminal]
    found: tuple[Reason, str, bool] | None
    if job.suspended:
        found = Reason.QUOTA_PENDING, "the queue has not admitted it", True
    elif live:
        found = _of_live_pod(live[-1], observed, now)
        starting = found is None or found[0] is Reason.BACKING_OFF
        failed = [pod for pod in pods if pod.terminal and ending(pod, job=job) is Ending.FAILURE]
        if starting and failed and live[-1].uid not in at_work:
            found = _of_ended_pod(job, failed[-1])
    elif pods:
        found = _of_ended_pod(job, pods[-1])
    elif warning := observed.warnings.get(job.uid, ""):
        found = Reason.POD_CREATION_BLOCKED, warning, True
    elif job.failure:
        found = Reason.CRASH_LOOP, job.message, False
    else:  # the Job controller has not come to it yet
        found = Reason.BACKING_OFF, "its pod is not created yet", True
    return Blockage(job.name, job.pool, *found) if found is not None else None


def _of_live_pod(
    pod: PodSeen, observed: Observed, now: datetime
) -> tuple[Reason, str, bool] | None:
    warning = observed.warnings.get(pod.uid, "")
    if pod.scheduled is None and says_no_capacity(warning):
        return Reason.CAPACITY_STOCKOUT, warning, True
    if pod.reason == "Unschedulable":
        return Reason.UNSCHEDULABLE, pod.message, True
    if pod.phase != "Pending":
        return None
    if pod.reason == "ImagePull":
        return Reason.IMAGE_PULL, pod.message, False
    if warning and pod.scheduled is not None:
        return Reason.VOLUME_MOUNT, warning, False
    if pod.reason == "CreateContainerConfigError":
        return Reason.VOLUME_MOUNT, pod.message, False
    if pod.scheduled is None:
        why = pod.message or pod.reason or "the scheduler has not come to it yet"
        return Reason.BACKING_OFF, f"{pod.name} waits for a node: {why}", True
    seconds = (now - pod.scheduled).total_seconds()
    if seconds > SLOW_START_SECONDS:
        message = f"the container of {pod.name} is not started after {seconds:.0f} s"
        return Reason.VOLUME_MOUNT, f"{message} ({pod.reason or 'no reason told'})", False
    return Reason.BACKING_OFF, f"{pod.name} is starting ({pod.reason or 'image or volumes'})", False


def _of_ended_pod(job: JobSeen, pod: PodSeen) -> tuple[Reason, str, bool] | None:
    """It waits for the Job controller to make another, or has failed for good."""
    end = ending(pod, job=job)
    if end is Ending.DONE:
        return None
    if end in {Ending.DISRUPTION, Ending.EXPECTED}:
        return Reason.BACKING_OFF, f"{pod.name} was interrupted; another will be made", True
    reason, sentence = pod.last_words
    if pod.exit_code == ExitCode.REFUSED:
        full = reason == Reason.STORAGE_FULL
        return (Reason.STORAGE_FULL if full else Reason.ACCESS_REFUSED), sentence, False
    return Reason.CRASH_LOOP, why_it_failed(pod), False


def why_it_failed(pod: PodSeen) -> str:
    """One sentence on a pod that failed by itself."""
    reason, sentence = pod.last_words
    if pod.reason == "OOMKilled":
        return (
            f"{pod.name}: out of memory (OOMKilled); raise resources.limits.memory of the pool; shared "
            "memory counts against it"
        )
    if pod.reason == "Evicted":
        return f"{pod.name}: evicted, {pod.message or 'over a storage limit'}"
    what = f"{reason}: {sentence}" if reason else (sentence.strip()[-300:] or pod.reason)
    return f"{pod.name}: exit {pod.exit_code}: {what}"


def summary(blockages: Iterable[Blockage]) -> tuple[Reason, str] | None:
    """The reason to name first, and a message with all of them counted; None if nothing is blocked."""
    found = list(blockages)
    if not found:
        return None
    counts = Counter(one.reason for one in found)
    worst = min(counts, key=_SEVERITY.index)
    example = next(one.message for one in found if one.reason is worst)
    others = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != worst)
    text = example.rstrip(". ")
    if len(found) > 1:
        text = f"{counts[worst]} of {len(found)} waiting: {text}"
    remedy = REMEDY[worst]
    return worst, ". ".join(filter(None, [text, others, remedy]))
