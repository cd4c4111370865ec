"""Workers, helpers, gc and a user on the units of a run (ledger protocol, sections 3 to 7 and 9)."""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from model import decisions
from model.decisions import Beat, Made
from model.rules import Rule
from model.search import Move
from model.workers import GONE, At, Work, Worker, Workers
from model.world import Name, Store, World, text


class Collector(NamedTuple):
    """A gc. `left`: how often it still runs; `named`: parts of commits; `found`: what it deletes next."""

    left: int = 1
    looked: bool = False
    named: tuple[Hashable, ...] = ()
    unit: int = 0
    found: tuple[Name, ...] = ()


class Driver(NamedTuple):
    """A driver that learns of commits from heartbeats. `known`: units."""

    known: tuple[int, ...] = ()


class Outside(NamedTuple):
    """The network and the user."""


Local = Worker | Collector | Driver | Outside
Moves = Iterator[Move[World, Local]]


class Units:
    """The model. Processes: the outside, then workers, then gc and driver where there are any.

    Args:
        work: what is to be done, and what may happen.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._rules = work.rules
        self._workers = Workers(work)
        self._sound: dict[tuple[Store, int], str | None] = {}

    def start(self) -> tuple[World, Sequence[Local]]:
        """Nothing is claimed; every worker is about to start."""
        work = self._work
        locals_: list[Local] = [Outside()]
        for number in range(work.workers):
            name = f"w{number}" if Rule.NEW_ID_PER_PROCESS in self._rules else "w"
            later = work.recreation and number == work.workers - 1
            at = At.WAITING if later else At.START
            locals_.append(Worker(number, name, int(later), at, rows=work.keys))
        if work.collectors:
            locals_.append(Collector(work.collectors))
        if work.driver:
            locals_.append(Driver())
        world = World(faults=work.faults, crashes=work.crashes, suspicions=work.suspicions)
        return world, locals_

    def moves(self, process: int, world: World, local: Local) -> Moves:
        """Everything that a process can do next."""
        match local:
            case Worker():
                yield from self._workers.moves(world, local)
            case Collector():
                yield from self._collect(world, local)
            case Driver():
                yield from self._watch(world, local)
            case Outside():
                yield from self._befalls(world, local)

    def who(self, process: int, local: Local) -> str:
        """The name of a process in traces."""
        match local:
            case Worker():
                same = Rule.NEW_ID_PER_PROCESS not in self._rules
                return f"{local.name}/{process}" if same else local.name
            case Collector():
                return "gc"
            case Driver():
                return "driver"
            case Outside():
                return "outside:"

    # -- the outside --

    def _befalls(self, world: World, local: Outside) -> Moves:
        for label, after in world.landings():
            yield Move(label, after, local, fair=False)
        if world.deeds:
            return
        if self._work.recreation:
            after = world._replace(store=Store(), deeds=1)
            yield Move("the user deletes the output and uses it again", after, local, fair=False)
        if self._work.replacement:
            after = world._replace(deeds=1)
            yield Move("the user replaces the source by a shorter one", after, local, fair=False)

    # -- gc (section 9) --

    def _collect(self, world: World, me: Collector) -> Moves:
        if me.found:
            first, *rest = me.found
            after = me._replace(found=tuple(rest))
            yield Move(f"deletes {text(first)}", world.delete(first), after)
        elif me.looked:
            kinds = ("checkpoint", "share", "part")
            if Rule.GC_READS_THE_COMMIT not in self._rules:
                kinds = ("part",)
            listed = [name for kind in kinds for name in self._listed(world, kind, me)]
            found = tuple(name for name in listed if name not in me.named)
            after = me._replace(left=me.left - 1, looked=False, named=(), unit=0, found=found)
            yield Move("lists objects", world, after)
        elif me.left:
            yield from self._look_at_commits(world, me)

    def _look_at_commits(self, world: World, me: Collector) -> Moves:
        bodies = {unit: world.store.get(("commit", 0, unit)) for unit in range(self._work.units)}
        named = {unit: body[2] for unit, body in bodies.items() if isinstance(body, tuple)}
        if Rule.GC_READS_THE_COMMIT not in self._rules:
            after = me._replace(looked=True, named=tuple(named.values()))
            yield Move("lists commits", world, after)
            return
        for unit, part in named.items():
            after = me._replace(looked=True, named=(part,), unit=unit)
            yield Move(f"reads commit({unit})", world, after)

    def _listed(self, world: World, kind: str, me: Collector) -> tuple[Name, ...]:
        if Rule.GC_READS_THE_COMMIT in self._rules:
            return world.store.list(kind, 0, me.unit)
        return world.store.list(kind, 0)

    # -- a driver that reads heartbeats --

    def _watch(self, world: World, me: Driver) -> Moves:
        known = set(me.known)
        for name in world.store.list("beat", 0):
            beat = world.store.get(name)
            assert isinstance(beat, Beat)
            known.update(beat.committed)
        yield Move("reads heartbeats", world, Driver(tuple(sorted(known))))

    # -- what must hold --

    def fault(self, world: World) -> str | None:
        """Invariants 1 to 3 of section 10, for every commit there is."""
        key = world.store, world.deeds if self._work.recreation else 0
        if key not in self._sound:
            self._sound[key] = self._unsound(*key)
        return self._sound[key]

    def _unsound(self, store: Store, run: int) -> str | None:
        for unit in range(self._work.units):
            keys: list[int] = []
            for name in store.list("commit", self._workers.folder(run), unit):
                body = store.get(name)
                assert isinstance(body, tuple)
                what = self._unsound_commit(store, run, unit, body)
                if what is not None:
                    return f"unit {unit}: {what}"
                keys += [made.key for made in body[3]]
            if len(keys) != len(set(keys)):
                return f"unit {unit}: a key is committed twice"
        return None

    def _unsound_commit(
        self, store: Store, run: int, unit: int, commit: tuple[Hashable, ...]
    ) -> str | None:
        _, _, part, samples, rows = commit
        assert isinstance(part, tuple) and isinstance(samples, tuple) and isinstance(rows, int)
        found = store.get(part)
        if found is None:
            return "the commit names a part that is not there"
        if found != samples:
            return "the part is not the one that was committed"
        made = [one for one in samples if isinstance(one, Made)]
        if any(one.run != run for one in made):
            return "a sample of another run is committed"
        keys = [one.key for one in made]
        if len(keys) != len(set(keys)):
            return "a key is twice in the part"
        if Rule.HELPERS_DO_NOT_COMMIT not in self._rules:
            return None  # a unit has two commits then: its keys are checked together
        unbalanced = decisions.imbalances(unit, tuple(made), rows, self._work.keys)
        if unbalanced:
            return unbalanced
        if keys != list(range(self._work.keys)):
            return "the part has not exactly the planned keys"
        return None

    def wrong(self, claim: Hashable, locals_: Sequence[Local]) -> str | None:
        """Steps that must not be made: see `Workers`."""
        assert isinstance(claim, tuple)
        match claim:
            case ("orphan", unit, epoch, *made):
                workers = (local for local in locals_ if isinstance(local, Worker))
                if any(self._workers.works_on(one, unit, epoch, tuple(made)) for one in workers):
                    return f"a claim is called orphaned while {made[0]} works on it"
                return None
            case ("open", unit):
                return f"a worker ends although unit {unit} is not committed"
            case ("failed", unit):
                return f"a worker fails at unit {unit}, which is committed"
        raise AssertionError(claim)

    # -- the end --

    def ended(self, world: World) -> bool:
        """Whether every unit of the present run is committed."""
        run = world.deeds if self._work.recreation else 0
        folder = self._workers.folder(run)
        if Rule.HELPERS_DO_NOT_COMMIT in self._rules:
            return all(world.store.has(("commit", folder, u)) for u in range(self._work.units))
        keys = 0
        for name in world.store.list("commit", folder):
            body = world.store.get(name)
            assert isinstance(body, tuple)
            keys += len(body[3])
        return keys == self._work.units * self._work.keys

    def at_rest(self, local: Local) -> bool:
        """Whether a process may be like this at the end."""
        match local:
            case Worker():
                return local.at in GONE or local.at is At.WAITING
            case Driver():
                return len(local.known) == self._work.units
            case _:
                return True
