"""`report.html`: collects the figures of a run from its objects alone, in bounded memory.

What is read: the commits (of a large run from their snapshots), the heartbeats, and of the data no more than
the parts of three units and the first rows of some files.
"""

import asyncio
import heapq
from bisect import bisect
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rephrase_api.errors import InvalidSpec, LedgerDamaged, RephraseError
from rephrase_api.prices import PriceList
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.source import SourceFormat
from rephrase_runner import figures as made
from rephrase_runner import page, parts
from rephrase_runner.account import Account
from rephrase_runner.columns import schema_from_text
from rephrase_runner.documents import Tally
from rephrase_runner.figures import Figures, Rewrite, Shown
from rephrase_runner.fold import Fold
from rephrase_runner.ledger import Ledger, read_spec
from rephrase_runner.records import Commit, Plan, SpecRecord
from rephrase_runner.rows import Status
from rephrase_runner.seeds import document_hash
from rephrase_runner.source import Reader
from rephrase_runner.store import SourceChanged, StorageOptions, Store
from rephrase_runner.units import Unit

NAME = "report.html"
_DOCUMENTS = 3
_FIRST_ROWS = 1000
_FILES_LOOKED_AT = 8
_ASSUMED_LEASE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """What a report is to hold beside the usual.

    Attributes:
        prices: for pools whose spec has no price.
        with_source: show documents beside their rewrites.
        source: how to reach the source, where it is read for that.
    """

    prices: PriceList | None = None
    with_source: bool = False
    source: StorageOptions = field(default_factory=StorageOptions)


async def write(store: Store, asked: Asked | None = None) -> None:
    """Put the report beside the card.

    Raises:
        RephraseError: the run cannot be read, or nothing can be written.
    """
    await store.put_own(NAME, (await render(store, asked)).encode())


async def render(store: Store, asked: Asked | None = None) -> str:
    """The page.

    Raises:
        InvalidSpec: there is no run in this output, or it is not planned yet.
        RephraseError: it cannot be read.
    """
    return page.render(await collect(store, asked or Asked()))


async def collect(store: Store, asked: Asked) -> Figures:
    """The figures of the run in `store`."""
    spec = await read_spec(store)
    book = Ledger(store, spec.run) if spec is not None else None
    plan = await book.plan() if book is not None else None
    if spec is None or book is None or plan is None:
        raise InvalidSpec(
            "no run here: _run/spec.json is missing"
            if spec is None
            else "the run is not planned yet",
            where=store.uri,
            remedy="Name the output of a run, the folder that holds _run/.",
        )
    return await _Collector(store, book, spec, plan, asked).collect()


