"""Time lines against `claims.judge`: who is called stale, and when (section 4, hole 18).

A holder beats, a watcher beats and looks at the holder's claim. The store is away for a while, or machines
sleep, or the holder dies. Times of the store are whole seconds of machines whose clocks differ. Every wait
and every delay of an answer is a number: the same time line always goes the same way.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product

from rephrase_runner.claims import Look, Seen, Verdict, judge
from rephrase_runner.records import Claim, Heartbeat, Hold

BEAT = 10.0
POLL = 5.0
LEASE = 60.0
CLIENT_TIMEOUT = 3.0
"""After so long a heartbeat that is not answered is given up; the next one is due a beat later."""
RETRY = 5.0
"""How long a read waits before it is tried again while the store is away."""
_START = datetime(2026, 1, 1, tzinfo=UTC)
_CLAIM = Claim(run="r", worker="holder", beat=2, why="free")
Span = tuple[float, float]
Judge = Callable[..., Verdict]


@dataclass(frozen=True)
class Line:
    """A time line, in seconds from its start.

    Attributes:
        end: when it is over.
        holder_phase, watcher_phase, poll_phase: of the first beat of each, and of the first look.
        outages: the store answers nobody.
        sleeps: the machines of both sleep; monotonic clocks stand still.
        watcher_paused: the watcher's process stands still; its monotonic clock goes on.
        slow_reads: the watcher's reads take this long, one after the other; its beats do not wait.
        dies_at: the holder is gone from here on.
        skew: of the store machine that keeps the holder's heartbeat.
    """

    end: float = 400
    holder_phase: float = 0
    watcher_phase: float = 1
    poll_phase: float = 2
    outages: tuple[Span, ...] = ()
    sleeps: tuple[Span, ...] = ()
    watcher_paused: tuple[Span, ...] = ()
    slow_reads: tuple[Span, ...] = ()
    dies_at: float = float("inf")
    skew: float = 0


class Telling:
    """One time line, told to its end. `stale_at`: when the watcher called the holder stale, or None.

    Args:
        line: what happens.
        decide: `claims.judge`, or that without a rule.
        gaps_void_looks: a look counts only if the watcher's own heartbeats got through ever since;
            otherwise one from before an outage is the first of the two.
    """

    def __init__(
        self,
        line: Line,
        decide: Judge = judge,
        *,
        gaps_void_looks: bool = True,
    ) -> None:
        self.stale_at: float | None = None
        self._gaps_void_looks = gaps_void_looks
        self._line = line
        self._decide = decide
        self._holder: Seen | None = None
        self._holder_beats = 0
        self._own: Seen | None = None
        self._own_beats = 0
        self._look: Look | None = None
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = 0
        self._at(line.holder_phase, self._holder_beat)
        self._at(line.watcher_phase, self._watcher_beat)
        self._at(line.poll_phase, self._watcher_poll)
        while self._events and self.stale_at is None:
            at, _, event = heapq.heappop(self._events)
            if at > line.end:
                break
            event(at)

    def _at(self, at: float, event: Callable[[float], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, event))

    # -- time --

    def _awake(self, at: float, *spans: Sequence[Span]) -> float:
        """The first moment from `at` on that is in none of the spans."""
        for first, end in sorted(span for some in spans for span in some):
            if first <= at < end:
                at = end
        return at

    def _later(self, at: float, wait: float) -> float:
        """`wait` seconds of monotonic time later: sleep does not count."""
        due = at + wait
        for first, end in sorted(self._line.sleeps):
            if at <= first < due:
                due += end - first
        return due

    def _monotonic(self, at: float) -> float:
        return at - sum(max(0.0, min(at, end) - first) for first, end in self._line.sleeps)

    def _away(self, at: float) -> bool:
        return any(first <= at < end for first, end in self._line.outages)

    def _stored(self, at: float, skew: float = 0) -> datetime:
        return _START + timedelta(seconds=int(at + skew))

    # -- the holder --

    def _holder_beat(self, at: float) -> None:
        awake = self._awake(at, self._line.sleeps)
        if awake > at:
            self._at(awake, self._holder_beat)
        elif at < self._line.dies_at:
            self._holder_beats += 1
            wait = BEAT
            if self._away(at):
                wait += CLIENT_TIMEOUT
            else:
                self._holder = self._beat("holder", self._holder_beats, at, self._line.skew)
            self._at(self._later(at, wait), self._holder_beat)

    def _beat(self, worker: str, number: int, at: float, skew: float = 0) -> Seen:
        holds = (Hold(unit=0, epoch=1),) if worker == "holder" and number >= _CLAIM.beat else ()
        heartbeat = Heartbeat(
            run="r", worker=worker, beat=number, state="live", phase="generating", holds=holds
        )
        return Seen(heartbeat, self._stored(at, skew))

    # -- the watcher --

    def _watcher_beat(self, at: float) -> None:
        awake = self._awake(at, self._line.sleeps, self._line.watcher_paused)
        if awake > at:
            self._at(awake, self._watcher_beat)
            return
        self._own_beats += 1
        wait = BEAT
        if self._away(at):
            wait += CLIENT_TIMEOUT
        else:
            before, self._own = self._own, self._beat("watcher", self._own_beats, at)
            gap = (self._own.modified - before.modified).total_seconds() if before else 0
            if gap > LEASE / 2 and self._gaps_void_looks:
                self._look = None
        self._at(self._later(at, wait), self._watcher_beat)

    def _watcher_poll(self, at: float) -> None:
        """Reads the holder's heartbeat; what it makes of it may come much later."""
        awake = self._awake(at, self._line.sleeps, self._line.watcher_paused)
        if awake > at:
            self._at(awake, self._watcher_poll)
        elif self._away(at):
            self._at(self._later(at, RETRY), self._watcher_poll)
        elif self._look is not None and self._monotonic(at) - self._look.at < LEASE / 3:
            self._at(self._later(at, POLL), self._watcher_poll)
        else:
            holder = self._holder
            delay = 0.0
            for first, end in self._line.slow_reads:
                if first <= at < end:
                    delay = end - at
            self._at(self._later(at, delay), lambda then: self._judge(then, holder))

    def _judge(self, at: float, holder: Seen | None) -> None:
        awake = self._awake(at, self._line.sleeps, self._line.watcher_paused)
        if awake > at:  # after a pause, what is due first comes first: here the heartbeat
            self._at(awake + 0.1, lambda then: self._judge(then, holder))
            return
        found = self._decide(
            0,
            1,
            _CLAIM,
            holder,
            own=self._own,
            earlier=self._look,
            monotonic=self._monotonic(at),
            lease_seconds=LEASE,
        )
        if found.why == "stale":
            self.stale_at = at
        else:
            self._look = found.look
        self._at(self._later(at, POLL), self._watcher_poll)


