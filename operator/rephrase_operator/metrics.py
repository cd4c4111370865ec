"""Every metric of the operator; `record` is the one place that sets those of a run.

A run's totals are gauges taken from its status: a counter in an operator that restarts would lie. Labels are
bounded by the spec; series of a deleted run are removed.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rephrase_api.v1alpha1.conditions import ConditionStatus
from rephrase_api.v1alpha1.status import RephraseRunStatus

_RUN = ("namespace", "run")


class Metrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: list[Gauge] = []
        self._series: dict[tuple[str, str], set[tuple[int, tuple[str, ...]]]] = {}
        self._units = self._gauge("units", "Units of the plan, by state.", "state")
        self._samples = self._gauge("samples", "Samples of committed units.", "outcome")
        self._tokens = self._gauge(
            "tokens", "Tokens of committed units, and lost ones.", "kind", "outcome"
        )
        self._rate = self._gauge(
            "completion_tokens_per_second", "Tokens generated per second by all workers."
        )
        self._workers = self._gauge("workers", "Workers, by state.", "pool", "state")
        self._gpu_seconds = self._gauge("gpu_seconds", "GPU seconds held.", "pool")
        self._cost = self._gauge("cost", "Money spent.", "pool", "currency")
        self._budget = self._gauge("budget", "Money that may be spent.", "currency")
        self._disruptions = self._gauge("disruptions", "Pods lost to preemption.", "pool")
        self._failures = self._gauge("worker_failures", "Pods that failed by themselves.", "pool")
        self._condition = self._gauge(
            "condition", "1 if the condition has this status.", "type", "status"
        )
        self._deadline = self._gauge("deadline_timestamp_seconds", "When it should be finished.")
        self._completion = self._gauge("completion_timestamp_seconds", "When it was over.")
        self.reconcile_duration = Histogram(
            "rephrase_operator_reconcile_duration_seconds",
            "Time of one look at a run.",
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "rephrase_operator_reconcile_errors_total",
            "Looks at a run that ended with an error.",
            registry=self.registry,
        )
        self.last_reconcile = Gauge(
            "rephrase_operator_last_reconcile_timestamp_seconds",
            "When the last look at any run ended.",
            registry=self.registry,
        )
        self.price_list_refused = Gauge(
            "rephrase_operator_price_list_refused",
            "1 while the price list's file cannot be used and the last good list is.",
            registry=self.registry,
        )
        self.api_requests = Counter(
            "rephrase_operator_actions_total",
            "Objects made and deleted, by action and result.",
            ("action", "result"),
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        gauge = Gauge(f"rephrase_run_{name}", text, (*_RUN, *labels), registry=self.registry)
        self._gauges.append(gauge)
        return gauge

    def record(
        self,
        namespace: str,
        run: str,
        status: RephraseRunStatus,
        *,
        budget: tuple[str, str] | None,
        deadline: float | None,
    ) -> None:
        """Set a run's series to its status; those that it has no more are removed.

        Args:
            namespace: of the run.
            run: its name.
            status: as it is now.
            budget: amount and currency.
            deadline: seconds since 1970.
        """
        values = list(self._values(status, budget, deadline))
        key = (namespace, run)
        now = set()
        for gauge, labels, value in values:
            gauge.labels(namespace, run, *labels).set(value)
            now.add((self._gauges.index(gauge), labels))
        for index, labels in self._series.get(key, set()) - now:
            self._gauges[index].remove(namespace, run, *labels)
        self._series[key] = now

    def forget(self, namespace: str, run: str) -> None:
        """Remove the series of a run that is deleted."""
        for index, labels in self._series.pop((namespace, run), set()):
            self._gauges[index].remove(namespace, run, *labels)

    def _values(
        self, status: RephraseRunStatus, budget: tuple[str, str] | None, deadline: float | None
    ) -> list[tuple[Gauge, tuple[str, ...], float]]:
        found: list[tuple[Gauge, tuple[str, ...], float]] = []
        progress, tokens = status.progress, status.tokens
        if progress is not None and progress.units is not None:
            units = progress.units
            for state in ("planned", "claimed", "committed"):
                found.append((self._units, (state,), getattr(units, state) or 0))
        if progress is not None and progress.samples is not None:
            for outcome in ("written", "skipped", "failed"):
                value = getattr(progress.samples, outcome) or 0
                found.append((self._samples, (outcome,), value))
        if tokens is not None:
            found.append((self._tokens, ("prompt", "committed"), tokens.prompt or 0))
            found.append((self._tokens, ("completion", "committed"), tokens.completion or 0))
            found.append((self._tokens, ("completion", "discarded"), tokens.discarded or 0))
        rate = status.throughput.completion_tokens_per_second if status.throughput else 0
        found.append((self._rate, (), rate or 0))
        for pool in status.workers.pools if status.workers else ():
            for state in ("desired", "active", "ready", "pending"):
                found.append((self._workers, (pool.name, state), getattr(pool, state) or 0))
        if status.cost is not None:
            currency = status.cost.currency or "USD"
            for spent in status.cost.by_pool:
                found.append((self._gpu_seconds, (spent.name,), float(spent.gpu_hours or 0) * 3600))
                if spent.amount is not None:
                    found.append((self._cost, (spent.name, currency), float(spent.amount)))
        for settled in status.settled:
            found.append((self._disruptions, (settled.name,), settled.disruptions))
            found.append((self._failures, (settled.name,), settled.failures))
        for one in status.conditions:
            for state in ConditionStatus:
                found.append((self._condition, (one.type, state.value), one.status is state))
        if budget is not None:
            found.append((self._budget, (budget[1],), float(budget[0])))
        if deadline is not None:
            found.append((self._deadline, (), deadline))
        if status.completion_time is not None:
            found.append((self._completion, (), status.completion_time.timestamp()))
        return found
