"""The metrics of a worker and of a driver, read from their counters at the scrape: generating pays nothing.

Names and labels are those of docs/metrics.md. Counters of a process end with it; a run's totals are the
operator's gauges, taken from the ledger.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from rephrase_runner.durations import Durations
from rephrase_runner.store import Store
from rephrase_runner.vitals import Vitals


class ProcessMetrics(Collector):
    """What a process's store, and a worker's vitals, say.

    Args:
        store: the output.
        vitals: a worker's; None for a driver.
        clock: the loop's, seconds.
    """

    def __init__(
        self, store: Callable[[], Store | None], vitals: Vitals | None, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._vitals = vitals
        self._clock = clock

    def render(self) -> bytes:
        """The body of `/metrics` (Prometheus text format 0.0.4)."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    @override
    def collect(self) -> Iterable[Metric]:
        store = self._store()
        if store is not None:
            yield _histogram(
                "rephrase_store_request_duration_seconds",
                "Time of a request to the output, its retries included.",
                store.durations,
            )
        if self._vitals is not None:
            yield from self._of_worker(self._vitals)

    def _of_worker(self, vitals: Vitals) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "rephrase_tokens", "Tokens of this worker's units.", labels=("kind", "outcome")
        )
        for (kind, outcome), count in sorted(vitals.tokens.items()):
            tokens.add_metric((kind, outcome), count)
        yield tokens
        generated = CounterMetricFamily(
            "rephrase_generated_tokens", "Tokens generated, whatever became of them."
        )
        generated.add_metric((), vitals.generated_tokens)
        yield generated
        samples = CounterMetricFamily(
            "rephrase_samples", "Samples that this worker committed.", labels=("prompt", "outcome")
        )
        for labels, count in sorted(vitals.outcomes.items()):
            samples.add_metric(labels, count)
        yield samples
        phases = CounterMetricFamily(
            "rephrase_worker_phase_seconds", "Time by phase.", labels=("phase",)
        )
        for phase, seconds in vitals.seconds(self._clock()).items():
            phases.add_metric((phase,), seconds)
        yield phases
        age = GaugeMetricFamily(
            "rephrase_checkpoint_age_seconds", "Time since finished samples were last made durable."
        )
        age.add_metric((), self._clock() - vitals.saved_at)
        yield age
        yield _histogram(
            "rephrase_unit_duration_seconds",
            "Time from the claim of a unit to its commit.",
            {"": vitals.unit_durations},
        )


def _histogram(name: str, text: str, found: dict[str, Durations]) -> HistogramMetricFamily:
    labelled = bool(next(iter(found), ""))
    family = HistogramMetricFamily(name, text, labels=("op",) if labelled else ())
    for label, durations in found.items():
        bounds = [*(f"{bound:g}" for bound in durations.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
        family.add_metric((label,) if labelled else (), buckets, durations.total)
    return family
