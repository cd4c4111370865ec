"""Where a run stands: it goes on, is stopped, has failed or is complete, and why. Pure.

A stop ends when the field behind it changes: the operator never writes spec. Those that no field shows
(`FailureLimit`, `WorkersNeverReady`) hold for the generation of the spec they were found under.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from rephrase_api import cost
from rephrase_api.errors import ExitCode
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.policy import OnBudgetExhausted
from rephrase_api.v1alpha1.status import Condition, RephraseRunStatus
from rephrase_operator.observed import Ending, Observed, PodSeen, ending
from rephrase_operator.settings import Settings

_FATAL = {Reason.INVALID_SPEC, Reason.INVALID_MODEL, Reason.SPEC_MISMATCH}
REMEMBERED_STOPS = frozenset({Reason.FAILURE_LIMIT, Reason.WORKERS_NEVER_READY})
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
    seconds: Mapping[str, float],
    prices: Mapping[str, Decimal],
    settings: Settings,
) -> Verdict:
    """Decide where the run stands.

    Args:
        run: as the API server has it.
        status: as it was last written.
        observed: what is there.
        refused: why the spec is not accepted.
        seconds: GPU seconds by pool.
        prices: of a GPU hour, by pool.
        settings: the operator's.
    """
    if (before := true_condition(status, ConditionType.FAILED)) is not None:
        return Verdict(refused, failed=_cause(before))
    if true_condition(status, ConditionType.COMPLETE) is not None:
        return Verdict(refused, complete=True)
    told = final_word(observed)
    if told == "":
        return Verdict(refused, complete=True)
    if (fatal := told if isinstance(told, Cause) else None) and fatal.reason in _FATAL:
        return Verdict(refused, failed=fatal)
    if (failed := _worker_that_cannot_be_helped(observed)) is not None:
        return Verdict(refused, failed=failed)
    if run.spec.suspend:
        return Verdict(refused, stopped=Cause(Reason.REQUESTED, "spec.suspend is true"))
    if (spent := _budget_spent(run, seconds, prices)) is not None:
        if run.spec.scaling.on_budget_exhausted is OnBudgetExhausted.FAIL:
            return Verdict(refused, failed=spent)
        return Verdict(refused, stopped=spent)
    if (kept := recorded_stop(run, status)) is not None:
        return Verdict(refused, stopped=kept)
    if fatal is not None and fatal.reason is Reason.FAILURE_LIMIT:
        return Verdict(refused, stopped=fatal)
    return Verdict(refused, stopped=_crash_loop(observed, settings))


def true_condition(status: RephraseRunStatus, kind: ConditionType) -> Condition | None:
    """A condition that is True, None if it is not."""
    found = (one for one in status.conditions if one.type == kind)
    return next((one for one in found if one.status is ConditionStatus.TRUE), None)


def final_word(observed: Observed) -> Cause | str | None:
    """What the driver ended with: empty = the dataset is published; a cause; None = it has not ended."""
    progress = observed.progress
    if progress is None or not progress.finished:
        pod = observed.driver_pod
        progress = pod.final_progress if pod is not None else None
    if progress is not None and progress.finished:
        if progress.phase == "Complete":
            return ""
        return _known(progress.reason, progress.message)
    pod = observed.driver_pod
    if pod is not None and pod.terminal and pod.exit_code:
        reason, sentence = pod.last_words
        if pod.exit_code == ExitCode.INVALID and not _known(reason, ""):
            return Cause(Reason.INVALID_SPEC, f"driver: {sentence}")
        return _known(reason, sentence)
    return None


def _known(reason: str, message: str) -> Cause | None:
    """A cause the API has a reason for; others are retried."""
    try:
        return Cause(Reason(reason), message)
    except ValueError:
        return None


def _worker_that_cannot_be_helped(observed: Observed) -> Cause | None:
    """A worker that ended with 64, while nobody was ending it: no retry can help."""
    for pod in observed.worker_pods:
        if pod.exit_code == ExitCode.INVALID and not pod.disruption:
            reason, sentence = pod.last_words
            known = _known(reason, sentence)
            return known if known and known.reason in _FATAL else Cause(
                Reason.INVALID_SPEC, f"{pod.name}: {pod.message.strip()[-1000:]}"
            )  # fmt: skip
    return None


def _budget_spent(
    run: RephraseRun, seconds: Mapping[str, float], prices: Mapping[str, Decimal]
) -> Cause | None:
    budget = run.spec.scaling.budget
    if budget is None:
        return None
    spent = cost.amount(seconds, prices)
    if spent is None or spent < Decimal(budget.amount):
        return None
    return Cause(
        Reason.BUDGET_EXHAUSTED,
        f"{cost.shown(spent)} of {budget.amount} {budget.currency} spent; raise "
        "spec.scaling.budget.amount to go on",
    )


def recorded_stop(run: RephraseRun, status: RephraseRunStatus) -> Cause | None:
    """A stop that only the status remembers and that holds for this generation of the spec."""
    stop = status.stop
    if stop is None or stop.generation != run.metadata.generation:
        return None
    known = _known(stop.reason, stop.message)
    return known if known is not None and known.reason in REMEMBERED_STOPS else None


def _crash_loop(observed: Observed, settings: Settings) -> Cause | None:
    """Workers failed again and again, and none of them got anything done."""
    failed: list[PodSeen] = []
    for pod in observed.worker_pods:
        end = ending(pod, job=observed.job_of(pod)) if pod.terminal else None
        # 69 is the store's: it is waited for, however long
        if end is Ending.FAILURE and pod.exit_code != ExitCode.REFUSED:
            failed.append(pod)
    if len(failed) < settings.crash_loop_failures or observed.progress is None:
        return None
    progressed = observed.progress.last_progress_time
    if progressed is not None and progressed >= min(pod.created for pod in failed):
        return None
    last = max(failed, key=lambda pod: pod.created)
    reason, sentence = last.last_words
    why = f"{reason}: {sentence}" if reason else (sentence.strip()[-500:] or last.reason)
    return Cause(
        Reason.WORKERS_NEVER_READY,
        f"{len(failed)} workers failed and none finished a sample; the last, {last.name}, with exit "
        f"{last.exit_code}: {why.rstrip('.')}. Repair the cause, then change the spec, or set spec.suspend "
        "to true and to false again",
    )


def _cause(condition: Condition) -> Cause:
    return Cause(Reason(condition.reason), condition.message)
