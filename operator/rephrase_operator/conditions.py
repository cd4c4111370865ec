"""What each condition of a run says, and the phase that follows from them. Pure.

`lastTransitionTime` moves only with a condition's `status`. Reasons and their meaning:
`rephrase_api.v1alpha1.conditions`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from rephrase_api import cost
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Phase, Reason
from rephrase_api.v1alpha1.status import Condition, ProgressStatus, RephraseRunStatus
from rephrase_api.v1alpha1.workers import MAX_WORKERS
from rephrase_api.words import duration
from rephrase_operator.availability import summary
from rephrase_operator.canary import Stage
from rephrase_operator.look import Look
from rephrase_operator.scaling import bounds, needed, seconds_late
from rephrase_operator.settle import seconds_by_pool
from rephrase_operator.verdict import Cause, Verdict

STALLED_SECONDS = 900
"""Without a commit or a checkpoint with new samples for so long, a run with ready workers is stalled."""
LATE_MARGIN = 0.05
"""A run that would be late is in time again once it is early by that share of the time left."""
NEARLY = Decimal("0.8")
"""Share of the budget from which on it is told that it comes to an end."""
_C, _S, _R = ConditionType, ConditionStatus, Reason
_Said = tuple[ConditionStatus, Reason, str]


def conditions_of(look: Look) -> tuple[Condition, ...]:
    """All conditions, in the order of their types."""
    said: dict[ConditionType, _Said] = {
        _C.ACCEPTED: _accepted(look),
        _C.PLANNED: _planned(look),
        _C.WORKERS_AVAILABLE: _workers_available(look),
        _C.PROGRESSING: _progressing(look),
        _C.CANARY_PASSED: _canary(look),
        _C.BUDGET_EXHAUSTED: _budget(look),
        _C.DEADLINE_AT_RISK: _deadline(look),
        _C.SUSPENDED: _suspended(look),
        _C.COMPLETE: _complete(look.verdict),
        _C.FAILED: _failed(look.verdict),
    }
    before = {one.type: one for one in look.before.conditions}
    return tuple(_condition(kind, *said[kind], look, before.get(kind)) for kind in _C)


def _condition(
    kind: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: str,
    look: Look,
    before: Condition | None,
) -> Condition:
    same = before is not None and before.status is status
    return Condition(
        type=kind.value,
        status=status,
        reason=reason.value,
        message=message[:4096],
        observed_generation=look.run.metadata.generation,
        last_transition_time=before.last_transition_time if before and same else look.now,
    )


def _accepted(look: Look) -> _Said:
    refused = look.verdict.refused
    if refused is not None:
        unknown = refused.reason is _R.NOT_CHECKED
        return (_S.UNKNOWN if unknown else _S.FALSE), refused.reason, refused.message
    if look.limited and not look.verdict.over:
        return _S.TRUE, _R.WORKERS_LIMITED, f"{look.limited}: it goes on with that many"
    return _S.TRUE, _R.ACCEPTED, "the spec is valid, and the API server accepts its Jobs"


def _planned(look: Look) -> _Said:
    progress = look.progress
    if progress is not None and progress.units.planned:
        units, rows = progress.units.planned, progress.documents.total
        return _S.TRUE, _R.PLANNED, f"{units} units with {rows} documents"
    known = next((one for one in look.before.conditions if one.type == _C.PLANNED), None)
    if known is not None and known.status is _S.TRUE:
        return _S.TRUE, _R.PLANNED, known.message
    if look.verdict.failed is not None:
        return _S.FALSE, _R.DRIVER_FAILED, "the run failed before it was planned"
    blocked = look.driver_trouble
    if blocked is not None:
        reason = _R.DRIVER_FAILED if blocked[0] in _DRIVER_TROUBLE else _R.PLANNING
        return _S.FALSE, reason, f"driver: {blocked[1]}"
    if progress is not None:
        return _S.FALSE, _R.PLANNING, progress.message or f"the driver: {progress.phase}"
    if look.observed.driver_job is None:
        return _S.FALSE, _R.PLANNING, "no driver yet"
    return _S.UNKNOWN, _R.DRIVER_UNREACHABLE, "the driver runs and does not answer yet"


_DRIVER_TROUBLE = {_R.CRASH_LOOP, _R.ACCESS_REFUSED, _R.STORAGE_FULL}


def _workers_available(look: Look) -> _Said:
    ready, least = len(look.ready), max(1, look.run.spec.workers.min)
    if look.canary.holds:
        least = 1
    desired = sum(look.plan.desired.values())
    blocked = summary(look.blockages)
    if look.verdict.over:
        return _S.FALSE, _R.NO_WORK_LEFT, "the run is over"
    if look.verdict.stopped is not None:
        return _S.FALSE, _R.SUSPENDED, look.verdict.stopped.message
    loading, on_the_way = _on_the_way(look)
    message = "; ".join([f"{ready} of {desired} ready", *on_the_way, *(blocked or ())[1:]])
    if ready >= least:
        return _S.TRUE, _R.MINIMUM_REACHED, message
    of_driver = look.driver_trouble
    if of_driver is not None and not look.observed.worker_jobs:
        return _S.FALSE, of_driver[0], f"driver: {of_driver[1]}"
    if blocked is not None:
        return _S.FALSE, blocked[0], message
    if look.observed.progress is None:
        if look.observed.worker_jobs:
            return (
                _S.UNKNOWN,
                _R.NOT_READABLE,
                "the driver does not answer, so readiness is unknown",
            )
        return _S.FALSE, _R.BACKING_OFF, "workers are made once the run is planned"
    if not look.observed.progress.units.planned:
        return _S.FALSE, _R.BACKING_OFF, "workers are made once the run is planned"
    units = look.observed.progress.units
    if units.committed >= units.planned:
        return _S.FALSE, _R.NO_WORK_LEFT, "all units are committed; the dataset is being published"
    if not desired:
        return _S.FALSE, _R.BACKING_OFF, "spec.workers.max is 0; raise it to go on"
    made = loading or not on_the_way
    return _S.FALSE, _R.MODEL_LOADING if made else _R.BACKING_OFF, message


def _on_the_way(look: Look) -> tuple[int, list[str]]:
    """How many workers load the model, and words on all that are neither ready nor blocked."""
    jobs = [job for job in look.observed.worker_jobs if not job.deleting]
    ready, blocked = {pod.uid for pod in look.ready}, {one.job for one in look.blockages}
    loading = sum(
        any(not pod.terminal and pod.uid not in ready for pod in look.observed.pods_of(job))
        for job in jobs
        if job.name not in blocked
    )
    ended = sum(job.complete for job in jobs)
    unmade = max(0, sum(look.plan.desired.values()) - len(jobs))
    words = [
        (loading, f"{loading} {'loads' if loading == 1 else 'load'} the model"),
        (ended, f"{ended} ended, as no unit was left to claim"),
        (unmade, f"{unmade} {'is' if unmade == 1 else 'are'} not made yet"),
    ]
    return loading, [text for count, text in words if count]


def _progressing(look: Look) -> _Said:
    if look.verdict.over:
        return _S.FALSE, _R.FINISHED, "the run is over"
    stopped = look.verdict.stopped
    if stopped is not None:
        exhausted = stopped.reason is _R.BUDGET_EXHAUSTED
        return _S.FALSE, _R.BUDGET_EXHAUSTED if exhausted else _R.SUSPENDED, stopped.message
    progress = look.observed.progress
    if progress is None:
        why = f": {trouble[1]}" if (trouble := look.driver_trouble) is not None else ""
        return _S.UNKNOWN, _R.DRIVER_UNREACHABLE, f"the driver does not answer{why}"
    window = timedelta(
        seconds=max(STALLED_SECONDS, 3 * look.run.spec.durability.checkpoint_seconds)
    )
    last = progress.last_progress_time
    if last is not None and look.now - last <= window:
        return _S.TRUE, _R.COMMITTING, "samples are being finished"
    since = max([pod.created for pod in look.ready], default=look.now)
    if look.now - max(since, last or since) > window:
        minutes = int(window.total_seconds() // 60)
        return (
            _S.FALSE,
            _R.STALLED,
            f"workers are ready, and none finished a sample for {minutes} min; see their logs",
        )
    return _S.UNKNOWN, _R.STARTING, "no worker has finished a sample lately"


def _canary(look: Look) -> _Said:
    canary, stopped = look.canary, look.verdict.stopped
    if canary.stage is Stage.NOT_REQUESTED:
        return _S.TRUE, _R.NOT_REQUESTED, canary.message
    if canary.stage is Stage.PASSED:
        return _S.TRUE, _R.WITHIN_LIMITS, canary.message
    if look.verdict.complete:
        return _S.TRUE, _R.WITHIN_LIMITS, "the run is complete"
    if stopped is not None and stopped.reason is _R.FAILURE_LIMIT:
        return _S.FALSE, _R.LIMIT_EXCEEDED, stopped.message
    return _S.FALSE, _CANARY[canary.stage], canary.message


_CANARY = {
    Stage.UNKNOWN: _R.RUNNING,
    Stage.RUNNING: _R.RUNNING,
    Stage.AWAITING: _R.AWAITING_APPROVAL,
    Stage.EXCEEDED: _R.LIMIT_EXCEEDED,
}


def _budget(look: Look) -> _Said:
    budget = look.run.spec.scaling.budget
    if budget is None:
        return _S.FALSE, _R.NO_BUDGET, "no budget is set"
    seconds = seconds_by_pool(look.settlement, look.observed.worker_pods, now=look.now)
    spent, amount = cost.at_least(seconds, look.prices), Decimal(budget.amount)
    message = f"{cost.shown(spent)} of {budget.amount} {budget.currency} spent"
    stopped = look.verdict.stopped or look.verdict.failed
    if spent >= amount or (stopped is not None and stopped.reason is _R.BUDGET_EXHAUSTED):
        return _S.TRUE, _R.BUDGET_EXHAUSTED, message
    if cost.amount(seconds, look.prices) is None:
        return _S.UNKNOWN, _R.COST_UNKNOWN, f"{message} in pools with a price; others were used too"
    if spent >= NEARLY * amount:
        return (
            _S.FALSE,
            _R.BUDGET_NEARLY_EXHAUSTED,
            f"{message}; at the end the workers are drained",
        )
    return _S.FALSE, _R.BELOW_BUDGET, message


def _deadline(look: Look) -> _Said:
    deadline = look.run.spec.scaling.deadline
    if deadline is None:
        return _S.FALSE, _R.NO_DEADLINE, "no deadline is set"
    if look.verdict.over:
        return _S.FALSE, _R.ON_TRACK, "the run is over"
    late, pace = seconds_late(look.run, look.pace, now=look.now), look.pace
    passed = (look.now - deadline).total_seconds()
    if passed > 0:
        rest = f"; it will miss it by {duration(late)}" if late is not None else ""
        return _S.TRUE, _R.BEHIND_DEADLINE, f"the deadline passed {duration(passed)} ago{rest}"
    before = next((one for one in look.before.conditions if one.type == _C.DEADLINE_AT_RISK), None)
    if late is None or pace is None:
        if before is not None and before.reason in {_R.BEHIND_DEADLINE, _R.ON_TRACK}:
            return before.status, Reason(before.reason), before.message  # nobody tells for now
        return _S.UNKNOWN, _R.NO_THROUGHPUT, "no throughput yet"
    most = bounds(look.run)[1]
    was_late = before is not None and before.status is _S.TRUE
    if late > (passed * LATE_MARGIN if was_late else 0):
        would = needed(pace, -passed, MAX_WORKERS)
        limit = look.settings.max_workers_per_run or MAX_WORKERS
        remedy = f"set spec.scaling.deadline {duration(late)} later"
        if pace.finish_seconds(would) > -passed:
            remedy += "; more workers would start too late"
        elif would > limit:
            remedy += f"; {would} workers would do, and limits.maxWorkersPerRun is {limit}"
        else:
            remedy = f"set spec.workers.max to {would}, or {remedy.removeprefix('set ')}"
        return (
            _S.TRUE,
            _R.BEHIND_DEADLINE,
            f"with all {most} workers it will miss the deadline by {duration(max(0, late))}; {remedy}",
        )
    return _S.FALSE, _R.ON_TRACK, f"with up to {most} workers it ends {duration(-late)} before it"


def _suspended(look: Look) -> _Said:
    stopped = look.verdict.stopped
    if stopped is None:
        return _S.FALSE, _R.NOT_SUSPENDED, "the run may have workers"
    left = sum(not pod.terminal for pod in look.observed.worker_pods)
    if left or any(not job.finished for job in look.observed.worker_jobs):
        return (
            _S.FALSE,
            _R.DRAINING,
            f"{stopped.message}; {left} pods are still saving their samples",
        )
    return _S.TRUE, stopped.reason, stopped.message


def _complete(verdict: Verdict) -> _Said:
    if verdict.complete:
        return _S.TRUE, _R.PUBLISHED, "the dataset is published and its account closes"
    return _S.FALSE, _R.IN_PROGRESS, ""


_ANOTHER = "Correct it in a new object; with the same output it goes on where this one ended."


def _failed(verdict: Verdict) -> _Said:
    if verdict.failed is not None:
        message = verdict.failed.message  # the second time it is the condition's own
        if _ANOTHER not in message:
            message = f"{message.rstrip('. ')}. {_ANOTHER}"
        return _S.TRUE, verdict.failed.reason, message
    return _S.FALSE, _R.IN_PROGRESS, ""


def holds(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether a condition is True."""
    return any(one.type == kind and one.status is _S.TRUE for one in conditions)


