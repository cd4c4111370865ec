"""(run, observed, verdict, plan, status before) → status: derived, never incremented. Pure.

Numbers come from the driver's word; where it is silent those of the last status stay. `lastTransitionTime`
moves only with a condition's `status`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rephrase_api import cost, names
from rephrase_api.progress import Progress
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1 import status as api
from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Phase, Reason
from rephrase_operator.availability import Blockage, blockage, summary
from rephrase_operator.observed import Observed, PodSeen, ready_pods
from rephrase_operator.plan import Plan
from rephrase_operator.settings import Settings
from rephrase_operator.settle import Settlement, seconds_by_pool
from rephrase_operator.verdict import Cause, Verdict

STALLED_SECONDS = 900
"""Without a commit or a checkpoint with new samples for so long, a run with ready workers is stalled."""
_MOST_SECONDS = 10 * 365 * 86400
"""No estimate is longer."""
_C, _S, _R = ConditionType, ConditionStatus, Reason
_Said = tuple[ConditionStatus, Reason, str]


@dataclass(frozen=True, slots=True)
class Look:
    """Everything one look at a run found and decided.

    Attributes:
        run: as the API server has it.
        before: status as it was last written.
        observed: what is there.
        verdict: where the run stands.
        plan: what is done about it.
        settlement: account of ended pods.
        prices: of a GPU hour, by pool.
        settings: the operator's.
        now: the time.
        applied: whether all of the plan was carried out.
    """

    run: RephraseRun
    before: api.RephraseRunStatus
    observed: Observed
    verdict: Verdict
    plan: Plan
    settlement: Settlement
    prices: Mapping[str, Decimal]
    settings: Settings
    now: datetime
    applied: bool = True

    @property
    def progress(self) -> Progress | None:
        """The driver's word, or what it left when it finished."""
        told = self.observed.progress
        pod = self.observed.driver_pod
        return told or (pod.final_progress if pod is not None else None)

    @property
    def blockages(self) -> list[Blockage]:
        """Why workers' Jobs have no pod at work."""
        ready = {pod.uid for pod in self.ready}
        found = (
            blockage(job, self.observed, now=self.now, at_work=ready)
            for job in self.observed.worker_jobs
        )
        return [one for one in found if one is not None]

    @property
    def driver_trouble(self) -> tuple[Reason, str] | None:
        """Why the driver is not at work, with a remedy; None if it is, or only starts."""
        job, pod, told = self.observed.driver_job, self.observed.driver_pod, self.observed.progress
        if job is None:
            return None
        at_work = told is not None and told.phase != "Preflight" and pod is not None
        uids = frozenset([pod.uid]) if at_work and pod is not None else frozenset()
        found = blockage(job, self.observed, now=self.now, at_work=uids)
        return summary([found]) if found is not None else None

    @property
    def ready(self) -> list[PodSeen]:
        """Pods whose worker has its model loaded, and said so lately."""
        lease = self.run.spec.durability.lease_seconds
        return ready_pods(self.observed, lease_seconds=lease)


def status_of(look: Look) -> api.RephraseRunStatus:
    """The status to write."""
    run, before, now = look.run, look.before, look.now
    conditions = _conditions(look)
    over = _is(conditions, _C.COMPLETE) or _is(conditions, _C.FAILED)
    stopped = look.verdict.stopped
    progress = look.progress
    seconds = seconds_by_pool(look.settlement, look.observed.worker_pods, now=now)
    shown = _progress(look)
    pools = look.settlement.pools.values()
    return api.RephraseRunStatus(
        observed_generation=(
            before.observed_generation
            if not look.applied or look.plan.unfinished
            else run.metadata.generation
        ),
        phase=phase(run, conditions, shown).value,
        spec_hash=spec_hash(declared(run.spec)),
        start_time=before.start_time or now,
        completion_time=before.completion_time or (now if over else None),
        conditions=conditions,
        progress=shown,
        tokens=_tokens(progress) or before.tokens,
        throughput=_throughput(look.observed.progress, over=over),
        workers=_workers(look),
        disruptions=sum(pool.disruptions for pool in pools),
        worker_failures=sum(pool.failures for pool in pools),
        cost=_cost(look, seconds, progress),
        eta=_eta(look, over=over),
        estimated_completion_time=_end(look, over=over),
        output=_output(run),
        image=api.ImageStatus(
            runner=run.spec.image.runner or look.settings.runner_image,
            driver=run.spec.image.driver or look.settings.driver_image,
        ),
        recent_failures=look.settlement.failures,
        stop=(
            api.StopStatus(
                reason=stopped.reason,
                message=stopped.message[:4096],
                generation=run.metadata.generation,
            )
            if stopped is not None
            else None
        ),
        settled=tuple(sorted(pools, key=lambda pool: pool.name)),
        settling=look.settlement.settling,
    )


