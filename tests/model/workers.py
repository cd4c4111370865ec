"""What a worker does, request by request (ledger protocol, sections 4, 5 and 7).

What needs no request (generating, deciding) happens in the step of the request that follows it. Between
two steps anything may happen: that is a pause, a zombie, a slow reader, a stale listing.
"""

from collections.abc import Callable, Hashable

from typing_extensions import override

from model.claiming import Claiming
from model.holding import Holding
from model.objects import Beat
from model.processes import GONE, At, Moves, Work, Worker
from model.rules import Rule
from model.search import Move
from model.world import Ending, Name, Pending, World


class Workers(Claiming, Holding):
    """The steps of every worker.

    Args:
        work: what is to be done.
    """

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._steps: dict[At, Callable[[World, Worker], Moves]] = {
            At.START: self._start,
            At.IDLE: self.look_for_work,
            At.JUDGE: self.judge,
            At.CLAIM: self.claim,
            At.CHECK: self.check,
            At.LIST: self.list_left,
            At.READ: self.read_left,
            At.RECHECK: self.recheck,
            At.SOURCE: self.read_source,
            At.HELD: self.generate,
            At.READ_AGAIN: self.read_helped,
            At.PART: self.put_part,
            At.COMMIT: self.put_commit,
            At.DISCARD: self.discard,
            At.LIST_SWEEP: self.list_sweep,
            At.SWEEP: self.sweep,
            At.HELP_LIST: self.list_before_helping,
            At.HELP_READ: self.do_slice,
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
        if world.crashes:
            yield from self._crash(world, me)
            if self.work.engine_deaths and me.hold is not None:
                yield from self.engine_death(world, me)
        if self.is_deleted(world, me) and Rule.RANDOM_RUN_ID in self.rules:
            yield Move("sees that the output has another run", world, self.out(me))
        if me.at not in {At.START, At.LEAVE}:
            yield from self._beat(world, me)
        if me.put is not None:
            yield from self.putting(world, me, me.put)
        else:
            yield from self._steps[me.at](world, me)

    def _still_open(self, world: World, me: Worker) -> Hashable:
        """A worker ends since all is committed: a unit of which that is not true."""
        for unit in range(self.work.units):
            if not self.is_committed(world, me, unit) and not self.is_deleted(world, me):
                return "open", unit
        return None

    @override
    def ended(self, me: Worker, ending: Ending) -> Worker:
        mine = ending is Ending.MINE
        match me.at:
            case At.CLAIM:
                return self.claimed(me, ending)
            case At.HELD:
                return me._replace(saved=me.samples if mine else me.saved)
            case At.PART:
                return me._replace(at=At.COMMIT)
            case At.COMMIT:
                if mine and self.work.driver:
                    me = me._replace(reports=tuple(sorted({*me.reports, me.held[0]})))
                at = At.LIST_SWEEP if mine else At.DISCARD
                return me._replace(at=at, samples=(), saved=())
            case At.SHARE:
                return me._replace(at=At.HELP_LIST) if mine else self.idle(me)
            case At.HELP_PART:
                return me._replace(at=At.HELP_COMMIT, put=self.helpers_commit(me))
            case _:
                return self.idle(me)

    # -- the end of a process --

    def _crash(self, world: World, me: Worker) -> Moves:
        fewer = world._replace(crashes=world.crashes - 1, dead=world.dead | {me.name})
        goodbye = Beat(me.beat + 1, "gone")
        for again in self.work.successors:
            if again:
                after = fewer
                number = me.process + 10
                successor = Worker(number, f"w{number}", me.run, rows=self.work.keys)
            else:
                lost = sum(isinstance(one, int) for one in world.dead)
                if lost + 1 >= self.work.workers:
                    continue  # whoever starts workers keeps one alive
                after = fewer._replace(dead=fewer.dead | {me.process})
                successor = Worker(me.process, me.name, me.run, At.DEAD)
            ending = "another starts" if again else "is lost for good"
            yield Move(f"dies; {ending}", after, successor, fair=False)
            if self.work.drains:
                said = after.put(self._beat_name(me), goodbye, own=True)
                yield Move(f"drains; {ending}", said, successor, fair=False)

    def _leave(self, world: World, me: Worker) -> Moves:
        ended = world._replace(dead=world.dead | {me.name})
        after = ended.put(self._beat_name(me), self._next_beat(me, "gone"), own=True)
        yield Move("says goodbye", after, self.out(me, me.known))

    # -- heartbeats --

    def _beat_name(self, me: Worker) -> Name:
        return "beat", self.folder(me.run), me.name

    def _next_beat(self, me: Worker, state: str = "live") -> Beat:
        holds = tuple(one for one in (me.hold, me.leaked) if one is not None)
        return Beat(me.beat + 1, state, holds, me.reports)

    def _composed(self, me: Worker, beat: Beat) -> Worker:
        promised = me.promised if me.promised > beat.number else 0
        return me._replace(beat=beat.number, told=beat[1:], promised=promised)

    def _start(self, world: World, me: Worker) -> Moves:
        beat = self._next_beat(me)
        after = world.put(self._beat_name(me), beat, own=True)
        yield Move("beats 1", after, self._composed(me, beat)._replace(at=At.IDLE))

    def _beat(self, world: World, me: Worker) -> Moves:
        beat = self._next_beat(me)
        due = beat[1:] != me.told or me.beat < me.promised
        if self.work.spare_beats:
            if me.flight is not None:
                yield from self._land(world, me, me.flight)
            elif due or me.beat <= self.work.spare_beats:
                flying = self._composed(me, beat)._replace(flight=beat)
                yield Move(f"composes beat {beat.number}", world, flying)
        elif due and me.hold is None:
            # While a unit is held, a beat says as little against its claim as the one before the claim.
            after = world.put(self._beat_name(me), beat, own=True)
            yield Move(f"beats {beat.number}", after, self._composed(me, beat))

    def _land(self, world: World, me: Worker, beat: Beat) -> Moves:
        landed = me._replace(flight=None)
        after = world.put(self._beat_name(me), beat, own=True)
        yield Move(f"beat {beat.number} arrives", after, landed)
        if world.faults:
            late = world.late(Pending(self._beat_name(me), beat, own=True))
            unheard = landed._replace(told=None)  # so the next one is due
            yield Move(f"beat {beat.number}: no answer, on its way", late, unheard, fair=False)
