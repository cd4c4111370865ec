"""What a driver does to publish, request by request (section 8)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from model import decisions
from model.objects import File, Group, Made, Manifest
from model.rules import ALL, Rule, Rules
from model.search import Move
from model.world import Ending, Name, Put, World, carry_on, text
from rephrase_runner.account import group_digest, group_end
from rephrase_runner.records import Commit

KINDS = ("data", "dead")
"""Published files lie in no run's folder: the rewrites, and what was skipped."""
MANIFEST: Name = ("manifest",)
"""Nor does the manifest."""


class At(StrEnum):
    """Where a driver stands: what its next request is."""

    WAITING = "waits for its run"
    START = "looks for a manifest"
    LOOK = "reads commits"
    GROUP = "reads the group record"
    DONE = "looks for the done record"
    READ = "reads the parts"
    RECHECK = "looks for the done record since a part is gone"
    FILE = "puts a file"
    COMPARE = "reads the file that was there"
    FINISH = "puts the done record"
    STRAYS = "lists the published files"
    MANIFEST = "puts the manifest"
    CHECK = "reads the manifest that was there"
    OUT = "has ended"
    STUCK = "needs a person"


GONE = frozenset({At.OUT, At.STUCK})


class Publisher(NamedTuple):
    """A driver process.

    Attributes:
        process: tells its files from those of all others.
        target: size of a group at which it closes.
        seen: units whose commits it has read.
        number, first: the group it is at, and its first unit.
        group: bounds that hold.
        files: those of the group as it would write them; the first is the next to be put.
        sums: files of this group that are in the store, as its done record will name them.
        published: files of the groups before.
    """

    process: int
    run: int
    target: int
    at: At = At.START
    seen: tuple[int, ...] = ()
    number: int = 0
    first: int = 0
    group: Group | None = None
    files: tuple[File, ...] = ()
    sums: tuple[File, ...] = ()
    published: tuple[File, ...] = ()
    put: Put | None = None

    @property
    def bounds(self) -> Group:
        """Of the group it is at."""
        if self.group is None:
            raise AssertionError(f"a driver has no group while it {self.at}")
        return self.group


@dataclass(frozen=True)
class Publishing:
    """What is published, and what may happen meanwhile.

    Attributes:
        units: of the first run; a second one has one less.
        targets: one driver for each, in units per group; a successor has the other target.
        committed: units that are committed from the start.
        faults: puts that may go wrong.
        crashes: drivers that may die and be started again.
        sweeper: a gc runs.
        recreation: the user may delete the output and use it again; the last driver is of that run.
        rules: those that hold.
    """

    units: int = 3
    targets: tuple[int, ...] = (1, 2)
    committed: int = 0
    faults: int = 0
    crashes: int = 0
    sweeper: bool = False
    recreation: bool = False
    rules: Rules = ALL

    def units_of(self, run: int) -> int:
        """How many units a run has."""
        return self.units - run


Moves = Iterator[Move[World, Publisher]]


