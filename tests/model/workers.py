"""What a worker does, request by request (ledger protocol, sections 4, 5 and 7).

What needs no request (generating, deciding) happens in the step of the request that follows it. Between
two steps anything may happen: that is a pause, a zombie, a slow reader, a stale listing.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from model import decisions
from model.decisions import Beat, Made, Samples
from model.rules import ALL, Rule, Rules
from model.search import Move
from model.world import Ending, Name, Pending, Put, World, carry_on, text


class At(StrEnum):
    """Where a worker stands: what its next request is."""

    WAITING = "waits for its run"
    START = "first heartbeat"
    IDLE = "looks for a unit"
    JUDGE = "reads the holder's heartbeat"
    CLAIM = "claims"
    CHECK = "looks for a commit after its claim"
    LIST = "lists what earlier holders left"
    READ = "reads what earlier holders left"
    RECHECK = "looks for a commit since something listed is gone"
    SOURCE = "reads the source"
    HELD = "generates"
    LIST_AGAIN = "lists what helpers did"
    READ_AGAIN = "reads what helpers did"
    PART = "puts the part"
    COMMIT = "puts the commit"
    DISCARD = "deletes its part"
    LIST_SWEEP = "lists what is to be swept"
    SWEEP = "sweeps"
    SHARE = "puts a share"
    HELP_LIST = "lists before helping"
    HELP_READ = "reads before helping"
    HELP_PART = "puts a helper's part"
    HELP_COMMIT = "puts a helper's commit"
    LEAVE = "last heartbeat"
    OUT = "has ended"
    DEAD = "is gone for good"


GONE = frozenset({At.OUT, At.DEAD})


class Worker(NamedTuple):
    """A worker process.

    Attributes:
        process: tells its samples from those of all others.
        name: its id in the ledger.
        run: whose it is.
        at: what it does next.
        beat: number of the last heartbeat it composed.
        told: what that said.
        flight: a heartbeat composed and not yet in the store.
        promised: every heartbeat from this number on lists what is held: one must still be sent.
        hold: unit and epoch that its heartbeats list; `leaked`: what they list for ever, by mistake.
        looked: what it looks at without holding it: unit, epoch (or slice), holder, holder's beat.
        put: a `put_new` not yet ended.
        samples: of the unit held; `saved`: those in checkpoints.
        rows: how many the source seems to have.
        checkpoints: how many it wrote.
        found: what a listing gave.
        known: units it believes committed; `reports`: those its heartbeats tell of.
    """

    process: int
    name: str
    run: int = 0
    at: At = At.START
    beat: int = 0
    told: Hashable = None
    flight: Beat | None = None
    promised: int = 0
    hold: tuple[int, int] | None = None
    leaked: tuple[int, int] | None = None
    looked: tuple[Hashable, ...] = ()
    put: Put | None = None
    samples: Samples = ()
    saved: Samples = ()
    rows: int = 0
    checkpoints: int = 0
    found: tuple[Name, ...] = ()
    known: tuple[int, ...] = ()
    reports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Work:
    """What is to be done, and what may happen meanwhile.

    Attributes:
        workers, units, keys: how many; `keys` per unit.
        faults: puts that may go wrong.
        crashes: processes that may die; `successors`: another takes the place of the dead, or not.
        drains: a crash may also be a drain with a last word.
        engine_deaths: a crash may also be an engine's; the worker lives on and lets its unit go.
        suspicions: how often a living holder may be called stale.
        spare_beats: heartbeats travel (composed, then in the store), and this many may say nothing new.
        collectors: gc processes.
        helpers: idle workers help.
        recreation: the user may delete the output and use it again, with the last worker in the new run.
        replacement: the user may replace the source by one with one row fewer.
        driver: a driver learns of commits from heartbeats alone.
        failures: an engine may fail a sample.
        makers: samples of two processes differ.
        rules: those that hold.
    """

    workers: int = 2
    units: int = 1
    keys: int = 2
    faults: int = 0
    crashes: int = 0
    successors: tuple[bool, ...] = (True, False)
    drains: bool = False
    engine_deaths: bool = False
    suspicions: int = 2
    spare_beats: int = 0
    collectors: int = 0
    helpers: bool = False
    recreation: bool = False
    replacement: bool = False
    driver: bool = False
    failures: bool = False
    makers: bool = False
    rules: Rules = ALL


Moves = Iterator[Move[World, Worker]]


class Workers:
    """The steps of every worker.

    Args:
        work: what is to be done.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._rules = work.rules
        self._steps = {
            At.START: self._start,
            At.IDLE: self._idle,
            At.JUDGE: self._judge,
            At.CLAIM: self._claim,
            At.CHECK: self._check,
            At.LIST: self._list,
            At.READ: self._read,
            At.RECHECK: self._recheck,
            At.SOURCE: self._source,
            At.HELD: self._held,
            At.LIST_AGAIN: self._list_again,
            At.READ_AGAIN: self._read_again,
            At.PART: self._part,
            At.COMMIT: self._commit,
            At.DISCARD: self._discard,
            At.LIST_SWEEP: self._list_sweep,
            At.SWEEP: self._sweep,
            At.HELP_LIST: self._help_list,
            At.HELP_READ: self._help_read,
            At.LEAVE: self._leave,
        }

    def moves(self, world: World, me: Worker) -> Moves:
        """Everything that a worker can do next."""
        if me.at in GONE:
            return
        if me.at is At.WAITING:
            if world.deeds >= me.run:
                yield Move("starts", world, me._replace(at=At.START))
            return
        for move in self._next(world, me):
            if move.local.at is At.OUT and move.local.known:
                yield move._replace(claim=self._still_open(world, me))
            else:
                yield move

    def _next(self, world: World, me: Worker) -> Moves:
        yield from self._mishaps(world, me)
        yield from self._beats(world, me)
        if me.put is not None:
            yield from self._putting(world, me, me.put)
        else:
            yield from self._steps[me.at](world, me)

    def _still_open(self, world: World, me: Worker) -> Hashable:
        """A worker ends since all is committed: a unit of which that is not true."""
        if self._work.recreation and world.deeds > me.run:
            return None
        folder = self.folder(me.run)
        for unit in range(self._work.units):
            if not world.store.has(("commit", folder, unit)):
                return "open", unit
        return None

    # -- names --

    def folder(self, run: int) -> int:
        """The folder of a run: under its random id, or all in one."""
        return run if Rule.RANDOM_RUN_ID in self._rules else 0

    def _checkpoint(self, me: Worker, unit: int, origin: str, epoch: int) -> Name:
        folder = self.folder(me.run)
        return "checkpoint", folder, unit, origin, epoch, me.name, me.checkpoints + 1

    # -- what befalls a worker --

    def _mishaps(self, world: World, me: Worker) -> Moves:
        if world.crashes:
            yield from self._crash(world, me)
            if self._work.engine_deaths and me.hold is not None:
                yield from self._engine_death(world, me)
        if self._work.recreation and world.deeds > me.run and Rule.RANDOM_RUN_ID in self._rules:
            yield Move("sees that the output has another run", world, self._out(me))

    def _crash(self, world: World, me: Worker) -> Moves:
        fewer = world._replace(crashes=world.crashes - 1, dead=world.dead | {me.name})
        goodbye = Beat(me.beat + 1, "gone")
        for again in self._work.successors:
            if again:
                after = fewer
                number = me.process + 10
                successor = Worker(number, f"w{number}", me.run, rows=self._work.keys)
            else:
                lost = sum(isinstance(one, int) for one in world.dead)
                if lost + 1 >= self._work.workers:
                    continue  # somebody keeps one worker alive
                after = fewer._replace(dead=fewer.dead | {me.process})
                successor = Worker(me.process, me.name, me.run, At.DEAD)
            ending = "dies, another starts" if again else "is lost for good"
            yield Move(ending, after, successor, fair=False)
            if self._work.drains:
                said = after.put(self._beat_name(me), goodbye, own=True)
                yield Move(f"drains; {ending}", said, successor, fair=False)

    def _engine_death(self, world: World, me: Worker) -> Moves:
        """What runs is cut off, wherever it stands; a put that was under way may have been applied."""
        fewer = world._replace(crashes=world.crashes - 1)
        rebuilt = self._idling(me)
        if me.at is At.CLAIM and Rule.CUT_OFF_CLAIMS_ARE_LET_GO not in self._rules:
            rebuilt = rebuilt._replace(leaked=me.hold)
        yield Move("loses its engine", fewer, rebuilt, fair=False)
        if me.put is not None:
            applied = fewer.put(me.put.name, me.put.body)
            label = f"loses its engine while it puts {text(me.put.name)}"
            yield Move(label, applied, rebuilt, fair=False)

    # -- heartbeats --

    def _beat_name(self, me: Worker) -> Name:
        return "beat", self.folder(me.run), me.name

    def _next_beat(self, me: Worker, state: str = "live") -> Beat:
        holds = tuple(one for one in (me.hold, me.leaked) if one is not None)
        return Beat(me.beat + 1, state, holds, me.reports)

    def _composed(self, me: Worker, beat: Beat) -> Worker:
        promised = me.promised if me.promised > beat.number else 0
        return me._replace(beat=beat.number, told=beat[1:], promised=promised)

    def _beats(self, world: World, me: Worker) -> Moves:
        if me.at in {At.START, At.LEAVE}:
            return
        beat = self._next_beat(me)
        due = beat[1:] != me.told or me.beat < me.promised
        if not self._work.spare_beats:
            # While a unit is held, such a beat says as little against its claim as the one before it.
            if due and me.hold is None:
                after = world.put(self._beat_name(me), beat, own=True)
                yield Move(f"beats {beat.number}", after, self._composed(me, beat))
        elif me.flight is None:
            if due or me.beat <= self._work.spare_beats:
                flying = self._composed(me, beat)._replace(flight=beat)
                yield Move(f"composes beat {beat.number}", world, flying)
        else:
            landed = me._replace(flight=None)
            number = me.flight.number
            after = world.put(self._beat_name(me), me.flight, own=True)
            yield Move(f"beat {number} arrives", after, landed)
            if world.faults:
                late = world.late(Pending(self._beat_name(me), me.flight, own=True))
                yield Move(f"beat {number}: no answer, on its way", late, landed, fair=False)

    def _start(self, world: World, me: Worker) -> Moves:
        beat = self._next_beat(me)
        after = world.put(self._beat_name(me), beat, own=True)
        yield Move("beats 1", after, self._composed(me, beat)._replace(at=At.IDLE))

    # -- claiming --

    def _idle(self, world: World, me: Worker) -> Moves:
        folder = self.folder(me.run)
        open_ = [unit for unit in range(self._work.units) if unit not in me.known]
        free = False
        for unit in open_:
            if world.store.has(("commit", folder, unit)):
                yield Move(f"sees commit({unit})", world, self._knows(me, unit))
                continue
            claims = world.store.list("claim", folder, unit)
            if not claims:
                free = True
                yield from self._claim(world, me._replace(looked=(unit, 1)))
                continue
            epoch = claims[-1][-1]
            body = world.store.get(claims[-1])
            assert isinstance(epoch, int) and isinstance(body, tuple)
            looking = me._replace(at=At.JUDGE, looked=(unit, epoch, *body))
            yield Move(f"finds claim({unit},{epoch}) of {body[0]}", world, looking)
            if self._work.helpers:
                yield from self._share(world, me, unit)
        if Rule.EXIT_ONLY_WHEN_ALL_IS_COMMITTED not in self._rules and not free:
            yield Move("finds nothing to claim, ends", world, self._out(me))

    def _judge(self, world: World, me: Worker) -> Moves:
        unit, epoch, holder, claimed_at = me.looked
        assert isinstance(unit, int) and isinstance(epoch, int)
        assert isinstance(holder, str) and isinstance(claimed_at, int)
        found = world.store.get(("beat", self.folder(me.run), holder))
        assert found is None or isinstance(found, Beat)
        since = claimed_at if Rule.BEAT_NUMBERS in self._rules else 0
        why = decisions.verdict(unit, epoch, holder, since, found)
        if why == "abandoned" and Rule.UNLISTED_IS_ABANDONED not in self._rules:
            why = None
        taking = me._replace(at=At.CLAIM, looked=(unit, epoch + 1))
        what = f"claim({unit},{epoch})"
        if holder == me.name and Rule.NEW_ID_PER_PROCESS not in self._rules:
            mine = me._replace(at=At.CHECK, looked=(), hold=(unit, epoch))
            yield Move(f"takes {what} for its own", world, mine)
        elif why is not None:
            orphan = "orphan", unit, epoch, holder, claimed_at
            yield Move(f"calls {what} {why}", world, taking, claim=orphan)
        else:
            dead = holder in world.dead
            if dead:
                yield Move(f"calls {what} stale", world, taking)
            elif world.suspicions:
                fewer = world._replace(suspicions=world.suspicions - 1)
                yield Move(f"calls {what} stale, falsely", fewer, taking, fair=False)
            yield Move(f"leaves {what} alone", world, self._idling(me))

    def _claim(self, world: World, me: Worker) -> Moves:
        unit, epoch = me.looked
        assert isinstance(unit, int) and isinstance(epoch, int)
        beat = me.beat + 1
        put = Put(("claim", self.folder(me.run), unit, epoch), (me.name, beat), gives_up=True)
        claiming = me._replace(at=At.CLAIM, looked=(), hold=(unit, epoch), promised=beat)
        yield from self._putting(world, claiming, put)
        if world.crashes and self._work.engine_deaths:
            yield from self._engine_death(world, claiming._replace(put=put))

    def works_on(self, me: Worker, unit: int, epoch: int, claim: tuple[Hashable, ...]) -> bool:
        """Whether a worker works on a unit under this very claim, or is about to."""
        if me.at in GONE or me.hold != (unit, epoch) or me.name != claim[0]:
            return False
        return me.put is None or me.at is not At.CLAIM or me.put.body == claim

    def _claimed(self, me: Worker, ending: Ending) -> Worker:
        if ending is not Ending.MINE:
            return self._idling(me)
        assert me.hold is not None
        return self._opened(me) if me.hold[1] == 1 else me._replace(at=At.CHECK)

    def _check(self, world: World, me: Worker) -> Moves:
        unit, _ = self._held_unit(me)
        if world.store.has(("commit", self.folder(me.run), unit)):
            yield Move(f"sees commit({unit}) after its claim", world, self._knows(me, unit))
        else:
            yield Move(f"sees no commit({unit})", world, me._replace(at=At.LIST))

    def _list(self, world: World, me: Worker) -> Moves:
        unit, _ = self._held_unit(me)
        found = world.store.list("checkpoint", self.folder(me.run), unit)
        if found:
            yield Move("lists checkpoints", world, me._replace(at=At.READ, found=found))
        else:
            yield Move("lists no checkpoints", world, self._opened(me))

    def _read(self, world: World, me: Worker) -> Moves:
        yield from self._reading(world, me, self._opened)

    def _recheck(self, world: World, me: Worker) -> Moves:
        unit, _ = self._held_unit(me)
        if world.store.has(("commit", self.folder(me.run), unit)):
            yield Move(f"sees commit({unit}), so all is well", world, self._knows(me, unit))
        else:
            yield Move("fails", world, self._out(me), claim=("failed", unit))

    # -- a unit in hand --

    def _opened(self, me: Worker) -> Worker:
        at = At.SOURCE if self._work.replacement else At.HELD
        return me._replace(at=at, found=(), saved=me.samples)

    def _source(self, world: World, me: Worker) -> Moves:
        if not world.deeds:
            yield Move("reads the source", world, me._replace(at=At.HELD))
        elif Rule.COUNTED_AGAINST_THE_PLAN in self._rules:
            failed = self._made(me, range(self._work.keys), "failed")
            given_up = me._replace(at=At.PART, samples=failed)
            yield Move("finds that the source is another", world, given_up)
        else:
            rows = self._work.keys - 1
            kept = tuple(one for one in me.samples if one.key < rows)
            fewer = me._replace(at=At.HELD, rows=rows, samples=kept)
            yield Move("reads the shorter source", world, fewer)

    def _held(self, world: World, me: Worker) -> Moves:
        unit, epoch = self._held_unit(me)
        folder = self.folder(me.run)
        if world.store.has(("claim", folder, unit, epoch + 1)):
            yield Move("sees that it is superseded", world, self._idling(me))
        missing = self._missing(me)
        if len(missing) > (0 if self._work.drains else 1):
            for status in self._statuses():
                samples = decisions.by_key((*me.samples, *self._made(me, missing[:1], status)))
                unsaved = tuple(one for one in samples if one not in me.saved)
                put = Put(
                    self._checkpoint(me, unit, "e", epoch),
                    (me.run, unsaved),
                    own_name=True,
                    gives_up=True,
                )
                saving = me._replace(samples=samples, checkpoints=me.checkpoints + 1)
                yield from self._putting(world, saving, put)
        if self._work.helpers:
            yield from self._list_again(world, me)
        else:
            for status in self._statuses():
                yield from self._part(world, self._completed(me, missing, status))

    def _list_again(self, world: World, me: Worker) -> Moves:
        """Its own rest is done: what did helpers do of the others?"""
        unit, _ = self._held_unit(me)
        folder = self.folder(me.run)
        if Rule.HELPERS_DO_NOT_COMMIT not in self._rules:
            shared = world.store.has(("share", folder, unit, self._work.keys - 1))
            rows = self._work.keys - shared
            mine = tuple(one for one in me.samples if one.key < rows)
            less = me._replace(rows=rows, samples=mine)
            done = self._completed(less, self._missing(less), "written")
            yield Move("lists shares", world, done)
            return
        found = world.store.list("checkpoint", folder, unit)
        reading = me._replace(at=At.READ_AGAIN, found=found)
        yield Move("lists checkpoints again", world, reading)

    def _read_again(self, world: World, me: Worker) -> Moves:
        unit, _ = self._held_unit(me)
        share = "share", self.folder(me.run), unit, self._work.keys - 1

        def merged(with_others: Worker) -> Worker:
            missing = self._missing(with_others)
            waits = Rule.OWNERS_DO_WHAT_IS_MISSING not in self._rules and world.store.has(share)
            if waits and share[-1] in missing:
                return with_others._replace(at=At.HELD)
            return self._completed(with_others, missing, "written")

        yield from self._reading(world, me, merged)

    def _part(self, world: World, me: Worker) -> Moves:
        unit, epoch = self._held_unit(me)
        believed = Rule.PART_CONFIRMED_BEFORE_COMMIT not in self._rules
        name = "part", self.folder(me.run), unit, epoch, me.name
        put = Put(name, me.samples, own_name=True, believed=believed)
        yield from self._putting(world, me._replace(at=At.PART), put)

    def _commit(self, world: World, me: Worker) -> Moves:
        unit, epoch = self._held_unit(me)
        folder = self.folder(me.run)
        part = "part", folder, unit, epoch, me.name
        body = epoch, me.name, part, me.samples, me.rows
        yield from self._putting(world, me, Put(("commit", folder, unit), body))

    def _discard(self, world: World, me: Worker) -> Moves:
        unit, epoch = self._held_unit(me)
        part = "part", self.folder(me.run), unit, epoch, me.name
        yield Move("deletes its part", world.delete(part), me._replace(at=At.LIST_SWEEP))

    def _list_sweep(self, world: World, me: Worker) -> Moves:
        unit, _ = self._held_unit(me)
        found = world.store.list("checkpoint", self.folder(me.run), unit)
        yield Move("lists what to sweep", world, self._swept(me, unit, found))

    def _sweep(self, world: World, me: Worker) -> Moves:
        unit, _ = self._held_unit(me)
        first, *rest = me.found
        yield Move("sweeps a checkpoint", world.delete(first), self._swept(me, unit, tuple(rest)))

    def _swept(self, me: Worker, unit: int, left: tuple[Name, ...]) -> Worker:
        if left:
            return me._replace(at=At.SWEEP, found=left, samples=(), saved=())
        return self._knows(me, unit)

    # -- helping (section 7) --

    def _share(self, world: World, me: Worker, unit: int) -> Moves:
        slice_ = self._work.keys - 1
        share = "share", self.folder(me.run), unit, slice_
        if not world.store.has(share):
            helping = me._replace(at=At.SHARE, looked=(unit, slice_))
            yield from self._putting(world, helping, Put(share, (me.name,), gives_up=True))

    def _help_list(self, world: World, me: Worker) -> Moves:
        unit, slice_ = me.looked
        assert isinstance(unit, int) and isinstance(slice_, int)
        if Rule.HELPERS_DO_NOT_COMMIT not in self._rules:
            made = self._made(me, [slice_], "written")
            put = Put(("part", self.folder(me.run), unit, "s", me.name), made, own_name=True)
            yield from self._putting(world, me._replace(at=At.HELP_PART, samples=made), put)
            return
        found = world.store.list("checkpoint", self.folder(me.run), unit)
        reading = me._replace(at=At.HELP_READ, found=found)
        yield Move("lists checkpoints before helping", world, reading)

    def _help_read(self, world: World, me: Worker) -> Moves:
        unit, slice_ = me.looked
        assert isinstance(unit, int) and isinstance(slice_, int)
        found = [name for name in me.found if world.store.has(name)]
        if any(one.key == slice_ for one in self._merged(world, found)):
            yield Move("finds its slice done", world, self._idling(me))
            return
        name = self._checkpoint(me, unit, "s", slice_)
        made = self._made(me, [slice_], "written")
        put = Put(name, (me.run, made), own_name=True, gives_up=True)
        helping = me._replace(at=At.HELP_READ, found=(), checkpoints=me.checkpoints + 1)
        yield from self._putting(world, helping, put)

    # -- the end --

    def _leave(self, world: World, me: Worker) -> Moves:
        beat = self._next_beat(me, "gone")
        after = world.put(self._beat_name(me), beat, own=True)
        yield Move("says goodbye", after, self._out(me, me.known))

    # -- shared --

    def _putting(self, world: World, me: Worker, put: Put) -> Moves:
        """The next request of a `put_new`, and where the worker stands after it."""
        for step in carry_on(world, put, self._rules):
            if isinstance(step.then, Put):
                after = me._replace(put=step.then)
            else:
                after = self._put(me._replace(put=None), step.then)
            yield Move(step.label, step.world, after, fair=step.fair)

    def _put(self, me: Worker, ending: Ending) -> Worker:
        """A `put_new` has ended: what comes next."""
        match me.at:
            case At.CLAIM:
                return self._claimed(me, ending)
            case At.HELD:
                saved = me.samples if ending is Ending.MINE else me.saved
                return me._replace(saved=saved)
            case At.PART:
                return me._replace(at=At.COMMIT)
            case At.COMMIT:
                unit, _ = self._held_unit(me)
                if ending is Ending.MINE:
                    reports = tuple(sorted({*me.reports, unit}))
                    reported = me._replace(reports=reports if self._work.driver else ())
                    return reported._replace(at=At.LIST_SWEEP, samples=(), saved=())
                return me._replace(at=At.DISCARD, samples=(), saved=())
            case At.SHARE:
                mine = ending is Ending.MINE
                return me._replace(at=At.HELP_LIST) if mine else self._idling(me)
            case At.HELP_PART:
                return me._replace(at=At.HELP_COMMIT, put=self._helpers_commit(me))
            case _:
                return self._idling(me)

    def _helpers_commit(self, me: Worker) -> Put:
        folder, unit = self.folder(me.run), me.looked[0]
        part = "part", folder, unit, "s", me.name
        return Put(("commit", folder, unit, "s"), (0, me.name, part, me.samples, self._work.keys))

    def _reading(self, world: World, me: Worker, then: Callable[[Worker], Worker]) -> Moves:
        """Read the checkpoints that were listed, and merge them with what is in hand."""
        unit, _ = self._held_unit(me)
        gone = [name for name in me.found if not world.store.has(name)]
        if gone:
            look = Rule.GONE_MEANS_LOOK_AT_THE_COMMIT in self._rules
            after = me._replace(at=At.RECHECK, found=()) if look else self._out(me)
            claim = None if look else ("failed", unit)
            yield Move("misses a checkpoint that was listed", world, after, claim=claim)
            return
        found = self._merged(world, me.found)
        mine = {one.key for one in me.samples}
        others = tuple(one for one in found if one.key not in mine)
        samples = decisions.by_key((*me.samples, *others))
        after = then(me._replace(samples=samples, found=()))
        yield Move("reads checkpoints", world, after)

    def _merged(self, world: World, names: Sequence[Name]) -> Samples:
        bodies: list[tuple[str, Samples]] = []
        for name in names:
            _, _, unit, origin, epoch, worker, number = name
            body = world.store.get(name)
            assert isinstance(body, tuple)
            text = decisions.checkpoint_name(unit, epoch, worker, number, slice_=origin == "s")
            bodies.append((text, body[1]))
        if Rule.MERGE_BY_KEY not in self._rules:
            return decisions.by_key(one for _, samples in bodies for one in samples)
        return decisions.merged(tuple(bodies))

    def _missing(self, me: Worker) -> list[int]:
        done = {one.key for one in me.samples}
        return [key for key in range(me.rows) if key not in done]

    def _made(self, me: Worker, keys: Iterable[int], status: str) -> Samples:
        maker = me.process if self._work.makers else 0
        return tuple(Made(me.run, key, maker, status) for key in keys)

    def _completed(self, me: Worker, missing: list[int], status: str) -> Worker:
        samples = decisions.by_key((*me.samples, *self._made(me, missing, status)))
        return me._replace(at=At.PART, samples=samples, found=())

    def _statuses(self) -> tuple[str, ...]:
        return ("written", "failed") if self._work.failures else ("written",)

    def _held_unit(self, me: Worker) -> tuple[int, int]:
        assert me.hold is not None
        return me.hold

    def _idling(self, me: Worker) -> Worker:
        """Nothing in hand any more."""
        return me._replace(
            at=At.IDLE,
            hold=None,
            looked=(),
            put=None,
            samples=(),
            saved=(),
            rows=self._work.keys,
            found=(),
        )

    def _knows(self, me: Worker, unit: int) -> Worker:
        """The unit is committed; once all are, the worker ends."""
        idle = self._idling(me)._replace(known=tuple(sorted({*me.known, unit})))
        if self._work.driver and Rule.FOUND_COMMITS_ARE_REPORTED in self._rules:
            idle = idle._replace(reports=tuple(sorted({*me.reports, unit})))
        if len(idle.known) < self._work.units:
            return idle
        return idle._replace(at=At.LEAVE) if self._work.driver else self._out(me, idle.known)

    def _out(self, me: Worker, known: tuple[int, ...] = ()) -> Worker:
        return Worker(me.process, me.name, me.run, At.OUT, known=known)
