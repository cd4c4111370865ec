"""How a worker gets a unit (section 4): claims what is free, takes over what is orphaned."""

from model import decisions
from model.objects import Claim
from model.processes import GONE, At, Moves, Worker
from model.rules import Rule
from model.search import Move
from model.steps import Steps
from model.world import Ending, Put, World


class Claiming(Steps):
    """The steps from looking for a unit to having it in hand."""

    def look_for_work(self, world: World, me: Worker) -> Moves:
        """At IDLE: look at any unit that is not known to be committed."""
        free = False
        for unit in range(self.work.units):
            if unit in me.known:
                continue
            if self.is_committed(world, me, unit):
                yield Move(f"sees commit({unit})", world, self.knows(me, unit))
                continue
            claims = world.store.list("claim", self.folder(me.run), unit)
            if not claims:
                free = True
                yield from self.claim(world, me._replace(looked=(unit, 1)))
                continue
            claim, epoch = world.store.get(claims[-1]), claims[-1][-1]
            looking = me._replace(at=At.JUDGE, looked=(unit, epoch), holder=claim)
            yield Move(f"finds claim({unit},{epoch}) of {claim.worker}", world, looking)
            if self.work.helpers:
                yield from self.share(world, me, unit)
        if Rule.EXIT_ONLY_WHEN_ALL_IS_COMMITTED not in self.rules and not free:
            yield Move("finds nothing to claim, ends", world, self.out(me))

    def share(self, world: World, me: Worker, unit: int) -> Moves:
        """Help with a unit that somebody else holds."""
        share = self.share_name(me, unit)
        if not world.store.has(share):
            helping = me._replace(at=At.SHARE, looked=(unit, share[-1]))
            yield from self.putting(world, helping, Put(share, me.name, gives_up=True))

    def judge(self, world: World, me: Worker) -> Moves:
        """At JUDGE: the claim was read first, its holder's heartbeat second."""
        unit, epoch = me.seen
        claim = me.holder
        if claim is None:
            raise AssertionError("judges without a claim")
        why = self._verdict(world, me, claim)
        taking = me._replace(at=At.CLAIM, looked=(unit, epoch + 1), holder=None)
        what = f"claim({unit},{epoch})"
        if claim.worker == me.name and Rule.NEW_ID_PER_PROCESS not in self.rules:
            mine = me._replace(at=At.CHECK, looked=None, holder=None, hold=(unit, epoch))
            yield Move(f"takes {what} for its own", world, mine)
        elif why is not None:
            orphan = None if self.is_deleted(world, me) else ("orphan", unit, epoch, claim)
            yield Move(f"calls {what} {why}", world, taking, claim=orphan)
        else:
            if claim.worker in world.dead:
                yield Move(f"calls {what} stale", world, taking)
            elif world.suspicions:
                fewer = world._replace(suspicions=world.suspicions - 1)
                yield Move(f"calls {what} stale, falsely", fewer, taking, fair=False)
            yield Move(f"leaves {what} alone", world, self.idle(me))

    def _verdict(self, world: World, me: Worker, claim: Claim) -> str | None:
        beat = world.store.get(("beat", self.folder(me.run), claim.worker))
        if Rule.BEAT_NUMBERS not in self.rules:
            claim = claim._replace(beat=0)
        why = decisions.verdict(*me.seen, claim, beat)
        if why == "abandoned" and Rule.UNLISTED_IS_ABANDONED not in self.rules:
            return None
        return why

    def claim(self, world: World, me: Worker) -> Moves:
        """At CLAIM: list it in heartbeats, read the number of the next one, put the claim."""
        unit, epoch = me.seen
        beat = me.beat + 1
        name = "claim", self.folder(me.run), unit, epoch
        put = Put(name, Claim(me.name, beat), gives_up=True)
        claiming = me._replace(at=At.CLAIM, looked=None, hold=(unit, epoch), promised=beat)
        yield from self.putting(world, claiming, put)
        if world.crashes and self.work.engine_deaths:
            yield from self.engine_death(world, claiming._replace(put=put))

    def claimed(self, me: Worker, ending: Ending) -> Worker:
        """A claim has ended."""
        if ending is not Ending.MINE:
            return self.idle(me)
        return self.opened(me) if me.held[1] == 1 else me._replace(at=At.CHECK)

    def works_on(self, me: Worker, unit: int, epoch: int, claim: Claim) -> bool:
        """Whether a worker works on a unit under this very claim, or is about to."""
        if me.at in GONE or me.hold != (unit, epoch) or me.name != claim.worker:
            return False
        return me.put is None or me.at is not At.CLAIM or me.put.body == claim

    def engine_death(self, world: World, me: Worker) -> Moves:
        """What runs is cut off, wherever it stands; a put that was under way may have been applied."""
        fewer = world._replace(crashes=world.crashes - 1)
        rebuilt = self.idle(me)
        if me.at is At.CLAIM and Rule.CUT_OFF_CLAIMS_ARE_LET_GO not in self.rules:
            rebuilt = rebuilt._replace(leaked=me.hold)
        yield Move("loses its engine", fewer, rebuilt, fair=False)
        if me.put is not None:
            applied = fewer.put(me.put.name, me.put.body)
            yield Move("loses its engine; its put is applied", applied, rebuilt, fair=False)

    def check(self, world: World, me: Worker) -> Moves:
        """At CHECK: an earlier holder may have committed before our claim."""
        unit, _ = me.held
        if self.is_committed(world, me, unit):
            yield Move(f"sees commit({unit}) after its claim", world, self.knows(me, unit))
        else:
            yield Move(f"sees no commit({unit})", world, me._replace(at=At.LIST))

    def list_left(self, world: World, me: Worker) -> Moves:
        """At LIST: what did earlier holders leave?"""
        found = self.checkpoints_of(world, me, me.held[0])
        if found:
            yield Move("lists checkpoints", world, me._replace(at=At.READ, found=found))
        else:
            yield Move("lists no checkpoints", world, self.opened(me))

    def read_left(self, world: World, me: Worker) -> Moves:
        """At READ: take over what they finished."""
        yield from self.reading(world, me, self.opened)

    def recheck(self, world: World, me: Worker) -> Moves:
        """At RECHECK: what was listed is gone, so the unit must be committed."""
        unit, _ = me.held
        if self.is_committed(world, me, unit):
            yield Move(f"sees commit({unit}), so all is well", world, self.knows(me, unit))
        else:
            claim = None if self.is_deleted(world, me) else ("failed", unit)
            yield Move("fails", world, self.out(me), claim=claim)

    def opened(self, me: Worker) -> Worker:
        """The unit is in hand, with what others finished."""
        at = At.SOURCE if self.work.replacement else At.HELD
        return me._replace(at=at, found=(), saved=me.samples)
