"""How many requests to keep submitted to an engine that says after each step how full it is. Pure."""

import math
from collections.abc import Collection
from dataclasses import dataclass

_LEAST_WAITING = 32
"""A document may bring as many requests at once: prompts times rollouts."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine, or one of its data-parallel ranks, said after its last step.

    Attributes:
        running: sequences in its batch.
        cache_used: share of its KV cache that these hold, 0 to 1; what only waits to be found again by a
            later prompt is free.
    """

    running: int
    cache_used: float


def requests_to_keep(most_running: int, loads: Collection[Load]) -> int:
    """Requests to keep submitted, so that one waits whenever a running one ends.

    A batch has as many sequences as the settings allow, or, of long ones, as the cache holds: as many as run
    now, and in its free part more of their mean size. A quarter more has to wait: with answers of 360 tokens,
    of which 0.3 % end in each step, it lasts for some eighty steps, much longer than a worker takes to
    submit more. Any beyond would only be held in memory, and make the list of suspects longer when an
    engine dies.

    Args:
        most_running: sequences in all batches at most, by the settings.
        loads: of each rank; one that has said nothing is empty.
    """
    running = most_running
    if used := sum(load.cache_used for load in loads):
        fit = len(loads) * sum(load.running for load in loads) / used
        running = max(1, math.ceil(min(running, fit)))
    return running + max(running // 4, _LEAST_WAITING)