# -- conditions --


def _conditions(look: Look) -> tuple[api.Condition, ...]:
    said: dict[ConditionType, _Said] = {
        _C.ACCEPTED: _accepted(look.verdict),
        _C.PLANNED: _planned(look),
        _C.WORKERS_AVAILABLE: _workers_available(look),
        _C.PROGRESSING: _progressing(look),
        _C.CANARY_PASSED: _canary(look.run),
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
    before: api.Condition | None,
) -> api.Condition:
    same = before is not None and before.status is status
    return api.Condition(
        type=kind.value,
        status=status,
        reason=reason.value,
        message=message[:4096],
        observed_generation=look.run.metadata.generation,
        last_transition_time=before.last_transition_time if before and same else look.now,
    )


def _accepted(verdict: Verdict) -> _Said:
    if verdict.refused is not None:
        unknown = verdict.refused.reason is _R.NOT_CHECKED
        return (
            (_S.UNKNOWN if unknown else _S.FALSE),
            verdict.refused.reason,
            verdict.refused.message,
        )
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
    desired = sum(look.plan.desired.values())
    blocked = summary(look.blockages)
    if look.verdict.over:
        return _S.FALSE, _R.NO_WORK_LEFT, "the run is over"
    if look.verdict.stopped is not None:
        return _S.FALSE, _R.SUSPENDED, look.verdict.stopped.message
    if ready >= least:
        waiting = f"; {blocked[1]}" if blocked is not None else ""
        return _S.TRUE, _R.MINIMUM_REACHED, f"{ready} of {desired} ready{waiting}"
    of_driver = look.driver_trouble
    if of_driver is not None and not look.observed.worker_jobs:
        return _S.FALSE, of_driver[0], f"driver: {of_driver[1]}"
    if blocked is not None:
        return _S.FALSE, blocked[0], f"{ready} of {desired} ready; {blocked[1]}"
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
    loading = sum(not pod.terminal and pod.phase == "Running" for pod in look.observed.worker_pods)
    return _S.FALSE, _R.MODEL_LOADING, f"{ready} of {desired} ready; {loading} load the model"


def _progressing(look: Look) -> _Said:
    if look.verdict.over:
        return _S.FALSE, _R.FINISHED, "the run is over"
    stopped = look.verdict.stopped
    if stopped is not None:
        exhausted = stopped.reason is _R.BUDGET_EXHAUSTED
        return _S.FALSE, _R.BUDGET_EXHAUSTED if exhausted else _R.SUSPENDED, stopped.message
    progress = look.observed.progress
    if progress is None:
        return _S.UNKNOWN, _R.DRIVER_UNREACHABLE, "the driver does not answer"
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


def _canary(run: RephraseRun) -> _Said:
    asked = run.spec.canary.documents
    message = "spec.canary has no effect in this version" if asked else "no canary was asked for"
    return _S.TRUE, _R.NOT_REQUESTED, message


