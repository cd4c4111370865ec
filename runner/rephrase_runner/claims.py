"""Which unit to take next, and when another worker's claim may be taken over. Pure.

Nothing here is needed for safety: a wrong choice costs a store request or a unit done twice, of
which the first commit wins. Time and heartbeats only decide where to look and when to stop waiting.

Invariant: a claim is never called released or abandoned while its holder works on it, because every
heartbeat from the claim's own `beat` on lists it until it is let go (ledger holes 3 and 4).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rephrase_runner.records import Claim, Heartbeat

SKEW_SECONDS = 2
"""Stores give times in whole seconds, and their machines' clocks differ a little."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A heartbeat as it was found: its body and the store's time of the last write."""

    heartbeat: Heartbeat
    modified: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """A first look at a claim whose holder may be dead.

    Attributes:
        beat: the beat seen then; 0 where there was no heartbeat.
        own_beat: this worker's last acknowledged beat then.
        at: this worker's monotonic clock then, in seconds.
    """

    epoch: int
    beat: int
    own_beat: int
    at: float


Takeover = Literal["released", "abandoned", "stale"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """May the claim be taken over? `why` says so; otherwise `look` is to be remembered for the next look."""

    why: Takeover | None
    look: Look | None = None


def judge(
    unit: int,
    epoch: int,
    claim: Claim,
    holder: Seen | None,
    *,
    own: Seen | None,
    earlier: Look | None,
    monotonic: float,
    lease_seconds: float,
) -> Verdict:
    """Whether the highest claim of a unit may be taken over (ledger protocol, section 4).

    The claim must have been read before the heartbeat. The only clock compared across processes is
    the store's: the times of two heartbeats. One's own monotonic clock only keeps the two looks
    apart, so that after an outage or a sleep nobody is called dead before he had time to beat
    again (ledger hole 18).

    Args:
        unit: the unit looked at.
        epoch: the epoch of `claim`.
        claim: its highest claim.
        holder: the heartbeat of the claim's worker, or None if there is none.
        own: one's own last acknowledged heartbeat.
        earlier: the look remembered from an earlier call for this unit.
        monotonic: one's own clock, seconds.
        lease_seconds: how much older than ours the holder's heartbeat must be.
    """
    if holder is not None:
        beat = holder.heartbeat
        if beat.state == "gone":
            return Verdict("released")
        holds = any(hold.unit == unit and hold.epoch == epoch for hold in beat.holds)
        if beat.beat >= claim.beat and not holds:
            return Verdict("abandoned")
    seen_beat = holder.heartbeat.beat if holder is not None else 0
    own_beat = own.heartbeat.beat if own is not None else 0
    now = Look(epoch, seen_beat, own_beat, monotonic)
    if earlier is None or earlier.epoch != epoch or earlier.beat != seen_beat:
        return Verdict(None, now)
    waited = monotonic - earlier.at >= lease_seconds / 3 and own_beat > earlier.own_beat
    if not waited or own is None:
        return Verdict(None, earlier)
    silent = holder is None or (
        (own.modified - holder.modified).total_seconds() > lease_seconds + SKEW_SECONDS
    )
    return Verdict("stale") if silent else Verdict(None, earlier)


class Board:
    """What a worker believes about all units: free, taken or committed. One byte each.

    Beliefs come from progress.json, listings and lost claims; they may be wrong both ways. A unit
    believed taken is found again by `open_units` once nothing seems free. Units beyond its end are
    no concern of the worker's: he does the first ones of the plan only.
    """

    FREE, TAKEN, COMMITTED = 0, 1, 2

    def __init__(self, units: int) -> None:
        self._state = bytearray(units)

    def __len__(self) -> int:
        return len(self._state)

    def commit(self, first: int, end: int) -> None:
        """Units [first, end) are committed; a fact that is never unset."""
        first, end = min(first, len(self)), min(end, len(self))
        self._state[first:end] = bytes([self.COMMITTED]) * (end - first)

    def take(self, unit: int) -> None:
        """The unit is believed to be held, by us or by another."""
        if unit < len(self) and self._state[unit] == self.FREE:
            self._state[unit] = self.TAKEN

    def free_all_taken(self, taken: Iterable[int]) -> None:
        """Replace all beliefs of being taken by `taken`."""
        self._state = self._state.replace(bytes([self.TAKEN]), bytes([self.FREE]))
        for unit in taken:
            self.take(unit)

    def is_committed(self, unit: int) -> bool:
        """Whether the unit is known to be committed."""
        return self._state[unit] == self.COMMITTED

    def committed_runs(self) -> list[tuple[int, int]]:
        """The committed units as ranges [first, end)."""
        return all_runs(self._state, self.COMMITTED)

    @property
    def committed(self) -> int:
        """How many units are known to be committed."""
        return self._state.count(self.COMMITTED)

    def open_units(self) -> list[int]:
        """Units believed to be held by somebody, in order."""
        return [unit for unit, state in enumerate(self._state) if state == self.TAKEN]

    def next_free(self, wish: int) -> int | None:
        """The unit to try next: `wish` if it is free, else the middle of the longest free run.

        A worker's wish is its start, then the unit after its last one, so it reads its source in
        order; the middle of the longest run is the farthest from everybody else's next wish.
        """
        if wish < len(self._state) and self._state[wish] == self.FREE:
            return wish
        run = longest_run(self._state, self.FREE)
        if run is None:
            return None
        first, end = run
        return first if first == 0 else (first + end) // 2


def longest_run(states: bytes | bytearray, wanted: int) -> tuple[int, int] | None:
    """Bounds [first, end) of the longest run of `wanted`, the earliest of equals; None if there is none."""
    found = all_runs(states, wanted)
    return max(found, key=lambda run: run[1] - run[0], default=None)


def all_runs(states: bytes | bytearray, wanted: int) -> list[tuple[int, int]]:
    """Bounds [first, end) of all runs of `wanted`, in order."""
    found = []
    needle = bytes([wanted])
    other = states.translate(bytes(0 if code == wanted else 1 for code in range(256)))
    first = states.find(needle)
    while first >= 0:
        end = other.find(b"\x01", first)
        end = len(states) if end < 0 else end
        found.append((first, end))
        first = states.find(needle, end)
    return found


def runs(units: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted unit numbers as ranges [first, end)."""
    ranges: list[tuple[int, int]] = []
    for unit in units:
        if ranges and ranges[-1][1] == unit:
            ranges[-1] = (ranges[-1][0], unit + 1)
        else:
            ranges.append((unit, unit + 1))
    return ranges
