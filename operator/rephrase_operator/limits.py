"""What this installation allows a run, whoever wrote it: how many workers, which pods, how many runs. Pure.

Limits are of the platform, not of the run. One that has not begun is refused, with the field, its value and
the limit. One that is under way never loses work by a limit that came later: it goes on with fewer workers,
as if its own `max` had been lowered, or keeps the pods it has.
"""

from collections.abc import Iterator, Sequence

from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionType, Reason
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.settings import Settings
from rephrase_operator.verdict import Cause, true_condition

_MOST_NAMED = 3
_WHOSE = "Limits are values of the operator's chart"


def under_way(status: RephraseRunStatus) -> bool:
    """Whether a run was accepted once and not refused since, or has a plan."""
    return true_condition(status, ConditionType.ACCEPTED) is not None or status.progress is not None


def not_allowed(
    run: RephraseRun, status: RephraseRunStatus, *, ahead: Sequence[str], settings: Settings
) -> Cause | None:
    """Why this installation does not take the run; None if it does.

    Args:
        run: as the API server has it.
        status: as it was last written.
        ahead: live runs of the namespace that have their places before this one.
        settings: the operator's.
    """
    begun = under_way(status)
    problems = list(_overlays(run, settings))
    if not begun and (exceeded := limited(run, settings)):
        problems.append(f"{exceeded}; lower it")
    if problems:
        return Cause(Reason.NOT_ALLOWED, f"{'; '.join(problems)}. {_WHOSE}")
    most = settings.max_runs_per_namespace
    if begun or not most or len(ahead) < most:
        return None
    named = ", ".join([*ahead[:_MOST_NAMED], *(["..."] if len(ahead) > _MOST_NAMED else [])])
    return Cause(
        Reason.TOO_MANY_RUNS,
        f"{len(ahead)} of the runs in namespace {run.metadata.namespace} ({named}) are not over, and "
        f"limits.maxRunsPerNamespace is {most}: this one begins by itself once another is complete, failed "
        f"or deleted. {_WHOSE}",
    )


def _overlays(run: RephraseRun, settings: Settings) -> Iterator[str]:
    """Pod templates that are not allowed. No pod of one is made, not even for a run that is under way."""
    if settings.allow_pod_template:
        return
    named = [f"spec.workers.pools[{pool.name}].podTemplate" for pool in run.spec.pools()
             if pool.pod_template is not None]  # fmt: skip
    if run.spec.driver.pod_template is not None:
        named.append("spec.driver.podTemplate")
    if named:
        verb = "is" if len(named) == 1 else "are"
        yield f"{', '.join(named)} {verb} set, and limits.allowPodTemplate is false; remove it"


def limited(run: RephraseRun, settings: Settings) -> str:
    """That the run asks for more workers than it may have; empty if it does not."""
    asked, most = run.spec.workers.max, settings.max_workers_per_run
    if not most or asked <= most:
        return ""
    return f"spec.workers.max is {asked}, and limits.maxWorkersPerRun is {most}"


def allowed(run: RephraseRun, settings: Settings) -> RephraseRun:
    """The run as if it had asked for no more workers than it may have."""
    if not limited(run, settings):
        return run
    workers, most = run.spec.workers, settings.max_workers_per_run
    fewer = workers.model_copy(update={"max": most, "min": min(workers.min, most)})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"workers": fewer})})
