"""How long something took, counted into buckets; plain numbers that a scrape reads."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

UNIT_SECONDS = (120.0, 600.0)


class Durations:
    """A histogram.

    Args:
        bounds: upper bounds of the buckets, seconds, ascending; one without a bound comes last.
    """

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """One more, however the body ends."""
        began = perf_counter()
        try:
            yield
        finally:
            self.observe(perf_counter() - began)
