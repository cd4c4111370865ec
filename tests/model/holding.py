"""What a worker does with a unit in hand (sections 5 and 7): checkpoints, part, commit; and helping."""

from model.objects import Checkpoint, Commit
from model.processes import At, Moves, Worker
from model.rules import Rule
from model.search import Move
from model.steps import Steps
from model.world import Name, Put, World


class Holding(Steps):
    """The steps from a unit in hand to its commit, and those of a helper."""

    def read_source(self, world: World, me: Worker) -> Moves:
        """At SOURCE: reads are conditional on the planned version, counts are those of the plan."""
        if not world.deeds:
            yield Move("reads the source", world, me._replace(at=At.HELD))
        elif Rule.COUNTED_AGAINST_THE_PLAN in self.rules:
            failed = self.made(me, range(self.work.keys), "failed")
            given_up = me._replace(at=At.PART, samples=failed)
            yield Move("finds that the source is another", world, given_up)
        else:
            rows = self.work.keys - 1
            kept = tuple(one for one in me.samples if one.key < rows)
            fewer = me._replace(at=At.HELD, rows=rows, samples=kept)
            yield Move("reads the shorter source", world, fewer)

    def generate(self, world: World, me: Worker) -> Moves:
        """At HELD: drop the unit if it is superseded, checkpoint, or finish."""
        unit, epoch = me.held
        if world.store.has(("claim", self.folder(me.run), unit, epoch + 1)):
            yield Move("sees that it is superseded", world, self.idle(me))
        statuses = ("written", "failed") if self.work.failures else ("written",)
        if len(me.missing) > (0 if self.work.drains else 1):
            for status in statuses:
                yield from self._checkpoint(world, me, status)
        if self.work.helpers:
            yield from self._list_helped(world, me)
        else:
            for status in statuses:
                yield from self.put_part(world, self._completed(me, status))

    def _checkpoint(self, world: World, me: Worker, status: str) -> Moves:
        unit, epoch = me.held
        samples = tuple(sorted((*me.samples, *self.made(me, me.missing[:1], status))))
        unsaved = tuple(one for one in samples if one not in me.saved)
        put = Put(
            self.checkpoint_name(me, unit, "e", epoch),
            Checkpoint(me.run, unsaved),
            own_name=True,
            gives_up=True,
        )
        saving = me._replace(samples=samples, checkpoints=me.checkpoints + 1)
        yield from self.putting(world, saving, put)

    def _completed(self, me: Worker, status: str = "written") -> Worker:
        samples = tuple(sorted((*me.samples, *self.made(me, me.missing, status))))
        return me._replace(at=At.PART, samples=samples, found=())

    def _list_helped(self, world: World, me: Worker) -> Moves:
        """Its own rest is done: what did helpers do of the others?"""
        unit, _ = me.held
        if Rule.HELPERS_DO_NOT_COMMIT in self.rules:
            found = self.checkpoints_of(world, me, unit)
            reading = me._replace(at=At.READ_AGAIN, found=found)
            yield Move("lists checkpoints again", world, reading)
            return
        rows = self.work.keys - world.store.has(self.share_name(me, unit))
        mine = tuple(one for one in me.samples if one.key < rows)
        less = me._replace(rows=rows, samples=mine)
        yield Move("lists shares, to leave them out", world, self._completed(less))

    def read_helped(self, world: World, me: Worker) -> Moves:
        """At READ_AGAIN: take what helpers did, do whatever is still missing."""
        share = self.share_name(me, me.held[0])
        waiting = Rule.OWNERS_DO_WHAT_IS_MISSING not in self.rules and world.store.has(share)

        def merged(with_others: Worker) -> Worker:
            if waiting and share[-1] in with_others.missing:
                return with_others._replace(at=At.HELD)
            return self._completed(with_others)

        yield from self.reading(world, me, merged)

    def put_part(self, world: World, me: Worker) -> Moves:
        """At PART: it must certainly be there before the commit."""
        believed = Rule.PART_CONFIRMED_BEFORE_COMMIT not in self.rules
        put = Put(self.part_name(me), me.samples, own_name=True, believed=believed)
        yield from self.putting(world, me._replace(at=At.PART), put)

    def put_commit(self, world: World, me: Worker) -> Moves:
        """At COMMIT: the first one is what the unit is."""
        unit, epoch = me.held
        commit = Commit(epoch, me.name, self.part_name(me), me.samples, me.rows)
        yield from self.putting(world, me, Put(self.commit_name(me, unit), commit))

    def discard(self, world: World, me: Worker) -> Moves:
        """At DISCARD: another commit was first."""
        after = world.delete(self.part_name(me))
        yield Move("deletes its part", after, me._replace(at=At.LIST_SWEEP))

    def list_sweep(self, world: World, me: Worker) -> Moves:
        """At LIST_SWEEP: the commit was read or written."""
        found = self.checkpoints_of(world, me, me.held[0])
        yield Move("lists what to sweep", world, self._swept(me, found))

    def sweep(self, world: World, me: Worker) -> Moves:
        """At SWEEP: one object at a time."""
        first, *rest = me.found
        yield Move("sweeps a checkpoint", world.delete(first), self._swept(me, tuple(rest)))

    def _swept(self, me: Worker, left: tuple[Name, ...]) -> Worker:
        if left:
            return me._replace(at=At.SWEEP, found=left, samples=(), saved=())
        return self.knows(me, me.held[0])

    # -- helping --

    def list_before_helping(self, world: World, me: Worker) -> Moves:
        """At HELP_LIST: what has the unit already?"""
        unit, slice_ = me.seen
        if Rule.HELPERS_DO_NOT_COMMIT in self.rules:
            found = self.checkpoints_of(world, me, unit)
            reading = me._replace(at=At.HELP_READ, found=found)
            yield Move("lists checkpoints before helping", world, reading)
            return
        made = self.made(me, [slice_])
        part = "part", self.folder(me.run), unit, "s", me.name
        helping = me._replace(at=At.HELP_PART, samples=made)
        yield from self.putting(world, helping, Put(part, made, own_name=True))

    def do_slice(self, world: World, me: Worker) -> Moves:
        """At HELP_READ: do what is missing of the slice, and hand it over as a checkpoint."""
        unit, slice_ = me.seen
        found = [name for name in me.found if world.store.has(name)]
        if any(one.key == slice_ for one in self.merged(world, found)):
            yield Move("finds its slice done", world, self.idle(me))
            return
        name = self.checkpoint_name(me, unit, "s", slice_)
        body = Checkpoint(me.run, self.made(me, [slice_]))
        helping = me._replace(found=(), checkpoints=me.checkpoints + 1)
        yield from self.putting(world, helping, Put(name, body, own_name=True, gives_up=True))

    def helpers_commit(self, me: Worker) -> Put:
        """What a helper puts for its slice where helpers commit."""
        unit, _ = me.seen
        part = "part", self.folder(me.run), unit, "s", me.name
        commit = Commit("s", me.name, part, me.samples, self.work.keys)
        return Put((*self.commit_name(me, unit), "s"), commit)
