"""What a GPU hour costs: a price list's text → `PriceList`; a run's pools → their prices. Pure.

A list is YAML. The operator reads it from a ConfigMap, whose keys may not hold a slash: so the whole list
is the value of one key.

    currency: USD
    date: "2026-11-01"
    pricePerGPUHour:
      H100/Spot: "2.10"      # <gpu.name of the pool>/<its capacityType>
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from rephrase_api.documents import NotOneDocument, line_of, load_all
from rephrase_api.errors import Problems
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.fields import LABEL_VALUE, MONEY, number_as_text
from rephrase_api.v1alpha1.policy import Budget
from rephrase_api.v1alpha1.workers import CapacityType, Pool

_PRICES = "pricePerGPUHour"
_KEYS = ("currency", "date", _PRICES)
_CURRENCY = r"[A-Z]{3}"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_EXAMPLE = "H100/Spot: '2.10'"


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of a GPU hour, by name of the GPU and how its node is paid for."""

    currency: str
    date: str
    prices: Mapping[tuple[str, CapacityType], Decimal]


@dataclass(frozen=True, slots=True)
class PoolPrices:
    """Prices of a GPU hour (of a worker's, in a pool without GPUs) of the pools of one run.

    Attributes:
        currency: of all of them: the budget's.
        known: by pool.
        sources: where each of them stands.
        listed: pools whose price is the list's.
        unknown: why there is none, in one sentence, for every other pool.
    """

    currency: str
    known: Mapping[str, Decimal] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    listed: Collection[str] = ()


def parse_prices(text: str, *, where: str) -> PriceList:
    """Read a price list.

    Args:
        text: YAML.
        where: name of the file, for messages.

    Raises:
        Problems: with all problems of the list, one a line, each with the line it is on.
    """
    try:
        documents = load_all(text)
    except NotOneDocument as error:
        raise Problems([str(error)], where=where) from error
    data = documents[0] if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise Problems([f"must be one mapping of {', '.join(_KEYS)}"], where=where)
    found = [f"line {line_of(text, path)}: {words}" for path, words in _problems(data)]
    if found:
        raise Problems(found, where=where)
    prices = {
        (name, CapacityType(capacity)): Decimal(str(number_as_text(price)))
        for key, price in data[_PRICES].items()
        for name, _, capacity in [key.rpartition("/")]
    }
    return PriceList(data["currency"], str(data["date"]), prices)


def pool_prices(spec: RephraseRunSpec, prices: PriceList | None) -> PoolPrices:
    """What is known of the prices of a run's pools: the spec's word first, then the list's."""
    return prices_of(spec.pools(), currency_of(spec), prices)


def currency_of(spec: RephraseRunSpec) -> str:
    """What all prices of a run are in."""
    return (spec.scaling.budget or Budget(amount="0")).currency


def prices_of(pools: Iterable[Pool], currency: str, prices: PriceList | None) -> PoolPrices:
    """What is known of the prices of these pools."""
    pools = tuple(pools)
    known: dict[str, Decimal] = {}
    sources: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for pool in pools:
        if pool.price_per_gpu_hour is not None:
            known[pool.name] = Decimal(pool.price_per_gpu_hour)
            sources[pool.name] = f"{_PRICES} of the pool"
        elif reason := _not_listed(pool, prices, currency):
            unknown[pool.name] = reason
        elif prices is not None:
            known[pool.name] = prices.prices[_key(pool)]
            sources[pool.name] = f"{'/'.join(_key(pool))} in the price list of {prices.date}"
    own = {pool.name for pool in pools if pool.price_per_gpu_hour is not None}
    return PoolPrices(currency, known, sources, unknown, known.keys() - own)


def _key(pool: Pool) -> tuple[str, CapacityType]:
    return (pool.gpu.name if pool.gpu is not None else None) or "", pool.capacity_type


def _not_listed(pool: Pool, prices: PriceList | None, currency: str) -> str:
    """Why a list has no price for a pool; empty if it has one."""
    itself = f"pool {pool.name} has no {_PRICES}"
    if prices is None:
        return f"{itself}, and there is no price list"
    if prices.currency != currency:
        return (
            f"{itself}, and the price list is in {prices.currency}, the run's budget in {currency}; "
            "nothing is converted"
        )
    if pool.gpu is None or not pool.gpu.count:
        return f"{itself}, and no GPU that a price list could name"
    if not pool.gpu.name:
        return f"{itself} and no gpu.name to find it by in the price list"
    if _key(pool) not in prices.prices:
        return f"{itself}, and {'/'.join(_key(pool))} is not in the price list of {prices.date}"
    return ""


def _problems(data: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong, with the path of the key that it is wrong with."""
    for key in data:
        if key not in _KEYS:
            yield (key,), f"unknown key {key}; known are {', '.join(_KEYS)}"
    for key, pattern, example in (("currency", _CURRENCY, "USD"), ("date", _DATE, "2026-11-01")):
        value = data.get(key)
        if not isinstance(value, str) or re.fullmatch(pattern, value, re.ASCII) is None:
            yield (key,), f"{key}: must be set, as in '{example}'; got {value!r}"
    entries = data.get(_PRICES)
    if not isinstance(entries, dict):
        yield (_PRICES,), f"{_PRICES}: must be a mapping, as in {{{_EXAMPLE}}}"
        return
    for key, price in entries.items():
        path = (_PRICES, key)
        name, _, capacity = key.rpartition("/")
        if not name or re.fullmatch(LABEL_VALUE, name, re.ASCII) is None:
            yield path, f"{key}: must be <gpu.name>/<capacityType>, as in {_EXAMPLE}"
        elif capacity not in list(CapacityType):
            yield path, f"{key}: must end in one of {', '.join(CapacityType)}"
        amount = number_as_text(price)
        if not isinstance(amount, str) or re.fullmatch(MONEY, amount, re.ASCII) is None:
            yield path, f"{key}: must be an amount, as in '2.10'; got {price!r}"
