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
        self._last: deque[str] = deque(maxlen=_REMEMBERED)

    def add(self, text: str) -> None:
        """One more rewrite. They are counted when somebody asks, which is seldom."""
        self._last.append(text.lstrip()[:CHARACTERS])

    @property
    def commonest_share(self) -> float | None:
        """Of the last thousand, how many begin like the most common ones; None for too few."""
        if len(self._last) < _LEAST:
            return None
        return max(Counter(self._last).values()) / len(self._last)
