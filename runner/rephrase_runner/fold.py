"""All heartbeats of a run, folded to what the driver reports. One listing a tick, changed ones read."""

from collections import Counter, defaultdict, deque
from collections.abc import Container
from datetime import datetime

from rephrase_api.progress import Gone, WorkerProgress
from rephrase_runner.claims import Seen
from rephrase_runner.ledger import Ledger
from rephrase_runner.records import Open

_RATE_SECONDS = 60
_FOLD_AWAY_SECONDS = 600
"""A worker silent for so long that holds nothing is only counted, not listed."""


class Fold:
    """What the heartbeats say together.

    Args:
        book: the run.
        lease_seconds: a worker silent for longer does not count as alive.
    """

    def __init__(self, book: Ledger, *, lease_seconds: float) -> None:
        self._book = book
        self._lease = lease_seconds
        self._seen: dict[str, tuple[str, Seen]] = {}
        self._marks: deque[tuple[float, int]] = deque()
        self.last_progress_time: datetime | None = None
        """The store's time of the last heartbeat that told of a commit or checkpoint new to us."""
        self.store_time: datetime | None = None
        """The store's clock, as far as it is known; ages are counted from here."""

    async def look(self, now: float) -> None:
        """Read the heartbeats that changed since the last look.

        Args:
            now: the loop's clock, seconds; for rates only.
        """
        metas = await self._book.heartbeat_metas()
        marks = {meta.name: f"{meta.etag} {meta.modified.isoformat()}" for meta in metas}
        changed = [meta for meta in metas if self._mark(meta.name) != marks[meta.name]]
        for seen in await self._book.read_heartbeats(changed):
            name = self._book.names.worker(seen.heartbeat.worker)
            known = self._seen.get(name)
            if _durable(seen) > (_durable(known[1]) if known is not None else 0):
                self.last_progress_time = max(
                    seen.modified, self.last_progress_time or seen.modified
                )
            if known is None or known[1].heartbeat.beat <= seen.heartbeat.beat:
                self._seen[name] = (marks.get(name, ""), seen)
        times = [seen.modified for _, seen in self._seen.values()]
        self.store_time = max([*times, self.store_time] if self.store_time else times, default=None)
        self._marks.append((now, self.samples))
        while now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()

    def _mark(self, name: str) -> str | None:
        known = self._seen.get(name)
        return known[0] if known is not None else None

    def _all(self) -> list[Seen]:
        return [seen for _, seen in self._seen.values()]

    def _age(self, seen: Seen) -> float:
        return (self.store_time - seen.modified).total_seconds() if self.store_time else 0.0

    def _lives(self, seen: Seen) -> bool:
        return seen.heartbeat.state != "gone" and self._age(seen) <= self._lease

    @property
    def alive(self) -> int:
        """Workers that beat within the lease and did not say goodbye."""
        return sum(self._lives(seen) for seen in self._all())

    @property
    def held_units(self) -> set[int]:
        """Units that some worker holds, as far as it said."""
        return {
            hold.unit
            for seen in self._all()
            if seen.heartbeat.state != "gone"
            for hold in seen.heartbeat.holds
        }

    def open_units(self, claimed: Container[int]) -> tuple[Open, ...]:
        """Those of the `claimed` units that living workers hold, with what is left of them."""
        return tuple(
            Open(
                unit=hold.unit,
                epoch=hold.epoch,
                next=hold.next,
                left=hold.left,
                rate=seen.heartbeat.tokens_per_second,
            )
            for seen in self._all()
            if self._lives(seen)
            for hold in seen.heartbeat.holds
            if hold.unit in claimed and hold.left
        )

    @property
    def reported_commits(self) -> set[int]:
        """The last commits that each worker told of; not all of them."""
        return {unit for seen in self._all() for unit in seen.heartbeat.committed}

    @property
    def units_committed(self) -> int:
        """How many commits all workers made together."""
        return sum(seen.heartbeat.units_committed for seen in self._all())

    @property
    def samples(self) -> int:
        """Samples finished by all workers, committed or not."""
        return sum(seen.heartbeat.samples for seen in self._all())

    @property
    def failed(self) -> int:
        """Samples that failed in any worker, committed or not."""
        return sum(seen.heartbeat.failed for seen in self._all())

    @property
    def generated_tokens(self) -> int:
        """Tokens that all workers generated, committed or not."""
        return sum(seen.heartbeat.generated_tokens for seen in self._all())

    @property
    def gpu_seconds(self) -> float:
        """GPU seconds of all workers, loading and idling included."""
        return sum(_gpu_seconds(seen) for seen in self._all())

    @property
    def pool_seconds(self) -> dict[str, float]:
        """By pool, what its price is multiplied with: GPU seconds, worker seconds where it has no GPUs."""
        total: defaultdict[str, float] = defaultdict(float)
        for seen in self._all():
            beat = seen.heartbeat
            total[beat.pool] += max(1, beat.gpus) * sum(beat.seconds.values())
        return dict(sorted(total.items()))

    @property
    def pool_gpus(self) -> dict[str, int]:
        """By pool, GPUs of a worker."""
        found: dict[str, int] = {}
        for seen in self._all():
            beat = seen.heartbeat
            found[beat.pool] = max(beat.gpus, found.get(beat.pool, 0))
        return found

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of the workers that are alive."""
        return sum(seen.heartbeat.tokens_per_second for seen in self._all() if self._lives(seen))

    def speed_of(self, workers: Container[str]) -> tuple[float, str, int]:
        """Completion tokens per second of one of these workers while it generates, its pool and GPUs.

        Those of the pool that has generated most; 0 if none has yet.
        """
        tokens: Counter[tuple[str, int]] = Counter()
        seconds: defaultdict[tuple[str, int], float] = defaultdict(float)
        for seen in self._all():
            beat = seen.heartbeat
            if beat.worker in workers:
                tokens[beat.pool, beat.gpus] += beat.generated_tokens
                seconds[beat.pool, beat.gpus] += beat.seconds.get("generating", 0.0)
        measured = {place: count for place, count in tokens.items() if count and seconds[place]}
        if not measured:
            return 0.0, "", 0
        place = max(measured, key=lambda place: measured[place])
        return measured[place] / seconds[place], *place

    @property
    def samples_per_second(self) -> float:
        """Samples per second over the last minute."""
        if len(self._marks) < 2:
            return 0.0
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        return (after - before) / (last - first) if last > first else 0.0

    @property
    def workers(self) -> tuple[WorkerProgress, ...]:
        """Workers that hold something or were heard of lately."""
        return tuple(self._progress(seen) for seen in self._all() if not self._folded_away(seen))

    @property
    def gone(self) -> Gone:
        """The others, together."""
        folded = [seen for seen in self._all() if self._folded_away(seen)]
        return Gone(
            gpu_seconds=sum(_gpu_seconds(seen) for seen in folded),
            tokens=sum(seen.heartbeat.generated_tokens for seen in folded),
        )

    def _folded_away(self, seen: Seen) -> bool:
        holds = seen.heartbeat.holds and seen.heartbeat.state != "gone"
        return not holds and self._age(seen) > _FOLD_AWAY_SECONDS

    def _progress(self, seen: Seen) -> WorkerProgress:
        beat = seen.heartbeat
        return WorkerProgress(
            uid=beat.worker,
            slot=beat.slot,
            phase=beat.phase,
            tokens_per_second=beat.tokens_per_second if self._lives(seen) else 0.0,
            samples=beat.samples,
            completion_tokens=beat.generated_tokens,
            loading_seconds=beat.seconds.get("loading", 0.0),
            generating_seconds=beat.seconds.get("generating", 0.0),
            running=beat.running,
            waiting=beat.waiting,
            gpu_seconds=_gpu_seconds(seen),
            units_committed=beat.units_committed,
            samples_checkpointed=beat.samples_checkpointed,
            heartbeat_age_seconds=self._age(seen),
        )


def _durable(seen: Seen) -> int:
    return seen.heartbeat.units_committed + seen.heartbeat.samples_checkpointed


def _gpu_seconds(seen: Seen) -> float:
    return seen.heartbeat.gpus * sum(seen.heartbeat.seconds.values())
