"""How rewrites begin, and whether they all begin alike: template collapse. Pure.

Of each prompt a fixed sample is looked at: the 10,000 rewrites whose hash of (source id, prompt, rollout) is
smallest. Which those are depends on nothing but the documents: not on order, workers or retries; and the
samples of two units together are that of their union. So a commit carries the openings of its unit that
can be among the run's, which are few: about 40,000 of each prompt in the whole run, however large it is.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from typing_extensions import override

from rephrase_runner.records import Collapse, Opening, Openings

SAMPLE = 10_000
LENGTHS = (4, 10, 20, 40)
"""Code points of a beginning."""
WARN_AT, WARN_ABOVE = 10, 0.5
"""A prompt is warned of where more than half of its rewrites share their first ten code points."""
_SPARE = 4
"""So many times the sample is kept, so that filters that drop three of four documents leave enough."""
_HASHES = 1 << 64


def bound(keys: int) -> int:
    """Below which hash an opening can be among the run's sample.

    Args:
        keys: samples of a prompt that are expected of the whole run.
    """
    return _HASHES if keys <= _SPARE * SAMPLE else _HASHES * _SPARE * SAMPLE // keys


def beginning(text: str) -> str:
    """The first code points of a rewrite after leading white space."""
    head = text[: 2 * LENGTHS[-1]].lstrip()
    if len(head) < LENGTHS[-1]:
        head = text.lstrip()
    return head[: LENGTHS[-1]]


def smallest(openings: Iterable[Opening]) -> list[Opening]:
    """The sample of these openings."""
    return sorted(openings)[:SAMPLE]


class Gathered:
    """The openings of all prompts over many units; holds twice the sample at most."""

    def __init__(self) -> None:
        self._found: dict[str, list[Opening]] = {}

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gathered) and self._samples() == other._samples()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, openings: Openings) -> None:
        """Those of one unit; the caller adds each unit once."""
        for prompt, found in openings.items():
            known = self._found.setdefault(prompt, [])
            known += found
            if len(known) > 2 * SAMPLE:
                self._found[prompt] = smallest(known)

    def collapse(self) -> dict[str, Collapse]:
        """The figures of every prompt that has a rewrite."""
        return {
            prompt: collapse([text for _, text in sample])
            for prompt, sample in sorted(self._samples().items())
        }

    def _samples(self) -> dict[str, list[Opening]]:
        return {prompt: smallest(found) for prompt, found in self._found.items() if found}


def collapse(beginnings: Sequence[str]) -> Collapse:
    """How often the beginnings of one prompt's sample repeat each other.

    With n_p rewrites that begin with p, of N: `top` is the largest n_p, `distinct` how many p there are,
    `effective` = exp(-sum of n_p/N ln(n_p/N)), the number of beginnings if all were equally frequent.
    """
    counted = {length: Counter(text[:length] for text in beginnings) for length in LENGTHS}
    commonest = {length: max(found.items(), key=_rank) for length, found in counted.items()}
    return Collapse(
        samples=len(beginnings),
        top={length: count for length, (_, count) in commonest.items()},
        beginning={length: text for length, (text, _) in commonest.items()},
        distinct={length: len(found) for length, found in counted.items()},
        effective={length: effective(found.values()) for length, found in counted.items()},
    )


def _rank(counted: tuple[str, int]) -> tuple[int, str]:
    text, count = counted
    return count, text


def effective(counts: Iterable[int]) -> float:
    """The number of equally frequent kinds that are as diverse as these."""
    found = list(counts)
    total = sum(found)
    # fsum: the same figure in whatever order units were added
    entropy = -math.fsum(count / total * math.log(count / total) for count in found)
    return round(math.exp(entropy), 1)


def warnings(collapses: Mapping[str, Collapse]) -> dict[str, float]:
    """Prompts whose rewrites begin too much alike, with the share that does."""
    shares = {prompt: one.share(WARN_AT) for prompt, one in collapses.items()}
    return {prompt: share for prompt, share in shares.items() if share > WARN_ABOVE}
