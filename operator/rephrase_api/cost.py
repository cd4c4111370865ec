"""GPU seconds times price make money, in decimals. Pure; shared by the operator and `rephrase run`.

The driver and the workers know GPU seconds only; whoever shows money knows the prices.
"""

from collections.abc import Mapping
from decimal import Decimal

_HOUR = Decimal(3600)
_CENT = Decimal("0.01")
_FINE = Decimal("0.0001")


def amount(seconds_by_pool: Mapping[str, float], prices: Mapping[str, Decimal]) -> Decimal | None:
    """Money for GPU seconds, unrounded; None if a pool that was used has no price.

    Args:
        seconds_by_pool: GPU seconds (worker seconds in a pool without GPUs), by pool.
        prices: of one GPU (of one worker) for one hour, by pool.
    """
    total = Decimal(0)
    for pool, seconds in seconds_by_pool.items():
        if seconds <= 0:
            continue
        if pool not in prices:
            return None
        total += Decimal(str(seconds)) / _HOUR * prices[pool]
    return total


def at_least(seconds_by_pool: Mapping[str, float], prices: Mapping[str, Decimal]) -> Decimal:
    """Money for the GPU seconds of pools with a price: what was spent in any case."""
    known = {pool: seconds for pool, seconds in seconds_by_pool.items() if pool in prices}
    return amount(known, prices) or Decimal(0)


def shown(money: Decimal) -> str:
    """An amount for people and for the status: two places, four where it would else read 0.00."""
    return format(money.quantize(_CENT if money >= _CENT or not money else _FINE), "f")


def per_million(money: Decimal, tokens: int) -> Decimal | None:
    """Money for a million tokens; None if there are none."""
    return money * 1_000_000 / tokens if tokens else None
