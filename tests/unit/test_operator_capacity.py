"""Which pools are passed over, and how workers are spread over the others."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.v1alpha1.status import PoolStatus, RephraseRunStatus, WorkersStatus
from rephrase_operator.capacity import Stockout, by_priority, dearer, spread, stockouts
from rephrase_operator.observed import Observed
from rephrase_operator.scaling import CARE, Pace
from support.looks import (
    NOW,
    a_job,
    a_pending_pod,
    a_pod,
    a_progress,
    a_run,
    ago,
    at_work,
    observed,
    two_pools,
    with_driver,
)

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


@pytest.mark.parametrize(
    ("scheduled", "forgiven"),
    [(1300, False), (1199, False), (1201, True)],
    ids=["before the pause was over", "taken away too soon", "kept as long as the pause"],
)
def test_a_pool_that_let_a_node_be_for_as_long_as_its_pause_is_forgiven(
    scheduled: float, *, forgiven: bool
) -> None:
    last = Stockout(3, ago(1250))
    job = a_job(0, pool="spot")
    there = observed([job], [a_pod(job, scheduled=ago(scheduled))])

    assert found(there, remembered(spot=last)) == ({} if forgiven else {"spot": last})


def test_where_time_presses_or_an_autoscaler_has_said_no_the_patience_is_a_minute() -> None:
    job = a_job(0, pool="spot", created=ago(61))
    pod = a_pending_pod(job, created=ago(61))
    told = {pod.uid: "InsufficientCapacityError: all requested instance types were unavailable"}
    refused = {job.uid: 'pods "x" is forbidden: exceeded quota: gpus'}

    assert found(waiting(61)) == {}
    assert found(observed([job], [pod], None, told)) == {"spot": after(300)}
    assert found(observed([job], [], None, refused)) == {"spot": after(300)}
    late = stockouts(a_run(**PATIENT), RephraseRunStatus(), waiting(61), now=NOW, in_time=False)
    assert late == {"spot": after(300)}


# -- moving to a cheaper pool --

CHEAP = {"spot": Decimal(2), "od": Decimal(4)}
LONG = Pace(work=3 * 36_000, tail=60, start=300, workers=3)


def three_workers(*pools: str, loading: str = "") -> Observed:
    """Workers at work in these pools, and one of `loading` that is not there yet."""
    jobs = [a_job(slot, pool=pool) for slot, pool in enumerate(pools)]
    pods = [a_pod(job) for job in jobs]
    more = [a_job(9, pool=loading)] if loading else []
    return with_driver([*jobs, *more], pods, a_progress(workers=at_work(*pods)))


@pytest.mark.parametrize(
    ("there", "short", "prices", "pace", "expected"),
    [
        (three_workers("od", "od", "od"), {}, CHEAP, LONG, "od"),
        (three_workers("od", "od", "od"), {"spot": Stockout(1, ago(1))}, CHEAP, LONG, "od"),
        (three_workers("od", "od", "od"), {"spot": after(9)}, CHEAP, LONG, None),
        (three_workers("od", "od", loading="spot"), {}, CHEAP, LONG, None),
        (three_workers("spot", "spot", "spot"), {}, CHEAP, LONG, None),
        (three_workers("od", "od", "od"), {}, {"spot": Decimal(2)}, LONG, None),
        (three_workers("od", "od", "od"), {}, {**CHEAP, "od": Decimal(2)}, LONG, None),
        (three_workers("od", "od", "od"), {}, CHEAP, None, None),
        (three_workers("od", "od", "od"), {}, CHEAP, replace(LONG, work=1500), None),
    ],
    ids=[
        "there is a cheaper pool",
        "which is tried again after its pause",
        "and not before",
        "one after the other",
        "nobody is in a dearer one",
        "a price is unknown",
        "nothing is saved",
        "the rate is unknown",
        "the end is near",
    ],
)
def test_one_worker_at_a_time_is_moved_to_a_cheaper_pool_if_that_pays(
    there: Observed,
    short: dict[str, Stockout],
    prices: dict[str, Decimal],
    pace: Pace | None,
    expected: str | None,
) -> None:
    run = a_run(**two_pools({}, {}, max=4))

    assert dearer(run, there, short, prices=prices, pace=pace, now=NOW) == expected


def test_no_worker_is_moved_where_the_deadline_needs_all() -> None:
    there = three_workers("od", "od", "od")
    # two go on, the third starts anew; at the measured rate, which is not the careful one
    seconds = CARE * (LONG.work + LONG.tail + LONG.start) / 3

    def moved(seconds: float) -> str | None:
        deadline = {"deadline": (NOW + timedelta(seconds=seconds)).isoformat()}
        run = a_run(scaling=deadline, **two_pools({}, {}, max=4))
        return dearer(run, there, {}, prices=CHEAP, pace=LONG, now=NOW)

    assert moved(seconds - 1) is None
    assert moved(seconds + 1) == "od"


def test_a_worker_is_only_moved_if_another_starts_in_its_place() -> None:
    there = three_workers("od", "od", "od")
    run = a_run(**two_pools({}, {}, max=4))

    def moved(pace: Pace) -> str | None:
        return dearer(run, there, {}, prices=CHEAP, pace=pace, now=NOW)

    assert moved(replace(LONG, units=2)) is None
    assert moved(replace(LONG, units=3)) == "od"


def test_of_a_large_fleet_workers_are_moved_while_a_few_are_starting() -> None:
    jobs = [a_job(slot, pool="spot" if slot < 20 else "od") for slot in range(30)]
    pods = [a_pod(job) for job in jobs]
    run = a_run(**two_pools({}, {}, max=30))
    pace = replace(LONG, workers=28, work=1e6)

    def moved(starting: int, *, waiting: bool = False) -> str | None:
        ready = pods[starting:]
        seen = [a_pending_pod(jobs[0]), *pods[1:]] if waiting else pods
        there = with_driver(jobs, seen, a_progress(workers=at_work(*ready)))
        return dearer(run, there, {}, prices=CHEAP, pace=pace, now=NOW)

    assert moved(2) == "od"
    assert moved(3) is None
    assert moved(1, waiting=True) is None


NOT_NOW = {"spot": after(60)}
AGAIN = {"spot": Stockout(1, ago(1))}


@pytest.mark.parametrize(
    ("placed", "short", "expected"),
    [
        ({}, {}, {"spot": 4, "od": 0}),
        ({}, NOT_NOW, {"spot": 0, "od": 4}),
        ({"spot": 1}, NOT_NOW, {"spot": 1, "od": 3}),
        ({}, AGAIN, {"spot": 1, "od": 3}),
        ({"spot": 1}, AGAIN, {"spot": 2, "od": 2}),
        ({"od": 3}, {}, {"spot": 1, "od": 3}),
        ({"od": 4}, {}, {"spot": 0, "od": 4}),
        ({"spot": 3, "od": 3}, {}, {"spot": 3, "od": 1}),
    ],
    ids=[
        "at first",
        "stockout",
        "some run there",
        "one tries it again",
        "and the next",
        "attrition",
        "back in no hurry",
        "too many",
    ],
)
def test_workers_stay_where_they_are_and_new_ones_go_by_priority(
    placed: dict[str, int], short: dict[str, Stockout], expected: dict[str, int]
) -> None:
    run = a_run(**two_pools({}, {}, max=4))

    assert spread(run, 4, placed=placed, short=short, now=NOW) == expected


def test_the_least_of_a_pool_that_had_no_nodes_takes_no_worker_from_others() -> None:
    run = a_run(**two_pools({"min": 2}, {}, max=4))

    def spread_of(short: dict[str, Stockout]) -> dict[str, int]:
        return spread(run, 4, placed={"od": 4}, short=short, now=NOW)

    assert spread_of({}) == {"spot": 2, "od": 2}
    assert spread_of(AGAIN) == {"spot": 0, "od": 4}


def test_a_pool_is_not_passed_over_while_no_other_has_room() -> None:
    full = two_pools({}, {"max": 1}, max=4)
    there = waiting(900)
    other = a_job(1, pool="od")
    both = observed([*there.jobs, other], [*there.pods, a_pod(other)])

    assert found(there, spec=full) == {"spot": after(300)}
    assert found(both, spec=full) == {}


def test_a_job_that_its_queue_takes_back_waits_from_then_on() -> None:
    taken = a_job(0, pool="spot", suspended=True, created=ago(9000), resumed=ago(10))

    assert found(observed([taken])) == {}


@given(
    most=st.integers(0, 9),
    limits=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=2),
    placed=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    short=st.dictionaries(
        st.sampled_from(["spot", "od"]), st.sampled_from([after(9), Stockout(1, ago(9))])
    ),
)
def test_no_pool_and_no_run_gets_more_than_it_may_and_nothing_is_left_unused(
    most: int,
    limits: list[tuple[int, int]],
    placed: tuple[int, int],
    short: dict[str, Stockout],
) -> None:
    first, second = ({"min": min(low, high), "max": high} for low, high in limits)
    run = a_run(**two_pools(first, second, max=9))
    there = dict(zip(("spot", "od"), placed, strict=True))

    found = spread(run, most, placed=there, short=short, now=NOW)

    closed = {name for name, one in short.items() if one.until > NOW}
    room = {pool.name: pool.max or 0 for pool in by_priority(run)}
    usable = {n: min(r, there[n]) if n in closed else r for n, r in room.items()}
    assert all(found[name] <= usable[name] for name in found)
    assert sum(found.values()) == min(most, sum(usable.values()))
