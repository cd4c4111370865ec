"""Documents that kill the engine, against the real fold of a unit's history (section 6).

One worker after the other does the units: what nobody suspects first, as many rows at once as the engine
takes, then the suspects in windows. Killers kill at once, after a while or last; in silence (the pod is
gone too) or so that the worker can write down what was in flight. A preemption may fall on any tick.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from math import ceil, log2

from rephrase_runner.suspects import (
    Death,
    End,
    Silence,
    deaths_allowed,
    next_window,
    suspect,
)

KILLS = 2
LAST = 1_000_000
"""A killer that kills only once nothing but killers is in flight."""
_MAX_EPOCHS = 300


@dataclass(frozen=True)
class Case:
    """What is done and what befalls it.

    Attributes:
        units: rows of each unit; one worker does them all at once.
        in_flight: rows in the engine at once.
        recorded, silent: (unit, row) of the killers of each kind.
        delay: ticks until a killer kills.
        saves: what was finished before a silent end is in a checkpoint.
        preemptions: ticks at which the worker vanishes.
    """

    units: tuple[int, ...]
    in_flight: int
    recorded: frozenset[tuple[int, int]] = frozenset()
    silent: frozenset[tuple[int, int]] = frozenset()
    delay: int = 0
    saves: bool = False
    preemptions: tuple[int, ...] = ()

    @property
    def killers(self) -> frozenset[tuple[int, int]]:
        """All killers."""
        return self.recorded | self.silent


Row = tuple[int, int]


@dataclass
class _Unit:
    open: set[int]
    ends: list[End] = field(default_factory=list)
    window: frozenset[int] = frozenset()


class _Ended(Exception):
    """A worker's time with these units is over. `killer`: None for a preemption."""

    def __init__(self, killer: Row | None, running: set[Row]) -> None:
        self.killer = killer
        self.running = running


class Trial:
    """One case, carried through. Afterwards `faults` says what went wrong."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.condemned: set[Row] = set()
        self.deaths: dict[Row, int] = dict.fromkeys(case.killers, 0)
        self.epoch = 0
        self.stopped = False
        """A worker would have given up: so many deaths and no verdict."""
        self._units = [_Unit(set(range(rows))) for rows in case.units]
        self._tick = 0
        self._done: set[Row] = set()
        while any(unit.open for unit in self._units) and self.epoch < _MAX_EPOCHS:
            self.epoch += 1
            try:
                self._hold()
            except _Ended as ended:
                self._end(ended)

    def faults(self) -> Iterator[str]:
        """Everything that must not have happened."""
        case = self.case
        if any(unit.open for unit in self._units):
            yield "it does not end"
        if self.stopped:
            yield "the run is stopped, though a verdict was coming"
        for row in sorted(self.condemned - case.killers):
            yield f"innocent {row} is condemned"
        for row in sorted(case.killers - self.condemned):
            yield f"killer {row} is not condemned"
        for killer, deaths in self.deaths.items():
            if killer in case.recorded:
                most = KILLS + ceil(log2(max(2, min(case.in_flight, sum(case.units)))))
            else:
                most = KILLS + 2 + ceil(log2(max(2, case.units[killer[0]])))
            if deaths > most:
                yield f"killer {killer} kills {deaths} engines, not at most {most}"

    def history(self, unit: int) -> list[End]:
        """The ends of a unit's holders."""
        return self._units[unit].ends

    # -- one holder --

    def _hold(self) -> None:
        """What a worker does with the units, until an end or until they are done."""
        suspicions = []
        todo: list[Row] = []
        for number, unit in enumerate(self._units):
            unit.window = frozenset()
            found = suspect(unit.ends, unit.open, kills=KILLS)
            self.stopped |= found.fruitless > deaths_allowed(self.case.units[number])
            for one in found.guilty:
                self.condemned.add((number, one.row))
                unit.open.discard(one.row)
            suspicions.append(found)
            todo += [(number, row) for row in sorted(unit.open - found.rows)]
        self._work(todo)
        self._checkpoint()
        for number, (unit, found) in enumerate(zip(self._units, suspicions, strict=True)):
            groups = [group & unit.open for group in found.groups if group & unit.open]
            while groups:
                unit.window = next_window(groups)
                self._work([(number, row) for row in sorted(unit.window)])
                self._checkpoint()
                groups = [group - unit.window for group in groups if group - unit.window]

    def _work(self, todo: list[Row]) -> None:
        """Rows through the engine: one innocent row is done per tick."""
        ages: dict[Row, int] = {}
        while todo or ages:
            while todo and len(ages) < self.case.in_flight:
                ages[todo.pop(0)] = 0
            if self._tick in self.case.preemptions:
                self._tick += 1
                raise _Ended(None, set(ages))
            self._tick += 1
            harmless = [row for row in ages if row not in self.case.killers]
            for row, age in ages.items():
                if row not in harmless and (age >= self.case.delay or not harmless):
                    self.deaths[row] += 1
                    raise _Ended(row, set(ages))
            del ages[harmless[0]]
            self._done.add(harmless[0])
            for row in ages:
                ages[row] += 1

    def _checkpoint(self) -> None:
        for number, row in self._done:
            self._units[number].open.discard(row)
        self._done.clear()

    def _end(self, ended: _Ended) -> None:
        recorded = ended.killer in self.case.recorded
        if recorded or self.case.saves:
            self._checkpoint()
        self._done.clear()
        for number, unit in enumerate(self._units):
            in_flight = frozenset(row for at, row in ended.running if at == number)
            if not unit.open:
                continue
            if not recorded:
                unit.ends.append(Silence(self.epoch, unit.window, f"silence {self.epoch}"))
            elif in_flight:
                alone = bool(unit.window)  # nothing of other units is beside a window
                name = f"death {self.epoch}"
                unit.ends.append(Death(self.epoch, in_flight, name, company=not alone))