class _Collector:
    def __init__(
        self, store: Store, book: Ledger, spec: SpecRecord, plan: Plan, asked: Asked
    ) -> None:
        self._store = store
        self._book = book
        self._spec = spec
        self._plan = plan
        self._asked = asked
        self._account = Account()
        self._speed = made.Speed()
        self._began: float | None = None
        self._ended: float | None = None
        self._chosen: list[tuple[int, int, Commit]] = []  # a heap, by the negative hash of the unit
        self._notes: list[str] = []

    async def collect(self) -> Figures:
        manifest = await self._book.manifest()
        times = await self._book.commit_times()
        async for commits in self._book.all_commits(times):
            for commit in commits:
                self._add(commit, times[commit.unit].timestamp())
        fold = await self._heartbeats()
        committed = self._account.tokens.completion
        discarded = None if fold.alive else max(0, fold.generated_tokens - committed)
        if manifest is not None:
            discarded = manifest.discarded_tokens
        cache = await self._book.progress()
        prompts = made.prompt_figures(
            self._account, [prompt.name for prompt in self._spec.resolved.prompts]
        )
        sampled = await self._sampled_parts()
        shown = [one for table in sampled for one in _documents(table, 1)]
        if not shown and manifest is not None:  # the parts were removed
            firsts = {file.prompt: file.path for file in reversed(manifest.files) if file.prompt}
            published = [await self._first_rows(path) for path in sorted(firsts.values())]
            shown = _documents(_together(published), _DOCUMENTS)
        examples = await self._examples(sampled)
        return Figures(
            spec=self._spec,
            version=manifest.version if manifest is not None else version("rephrase"),
            complete=manifest is not None,
            units=self._plan.units,
            committed=self._account.units,
            rows=self._account.rows,
            planned_rows=self._plan.rows,
            filtered=self._account.filtered,
            prompts=prompts,
            tokens=self._account.tokens,
            truncated=self._account.truncated,
            discarded=discarded,
            began=_time(self._began),
            ended=_time(self._ended),
            speed=self._speed.points(),
            speed_seconds=self._speed.seconds,
            money=made.money(
                fold.pool_seconds,
                fold.pool_gpus,
                cache[0].paying if cache is not None else None,
                self._asked.prices,
                committed=committed,
                discarded=discarded,
            ),
            dead=made.dead_reasons(prompts, examples),
            skipped_files=self._plan.skipped_files,
            shown=await self._with_sources(shown),
            notes=tuple(self._notes),
        )

    def _add(self, commit: Commit, time: float) -> None:
        self._account.add(commit)
        self._speed.add(time, commit.seconds, commit.tokens.completion)
        self._began = min(self._began or time, time - commit.seconds)
        self._ended = max(self._ended or time, time)
        if any(counts.written for counts in commit.counts.values()):
            place = document_hash(f"{commit.unit}", 0)
            heapq.heappush(self._chosen, (-place, commit.unit, commit.bare()))
            if len(self._chosen) > _DOCUMENTS:
                heapq.heappop(self._chosen)

    async def _heartbeats(self) -> Fold:
        fold = Fold(self._book, lease_seconds=_ASSUMED_LEASE_SECONDS)
        await fold.look(0.0)
        cache = await self._book.progress()
        if cache is not None:  # the youngest object there is: what heartbeats are compared with
            fold.store_time = max(filter(None, (fold.store_time, cache[1].modified)))
        return fold

    # -- a look at the data --

    async def _sampled_parts(self) -> list[pa.Table]:
        """The parts of some units; those that `rephrase gc` has removed are left out."""
        found = []
        for _, _, commit in sorted(self._chosen, key=lambda one: one[1]):
            try:
                data = await self._book.read_part(commit)
                _, table = await asyncio.to_thread(parts.read_table, data)
            except (LedgerDamaged, parts.UnreadablePart) as damage:
                if not await self._book.parts_removed():
                    self._notes.append(f"{commit.part} cannot be read: {damage}")
                continue
            found.append(table)
        return found

    async def _first_rows(self, name: str) -> pa.Table | None:
        """The first rows of a published file."""
        meta = await self._store.head(name)
        if meta is None:
            self._notes.append(f"{name} is missing.")
            return None
        raw = self._store.reader(name, size=meta.size, etag=meta.etag)

        def read() -> pa.Table | None:
            with closing(raw):
                batches = pq.ParquetFile(raw).iter_batches(batch_size=_FIRST_ROWS)
                return next((pa.Table.from_batches([batch]) for batch in batches), None)

        try:
            return await asyncio.to_thread(read)
        except (SourceChanged, pa.ArrowException, OSError) as error:
            self._notes.append(f"{name} cannot be read: {error}")
            return None

    async def _examples(self, sampled: Sequence[pa.Table]) -> dict[str, tuple[str, str]]:
        """Outcome and message of a sample with each reason, as far as a few reads find one."""
        found: dict[str, tuple[str, str]] = {}
        for table in sampled:
            _add_examples(found, table, "status")
        listed = await self._store.list("dead_letter")
        for meta in listed[:: -(-len(listed) // _FILES_LOOKED_AT) or 1]:
            if found.keys() >= self._account.reasons.keys():
                break
            table = await self._first_rows(meta.name)
            if table is not None:
                _add_examples(found, table, "outcome")
        return found

    async def _with_sources(self, shown: Sequence[Shown]) -> tuple[Shown, ...]:
        if not self._asked.with_source:
            return tuple(replace(one, source=None) for one in shown)
        missing = [one for one in shown if one.source is None]
        texts: dict[Shown, str] = {}
        if missing:
            units = await self._book.units(self._plan)
            try:
                texts = await asyncio.to_thread(self._read_source, missing, units)
            except (SourceChanged, RephraseError, OSError) as error:
                self._notes.append(
                    f"The documents cannot be shown, since the source cannot be read: {error}"
                )
        return tuple(
            one if one.source is not None else replace(one, source=texts.get(one)) for one in shown
        )

    def _read_source(self, wanted: Iterable[Shown], units: Sequence[Unit]) -> dict[Shown, str]:
        spec = RephraseRunSpec.model_validate(self._spec.declared)
        plan = self._plan
        numbers = {file.name: number for number, file in enumerate(plan.files)}
        found = {}
        with Reader(
            spec.source,
            plan.files,
            format=SourceFormat(plan.format),
            kept=schema_from_text(plan.kept_schema),
            storage=self._asked.source,
        ) as reader:
            for one in wanted:
                place = (numbers[one.source_file], one.source_row)
                unit = units[bisect(units, place, key=lambda u: (u.file, u.first_row)) - 1]
                with closing(reader.read_unit(unit, Tally())) as batches:
                    for document in (document for batch in batches for document in batch):
                        if document.row == one.source_row:
                            found[one] = document.text
                            break
        return found


def _documents(table: pa.Table | None, count: int) -> list[Shown]:
    """Some documents of these rows with all their rewrites: those with the smallest hashes."""
    if table is None or not table.num_rows:
        return []
    if "status" in table.column_names:
        table = table.filter(pc.equal(table["status"], Status.WRITTEN.value))
    names = ("source_id", "source_file", "source_row")
    keys = set(zip(*(table[name].to_pylist() for name in names), strict=True))
    chosen = heapq.nsmallest(count, keys, key=lambda key: (document_hash(key[0], 0), *key[1:]))
    return [_shown(table, *key) for key in chosen]


def _shown(table: pa.Table, source_id: str, source_file: str, row: int) -> Shown:
    its = pc.and_(pc.equal(table["source_row"], row), pc.equal(table["source_file"], source_file))
    rows = table.filter(its).to_pylist()
    rewrites = (
        Rewrite(
            one["prompt"],
            one["rollout"],
            one["text"],
            one["completion_tokens"],
            tuple(one["flags"]),
        )
        for one in sorted(rows, key=lambda one: (one["prompt"], one["rollout"]))
    )
    return Shown(source_id, source_file, row, tuple(rewrites), rows[0].get("source_text"))


def _together(tables: Iterable[pa.Table | None]) -> pa.Table | None:
    found = [table for table in tables if table is not None]
    return pa.concat_tables(found, promote_options="default") if found else None


def _add_examples(found: dict[str, tuple[str, str]], table: pa.Table, outcome: str) -> None:
    for row in table.select([outcome, "reason", "message"]).to_pylist():
        if row["reason"]:
            found.setdefault(row["reason"], (row[outcome], row["message"]))


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
