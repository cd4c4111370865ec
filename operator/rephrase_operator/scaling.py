"""How many workers there should be: by the work left, the measured rate, deadline and start-up cost. Pure.

Without a deadline the answer is `workers.max`: GPU hours are the same however many share them, and the sooner
it is done the better. With one it is as many as finish in time at a careful rate, so that the cheap pools are
used first and dearer ones only where time presses. What holds, and is tested as such: an earlier deadline or
more work never gives fewer workers; never outside min and max; never two opposite moves within the cool-down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from rephrase_api.progress import WorkerProgress
from rephrase_api.v1alpha1 import Pool, RephraseRun
from rephrase_api.v1alpha1.status import CanaryStatus, RephraseRunStatus, ScalingStatus
from rephrase_operator.observed import Observed, ready_pods

COOL_DOWN_SECONDS = 600
"""After a move, one in the other direction waits so long: a start costs minutes of a GPU."""
WARM_SECONDS = 60
"""A worker's rate is believed once it has generated for so long."""
CARE = 0.85
"""Share of the measured rate that is counted on."""
GPU_START_SECONDS = 300
CPU_START_SECONDS = 30
"""From a node to a loaded model, until it was measured on this run."""
MEASURING_SHARE = 8
"""One worker in so many starts before anything is known of the rate."""
NEAR_STARTS = 20
"""A deadline that is nearer than so many start-ups leaves no time to measure first."""


CANARY = "Canary"
"""Reason of the one worker that does the canary."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run goes, on the careful side.

    Attributes:
        work: seconds of one worker that all samples that are left take, interruptions included.
        tail: seconds of one worker for one unit: so much idles at the end, where few share the last units.
        start: seconds from a node to a loaded model.
        workers: at work now.
        units: that are not committed; more workers than that are never started.
        seconds_per_sample: that `work` comes from.
    """

    work: float
    tail: float
    start: float
    workers: int
    units: int = 1 << 30
    seconds_per_sample: float = 0.0

    def finish_seconds(self, workers: int) -> float:
        """Until the end with so many workers, those beyond the ones at work starting now."""
        workers = min(workers, max(self.workers, self.units))
        new = max(0, workers - self.workers)
        kept = min(workers, self.workers)
        work = self.work + self.tail
        alone = work / kept if kept else math.inf
        if alone <= self.start or not workers:  # it ends before new ones would begin
            return alone
        return (work + new * self.start) / workers

    @property
    def nearly_done(self) -> bool:
        """Whether letting workers go saves nothing any more: they end by themselves soon."""
        return self.finish_seconds(self.workers) < COOL_DOWN_SECONDS


def start_seconds(
    run: RephraseRun, observed: Observed, before: ScalingStatus | None = None
) -> float:
    """From a node to a loaded model: median of the workers there are, last known, or an assumption."""
    loaded = {
        worker.uid.partition(".")[0]: worker.loading_seconds
        for worker in _workers(observed)
        if worker.generating_seconds
    }
    measured = [
        (pod.started - pod.scheduled).total_seconds() + loaded[pod.uid]
        for pod in observed.worker_pods
        if pod.uid in loaded and pod.started is not None and pod.scheduled is not None
    ]
    if measured:
        return median(measured)
    if before is not None and before.start_seconds is not None:
        return before.start_seconds
    gpus = any(pool.gpu is not None and pool.gpu.count for pool in run.spec.pools())
    return GPU_START_SECONDS if gpus else CPU_START_SECONDS


def pace(
    run: RephraseRun,
    status: RephraseRunStatus,
    observed: Observed,
    *,
    held_seconds: float,
    canary: CanaryStatus | None = None,
) -> Pace | None:
    """How fast the run goes; None while neither a worker nor the canary has shown it, nor ever did.

    Args:
        run: as the API server has it.
        status: as it was last written; it knows the disruptions.
        observed: what is there.
        held_seconds: of all workers so far.
        canary: what it has shown; counts until a worker has generated long enough.
    """
    progress = observed.progress
    ready = ready_pods(observed, lease_seconds=run.spec.durability.lease_seconds)
    at_work = {pod.uid for pod in ready}
    warm = [
        worker
        for worker in _workers(observed)
        if worker.uid.partition(".")[0] in at_work
        and worker.generating_seconds >= WARM_SECONDS
        and worker.tokens_per_second
        and worker.samples
    ]
    if progress is None or not progress.samples.expected:
        return None
    start = start_seconds(run, observed, status.scaling)
    known = status.scaling.seconds_per_sample if status.scaling is not None else None
    if warm:
        tokens = sum(worker.completion_tokens for worker in warm)
        samples = sum(worker.samples for worker in warm)
        tokens_per_second = sum(worker.tokens_per_second for worker in warm) / len(warm)
    elif known is None and canary is not None and canary.completion_tokens_per_second:
        tokens, samples = _made(canary)
        tokens_per_second = canary.completion_tokens_per_second
    elif known is None:
        return None
    if warm or known is None:
        tokens_per_sample = max(1.0, tokens / max(1, samples))
        uptime = _uptime(run, status, start, held_seconds)
        known = tokens_per_sample / (CARE * tokens_per_second * uptime)
    left = max(0, progress.samples.expected - progress.samples.finished)
    unit = progress.samples.expected / max(1, progress.units.planned)
    return Pace(
        work=left * known,
        tail=min(unit, left) * known,
        start=start,
        workers=len(ready),
        units=max(0, progress.units.planned - progress.units.committed),
        seconds_per_sample=known,
    )


def _made(canary: CanaryStatus) -> tuple[int, int]:
    """Tokens and samples of a canary."""
    tokens, made = canary.tokens, canary.samples
    samples = (made.written or 0) + (made.skipped or 0) + (made.failed or 0) if made else 0
    return (tokens.completion or 0) if tokens else 0, samples


