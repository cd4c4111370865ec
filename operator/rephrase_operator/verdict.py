"""Where a run stands: it goes on, is stopped, has failed or is complete, and why. Pure.

A stop ends when the field behind it changes: the operator never writes spec. Those that no field shows
(`FailureLimit`, `WorkersNeverReady`) hold for the generation of the spec they were found under.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from rephrase_api import cost
from rephrase_api.errors import ExitCode
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.policy import OnBudgetExhausted
from rephrase_api.v1alpha1.status import Condition, RecentFailure, RephraseRunStatus
from rephrase_operator.canary import NO_CANARY, Canary, Stage
from rephrase_operator.observed import Observed
from rephrase_operator.settings import Settings

_FATAL = {Reason.INVALID_SPEC, Reason.INVALID_MODEL, Reason.SPEC_MISMATCH}
_STOPS = {Stage.EXCEEDED: Reason.FAILURE_LIMIT, Stage.AWAITING: Reason.AWAITING_APPROVAL}
REMEMBERED_STOPS = frozenset(
    {Reason.FAILURE_LIMIT, Reason.WORKERS_NEVER_READY, Reason.BUDGET_EXHAUSTED}
)
"""What shows them goes with the Jobs, so they are recorded before these are deleted."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason and its sentence."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a run stands; at most one of `failed`, `complete`, `stopped` is set.

    Attributes:
        refused: why the spec is not accepted; nothing new is made then.
        failed: why only a new object can cure it.
        complete: the dataset is published.
        stopped: why there must be no workers.
    """

    refused: Cause | None = None
    failed: Cause | None = None
    complete: bool = False
    stopped: Cause | None = None

    @property
    def over(self) -> bool:
        """Whether nothing will be done for the run any more."""
        return self.complete or self.failed is not None


def judge(
    run: RephraseRun,
    status: RephraseRunStatus,
    observed: Observed,
    *,
    refused: Cause | None,
    failures: Sequence[RecentFailure],
    spent: Decimal,
    reserve: Decimal,
    template_hashes: Mapping[str, str],
    settings: Settings,
    canary: Canary = NO_CANARY,
) -> Verdict:
    """Decide where the run stands.

    Args:
        run: as the API server has it.
        status: as it was last written.
        observed: what is there.
        refused: why the spec is not accepted.
        failures: the last failures of workers, those of this look included.
        spent: money, as far as prices are known.
        reserve: money that the workers there are cost until they are drained.
        template_hashes: of the Jobs the spec asks for now: of each pool by its name, of the driver by "".
        settings: the operator's.
        canary: where it stands.
    """
    if (before := true_condition(status, ConditionType.FAILED)) is not None:
        return Verdict(refused, failed=_cause(before))
    if true_condition(status, ConditionType.COMPLETE) is not None or is_complete(observed):
        return Verdict(refused, complete=True)
    told = final_word(observed, template_hash=template_hashes[""])
    if told is not None and told.reason in _FATAL:
        return Verdict(refused, failed=told)
    if (failed := _beyond_help(observed, template_hashes)) is not None:
        return Verdict(refused, failed=failed)
    if run.spec.suspend:
        return Verdict(refused, stopped=Cause(Reason.REQUESTED, "spec.suspend is true"))
    if (exhausted := _exhausted(run, status, spent, reserve)) is not None:
        if run.spec.scaling.on_budget_exhausted is OnBudgetExhausted.FAIL:
            return Verdict(refused, failed=exhausted)
        return Verdict(refused, stopped=exhausted)
    kept = recorded_stop(run, status)
    if kept is not None and kept.reason is not Reason.BUDGET_EXHAUSTED:
        return Verdict(refused, stopped=kept)
    if told is not None and told.reason is Reason.FAILURE_LIMIT:
        return Verdict(refused, stopped=told)
    if canary.stage in _STOPS:
        return Verdict(refused, stopped=Cause(_STOPS[canary.stage], canary.message))
    return Verdict(refused, stopped=_crash_loop(status, observed, failures, settings))


def true_condition(status: RephraseRunStatus, kind: ConditionType) -> Condition | None:
    """A condition that is True, None if it is not."""
    found = (one for one in status.conditions if one.type == kind)
    return next((one for one in found if one.status is ConditionStatus.TRUE), None)


def is_complete(observed: Observed) -> bool:
    """Whether the driver says, or said with its last words, that the dataset is published."""
    pod = observed.driver_pod
    words = [observed.progress, pod.final_progress if pod is not None else None]
    return any(told is not None and told.finished and told.phase == "Complete" for told in words)


def final_word(observed: Observed, *, template_hash: str) -> Cause | None:
    """Why the driver ended; None if it has not, was interrupted, or was made for another spec."""
    job, pod, progress = observed.driver_job, observed.driver_pod, observed.progress
    if job is None or pod is None or job.template_hash != template_hash or pod.disruption:
        return None
    if progress is not None and progress.finished:
        return _known(progress.reason, progress.message)
    if not pod.terminal or not pod.exit_code:
        return None
    reason, sentence = pod.last_words
    if pod.exit_code == ExitCode.INVALID and _known(reason, "") is None:
        return Cause(Reason.INVALID_SPEC, f"driver: {sentence}")
    return _known(reason, sentence)


def _known(reason: str, message: str) -> Cause | None:
    """A cause the API has a reason for; others are retried."""
    return Cause(Reason(reason), message) if reason in set(Reason) else None


def _beyond_help(observed: Observed, template_hashes: Mapping[str, str]) -> Cause | None:
    """A worker that ended with 64, while nobody was ending it: no retry can help."""
    for pod in observed.worker_pods:
        job = observed.job_of(pod)
        current = job is not None and job.template_hash == template_hashes.get(pod.pool)
        if pod.exit_code == ExitCode.INVALID and not pod.disruption and current:
            reason, sentence = pod.last_words
            if reason in _FATAL:
                return _known(reason, sentence)
            return Cause(Reason.INVALID_SPEC, f"{pod.name}: {sentence.strip()[-1000:]}")
    return None


def _exhausted(
    run: RephraseRun, status: RephraseRunStatus, spent: Decimal, reserve: Decimal
) -> Cause | None:
    """What is left covers no more than a drain; or it did, and the budget was not raised since."""
    budget = run.spec.scaling.budget
    if budget is None:
        return None
    stop = status.stop
    stays = (
        stop is not None
        and stop.reason == Reason.BUDGET_EXHAUSTED
        and stop.budget is not None
        and Decimal(budget.amount) <= Decimal(stop.budget)
    )
    if spent + reserve < Decimal(budget.amount) and not stays:
        return None
    return Cause(
        Reason.BUDGET_EXHAUSTED,
        f"{cost.shown(spent)} of {budget.amount} {budget.currency} spent, and the rest is what stopping the "
        "workers takes; raise spec.scaling.budget.amount to go on",
    )


def recorded_stop(run: RephraseRun, status: RephraseRunStatus) -> Cause | None:
    """A stop that only the status remembers and that still holds: for this generation, or this budget."""
    stop = status.stop
    if stop is None or stop.reason not in REMEMBERED_STOPS:
        return None
    by_money = stop.reason == Reason.BUDGET_EXHAUSTED
    return _known(stop.reason, stop.message) if by_money or (
        stop.generation == run.metadata.generation
    ) else None  # fmt: skip


def _crash_loop(
    status: RephraseRunStatus,
    observed: Observed,
    failures: Sequence[RecentFailure],
    settings: Settings,
) -> Cause | None:
    """Workers failed again and again, since the run was last resumed, and none got anything done."""
    if observed.progress is None:
        return None
    since = [one.last_transition_time for one in status.conditions if one.type == _SUSPENDED]
    if observed.progress.last_progress_time is not None:
        since.append(observed.progress.last_progress_time)
    # 69 is the store's: it is waited for, however long
    failed = [one for one in failures if one.reason not in _STORES]
    failed = [one for one in failed if not since or one.time > max(since)]
    if len(failed) < settings.crash_loop_failures:
        return None
    last = max(failed, key=lambda one: one.time)
    return Cause(
        Reason.WORKERS_NEVER_READY,
        f"{len(failed)} workers failed and none finished a sample; the last: "
        f"{last.message.rstrip('. ')}. Repair the cause, then change the spec, or set spec.suspend to true "
        "and to false again",
    )


_SUSPENDED = ConditionType.SUSPENDED
_STORES = {Reason.ACCESS_REFUSED, Reason.STORAGE_FULL, "StoreUnavailable"}


def _cause(condition: Condition) -> Cause:
    known = _known(condition.reason, condition.message)
    return known or Cause(Reason.INVALID_SPEC, condition.message)  # of a newer operator
