"""A worker's heartbeat: says every few seconds what it holds, so that nobody takes it over.

Invariant: every heartbeat numbered `next_beat` or higher, as read before a claim was put, lists that
claim until it is let go (ledger holes 3 and 4). So: `hold` first, read `next_beat`, then put the claim.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from rephrase_runner.claims import Seen
from rephrase_runner.ledger import Ledger
from rephrase_runner.records import Heartbeat, Hold
from rephrase_runner.store import Unclear

logger = logging.getLogger(__name__)


class Heart:
    """Composes and sends the heartbeats of one process.

    Args:
        ledger: where they go.
        identity: fields that never change: worker, pod, node, slot, pool, gpus.
        vitals: called for each beat: fields that change, `samples`, `generated_tokens` ...
        interval_seconds: time between beats.
        lease_seconds: how long others wait for one.
    """

    def __init__(
        self,
        ledger: Ledger,
        identity: dict[str, Any],
        vitals: Callable[[], dict[str, Any]],
        *,
        interval_seconds: float,
        lease_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._identity = identity
        self._vitals = vitals
        self._interval = interval_seconds
        self._lease = lease_seconds
        self._lock = asyncio.Lock()
        self._beat = 0
        self._holds: dict[tuple[int, int], Callable[[], Hold]] = {}
        self._acknowledged_at = asyncio.get_running_loop().time()
        self.acknowledged: Seen | None = None
        self.gaps = 0
        """Times that the store saw none of our beats for half a lease: others may have had no chance."""
        self.overslept = asyncio.Event()
        """Set when a beat got through only after the lease: look whether units were taken over."""

    @property
    def worker(self) -> str:
        """This worker's id."""
        return str(self._identity["worker"])

    @property
    def next_beat(self) -> int:
        """Number of the next heartbeat to be composed."""
        return self._beat + 1

    def hold(self, unit: int, epoch: int, describe: Callable[[], Hold]) -> None:
        """List the unit in every heartbeat from the next one on."""
        self._holds[unit, epoch] = describe

    def let_go(self, unit: int, epoch: int) -> None:
        """List it no more: others may take the unit as soon as they see such a beat."""
        self._holds.pop((unit, epoch), None)

    async def beat(self) -> bool:
        """Send one heartbeat; False if it was not acknowledged.

        Calls that wait for each other share one: what matters is that it was composed after the call.
        """
        wanted = self.next_beat
        async with self._lock:  # one put in flight per name: the last body must win
            if self.acknowledged is not None and self.acknowledged.heartbeat.beat >= wanted:
                return True
            self._beat += 1
            heartbeat = Heartbeat(
                run=self._ledger.run,
                beat=self._beat,
                holds=tuple(describe() for describe in self._holds.values()),
                **self._identity,
                **self._vitals(),
            )
            try:
                seen = await self._ledger.beat(heartbeat)
            except Unclear as error:
                logger.warning("heartbeat not acknowledged", extra={"reason": str(error)})
                return False
            now = asyncio.get_running_loop().time()
            if now - self._acknowledged_at > self._lease:
                self.overslept.set()
            self._acknowledged_at = now
            if seen is not None and self.acknowledged is not None:
                silence = (seen.modified - self.acknowledged.modified).total_seconds()
                self.gaps += silence > self._lease / 2
            self.acknowledged = seen
            return True

    async def beat_until_acknowledged(self) -> None:
        """Send heartbeats until one gets through; used before tokens are made durable elsewhere."""
        while not await self.beat():  # noqa: ASYNC110 - the store sends no event
            await asyncio.sleep(min(1.0, self._interval))

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.beat()