class Publishers:
    """The steps of every driver.

    Args:
        plan: what is published.
    """

    def __init__(self, plan: Publishing) -> None:
        self._plan = plan
        self._rules = plan.rules
        self._steps = {
            At.START: self._start,
            At.LOOK: self._look,
            At.GROUP: self._group,
            At.DONE: self._done,
            At.READ: self._read,
            At.RECHECK: self._recheck,
            At.FILE: self._file,
            At.COMPARE: self._compare,
            At.FINISH: self._finish,
            At.STRAYS: self._strays,
            At.MANIFEST: self._manifest,
            At.CHECK: self._check,
        }

    def moves(self, world: World, me: Publisher) -> Moves:
        """Everything that a driver can do next."""
        if me.at in GONE:
            return
        if me.at is At.WAITING:
            if world.deeds >= me.run:
                yield Move("starts", world, me._replace(at=At.START))
            return
        if world.crashes:
            after = world._replace(crashes=world.crashes - 1)
            targets = self._plan.targets
            other = targets[(targets.index(me.target) + 1) % len(targets)]
            successor = Publisher(me.process + 10, me.run, other)
            yield Move("dies, another starts", after, successor, fair=False)
        if world.deeds > me.run and Rule.DRIVERS_READ_THE_SPEC_AGAIN in self._rules:
            yield Move("sees that the output has another run", world, self._gone(me, At.STUCK))
        if me.put is not None:
            yield from self._putting(world, me, me.put)
        else:
            yield from self._steps[me.at](world, me)

    def _start(self, world: World, me: Publisher) -> Moves:
        manifest = world.store.get(MANIFEST)
        if manifest is None:
            yield Move("finds no manifest", world, me._replace(at=At.LOOK))
        else:
            yield self._finds(world, me, manifest)

    def _finds(self, world: World, me: Publisher, manifest: Manifest) -> Move[World, Publisher]:
        """A manifest is there: the run is complete, unless it is another's."""
        if manifest.run == me.run:
            return Move("finds the manifest, ends", world, self._gone(me, At.OUT))
        if Rule.MANIFEST_OF_THIS_RUN in self._rules:
            return self._fails(world, me, "foreign manifest")
        claim = ("succeeded", manifest.run) if me.run == world.deeds else None
        return Move("finds a manifest, ends", world, self._gone(me, At.OUT), claim=claim)

    def _look(self, world: World, me: Publisher) -> Moves:
        units = range(self._plan.units_of(me.run))
        found = {unit for unit in units if world.store.has(("commit", me.run, unit))}
        seen = tuple(sorted(found | set(me.seen)))
        yield Move(f"reads commits {seen}", world, me._replace(at=At.GROUP, seen=seen))

    def _group(self, world: World, me: Publisher) -> Moves:
        name = "group", me.run, me.number
        found = world.store.get(name) if Rule.GROUP_RECORDS in self._rules else None
        if found is not None:
            adopting = me._replace(at=At.DONE, group=found)
            yield Move(f"adopts group {me.number}", world, adopting)
            return
        commits = self._commits(me.run, me.seen)
        units = self._plan.units_of(me.run)
        end = group_end(commits, first=me.first, units=units, target_bytes=me.target)
        if end is None:
            yield Move("cannot close a group", world, me._replace(at=At.LOOK))
            return
        digest = group_digest([commits[unit] for unit in range(me.first, end)])
        group = Group(me.first, end, digest)
        if Rule.GROUP_RECORDS in self._rules:
            yield from self._putting(world, me._replace(group=group), Put(name, group))
        else:
            alone = me._replace(at=At.DONE, group=group)
            yield Move(f"makes group {group[:2]}", world, alone)

    def _done(self, world: World, me: Publisher) -> Moves:
        found = world.store.get(("done", me.run, me.number))
        if found is not None:
            yield Move(f"finds done({me.number})", world, self._next(me, found))
        else:
            yield Move(f"finds no done({me.number})", world, me._replace(at=At.READ))

    def _read(self, world: World, me: Publisher) -> Moves:
        group = me.bounds
        units = range(group.first, group.end)
        if not all(world.store.has(("commit", me.run, unit)) for unit in units):
            yield self._fails(world, me, "a commit is gone")
        elif all(world.store.has(("part", me.run, unit)) for unit in units):
            files = []
            for kind in KINDS:
                keys = tuple(unit for unit in units if unit % 2 == (kind == "dead"))
                if keys:
                    files.append(File(me.run, group.digest, kind, keys, me.process))
            reading = me._replace(at=At.FILE, files=tuple(files), sums=())
            yield Move("reads parts", world, reading)
        elif Rule.GONE_MEANS_LOOK_AT_THE_DONE_RECORD in self._rules:
            yield Move("misses a part", world, me._replace(at=At.RECHECK))
        else:
            yield self._fails(world, me, "a part is gone")

    def _recheck(self, world: World, me: Publisher) -> Moves:
        found = world.store.get(("done", me.run, me.number))
        if found is not None:
            yield Move(f"finds done({me.number})", world, self._next(me, found))
        else:
            yield self._fails(world, me, "a part is gone")

    def _file(self, world: World, me: Publisher) -> Moves:
        file = me.files[0]
        name = file.kind, me.number
        if Rule.DATA_PUT_IF_ABSENT in self._rules:
            yield from self._putting(world, me, Put(name, file))
        else:
            after = world.put(name, file, own=True)
            yield Move(f"overwrites {text(name)}", after, self._has(me, file))

    def _compare(self, world: World, me: Publisher) -> Moves:
        file = me.files[0]
        name = file.kind, me.number
        found: File | None = world.store.get(name)
        anything = Rule.GROUP_RECORDS not in self._rules
        if found is not None and (anything or found.footer == file.footer):
            yield Move(f"accepts {text(name)}", world, self._has(me, found))
        else:
            yield self._fails(world, me, f"foreign file {text(name)}")

    def _has(self, me: Publisher, file: File) -> Publisher:
        """The store has the next file of the group."""
        files = me.files[1:]
        at = At.FILE if files else At.FINISH
        return me._replace(at=at, files=files, sums=(*me.sums, file))

    def _finish(self, world: World, me: Publisher) -> Moves:
        name = "done", me.run, me.number
        yield from self._putting(world, me, Put(name, me.sums))

    def _next(self, me: Publisher, files: tuple[File, ...]) -> Publisher:
        """The group is done: on to the next, or to the end."""
        group = me.bounds
        finished = group.end >= self._plan.units_of(me.run)
        at = At.STRAYS if finished else At.GROUP
        if finished and Rule.NO_STRAY_FILES not in self._rules:
            at = At.MANIFEST
        return me._replace(
            at=at,
            number=me.number + 1,
            first=group.end,
            group=None,
            files=(),
            sums=(),
            published=(*me.published, *files),
        )

    def _strays(self, world: World, me: Publisher) -> Moves:
        if self._stray_files(world, me):
            yield self._fails(world, me, "a file that no record names")
        else:
            yield Move("lists files", world, me._replace(at=At.MANIFEST))

    def _stray_files(self, world: World, me: Publisher) -> bool:
        found = [world.store.get(name) for kind in KINDS for name in world.store.list(kind)]
        return any(file not in me.published for file in found)

    def _manifest(self, world: World, me: Publisher) -> Moves:
        put = Put(MANIFEST, Manifest(me.run, me.published))
        stray = None
        if Rule.NO_STRAY_FILES not in self._rules and me.run == world.deeds:
            stray = ("stray", me.run) if self._stray_files(world, me) else None
        for move in self._putting(world, me, put):
            yield move._replace(claim=stray)

    def _check(self, world: World, me: Publisher) -> Moves:
        yield self._finds(world, me, world.store.get(MANIFEST))

    def _putting(self, world: World, me: Publisher, put: Put) -> Moves:
        for step in carry_on(world, put, self._rules):
            if isinstance(step.then, Put):
                after = me._replace(put=step.then)
            else:
                after = self._put(me._replace(put=None), step.then)
            yield Move(step.label, step.world, after, fair=step.fair)

    def _put(self, me: Publisher, ending: Ending) -> Publisher:
        mine = ending is Ending.MINE
        match me.at:
            case At.GROUP:
                # theirs: the next request reads it
                return me._replace(at=At.DONE) if mine else me._replace(group=None)
            case At.FILE:
                return self._has(me, me.files[0]) if mine else me._replace(at=At.COMPARE)
            case At.FINISH:
                return self._next(me, me.sums)
            case At.MANIFEST:
                return self._gone(me, At.OUT) if mine else me._replace(at=At.CHECK)
            case _:
                raise AssertionError(me.at)

    def _fails(self, world: World, me: Publisher, why: str) -> Move[World, Publisher]:
        """An error that a person must act on; fine only once the user has deleted something."""
        claim = None if world.deeds else ("failed", why)
        return Move(f"fails: {why}", world, self._gone(me, At.STUCK), claim=claim)

    def _gone(self, me: Publisher, at: At) -> Publisher:
        return Publisher(me.process, me.run, me.target, at)

    def _commits(self, run: int, units: Sequence[int]) -> dict[int, Commit]:
        found = {}
        for unit in units:
            found[unit] = decisions.commit_record(unit, (sample(run, unit),), 1)
        return found


def sample(run: int, unit: int) -> Made:
    """The only sample of a unit."""
    return Made(run, unit, 0, "skipped" if unit % 2 else "written")
