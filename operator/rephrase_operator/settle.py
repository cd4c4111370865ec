"""What ended pods used and why they ended: the one account that cannot be observed again. Pure.

A pod is settled once, when it is seen terminal or gone: `status.settled` grows and its uid is listed in
`status.settling`; only then may its Job be deleted, and once the pod is gone its uid leaves the list. So
a restart, a lost patch or a stale read never count a pod twice. A pod that came and went while no operator
ran is found by what its worker had reported to the ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

from rephrase_api.v1alpha1.conditions import Reason
from rephrase_api.v1alpha1.status import (
    AvoidedNode,
    RecentFailure,
    RephraseRunStatus,
    SettledPool,
)
from rephrase_operator.availability import why_it_failed
from rephrase_operator.observed import Disruption, Ending, Observed, PodSeen, disruption, ending

MAX_SETTLING = 1024
MAX_RECENT_FAILURES = 10
MAX_AVOIDED = 20
AVOID_FOR = timedelta(minutes=10)
UNSEEN_SECONDS = 60
"""Less than that is clocks that differ."""
FAILURES_OF_A_NODE = 2
"""Among the last failures, within `AVOID_FOR`."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The account of ended pods after this look.

    Attributes:
        pools: by pool name.
        settling: uids in `pools` that can still be seen.
        failures: the last failures, newest first.
        ended: what this look found new, with how it ended.
        avoid: nodes that new workers keep away from, for a while.
        inherited: GPU seconds that the ledger held before the first worker of this run; None = unknown.
    """

    pools: dict[str, SettledPool]
    settling: tuple[str, ...]
    failures: tuple[RecentFailure, ...]
    ended: tuple[tuple[PodSeen, Ending], ...]
    avoid: tuple[AvoidedNode, ...] = ()
    inherited: float | None = None


def settle(
    status: RephraseRunStatus,
    observed: Observed,
    *,
    now: datetime,
    generation: int | None = None,
    unseen_in: str | None = None,
    prices: Mapping[str, Decimal] = MappingProxyType({}),
) -> Settlement:
    """Count the pods that ended since the last status.

    Args:
        status: as it was last written.
        observed: what is there.
        now: for pods whose end nobody wrote down.
        generation: of the spec; a new one forgives the failures that had stopped the run.
        prices: of a GPU hour, by pool, to be remembered.
        unseen_in: pool that is charged with GPU seconds that workers reported and nobody saw.
    """
    pools = {pool.name: pool for pool in status.settled}
    known = set(status.settling)
    pods = {pod.uid: pod for pod in observed.worker_pods}
    ended = sorted(
        (pod for pod in pods.values() if pod.terminal and pod.uid not in known),
        key=lambda pod: (pod.finished or now, pod.uid),
    )
    settling = [uid for uid in status.settling if uid in pods]
    ended = ended[: MAX_SETTLING - len(settling)]
    found = [(pod, ending(pod, job=observed.job_of(pod))) for pod in ended]
    for pod, end in found:
        before = pools.get(pod.pool, SettledPool(name=pod.pool))
        taken = disruption(pod) if end is Ending.DISRUPTION else None
        pools[pod.pool] = before.model_copy(
            update={
                "gpu_seconds": round(before.gpu_seconds + held_seconds(pod, now), 1),
                "disruptions": before.disruptions + (taken is not None),
                "preempted": before.preempted + (taken is Disruption.PREEMPTED),
                "lost": before.lost + (taken is Disruption.LOST),
                "failures": before.failures + (end is Ending.FAILURE),
            }
        )
        settling.append(pod.uid)
    failures = [
        RecentFailure(
            time=pod.finished or now,
            worker=pod.job or pod.name,
            reason=_reason(pod),
            message=why_it_failed(pod)[:1024],
            node=pod.node or None,
        )
        for pod, end in reversed(found)
        if end is Ending.FAILURE
    ]
    stop = status.stop
    forgiven = stop is not None and stop.reason == Reason.WORKERS_NEVER_READY and (
        stop.generation != generation
    )  # fmt: skip
    earlier = () if forgiven else status.recent_failures
    recent = (*failures, *earlier)[:MAX_RECENT_FAILURES]
    avoid = _avoid(status, recent, found, now)
    reported = _reported(observed)
    inherited = status.inherited_gpu_seconds
    if inherited is None and reported is not None and not pools and not observed.worker_jobs:
        inherited = (
            reported  # by earlier runs with this output: no worker of this one has been made yet
        )
    if unseen_in is not None and inherited is not None and reported is not None:
        live = sum(held_seconds(pod, now) for pod in observed.worker_pods if not pod.terminal)
        seen = live + sum(pool.gpu_seconds for pool in pools.values())
        unseen = reported - inherited - seen  # a pod is held for longer than its worker reports
        if unseen > UNSEEN_SECONDS:
            before = pools.get(unseen_in, SettledPool(name=unseen_in))
            more = round(before.gpu_seconds + unseen, 1)
            pools[unseen_in] = before.model_copy(update={"gpu_seconds": more})
    for name in {*pools, *(job.pool for job in observed.worker_jobs)} & prices.keys():
        entry = pools.get(name, SettledPool(name=name))
        pools[name] = entry.model_copy(update={"price": format(prices[name], "f")})
    return Settlement(pools, tuple(settling), recent, tuple(found), avoid, inherited)


def _reported(observed: Observed) -> float | None:
    """GPU seconds that workers reported to the ledger; None before the driver has read it."""
    progress = observed.progress
    if progress is None or not progress.units.planned:
        return None
    return progress.gone.gpu_seconds + sum(one.gpu_seconds for one in progress.workers)


def _avoid(
    status: RephraseRunStatus,
    failures: Iterable[RecentFailure],
    ended: Iterable[tuple[PodSeen, Ending]],
    now: datetime,
) -> tuple[AvoidedNode, ...]:
    """Nodes whose kubelet refused a worker, or where two of the last failures happened.

    A node is only put last, never forbidden: where it is the only one, workers still go there.
    """
    before = status.workers.avoid_nodes if status.workers is not None else ()
    found = {node.name: node for node in before if node.until > now}
    failed = Counter(one.node for one in failures if now - one.time < AVOID_FOR)
    for pod, end in ended:
        refused = end is Ending.DISRUPTION and pod.exit_code is None and not pod.disruption
        looping = end is Ending.FAILURE and failed[pod.node or None] >= FAILURES_OF_A_NODE
        if pod.node and (refused or looping):
            reason = pod.reason if refused and pod.reason else ("CrashLoop" if looping else "Lost")
            found[pod.node] = AvoidedNode(name=pod.node, until=now + AVOID_FOR, reason=reason[:128])
    return tuple(sorted(found.values(), key=lambda node: node.until)[-MAX_AVOIDED:])


def held_seconds(pod: PodSeen, now: datetime) -> float:
    """GPU seconds it held; seconds of one worker where it has no GPU."""
    return pod.billed_seconds(now) * max(1, pod.gpus)


def seconds_by_pool(
    settlement: Settlement, pods: Iterable[PodSeen], *, now: datetime
) -> dict[str, float]:
    """GPU seconds (worker seconds without GPUs) so far: what is settled and what lives."""
    total: defaultdict[str, float] = defaultdict(float)
    for pool in settlement.pools.values():
        total[pool.name] += pool.gpu_seconds
    settled = set(settlement.settling)
    for pod in pods:
        if not pod.terminal or pod.uid not in settled:  # too many ended at once to settle all
            total[pod.pool] += held_seconds(pod, now)
    return dict(total)


def _reason(pod: PodSeen) -> str:
    """One CamelCase word."""
    told, _ = pod.last_words
    if told:
        return told[:128]
    if pod.reason and pod.reason != "Error":
        return pod.reason[:128]
    return f"Exit{pod.exit_code}"
