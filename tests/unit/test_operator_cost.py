"""Money, the operator's settings, the driver's numbers, and engine arguments."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from rephrase_api import cost
from rephrase_api.errors import Problems
from rephrase_api.launch import merged_arguments
from rephrase_operator.look import stop_time
from rephrase_operator.settings import Settings
from support.looks import NOW, a_job, a_pod, a_progress, a_run, observed, prices

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
    )

    assert found == Settings(
        *("runner:1", "driver:1", ("a", "b"), 0.5, 3, "Debug", "127.0.0.1", 0, 9000),
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
    }

    with pytest.raises(Problems) as caught:
        read(RUNNER_IMAGE="x", **wrong)

    assert len(caught.value.problems) == 6
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
    [("0", 2, 5), ("6", 2, 2), ("9", 2, 1), ("12", 2, 1), ("0", 0, 10 * 365 * 24)],
    ids=["all is left", "some is left", "an hour at least", "overspent", "nobody works"],
)
def test_workers_stop_after_twice_what_the_rest_of_the_budget_lasts(
    spent: str, workers: int, hours: float
) -> None:
    run = a_run(scaling={"budget": {"amount": "10"}})
    jobs = [a_job(slot) for slot in range(workers)]
    there = observed(jobs, [a_pod(job, gpus=2) for job in jobs])

    until = stop_time(run, there, prices(default="1"), spent=Decimal(spent), now=NOW)

    assert until == NOW + timedelta(hours=hours)
    assert stop_time(a_run(), there, prices(default="1"), spent=Decimal(spent), now=NOW) is None
