"""Every metric of the operator; `record` is the one place that sets those of a run.

A run's totals are gauges taken from its status: a counter in an operator that restarts would lie. Labels are
bounded by the spec, a run has at most 150 series, and those of a deleted run are removed. What is unknown has
no series, and is never 0. docs/metrics.md is made from the texts here.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.status import Cost, RephraseRunStatus, SettledPool, TokenCounts
from rephrase_operator.observed import Disruption, Ending, PodSeen

_RUN = ("namespace", "run")
_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
_ERRORS = ("refused", "error")
"""Results of looks that somebody should know of."""
_NO_DRIVER = {Reason.FINISHED, Reason.SUSPENDED, Reason.BUDGET_EXHAUSTED}
Series = tuple[Gauge, tuple[str, ...], float]


class Metrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: list[Gauge] = []
        self._series: dict[tuple[str, str], set[tuple[int, tuple[str, ...]]]] = {}
        self._units = self._gauge("units", "Units by state (planned, claimed, committed).", "state")
        self._samples = self._gauge(
            "samples",
            "Samples of committed units by outcome (written, skipped, failed).",
            "outcome",
        )
        self._tokens = self._gauge(
            "tokens",
            "Tokens by kind (prompt, completion) and outcome (committed; discarded: generated and in no "
            "commit, told while no worker is alive).",
            "kind",
            "outcome",
        )
        self._rate = self._gauge(
            "completion_tokens_per_second",
            "Tokens generated per second by all workers; no series while the driver is silent.",
        )
        self._expected_rate = self._gauge(
            "expected_completion_tokens_per_second",
            "What the workers that have loaded their model should generate per second, by the canary, else "
            "by the table of docs/cost.md; no series where nobody measured it.",
        )
        self._realized = self._gauge(
            "realized_rate_ratio",
            "Realized by expected rate, 1 = as expected; no series where nothing is expected.",
        )
        self._workers = self._gauge(
            "workers",
            "Workers by pool and state (desired; active: has a Job; ready: model loaded; pending: waits for "
            "a node).",
            "pool",
            "state",
        )
        self._gpu_seconds = self._gauge(
            "gpu_seconds",
            "GPU seconds held (worker seconds in a pool without GPUs), pulling images and loading included; "
            "useful=false: the share of discarded tokens.",
            "pool",
            "useful",
        )
        self._cost = self._gauge(
            "cost",
            "Money spent; useful=false: the share of discarded tokens. No series without a price.",
            "pool",
            "currency",
            "useful",
        )
        self._per_million = self._gauge(
            "cost_per_million_tokens",
            "Money for a million committed completion tokens; no series without a price.",
            "currency",
        )
        self._projected = self._gauge(
            "cost_projected",
            "What the whole run will have cost at this rate; no series without a price.",
            "currency",
        )
        self._budget = self._gauge("budget", "Money that may be spent.", "currency")
        self._disruptions = self._gauge(
            "disruptions",
            "Pods whose place was taken, by reason (Preempted: for a pod of higher priority; Evicted: told "
            "to go; Lost: without notice, as with their node).",
            "pool",
            "reason",
        )
        self._failures = self._gauge("worker_failures", "Pods that failed by themselves.", "pool")
        self._condition = self._gauge(
            "condition",
            "1 where the condition has this status (True, False, Unknown), else 0.",
            "type",
            "status",
        )
        self._driver = self._gauge(
            "driver_reachable",
            "1 where the driver answered the last time, 0 where it did not; no series where none is needed, "
            "nor for a run that is not accepted.",
        )
        self._last_progress = self._gauge(
            "last_progress_timestamp_seconds", "When a unit or a checkpoint was last written."
        )
        self._deadline = self._gauge("deadline_timestamp_seconds", "When it should be finished.")
        self._end = self._gauge(
            "estimated_completion_timestamp_seconds",
            "When it will be finished at this rate, to the minute; no series without a rate.",
        )
        self._completion = self._gauge(
            "completion_timestamp_seconds", "When it was Complete or Failed."
        )
        self._reconcile_duration = Histogram(
            "rephrase_operator_reconcile_duration_seconds",
            "Time of one look at a run, by result (done; outdated: the status had changed meanwhile; gone; "
            "refused: by the API server; canceled; error).",
            ("result",),
            registry=self.registry,
        )
        self._reconcile_errors = Counter(
            "rephrase_operator_reconcile_errors_total",
            "Looks at a run that ended early, by result (refused, error).",
            ("result",),
            registry=self.registry,
        )
        for result in _ERRORS:  # none so far is told as 0
            self._reconcile_errors.labels(result)
        self.last_reconcile = Gauge(
            "rephrase_operator_last_reconcile_timestamp_seconds",
            "When the last look at any run ended; 0 before the first.",
            registry=self.registry,
        )
        self.price_list_refused = Gauge(
            "rephrase_operator_price_list_refused",
            "1 while the price list's file cannot be used and the last good list is.",
            registry=self.registry,
        )
        self.actions = Counter(
            "rephrase_operator_actions_total",
            "Objects made, changed and deleted, by action and result (done, later, refused).",
            ("action", "result"),
            registry=self.registry,
        )
        self._requests = Counter(
            "rephrase_operator_api_requests_total",
            "Requests to the API server, without kopf's watches, by verb (get, create, patch, delete) and "
            "HTTP status (none: no answer).",
            ("verb", "code"),
            registry=self.registry,
        )
        self._decisions = Counter(
            "rephrase_operator_scaling_decisions_total",
            "Changes of the number of workers, by reason (as in status.scaling) and direction (up, down).",
            ("reason", "direction"),
            registry=self.registry,
        )
        self._ended = Counter(
            "rephrase_operator_ended_pods_total",
            "Pods of workers that ended, by how (done, expected, disruption, failure) and, of the last two, "
            "why.",
            ("ending", "reason"),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        gauge = Gauge(f"rephrase_run_{name}", text, (*_RUN, *labels), registry=self.registry)
        self._gauges.append(gauge)
        return gauge

    def looked(self, result: str, seconds: float) -> None:
        """A look at a run has ended."""
        self._reconcile_duration.labels(result).observe(seconds)
        if result in _ERRORS:
            self._reconcile_errors.labels(result).inc()

    def request(self, method: str, code: int) -> None:
        """The API server answered a request, or did not: code 0."""
        verb = _VERBS.get(method, method.lower())
        self._requests.labels(verb, str(code) if code else "none").inc()

    def transition(
        self,
        before: RephraseRunStatus,
        after: RephraseRunStatus,
        ended: Iterable[tuple[PodSeen, Ending]],
    ) -> None:
        """A run went from one written status to another.

        Args:
            before: as it was last written.
            after: as it is written now.
            ended: pods that were counted in between.
        """
        old = (before.scaling.target if before.scaling is not None else None) or 0
        new = (after.scaling.target if after.scaling is not None else None) or 0
        if after.scaling is not None and new != old:
            direction = "up" if new > old else "down"
            self._decisions.labels(after.scaling.reason or "", direction).inc()
        for pod, ending in ended:
            told = ending in (Ending.DISRUPTION, Ending.FAILURE)
            why = pod.disruption or pod.reason or "Deleted" if told else ""
            self._ended.labels(ending.value, why).inc()

    def record(
        self,
        namespace: str,
        run: str,
        status: RephraseRunStatus,
        *,
        budget: tuple[str, str] | None,
        deadline: float | None,
        expected_rate: float | None,
        fresh: bool,
    ) -> None:
        """Set a run's series to its status; those that it has no more are removed.

        Units, samples and tokens are set by the driver's own word only: while it is silent the status has
        what was written last, which may be older than what was told here, or by an operator before.

        Args:
            namespace: of the run.
            run: its name.
            status: as it is now.
            budget: amount and currency.
            deadline: seconds since 1970.
            expected_rate: completion tokens per second that its workers should make; None = unknown.
            fresh: whether the driver has told the progress that is in the status.
        """
        values = [
            *self._of_work(status, expected_rate),
            *self._of_workers(status),
            *self._of_money(status.cost, status.tokens),
            *self._of_times(status),
        ]
        if budget is not None:
            values.append((self._budget, (budget[1],), float(budget[0])))
        if deadline is not None:
            values.append((self._deadline, (), deadline))
        key = (namespace, run)
        now = set()
        totals = (self._units, self._samples, self._tokens)
        silent = any(one.reason == Reason.DRIVER_UNREACHABLE for one in status.conditions)
        known = {one for one in self._series.get(key, set()) if self._gauges[one[0]] in totals}
        if not fresh and (known or silent):
            values = [one for one in values if one[0] not in totals]
            now |= known
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

    def _of_work(self, status: RephraseRunStatus, expected_rate: float | None) -> Iterator[Series]:
        progress, tokens = status.progress, status.tokens
        if progress is not None and progress.units is not None:
            for state in ("planned", "claimed", "committed"):
                yield self._units, (state,), getattr(progress.units, state) or 0
        if progress is not None and progress.samples is not None:
            for outcome in ("written", "skipped", "failed"):
                yield self._samples, (outcome,), getattr(progress.samples, outcome) or 0
        if tokens is not None:
            yield self._tokens, ("prompt", "committed"), tokens.prompt or 0
            yield self._tokens, ("completion", "committed"), tokens.completion or 0
            yield self._tokens, ("completion", "discarded"), tokens.discarded or 0
        told = status.throughput
        rate = told.completion_tokens_per_second if told is not None else None
        if rate is not None:
            yield self._rate, (), rate
        if expected_rate:
            yield self._expected_rate, (), expected_rate
        if expected_rate and rate is not None:
            yield self._realized, (), rate / expected_rate

    def _of_workers(self, status: RephraseRunStatus) -> Iterator[Series]:
        pools = status.workers.pools if status.workers is not None else ()
        for pool in pools:
            for state in ("desired", "active", "ready", "pending"):
                yield self._workers, (pool.name, state), getattr(pool, state) or 0
        # none so far is told as 0: an alert sees how many came, also where the first come together
        ended = {pool.name: SettledPool(name=pool.name) for pool in pools}
        for settled in (ended | {one.name: one for one in status.settled}).values():
            evicted = settled.disruptions - settled.preempted - settled.lost
            yield self._disruptions, (settled.name, Disruption.PREEMPTED), settled.preempted
            yield self._disruptions, (settled.name, Disruption.LOST), settled.lost
            yield self._disruptions, (settled.name, Disruption.EVICTED), evicted
            yield self._failures, (settled.name,), settled.failures
        refused = any(
            one.type == ConditionType.ACCEPTED and one.status is ConditionStatus.FALSE
            for one in status.conditions
        )
        for one in status.conditions:
            needed = not refused and one.reason not in _NO_DRIVER
            if one.type == ConditionType.PROGRESSING and needed:
                yield self._driver, (), one.reason != Reason.DRIVER_UNREACHABLE
            for state in ConditionStatus:
                yield self._condition, (one.type, state.value), one.status is state

    def _of_money(self, cost: Cost | None, tokens: TokenCounts | None) -> Iterator[Series]:
        if cost is None:
            return
        currency, lost = cost.currency or "USD", _discarded_share(tokens)
        for pool in cost.by_pool:
            for useful, share in (("true", 1 - lost), ("false", lost)):
                seconds = float(pool.gpu_hours or 0) * 3600
                yield self._gpu_seconds, (pool.name, useful), seconds * share
                if pool.amount is not None:
                    yield self._cost, (pool.name, currency, useful), float(pool.amount) * share
        for gauge, amount in (
            (self._per_million, cost.per_million_tokens),
            (self._projected, cost.projected),
        ):
            if amount is not None:
                yield gauge, (currency,), float(amount)

    def _of_times(self, status: RephraseRunStatus) -> Iterator[Series]:
        progress = status.progress
        for gauge, time in (
            (self._last_progress, progress.last_commit_time if progress is not None else None),
            (self._end, status.estimated_completion_time),
            (self._completion, status.completion_time),
        ):
            if time is not None:
                yield gauge, (), time.timestamp()


def _discarded_share(tokens: TokenCounts | None) -> float:
    """Of the tokens that were generated, as in status.cost.discarded."""
    if tokens is None:
        return 0.0
    discarded = tokens.discarded or 0
    return discarded / ((tokens.completion or 0) + discarded or 1)
