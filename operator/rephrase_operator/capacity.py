"""Which pools have no nodes to give for now, and how the workers are spread over the others. Pure.

A pool whose worker waited longer than `fallbackAfterSeconds` is passed over for a while, longer each
time; then it is tried again with new workers only. Workers that run stay where they are, so nothing ever
flaps: a run moves back to its preferred pools as its workers come and go.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rephrase_api.v1alpha1 import Pool, RephraseRun
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.observed import Observed

PAUSE_SECONDS = 300
"""A pool is passed over for so long the first time, then twice as long, and so on."""
LONGEST_PAUSE_SECONDS = 3600


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
    run: RephraseRun, status: RephraseRunStatus, observed: Observed, *, now: datetime
) -> dict[str, Stockout]:
    """Pools that are or were lately without nodes, by name; those that gave one since are not among them.

    Args:
        run: as the API server has it.
        status: as it was last written; it remembers the pauses.
        observed: what is there.
        now: the time.
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
        elif _waits_too_long(pool, observed, now) and _another(pool, pools, found, known, now):
            count = last.count + 1 if last is not None else 1
            pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** (count - 1))
            found[pool.name] = Stockout(count, now + timedelta(seconds=pause))
        elif last is not None and not _gave_a_node(pool, observed, since=last.until):
            found[pool.name] = last
    return found


def _waits_too_long(pool: Pool, observed: Observed, now: datetime) -> bool:
    patience = timedelta(seconds=pool.fallback_after_seconds)
    for job in observed.worker_jobs:
        if job.pool != pool.name or job.deleting or job.finished:
            continue
        live = [pod for pod in observed.pods_of(job) if not pod.terminal]
        waiting = job.suspended or (bool(live) and live[-1].scheduled is None)
        since = live[-1].created if live and not job.suspended else job.created
        if waiting and now - since >= patience:
            return True
    return False


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


def _gave_a_node(pool: Pool, observed: Observed, *, since: datetime) -> bool:
    return any(
        pod.pool == pool.name and pod.scheduled is not None and pod.scheduled >= since
        for pod in observed.worker_pods
    )


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