def _budget(look: Look) -> _Said:
    budget = look.run.spec.scaling.budget
    if budget is None:
        return _S.FALSE, _R.NO_BUDGET, "no budget is set"
    seconds = seconds_by_pool(look.settlement, look.observed.worker_pods, now=look.now)
    spent = cost.at_least(seconds, look.prices)
    message = f"{cost.shown(spent)} of {budget.amount} {budget.currency} spent"
    if spent >= Decimal(budget.amount):
        return _S.TRUE, _R.BUDGET_EXHAUSTED, message
    if cost.amount(seconds, look.prices) is None:
        return _S.UNKNOWN, _R.COST_UNKNOWN, f"{message} in pools with a price; others were used too"
    return _S.FALSE, _R.BELOW_BUDGET, message


def _deadline(look: Look) -> _Said:
    deadline = look.run.spec.scaling.deadline
    if deadline is None:
        return _S.FALSE, _R.NO_DEADLINE, "no deadline is set"
    left = _seconds_left(look)
    if look.verdict.over:
        return _S.FALSE, _R.ON_TRACK, "the run is over"
    if left is None:
        return _S.UNKNOWN, _R.NO_THROUGHPUT, "no throughput yet"
    end = look.now + timedelta(seconds=left)
    at_this_rate = f"at this rate it ends {end:%Y-%m-%dT%H:%MZ}"
    if end > deadline:
        return _S.TRUE, _R.BEHIND_DEADLINE, f"{at_this_rate}, after spec.scaling.deadline"
    return _S.FALSE, _R.ON_TRACK, at_this_rate


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


def _is(conditions: Iterable[api.Condition], kind: ConditionType) -> bool:
    return any(one.type == kind and one.status is _S.TRUE for one in conditions)


def phase(
    run: RephraseRun, conditions: Sequence[api.Condition], progress: api.ProgressStatus | None
) -> Phase:
    """The run in one word; the first match wins."""
    units = progress.units if progress is not None and progress.units is not None else None
    done = units is not None and bool(units.planned) and units.committed == units.planned
    table = (
        (_is(conditions, _C.FAILED), Phase.FAILED),
        (_is(conditions, _C.COMPLETE), Phase.SUCCEEDED),
        (run.metadata.deletion_timestamp is not None, Phase.TERMINATING),
        (_is(conditions, _C.SUSPENDED), Phase.SUSPENDED),
        (_reason(conditions, _C.SUSPENDED) == _R.DRAINING, Phase.SUSPENDING),
        (not _is(conditions, _C.ACCEPTED), Phase.PENDING),
        (not _is(conditions, _C.PLANNED), Phase.PLANNING),
        (done, Phase.PUBLISHING),
        (_is(conditions, _C.WORKERS_AVAILABLE), Phase.RUNNING),
    )
    return next((phase for holds, phase in table if holds), Phase.WAITING)


def _reason(conditions: Iterable[api.Condition], kind: ConditionType) -> str:
    return next((one.reason for one in conditions if one.type == kind), "")


# -- numbers --


def _progress(look: Look) -> api.ProgressStatus | None:
    progress = look.progress
    if progress is None or not progress.units.planned:
        return look.before.progress
    units, documents, samples = progress.units, progress.documents, progress.samples
    return api.ProgressStatus(
        display=f"{units.committed}/{units.planned}",
        units=api.UnitCounts(
            planned=units.planned, claimed=units.claimed, committed=units.committed
        ),
        documents=api.DocumentCounts(total=documents.total, done=documents.done),
        samples=api.SampleCounts(
            written=samples.written, skipped=samples.skipped, failed=samples.failed
        ),
        last_commit_time=progress.last_progress_time,
    )


def _tokens(progress: Progress | None) -> api.TokenCounts | None:
    if progress is None or not progress.units.planned:
        return None
    tokens = progress.tokens
    return api.TokenCounts(
        prompt=tokens.prompt, completion=tokens.completion, discarded=tokens.discarded
    )


def _throughput(progress: Progress | None, *, over: bool) -> api.Throughput | None:
    if progress is None or over or not progress.units.planned:
        return None
    return api.Throughput(
        completion_tokens_per_second=round(progress.rates.completion_tokens_per_second, 1),
        documents_per_second=round(progress.rates.documents_per_second, 3),
    )


