"""Every order of steps: a breadth-first search over the states of a model. No I/O, no randomness.

A state is one *world* (store, network, budgets of faults) and one *local* state per process. Processes
meet in the world alone, so what a process can do next depends on (world, its local state): that is
computed once and remembered as a difference of packed integers, and the search itself only adds numbers.

Found are, with a shortest trace: worlds that must not be (`Model.fault`), steps that must not be made
(`Model.wrong`), and states from which the end cannot be reached any more by fair steps alone (no further
fault, crash or false suspicion), found by walking backwards from the end states.
"""

import gc
import time
from array import array
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

W = TypeVar("W", bound=Hashable)
L = TypeVar("L", bound=Hashable)
W_co = TypeVar("W_co", bound=Hashable, covariant=True)
L_co = TypeVar("L_co", bound=Hashable, covariant=True)
_BITS = 21
_MASK = (1 << _BITS) - 1
"""Each local state is a number of so many bits; the world's number stands above them."""


class Move(NamedTuple, Generic[W_co, L_co]):
    """One atomic step of one process.

    Attributes:
        label: what it does, for traces.
        world: the world afterwards.
        local: the process afterwards.
        fair: False for what must not be needed to reach the end: faults, crashes, false suspicion.
        claim: a statement about other processes that must hold before the step (see `Model.wrong`).
    """

    label: str
    world: W_co
    local: L_co
    fair: bool = True
    claim: Hashable = None


class Model(Protocol[W, L]):
    """What is searched."""

    def start(self) -> tuple[W, Sequence[L]]:
        """The first world, and a local state per process."""
        ...

    def moves(self, process: int, world: W, local: L) -> Iterable[Move[W, L]]:
        """Everything that a process can do next."""
        ...

    def who(self, process: int, local: L) -> str:
        """The name of a process in traces."""
        ...

    def fault(self, world: W) -> str | None:
        """What is wrong with this world, or None."""
        ...

    def wrong(self, claim: Hashable, locals_: Sequence[L]) -> str | None:
        """What is wrong with a step that states `claim`, given all processes before it."""
        ...

    def ended(self, world: W) -> bool:
        """Whether the work is done in this world."""
        ...

    def at_rest(self, local: L) -> bool:
        """Whether a process may be like this at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Violation:
    """What was found, and the shortest way there."""

    what: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        steps = (f"{number:3}. {step}" for number, step in enumerate(self.trace, 1))
        return "\n".join([f"{self.what}, after {len(self.trace)} steps:", *steps])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a search went. `seconds` of processor; `exhausted`: there is no state that was not seen."""

    states: int
    transitions: int
    seconds: float
    exhausted: bool
    violation: Violation | None


class _Steps(NamedTuple):
    """What a process can do next, as differences between packed states."""

    fair: tuple[int, ...]
    unfair: tuple[int, ...]
    claims: tuple[tuple[int, Hashable], ...]


