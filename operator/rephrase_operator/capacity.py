"""Which pools have no nodes to give for now, and how the workers are spread over the others. Pure.

A pool whose worker waited longer than `fallbackAfterSeconds` is passed over for a while, longer each
time; then it is tried again, by new workers and by one that is moved from the dearest pool. More are moved
one by one, each only once the one before it works and if the saving exceeds its start-up: a pool that gives a
node now and then costs one worker's wait for each pause, and the pauses double.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from rephrase_api.v1alpha1 import Pool, RephraseRun
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.observed import Observed, ready_pods, says_no_capacity
from rephrase_operator.scaling import Pace

PAUSE_SECONDS = 300
"""A pool is passed over for so long the first time, then twice as long, and so on."""
LONGEST_PAUSE_SECONDS = 3600
HINTED_PATIENCE = timedelta(seconds=60)
"""Patience once an autoscaler or a quota has said that there will be no node."""
SAVED_TIMES = 2
"""A move must save so many times what it costs."""
_FAR_SECONDS = 10 * 365 * 86400


@dataclass(frozen=True, slots=True)
class Stockout:
    """A pool that had no node for a worker.

    Attributes:
        count: times in a row.
        until: it is passed over until then.
    """

    count: int
    until: datetime


def stockouts(
    run: RephraseRun,
    status: RephraseRunStatus,
    observed: Observed,
    *,
    now: datetime,
    in_time: bool = True,
) -> dict[str, Stockout]:
    """Pools that are or were lately without nodes, by name; those that gave one since are not among them.

    Args:
        run: as the API server has it.
        status: as it was last written; it remembers the pauses.
        observed: what is there.
        now: the time.
        in_time: whether the deadline, if there is one, can be met; else patience is short.
    """
    before = status.workers.pools if status.workers is not None else ()
    known = {
        pool.name: Stockout(pool.stockouts or 1, pool.stockout_until)
        for pool in before
        if pool.stockout_until is not None
    }
    pools = by_priority(run)
    found: dict[str, Stockout] = {}
    for pool in pools:
        last = known.get(pool.name)
        if last is not None and now < last.until:
            found[pool.name] = last
        elif _waits_too_long(pool, observed, _patience(pool, in_time=in_time), now) and _another(
            pool, pools, found, known, now
        ):
            count = last.count + 1 if last is not None else 1
            found[pool.name] = Stockout(count, now + timedelta(seconds=_pause(count)))
        elif last is not None and not _kept_a_node(pool, observed, last, now):
            found[pool.name] = last
    return found


def _waits_too_long(pool: Pool, observed: Observed, patience: timedelta, now: datetime) -> bool:
    """Whether a worker of the pool has no node, no quota or no queue's leave for too long."""
    for job in observed.worker_jobs:
        if job.pool != pool.name or job.deleting or job.finished:
            continue
        live = [pod for pod in observed.pods_of(job) if not pod.terminal]
        told = observed.warnings.get(live[-1].uid if live else job.uid, "")
        no_quota = not live and "exceeded quota" in told
        waiting = job.suspended or no_quota or (bool(live) and live[-1].scheduled is None)
        since = live[-1].created if live and not job.suspended else job.created
        hinted = min(patience, HINTED_PATIENCE) if no_quota or says_no_capacity(told) else patience
        if waiting and now - since >= hinted:
            return True
    return False


def _patience(pool: Pool, *, in_time: bool) -> timedelta:
    patience = timedelta(seconds=pool.fallback_after_seconds)
    return patience if in_time else min(patience, HINTED_PATIENCE)


def _another(
    pool: Pool,
    pools: Iterable[Pool],
    found: Mapping[str, Stockout],
    known: Mapping[str, Stockout],
    now: datetime,
) -> bool:
    """Whether there is a pool to go to."""
    passed_over = {name for name, one in {**known, **found}.items() if now < one.until}
    return any(
        other.name != pool.name and other.name not in passed_over and other.max != 0
        for other in pools
    )


