"""What is exposed: how much of it, what a run leaves behind, and that docs/metrics.md tells all of it."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from rephrase_operator.metrics import Metrics
from rephrase_operator.observed import Ending
from rephrase_runner.engines.vllm_metrics import PASSED_ON
from support.exposed import a_driver, a_status, a_worker, an_operator, series
from support.looks import a_pod

REFERENCE = Path(__file__).parents[2] / "docs" / "metrics.md"
RUNS, WORKERS = 20, 1000
OF_A_SCRAPE = 5
"""Series that Prometheus itself keeps of each target: up, scrape_duration_seconds and three more."""


def test_a_worker_has_at_most_40_series_of_its_own_whatever_the_run_asks_for(
    tmp_path: Path,
) -> None:
    few = series(a_worker(tmp_path, prompts=4).collect())
    many = series(a_worker(tmp_path, prompts=32).collect())

    assert len(few) == len(many) == 40


def test_prompts_beyond_the_third_of_many_are_counted_together_and_none_is_lost(
    tmp_path: Path,
) -> None:
    (family,) = [
        one for one in a_worker(tmp_path, prompts=32).collect() if one.name == "rephrase_samples"
    ]
    written = {
        sample.labels["prompt"]: sample.value
        for sample in family.samples
        if sample.labels["outcome"] == "written"
    }

    assert written == {"prompt-00": 3, "prompt-01": 3, "prompt-02": 3, "other prompts": 29 * 3}


def test_the_series_of_twenty_runs_with_a_thousand_workers_are_as_documented(
    tmp_path: Path,
) -> None:
    worker = len(series(a_worker(tmp_path).collect())) + len(PASSED_ON) + OF_A_SCRAPE
    driver = len(series(a_driver(tmp_path).collect())) + OF_A_SCRAPE
    of_none = len(series(an_operator(0).registry.collect()))
    of_all = len(series(an_operator(RUNS).registry.collect()))
    total = WORKERS * worker + RUNS * driver + of_all + OF_A_SCRAPE

    assert len(PASSED_ON) <= 30
    assert (of_all - of_none) / RUNS <= 150
    assert total <= 75_000
    assert f"about {round(total, -3):,} series" in REFERENCE.read_text(encoding="utf-8")


def test_the_series_of_a_removed_run_go_away_and_those_of_others_stay() -> None:
    metrics = an_operator(2)
    metrics.forget("team", "run-0")

    text = str([family.samples for family in metrics.registry.collect()])
    assert "run-0" not in text
    assert "run-1" in text


def money(metrics: Metrics) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["pool"], sample.labels["useful"]): sample.value
        for family in metrics.registry.collect()
        if family.name == "rephrase_run_cost"
        for sample in family.samples
    }


def record(metrics: Metrics, *, fresh: bool = True, **more: object) -> None:
    metrics.record(
        *("team", "run"),
        a_status(2, **more),
        budget=None,
        deadline=None,
        expected_rate=None,
        fresh=fresh,
    )


def committed(metrics: Metrics) -> float | None:
    labels = {"namespace": "team", "run": "run", "state": "committed"}
    return metrics.registry.get_sample_value("rephrase_run_units", labels)


def progress(units: int) -> dict[str, object]:
    return {"units": {"planned": 100, "committed": units}}


def test_totals_do_not_fall_back_to_what_was_written_while_the_driver_is_silent() -> None:
    time = "2026-11-23T12:00:00Z"
    one = {"type": "Progressing", "status": "Unknown", "reason": "DriverUnreachable"}
    silent: dict[str, Any] = {"fresh": False, "conditions": [{**one, "lastTransitionTime": time}]}
    metrics, successor = Metrics(), Metrics()
    record(metrics, progress=progress(8))
    record(metrics, progress=progress(6), **silent)
    record(successor, progress=progress(6), **silent)

    assert (committed(metrics), committed(successor)) == (8, None)
    record(successor, progress=progress(9))
    assert committed(successor) == 9


def test_pools_without_an_end_so_far_are_told_as_none_so_that_the_first_can_be_seen() -> None:
    metrics = Metrics()
    record(metrics, settled=[{"name": "pool-1", "failures": 8}])

    value = metrics.registry.get_sample_value
    failures = {
        pool: value(
            "rephrase_run_worker_failures", {"namespace": "team", "run": "run", "pool": pool}
        )
        for pool in ("pool-0", "pool-1")
    }
    assert failures == {"pool-0": 0, "pool-1": 8}


def test_disruptions_by_reason_add_up_to_those_of_the_status() -> None:
    metrics = Metrics()
    pool = {"name": "pool-1", "disruptions": 9, "preempted": 2, "lost": 3}
    record(metrics, settled=[pool])

    found = {
        (sample.labels["pool"], sample.labels["reason"]): sample.value
        for family in metrics.registry.collect()
        if family.name == "rephrase_run_disruptions"
        for sample in family.samples
    }
    none = {("pool-0", reason): 0 for reason in ("Preempted", "Evicted", "Lost")}
    of_one = {("pool-1", "Preempted"): 2, ("pool-1", "Evicted"): 4, ("pool-1", "Lost"): 3}
    assert found == none | of_one


@pytest.mark.parametrize(("accepted", "told"), [("True", 0), ("False", None)])
def test_no_driver_is_missed_of_a_run_that_waits_for_its_turn_or_is_refused(
    accepted: str, told: float | None
) -> None:
    time = "2026-11-23T12:00:00Z"
    conditions = [
        {"type": "Accepted", "status": accepted, "reason": "TooManyRuns"},
        {"type": "Progressing", "status": "Unknown", "reason": "DriverUnreachable"},
    ]
    metrics = Metrics()
    record(metrics, conditions=[{**one, "lastTransitionTime": time} for one in conditions])

    labels = {"namespace": "team", "run": "run"}
    assert metrics.registry.get_sample_value("rephrase_run_driver_reachable", labels) == told


def test_of_a_run_that_is_stopped_a_new_operator_tells_what_was_written() -> None:
    metrics = Metrics()
    record(metrics, progress=progress(6), fresh=False)

    assert committed(metrics) == 6


def test_cost_is_split_by_what_the_discarded_tokens_were_and_adds_up_to_the_status() -> None:
    metrics = Metrics()
    record(metrics)

    assert money(metrics) == {
        ("pool-0", "true"): 7.5,
        ("pool-0", "false"): 2.5,
        ("pool-1", "true"): 7.5,
        ("pool-1", "false"): 2.5,
    }


def test_what_is_unknown_has_no_series_and_is_never_nothing() -> None:
    metrics = Metrics()
    record(metrics)
    pools = [{"name": "pool-0", "gpuHours": "5.000"}, {"name": "pool-1", "amount": "10.00"}]
    record(metrics, cost={"currency": "USD", "basis": "Unknown", "byPool": pools}, throughput=None)

    told = series(metrics.registry.collect())
    assert {pool for pool, _ in money(metrics)} == {"pool-1"}
    for name in (
        *("cost_projected", "cost_per_million_tokens", "budget", "deadline_timestamp_seconds"),
        *("completion_tokens_per_second", "expected_completion_tokens_per_second"),
        "realized_rate_ratio",
    ):
        assert f"rephrase_run_{name}" not in told


@pytest.mark.parametrize(
    ("method", "code", "labels"),
    [
        ("POST", 201, {"verb": "create", "code": "201"}),
        ("GET", 0, {"verb": "get", "code": "none"}),
    ],
)
def test_requests_to_the_api_server_are_counted(
    method: str, code: int, labels: dict[str, str]
) -> None:
    metrics = Metrics()
    metrics.request(method, code)

    found = metrics.registry.get_sample_value("rephrase_operator_api_requests_total", labels)
    assert found == 1


def test_decisions_and_ends_are_counted_by_reason() -> None:
    metrics = Metrics()
    preempted = a_pod(disruption="PreemptionByScheduler")
    before = a_status(scaling={"target": 8, "reason": "Maximum"})
    after = a_status(scaling={"target": 3, "reason": "Deadline"})
    metrics.transition(
        before, after, [(preempted, Ending.DISRUPTION), (a_pod(reason="Error"), Ending.DONE)]
    )
    metrics.transition(after, after, [])

    value = metrics.registry.get_sample_value
    decisions, ended = (
        "rephrase_operator_scaling_decisions_total",
        "rephrase_operator_ended_pods_total",
    )
    assert value(decisions, {"reason": "Deadline", "direction": "down"}) == 1
    assert value(ended, {"ending": "disruption", "reason": "PreemptionByScheduler"}) == 1
    assert value(ended, {"ending": "done", "reason": ""}) == 1


# -- docs/metrics.md --


def rows(families: Iterable[Metric], *, without: tuple[str, ...] = ()) -> list[str]:
    """A line of the table for each metric."""
    found = []
    for family in families:
        kinds = {"counter": "_total", "unknown": ""}
        name = family.name + kinds.get(family.type, "")
        inner = {"le", *without}
        labels = {
            label: None for one in family.samples for label in one.labels if label not in inner
        }
        shown = ", ".join(f"`{label}`" for label in labels)
        found.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return found


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table that is made from the code."""
    operator = an_operator()
    operator.transition(a_status(), a_status(), [(a_pod(), Ending.DONE)])
    of_operator = [
        one
        for one in operator.registry.collect()
        if not one.name.endswith("_created") and not one.name.startswith("process_")
    ]
    of_runs = [one for one in of_operator if one.name.startswith("rephrase_run_")]
    vllm = [f"| `{name}` | {text} |" for name, text in PASSED_ON.items()]
    head = ["| metric | type | labels | what |", "| --- | --- | --- | --- |"]
    return {
        "worker": [*head, *rows(a_worker(folder).collect())],
        "vllm": ["| series | what |", "| --- | --- |", *vllm],
        "runs": [*head, *rows(of_runs, without=("namespace", "run"))],
        "operator": [*head, *rows(one for one in of_operator if one not in of_runs)],
    }


def test_the_reference_is_what_the_code_says(tmp_path: Path, *, update_golden: bool) -> None:
    text = wanted = REFERENCE.read_text(encoding="utf-8")
    for name, lines in tables(tmp_path).items():
        block = re.compile(rf"(<!-- from the code: {name} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
        found = block.search(wanted)
        assert found is not None, name
        wanted = wanted[: found.start()] + found[1] + "\n".join(lines) + wanted[found.end() :]
    if update_golden:
        REFERENCE.write_text(wanted, encoding="utf-8")

    assert text == wanted or update_golden
