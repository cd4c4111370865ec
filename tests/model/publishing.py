"""Drivers that publish, while workers commit late, gc sweeps and a user starts anew (sections 8 and 9).

A unit has one sample; that of every second unit was skipped, so that it goes into the dead letters, and
a group may have one file or two. Files of two drivers hold the same rows in other bytes.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from model.objects import File, Manifest
from model.publisher import GONE, KINDS, MANIFEST, At, Publisher, Publishers, Publishing, sample
from model.search import Move
from model.world import Name, Store, World, text


class Sweeper(NamedTuple):
    """A gc that deletes the parts of a finished run."""

    found: tuple[Name, ...] | None = None


class Outside(NamedTuple):
    """The network, the workers and the user."""


Local = Publisher | Sweeper | Outside
Moves = Iterator[Move[World, Local]]


class Drivers:
    """The model. Processes: the outside, the drivers, then gc where there is one.

    Args:
        plan: what is published, and what may happen.
    """

    def __init__(self, plan: Publishing) -> None:
        self._plan = plan
        self._publishers = Publishers(plan)
        self._faults: dict[tuple[Store, int], str | None] = {}

    def start(self) -> tuple[World, Sequence[Local]]:
        """Some units are committed; every driver is about to start."""
        plan = self._plan
        world = World(faults=plan.faults, crashes=plan.crashes)
        for unit in range(plan.committed):
            world = self._committed(world, 0, unit)
        locals_: list[Local] = [Outside()]
        for number, target in enumerate(plan.targets):
            later = plan.recreation and number == len(plan.targets) - 1
            at = At.WAITING if later else At.START
            locals_.append(Publisher(number, int(later), target, at))
        if plan.sweeper:
            locals_.append(Sweeper())
        return world, locals_

    def moves(self, process: int, world: World, local: Local) -> Moves:
        """Everything that a process can do next."""
        match local:
            case Publisher():
                return self._publishers.moves(world, local)
            case Sweeper():
                return self._sweep(world, local)
            case Outside():
                return self._befalls(world, local)

    def who(self, process: int, local: Local) -> str:
        """The name of a process in traces."""
        match local:
            case Publisher():
                return f"driver {local.process}"
            case Sweeper():
                return "gc"
            case Outside():
                return "outside:"

    # -- the outside --

    def _befalls(self, world: World, local: Outside) -> Moves:
        for label, after in world.landings():
            yield Move(label, after, local, fair=False)
        for unit in range(self._plan.units_of(world.deeds)):
            if not world.store.has(("commit", world.deeds, unit)):
                after = self._committed(world, world.deeds, unit)
                yield Move(f"a worker commits unit {unit}", after, local)
        if self._plan.recreation and not world.deeds:
            after = world._replace(store=Store(), deeds=1)
            yield Move("the user deletes the output and uses it again", after, local, fair=False)

    def _committed(self, world: World, run: int, unit: int) -> World:
        made = (sample(run, unit),)
        return world.put(("part", run, unit), made).put(("commit", run, unit), made)

    # -- gc --

    def _sweep(self, world: World, me: Sweeper) -> Moves:
        manifest = world.store.get(MANIFEST)
        if me.found:
            after = world.delete(me.found[0])
            yield Move(f"deletes {text(me.found[0])}", after, Sweeper(me.found[1:]))
        elif me.found is None and manifest is not None and manifest.run == world.deeds:
            found = world.store.list("part", world.deeds)
            yield Move("reads the manifest and lists parts", world, Sweeper(found))

    # -- what must hold --

    def fault(self, world: World) -> str | None:
        """Invariants 4 to 6 of section 10."""
        key = world.store, world.deeds
        if key not in self._faults:
            self._faults[key] = self._fault(*key)
        return self._faults[key]

    def _fault(self, store: Store, run: int) -> str | None:
        for name in store.list("done", run):
            for file in store.get(name):
                path = file.kind, name[-1]
                if store.get(path) != file:
                    return f"{text(path)} has not the bytes that its done record says"
        files: list[File] = [store.get(path) for kind in KINDS for path in store.list(kind)]
        keys = sorted(key for file in files if file.run == run for key in file.keys)
        if len(keys) != len(set(keys)):
            return "a key is published twice"
        manifest: Manifest | None = store.get(MANIFEST)
        complete = manifest is not None and manifest.run == run
        if complete and keys != list(range(self._plan.units_of(run))):
            return "the run is complete, but not every key is published"
        return None

    def wrong(self, claim: Hashable, locals_: Sequence[Local]) -> str | None:
        """Failures without a cause, and success in another run's name."""
        match claim:
            case ("failed", why):
                return f"a driver fails a healthy run: {why}"
            case ("stray", _):
                return "the run is declared complete beside a file of another run"
            case ("succeeded", run):
                return f"a driver reports success with the manifest of run {run}"
            case _:
                raise AssertionError(claim)

    # -- the end --

    def ended(self, world: World) -> bool:
        """Whether the manifest is there; an output that was deleted may end with an error."""
        return bool(world.deeds) or world.store.has(MANIFEST)

    def at_rest(self, local: Local) -> bool:
        """Whether a process may be like this at the end."""
        return not isinstance(local, Publisher) or local.at in {*GONE, At.WAITING}
