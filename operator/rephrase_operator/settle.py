"""What ended pods used and why they ended: the one account that cannot be observed again. Pure.

A pod is settled once, when it is seen terminal or gone: `status.settled` grows and its uid is listed in
`status.settling`; only then may its Job be deleted, and once the pod is gone its uid leaves the list. So
a restart, a lost patch or a stale read never count a pod twice, nor not at all, unless it vanished while
no operator ran.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rephrase_api.v1alpha1.status import RecentFailure, RephraseRunStatus, SettledPool
from rephrase_operator.availability import why_it_failed
from rephrase_operator.observed import Ending, Observed, PodSeen, ending

MAX_SETTLING = 1024
MAX_RECENT_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Settlement:
    """The account of ended pods after this look.

    Attributes:
        pools: by pool name.
        settling: uids in `pools` that can still be seen.
        failures: the last failures, newest first.
        ended: what this look found new, with how it ended.
    """

    pools: dict[str, SettledPool]
    settling: tuple[str, ...]
    failures: tuple[RecentFailure, ...]
    ended: tuple[tuple[PodSeen, Ending], ...]


def settle(status: RephraseRunStatus, observed: Observed, *, now: datetime) -> Settlement:
    """Count the pods that ended since the last status.

    Args:
        status: as it was last written.
        observed: what is there.
        now: for pods whose end nobody wrote down.
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
        pools[pod.pool] = SettledPool(
            name=pod.pool,
            gpu_seconds=round(before.gpu_seconds + held_seconds(pod, now), 1),
            disruptions=before.disruptions + (end is Ending.DISRUPTION),
            failures=before.failures + (end is Ending.FAILURE),
        )
        settling.append(pod.uid)
    failures = [
        RecentFailure(
            time=pod.finished or now,
            worker=pod.job or pod.name,
            reason=_reason(pod),
            message=why_it_failed(pod)[:1024],
        )
        for pod, end in reversed(found)
        if end is Ending.FAILURE
    ]
    recent = (*failures, *status.recent_failures)[:MAX_RECENT_FAILURES]
    return Settlement(pools, tuple(settling), recent, tuple(found))


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
    for pod in pods:
        if not pod.terminal:
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
