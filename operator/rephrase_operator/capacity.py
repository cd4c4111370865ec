"""Which pools have no nodes to give for now, and how the workers are spread over the others. Pure.

A pool whose worker waited longer than `fallbackAfterSeconds` is passed over for a while, longer each
time; then it is tried again, by new workers and by one that is moved from the dearest pool. More are moved
one by one, each only once the one before it works and if the saving exceeds its start-up: a pool that gives a
node now and then costs one worker's wait for each pause, and the pauses double.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from rephrase_api.v1alpha1 import Pool, RephraseRun
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.budget import hourly
from rephrase_operator.observed import Observed, ready_pods, says_no_capacity
from rephrase_operator.scaling import CARE, Pace, room, worth_starting

PAUSE_SECONDS = 300
"""A pool is passed over for so long the first time, then twice as long, and so on."""
LONGEST_PAUSE_SECONDS = 3600
HINTED_PATIENCE = timedelta(seconds=60)
"""Patience once an autoscaler or a quota has said that there will be no node."""
MOVING_SHARE = 10
"""Workers are moved while fewer than one in so many are starting."""
SAVED_TIMES = 2
"""A move must save so many times what it costs."""


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
            run, pool, observed, {**known, **found}, now
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
        since = live[-1].created if live and not job.suspended else job.resumed or job.created
        hinted = min(patience, HINTED_PATIENCE) if no_quota or says_no_capacity(told) else patience
        if waiting and now - since >= hinted:
            return True
    return False


def _patience(pool: Pool, *, in_time: bool) -> timedelta:
    patience = timedelta(seconds=pool.fallback_after_seconds)
    return patience if in_time else min(patience, HINTED_PATIENCE)


def _another(
    run: RephraseRun, pool: Pool, observed: Observed, known: Mapping[str, Stockout], now: datetime
) -> bool:
    """Whether there is room in a pool that is not passed over."""
    count = Counter(job.pool for job in observed.worker_jobs if not job.deleting)
    passed_over = {name for name, one in known.items() if now < one.until}
    return any(
        other.name != pool.name
        and other.name not in passed_over
        and count[other.name] < room(run, other)
        for other in run.spec.pools()
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
    jobs = [job for job in observed.worker_jobs if not job.deleting]
    worth = worth_starting(pace) or len(jobs)
    if min(run.spec.workers.max, pace.units, worth) < len(jobs):
        return None  # the one that goes would not be replaced
    ready = {
        pod.owner for pod in ready_pods(observed, lease_seconds=run.spec.durability.lease_seconds)
    }
    starting = sum(job.uid not in ready for job in jobs)
    if starting >= max(1, len(jobs) // MOVING_SHARE) or not _leaves_time(run, pace, now):
        return None
    count = Counter(job.pool for job in jobs)
    pools = by_priority(run)
    for number, pool in enumerate(pools):
        last = short.get(pool.name)
        if (last is not None and now < last.until) or count[pool.name] >= room(run, pool):
            continue
        if any(job.pool == pool.name and not observed.has_node(job) for job in jobs):
            return None  # one after the other
        worse = [other for other in pools[number + 1 :] if count[other.name] > other.min]
        costs = {other.name: hourly(other, prices) for other in worse}
        known = {name: money for name, money in costs.items() if money is not None}
        cheap = hourly(pool, prices)
        if cheap is None or not known:
            return None
        found = max(known, key=lambda name: known[name])
        each = pace.work / pace.workers  # seconds that each worker has yet to work
        wait = pace.start + (pool.fallback_after_seconds if last is not None else 0)
        saved = float(known[found] - cheap) * each
        pays = saved > SAVED_TIMES * float(cheap) * pace.start and each > SAVED_TIMES * wait
        return found if pays else None
    return None


def _leaves_time(run: RephraseRun, pace: Pace, now: datetime) -> bool:
    """Whether one worker can start anew, at the rate that was measured, without missing the deadline."""
    deadline = run.spec.scaling.deadline
    moved = replace(pace, workers=pace.workers - 1).finish_seconds(pace.workers)
    return deadline is None or moved * CARE <= (deadline - now).total_seconds()


def by_priority(run: RephraseRun) -> list[Pool]:
    """The pools in the order they are tried in."""
    return sorted(run.spec.pools(), key=lambda pool: -pool.priority)


def spread(
    run: RephraseRun,
    most: int,
    *,
    placed: Mapping[str, int],
    short: Mapping[str, Stockout],
    now: datetime,
) -> dict[str, int]:
    """At most so many workers over the pools: every pool's `min`, those there are, then by priority.

    A pool that had no nodes lately is tried by one worker at a time while others have room, and its `min`
    never takes workers from others.

    Args:
        run: as the API server has it.
        most: workers together.
        placed: workers that stay where they are, by pool.
        short: pools that are or were lately without nodes.
        now: the time.
    """
    pools = by_priority(run)
    open_ = [pool for pool in pools if pool.name not in short or now >= short[pool.name].until]
    spread = Counter({pool.name: 0 for pool in pools})

    def give(pool: Pool, wanted: int) -> None:
        free = room(run, pool) - spread[pool.name]
        spread[pool.name] += max(0, min(wanted - spread[pool.name], free, most - spread.total()))

    for pool in open_:
        if pool.name not in short:
            give(pool, pool.min)
    for pool in pools:
        give(pool, placed.get(pool.name, 0))
    for pool in open_:
        give(pool, most if pool.name not in short else placed.get(pool.name, 0) + 1)
    for pool in open_:
        give(pool, most)
    return dict(spread)
