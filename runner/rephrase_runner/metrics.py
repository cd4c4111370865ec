"""The metrics of a worker and of a driver, read from their counters at the scrape: generating pays nothing.

A worker has at most 40 series of its own, whatever the run asks for; docs/metrics.md names them, made from
the texts here. Counters of a process end with it; a run's totals are the operator's gauges, taken from the
ledger.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from rephrase_runner.durations import Durations
from rephrase_runner.engines.vllm_metrics import passed_on
from rephrase_runner.recent_openings import RecentOpenings
from rephrase_runner.store import Store
from rephrase_runner.vitals import Vitals

MOST_PROMPTS = 4
"""Values of the label `prompt`; of a run with more, those after the third are counted together."""
OTHER_PROMPTS = "other prompts"
_TOKENS = (("completion", "committed"), ("completion", "discarded"), ("prompt", "committed"))
_PHASES = ("loading", "generating", "idle", "draining")


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
            yield from _of_store(store)
        if self._vitals is not None:
            yield from _of_worker(self._vitals, self._clock())
            yield from passed_on()


def _of_store(store: Store) -> Iterator[Metric]:
    requests = SummaryMetricFamily(
        "rephrase_store_request_duration_seconds",
        "Time of requests to the output, retries included, by op (put, get, list).",
        labels=("op",),
    )
    for op in ("put", "get", "list"):
        requests.add_metric((op,), store.durations[op].count, store.durations[op].total)
    yield requests
    yield _counter(
        "rephrase_store_errors",
        "Requests to the output that failed after the client's own quick retries; most are then tried again.",
        (),
        [((), store.errors)],
    )


def _of_worker(vitals: Vitals, now: float) -> Iterator[Metric]:
    yield _counter(
        "rephrase_tokens",
        "Tokens of units that this worker finished, by kind (prompt, completion) and outcome (committed; "
        "discarded: another worker was first).",
        ("kind", "outcome"),
        [(key, vitals.tokens[key]) for key in _TOKENS],
    )
    yield _counter(
        "rephrase_generated_tokens",
        "Tokens generated, whatever became of them.",
        (),
        [((), vitals.generated_tokens)],
    )
    yield _counter(
        "rephrase_samples",
        "Samples that this worker committed, by prompt (of a run with more than four the fourth and later "
        f"ones are '{OTHER_PROMPTS}') and outcome (written, skipped, failed).",
        ("prompt", "outcome"),
        sorted(_few_prompts(vitals.outcomes).items()),
    )
    seconds = vitals.seconds(now)
    yield _counter(
        "rephrase_worker_phase_seconds",
        "Time by phase (loading, generating, idle, draining).",
        ("phase",),
        [((phase,), seconds.get(phase, 0.0)) for phase in _PHASES],
    )
    running, waiting = vitals.requests()
    requests = GaugeMetricFamily(
        "rephrase_requests",
        "Requests by state (running: the engine has them; waiting: to be submitted, or for another attempt).",
        labels=("state",),
    )
    requests.add_metric(("running",), running)
    requests.add_metric(("waiting",), waiting)
    yield requests
    age = GaugeMetricFamily(
        "rephrase_checkpoint_age_seconds", "Time since finished samples were last made durable."
    )
    age.add_metric((), now - vitals.saved_at)
    yield age
    yield _counter(
        "rephrase_lease_expiries",
        "Units taken over from workers that had fallen silent for longer than their lease.",
        (),
        [((), vitals.leases_expired)],
    )
    shares = GaugeMetricFamily(
        "rephrase_commonest_opening_ratio",
        "Share of the most common first ten characters among the last thousand rewrites, by prompt; no "
        "series before there are a hundred.",
        labels=("prompt",),
    )
    for prompt, share in sorted(_openings(vitals.openings).items()):
        shares.add_metric((prompt,), share)
    yield shares
    yield _histogram(
        "rephrase_unit_duration_seconds",
        "Time from the claim of a unit to its commit.",
        vitals.unit_durations,
    )


def _few_prompts(outcomes: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    shown = _shown({prompt for prompt, _ in outcomes})
    few: Counter[tuple[str, str]] = Counter()
    for (prompt, outcome), count in outcomes.items():
        few[shown[prompt], outcome] += count
    return few


def _openings(openings: Mapping[str, RecentOpenings]) -> dict[str, float]:
    """Shares by prompt; the highest of those that are shown together."""
    shown = _shown(openings.keys())
    found: dict[str, float] = {}
    for prompt, seen in openings.items():
        if (share := seen.commonest_share) is not None:
            found[shown[prompt]] = max(share, found.get(shown[prompt], 0.0))
    return found


def _shown(prompts: Set[str]) -> dict[str, str]:
    """Value of the label for each prompt."""
    few = MOST_PROMPTS if len(prompts) <= MOST_PROMPTS else MOST_PROMPTS - 1
    return {
        prompt: prompt if place < few else OTHER_PROMPTS
        for place, prompt in enumerate(sorted(prompts))
    }


def _counter(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, found: Durations) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text)
    bounds = [*(f"{bound:g}" for bound in found.bounds), "+Inf"]
    family.add_metric(
        (), list(zip(bounds, accumulate(found.counts), strict=True)), sum_value=found.total
    )
    return family
