"""Who is called stale, and when: outages, sleep, pauses, clocks that differ (hole 18)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from model.timelines import (
    LEASE,
    Line,
    Telling,
    one_look_is_enough,
    undisturbed,
    with_outage,
    with_pause,
    with_sleep,
    with_slow_reads,
)

DIES_AT = 50.5


def called_stale(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if Telling(line).stale_at is not None]


def died(lines: Iterable[Line]) -> Iterator[Line]:
    return (replace(line, dies_at=DIES_AT) for line in lines)


def test_a_holder_that_beats_is_never_called_stale_whatever_the_phases_and_clocks() -> None:
    assert called_stale(undisturbed()) == []


def test_a_silent_holder_is_called_stale_after_its_lease_and_within_a_hundred_seconds() -> None:
    waits = [(Telling(line).stale_at or 0) - DIES_AT for line in died(undisturbed())]

    assert min(waits) > LEASE - 10  # its last beat may be a beat older than its death
    assert max(waits) < 100


def test_nobody_is_called_stale_after_a_sleep_of_the_machine() -> None:
    assert called_stale(with_sleep()) == []


def test_nobody_is_called_stale_by_a_watcher_that_stood_still() -> None:
    assert called_stale(with_pause()) == []


def test_nobody_is_called_stale_by_a_heartbeat_read_long_ago() -> None:
    assert called_stale(with_slow_reads()) == []


def test_nobody_is_called_stale_after_an_outage_of_the_store() -> None:
    assert called_stale(with_outage()) == []


def test_a_look_from_before_an_outage_must_not_count_after_it() -> None:
    found = [Telling(line, gaps_void_looks=False).stale_at for line in with_outage()]

    assert any(found)


@pytest.mark.parametrize("lines", [with_outage, with_sleep, with_pause])
def test_the_dead_are_called_stale_whatever_else_happens(
    lines: Callable[[], Iterator[Line]],
) -> None:
    tellings = [(line, Telling(line)) for line in died(lines())]

    assert [line for line, telling in tellings if telling.stale_at is None] == []


@pytest.mark.parametrize("lines", [with_outage, with_sleep])
def test_with_one_look_the_first_to_wake_takes_everything_over(
    lines: Callable[[], Iterator[Line]],
) -> None:
    assert any(Telling(line, one_look_is_enough).stale_at for line in lines())