def _workers(look: Look) -> api.WorkersStatus:
    desired = sum(look.plan.desired.values())
    jobs = [job for job in look.observed.worker_jobs if not job.finished and not job.deleting]
    ready = look.ready
    draining = [
        pod
        for pod in look.observed.worker_pods
        if not pod.terminal and (pod.deletion is not None or look.observed.job_of(pod) is None)
    ]
    pools = [pool.name for pool in look.run.spec.pools()]
    return api.WorkersStatus(
        display=f"{len(ready)}/{desired}",
        desired=desired,
        active=len(jobs),
        ready=len(ready),
        draining=len(draining),
        selector=names.worker_selector(look.run.metadata.name),
        pools=tuple(_pool(look, name) for name in pools),
        avoid_nodes=look.settlement.avoid,
    )


def _pool(look: Look, name: str) -> api.PoolStatus:
    blockages = [one for one in look.blockages if one.pool == name]
    blocked = summary(blockages)
    jobs = [job for job in look.observed.worker_jobs if job.pool == name and not job.deleting]
    return api.PoolStatus(
        name=name,
        desired=look.plan.desired.get(name, 0),
        active=sum(not job.finished for job in jobs),
        ready=sum(pod.pool == name for pod in look.ready),
        pending=sum(one.pending for one in blockages),
        reason=blocked[0].value if blocked is not None else None,
    )


def _cost(look: Look, seconds: Mapping[str, float], progress: Progress | None) -> api.Cost | None:
    """Money where all prices are known, GPU hours in any case; as before where nothing changed."""
    before = look.before.cost
    if not any(seconds.values()):
        return before
    total = cost.amount(seconds, look.prices)
    budget = look.run.spec.scaling.budget
    found = api.Cost(
        currency=budget.currency if budget is not None else "USD",
        total=cost.shown(total) if total is not None else None,
        by_pool=tuple(_pool_cost(name, seconds[name], look.prices) for name in sorted(seconds)),
        basis="Static" if total is not None else "Unknown",
        observed_time=look.now,
    )
    ratios = {name: getattr(before, name) for name in _RATIOS} if before is not None else {}
    if total is not None and progress is not None and progress.units.planned:
        ratios = _ratios(total, progress)
    found = found.model_copy(update=ratios)
    if before is not None and found.model_copy(update={"observed_time": None}) == (
        before.model_copy(update={"observed_time": None})
    ):
        return before
    return found


_RATIOS = ("discarded", "projected", "per_million_tokens")


def _ratios(total: Decimal, progress: Progress) -> dict[str, str | None]:
    """What the tokens and samples so far make of the money."""
    tokens, samples = progress.tokens, progress.samples
    generated = tokens.completion + tokens.discarded
    values = {
        "discarded": total * tokens.discarded / generated if generated else None,
        "projected": total * samples.expected / samples.finished if samples.finished else None,
        "per_million_tokens": cost.per_million(total, tokens.completion),
    }
    return {
        name: cost.shown(value) if value is not None else None for name, value in values.items()
    }


def _pool_cost(name: str, seconds: float, prices: Mapping[str, Decimal]) -> api.PoolCost:
    money = cost.amount({name: seconds}, prices)
    return api.PoolCost(
        name=name,
        amount=cost.shown(money) if money is not None else None,
        gpu_hours=format(Decimal(seconds / 3600).quantize(Decimal("0.001")), "f"),
    )


def _seconds_left(look: Look) -> float | None:
    progress = look.observed.progress
    if progress is None or not progress.rates.documents_per_second or not progress.samples.expected:
        return None
    left = 1 - progress.samples.finished / progress.samples.expected
    documents = progress.documents.total - progress.documents.filtered
    seconds = left * documents / progress.rates.documents_per_second
    return min(max(0.0, seconds), _MOST_SECONDS)


def _eta(look: Look, *, over: bool) -> str | None:
    left = _seconds_left(look)
    return None if over or left is None else duration(left)


def _end(look: Look, *, over: bool) -> datetime | None:
    """To the minute: it would else change at every look."""
    left = _seconds_left(look)
    if over or left is None:
        return None
    return (look.now + timedelta(seconds=left)).replace(second=0, microsecond=0)


