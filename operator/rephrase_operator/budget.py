"""Money of one look: what a drain costs, what may be started, when workers stop without an operator. Pure."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from rephrase_api import cost
from rephrase_api.v1alpha1 import Pool, RephraseRun
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.observed import Observed, ready_pods
from rephrase_operator.settings import Settings

LEAST_STOP_SECONDS = 3600
"""Workers go on for at least so long without an operator."""
LONGEST_STOP_SECONDS = 10 * 365 * 86400
STARTS_WORTH = 4
"""A worker is only started where the budget covers so many times its start: it should get something done."""


def known_prices(status: RephraseRunStatus, prices: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Prices as they are now; of a pool that has none any more, or is gone, the last one known.

    A price that is taken out of a list must not make what was spent forgotten.
    """
    last = {pool.name: Decimal(pool.price) for pool in status.settled if pool.price is not None}
    return last | dict(prices)


def hourly(pool: Pool, prices: Mapping[str, Decimal]) -> Decimal | None:
    """Price of one worker of a pool for an hour; None if it is unknown."""
    price = prices.get(pool.name)
    return (
        price * max(1, pool.gpu.count if pool.gpu is not None else 0) if price is not None else None
    )


def dearest(run: RephraseRun, prices: Mapping[str, Decimal]) -> tuple[str, Decimal]:
    """The pool whose worker costs most, and what it costs for an hour; 0 where no price is known."""
    costs = {pool.name: hourly(pool, prices) or Decimal(0) for pool in run.spec.pools()}
    name = max(costs, key=lambda name: costs[name])
    return name, costs[name]


def drain_cost(
    run: RephraseRun, observed: Observed, prices: Mapping[str, Decimal], *, settings: Settings
) -> Decimal:
    """Money that the workers there are cost from this look until they have saved their samples and ended."""
    held: Counter[str] = Counter()
    for pod in observed.worker_pods:
        if not pod.terminal and pod.scheduled is not None:
            held[pod.pool] += max(1, pod.gpus)
    # the stop is recorded at one look, and acted upon at the next
    seconds = run.spec.workers.termination_grace_period_seconds + 2 * settings.reconcile_seconds
    return cost.at_least({pool: gpus * seconds for pool, gpus in held.items()}, prices)


def affordable_starts(
    run: RephraseRun,
    observed: Observed,
    prices: Mapping[str, Decimal],
    *,
    left: Decimal,
    start: float,
) -> int | None:
    """Workers that may be started now, so that the budget buys more than starts; None = any number.

    Args:
        run: as the API server has it.
        observed: what is there; workers that are still starting count.
        prices: of a GPU hour, by pool.
        left: of the budget, what a drain costs taken off.
        start: seconds from a node to a loaded model.
    """
    _, worker = dearest(run, prices)
    if run.spec.scaling.budget is None or not worker or start <= 0:
        return None
    jobs = [job for job in observed.worker_jobs if not job.deleting and not job.finished]
    ready = {
        pod.owner for pod in ready_pods(observed, lease_seconds=run.spec.durability.lease_seconds)
    }
    starting = sum(job.uid not in ready for job in jobs)
    most = int(left / (worker / 3600 * Decimal(str(start)) * STARTS_WORTH))
    return max(0 if jobs else 1, most - starting)


def stop_time(
    run: RephraseRun,
    prices: Mapping[str, Decimal],
    *,
    workers: int,
    spent: Decimal,
    now: datetime,
) -> datetime | None:
    """When workers are to stop by themselves should no operator come back; None without a budget.

    That is after twice the time in which so many workers of the dearest pool would spend the rest of the
    budget, and at least an hour, so that an operator that is down for a while stops nobody.

    Args:
        run: as the API server has it.
        prices: of a GPU hour, by pool.
        workers: that there are or will be, those that wait for a node included.
        spent: money so far.
        now: the time.
    """
    budget = run.spec.scaling.budget
    if budget is None:
        return None
    _, worker = dearest(run, prices)
    left = max(Decimal(0), Decimal(budget.amount) - spent)
    rate = worker * max(1, workers)
    seconds = 2 * float(left / rate * 3600) if rate else 0.0
    seconds = min(max(seconds, LEAST_STOP_SECONDS), LONGEST_STOP_SECONDS)
    return (now + timedelta(seconds=seconds)).replace(microsecond=0)
