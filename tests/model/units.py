"""Workers, helpers, gc and a user on the units of a run (ledger protocol, sections 3 to 7 and 9)."""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from model import decisions
from model.objects import Claim, Commit
from model.processes import GONE, At, Work, Worker
from model.rules import Rule
from model.search import Move
from model.workers import Workers
from model.world import Name, Store, World, text


class Collector(NamedTuple):
    """A gc. `left`: how often it still runs; `named`: parts of commits; `found`: what it deletes next."""

    left: int = 1
    looked: bool = False
    named: tuple[Name, ...] = ()
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
        self._faults: dict[tuple[Store, int], str | None] = {}

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
                return self._workers.moves(world, local)
            case Collector():
                return self._collect(world, local)
            case Driver():
                return self._watch(world, local)
            case Outside():
                return self._befalls(world, local)

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
            found = tuple(name for name in self._listed(world, me) if name not in me.named)
            yield Move("lists objects", world, Collector(me.left - 1, found=found))
        elif me.left:
            yield from self._look_at_commits(world, me)

    def _look_at_commits(self, world: World, me: Collector) -> Moves:
        commits = {name[-1]: world.store.get(name) for name in world.store.list("commit", 0)}
        if Rule.GC_READS_THE_COMMIT in self._rules:
            for unit, commit in commits.items():
                after = me._replace(looked=True, named=(commit.part,), unit=unit)
                yield Move(f"reads commit({unit})", world, after)
        else:
            named = tuple(commit.part for commit in commits.values())
            yield Move("lists commits", world, me._replace(looked=True, named=named))

    def _listed(self, world: World, me: Collector) -> list[Name]:
        """What may go if no commit names it: of one unit, or of all."""
        if Rule.GC_READS_THE_COMMIT not in self._rules:
            return list(world.store.list("part", 0))
        kinds = ("checkpoint", "share", "part")
        return [name for kind in kinds for name in world.store.list(kind, 0, me.unit)]

    # -- a driver that reads heartbeats --

    def _watch(self, world: World, me: Driver) -> Moves:
        beats = {name[-1]: world.store.get(name) for name in world.store.list("beat", 0)}
        known = {*me.known, *(unit for beat in beats.values() for unit in beat.committed)}
        alive = [who for who, beat in beats.items() if beat.state != "gone"]
        if world.dead.issuperset(alive) and Rule.DRIVERS_LIST_WHEN_NOBODY_IS_LEFT in self._rules:
            known.update(name[-1] for name in world.store.list("commit", 0))
        yield Move("reads heartbeats", world, Driver(tuple(sorted(known))))

    # -- what must hold --

    def fault(self, world: World) -> str | None:
        """Invariants 1 to 3 of section 10, for every commit there is."""
        key = world.store, self._run(world)
        if key not in self._faults:
            self._faults[key] = self._fault(*key)
        return self._faults[key]

    def _run(self, world: World) -> int:
        """The run that lives in the output."""
        return world.deeds if self._work.recreation else 0

    def _fault(self, store: Store, run: int) -> str | None:
        for unit in range(self._work.units):
            keys: list[int] = []
            for name in store.list("commit", self._workers.folder(run), unit):
                commit: Commit = store.get(name)
                what = self._fault_of(store, run, unit, commit)
                if what is not None:
                    return f"unit {unit}: {what}"
                keys += [one.key for one in commit.samples]
            if len(keys) != len(set(keys)):
                return f"unit {unit}: a key is committed twice"
        return None

    def _fault_of(self, store: Store, run: int, unit: int, commit: Commit) -> str | None:
        found = store.get(commit.part)
        if found is None:
            return "the commit names a part that is not there"
        if found != commit.samples:
            return "the part is not the one that was committed"
        if any(one.run != run for one in commit.samples):
            return "a sample of another run is committed"
        keys = [one.key for one in commit.samples]
        if len(keys) != len(set(keys)):
            return "a key is twice in the part"
        if Rule.HELPERS_DO_NOT_COMMIT not in self._rules:
            return None  # a unit has two commits then: together they must have its keys
        unbalanced = decisions.imbalances(unit, commit.samples, commit.rows, self._work.keys)
        if unbalanced:
            return unbalanced
        if keys != list(range(self._work.keys)):
            return "the part has not exactly the planned keys"
        return None

    def wrong(self, claim: Hashable, locals_: Sequence[Local]) -> str | None:
        """Steps that must not be made: see `Workers`."""
        match claim:
            case ("orphan", int(unit), int(epoch), Claim() as made):
                workers = (local for local in locals_ if isinstance(local, Worker))
                if any(self._workers.works_on(one, unit, epoch, made) for one in workers):
                    return f"a claim is called orphaned while {made.worker} works on it"
                return None
            case ("open", unit):
                return f"a worker ends although unit {unit} is not committed"
            case ("failed", unit):
                return f"a worker fails at unit {unit}, which is committed"
            case _:
                raise AssertionError(claim)

    # -- the end --

    def ended(self, world: World) -> bool:
        """Whether every unit of the present run is committed, with all its keys."""
        folder = self._workers.folder(self._run(world))
        commits = [world.store.get(name) for name in world.store.list("commit", folder)]
        return sum(len(one.samples) for one in commits) == self._work.units * self._work.keys

    def at_rest(self, local: Local) -> bool:
        """Whether a process may be like this at the end."""
        match local:
            case Worker():
                return local.at in GONE or local.at is At.WAITING
            case Driver():
                return len(local.known) == self._work.units
            case _:
                return True
