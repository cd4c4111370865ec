"""Everything one look at a run found and decided, with what follows from it at once. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from rephrase_api import cost
from rephrase_api.progress import Progress
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import Reason
from rephrase_api.v1alpha1.status import RephraseRunStatus, ScalingStatus
from rephrase_operator.availability import Blockage, blockage, summary
from rephrase_operator.budget import (
    affordable_starts,
    dearest,
    drain_cost,
    known_prices,
    stop_time,
)
from rephrase_operator.canary import NO_CANARY, Canary, Stage, canary
from rephrase_operator.capacity import Stockout, dearer, stockouts
from rephrase_operator.limits import allowed, limited
from rephrase_operator.observed import Observed, PodSeen, ready_pods
from rephrase_operator.plan import Plan, plan
from rephrase_operator.scaling import (
    CANARY,
    Pace,
    pace,
    seconds_late,
    settled_on,
    start_seconds,
    wanted,
    worth_starting,
)
from rephrase_operator.settings import Settings
from rephrase_operator.settle import Settlement, seconds_by_pool, settle
from rephrase_operator.verdict import Cause, Verdict, judge

_MOST_SECONDS = 10 * 365 * 86400
"""No estimate is longer."""


@dataclass(frozen=True)
class Look:
    """Everything one look at a run found and decided.

    Attributes:
        run: as the API server has it, with no more workers than this installation allows.
        before: status as it was last written.
        observed: what is there.
        verdict: where the run stands.
        plan: what is done about it.
        settlement: account of ended pods.
        prices: of a GPU hour, by pool.
        settings: the operator's.
        now: the time.
        stockouts: of pools, by name.
        scaling: how many workers were decided on, and why.
        pace: how fast the run goes, None while that is not known.
        canary: where it stands.
        limited: that the spec asks for more workers than this installation allows; empty if it does not.
        applied: whether all of the plan was carried out.
    """

    run: RephraseRun
    before: RephraseRunStatus
    observed: Observed
    verdict: Verdict
    plan: Plan
    settlement: Settlement
    prices: Mapping[str, Decimal]
    settings: Settings
    now: datetime
    stockouts: Mapping[str, Stockout] = field(default_factory=dict)
    scaling: ScalingStatus | None = None
    pace: Pace | None = None
    canary: Canary = NO_CANARY
    limited: str = ""
    applied: bool = True

    @property
    def progress(self) -> Progress | None:
        """The driver's word, or what it left when it finished."""
        told = self.observed.progress
        pod = self.observed.driver_pod
        return told or (pod.final_progress if pod is not None else None)

    @cached_property
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

    @cached_property
    def ready(self) -> list[PodSeen]:
        """Pods whose worker has its model loaded, and said so lately."""
        lease = self.run.spec.durability.lease_seconds
        return ready_pods(self.observed, lease_seconds=lease)

    @property
    def seconds_left(self) -> float | None:
        """Until all samples are finished, at the rate of the last minute; None without one."""
        progress = self.observed.progress
        if (
            progress is None
            or not progress.rates.documents_per_second
            or not progress.samples.expected
        ):
            return None
        left = 1 - progress.samples.finished / progress.samples.expected
        documents = progress.documents.total - progress.documents.filtered
        seconds = left * documents / progress.rates.documents_per_second
        return min(max(0.0, seconds), _MOST_SECONDS)


def decide(
    run: RephraseRun,
    before: RephraseRunStatus,
    observed: Observed,
    *,
    refused: Cause | None,
    prices: Mapping[str, Decimal],
    template_hashes: Mapping[str, str],
    settings: Settings,
    now: datetime,
) -> Look:
    """Settle, judge and plan: all that one look decides.

    Args:
        run: as the API server has it.
        before: status as it was last written.
        observed: what is there.
        refused: why the spec is not accepted.
        prices: of a GPU hour, by pool.
        template_hashes: of the Jobs the spec asks for now: of each pool by its name, of the driver by "".
        settings: the operator's.
        now: the time.
    """
    beyond, run = limited(run, settings), allowed(run, settings)
    prices = known_prices(before, prices)
    settlement = settle(
        before,
        observed,
        now=now,
        generation=run.metadata.generation,
        unseen_in=dearest(run, prices)[0],
        prices=prices,
    )
    seconds = seconds_by_pool(settlement, observed.worker_pods, now=now)
    spent = cost.at_least(seconds, prices)
    reserve = drain_cost(run, observed, prices, settings=settings)
    first = canary(run, before, observed)
    verdict = judge(
        run,
        before,
        observed,
        refused=refused,
        failures=settlement.failures,
        spent=spent,
        reserve=reserve,
        template_hashes=template_hashes,
        canary=first,
        settings=settings,
    )
    gpus = {pool.name: max(1, pool.gpu.count if pool.gpu else 0) for pool in run.spec.pools()}
    held = sum(one / gpus.get(pool, 1) for pool, one in seconds.items())
    speed = pace(run, before, observed, held_seconds=held, canary=first.facts)
    start = start_seconds(run, observed, before.scaling)
    scaling = settled_on(
        run,
        wanted(run, speed, start=start, now=now, before=before.scaling),
        before.scaling,
        now=now,
        nearly_done=speed is not None and speed.nearly_done,
    )
    if first.holds:
        scaling = ScalingStatus(target=1, reason=CANARY, message=first.message)
        if first.stage is Stage.UNKNOWN and before.scaling is not None:  # till the driver has told
            scaling = before.scaling
    if speed is not None:
        measured = {"seconds_per_sample": round(speed.seconds_per_sample, 4)}
        scaling = scaling.model_copy(update=measured | {"start_seconds": round(start, 1)})
    budget = run.spec.scaling.budget
    left = Decimal(budget.amount) - spent - reserve if budget is not None else Decimal(0)
    target = scaling.target if scaling.target is not None else run.spec.workers.max
    late = seconds_late(run, speed, now=now)
    short = stockouts(run, before, observed, now=now, in_time=late is None or late <= 0)
    todo = plan(
        run,
        before,
        observed,
        verdict,
        template_hashes=template_hashes,
        now=now,
        target=target,
        worth=worth_starting(speed) if run.spec.scaling.deadline is None else None,
        affordable=affordable_starts(run, observed, prices, left=left, start=start),
        avoid=settlement.avoid,
        stockouts=short,
        stop_at=stop_time(
            run, prices, workers=max(target, len(observed.worker_jobs)), spent=spent, now=now
        ),
        gives_up=(
            dearer(run, observed, short, prices=prices, pace=speed, now=now)
            if not first.holds
            else None
        ),
        units=first.units,
    )
    return Look(
        run=run,
        before=before,
        observed=observed,
        verdict=verdict,
        plan=todo,
        settlement=settlement,
        prices=prices,
        settings=settings,
        now=now,
        stockouts=short,
        scaling=scaling,
        pace=speed,
        canary=first,
        limited=beyond,
    )
