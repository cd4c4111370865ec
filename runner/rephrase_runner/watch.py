"""The driver's view of a run: commits and heartbeats, folded to the account and to `/progress`."""

import logging
from collections.abc import Iterable, Sequence

from rephrase_api import progress as api
from rephrase_api.errors import LedgerDamaged
from rephrase_runner import records
from rephrase_runner.account import Account, imbalances
from rephrase_runner.claims import Board
from rephrase_runner.fold import Fold
from rephrase_runner.ledger import Ledger
from rephrase_runner.openings import WARN_AT
from rephrase_runner.records import Commit, Manifest, Plan
from rephrase_runner.store import Unclear
from rephrase_runner.units import Unit, units_for

logger = logging.getLogger(__name__)
_FULL_LISTING_SECONDS = 3600
_COMMITS_AT_ONCE = 1000


class Watch:
    """The driver's view of the run: commits and heartbeats, folded."""

    def __init__(
        self,
        book: Ledger,
        plan: Plan,
        units: Sequence[Unit],
        rollouts: dict[str, int],
        *,
        lease_seconds: float,
        canary_documents: int = 0,
        paying: records.Paying | None = None,
        snapshot_every: int = 10_000,
    ) -> None:
        self.book = book
        self.plan = plan
        self.committed = Board(plan.units)
        self.commits: dict[int, Commit] = {}
        """Commits that are not published yet; a large run's would not fit into memory together."""
        self.account = Account()
        self.fold = Fold(book, lease_seconds=lease_seconds)
        self._units = units
        self._rollouts = rollouts
        self._keys_per_row = sum(rollouts.values())
        self._canary_documents = canary_documents
        self._canary_units = units_for(units, canary_documents)
        self._canary = Account()
        self._canary_workers: set[str] = set()
        self._alike: tuple[int, dict[str, float]] = (0, {})
        self._paying = paying
        self._snapshot_every = snapshot_every
        self._new: list[Commit] = []
        """Commits that are in no snapshot yet."""
        self._counter = 0
        self._listed_at: float | None = None
        self._listed_in_silence = False

    @property
    def discarded_tokens(self) -> int:
        """Tokens that were generated and are in no commit (finished ones in open units aside)."""
        return max(0, self.fold.generated_tokens - self.account.tokens.completion)

    @property
    def finished_documents(self) -> int:
        """Documents with all their samples, committed or not, as far as can be told."""
        account = self.account
        return max(account.rows - account.filtered, self.fold.samples // self._keys_per_row)

    @property
    def failed_documents(self) -> int:
        """Documents that failed. Open units count too: one may have nothing else (engine killers)."""
        committed = self.account.failed_documents(self._rollouts)
        return max(committed, self.fold.failed // self._keys_per_row)

    @property
    def canary(self) -> api.CanaryProgress | None:
        """What the first units show; None where no canary is asked for."""
        if not self._canary_documents:
            return None
        account = self._canary
        samples = account.samples
        rate, pool, gpus = self.fold.speed_of(self._canary_workers)
        return api.CanaryProgress(
            asked=self._canary_documents,
            units=self._canary_units,
            committed=account.units,
            documents=account.rows - account.filtered,
            filtered=account.filtered,
            failed_documents=account.failed_documents(self._rollouts),
            samples=api.Samples(
                expected=sum(unit.rows for unit in self._units[: self._canary_units])
                * self._keys_per_row,
                written=samples.written,
                skipped=samples.skipped,
                failed=samples.failed,
                finished=samples.in_,
            ),
            tokens=api.TokenCounts(
                prompt=account.tokens.prompt, completion=account.tokens.completion
            ),
            output_tokens={
                name: count.tokens / count.in_
                for name, count in account.counts.items()
                if count.in_ and count.tokens
            },
            reasons=dict(account.reasons),
            flags=dict(account.flags),
            alike=self._canary_alike(),
            tokens_per_second=rate,
            pool=pool,
            gpus=gpus,
        )

    def _canary_alike(self) -> dict[str, float]:
        """Of the canary's rewrites, by prompt; counted anew only when a unit of it was committed."""
        units, alike = self._alike
        if units != self._canary.units:
            found = self._canary.openings.collapse().items()
            alike = {prompt: one.share(WARN_AT) for prompt, one in found}
            self._alike = self._canary.units, alike
        return alike

    async def look(self, now: float, *, everything: bool = False) -> None:
        """Read what is new.

        Args:
            now: the loop's clock, seconds.
            everything: list all commits, whatever the heartbeats report.
        """
        if self._listed_at is None:  # the first look: most is told by what an earlier driver kept
            async for kept in self.book.folds():
                self._check(one for one in kept if not self.committed.is_committed(one.unit))
        await self.fold.look(now)
        reported = self._unknown(self.fold.reported_commits)
        listing_due = self._listed_at is None or now - self._listed_at > _FULL_LISTING_SECONDS
        silence = not self.fold.alive
        # once all are gone, nobody is left to report a commit whose worker died right after it
        unheard = silence and not self._listed_in_silence
        self._listed_in_silence = silence
        if (
            everything
            or listing_due
            or unheard
            or self.fold.units_committed > self.committed.committed + len(reported)
        ):
            self._listed_at = now
            reported = self._unknown(await self.book.committed_units())
        for first in range(0, len(reported), _COMMITS_AT_ONCE):
            await self._take(reported[first : first + _COMMITS_AT_ONCE])

    def _unknown(self, units: Iterable[int]) -> list[int]:
        return sorted(unit for unit in set(units) if not self.committed.is_committed(unit))

    def forget(self, end: int) -> None:
        """Units below `end` are published: their commits are not needed any more."""
        for unit in [unit for unit in self.commits if unit < end]:
            del self.commits[unit]

    async def _take(self, units: Sequence[int]) -> None:
        commits = await self.book.read_commits(units)
        self._check(commits)
        self._new += commits
        if len(self._new) >= self._snapshot_every:
            await self.keep()

    async def keep(self) -> None:
        """Write a snapshot of the commits that are in none, so that whoever comes next reads few objects."""
        if self._new:
            await self.book.write_fold(self.committed.committed, self._new)
            self._new = []

    def _check(self, commits: Iterable[Commit]) -> None:
        """Take commits into the account.

        Raises:
            LedgerDamaged: one does not balance.
        """
        for commit in commits:
            faults = imbalances(commit, rows=self._units[commit.unit].rows, rollouts=self._rollouts)
            if faults:
                raise LedgerDamaged(
                    "; ".join(faults),
                    where=f"{self.book.store.uri}/{self.book.names.commit(commit.unit)}",
                    remedy="The unit's account does not balance; nothing was published from it.",
                )
            self.commits[commit.unit] = commit.bare()
            self.committed.commit(commit.unit, commit.unit + 1)
            self.account.add(commit)
            if commit.unit < self._canary_units:
                self._canary.add(commit)
                self._canary_workers.add(commit.worker)

    async def tell(self, stop: records.Stop | None) -> None:
        """Write the cache that workers read."""
        self._counter += 1
        held = self.fold.held_units
        claimed = [unit for unit in sorted(held) if not self.committed.is_committed(unit)]
        nothing_free = self.committed.committed + len(claimed) == self.plan.units
        cache = records.Progress(
            run=self.book.run,
            counter=self._counter,
            committed=tuple(self.committed.committed_runs()),
            claimed=tuple(claimed),
            tail=self.fold.open_units(claimed) if nothing_free else (),
            stop=stop,
            paying=self._paying,
        )
        try:
            self.fold.store_time = await self.book.write_progress(cache)
        except Unclear as error:
            logger.warning("progress.json not acknowledged", extra={"reason": str(error)})

    def progress(self, base: api.Progress) -> api.Progress:
        """The body of `GET /progress`."""
        account, samples = self.account, self.account.samples
        keys_per_row = self._keys_per_row
        finished = max(samples.in_, min(self.fold.samples, self.plan.rows * keys_per_row))
        rate = self.fold.samples_per_second / keys_per_row
        return base.model_copy(
            update={
                "units": api.Units(
                    planned=self.plan.units,
                    claimed=len(self.fold.held_units),
                    committed=self.committed.committed,
                ),
                "documents": api.Documents(
                    total=self.plan.rows, done=account.rows, filtered=account.filtered
                ),
                "samples": api.Samples(
                    expected=(self.plan.rows - account.filtered) * keys_per_row,
                    written=samples.written,
                    skipped=samples.skipped,
                    failed=samples.failed,
                    finished=finished,
                ),
                "tokens": api.TokenCounts(
                    prompt=account.tokens.prompt,
                    completion=account.tokens.completion,
                    discarded=self.discarded_tokens if not self.fold.alive else 0,
                ),
                "rates": api.Rates(
                    completion_tokens_per_second=self.fold.tokens_per_second,
                    documents_per_second=rate,
                ),
                "last_progress_time": self.fold.last_progress_time,
                "canary": self.canary,
                "gone": self.fold.gone,
                "workers": self.fold.workers,
            }
        )


def final_progress(manifest: Manifest) -> api.Progress:
    """What `/progress` and the termination message say of a finished run, from its manifest alone."""
    total = Account(counts=dict(manifest.counts)).samples
    return api.Progress(
        spec_hash=manifest.hash,
        phase="Complete",
        finished=True,
        units=api.Units(planned=manifest.units, committed=manifest.units),
        documents=api.Documents(
            total=manifest.rows, done=manifest.rows, filtered=manifest.filtered
        ),
        samples=api.Samples(
            expected=total.in_,
            written=total.written,
            skipped=total.skipped,
            failed=total.failed,
            finished=total.in_,
        ),
        tokens=api.TokenCounts(
            prompt=manifest.tokens.prompt,
            completion=manifest.tokens.completion,
            discarded=manifest.discarded_tokens,
        ),
        gone=api.Gone(
            gpu_seconds=manifest.gpu_seconds,
            tokens=manifest.tokens.completion + manifest.discarded_tokens,
        ),
    )
