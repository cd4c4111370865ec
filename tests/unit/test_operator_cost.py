"""Money, the operator's settings, the driver's numbers, and engine arguments."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from rephrase_api import cost
from rephrase_api.errors import Problems
from rephrase_api.launch import merged_arguments
from rephrase_api.v1alpha1.status import RephraseRunStatus, SettledPool
from rephrase_operator.budget import affordable_starts, known_prices, stop_time
from rephrase_operator.observed import Observed
from rephrase_operator.settings import Settings
from rephrase_operator.settle import settle
from support.looks import (
    NOW,
    a_job,
    a_pod,
    a_progress,
    a_run,
    at_work,
    observed,
    prices,
    two_pools,
    with_driver,
)

# -- cost --


def test_money_is_gpu_hours_times_price_exactly() -> None:
    assert cost.amount({"spot": 3600}, prices(spot="1.95")) == Decimal("1.95")
    assert cost.amount({"spot": 1800.0, "od": 7200}, prices(spot="2", od="4.10")) == Decimal("9.20")
    assert cost.amount({"spot": 0.1}, prices(spot="36000")) == 1
    assert cost.amount({}, {}) == 0


def test_a_pool_that_was_used_and_has_no_price_makes_the_cost_unknown_but_not_nothing() -> None:
    both = {"spot": 3600, "od": 1}

    assert cost.amount(both, prices(spot="1")) is None
    assert cost.at_least(both, prices(spot="1")) == 1
    assert cost.at_least(both, {}) == 0
    assert cost.amount({"spot": 3600, "od": 0}, prices(spot="1")) == 1
    assert cost.amount({"spot": 3600}, prices(spot="0")) == 0


@pytest.mark.parametrize(
    ("money", "text"),
    [
        *(("0", "0.00"), ("412.0678", "412.07"), ("1E+3", "1000.00"), ("0.01", "0.01")),
        *(("0.081", "0.08"), ("0.0049", "0.0049"), ("0.00004", "0.0000")),
        ("999999999999.999", "1000000000000.00"),
    ],
)
def test_money_is_shown_with_two_places_and_small_money_with_four(money: str, text: str) -> None:
    assert cost.shown(Decimal(money)) == text


# -- the driver's numbers --


@pytest.mark.parametrize(
    "told",
    [
        {"lastProgressTime": "2026-11-23T11:59:00"},  # of no zone
        {"tokens": {"completion": -1}},
        {"samples": {"failed": 2**60}},
        {"rates": {"documentsPerSecond": 1e300}},
        {"phase": "Dreaming"},
        {"schemaVersion": 2},
    ],
    ids=str,
)
def test_a_driver_that_says_what_cannot_be_is_not_believed(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        a_progress(**told)


# -- settings --

NEEDED = {"RUNNER_IMAGE": "runner:1", "DRIVER_IMAGE": "driver:1"}


def read(**variables: str) -> Settings:
    return Settings.from_environment(
        {f"REPHRASE_OPERATOR_{key}": variables[key] for key in variables}
    )


def test_settings_are_read_from_the_environment_and_all_but_the_images_have_defaults() -> None:
    found = read(
        **NEEDED,
        NAMESPACES="a, b,,",
        RECONCILE_SECONDS="0.5",
        CRASH_LOOP_FAILURES="3",
        PRICES="/etc/prices.yaml",
        HEALTH_PORT="0",
        METRICS_PORT="9000",
        HOST="127.0.0.1",
        LOG_LEVEL="Debug",
        MAX_WORKERS_PER_RUN="64",
        MAX_RUNS_PER_NAMESPACE="2",
        ALLOW_POD_TEMPLATE="false",
    )

    assert found == Settings(
        *("runner:1", "driver:1", ("a", "b"), 0.5, 3, 64, 2, False, "Debug", "127.0.0.1", 0, 9000),
        prices="/etc/prices.yaml",
    )
    assert read(**NEEDED) == Settings("runner:1", "driver:1")


def test_all_problems_of_the_settings_are_told_at_once() -> None:
    wrong = {
        "RECONCILE_SECONDS": "soon",
        "HEALTH_PORT": "nan",
        "METRICS_PORT": "70000",
        "CRASH_LOOP_FAILURES": "inf",
        "LOG_LEVEL": "Loud",
        "MAX_WORKERS_PER_RUN": "-1",
        "ALLOW_POD_TEMPLATE": "no",
    }

    with pytest.raises(Problems) as caught:
        read(RUNNER_IMAGE="x", **wrong)

    assert len(caught.value.problems) == 8
    for name in (*wrong, "DRIVER_IMAGE"):
        assert f"REPHRASE_OPERATOR_{name}" in str(caught.value)


@pytest.mark.parametrize("value", ["0", "11"])  # the status remembers ten failures
def test_a_crash_loop_is_of_one_to_ten_failures(value: str) -> None:
    with pytest.raises(Problems, match="from 1 to 10"):
        read(**NEEDED, CRASH_LOOP_FAILURES=value)


# -- engine arguments --


def test_a_pools_arguments_replace_those_of_the_run_flag_by_flag() -> None:
    base = ("--max-num-seqs=256", "--enforce-eager", "--max-num")
    pool = ("--max-num-seqs=64", "--b")

    assert merged_arguments(base, pool) == ("--enforce-eager", "--max-num", *pool)
    assert merged_arguments(base, ()) == base


# -- without an operator --


@pytest.mark.parametrize(
    ("spent", "workers", "hours"),
    [("0", 2, 5), ("6", 2, 2), ("9", 2, 1), ("12", 2, 1), ("0", 0, 10), ("0", 20, 1)],
    ids=["all is left", "some is left", "an hour at least", "overspent", "nobody yet", "many"],
)
def test_workers_stop_after_twice_what_the_rest_of_the_budget_lasts(
    spent: str, workers: int, hours: float
) -> None:
    pools = two_pools({"gpu": {"count": 1}}, {"gpu": {"count": 2}})
    run = a_run(scaling={"budget": {"amount": "10"}}, **pools)
    known = prices(spot="1", od="1")  # two GPUs of the dearest pool cost two an hour

    until = stop_time(run, known, workers=workers, spent=Decimal(spent), now=NOW)

    assert until == NOW + timedelta(hours=hours)
    assert stop_time(a_run(), known, workers=workers, spent=Decimal(spent), now=NOW) is None
    nothing = stop_time(run, {}, workers=workers, spent=Decimal(spent), now=NOW)
    assert nothing == NOW + timedelta(hours=1)


def test_a_budget_starts_no_more_workers_than_get_something_done() -> None:
    run = a_run(scaling={"budget": {"amount": "10"}})
    jobs = [a_job(slot) for slot in range(3)]
    pods = [a_pod(job) for job in jobs]
    nobody = observed()
    loading = with_driver(jobs, pods, a_progress(workers=at_work(*pods, phase="loading")))
    at_work_all = with_driver(jobs, pods, a_progress(workers=at_work(*pods)))

    def starts(there: Observed, left: str, price: str = "2") -> int | None:
        known = prices(default=price)
        return affordable_starts(run, there, known, left=Decimal(left), start=300)

    assert starts(nobody, "10") == 15  # four times 300 s at 2 an hour each
    assert starts(loading, "10") == 12
    assert starts(at_work_all, "10") == 15
    assert starts(at_work_all, "0.5") == 0
    assert starts(nobody, "0.5") == 1
    unbounded = affordable_starts(a_run(), nobody, prices(default="2"), left=Decimal(0), start=300)
    assert unbounded is None


def test_the_last_price_of_a_pool_is_remembered() -> None:
    status = RephraseRunStatus(
        settled=(SettledPool(name="old", price="3"), SettledPool(name="spot", price="2"))
    )

    assert known_prices(status, prices(spot="1")) == prices(old="3", spot="1")
    there = observed([a_job(pool="spot"), a_job(1, pool="od")])
    settlement = settle(status, there, now=NOW, prices=prices(spot="1.50", unused="9"))
    assert {pool.name: pool.price for pool in settlement.pools.values()} == {
        "old": "3",
        "spot": "1.50",
    }
