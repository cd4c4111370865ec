"""What is written of a status and when, and which of its transitions are worth an Event. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.status import (
    CanaryStatus,
    Condition,
    PoolStatus,
    RephraseRunStatus,
)
from rephrase_operator.observed import Ending, PodSeen

_C, _S, _R = ConditionType, ConditionStatus, Reason
_MOST_NAMED = 3


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch from one status to another (RFC 7396); empty if they are equal."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := changes(old, value):
                patch[key] = inner
        elif value != old:
            patch[key] = value
    return patch


def is_urgent(before: RephraseRunStatus, after: RephraseRunStatus) -> bool:
    """Whether it must be written at once: a condition or the phase flipped, or a pod was settled."""

    def said(status: RephraseRunStatus) -> list[tuple[str, ...]]:
        return [(one.type, one.status, *_gist(one)) for one in status.conditions]

    return (
        said(before) != said(after)
        or before.phase != after.phase
        or before.settling != after.settling
        or before.stop != after.stop
        or [pool.stockout_until for pool in _pools(before)]
        != [pool.stockout_until for pool in _pools(after)]
        or (before.scaling and before.scaling.target) != (after.scaling and after.scaling.target)
        or (_is_done(after.canary) and before.canary != after.canary)
        or before.inherited_gpu_seconds != after.inherited_gpu_seconds
        or before.observed_generation != after.observed_generation
        or (before.workers and before.workers.display) != (after.workers and after.workers.display)
    )


def _is_done(canary: CanaryStatus | None) -> bool:
    """Whether it will be written for the last time: its driver may be gone at the next look."""
    return canary is not None and canary.committed == canary.units


@dataclass(frozen=True, slots=True)
class Event:
    """An Event to post on the run.

    Attributes:
        type: Normal, or Warning if somebody must act.
        reason: CamelCase.
        message: for people.
    """

    type: str
    reason: str
    message: str


def events(before: RephraseRunStatus, after: RephraseRunStatus) -> list[Event]:
    """What is worth an Event between two statuses: transitions only, a Warning if somebody must act."""
    was = {one.type: one for one in before.conditions}
    found = [
        Event(kind, reason or one.reason, one.message[:1000])
        for one in after.conditions
        if (kind := _kind_of_event(one, was.get(one.type)))
        for reason in [_NAMES.get((ConditionType(one.type), one.status), "")]
    ]
    old_failures = set(before.recent_failures)
    found += [
        Event("Warning", "WorkerFailed", f"{failure.reason}: {failure.message}")
        for failure in reversed(after.recent_failures)
        if failure not in old_failures
    ]
    was_short = {pool.name: pool.stockout_until for pool in _pools(before)}
    found += [
        Event(
            "Normal",
            "PoolFallback",
            f"pool {pool.name} had no node in time; workers start in other pools, and it is tried again "
            f"after {pool.stockout_until:%H:%M:%SZ}",
        )
        for pool in _pools(after)
        if pool.stockout_until is not None and pool.stockout_until != was_short.get(pool.name)
    ]
    old = (before.scaling.target if before.scaling is not None else None) or 0
    if after.scaling is not None and (after.scaling.target or 0) != old:
        message = f"{old} -> {after.scaling.target} wanted: {after.scaling.message}"
        found.append(Event("Normal", "WorkersScaled", message))
    return found


def interruptions(ended: Iterable[tuple[PodSeen, Ending]]) -> list[Event]:
    """One Event for all pods that were newly found interrupted; failures have theirs by the status.

    Args:
        ended: pods that one look settled, each with how it ended.
    """
    taken = [pod for pod, end in ended if end is Ending.DISRUPTION]
    if not taken:
        return []
    each = [
        f"{pod.name} on {pod.node} ({pod.disruption or pod.reason or 'deleted'})"
        for pod in taken[:_MOST_NAMED]
    ]
    more = [f"{len(taken) - _MOST_NAMED} more"] if len(taken) > _MOST_NAMED else []
    what = "1 worker was" if len(taken) == 1 else f"{len(taken)} workers were"
    message = f"{what} interrupted: {', '.join(each + more)}; that uses up no retry"
    return [Event("Normal", "WorkersInterrupted", message)]


def _pools(status: RephraseRunStatus) -> tuple[PoolStatus, ...]:
    return status.workers.pools if status.workers is not None else ()


def _gist(one: Condition) -> tuple[str, ...]:
    """What makes it another: its reason; what ended a driver is known a moment after that it is gone."""
    return (one.reason, one.message if one.reason == _R.DRIVER_UNREACHABLE else "")


def _kind_of_event(one: Condition, before: Condition | None) -> str:
    """Normal or Warning; empty if it is worth none."""
    if before is not None and (before.status, *_gist(before)) == (one.status, *_gist(one)):
        return ""
    kind = ConditionType(one.type)
    if one.reason == _R.NOT_REQUESTED:
        return ""
    if one.reason == _R.WORKERS_LIMITED:
        return "Warning"
    if one.status is _S.TRUE:
        return _WHEN_TRUE.get(kind, "")
    if one.status is _S.FALSE:
        if kind is _C.SUSPENDED and one.reason == _R.NOT_SUSPENDED:
            return "Normal" if before is not None else ""
        return "Warning" if one.reason in _TROUBLE else ""
    lost = one.reason == _R.DRIVER_UNREACHABLE and before is not None and before.reason in _AT_WORK
    return "Normal" if lost and kind is _C.PROGRESSING else ""


_WHEN_TRUE = {
    _C.PLANNED: "Normal",
    _C.WORKERS_AVAILABLE: "Normal",
    _C.CANARY_PASSED: "Normal",
    _C.SUSPENDED: "Normal",
    _C.COMPLETE: "Normal",
    _C.BUDGET_EXHAUSTED: "Warning",
    _C.DEADLINE_AT_RISK: "Warning",
    _C.FAILED: "Warning",
}
_AT_WORK = {_R.COMMITTING, _R.STARTING, _R.STALLED, _R.DRIVER_UNREACHABLE}
_TROUBLE = {
    *(_R.INVALID_SPEC, _R.POD_TEMPLATE_REJECTED, _R.NAME_CONFLICT, _R.OUTPUT_IN_USE),
    *(
        _R.PRICE_MISSING,
        _R.NOT_ALLOWED,
        _R.TOO_MANY_RUNS,
        _R.BUDGET_NEARLY_EXHAUSTED,
        _R.DRIVER_FAILED,
        _R.UNSCHEDULABLE,
        _R.CAPACITY_STOCKOUT,
    ),
    *(_R.POD_CREATION_BLOCKED, _R.IMAGE_PULL, _R.VOLUME_MOUNT, _R.CRASH_LOOP),
    *(_R.ACCESS_REFUSED, _R.STORAGE_FULL, _R.STALLED),
    *(_R.LIMIT_EXCEEDED, _R.AWAITING_APPROVAL),
}
_NAMES: Mapping[tuple[ConditionType, ConditionStatus], str] = {
    (_C.PLANNED, _S.TRUE): "Planned",
    (_C.WORKERS_AVAILABLE, _S.TRUE): "WorkersAvailable",
    (_C.CANARY_PASSED, _S.TRUE): "CanaryPassed",
    (_C.SUSPENDED, _S.TRUE): "Suspended",
    (_C.SUSPENDED, _S.FALSE): "Resumed",
    (_C.COMPLETE, _S.TRUE): "Completed",
    (_C.FAILED, _S.TRUE): "Failed",
    (_C.PROGRESSING, _S.FALSE): "RunStalled",
    (_C.PROGRESSING, _S.UNKNOWN): "DriverUnreachable",
}
