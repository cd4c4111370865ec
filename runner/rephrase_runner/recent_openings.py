"""How alike the last rewrites of a prompt begin: a model that has collapsed begins them all alike. Pure.

The share of the most common opening among the last ones is a warning, no verdict: tables and FAQs begin
alike by design.
"""

from collections import Counter, deque

CHARACTERS = 10
_REMEMBERED = 1000
_LEAST = 100
"""Of fewer nothing is said."""


class RecentOpenings:
    """The openings of the last rewrites of one prompt."""

    def __init__(self) -> None:
        self._last: deque[str] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """One more rewrite."""
        opening = text.lstrip()[:CHARACTERS]
        self._last.append(opening)
        self._counts[opening] += 1
        if len(self._last) > _REMEMBERED:
            oldest = self._last.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    @property
    def commonest_share(self) -> float | None:
        """Of the last thousand, how many begin like the most common ones; None for too few."""
        if len(self._last) < _LEAST:
            return None
        return max(self._counts.values()) / len(self._last)