def _workers(observed: Observed) -> Sequence[WorkerProgress]:
    return observed.progress.workers if observed.progress is not None else ()


def _uptime(
    run: RephraseRun, status: RephraseRunStatus, start: float, held_seconds: float
) -> float:
    """Share of a worker's time that is not lost to interruptions, at the frequency seen so far."""
    if not held_seconds:
        return 1.0
    lost = (status.disruptions or 0) * (start + run.spec.durability.checkpoint_seconds / 2)
    return max(0.25, 1 - lost / held_seconds)


def needed(pace: Pace, seconds: float, most: int) -> int:
    """The least number of workers, up to `most`, that finish within so many seconds.

    Where none does: all, or those at work if others would only start when these have finished.
    """
    low, high = 1, max(1, most)
    soonest = pace.finish_seconds(high)
    while low < high:
        middle = (low + high) // 2
        if pace.finish_seconds(middle) <= max(seconds, soonest):
            high = middle
        else:
            low = middle + 1
    return min(low, most)


def worth_starting(pace: Pace | None) -> int | None:
    """Most workers, so that each works for longer than it takes to start; None = no limit is known."""
    return max(1, int(pace.work / pace.start)) if pace is not None and pace.start else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A number of workers and what decided it."""

    workers: int
    reason: str
    message: str


def wanted(
    run: RephraseRun,
    pace: Pace | None,
    *,
    start: float,
    now: datetime,
    before: ScalingStatus | None = None,
) -> Wanted:
    """Workers that the run asks for now, before what is remembered damps it.

    Args:
        run: as the API server has it.
        pace: None while nothing is known of the rate.
        start: seconds from a node to a loaded model.
        now: the time.
        before: what was decided before; None at first.
    """
    least, most = bounds(run)
    deadline = run.spec.scaling.deadline
    if least == most:
        return Wanted(most, "Maximum", f"{most} are allowed")
    if deadline is None:
        return Wanted(most, "Maximum", f"no deadline: as many as are allowed, {most}")
    seconds = (deadline - now).total_seconds()
    if pace is None:
        if before is not None and before.target is not None and before.seconds_per_sample:
            return Wanted(
                before.target, before.reason or "", before.message
            )  # nobody tells for now
        if seconds < NEAR_STARTS * start:
            return Wanted(most, "Deadline", "the deadline leaves no time to measure the rate first")
        few = max(least, math.ceil(most / MEASURING_SHARE))
        return Wanted(
            few, "Measuring", f"{few} until the rate is known, then what the deadline takes"
        )
    workers = needed(pace, seconds, most)
    end = now + timedelta(seconds=min(pace.finish_seconds(workers), 10 * 365 * 86400))
    if workers < least:
        return Wanted(least, "Minimum", f"{workers} would do; spec.workers.min is {least}")
    return Wanted(
        workers,
        "Deadline",
        f"{workers} finish about {end:%Y-%m-%dT%H:%MZ} at a careful rate; the deadline is "
        f"{deadline:%Y-%m-%dT%H:%MZ}",
    )


def room(run: RephraseRun, pool: Pool) -> int:
    """The most workers that the spec allows in a pool."""
    return pool.max if pool.max is not None else run.spec.workers.max


def bounds(run: RephraseRun) -> tuple[int, int]:
    """The least and the most workers that the spec allows, all pools together."""
    pools = run.spec.pools()
    most = min(run.spec.workers.max, sum(room(run, pool) for pool in pools))
    floor = max(run.spec.workers.min, sum(pool.min for pool in pools), 1)
    return min(floor, most), most


def settled_on(
    run: RephraseRun,
    wish: Wanted,
    before: ScalingStatus | None,
    *,
    now: datetime,
    nearly_done: bool = False,
) -> ScalingStatus:
    """What is decided, given what was decided before: no two opposite moves within the cool-down.

    The spec's own bounds hold at once and are no move. More workers are had at once unless some were just let
    go; fewer only after the cool-down, if they are a tenth fewer and the run goes on for a while.

    Args:
        run: as the API server has it.
        wish: what it asks for now.
        before: what was decided before; None at first.
        now: the time.
        nearly_done: whether it is too late to let workers go.
    """
    least, most = bounds(run)
    if before is None or before.target is None or before.reason == CANARY:
        return ScalingStatus(target=wish.workers, reason=wish.reason, message=wish.message)
    old = min(max(before.target, least), most)
    if wish.reason == "Measuring":  # nothing is known that would change it
        return before.model_copy(update={"target": old})
    resting = before.changed_time is not None and now - before.changed_time < timedelta(
        seconds=COOL_DOWN_SECONDS
    )
    up = wish.workers > old and not (resting and before.direction == "Down")
    far = old - wish.workers >= max(1, old // 10)
    down = (
        wish.workers < old
        and far
        and not nearly_done
        and not (resting and before.direction == "Up")
    )
    if not (up or down):
        message = wish.message
        if wish.workers != old:
            message = f"{old} stay for now, soon after or close to the last change; {wish.message}"
        return before.model_copy(update={"target": old, "reason": wish.reason, "message": message})
    return ScalingStatus(
        target=wish.workers,
        changed_time=now,
        direction="Up" if up else "Down",
        reason=wish.reason,
        message=wish.message,
    )


def seconds_late(run: RephraseRun, pace: Pace | None, *, now: datetime) -> float | None:
    """How long after the deadline the run ends with all the workers it may have; negative if before.

    None where there is no deadline, or nothing is known of the rate.
    """
    deadline = run.spec.scaling.deadline
    if deadline is None or pace is None:
        return None
    return pace.finish_seconds(max(1, bounds(run)[1])) - (deadline - now).total_seconds()