def duration(seconds: float) -> str:
    """Two units at most, as in ``4h12m``; a date would show as `<invalid>` in a column."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _output(run: RephraseRun) -> api.OutputStatus:
    base = run.spec.output.uri.rstrip("/")
    return api.OutputStatus(
        manifest=f"{base}/_run/manifest.json", dead_letters=f"{base}/dead_letter/"
    )


# -- writing --


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


def is_urgent(before: api.RephraseRunStatus, after: api.RephraseRunStatus) -> bool:
    """Whether it must be written at once: a condition or the phase flipped, or a pod was settled."""

    def said(status: api.RephraseRunStatus) -> list[tuple[str, str, str]]:
        return [(one.type, one.status, one.reason) for one in status.conditions]

    return (
        said(before) != said(after)
        or before.phase != after.phase
        or before.settling != after.settling
        or before.stop != after.stop
        or before.observed_generation != after.observed_generation
        or (before.workers and before.workers.display) != (after.workers and after.workers.display)
    )


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


def events(before: api.RephraseRunStatus, after: api.RephraseRunStatus) -> list[Event]:
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
    old = before.workers.desired if before.workers is not None else None
    new = after.workers.desired if after.workers is not None else None
    if (new or 0) != (old or 0):
        found.append(Event("Normal", "WorkersScaled", f"{old or 0} -> {new or 0} wanted"))
    return found


def _kind_of_event(one: api.Condition, before: api.Condition | None) -> str:
    """Normal or Warning; empty if it is worth none."""
    if before is not None and (before.status, before.reason) == (one.status, one.reason):
        return ""
    kind = ConditionType(one.type)
    if one.status is _S.TRUE:
        return _WHEN_TRUE.get(kind, "")
    if one.status is _S.FALSE:
        if kind is _C.SUSPENDED and one.reason == _R.NOT_SUSPENDED:
            return "Normal" if before is not None else ""
        return "Warning" if one.reason in _TROUBLE else ""
    return ""


_WHEN_TRUE = {
    _C.PLANNED: "Normal",
    _C.WORKERS_AVAILABLE: "Normal",
    _C.SUSPENDED: "Normal",
    _C.COMPLETE: "Normal",
    _C.BUDGET_EXHAUSTED: "Warning",
    _C.DEADLINE_AT_RISK: "Warning",
    _C.FAILED: "Warning",
}
_TROUBLE = {
    *(_R.INVALID_SPEC, _R.POD_TEMPLATE_REJECTED, _R.NAME_CONFLICT, _R.OUTPUT_IN_USE),
    *(_R.PRICE_MISSING, _R.DRIVER_FAILED, _R.UNSCHEDULABLE, _R.CAPACITY_STOCKOUT),
    *(_R.POD_CREATION_BLOCKED, _R.IMAGE_PULL, _R.VOLUME_MOUNT, _R.CRASH_LOOP),
    *(_R.ACCESS_REFUSED, _R.STORAGE_FULL, _R.STALLED),
}
_NAMES: Mapping[tuple[ConditionType, ConditionStatus], str] = {
    (_C.PLANNED, _S.TRUE): "Planned",
    (_C.WORKERS_AVAILABLE, _S.TRUE): "WorkersAvailable",
    (_C.SUSPENDED, _S.TRUE): "Suspended",
    (_C.SUSPENDED, _S.FALSE): "Resumed",
    (_C.COMPLETE, _S.TRUE): "Completed",
    (_C.FAILED, _S.TRUE): "Failed",
    (_C.PROGRESSING, _S.FALSE): "RunStalled",
}


def refused_status(
    before: api.RephraseRunStatus, cause: Cause, *, generation: int | None, now: datetime
) -> api.RephraseRunStatus:
    """The status of an object that this version cannot read: only `Accepted` and what was known."""
    old = next((one for one in before.conditions if one.type == _C.ACCEPTED), None)
    since = old.last_transition_time if old and old.status is _S.FALSE else now
    accepted = api.Condition(
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