def phase(
    run: RephraseRun, conditions: Sequence[Condition], progress: ProgressStatus | None
) -> Phase:
    """The run in one word; the first match wins."""
    units = progress.units if progress is not None and progress.units is not None else None
    done = units is not None and bool(units.planned) and units.committed == units.planned
    table = (
        (holds(conditions, _C.FAILED), Phase.FAILED),
        (holds(conditions, _C.COMPLETE), Phase.SUCCEEDED),
        (run.metadata.deletion_timestamp is not None, Phase.TERMINATING),
        (holds(conditions, _C.SUSPENDED), Phase.SUSPENDED),
        (_reason(conditions, _C.SUSPENDED) == _R.DRAINING, Phase.SUSPENDING),
        (not holds(conditions, _C.ACCEPTED), Phase.PENDING),
        (not holds(conditions, _C.PLANNED), Phase.PLANNING),
        (done, Phase.PUBLISHING),
        (holds(conditions, _C.WORKERS_AVAILABLE), Phase.RUNNING),
    )
    return next((phase for holds, phase in table if holds), Phase.WAITING)


def _reason(conditions: Iterable[Condition], kind: ConditionType) -> str:
    return next((one.reason for one in conditions if one.type == kind), "")


def refused_status(
    before: RephraseRunStatus, cause: Cause, *, generation: int | None, now: datetime
) -> RephraseRunStatus:
    """The status of an object that this version cannot read: only `Accepted` and what was known."""
    old = next((one for one in before.conditions if one.type == _C.ACCEPTED), None)
    since = old.last_transition_time if old and old.status is _S.FALSE else now
    accepted = Condition(
        type=_C.ACCEPTED.value,
        status=_S.FALSE,
        reason=cause.reason.value,
        message=cause.message[:4096],
        observed_generation=generation,
        last_transition_time=since,
    )
    others = tuple(one for one in before.conditions if one.type != _C.ACCEPTED)
    return before.model_copy(
        update={
            "conditions": (accepted, *others),
            "phase": before.phase or Phase.PENDING.value,
            "observed_generation": generation,
        }
    )
