"""What all steps of a worker share: names, `put_new`, reading checkpoints, coming to rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from model import decisions
from model.objects import Made, Samples
from model.processes import At, Moves, Work, Worker
from model.rules import Rule
from model.search import Move
from model.world import Ending, Name, Put, World, carry_on


class Steps(ABC):
    """Base of the steps of a worker.

    Args:
        work: what is to be done.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.rules = work.rules

    # -- names --

    def folder(self, run: int) -> int:
        """The folder of a run: under its random id, or all in one."""
        return run if Rule.RANDOM_RUN_ID in self.rules else 0

    def commit_name(self, me: Worker, unit: int) -> Name:
        """The commit of a unit."""
        return "commit", self.folder(me.run), unit

    def part_name(self, me: Worker) -> Name:
        """The part of the unit in hand."""
        return "part", self.folder(me.run), *me.held, me.name

    def share_name(self, me: Worker, unit: int) -> Name:
        """The only share of a unit that helpers may take: its last row."""
        return "share", self.folder(me.run), unit, self.work.keys - 1

    def checkpoint_name(self, me: Worker, unit: int, origin: str, number: int) -> Name:
        """The next checkpoint: `origin` e and an epoch, or s and a slice."""
        folder = self.folder(me.run)
        return "checkpoint", folder, unit, origin, number, me.name, me.checkpoints + 1

    def checkpoints_of(self, world: World, me: Worker, unit: int) -> tuple[Name, ...]:
        """All checkpoints of a unit."""
        return world.store.list("checkpoint", self.folder(me.run), unit)

    def is_committed(self, world: World, me: Worker, unit: int) -> bool:
        """Whether the unit has a commit."""
        return world.store.has(self.commit_name(me, unit))

    def is_deleted(self, world: World, me: Worker) -> bool:
        """Whether the output was deleted and given to another run."""
        return self.work.recreation and world.deeds > me.run

    # -- put_new --

    def putting(self, world: World, me: Worker, put: Put) -> Moves:
        """The next request of a `put_new`, and where the worker stands after it."""
        for step in carry_on(world, put, self.rules):
            if isinstance(step.then, Put):
                after = me._replace(put=step.then)
            else:
                after = self.ended(me._replace(put=None), step.then)
            yield Move(step.label, step.world, after, fair=step.fair)

    @abstractmethod
    def ended(self, me: Worker, ending: Ending) -> Worker:
        """A `put_new` has ended: what comes next."""

    # -- samples --

    def made(self, me: Worker, keys: Iterable[int], status: str = "written") -> Samples:
        """New samples."""
        maker = me.process if self.work.makers else 0
        return tuple(Made(me.run, key, maker, status) for key in keys)

    def merged(self, world: World, names: Sequence[Name]) -> Samples:
        """What checkpoints say together."""
        bodies = []
        for name in names:
            _, _, unit, origin, number, worker, count = name
            real = decisions.checkpoint_name if origin == "e" else decisions.shared_name
            bodies.append((real(unit, number, worker, count), world.store.get(name).samples))
        if Rule.MERGE_BY_KEY not in self.rules:
            return tuple(sorted(one for _, samples in bodies for one in samples))
        return decisions.merged(tuple(bodies))

    def reading(self, world: World, me: Worker, then: Callable[[Worker], Worker]) -> Moves:
        """Read the checkpoints that were listed, and merge them with what is in hand."""
        unit, _ = me.held
        if not all(world.store.has(name) for name in me.found):
            look = Rule.GONE_MEANS_LOOK_AT_THE_COMMIT in self.rules
            after = me._replace(at=At.RECHECK, found=()) if look else self.out(me)
            claim = None if look else ("failed", unit)
            yield Move("misses a checkpoint that was listed", world, after, claim=claim)
            return
        mine = {one.key for one in me.samples}
        fresh = [one for one in self.merged(world, me.found) if one.key not in mine]
        samples = tuple(sorted((*me.samples, *fresh)))
        yield Move("reads checkpoints", world, then(me._replace(samples=samples, found=())))

    # -- coming to rest --

    def idle(self, me: Worker) -> Worker:
        """Nothing in hand any more."""
        return me._replace(
            at=At.IDLE,
            hold=None,
            looked=None,
            holder=None,
            put=None,
            samples=(),
            saved=(),
            rows=self.work.keys,
            found=(),
        )

    def knows(self, me: Worker, unit: int) -> Worker:
        """The unit is committed; once all are, the worker ends."""
        idle = self.idle(me)._replace(known=tuple(sorted({*me.known, unit})))
        if self.work.driver and Rule.FOUND_COMMITS_ARE_REPORTED in self.rules:
            idle = idle._replace(reports=tuple(sorted({*me.reports, unit})))
        if len(idle.known) < self.work.units:
            return idle
        return idle._replace(at=At.LEAVE) if self.work.driver else self.out(me, idle.known)

    def out(self, me: Worker, known: tuple[int, ...] = ()) -> Worker:
        """The process has ended. `known`: all units, if it ended since they are committed."""
        return Worker(me.process, me.name, me.run, At.OUT, known=known)
