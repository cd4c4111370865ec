"""Deadline and budget on a genuine control plane."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.builders import condition
from support.cluster.client import Client
from support.cluster.installed import Operator
from support.cluster.kubelet.clock import now
from support.cluster.kubelet.node import Node
from support.cluster.runs import QUICK, Runs
from support.cluster.seen import Seen
from support.cluster.wire import Object
from support.manifests import echo
from support.s3 import S3
from support.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
AddNode = Callable[..., Node]
LOOK_SECONDS = 1
"""The test operator looks as often."""


def cpu_pool(runs: Runs, **more: Any) -> list[Object]:  # noqa: ANN401
    (pool,) = runs.manifest()["spec"]["workers"]["pools"]
    return [pool | more]


def test_a_budget_stops_a_run_just_before_it_is_spent_and_more_money_completes_it(
    operator: Operator, namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path
) -> None:
    """All would take some six minutes of one worker, $10 at $100 an hour."""
    add_node("cpu")
    runs = Runs(namespace, s3, tmp_path, documents=200)
    dollars_a_second = 100 / 3600
    with Seen(namespace) as seen:
        runs.apply(
            model=echo(concurrency=1, latency=0.6),
            workers={
                "max": 1,
                "terminationGracePeriodSeconds": 5,
                "pools": cpu_pool(runs, pricePerGPUHour="100"),
            },
            scaling={"budget": {"amount": "4"}},
        )
        run = runs.wait(
            ConditionType.BUDGET_EXHAUSTED, "False", "BudgetNearlyExhausted", within=240
        )
        nearly = Decimal(run["status"]["cost"]["total"])
        run = runs.wait(ConditionType.SUSPENDED, "True", "BudgetExhausted", within=120)
        stopped = namespace.wait_for(
            "rephraseruns", "test", lambda found: not found["status"]["settling"], "all is settled"
        )["status"]["cost"]
        held = seen.seconds * dollars_a_second
        committed = run["status"]["progress"]["units"]["committed"]

        namespace.patch("rephraseruns", "test", {"spec": {"scaling": {"budget": {"amount": "20"}}}})
        runs.wait_committed(committed + 1, within=120)
        namespace.patch("rephraseruns", "test", QUICK)
        run = runs.complete()
        wait_until(lambda: not runs.jobs(), "the Jobs are removed")
        cost = runs.get()["status"]["cost"]

    told = {event["reason"] for event in namespace.list("events")}
    assert Decimal("3.2") <= nearly < Decimal("3.4")
    assert Decimal("3.8") <= Decimal(stopped["total"]) <= Decimal("4.0"), stopped
    assert abs(float(stopped["total"]) - held) <= LOOK_SECONDS * dollars_a_second
    assert {"BudgetNearlyExhausted", "BudgetExhausted", "Suspended", "Resumed"} <= told
    each = LOOK_SECONDS * dollars_a_second * len(seen.workers)
    assert abs(float(cost["total"]) - seen.seconds * dollars_a_second) <= each
    assert run["status"]["progress"]["samples"]["written"] == 600
    assert runs.verify().returncode == 0


def test_a_rate_that_halves_gets_more_workers_and_the_run_still_ends_in_time(
    operator: Operator, namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path
) -> None:
    """Eight samples a second at first, so 4,800 samples take ten minutes of one worker, or more with care."""
    add_node("cpu")
    runs = Runs(namespace, s3, tmp_path, documents=1600)
    deadline = now() + timedelta(seconds=660)
    runs.apply(
        model=echo(concurrency=4, latency=0.5),
        workers={"max": 8},
        scaling={"deadline": deadline.isoformat(timespec="seconds")},
        durability={"heartbeatSeconds": 2, "leaseSeconds": 10},
    )
    measuring = runs.wait(ConditionType.WORKERS_AVAILABLE)
    scaled = wait_scaled(namespace, lambda scaling: scaling["reason"] == "Deadline")
    before = scaled["status"]["scaling"]["target"]
    runs.wait(ConditionType.DEADLINE_AT_RISK, "False", "OnTrack")
    slower = echo(concurrency=4, latency=1.0)
    namespace.patch("rephraseruns", "test", {"spec": {"model": slower}})
    after = wait_scaled(namespace, lambda scaling: scaling["target"] > before)
    run = runs.complete(within=700)

    assert measuring["status"]["scaling"]["target"] == 1
    assert measuring["status"]["scaling"]["reason"] == "Measuring"
    assert after["status"]["scaling"]["direction"] == "Up"
    ended = condition(run, ConditionType.COMPLETE)["lastTransitionTime"]
    assert datetime.fromisoformat(ended) <= deadline
    assert runs.verify().returncode == 0


def wait_scaled(namespace: Client, fits: Callable[[Object], bool]) -> Object:
    """Wait until the decision on the number of workers fits."""
    return namespace.wait_for(
        "rephraseruns",
        "test",
        lambda run: fits(run["status"]["scaling"]),
        "the number of workers is decided anew",
        within=300,
    )
