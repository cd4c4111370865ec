"""Histograms that add up: counts by steps 1, 2, 3, 4, 6, 8, 12, 16, 24 ... of token numbers. Pure."""

from collections.abc import Mapping


def step(value: int) -> int:
    """The step that a number belongs to: the largest that is not above it. 0 is its own."""
    if value < 2:
        return max(0, value)
    power = 1 << (value.bit_length() - 1)
    return power + power // 2 if value >= power + power // 2 else power


def following(at: int) -> int:
    """The step after this one."""
    if at < 2:
        return at + 1
    power = 1 << (at.bit_length() - 1)
    return power * 2 if at > power else power + power // 2


def added(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    """Two histograms together."""
    return {at: one.get(at, 0) + other.get(at, 0) for at in sorted(one.keys() | other.keys())}


def quantile(counts: Mapping[int, int], share: float, *, largest: int) -> int:
    """About the number that this share of all lies below: even spread within a step is assumed.

    Args:
        counts: by step.
        share: of all.
        largest: of the numbers, since many may be just that: what ran into a limit.
    """
    wanted = share * sum(counts.values())
    seen = 0
    for at, count in sorted(counts.items()):
        if count and seen + count >= wanted:
            end = max(at, min(following(at), largest))
            return round(at + (end - at) * (wanted - seen) / count)
        seen += count
    return 0
