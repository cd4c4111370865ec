"""The canary: the first units of a run, which one worker does before there are others. Pure.

What it shows is a function of these units' commits: the driver tells it, and the status keeps it for the
time that no driver runs. So neither a restart nor a new object with the same output measures twice, and a
stop ends when the field behind it changes. What holds, and is tested as such: no second worker before it
has passed.
"""

from dataclasses import dataclass
from enum import Enum

from rephrase_api.progress import CanaryProgress
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1 import status as api
from rephrase_api.v1alpha1.policy import Approval
from rephrase_operator.observed import Observed

_MOST_NAMED = 5
_ALIKE = 0.5
"""More than this share of a prompt's rewrites with one beginning is told; it is a warning, no verdict."""


class Stage(Enum):
    """Where a canary stands."""

    NOT_REQUESTED = "not requested"
    UNKNOWN = "unknown"
    """The driver has not told yet what its units are."""
    RUNNING = "running"
    EXCEEDED = "exceeded"
    """Too many of its documents failed."""
    AWAITING = "awaiting"
    """Somebody has to approve."""
    PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Canary:
    """Where a canary stands.

    Attributes:
        stage: that.
        facts: what it has shown so far; None if nobody knows.
        message: both in a sentence.
    """

    stage: Stage
    facts: api.CanaryStatus | None
    message: str

    @property
    def holds(self) -> bool:
        """Whether it keeps the number of workers down."""
        return self.stage in {Stage.UNKNOWN, Stage.RUNNING}

    @property
    def units(self) -> int | None:
        """The units that workers are made for: None = all, 0 = not known yet."""
        if not self.holds:
            return None
        return (self.facts.units or 0) if self.facts is not None else 0


NO_CANARY = Canary(Stage.NOT_REQUESTED, None, "no canary was asked for")


def canary(run: RephraseRun, status: api.RephraseRunStatus, observed: Observed) -> Canary:
    """Where the canary stands.

    Args:
        run: as the API server has it.
        status: as it was last written.
        observed: what is there.
    """
    spec = run.spec.canary
    if not spec.documents:
        return NO_CANARY
    facts = _facts(spec.documents, status, observed)
    if facts is None:
        return Canary(Stage.UNKNOWN, None, "the driver has not told yet what its units are")
    done = f"{facts.committed} of its {facts.units} units are committed"
    if (facts.committed or 0) < (facts.units or 0):
        return Canary(Stage.RUNNING, facts, f"one worker does it: {done}")
    failed, documents = facts.failed_documents or 0, facts.documents or 0
    limit = run.spec.retries.max_failed_documents
    if limit.exceeded_by_canary(failed, documents):
        return Canary(
            Stage.EXCEEDED,
            facts,
            f"{failed} of the {documents} documents of the canary failed, more than {limit.share}"
            f"{_most(facts.reasons)}; raise spec.retries.maxFailedDocuments.share to go on, or start anew "
            "with another output",
        )
    shown = _shown(facts)
    waits = spec.approval is Approval.MANUAL and not spec.approved
    if waits and (facts.units or 0) < _planned(status, observed):  # else nothing is left to approve
        message = (
            f"{shown}; look at status.canary and status.estimate, then set spec.canary.approved"
        )
        return Canary(Stage.AWAITING, facts, f"{message} to true")
    return Canary(Stage.PASSED, facts, shown)


def _planned(status: api.RephraseRunStatus, observed: Observed) -> int:
    """Units of the whole run."""
    if observed.progress is not None and observed.progress.units.planned:
        return observed.progress.units.planned
    units = status.progress.units if status.progress is not None else None
    return (units.planned or 0) if units is not None else 0


def _facts(
    asked: int, status: api.RephraseRunStatus, observed: Observed
) -> api.CanaryStatus | None:
    """The driver's word on this canary, or the last one known; once all of it is there it stays."""
    told = observed.progress.canary if observed.progress is not None else None
    known = status.canary if status.canary and status.canary.requested == asked else None
    if known is not None and known.completion_tokens_per_second and known.committed == known.units:
        return known
    return _status(told) if told is not None and told.asked == asked else known


def _status(told: CanaryProgress) -> api.CanaryStatus:
    samples, tokens = told.samples, told.tokens
    return api.CanaryStatus(
        requested=told.asked,
        units=told.units,
        committed=told.committed,
        documents=told.documents,
        filtered=told.filtered,
        failed_documents=told.failed_documents,
        samples=api.SampleCounts(
            written=samples.written, skipped=samples.skipped, failed=samples.failed
        ),
        tokens=api.TokenCounts(prompt=tokens.prompt, completion=tokens.completion),
        completion_tokens_per_second=round(told.tokens_per_second, 1) or None,
        pool=told.pool or None,
        gpus=told.gpus if told.pool else None,
        prompts=tuple(
            api.CanaryPrompt(
                name=name,
                mean_completion_tokens=round(mean, 1),
                alike=round(told.alike[name], 3) if name in told.alike else None,
            )
            for name, mean in sorted(told.output_tokens.items())
        ),
        reasons=_named(told.reasons),
        flags=_named(told.flags),
    )


def _named(counts: dict[str, int]) -> tuple[api.NamedCount, ...]:
    most = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return tuple(api.NamedCount(name=name, samples=count) for name, count in most[:32])


def _most(counts: tuple[api.NamedCount, ...]) -> str:
    named = ", ".join(f"{one.name} {one.samples}" for one in counts[:_MOST_NAMED])
    return f" (samples: {named})" if named else ""


def _shown(facts: api.CanaryStatus) -> str:
    rate = facts.completion_tokens_per_second
    speed = f", {rate:,.0f} tokens/s" if rate else ""
    failed = f"{facts.failed_documents} of the {facts.documents} documents of the canary failed"
    alike = [f"{one.name} {one.alike:.0%}" for one in facts.prompts if (one.alike or 0) > _ALIKE]
    begin = f"; rewrites that begin alike: {', '.join(alike)}" if alike else ""
    return f"{failed}{speed}{_most(facts.flags)}{begin}"
