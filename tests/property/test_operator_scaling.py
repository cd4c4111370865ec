"""Scaling over all inputs, and over time in a small cluster: deadline, budget, pools without nodes."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from rephrase_api import cost
from rephrase_api.v1alpha1.status import ScalingStatus
from rephrase_operator.capacity import PAUSE_SECONDS
from rephrase_operator.scaling import COOL_DOWN_SECONDS, Pace, Wanted, settled_on, wanted
from rephrase_operator.settings import Settings
from rephrase_operator.settle import seconds_by_pool
from support.looks import NOW, a_run, two_pools
from support.small_cluster import Cluster

SECONDS = st.floats(1, 1e7)
PACES = st.builds(
    Pace, work=SECONDS, tail=st.floats(0, 1e5), start=st.floats(0, 3600), workers=st.integers(1, 64)
)


def asked(pace: Pace, seconds: float, most: int) -> int:
    deadline = (NOW + timedelta(seconds=seconds)).isoformat()
    run = a_run(scaling={"deadline": deadline}, workers={"max": most})
    return wanted(run, pace, start=pace.start, now=NOW).workers


@given(
    pace=PACES,
    seconds=SECONDS,
    sooner=st.floats(0, 1),
    more=st.floats(1, 10),
    most=st.integers(1, 64),
)
def test_an_earlier_deadline_or_more_work_never_gives_fewer_workers(
    pace: Pace, seconds: float, sooner: float, more: float, most: int
) -> None:
    workers = asked(pace, seconds, most)
    heavier = Pace(pace.work * more, pace.tail, pace.start, pace.workers)

    assert 1 <= workers <= most
    assert asked(pace, seconds * sooner, most) >= workers
    assert asked(heavier, seconds, most) >= workers


Step = tuple[int, float, int, int]


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.floats(1, 700), st.integers(0, 5), st.integers(5, 40))
    )
)
def test_never_outside_the_bounds_and_never_two_opposite_moves_within_the_cool_down(
    steps: list[Step],
) -> None:
    now, before = NOW, None
    moves: list[tuple[datetime, str]] = []
    for workers, seconds, least, most in steps:
        now += timedelta(seconds=seconds)
        run = a_run(workers={"min": least, "max": most})
        wish = Wanted(min(max(workers, least, 1), most), "Deadline", "")

        after: ScalingStatus = settled_on(run, wish, before, now=now)

        assert after.target is not None
        assert min(max(least, 1), most) <= after.target <= most
        if before is not None and after.changed_time != before.changed_time:
            assert after.direction is not None
            moves.append((now, after.direction))
        before = after
    for (first, one), (second, other) in pairwise(moves):
        assert one == other or (second - first).total_seconds() >= COOL_DOWN_SECONDS


# -- over time --

PRICES = {"spot": Decimal(2), "od": Decimal(4)}
LOOK = 30


def a_cluster(
    spec: Mapping[str, Any], prices: Mapping[str, Decimal], speed: float, look: float = LOOK
) -> Cluster:
    cluster = Cluster(spec, prices=prices, settings=Settings(reconcile_seconds=look))
    cluster.speed, cluster.nodes = speed, 100
    return cluster


def run_to_the_end(cluster: Cluster, hours: float) -> None:
    for _ in range(int(hours * 3600 / LOOK)):
        cluster.pass_time(LOOK)
        cluster.look()
        if cluster.status.phase in {"Succeeded", "Suspended"} and not cluster.live():
            return


@settings(max_examples=3, phases=(Phase.explicit, Phase.generate))
@given(slower=st.floats(0.4, 1.0), at=st.floats(0.1, 0.8), hours=st.floats(3, 8))
@example(slower=0.5, at=0.5, hours=4)
@example(slower=0.1, at=0.7, hours=4)
def test_a_run_whose_rate_falls_ends_in_time_or_says_at_once_and_ever_after_that_it_will_not(
    slower: float, at: float, hours: float
) -> None:
    deadline = NOW + timedelta(hours=hours)
    spec = {"workers": {"max": 60}, "scaling": {"deadline": deadline.isoformat()}}
    cluster = a_cluster(spec, {}, speed=100_000 / (hours * 3600 * 8))  # eight workers would just do
    falls, told = NOW + at * timedelta(hours=hours), []
    while cluster.status.phase != "Succeeded":
        cluster.pass_time(60)
        if cluster.now > falls and slower:
            cluster.speed, slower = cluster.speed * slower, 0
        cluster.look()
        told += [
            (cluster.now, one.status.value)
            for one in cluster.status.conditions
            if one.type == "DeadlineAtRisk"
        ]

    late = [status for time, status in told[:-1] if time > falls + timedelta(minutes=5)]
    assert cluster.status.completion_time is not None
    if cluster.status.completion_time <= deadline:
        assert "True" not in late or cluster.now > deadline - timedelta(hours=1)
    else:
        assert set(late) == {"True"}


def spent(cluster: Cluster) -> Decimal:
    settlement = cluster.decide().settlement
    live = [pod for pod in cluster.pods.values()]
    return cost.at_least(seconds_by_pool(settlement, live, now=cluster.now), cluster.prices)


@settings(max_examples=20)
@given(workers=st.integers(1, 30), budget=st.integers(2, 20), look=st.sampled_from([15, 60]))
@example(workers=8, budget=4, look=15)
def test_a_budget_is_never_overspent_and_what_it_stops_goes_on_when_it_is_raised(
    workers: int, budget: int, look: int
) -> None:
    spec = {
        "workers": {"max": workers, "terminationGracePeriodSeconds": 10},
        "scaling": {"budget": {"amount": str(budget)}},
    }
    cluster = a_cluster(spec, {"default": Decimal(2)}, speed=5, look=look)
    for _ in range(40_000 // look):
        cluster.pass_time(look)
        cluster.look()
        if cluster.status.phase in {"Succeeded", "Suspended"} and not cluster.live():
            break
    cluster.watch(20, look)

    tick = workers * 2 * look / 3600
    assert spent(cluster) <= budget + tick
    if cluster.status.phase == "Suspended":
        drain = workers * 2 * (10 + 2 * look) / 3600
        assert spent(cluster) >= budget - drain - tick
        assert cluster.status.stop is not None
        assert cluster.status.stop.reason == "BudgetExhausted"
        cluster.edit(scaling={"budget": {"amount": "1000000"}})
        run_to_the_end(cluster, 10)
    assert cluster.status.phase == "Succeeded"


POOL: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    min=st.sampled_from([0, 0, 1, 2]),
    max=st.sampled_from([None, 1, 2, 4]),
    fallbackAfterSeconds=st.sampled_from([60, 300]),
)
HISTORY = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4), st.integers(1, 30)),
    min_size=1,
    max_size=6,
)
THREE_PRICES = {"a": Decimal(1), "b": Decimal(2), "c": Decimal(4)}


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    history=HISTORY,
    first=POOL,
    second=POOL,
    hours=st.sampled_from([None, 24]),
    samples=st.sampled_from([0, 99_000]),
)
@example(  # the first pool's least must not take workers from the third at every pause's end
    history=[("b", 0, 30), ("a", 0, 30), ("a", 0, 30), ("a", 0, 30)],
    first={"min": 2, "max": None, "fallbackAfterSeconds": 60},
    second={"min": 0, "max": None, "fallbackAfterSeconds": 60},
    hours=None,
    samples=0,
)
@example(  # few units are left: who goes is not replaced
    history=[("a", 0, 20), ("a", 4, 30)],
    first={"min": 0, "max": None, "fallbackAfterSeconds": 60},
    second={"min": 0, "max": 1, "fallbackAfterSeconds": 60},
    hours=None,
    samples=99_000,
)
def test_pools_that_have_nodes_now_and_then_do_not_make_workers_flap(
    history: list[tuple[str, int, int]],
    first: dict[str, Any],
    second: dict[str, Any],
    hours: float | None,
    samples: int,
) -> None:
    pools = [{"name": "a", **first}, {"name": "b", **second}, {"name": "c"}]
    deadline = {"deadline": (NOW + timedelta(hours=hours)).isoformat()} if hours else {}
    spec = {"workers": {"min": 4, "max": 4, "pools": pools}, "scaling": deadline}
    cluster = a_cluster(spec, THREE_PRICES, speed=0.01)
    cluster.room |= {"a": 0, "b": 0}
    cluster.watch(70)  # past the patience of both
    settled = len(cluster.ready())
    cluster.samples = max(samples, cluster.samples)
    looks, fewest, made = 0, 4, cluster.moves.total()
    for name, room, minutes in history:
        cluster.room[name] = max(room, sum(pod.pool == name for pod in cluster.live()))
        for _ in range(minutes * 60 // LOOK):
            looks += 1
            cluster.pass_time(LOOK)
            cluster.look()
            fewest = min(fewest, len(cluster.ready()))

    left = cluster.planned - cluster.committed
    assert settled >= 3
    assert fewest >= min(3, left)  # one is on its way, never two
    # each try costs a worker that is made there and one that is made anew; and each of four may move twice
    tries = looks * LOOK / PAUSE_SECONDS + 1
    assert cluster.moves.total() - made <= 2 * 2 * tries + 8


def test_a_third_pool_is_reached_after_the_patience_of_the_first_two() -> None:
    patient = {"fallbackAfterSeconds": 900}
    pools = [{"name": "a", **patient}, {"name": "b", **patient}, {"name": "c"}]
    cluster = a_cluster({"workers": {"max": 4, "pools": pools}}, {}, speed=0.01)
    cluster.room |= {"a": 0, "b": 0}

    cluster.watch(2 * 900 // LOOK + 10)

    assert sum(pod.pool == "c" for pod in cluster.ready()) >= 3


def test_workers_leave_a_pool_without_nodes_and_come_back_one_by_one() -> None:
    spec = two_pools({"fallbackAfterSeconds": 300}, {}, max=4)
    cluster = a_cluster(spec, PRICES, speed=0.01)
    cluster.room["spot"] = 0
    cluster.watch(20)
    away = [pod.pool for pod in cluster.ready()]

    cluster.room["spot"] = 4
    fewest = 4
    for _ in range(120):
        cluster.watch(1)
        fewest = min(fewest, len(cluster.ready()))

    assert away == ["od"] * 4
    assert [pod.pool for pod in cluster.ready()] == ["spot"] * 4
    assert fewest == 3


def test_a_driver_that_is_silent_for_a_while_changes_no_number() -> None:
    deadline = {"deadline": (NOW + timedelta(minutes=110)).isoformat()}
    spec = {"workers": {"max": 64}, "scaling": deadline}
    cluster = a_cluster(spec, {}, speed=5)
    cluster.watch(50, 15)  # so near that nobody would take the time to measure
    before, ready = cluster.status.scaling, len(cluster.ready())

    cluster.answers = False
    cluster.watch(3, 15)
    silent = cluster.status.scaling

    assert before is not None
    assert silent is not None
    assert (silent.target, silent.message) == (before.target, before.message)
    assert before.target is not None
    assert before.target < 64
    assert len(cluster.ready()) == ready


def test_a_small_budget_buys_samples_and_not_only_starts() -> None:
    spec = {"workers": {"max": 64}, "scaling": {"budget": {"amount": "10"}}}
    cluster = a_cluster(spec, {"default": Decimal(2)}, speed=0.01)

    run_to_the_end(cluster, 24)

    assert cluster.status.phase == "Suspended"
    useful = cluster.samples / 0.01 / 3600 * 2  # money that went into samples
    assert useful >= 5
