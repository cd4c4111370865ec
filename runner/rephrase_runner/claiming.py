"""How a worker gets its next unit: knows the board, claims what is free, takes over what is orphaned."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from rephrase_api.errors import Drained
from rephrase_runner.claims import Board, Look, Seen, judge
from rephrase_runner.heart import Heart
from rephrase_runner.ledger import Ledger
from rephrase_runner.records import Claim, Hold, Open
from rephrase_runner.store import Outcome, Unclear

logger = logging.getLogger(__name__)
_LOST_IN_A_ROW = 8
_LOOKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Claimed:
    """A unit that is now ours. From epoch 2 on somebody had it before: look at what he left."""

    unit: int
    epoch: int
    why: str = "free"
    """As in its claim: free, or how its last holder lost it (released, abandoned, stale)."""


class Claimer:
    """Claims units for one worker.

    Args:
        ledger: the run.
        units: only those below are ours to do; all that the plan has, but for a canary.
        heart: lists what is claimed.
        start: unit to begin at.
        describe: gives the `Hold` of a claimed unit for heartbeats, given unit and epoch.
        report: called with a unit whose commit was found: its worker may have died before it told.
        lease_seconds: how long a silent holder is waited for.
        refresh_seconds: how often the driver's view is read.
    """

    def __init__(
        self,
        ledger: Ledger,
        units: int,
        heart: Heart,
        *,
        start: int,
        describe: Callable[[int, int], Hold],
        report: Callable[[int], None],
        lease_seconds: float,
        refresh_seconds: float,
    ) -> None:
        self.board = Board(units)
        self._ledger = ledger
        self._heart = heart
        self._wish = start % max(1, units)
        self._describe = describe
        self._report = report
        self._lease = lease_seconds
        self._refresh = refresh_seconds
        self._mine: dict[int, int] = {}
        self._looks: dict[int, Look] = {}
        self._gaps = 0
        self._refreshed_at: float | None = None
        self._listed_at: float | None = None
        self._lost = 0
        self.tail: tuple[Open, ...] = ()
        """Who may be helped, as the driver last said; empty while units are free."""

    @property
    def worker(self) -> str:
        """This worker's id."""
        return self._heart.worker

    @property
    def all_committed(self) -> bool:
        """Whether every unit that is ours to do is known to be committed."""
        return self.board.committed == len(self.board)

    def committed(self, unit: int) -> None:
        """The unit has a commit, ours or another's."""
        self.board.commit(unit, unit + 1)
        self._mine.pop(unit, None)

    def release(self, unit: int, epoch: int) -> None:
        """Let a unit go that is not committed."""
        self._heart.let_go(unit, epoch)
        self._mine.pop(unit, None)

    async def next(self) -> Claimed | None:
        """Claim a unit that nobody works on; None if there is none now.

        Raises:
            Drained: the driver asks all workers to stop.
        """
        await self.look_around(force=False)
        while (unit := self.board.next_free(self._wish)) is not None:
            claimed = await self._claim(unit, epoch=1, why="free", prev=None)
            if claimed is None:
                claimed = await self._consider(unit, {})
            self.board.take(unit)
            if claimed is not None:
                self._wish = unit + 1
                self._lost = 0
                return claimed
            self._lost += 1
            if self._lost % _LOST_IN_A_ROW == 0:
                await self.look_around(force=True)
        return await self._take_over()

    async def _take_over(self) -> Claimed | None:
        """Look at units others hold, a bounded number at a time."""
        now = asyncio.get_running_loop().time()
        listed = self._listed_at is not None and now - self._listed_at < self._lease / 3
        await self.look_around(force=not self._looks and not listed)
        heartbeats: dict[str, Seen | None] = {}
        candidates = [
            unit
            for unit in self.board.open_units()
            if unit not in self._mine and self._is_due(unit, now)
        ]
        for unit in candidates[:_LOOKS_AT_ONCE]:
            claimed = await self._consider(unit, heartbeats)
            if claimed is not None:
                return claimed
        return None

    def _is_due(self, unit: int, now: float) -> bool:
        """Whether another look at a held unit may say more than the last one."""
        look = self._looks.get(unit)
        return look is None or now - look.at >= self._lease / 3

    async def _consider(self, unit: int, heartbeats: dict[str, Seen | None]) -> Claimed | None:
        """Take the unit over if its holder let it go or is dead."""
        if (
            self._heart.gaps != self._gaps
        ):  # a look from before an outage is no first look (hole 18)
            self._gaps = self._heart.gaps
            self._looks.clear()
        if await self._ledger.read_commit(unit) is not None:
            self._found_commit(unit)
            return None
        latest = await self._ledger.latest_claim(unit)  # the claim first, its heartbeat second
        if latest is None:
            return await self._claim(unit, epoch=1, why="free", prev=None)
        epoch, claim = latest
        if claim.worker not in heartbeats:
            heartbeats[claim.worker] = await self._ledger.heartbeat(claim.worker)
        verdict = judge(
            unit,
            epoch,
            claim,
            heartbeats[claim.worker],
            own=self._heart.acknowledged,
            earlier=self._looks.get(unit),
            monotonic=asyncio.get_running_loop().time(),
            lease_seconds=self._lease,
        )
        if verdict.why is None:
            if verdict.look is not None:
                self._looks[unit] = verdict.look
            return None
        self._looks.pop(unit, None)
        return await self._claim(unit, epoch=epoch + 1, why=verdict.why, prev=claim.worker)

    async def _claim(self, unit: int, *, epoch: int, why: str, prev: str | None) -> Claimed | None:
        self._heart.hold(unit, epoch, lambda: self._describe(unit, epoch))
        claim = Claim(
            run=self._ledger.run,
            worker=self._heart.worker,
            beat=self._heart.next_beat,
            why=why,
            prev=prev,
        )
        try:
            if not await self._is_taken_by(unit, epoch, claim):
                self._heart.let_go(unit, epoch)
                return None
        except (
            BaseException
        ):  # an engine's death cancels us here; listed, it would be held for ever
            self._heart.let_go(unit, epoch)
            raise
        self._mine[unit] = epoch
        logger.debug("unit claimed", extra={"unit": unit, "epoch": epoch, "reason": why})
        return Claimed(unit, epoch, why)

    def _found_commit(self, unit: int) -> None:
        self.committed(unit)
        self._report(unit)

    async def _is_taken_by(self, unit: int, epoch: int, claim: Claim) -> bool:
        try:
            outcome = await self._ledger.claim(unit, epoch, claim)
        except Unclear as error:  # it may still appear; unlisted, it is free for all to take over
            logger.warning("claim not answered", extra={"unit": unit, "reason": str(error)})
            return False
        if outcome is Outcome.MINE and epoch > 1:
            if await self._ledger.read_commit(unit) is None:
                return True
            self._found_commit(unit)
            return False
        return outcome is Outcome.MINE

    async def look_around(self, *, force: bool) -> None:
        """Bring the board up to date from progress.json or, where that is old, from listings."""
        now = asyncio.get_running_loop().time()
        if (
            not force
            and self._refreshed_at is not None
            and now - self._refreshed_at < self._refresh
        ):
            return
        self._refreshed_at = now
        found = await self._ledger.progress()
        own = self._heart.acknowledged
        if found is not None:
            progress, meta = found
            if progress.stop is not None:
                raise Drained(f"the driver stops the run: {progress.stop.message}")
            self.tail = tuple(held for held in progress.tail if held.unit < len(self.board))
            for first, end in progress.committed:
                self.board.commit(first, end)
            age = (own.modified - meta.modified).total_seconds() if own is not None else 0.0
            if age <= self._lease and not force:
                self.board.free_all_taken([*progress.claimed, *self._mine])
                return
        if not force and self._listed_at is not None and now - self._listed_at < self._lease:
            return  # a listing of a large run is thousands of requests: not at every look
        self._listed_at = now
        for unit in await self._ledger.committed_units():
            if unit < len(self.board) and not self.board.is_committed(unit):
                self._found_commit(unit)
        self.board.free_all_taken([*await self._ledger.claimed_units(), *self._mine])