class _Numbers(Generic[W]):
    """Values as numbers, in order of first sight."""

    def __init__(self) -> None:
        self._numbers: dict[W, int] = {}
        self.values: list[W] = []

    def __call__(self, value: W) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Search(Generic[W, L]):
    """One search.

    Args:
        model: what is searched.
        max_states: stop, not exhausted, at so many states.
    """

    def __init__(self, model: Model[W, L], *, max_states: int = 20_000_000) -> None:
        self._model = model
        self._max_states = max_states
        self._worlds: _Numbers[W] = _Numbers()
        world, locals_ = model.start()
        self._locals: list[_Numbers[L]] = [_Numbers() for _ in locals_]
        self._shifts = [_BITS * slot for slot in range(len(locals_))]
        self._top = _BITS * len(locals_)
        self._steps: list[dict[int, _Steps]] = [{} for _ in locals_]
        self._checked = 0
        self._faults: dict[int, str] = {}
        self._first = self._pack(world, locals_)
        self._index: dict[int, int] = {self._first: 0}
        self._keys = [self._first]
        self._parents = array("I", [0])
        self._transitions = 0

    def run(self) -> Outcome:
        """Search until something is found or everything was seen."""
        began = time.process_time()
        collecting = gc.isenabled()
        gc.disable()  # millions of tuples without a cycle among them
        try:
            violation = self._forwards()
            exhausted = violation is None and len(self._keys) < self._max_states
            if exhausted:
                violation = self._backwards()
        finally:
            if collecting:
                gc.enable()
        seconds = time.process_time() - began
        return Outcome(len(self._keys), self._transitions, seconds, exhausted, violation)

    # -- states as numbers --

    def _pack(self, world: W, locals_: Sequence[L]) -> int:
        key = self._worlds(world) << self._top
        for number, shift, local in zip(self._locals, self._shifts, locals_, strict=True):
            key |= number(local) << shift
        return key

    def _locals_of(self, key: int) -> list[L]:
        return [
            numbers.values[(key >> shift) & _MASK]
            for numbers, shift in zip(self._locals, self._shifts, strict=True)
        ]

    def _moves(self, slot: int, key: int) -> list[tuple[int, Move[W, L]]]:
        """The moves of a process, each with the difference it makes to the packed state."""
        world, local = key >> self._top, (key >> self._shifts[slot]) & _MASK
        numbers = self._locals[slot]
        found = []
        for move in self._model.moves(slot, self._worlds.values[world], numbers.values[local]):
            delta = (self._worlds(move.world) - world) << self._top
            delta += (numbers(move.local) - local) << self._shifts[slot]
            found.append((delta, move))
        if len(numbers.values) > _MASK:
            raise OverflowError(f"process {slot} has too many local states")
        return found

    def _expand(self, slot: int, key: int) -> _Steps:
        found = self._moves(slot, key)
        for number in range(self._checked, len(self._worlds.values)):
            what = self._model.fault(self._worlds.values[number])
            if what is not None:
                self._faults[number] = what
        self._checked = len(self._worlds.values)
        fair: dict[int, None] = {}
        unfair: dict[int, None] = {}
        claims = []
        for delta, move in found:
            if delta:  # a step that changes nothing leads nowhere
                (fair if move.fair else unfair)[delta] = None
            if move.claim is not None:
                claims.append((delta, move.claim))
        return _Steps(tuple(fair), tuple(unfair), tuple(claims))

    # -- forwards: what can happen --

    def _forwards(self) -> Violation | None:
        keys, index, parents, faults = self._keys, self._index, self._parents, self._faults
        slots = list(zip(range(len(self._steps)), self._steps, self._shifts, strict=True))
        top, transitions, at = self._top, 0, 0
        while at < len(keys) < self._max_states:
            key = keys[at]
            world = key >> top
            if world in faults:
                return Violation(faults[world], self._trace(at))
            for slot, known, shift in slots:
                pair = world << _BITS | (key >> shift) & _MASK
                steps = known.get(pair)
                if steps is None:
                    steps = known[pair] = self._expand(slot, key)
                for deltas in (steps.fair, steps.unfair):
                    transitions += len(deltas)
                    for delta in deltas:
                        after = key + delta
                        if after not in index:
                            index[after] = len(keys)
                            keys.append(after)
                            parents.append(at)
                for delta, claim in steps.claims:
                    what = self._model.wrong(claim, self._locals_of(key))
                    if what is not None:
                        trace = (*self._trace(at), self._label(key, key + delta))
                        return Violation(what, trace)
            at += 1
        self._transitions = transitions
        return None

    # -- backwards: from where the end can be reached --

    def _backwards(self) -> Violation | None:
        good = self._end_states()
        keys, index, top = self._keys, self._index, self._top
        slots = list(zip(self._steps, self._shifts, strict=True))
        changed = True
        while changed:  # almost every step leads to a later state, so a few passes do
            changed = False
            for at in range(len(keys) - 1, -1, -1):
                if good[at]:
                    continue
                key = keys[at]
                pair = (key >> top) << _BITS
                for known, shift in slots:
                    for delta in known[pair | (key >> shift) & _MASK].fair:
                        if good[index[key + delta]]:
                            good[at] = 1
                            changed = True
                            break
                    if good[at]:
                        break
        doomed = good.find(0)
        if doomed < 0:
            return None
        return Violation("the end cannot be reached any more", self._trace(doomed))

    def _end_states(self) -> bytearray:
        ended = [self._model.ended(world) for world in self._worlds.values]
        resting = [
            ([self._model.at_rest(local) for local in numbers.values], shift)
            for numbers, shift in zip(self._locals, self._shifts, strict=True)
        ]
        return bytearray(
            ended[key >> self._top]
            and all(rests[(key >> shift) & _MASK] for rests, shift in resting)
            for key in self._keys
        )

    # -- traces --

    def _trace(self, at: int) -> tuple[str, ...]:
        steps = []
        while at:
            before = self._parents[at]
            steps.append(self._label(self._keys[before], self._keys[at]))
            at = before
        return tuple(reversed(steps))

    def _label(self, before: int, after: int) -> str:
        for slot in range(len(self._shifts)):
            for delta, move in self._moves(slot, before):
                if before + delta == after:
                    local = self._locals_of(before)[slot]
                    return f"{self._model.who(slot, local)} {move.label}"
        raise AssertionError("no move leads from a state to its successor")


def explore(model: Model[Any, Any], *, max_states: int = 20_000_000) -> Outcome:
    """Search a model until something is found or everything was seen."""
    return Search(model, max_states=max_states).run()
