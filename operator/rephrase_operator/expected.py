"""What the whole run is expected to take, for its status: by its canary, before that by the table. Pure.

As if all of it were done in one pool: the one where the canary ran, else the one that is tried first.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TypeVar

from rephrase_api import cost
from rephrase_api.estimate import (
    START_SECONDS,
    Basis,
    Figure,
    Measured,
    PoolEstimate,
    Price,
    Shape,
    gpu_of,
    in_pool,
    output_tokens,
    rate,
)
from rephrase_api.progress import Progress
from rephrase_api.v1alpha1 import Pool, RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1 import status as api
from rephrase_api.v1alpha1.fields import MAX_INTEGER
from rephrase_api.v1alpha1.workers import MAX_WORKERS
from rephrase_api.words import duration
from rephrase_operator.capacity import by_priority
from rephrase_operator.look import Look
from rephrase_operator.scaling import CARE, Pace, needed

N = TypeVar("N", float, Decimal)


def estimate(look: Look) -> api.Estimate | None:
    """The estimate; that of the last status where the plan is not known, or the run is over."""
    progress, before, facts = look.progress, look.before.estimate, look.canary.facts
    if progress is None or not progress.units.planned or (look.verdict.over and before is not None):
        return before
    measured = _measured(look.run.spec, facts) if facts is not None else None
    pool = _pool(look.run, facts)
    shape = Shape(look.run.spec, _documents(progress, facts), progress.units.planned)
    found = in_pool(shape, pool, _price(look.prices, pool.name), measured)
    tokens = output_tokens(shape, measured)
    where = f"all in pool {pool.name}"
    count = int(min(tokens.likely, MAX_INTEGER)) if tokens.likely is not None else None
    if found.gpu_hours.likely is None:
        return api.Estimate(
            completion_tokens=count,
            basis=f"{where}: unknown: {found.gpu_hours.source}",
        )
    return api.Estimate(
        gpu_hours=_range(found.gpu_hours, lambda hours: f"{hours:.3f}"),
        cost=_range(found.money, cost.shown),
        time=_range(found.seconds, duration),
        workers=_workers(look, found, tokens, shape.units),
        completion_tokens=count,
        basis=f"{where}: {found.gpu_hours.basis}: {found.rate.source}; {tokens.source}",
    )


def expected_rate(look: Look) -> float | None:
    """Completion tokens per second that the workers at work should make together; None where unknown.

    By the canary's rate, else by the table; one pool with workers that nobody measured makes all unknown.
    """
    facts = look.canary.facts
    measured = _measured(look.run.spec, facts) if facts is not None else None
    pools = {pool.name: pool for pool in look.run.spec.pools()}
    total = 0.0
    for pod in look.ready:
        if pod.pool not in pools:
            return None
        each = rate(look.run.spec, pools[pod.pool], measured).likely
        if each is None:
            return None
        total += each * max(1, pod.gpus)
    return total or None


def _documents(progress: Progress, facts: api.CanaryStatus | None) -> Figure[float]:
    """Planned rows, less the share that the canary's filters left out."""
    rows, source = progress.documents.total, f"{progress.documents.total:,} rows are planned"
    done = ((facts.documents or 0), (facts.filtered or 0)) if facts is not None else (0, 0)
    if not done[1]:
        return Figure.exactly(float(rows), Basis.COUNTED, source)
    share = done[0] / sum(done)
    source += f", of which {share:.1%} fit filters and sample in the canary"
    return Figure.exactly(rows * share, Basis.CANARY, source)


def _measured(spec: RephraseRunSpec, facts: api.CanaryStatus) -> Measured | None:
    """What the canary has shown; None before it is done."""
    samples, tokens = facts.samples, facts.tokens
    if facts.committed != facts.units or samples is None or tokens is None:
        return None
    made = (samples.written or 0) + (samples.skipped or 0) + (samples.failed or 0)
    if not made or not tokens.completion:
        return None
    pool = next((pool for pool in spec.pools() if pool.name == facts.pool), None)
    lengths = {one.name: one.mean_completion_tokens for one in facts.prompts}
    return Measured(
        basis=Basis.CANARY,
        documents=facts.documents or 0,
        output_tokens={**lengths, "": tokens.completion / made},
        prompt_tokens=(tokens.prompt or 0) / made,
        failed_share=(samples.failed or 0) / made,
        tokens_per_second=facts.completion_tokens_per_second,
        gpu=gpu_of(pool)[0] if pool is not None else "",
        gpus=facts.gpus or 0,
    )


def _pool(run: RephraseRun, facts: api.CanaryStatus | None) -> Pool:
    pools = by_priority(run)
    return next((pool for pool in pools if facts and pool.name == facts.pool), pools[0])


def _price(prices: Mapping[str, Decimal], pool: str) -> Price:
    if pool not in prices:
        return Price(None, f"no price of pool {pool} is known", Basis.UNKNOWN)
    return Price(prices[pool], f"the price of pool {pool}")


def _workers(look: Look, found: PoolEstimate, tokens: Figure[float], units: int) -> int:
    """As many as the deadline takes, counted from the start of the run; without one all it may have."""
    deadline = look.run.spec.scaling.deadline
    if deadline is None or not found.rate.likely or tokens.likely is None:
        return found.workers
    work = tokens.likely / (CARE * found.rate.likely * max(1, found.gpus))
    pace = Pace(work=work, tail=work / units, start=START_SECONDS[1], workers=0)
    seconds = (deadline - (look.before.start_time or look.now)).total_seconds()
    return needed(pace, seconds, min(MAX_WORKERS, units))


def _range(figure: Figure[N], show: Callable[[N], str]) -> api.Range | None:
    if figure.least is None or figure.most is None:
        return None
    return api.Range(low=show(figure.least), high=show(figure.most))
