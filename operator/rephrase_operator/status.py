"""A look → the status to write: derived, never incremented. Pure.

Numbers come from the driver's word; where it is silent those of the last status stay.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from rephrase_api import cost, names
from rephrase_api.progress import Progress
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1 import status as api
from rephrase_api.v1alpha1.conditions import ConditionType, Reason
from rephrase_api.words import duration
from rephrase_operator.availability import summary
from rephrase_operator.conditions import conditions_of, holds, phase
from rephrase_operator.expected import estimate
from rephrase_operator.look import Look
from rephrase_operator.settle import seconds_by_pool


def status_of(look: Look) -> api.RephraseRunStatus:
    """The status to write."""
    run, before, now = look.run, look.before, look.now
    conditions = conditions_of(look)
    over = holds(conditions, ConditionType.COMPLETE) or holds(conditions, ConditionType.FAILED)
    stopped = look.verdict.stopped
    progress = look.progress
    seconds = seconds_by_pool(look.settlement, look.observed.worker_pods, now=now)
    shown = _progress(look)
    pools = look.settlement.pools.values()
    return api.RephraseRunStatus(
        observed_generation=(
            before.observed_generation
            if not look.applied or look.plan.unfinished
            else run.metadata.generation
        ),
        phase=phase(run, conditions, shown).value,
        spec_hash=spec_hash(declared(run.spec)),
        start_time=before.start_time or now,
        completion_time=before.completion_time or (now if over else None),
        conditions=conditions,
        progress=shown,
        tokens=_tokens(progress) or before.tokens,
        throughput=_throughput(look.observed.progress, over=over),
        workers=_workers(look),
        scaling=look.scaling if shown is not None and not (over or stopped) else before.scaling,
        inherited_gpu_seconds=look.settlement.inherited,
        disruptions=sum(pool.disruptions for pool in pools),
        worker_failures=sum(pool.failures for pool in pools),
        cost=_cost(look, seconds, progress, complete=holds(conditions, ConditionType.COMPLETE)),
        canary=look.canary.facts,
        estimate=estimate(look),
        eta=_eta(look, over=over),
        estimated_completion_time=_end(look, over=over),
        output=_output(run),
        image=api.ImageStatus(
            runner=run.spec.image.runner or look.settings.runner_image,
            driver=run.spec.image.driver or look.settings.driver_image,
        ),
        recent_failures=look.settlement.failures,
        stop=(
            api.StopStatus(
                reason=stopped.reason,
                message=stopped.message[:4096],
                generation=run.metadata.generation,
                budget=(
                    run.spec.scaling.budget.amount
                    if stopped.reason is Reason.BUDGET_EXHAUSTED and run.spec.scaling.budget
                    else None
                ),
            )
            if stopped is not None
            else None
        ),
        settled=tuple(sorted(pools, key=lambda pool: pool.name)),
        settling=look.settlement.settling,
    )


def _progress(look: Look) -> api.ProgressStatus | None:
    progress = look.progress
    if progress is None or not progress.units.planned:
        return look.before.progress
    units, documents, samples = progress.units, progress.documents, progress.samples
    return api.ProgressStatus(
        display=f"{units.committed}/{units.planned}",
        units=api.UnitCounts(
            planned=units.planned, claimed=units.claimed, committed=units.committed
        ),
        documents=api.DocumentCounts(total=documents.total, done=documents.done),
        samples=api.SampleCounts(
            written=samples.written, skipped=samples.skipped, failed=samples.failed
        ),
        last_commit_time=progress.last_progress_time,
    )


def _tokens(progress: Progress | None) -> api.TokenCounts | None:
    if progress is None or not progress.units.planned:
        return None
    tokens = progress.tokens
    return api.TokenCounts(
        prompt=tokens.prompt, completion=tokens.completion, discarded=tokens.discarded
    )


def _throughput(progress: Progress | None, *, over: bool) -> api.Throughput | None:
    if progress is None or over or not progress.units.planned:
        return None
    return api.Throughput(
        completion_tokens_per_second=round(progress.rates.completion_tokens_per_second, 1),
        documents_per_second=round(progress.rates.documents_per_second, 3),
    )


def _workers(look: Look) -> api.WorkersStatus:
    desired = sum(look.plan.desired.values())
    jobs = [job for job in look.observed.worker_jobs if not job.finished and not job.deleting]
    ready = look.ready
    draining = [
        pod
        for pod in look.observed.worker_pods
        if not pod.terminal and (pod.deletion is not None or look.observed.job_of(pod) is None)
    ]
    pools = [pool.name for pool in look.run.spec.pools()]
    return api.WorkersStatus(
        display=f"{len(ready)}/{desired}",
        desired=desired,
        active=len(jobs),
        ready=len(ready),
        draining=len(draining),
        selector=names.worker_selector(look.run.metadata.name),
        pools=tuple(_pool(look, name) for name in pools),
        avoid_nodes=look.settlement.avoid,
    )


def _pool(look: Look, name: str) -> api.PoolStatus:
    blockages = [one for one in look.blockages if one.pool == name]
    blocked = summary(blockages)
    jobs = [job for job in look.observed.worker_jobs if job.pool == name and not job.deleting]
    stockout = look.stockouts.get(name)
    return api.PoolStatus(
        name=name,
        stockouts=stockout.count if stockout is not None else None,
        stockout_until=stockout.until if stockout is not None else None,
        desired=look.plan.desired.get(name, 0),
        active=sum(not job.finished for job in jobs),
        ready=sum(pod.pool == name for pod in look.ready),
        pending=sum(one.pending for one in blockages),
        reason=blocked[0].value if blocked is not None else None,
    )


def _cost(
    look: Look, seconds: Mapping[str, float], progress: Progress | None, *, complete: bool
) -> api.Cost | None:
    """Money where all prices are known, GPU hours in any case; as before where nothing changed."""
    before = look.before.cost
    if not any(seconds.values()):
        return before
    total = cost.amount(seconds, look.prices)
    budget = look.run.spec.scaling.budget
    found = api.Cost(
        currency=budget.currency if budget is not None else "USD",
        total=cost.shown(total) if total is not None else None,
        by_pool=tuple(_pool_cost(name, seconds[name], look.prices) for name in sorted(seconds)),
        basis="Static" if total is not None else "Unknown",
        observed_time=look.now,
    )
    ratios = {name: getattr(before, name) for name in _RATIOS} if before is not None else {}
    if total is not None:
        tokens = _tokens(progress) or look.before.tokens
        ratios |= _ratios(total, tokens) | _projected(total, progress, complete=complete)
    found = found.model_copy(update=ratios)
    if before is not None and found.model_copy(update={"observed_time": None}) == (
        before.model_copy(update={"observed_time": None})
    ):
        return before
    return found


_RATIOS = ("discarded", "projected", "per_million_tokens")


def _ratios(total: Decimal, tokens: api.TokenCounts | None) -> dict[str, str | None]:
    """What the tokens so far make of the money, by the last word on them: pods are paid after it, too."""
    if tokens is None:
        return {}
    completion, discarded = tokens.completion or 0, tokens.discarded or 0
    generated = completion + discarded
    lost = total * discarded / generated if generated else None
    per_million = cost.per_million(total, completion)
    return {
        "discarded": cost.shown(lost) if lost is not None else None,
        "per_million_tokens": cost.shown(per_million) if per_million is not None else None,
    }


def _projected(
    total: Decimal, progress: Progress | None, *, complete: bool
) -> dict[str, str | None]:
    """What the whole run will have cost; nothing new while the driver is silent."""
    if complete:
        return {"projected": cost.shown(total)}
    if progress is None or not progress.units.planned:
        return {}
    samples = progress.samples
    whole = total * samples.expected / samples.finished if samples.finished else None
    return {"projected": cost.shown(whole) if whole is not None else None}


def _pool_cost(name: str, seconds: float, prices: Mapping[str, Decimal]) -> api.PoolCost:
    money = cost.amount({name: seconds}, prices)
    return api.PoolCost(
        name=name,
        amount=cost.shown(money) if money is not None else None,
        gpu_hours=format(Decimal(seconds / 3600).quantize(Decimal("0.001")), "f"),
    )


def _eta(look: Look, *, over: bool) -> str | None:
    left = look.seconds_left
    return None if over or left is None else duration(left)


def _end(look: Look, *, over: bool) -> datetime | None:
    """To the minute: it would else change at every look."""
    left = look.seconds_left
    if over or left is None:
        return None
    return (look.now + timedelta(seconds=left)).replace(second=0, microsecond=0)


def _output(run: RephraseRun) -> api.OutputStatus:
    base = run.spec.output.uri.rstrip("/")
    return api.OutputStatus(
        manifest=f"{base}/_run/manifest.json", dead_letters=f"{base}/dead_letter/"
    )