def one_look_is_enough(*found: object, **known: object) -> Verdict:
    """`judge` without the rule of two looks: as if the first had been long ago."""
    holder = found[3]
    beat = holder.heartbeat.beat if isinstance(holder, Seen) else 0
    known["earlier"] = Look(epoch=1, beat=beat, own_beat=-1, at=float("-inf"))
    return judge(*found, **known)  # type: ignore[arg-type]


def undisturbed(dies_at: float = float("inf")) -> Iterator[Line]:
    """Phases of the three, and clocks that differ; nothing else happens."""
    for holder, watcher, poll, skew in product((0, 3, 9.9), (1, 6), (0, 2, 4.5), (-1, 0, 1)):
        yield Line(
            holder_phase=holder,
            watcher_phase=watcher,
            poll_phase=poll,
            skew=skew,
            dies_at=dies_at,
        )


def with_outage() -> Iterator[Line]:
    """The store is away for a while, shorter and longer than the lease."""
    for line, first, length in product(
        undisturbed(), (40, 41, 44, 47, 49.5), (5, 30, 58, 100, 230)
    ):
        yield replace(line, outages=((first, first + length),))


def with_sleep() -> Iterator[Line]:
    """The machine of both sleeps."""
    for line, first, length in product(undisturbed(), (40, 41, 44, 47, 49.5), (30, 100, 230)):
        yield replace(line, sleeps=((first, first + length),))


def with_pause() -> Iterator[Line]:
    """Only the watcher stands still, also between reading a heartbeat and judging it."""
    for line, first, length in product(undisturbed(), (40, 42, 44.5, 47), (30, 100, 230)):
        reading = (first - 5, first + 0.2)
        yield replace(line, watcher_paused=((first, first + length),), slow_reads=(reading,))


def with_slow_reads() -> Iterator[Line]:
    """The watcher gets the holder's heartbeat, and comes to judge it a good while later."""
    for line, first, length in product(undisturbed(), (40, 42, 44.5, 47), (30, 100)):
        yield replace(line, slow_reads=((first, first + length),))