def _kept_a_node(pool: Pool, observed: Observed, last: Stockout, now: datetime) -> bool:
    """Whether it gave a node since, and let it be for as long as the pause was."""
    enough = timedelta(seconds=_pause(last.count))
    return any(
        pod.pool == pool.name
        and pod.scheduled is not None
        and pod.scheduled >= last.until
        and (pod.finished or now) - pod.scheduled >= enough
        for pod in observed.worker_pods
    )


def _pause(count: int) -> int:
    return min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS << min(count - 1, 10))


def dearer(
    run: RephraseRun,
    observed: Observed,
    short: Mapping[str, Stockout],
    *,
    prices: Mapping[str, Decimal],
    pace: Pace | None,
    now: datetime,
) -> str | None:
    """The pool that is to give up one worker for a cheaper one; None if none is, or one is on its way.

    Args:
        run: as the API server has it.
        observed: what is there.
        short: pools that are or were lately without nodes.
        prices: of a GPU hour, by pool.
        pace: how fast the run goes; nothing is moved while that is not known.
        now: the time.
    """
    if pace is None or not pace.workers:
        return None
    deadline = run.spec.scaling.deadline
    fewer = now + timedelta(seconds=min(pace.finish_seconds(pace.workers - 1), _FAR_SECONDS))
    if deadline is not None and fewer > deadline:
        return None
    jobs = [job for job in observed.worker_jobs if not job.deleting and not job.finished]
    count = Counter(job.pool for job in jobs)
    ready = {
        pod.owner for pod in ready_pods(observed, lease_seconds=run.spec.durability.lease_seconds)
    }
    if any(job.uid not in ready for job in jobs):
        return None  # one after the other
    pools = by_priority(run)
    for number, pool in enumerate(pools):
        last = short.get(pool.name)
        room = pool.max if pool.max is not None else run.spec.workers.max
        if (last is not None and now < last.until) or count[pool.name] >= room:
            continue
        worse = [other for other in pools[number + 1 :] if count[other.name] > other.min]
        costs = {other.name: _hourly(other, prices) for other in (pool, *worse)}
        cheap = costs.pop(pool.name)
        known = {name: money for name, money in costs.items() if money is not None}
        if cheap is None or not known:
            continue
        dearest = max(known, key=lambda name: known[name])
        each = pace.work / pace.workers  # seconds that each worker has yet to work
        wait = pace.start + (pool.fallback_after_seconds if last is not None else 0)
        saved = float(known[dearest] - cheap) * each
        if saved > SAVED_TIMES * float(cheap) * pace.start and each > SAVED_TIMES * wait:
            return dearest
    return None


def _hourly(pool: Pool, prices: Mapping[str, Decimal]) -> Decimal | None:
    """Price of one worker of a pool for an hour."""
    price = prices.get(pool.name)
    gpus = pool.gpu.count if pool.gpu is not None else 0
    return price * max(1, gpus) if price is not None else None


def by_priority(run: RephraseRun) -> list[Pool]:
    """The pools in the order they are tried in."""
    return sorted(run.spec.pools(), key=lambda pool: -pool.priority)


def spread(
    run: RephraseRun, most: int, *, running: Mapping[str, int], without: frozenset[str]
) -> dict[str, int]:
    """At most so many workers over the pools: those that run, every pool's `min`, then by priority.

    Args:
        run: as the API server has it.
        most: workers together.
        running: workers that have a node, by pool.
        without: pools that are passed over.
    """
    pools = by_priority(run)
    spread = Counter({pool.name: 0 for pool in pools})

    def give(pool: Pool, wanted: int) -> None:
        room = pool.max if pool.max is not None else run.spec.workers.max
        spread[pool.name] += max(
            0, min(wanted - spread[pool.name], room - spread[pool.name], most - spread.total())
        )

    for pool in pools:
        if pool.name not in without:
            give(pool, pool.min)
    for pool in pools:
        give(pool, running.get(pool.name, 0))
    for pool in pools:
        if pool.name not in without:
            give(pool, most)
    return dict(spread)
