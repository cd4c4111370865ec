"""Price lists: what is read, what is refused and on which line, and which price a pool gets."""

from decimal import Decimal
from typing import Any

import pytest

from rephrase_api.errors import ExitCode, Problems
from rephrase_api.prices import PriceList, parse_prices, pool_prices
from rephrase_api.v1alpha1.workers import CapacityType
from support.looks import a_run
from support.tiers import ROOT

LIST = """\
currency: USD
date: 2026-11-01
pricePerGPUHour:
  H100/Spot: 2.10
  H100/OnDemand: "3.00"
"""
REFUSED = {
    "no YAML": ("currency: [", "line 1, column 12: not YAML"),
    "nothing": ("", "must be one mapping of currency, date, pricePerGPUHour"),
    "a list": ("- 1", "must be one mapping"),
    "two documents": (f"{LIST}---\n{LIST}", "must be one mapping"),
    "a GPU twice": (LIST + "  H100/Spot: 1\n", "line 6, column 3: not YAML: the key H100/Spot"),
    "an unknown key": (LIST + "prices: {}\n", "line 6: unknown key prices; known are currency"),
    "no such capacity": (LIST + "  L4/spot: 1\n", "line 6: L4/spot: must end in one of Spot, OnD"),
    "no GPU": (LIST + "  Spot: 1\n", "line 6: Spot: must be <gpu.name>/<capacityType>"),
    "a GPU that no pool can name": (LIST + "  a b/Spot: 1\n", "line 6: a b/Spot: must be <gpu"),
    "no amount": (LIST + "  L4/Spot: cheap\n", "line 6: L4/Spot: must be an amount"),
    "less than nothing": (LIST + "  L4/Spot: -1\n", "line 6: L4/Spot: must be an amount"),
    "true": (LIST + "  L4/Spot: true\n", "line 6: L4/Spot: must be an amount"),
    "no currency": (LIST.replace("USD", "dollars"), "line 1: currency: must be set, as in 'USD'"),
    "no date": (LIST.replace("date: 2026-11-01\n", ""), "line 1: date: must be set"),
    "no prices": ("currency: USD\ndate: 2026-11-01\n", "line 1: pricePerGPUHour: must be a map"),
}


def test_a_price_list_is_read() -> None:
    found = parse_prices(LIST, where="prices.yaml")

    assert found == PriceList(
        "USD",
        "2026-11-01",
        {
            ("H100", CapacityType.SPOT): Decimal("2.1"),
            ("H100", CapacityType.ON_DEMAND): Decimal("3.00"),
        },
    )


def test_the_example_is_a_price_list() -> None:
    found = parse_prices((ROOT / "examples" / "prices.yaml").read_text(), where="prices.yaml")

    assert found.prices[("H100", CapacityType.ON_DEMAND)] > 0


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_list_is_refused_with_the_line(case: str) -> None:
    text, words = REFUSED[case]

    with pytest.raises(Problems) as refused:
        parse_prices(text, where="prices.yaml")

    assert refused.value.exit_code == ExitCode.INVALID
    assert str(refused.value).startswith("prices.yaml: ")
    assert words in str(refused.value)


def test_all_problems_of_a_list_are_told_at_once() -> None:
    with pytest.raises(Problems) as refused:
        parse_prices("foo: 1\ncurrency: usd\n", where="prices.yaml")

    assert len(refused.value.problems) == 4


# -- of pools --


def found(*pools: dict[str, Any], text: str | None = LIST, **spec: Any) -> dict[str, str]:  # noqa: ANN401
    """Price, or why there is none, by pool."""
    prices = None if text is None else parse_prices(text, where="prices.yaml")
    named = [{"name": f"p{number}", **pool} for number, pool in enumerate(pools)]
    run = a_run(workers={"pools": named} if named else {}, **spec)
    all_ = pool_prices(run.spec, prices)
    assert not set(all_.known) & set(all_.unknown)
    assert set(all_.known) == set(all_.sources)
    return {name: str(price) for name, price in all_.known.items()} | dict(all_.unknown)


H100 = {"gpu": {"name": "H100"}}


def test_a_pool_s_own_price_wins_and_the_list_fills_in_by_gpu_and_capacity() -> None:
    assert found(
        {**H100, "capacityType": "Spot", "pricePerGPUHour": "9"},
        {**H100, "capacityType": "Spot"},
        H100,
    ) == {"p0": "9", "p1": "2.1", "p2": "3.00"}


@pytest.mark.parametrize(
    ("pool", "text", "words"),
    [
        (H100, None, "pool p0 has no pricePerGPUHour, and there is no price list"),
        (
            {**H100, "capacityType": "Reserved"},
            LIST,
            "H100/Reserved is not in the price list of 2026-11-01",
        ),
        ({"gpu": {"name": "h100"}}, LIST, "h100/OnDemand is not in the price list"),
        ({}, LIST, "no gpu.name to find it by in the price list"),
        ({"gpu": {"name": "H100", "count": 0}}, LIST, "no GPU that a price list could name"),
        (
            H100,
            LIST.replace("USD", "EUR"),
            "the price list is in EUR, the run's budget in USD; nothing is converted",
        ),
    ],
)
def test_a_pool_without_a_price_says_why(
    pool: dict[str, Any], text: str | None, words: str
) -> None:
    assert words in found(pool, text=text)["p0"]


def test_a_list_is_used_if_it_is_in_the_currency_of_the_budget() -> None:
    budget: dict[str, Any] = {"scaling": {"budget": {"amount": "5", "currency": "EUR"}}}

    assert found(H100, text=LIST.replace("USD", "EUR"), **budget) == {"p0": "3.00"}
    assert "in USD, the run's budget in EUR" in found(H100, **budget)["p0"]
    assert found({**H100, "pricePerGPUHour": "4"}, **budget) == {"p0": "4"}


def test_without_pools_there_is_one_that_names_no_gpu() -> None:
    assert "pool default has no pricePerGPUHour and no gpu.name" in found()["default"]
