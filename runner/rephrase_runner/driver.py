"""The driver: preflight -> plan -> watch the ledger -> publish -> manifest. CPU only, one per run.

It may die at any moment and come back, run twice, or be away: workers go on without it. Everything it
knows it reads from the ledger again; `progress.json` is a cache, the manifest's presence is the end.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from rephrase_api import progress as api
from rephrase_api.errors import FailureLimit, LedgerDamaged
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_runner import card, ledger, parts, preflight, records
from rephrase_runner.account import Account, imbalances
from rephrase_runner.claims import runs
from rephrase_runner.columns import schema_from_text, schema_to_text
from rephrase_runner.fold import Fold
from rephrase_runner.ledger import Ledger
from rephrase_runner.publish import Publisher
from rephrase_runner.records import Commit, Manifest, Plan, PlannedFile, SpecRecord
from rephrase_runner.source import ScanProgress
from rephrase_runner.store import StorageOptions, Store, Unclear, exists
from rephrase_runner.units import Unit, plan_units

logger = logging.getLogger(__name__)
_SLICES_PER_UNIT = 16
_FULL_LISTING_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Pace:
    """The driver's clock, in seconds."""

    tick: float = 10


class Driver:
    """One driver process.

    Args:
        spec: the whole spec.
        run: random id, used if this output has no run yet.
        pace: clock.
    """

    def __init__(self, spec: RephraseRunSpec, *, run: str, pace: Pace) -> None:
        self._spec = spec
        self._run = run
        self._pace = pace
        self._rollouts = {prompt.name: prompt.rollouts for prompt in spec.prompts}
        self._phase: api.Progress = api.Progress(phase="Preflight")
        self._watch: Watch | None = None

    def progress(self) -> api.Progress:
        """The body of `GET /progress`."""
        if self._watch is not None and not self._phase.finished:
            return self._watch.progress(self._phase)
        return self._phase

    def failed(self, reason: str, message: str) -> None:
        """The run cannot go on; said in `/progress` until the process ends."""
        self._phase = self.progress().model_copy(
            update={"phase": "Failed", "reason": reason, "message": message, "finished": True}
        )

    async def run(self) -> Manifest:
        """Carry the run to its end.

        Raises:
            RephraseError: a person must act; what was written stands and can be continued.
        """
        semantic = declared(self._spec)
        wanted = spec_hash(semantic)
        options = StorageOptions.of(self._spec.output.storage)
        output = None
        if exists(self._spec.output.uri):
            output = Store(self._spec.output.uri, options)
            found = await ledger.read_spec(output)
            if found is not None:
                ledger.check_same(found, semantic, wanted, uri=output.uri)
                manifest = await Ledger(output, found.run).manifest()
                if manifest is not None:
                    await self._finish_up(output, manifest)
                    return manifest
                plan = await Ledger(output, found.run).plan()
                if plan is not None:
                    return await self._carry_out(Ledger(output, found.run), found, plan)
        checked = await preflight.check(self._spec, progress=self._planning)
        output = Store(self._spec.output.uri, options, create=True)
        await preflight.check_output(output, token=self._run)
        spec = await ledger.adopt_spec(output, semantic, wanted, checked.resolved, run=self._run)
        book = Ledger(output, spec.run)
        plan = await book.plan() or await self._plan(book, checked)
        return await self._carry_out(book, spec, plan)

    def _planning(self, scanned: ScanProgress) -> None:
        message = f"{scanned.files} of {scanned.files_total} source files read"
        self._phase = api.Progress(phase="Planning", message=message)

    async def _plan(self, book: Ledger, checked: preflight.Preflight) -> Plan:
        """Cut the source into units and freeze them."""
        source = self._spec.source
        units = list(
            plan_units(
                checked.scan.files,
                target_documents=source.unit.target_documents,
                limit=source.limit.documents,
            )
        )
        table = await asyncio.to_thread(ledger.encode_units, units)
        checksum = parts.digest(table)
        plan = Plan(
            run=book.run,
            plan=book.names.plan_table(checksum),
            sha256=checksum,
            units=len(units),
            rows=sum(unit.rows for unit in units),
            slice_rows=max(1, source.unit.target_documents // _SLICES_PER_UNIT),
            files=tuple(
                PlannedFile(
                    uri=file.uri, name=file.name, size=file.size, etag=file.etag, rows=file.rows
                )
                for file in checked.scan.files
            ),
            format=checked.scan.format.value,
            kept_schema=schema_to_text(checked.scan.kept),
            skipped_files=tuple(file.uri for file in checked.scan.unreadable),
        )
        logger.info("run planned", extra={"units": plan.units, "rows": plan.rows})
        return await book.write_plan(plan, table)

    async def _carry_out(self, book: Ledger, spec: SpecRecord, plan: Plan) -> Manifest:
        """Watch the workers and publish until the manifest is written."""
        lease = self._spec.durability.lease_seconds
        watch = Watch(book, plan, await book.units(plan), self._rollouts, lease_seconds=lease)
        self._phase = api.Progress(phase="Running", spec_hash=spec.hash)
        self._watch = watch
        publisher = Publisher(
            book,
            plan.units,
            kept=schema_from_text(plan.kept_schema),
            include_source_text=self._spec.output.include_source_text,
            target_bytes=self._spec.output.target_file_bytes,
            compression=self._spec.output.compression.value,
        )
        while True:
            await watch.look(asyncio.get_running_loop().time())
            stop = self._stop(watch.account)
            await watch.tell(stop)
            await publisher.advance(watch.commits)
            if publisher.finished:
                break
            if stop is not None:
                await self._wait_for_workers(watch, stop)
            if len(watch.commits) == plan.units:
                self._phase = self._phase.model_copy(update={"phase": "Publishing"})
            await asyncio.sleep(self._pace.tick)
        await watch.look(asyncio.get_running_loop().time(), everything=True)
        manifest = self._manifest(watch, spec, publisher)
        await book.write_manifest(manifest)
        written = await book.manifest() or manifest
        await self._finish_up(book.store, written)
        return written

    async def _finish_up(self, output: Store, manifest: Manifest) -> None:
        """The card is a function of the manifest; it is rewritten at will."""
        await output.put_own("README.md", card.render(manifest).encode())
        self._phase = final_progress(manifest)

    async def _wait_for_workers(self, watch: "Watch", stop: records.Stop) -> None:
        """Give workers one lease to see `stop` and drain, then end."""
        deadline = asyncio.get_running_loop().time() + self._spec.durability.lease_seconds
        while watch.fold.alive and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self._pace.tick)
            await watch.look(asyncio.get_running_loop().time())
        raise FailureLimit(
            stop.message, remedy="Look at dead_letter/, raise the limit, and run again to continue."
        )

    def _stop(self, account: Account) -> records.Stop | None:
        """Whether more documents failed than the spec allows (share and count both exceeded)."""
        limit = self._spec.retries.max_failed_documents
        failed = max((counts.failed for counts in account.counts.values()), default=0)
        documents = account.rows - account.filtered
        if not limit.exceeded_by(failed, documents):
            return None
        return records.Stop(
            reason=FailureLimit.reason,
            message=(
                f"{failed} of {documents} documents failed, more than {limit.share} and "
                f"{limit.count} (spec.retries.maxFailedDocuments)"
            ),
        )

    def _manifest(self, watch: "Watch", spec: SpecRecord, publisher: Publisher) -> Manifest:
        """The account of the finished run; raises if it does not close."""
        plan, account = watch.plan, watch.account
        published = sum(file.rows for file in publisher.files)
        if account.units != plan.units or published != account.samples.in_:
            raise LedgerDamaged(
                f"{published} samples published, {account.samples.in_} committed in "
                f"{account.units} of {plan.units} units",
                where=watch.book.store.uri,
                remedy="Run `rephrase verify` to find the object that does not fit.",
            )
        return Manifest(
            run=watch.book.run,
            hash=spec.hash,
            units=plan.units,
            rows=account.rows,
            filtered=account.filtered,
            documents=account.rows - account.filtered,
            counts=account.counts,
            reasons=dict(sorted(account.reasons.items())),
            tokens=account.tokens,
            discarded_tokens=watch.discarded_tokens,
            truncated=account.truncated,
            gpu_seconds=round(watch.fold.gpu_seconds, 1),
            files=tuple(publisher.files),
            source=plan.files,
            skipped_files=plan.skipped_files,
            declared=spec.declared,
            resolved=spec.resolved,
            version=version("rephrase"),
        )


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
    ) -> None:
        self.book = book
        self.plan = plan
        self.commits: dict[int, Commit] = {}
        self.account = Account()
        self.fold = Fold(book, lease_seconds=lease_seconds)
        self._units = units
        self._rollouts = rollouts
        self._counter = 0
        self._listed_at: float | None = None

    @property
    def discarded_tokens(self) -> int:
        """Tokens that were generated and are in no commit (finished ones in open units aside)."""
        return max(0, self.fold.generated_tokens - self.account.tokens.completion)

    async def look(self, now: float, *, everything: bool = False) -> None:
        """Read what is new.

        Args:
            now: the loop's clock, seconds.
            everything: list all commits, whatever the heartbeats report.
        """
        await self.fold.look(now)
        reported = self.fold.reported_commits - self.commits.keys()
        listing_due = self._listed_at is None or now - self._listed_at > _FULL_LISTING_SECONDS
        if (
            everything
            or listing_due
            or self.fold.units_committed > len(self.commits) + len(reported)
        ):
            self._listed_at = now
            reported = set(await self.book.committed_units()) - self.commits.keys()
        for commit in await self.book.read_commits(sorted(reported)):
            faults = imbalances(commit, rows=self._units[commit.unit].rows, rollouts=self._rollouts)
            if faults:
                raise LedgerDamaged(
                    "; ".join(faults),
                    where=f"{self.book.store.uri}/{self.book.names.commit(commit.unit)}",
                    remedy="The unit's account does not balance; nothing was published from it.",
                )
            self.commits[commit.unit] = commit
            self.account.add(commit)

    async def tell(self, stop: records.Stop | None) -> None:
        """Write the cache that workers read."""
        self._counter += 1
        cache = records.Progress(
            run=self.book.run,
            counter=self._counter,
            committed=tuple(runs(sorted(self.commits))),
            claimed=tuple(sorted(self.fold.held_units - self.commits.keys())),
            stop=stop,
        )
        try:
            self.fold.store_time = await self.book.write_progress(cache)
        except Unclear as error:
            logger.warning("progress.json not acknowledged", extra={"reason": str(error)})

    def progress(self, base: api.Progress) -> api.Progress:
        """The body of `GET /progress`."""
        account, samples = self.account, self.account.samples
        keys_per_row = sum(self._rollouts.values())
        finished = max(samples.in_, min(self.fold.samples, self.plan.rows * keys_per_row))
        rate = self.fold.samples_per_second / keys_per_row
        return base.model_copy(
            update={
                "units": api.Units(
                    planned=self.plan.units,
                    claimed=len(self.fold.held_units),
                    committed=len(self.commits),
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
