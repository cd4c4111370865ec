"""The figures of a report: speed over time keeps every token, money is exact or unknown."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.prices import parse_prices
from rephrase_runner.figures import Speed, money, warnings
from rephrase_runner.records import Collapse, PaidPool, Paying
from support.reports import some_figures

DAY = 86_400.0
UNITS = st.tuples(
    st.floats(1.7e9, 1.7e9 + 30 * DAY), st.floats(0, DAY), st.integers(0, 10**9)
)  # committed at, seconds, tokens
PAYING = Paying(
    currency="USD",
    pools=(
        PaidPool(name="spot", capacity_type="Spot", gpu="H100", gpus=1),
        PaidPool(name="own", capacity_type="Reserved", gpu="L4", gpus=2, price="1.20"),
    ),
)
GPUS = {"spot": 1, "own": 2}
LIST = parse_prices(
    'currency: USD\ndate: "2026-11-01"\npricePerGPUHour: {H100/Spot: "2.10"}\n', where="prices"
)


@given(st.lists(UNITS, min_size=1, max_size=60))
def test_speed_over_time_keeps_every_token_in_few_steps(
    units: list[tuple[float, float, int]],
) -> None:
    speed = Speed()
    for end, seconds, tokens in units:
        speed.add(end, seconds, tokens)
    points = speed.points()

    total = sum(rate * speed.seconds for _, rate in points)
    assert total == pytest.approx(sum(tokens for _, _, tokens in units), rel=1e-4, abs=1)
    assert len(points) <= 241
    assert points[0][0] <= min(end - seconds for end, seconds, _ in units)
    assert points[-1][0] + speed.seconds >= max(end for end, _, _ in units)


@given(st.lists(UNITS, min_size=2, max_size=30))
def test_speed_does_not_depend_on_the_order_of_commits(
    units: list[tuple[float, float, int]],
) -> None:
    one, other = Speed(), Speed()
    for unit in units:
        one.add(*unit)
    for unit in reversed(units):
        other.add(*unit)

    assert [at for at, _ in one.points()] == [at for at, _ in other.points()]
    for (_, rate), (_, again) in zip(one.points(), other.points(), strict=True):
        assert rate == pytest.approx(again, rel=1e-6, abs=1e-6)


def test_a_pause_is_seen() -> None:
    speed = Speed()
    speed.add(1000, 10, 500)
    speed.add(1030, 10, 500)

    assert {round(rate) for at, rate in speed.points() if 1000 <= at < 1020} == {0}
    assert {round(rate) for at, rate in speed.points() if 990 <= at < 1000} == {50}


def test_money_is_gpu_hours_times_the_price_of_each_pool() -> None:
    found = money(
        {"spot": 7200, "own": 3600}, GPUS, PAYING, LIST, committed=2_000_000, discarded=500_000
    )

    assert found.total == Decimal("5.40")
    assert found.per_million == Decimal("2.70")
    assert found.discarded == Decimal("1.08")
    assert [(pool.name, pool.amount, pool.basis) for pool in found.pools] == [
        ("own", Decimal("1.20"), "pricePerGPUHour of the pool"),
        ("spot", Decimal("4.20"), "H100/Spot in the price list of 2026-11-01"),
    ]


def test_one_missing_price_makes_the_total_unknown_and_says_what_it_is_at_least() -> None:
    found = money({"spot": 7200, "own": 3600}, GPUS, PAYING, None, committed=10, discarded=0)

    assert (found.total, found.per_million, found.discarded) == (None, None, None)
    assert found.at_least == Decimal("1.20")
    assert [pool.amount for pool in found.pools] == [Decimal("1.20"), None]
    assert "no price list" in found.pools[1].basis


@pytest.mark.parametrize("paying", [None, PAYING.model_copy(update={"pools": ()})])
def test_a_pool_that_nobody_told_of_has_no_price(paying: Paying | None) -> None:
    found = money({"spot": 7200}, GPUS, paying, LIST, committed=10, discarded=0)

    assert found.total is None
    assert [pool.amount for pool in found.pools] == [None]


def test_nothing_used_yet_costs_nobody_knows_what() -> None:
    assert money({}, {}, PAYING, LIST, committed=0, discarded=None).total is None


def test_a_quiet_run_has_no_warning_but_what_is_remarkable() -> None:
    (ran_out, lost) = warnings(some_figures())

    assert ran_out.startswith("Answers that ran into maxTokens: faq 8.2%.")
    assert lost.startswith("Samples without a rewrite: faq 3.0%.")


def test_rewrites_that_begin_alike_are_warned_of() -> None:
    figures = some_figures()
    alike = Collapse(samples=100, top={10: 51}, beginning={}, distinct={10: 2}, effective={10: 1.9})
    (faq,) = figures.prompts
    collapsed = type(faq)(faq.name, faq.counts, faq.noticed, alike)

    found = warnings(some_figures(prompts=(collapsed,)))

    assert any("begin alike" in warning and "faq 51.0%" in warning for warning in found)
