"""The driver: preflight -> plan -> watch the ledger -> publish -> manifest. CPU only, one per run.

It may die at any moment and come back, run twice, or be away: workers go on without it. Everything it
knows it reads from the ledger again; `progress.json` is a cache, the manifest's presence is the end.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from importlib.metadata import version

from rephrase_api import progress as api
from rephrase_api.errors import (
    FailureLimit,
    LedgerDamaged,
    SpecMismatch,
    first_cause,
)
from rephrase_api.prices import currency_of
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_runner import card, ledger, parts, preflight, records, report
from rephrase_runner.columns import schema_from_text, schema_to_text
from rephrase_runner.ledger import Ledger
from rephrase_runner.publish import Publisher
from rephrase_runner.records import Manifest, Plan, PlannedFile, SpecRecord
from rephrase_runner.source import ScanProgress
from rephrase_runner.store import StorageOptions, Store, exists
from rephrase_runner.units import plan_units
from rephrase_runner.watch import Watch, final_progress

logger = logging.getLogger(__name__)
_SLICES_PER_UNIT = 16


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
        engine_here: whether workers run with the packages of this process.
        mounted: templates and credentials of a pod.
    """

    def __init__(
        self,
        spec: RephraseRunSpec,
        *,
        run: str,
        pace: Pace,
        engine_here: bool,
        mounted: preflight.Mounted,
    ) -> None:
        self._spec = spec
        self._mounted = mounted
        self._engine_here = engine_here
        self._run = run
        self._pace = pace
        self._rollouts = {prompt.name: prompt.rollouts for prompt in spec.prompts}
        self._phase: api.Progress = api.Progress(phase="Preflight")
        self._watch: Watch | None = None
        self._all_committed = asyncio.Event()
        self.store: Store | None = None
        """The output, once it is open."""

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
        options = StorageOptions.of(self._spec.output.storage, self._mounted.output_credentials)
        output = None
        if exists(self._spec.output.uri):
            output = self.store = Store(self._spec.output.uri, options)
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
        checked = await preflight.check(
            self._spec,
            engine_here=self._engine_here,
            mounted=self._mounted,
            progress=self._planning,
        )
        output = self.store = Store(self._spec.output.uri, options, create=True)
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
        watch = Watch(
            book,
            plan,
            await book.units(plan),
            self._rollouts,
            lease_seconds=lease,
            canary_documents=self._spec.canary.documents,
            paying=_paying(self._spec),
        )
        running = api.Progress(phase="Running", spec_hash=spec.hash)
        publisher = Publisher(
            book,
            plan.units,
            kept=schema_from_text(plan.kept_schema),
            include_source_text=self._spec.output.include_source_text,
            target_bytes=self._spec.output.target_file_bytes,
            compression=self._spec.output.compression.value,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(self._publish(watch, publisher))
                await self._watch_over(watch, running, publishing)
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from errors
        await watch.look(asyncio.get_running_loop().time(), everything=True)
        await watch.keep()
        await self._check_output(book, publisher)
        manifest = self._manifest(watch, spec, publisher)
        await book.write_manifest(manifest)
        written = await book.manifest() or manifest
        await self._finish_up(book.store, written)
        return written

    async def _check_output(self, book: Ledger, publisher: Publisher) -> None:
        """The output is still this run's, and nothing is in it that the run has not published.

        Raises:
            SpecMismatch: it was deleted and given to another run meanwhile.
            LedgerDamaged: there are files of others beside ours (ledger, invariant 6).
        """
        await self._check_run(book)
        ours = {file.path for file in publisher.files}
        listed = [*await book.store.list("data"), *await book.store.list("dead_letter")]
        strays = [meta.name for meta in listed if meta.name not in ours]
        if strays:
            raise LedgerDamaged(
                f"files that this run has not written: {', '.join(strays[:5])}",
                where=book.store.uri,
                remedy="Move them away and run again.",
            )

    async def _check_run(self, book: Ledger) -> None:
        spec = await ledger.read_spec(book.store)
        if spec is None or spec.run != book.run:
            raise SpecMismatch(
                "this output was deleted or given to another run",
                where=book.store.uri,
                remedy="Nothing is to be done: this driver belonged to the old run.",
            )

    async def _publish(self, watch: Watch, publisher: Publisher) -> None:
        """Publish group after group; beside the watch, since a large one takes minutes."""
        while not publisher.finished:
            await self._check_run(book=watch.book)
            await publisher.advance(watch.commits)
            watch.forget(publisher.first)
            if not publisher.finished:
                await self._pause()

    async def _pause(self) -> None:
        """A tick; the one in which the last unit is seen to be committed ends with that."""
        if self._all_committed.is_set():  # a store that is away is not asked again at once
            await asyncio.sleep(self._pace.tick)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.tick):
                await self._all_committed.wait()

    async def _watch_over(
        self, watch: Watch, running: api.Progress, publishing: "asyncio.Task[None]"
    ) -> None:
        """Look and tell until everything is published, or more failed than is allowed."""
        while True:
            await watch.look(asyncio.get_running_loop().time())
            stop = self._stop(watch)
            await watch.tell(stop)
            if self._watch is None:  # not before: workers must not read what an earlier driver told
                self._phase, self._watch = running, watch
            if stop is not None:  # also if all is done: the same failures give the same verdict
                await self._wait_for_workers(watch, stop)
            if publishing.done():
                return
            if watch.committed.committed == watch.plan.units:
                self._phase = self._phase.model_copy(update={"phase": "Publishing"})
                self._all_committed.set()
            await asyncio.wait({publishing}, timeout=self._pace.tick)

    async def _finish_up(self, output: Store, manifest: Manifest) -> None:
        """Card and report are functions of what is recorded; they are rewritten at will."""
        await output.put_own("README.md", card.render(manifest).encode())
        try:
            await report.write(output)
        except Exception as error:
            logger.warning("report not written", exc_info=error)
        self._phase = final_progress(manifest)

    async def _wait_for_workers(self, watch: Watch, stop: records.Stop) -> None:
        """Give workers one lease to see `stop` and drain, then end."""
        deadline = asyncio.get_running_loop().time() + self._spec.durability.lease_seconds
        while watch.fold.alive and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self._pace.tick)
            await watch.look(asyncio.get_running_loop().time())
        raise FailureLimit(
            stop.message, remedy="Look at dead_letter/, raise the limit, and run again to continue."
        )

    def _stop(self, watch: Watch) -> records.Stop | None:
        """Whether more documents failed than the spec allows, of the whole run or of its canary."""
        limit = self._spec.retries.max_failed_documents
        failed, documents = watch.failed_documents, watch.finished_documents
        first = watch.canary
        if limit.exceeded_by(failed, documents):
            message = (
                f"{failed} of {documents} finished documents failed, more than {limit.share} and "
                f"{limit.count} (spec.retries.maxFailedDocuments)"
            )
        elif (
            first is not None
            and first.done
            and limit.exceeded_by_canary(first.failed_documents, first.documents)
        ):
            reasons = ", ".join(f"{reason} {count}" for reason, count in first.reasons.items())
            message = (
                f"{first.failed_documents} of the {first.documents} documents of the canary failed, more "
                f"than {limit.share} (spec.retries.maxFailedDocuments.share); samples by reason: {reasons}"
            )
        else:
            return None
        return records.Stop(reason=FailureLimit.reason, message=message)

    def _manifest(self, watch: Watch, spec: SpecRecord, publisher: Publisher) -> Manifest:
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
            noticed=dict(sorted(account.noticed.items())),
            collapse=account.openings.collapse(),
            gpu_seconds=round(watch.fold.gpu_seconds, 1),
            files=tuple(publisher.files),
            source=plan.files,
            skipped_files=plan.skipped_files,
            declared=spec.declared,
            resolved=spec.resolved,
            version=version("rephrase"),
        )


def _paying(spec: RephraseRunSpec) -> records.Paying:
    """What the prices of a run are found by, for reports made later from the ledger alone."""
    return records.Paying(
        currency=currency_of(spec),
        pools=tuple(
            records.PaidPool(
                name=pool.name,
                capacity_type=pool.capacity_type,
                gpu=pool.gpu.name if pool.gpu is not None else None,
                gpus=pool.gpu.count if pool.gpu is not None else 0,
                price=pool.price_per_gpu_hour,
            )
            for pool in spec.pools()
        ),
    )
