"""All metrics that there are, as the processes expose them at their largest: for counts, tables and names."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from rephrase_api.v1alpha1.conditions import ConditionType
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.metrics import Metrics
from rephrase_runner.engines.vllm_metrics import PASSED_ON
from rephrase_runner.metrics import ProcessMetrics
from rephrase_runner.records import Commit, Counts, Tokens
from rephrase_runner.store import Store
from rephrase_runner.vitals import Vitals

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MOST_PROMPTS, MOST_POOLS = 32, 8
"""What a spec allows."""


def a_worker(
    folder: Path, *, prompts: int = MOST_PROMPTS, vitals: Vitals | None = None
) -> ProcessMetrics:
    """A worker's own metrics, after it has committed a unit."""
    vitals = vitals or Vitals(0.0)
    for number, phase in enumerate(("generating", "idle", "draining", "gone")):
        vitals.enter(phase, number + 1.0)
    counts = {
        f"prompt-{n:02d}": Counts(in_=6, written=3, skipped=2, failed=1) for n in range(prompts)
    }
    tokens = Tokens(prompt=100, completion=50)
    vitals.committed(
        Commit(
            **{
                "run": "r",
                "unit": 0,
                "epoch": 1,
                "worker": "w",
                "beat": 1,
                "part": "p",
                "sha256": "",
            },
            **{"bytes": 1, "rows": 6, "filtered": 0, "reasons": {}},
            counts=counts,
            tokens=tokens,
            seconds=40.0,
        )
    )
    for prompt in counts:
        for _ in range(100):
            vitals.openings[prompt].add("Problem: a rewrite")
    store = Store(str(folder), create=True)
    return ProcessMetrics(lambda: store, vitals, lambda: 10.0)


def a_driver(folder: Path) -> ProcessMetrics:
    """A driver's metrics."""
    store = Store(str(folder), create=True)
    return ProcessMetrics(lambda: store, None, lambda: 10.0)


def a_status(pools: int = MOST_POOLS, **more: Any) -> RephraseRunStatus:  # noqa: ANN401
    """The status of a run in the middle, with all that a metric can be made from."""
    names = [f"pool-{number}" for number in range(pools)]
    time = NOW.isoformat()
    return RephraseRunStatus.from_api(
        {
            "progress": {
                "units": {"planned": 100, "claimed": 8, "committed": 60},
                "samples": {"written": 5900, "skipped": 80, "failed": 20},
                "lastCommitTime": time,
            },
            "tokens": {"prompt": 9_000_000, "completion": 3_000_000, "discarded": 1_000_000},
            "throughput": {"completionTokensPerSecond": 8000.0},
            "workers": {"pools": [{"name": name, "desired": 9, "ready": 8} for name in names]},
            "cost": {
                **{"currency": "USD", "total": "80.00", "discarded": "20.00", "basis": "Static"},
                **{"perMillionTokens": "26.67", "projected": "133.33", "observedTime": time},
                "byPool": [
                    {"name": name, "amount": "10.00", "gpuHours": "5.000"} for name in names
                ],
            },
            "scaling": {"target": 8, "reason": "Deadline"},
            "settled": [{"name": name, "disruptions": 2, "failures": 1} for name in names],
            "conditions": [
                {"type": one, "status": "True", "reason": "Any", "lastTransitionTime": time}
                for one in ConditionType
            ],
            "estimatedCompletionTime": time,
            "completionTime": time,
        }
        | more
    )


def an_operator(runs: int = 1, *, pools: int = MOST_POOLS) -> Metrics:
    """An operator that looks after so many runs, each at its largest."""
    metrics = Metrics()
    for number in range(runs):
        metrics.record(
            "team",
            f"run-{number}",
            a_status(pools),
            budget=("100", "USD"),
            deadline=NOW.timestamp(),
            expected_rate=10_000.0,
            fresh=True,
        )
    for verb in ("GET", "POST", "PATCH", "DELETE"):
        for code in (0, 200, 201, 400, 403, 404, 409, 422, 429, 500, 503):
            metrics.request(verb, code)
    for action in ("StartDriver", "StartWorker", "DeleteJob", "PutOffStop", "DeleteRun"):
        for result in ("done", "later", "refused"):
            metrics.actions.labels(action, result)
    for result in ("done", "outdated", "gone", "refused", "canceled", "error"):
        metrics.looked(result, 0.1)
    metrics.transition(RephraseRunStatus(), a_status(), ())
    return metrics


def series(families: Iterable[Metric]) -> list[str]:
    """Names of all samples but those that say when a counter was made, one for each series."""
    return [
        sample.name
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def names(folder: Path) -> set[str]:
    """Every name that a query may ask for."""
    seen_later = {"rephrase_operator_ended_pods_total"}  # needs a pod that ended
    operator = an_operator().registry.collect()
    return {*series(a_worker(folder).collect()), *series(operator), *PASSED_ON, *seen_later}