def cases(every: int = 1) -> Iterator[Case]:
    """Single units: sizes, killers of both kinds, delays, preemptions. One of each `every`."""
    lost = _tuples(range(0, 30, 2), 1) + _tuples((0, 1, 2, 3, 5, 8, 13), 2)
    sizes = product((1, 2, 3, 5, 8), (1, 2, 4, 8))
    killers = (
        (rows, in_flight, recorded, silent)
        for rows, in_flight in sizes
        for recorded, silent in _killers(rows)
    )
    chosen = product(killers, (0, 2, LAST), (False, True), lost)
    for (rows, in_flight, recorded, silent), delay, saves, ticks in islice(chosen, 0, None, every):
        killers_of = _of(0, recorded), _of(0, silent)
        yield Case((rows,), in_flight, *killers_of, delay, saves, ticks)


def cases_in_company(every: int = 1) -> Iterator[Case]:
    """Two units in the engine at once, with a killer in the second. One of each `every`."""
    lost = _tuples(range(0, 20, 2), 2) + _tuples(range(1, 8), 2)
    sizes = product((1, 2, 3), (1, 2, 3), (2, 3, 4))
    killers = ((*size, row) for size in sizes for row in range(size[1]))
    chosen = product(killers, (True, False), (0, 2, LAST), (False, True), lost)
    for (first, second, in_flight, row), recorded, delay, saves, ticks in islice(
        chosen, 0, None, every
    ):
        killer, nobody = _of(1, (row,)), _of(1, ())
        kinds = (killer, nobody) if recorded else (nobody, killer)
        yield Case((first, second), in_flight, *kinds, delay, saves, ticks)


def _killers(rows: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Up to three killers of a unit: those whose deaths are recorded, and the silent ones."""
    for guilty in _tuples(range(rows), 3):
        for recorded in _tuples(guilty, 3):
            yield recorded, tuple(row for row in guilty if row not in recorded)


def _of(unit: int, rows: tuple[int, ...]) -> frozenset[Row]:
    return frozenset((unit, row) for row in rows)


def _tuples(values: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """All choices of at most so many values."""
    return [chosen for size in range(most + 1) for chosen in combinations(values, size)]
