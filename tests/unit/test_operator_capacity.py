"""Which pools are passed over, and how workers are spread over the others."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.v1alpha1.status import PoolStatus, RephraseRunStatus, WorkersStatus
from rephrase_operator.capacity import Stockout, by_priority, spread, stockouts
from rephrase_operator.observed import Observed
from support.looks import NOW, a_job, a_pending_pod, a_pod, a_run, ago, observed, two_pools

PATIENT = two_pools({"fallbackAfterSeconds": 900}, {}, max=4)


def waiting(seconds: float, pool: str = "spot", **job: Any) -> Observed:  # noqa: ANN401
    """A worker of a pool that has waited for a node so long."""
    found = a_job(0, pool=pool, created=ago(seconds), **job)
    return observed([found], [a_pending_pod(found, created=ago(seconds))])


def remembered(**pools: Stockout) -> RephraseRunStatus:
    """A status that was written with these."""
    found = tuple(
        PoolStatus(name=name, stockouts=one.count, stockout_until=one.until)
        for name, one in pools.items()
    )
    return RephraseRunStatus(workers=WorkersStatus(pools=found))


def found(
    there: Observed, status: RephraseRunStatus | None = None, spec: Mapping[str, Any] = PATIENT
) -> dict[str, Stockout]:
    return stockouts(a_run(**spec), status or RephraseRunStatus(), there, now=NOW)


def after(seconds: float, count: int = 1) -> Stockout:
    return Stockout(count, NOW + timedelta(seconds=seconds))


def test_a_pool_is_passed_over_once_a_worker_has_waited_too_long() -> None:
    assert found(waiting(899)) == {}
    assert found(waiting(900)) == {"spot": after(300)}


def test_a_job_that_its_queue_holds_back_waits_too() -> None:
    held = a_job(0, pool="spot", suspended=True, created=ago(900))

    assert found(observed([held])) == {"spot": after(300)}


def test_a_pool_that_is_the_only_one_is_never_passed_over() -> None:
    alone = {"workers": {"max": 4, "pools": [{"name": "spot", "fallbackAfterSeconds": 0}]}}
    spot = {"spot": Stockout(1, NOW + timedelta(seconds=60))}

    assert found(waiting(5000), spec=alone) == {}
    assert found(waiting(5000, "od"), remembered(**spot)) == spot


def test_each_stockout_in_a_row_is_longer_up_to_an_hour() -> None:
    pauses = [
        found(waiting(900), remembered(spot=Stockout(count, ago(1))))["spot"]
        for count in (1, 2, 3, 4, 9)
    ]

    assert pauses == [
        after(600, 2),
        after(1200, 3),
        after(2400, 4),
        after(3600, 5),
        after(3600, 10),
    ]


def test_a_pool_that_gave_a_node_since_is_forgiven() -> None:
    last = remembered(spot=Stockout(3, ago(60)))
    job = a_job(0, pool="spot")

    assert found(observed([job], [a_pod(job, scheduled=ago(61))]), last) == {
        "spot": Stockout(3, ago(60))
    }
    assert found(observed([job], [a_pod(job, scheduled=ago(59))]), last) == {}


@pytest.mark.parametrize(
    ("running", "without", "expected"),
    [
        ({}, set(), {"spot": 4, "od": 0}),
        ({}, {"spot"}, {"spot": 0, "od": 4}),
        ({"spot": 1}, {"spot"}, {"spot": 1, "od": 3}),
        ({"od": 3}, set(), {"spot": 1, "od": 3}),
        ({"od": 4}, set(), {"spot": 0, "od": 4}),
        ({"spot": 3, "od": 3}, set(), {"spot": 3, "od": 1}),
    ],
    ids=["at first", "stockout", "some run there", "attrition", "back in no hurry", "too many"],
)
def test_workers_go_where_they_run_and_new_ones_by_priority(
    running: dict[str, int], without: set[str], expected: dict[str, int]
) -> None:
    run = a_run(**two_pools({}, {}, max=4))

    assert spread(run, 4, running=running, without=frozenset(without)) == expected


@given(
    most=st.integers(0, 9),
    limits=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=2),
    running=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    without=st.sets(st.sampled_from(["spot", "od"]), max_size=1),
)
def test_no_pool_and_no_run_gets_more_than_it_may_and_nothing_is_left_unused(
    most: int,
    limits: list[tuple[int, int]],
    running: tuple[int, int],
    without: set[str],
) -> None:
    first, second = ({"min": min(low, high), "max": high} for low, high in limits)
    run = a_run(**two_pools(first, second, max=9))
    there = dict(zip(("spot", "od"), running, strict=True))

    found = spread(run, most, running=there, without=frozenset(without))

    room = {pool.name: pool.max or 0 for pool in by_priority(run)}
    usable = {n: min(r, there[n]) if n in without else r for n, r in room.items()}
    assert all(found[name] <= usable[name] for name in found)
    assert sum(found.values()) == min(most, sum(usable.values()))
