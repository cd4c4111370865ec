"""The only reader and writer of `_run/`: every object of the ledger, by the protocol of
`docs/ledger.md`.

Safety rests only on names that can be created once. Nothing here is remembered between calls: what
can be read is read.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from rephrase_api.errors import LedgerDamaged, SpecMismatch
from rephrase_api.semantic import diff
from rephrase_runner import parts, records
from rephrase_runner.claims import Seen, runs
from rephrase_runner.records import (
    Claim,
    Commit,
    Group,
    GroupDone,
    Heartbeat,
    Manifest,
    Names,
    Plan,
    Progress,
    Record,
    Resolved,
    SpecRecord,
)
from rephrase_runner.rows import Key, Sample
from rephrase_runner.store import Got, Meta, Outcome, Store, Unclear
from rephrase_runner.suspects import Death, End, Silence
from rephrase_runner.units import Unit

logger = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)
T = TypeVar("T")
_PARALLEL_READS = 32
_COMMITS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """What the checkpoints of a unit hold. `unreadable` and foreign ones were ignored."""

    samples: dict[Key, Sample]
    filtered: int | None
    unreadable: int


async def read_spec(store: Store) -> SpecRecord | None:
    """The run that lives in this output, or None if there is none."""
    return await _read(store, records.SPEC, SpecRecord)


async def adopt_spec(
    store: Store, declared: dict[str, Any], spec_hash: str, resolved: Resolved, *, run: str
) -> SpecRecord:
    """Begin the run, or join the one that is there: what was written first is adopted.

    Args:
        store: the output.
        declared: the semantic spec as declared, canonical.
        spec_hash: its hash.
        resolved: what this process looked up; used only if it is first.
        run: random id for a new run.

    Raises:
        SpecMismatch: another semantic spec lives here; lists the differences.
    """
    mine = SpecRecord(run=run, declared=declared, hash=spec_hash, resolved=resolved)
    found = await read_spec(store)
    if found is None:
        outcome = await store.put_new(records.SPEC, mine.to_bytes())
        found = mine if outcome is Outcome.MINE else await read_spec(store)
    if found is None:
        raise LedgerDamaged("disappeared", where=f"{store.uri}/{records.SPEC}")
    check_same(found, declared, spec_hash, uri=store.uri)
    return found


def check_same(found: SpecRecord, declared: dict[str, Any], spec_hash: str, *, uri: str) -> None:
    """Refuse to continue a run of another semantic spec.

    Raises:
        SpecMismatch: with a line for each difference.
    """
    if found.hash != spec_hash:
        changes = "\n  ".join(diff(found.declared, declared))
        raise SpecMismatch(
            f"this output belongs to a run with another spec; what differs:\n  {changes}\n",
            where=f"spec.output.uri {uri}",
            remedy=(
                "Undo the change to continue that run, or name another output to begin a new one."
            ),
        )


class Ledger:
    """The objects of one run in one output."""

    def __init__(self, store: Store, run: str) -> None:
        self.store = store
        self.run = run
        self.names = Names(run)

    # -- plan --

    async def write_plan(self, plan: Plan, table: bytes) -> Plan:
        """Write the unit table, then the record that names it; whatever record was first is returned."""
        await self.store.put_new(plan.plan, table, deadline_seconds=None, bulk=True, own_name=True)
        await self.store.put_new(self.names.plan, plan.to_bytes(), deadline_seconds=None)
        found = await self.plan()
        if found is None:
            raise LedgerDamaged("disappeared", where=f"{self.store.uri}/{self.names.plan}")
        return found

    async def plan(self) -> Plan | None:
        """The plan that counts, or None before the run is planned."""
        return await _read(self.store, self.names.plan, Plan)

    async def units(self, plan: Plan) -> list[Unit]:
        """The units of the plan, in order.

        Raises:
            LedgerDamaged: the table is missing or its checksum does not fit.
        """
        got = await self._named(plan.plan)
        if parts.digest(got.data) != plan.sha256:
            raise LedgerDamaged(
                "checksum does not fit plan.json",
                where=f"{self.store.uri}/{plan.plan}",
                remedy="Restore it from a backup or an older version of the object.",
            )
        return await asyncio.to_thread(decode_units, got.data)

    # -- claims and heartbeats --

    async def claim(self, unit: int, epoch: int, claim: Claim) -> Outcome:
        """Try to take a unit at an epoch. Raises `Unclear`: then the unit is *not* taken, ever."""
        return await self.store.put_new(self.names.claim(unit, epoch), claim.to_bytes())

    async def latest_claim(self, unit: int) -> tuple[int, Claim] | None:
        """The highest epoch of a unit and its claim; None if it was never claimed."""
        names = [meta.name for meta in await self.store.list(self.names.claims(unit))]
        if not names:
            return None
        epoch = max(int(name.rsplit("/", 1)[1].removesuffix(".json")) for name in names)
        claim = await _read(self.store, self.names.claim(unit, epoch), Claim)
        return None if claim is None else (epoch, claim)

    async def superseded(self, unit: int, epoch: int) -> bool:
        """Whether somebody took the unit over. Thrift, not safety: the first commit wins anyway."""
        return await self.store.head(self.names.claim(unit, epoch + 1)) is not None

    async def claimed_units(self) -> set[int]:
        """All units that were ever claimed (one listing)."""
        return {records.unit_of(meta.name) for meta in await self.store.list(self.names.claims())}

    async def beat(self, heartbeat: Heartbeat) -> Seen | None:
        """Write one's own heartbeat; returns it with the store's time, the only clock there is.

        Raises:
            Unclear: it was not acknowledged.
        """
        name = self.names.worker(heartbeat.worker)
        await self.store.put_own(name, heartbeat.to_bytes())
        meta = await self.store.head(name)
        return None if meta is None else Seen(heartbeat, meta.modified)

    async def heartbeat(self, worker: str) -> Seen | None:
        """A worker's last heartbeat and when the store received it."""
        got = await self.store.get(self.names.worker(worker))
        return None if got is None else Seen(_parse(got, Heartbeat), got.meta.modified)

    async def heartbeat_metas(self) -> list[Meta]:
        """One listing of all heartbeats, so that only changed ones need be read."""
        return await self.store.list(self.names.workers)

    async def read_heartbeats(self, metas: Iterable[Meta]) -> list[Seen]:
        """Read several heartbeats at once; one that is gone is left out."""
        found = await gather_bounded([self.store.get(meta.name) for meta in metas])
        return [Seen(_parse(got, Heartbeat), got.meta.modified) for got in found if got]

    # -- a unit's results --

    async def write_checkpoint(self, name: str, data: bytes) -> None:
        """Keep finished samples of a unit that is not done. `name` carries the writer and a number."""
        await self.store.put_new(name, data, bulk=True, own_name=True)

    async def checkpoints(
        self, unit: int, *, plan: str, etag: str, planned_keys: "KeyFilter"
    ) -> Checkpointed:
        """Everything finished that any holder of the unit left behind, merged by key.

        A checkpoint is used if its footer fits and it decodes; neither epoch nor holder nor age
        matter (ledger protocol, section 5).
        """
        listed = await self.store.list(self.names.checkpoints(unit))
        found = await gather_bounded([self.store.get(meta.name, bulk=True) for meta in listed])
        return await asyncio.to_thread(
            self._merge, unit, [got for got in found if got], plan, etag, planned_keys
        )

    def _merge(
        self, unit: int, found: Sequence[Got], plan: str, etag: str, planned_keys: "KeyFilter"
    ) -> Checkpointed:
        usable: list[tuple[str, list[Sample]]] = []
        filtered: int | None = None
        unreadable = 0
        for got in found:
            try:
                origin, samples = parts.decode(got.data)
            except parts.UnreadablePart:
                unreadable += 1
                continue
            if (origin.run, origin.unit, origin.plan, origin.etag) != (self.run, unit, plan, etag):
                unreadable += 1
                continue
            if origin.filtered is not None:
                filtered = origin.filtered
            usable.append((got.meta.name, [s for s in samples if planned_keys(s.key)]))
        return Checkpointed(parts.merge(usable), filtered, unreadable)

    # -- poison (section 6) and shares (section 7) --

    async def history(self, unit: int, epoch: int) -> list[End]:
        """How the holders of a unit before `epoch` ended, oldest first; releases are left out.

        A holder that recorded an engine death ended by that. One that was called stale by the next
        claim went silent, in his last window if he had written any.
        """
        deaths = {
            _number(meta.name): meta.name for meta in await self.store.list(self.names.deaths(unit))
        }
        windows: dict[int, str] = {}
        for meta in await self.store.list(self.names.windows(unit)):
            windows[_number(meta.name)] = meta.name  # sorted: the last of each epoch stays
        ends: list[End] = []
        for earlier in range(1, epoch):
            if earlier in deaths:
                death = await _read(self.store, deaths[earlier], records.Death)
                if death is not None:
                    rows = frozenset(_rows(death.in_flight))
                    company = earlier not in windows
                    ends.append(Death(earlier, rows, name=deaths[earlier], company=company))
                continue
            claim = await _read(self.store, self.names.claim(unit, earlier + 1), Claim)
            if claim is None or claim.why != "stale":
                continue
            name = windows.get(earlier, "")
            window = await _read(self.store, name, records.Window) if name else None
            rows = frozenset(_rows(window.rows)) if window is not None else frozenset()
            ends.append(Silence(earlier, rows, name=name or self.names.claim(unit, earlier + 1)))
        return ends

    async def record_death(self, unit: int, epoch: int, death: records.Death) -> None:
        """Say which rows were in flight when the engine died."""
        await self.store.put_new(self.names.death(unit, epoch), death.to_bytes())

    async def open_window(self, unit: int, epoch: int, number: int, rows: Collection[int]) -> None:
        """Say, before they are submitted, that these rows will be alone in flight."""
        window = records.Window(run=self.run, rows=tuple(runs(sorted(rows))))
        name = self.names.window(unit, epoch, number)
        await self.store.put_new(name, window.to_bytes(), deadline_seconds=None)

    async def has_deaths(self, unit: int) -> bool:
        """Whether an engine died over this unit."""
        return bool(await self.store.list(self.names.deaths(unit)))

    async def take_share(self, unit: int, slice_: int, worker: str) -> Outcome:
        """Say that a slice of another's unit is being helped with."""
        share = records.Share(run=self.run, worker=worker)
        return await self.store.put_new(self.names.share(unit, slice_), share.to_bytes())

    async def shared_slices(self, unit: int) -> dict[int, str]:
        """Slices of a unit that helpers took, with the helper."""
        listed = await self.store.list(self.names.shares(unit))
        found = await gather_bounded(
            [_read(self.store, meta.name, records.Share) for meta in listed]
        )
        return {
            _number(meta.name): share.worker
            for meta, share in zip(listed, found, strict=True)
            if share is not None
        }

    # -- parts and commits --

    async def write_part(self, unit: int, epoch: int, worker: str, data: bytes) -> str:
        """Store a unit's part; returns its name once it is certainly there (ledger hole 5)."""
        name = self.names.part(unit, epoch, worker)
        await self.store.put_new(name, data, deadline_seconds=None, bulk=True, own_name=True)
        return name

    async def commit(self, commit: Commit) -> Outcome:
        """Make a part the result of its unit; the first commit wins."""
        return await self.store.put_new(
            self.names.commit(commit.unit), commit.to_bytes(), deadline_seconds=None
        )

    async def read_commit(self, unit: int) -> Commit | None:
        """The commit of a unit, or None while it is open."""
        return await _read(self.store, self.names.commit(unit), Commit)

    async def read_commits(self, units: Iterable[int]) -> list[Commit]:
        """Several commits at once; open units are left out."""
        wanted = list(units)
        commits: list[Commit] = []
        for first in range(0, len(wanted), _COMMITS_AT_ONCE):  # not a task for each of a million
            batch = wanted[first : first + _COMMITS_AT_ONCE]
            found = await gather_bounded([self.read_commit(unit) for unit in batch])
            commits += [commit for commit in found if commit is not None]
        return commits

    async def write_fold(self, known: int, commits: Sequence[Commit]) -> None:
        """Keep commits together in one object, so that a driver that starts anew reads few; only a cache.

        Args:
            known: commits that the driver knows of, these included; names the snapshot.
            commits: those that are in no snapshot yet.
        """
        data = await asyncio.to_thread(encode_fold, commits)
        try:
            await self.store.put_new(self.names.fold(known), data, bulk=True)
        except Unclear as error:
            logger.warning("snapshot of commits not written", extra={"reason": str(error)})

    async def folds(self) -> AsyncGenerator[list[Commit], None]:
        """The commits of all snapshots, a thousand at a time, since a parsed one takes twenty kilobytes.

        What is damaged is left out: the commits themselves are still there.
        """
        for meta in await self.store.list(self.names.folds):
            got = await self.store.get(meta.name, bulk=True)
            if got is None:
                continue
            try:
                kept = await asyncio.to_thread(read_fold, got.data)
                for first in range(0, len(kept), _COMMITS_AT_ONCE):
                    rows = kept.slice(first, _COMMITS_AT_ONCE)
                    found = await asyncio.to_thread(decode_fold, rows)
                    yield [commit for commit in found if commit.run == self.run]
            except (pa.ArrowException, ValidationError) as error:
                logger.warning(
                    "snapshot of commits is damaged",
                    extra={"object": meta.name, "error": str(error)[:200]},
                )

    async def commit_times(self) -> dict[int, datetime]:
        """When each committed unit was committed, by the store's clock (one listing)."""
        listed = await self.store.list(self.names.commits)
        return {records.unit_of(meta.name): meta.modified for meta in listed}

    async def all_commits(self, units: Iterable[int]) -> AsyncGenerator[list[Commit], None]:
        """The commits of these units, each once, some thousands at a time: for passes over large runs."""
        left = set(units)
        async for kept in self.folds():
            yield [commit for commit in kept if commit.unit in left]
            left -= {commit.unit for commit in kept}
        rest = sorted(left)
        for first in range(0, len(rest), _COMMITS_AT_ONCE):
            yield await self.read_commits(rest[first : first + _COMMITS_AT_ONCE])

    async def committed_units(self, start_after: int | None = None) -> list[int]:
        """Units that have a commit, in order (one listing)."""
        after = None if start_after is None else self.names.commit(start_after)
        listed = await self.store.list(self.names.commits, start_after=after)
        return [records.unit_of(meta.name) for meta in listed]

    async def read_part(self, commit: Commit) -> bytes:
        """The part a commit names.

        Raises:
            LedgerDamaged: it is missing or its checksum does not fit.
        """
        got = await self._named(commit.part)
        if await asyncio.to_thread(parts.digest, got.data) != commit.sha256:
            raise LedgerDamaged(
                f"checksum does not fit the commit of unit {commit.unit}",
                where=f"{self.store.uri}/{commit.part}",
                remedy=_VOID.format(unit=commit.unit),
            )
        return got.data

    async def mark_parts_removed(self) -> None:
        """Say before they go that the parts of the finished run are removed on purpose."""
        marker = records.PartsRemoved(run=self.run)
        await self.store.put_new(self.names.parts_removed, marker.to_bytes(), deadline_seconds=None)

    async def parts_removed(self) -> bool:
        """Whether the parts were removed on purpose."""
        return await self.store.head(self.names.parts_removed) is not None

    async def sweep_unit(self, unit: int) -> None:
        """Delete a unit's checkpoints and shares. Only after its commit was read or written (hole 7)."""
        for folder in (self.names.checkpoints(unit), self.names.shares(unit)):
            for meta in await self.store.list(folder):
                await self.store.delete(meta.name)

    # -- the driver's objects --

    async def progress(self) -> tuple[Progress, Meta] | None:
        """The driver's cache and when it was written."""
        got = await self.store.get(self.names.progress)
        return None if got is None else (_parse(got, Progress), got.meta)

    async def write_progress(self, progress: Progress) -> datetime | None:
        """Overwrite the driver's cache; returns the store's time.

        Raises:
            Unclear: it was not acknowledged.
        """
        await self.store.put_own(self.names.progress, progress.to_bytes())
        meta = await self.store.head(self.names.progress)
        return None if meta is None else meta.modified

    async def group(self, number: int) -> Group | None:
        """Bounds of a group, or None."""
        return await _read(self.store, self.names.group(number), Group)

    async def open_group(self, number: int, group: Group) -> Group:
        """Fix a group's bounds; whoever was first decides them (ledger hole 12)."""
        name = self.names.group(number)
        if await self.store.put_new(name, group.to_bytes(), deadline_seconds=None) is Outcome.MINE:
            return group
        found = await self.group(number)
        if found is None:
            raise LedgerDamaged("disappeared", where=f"{self.store.uri}/{name}")
        return found

    async def group_done(self, number: int) -> GroupDone | None:
        """Files of a finished group, or None."""
        return await _read(self.store, self.names.group_done(number), GroupDone)

    async def finish_group(self, number: int, done: GroupDone) -> None:
        """All files of the group are there."""
        await self.store.put_new(
            self.names.group_done(number), done.to_bytes(), deadline_seconds=None
        )

    async def manifest(self) -> Manifest | None:
        """The manifest; its presence means the run is complete.

        Raises:
            LedgerDamaged: it is that of a run which was here before, whose driver lived on.
        """
        found = await _read(self.store, records.MANIFEST, Manifest)
        if found is not None and found.run != self.run:
            raise LedgerDamaged(
                "belongs to another run, which was in this output before",
                where=f"{self.store.uri}/{records.MANIFEST}",
                remedy="Delete this file and run again.",
            )
        return found

    async def write_manifest(self, manifest: Manifest) -> None:
        """The run is complete. The first manifest stands."""
        await self.store.put_new(records.MANIFEST, manifest.to_bytes(), deadline_seconds=None)

    async def _named(self, name: str) -> Got:
        """An object that another object names, so it must be there."""
        got = await self.store.get(name, bulk=True)
        if got is None:
            raise LedgerDamaged(
                "missing, although the ledger names it",
                where=f"{self.store.uri}/{name}",
                remedy="Restore it from a backup or an older version of the object.",
            )
        return got


class KeyFilter:
    """keys(U): which keys belong to a unit. Rows that the declared filter drops never reach a checkpoint."""

    def __init__(self, unit: Unit, rollouts: dict[str, int]) -> None:
        self._unit = unit
        self._rollouts = rollouts

    def __call__(self, key: Key) -> bool:
        """Whether `key` is one of the unit's."""
        unit = self._unit
        return (
            key.file == unit.file
            and unit.first_row <= key.row < unit.first_row + unit.rows
            and 0 <= key.rollout < self._rollouts.get(key.prompt, 0)
        )


def _number(name: str) -> int:
    """The epoch or slice an object's name begins with."""
    return int(name.rsplit("/", 1)[1][:4])


def _rows(ranges: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (row for first, end in ranges for row in range(first, end))


_VOID = "Restore it, or delete the commit of unit {unit} so that the unit is done again."
_UNIT_TABLE = pa.schema(
    [
        ("unit", pa.int32()),
        ("file", pa.int32()),
        ("first_row", pa.int64()),
        ("byte_offset", pa.int64()),
        ("rows", pa.int32()),
    ]
)


def encode_units(units: Sequence[Unit]) -> bytes:
    """The unit table as Parquet."""
    columns = [
        [unit.index for unit in units],
        [unit.file for unit in units],
        [unit.first_row for unit in units],
        [unit.byte_offset for unit in units],
        [unit.rows for unit in units],
    ]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, _UNIT_TABLE, strict=True)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=_UNIT_TABLE), sink, compression="zstd")
    return bytes(sink.getvalue())


def decode_units(data: bytes) -> list[Unit]:
    """The units of a table, in order."""
    table = pq.read_table(pa.BufferReader(data))
    columns = [table.column(field.name).to_pylist() for field in _UNIT_TABLE]
    return [Unit(*row) for row in zip(*columns, strict=True)]


def encode_fold(commits: Sequence[Commit]) -> bytes:
    """Commits as one Parquet column of JSON."""
    column = pa.array([commit.to_bytes() for commit in commits], pa.binary())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"commit": column}), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_fold(data: bytes) -> pa.ChunkedArray:
    """The commits of a snapshot, not parsed yet.

    Raises:
        pyarrow.ArrowException: it is none.
    """
    return pq.read_table(pa.BufferReader(data), columns=["commit"]).column("commit")


def decode_fold(rows: pa.ChunkedArray) -> list[Commit]:
    """Commits of a snapshot.

    Raises:
        pydantic.ValidationError: they are none.
    """
    return [Commit.from_bytes(one) for one in rows.to_pylist()]


def _parse(got: Got, model: type[R]) -> R:
    try:
        return model.from_bytes(got.data)
    except ValidationError as error:
        raise LedgerDamaged(
            f"not a {model.__name__} of this version: {error.errors()[0]['msg']}",
            where=got.meta.name,
            remedy="Use the version of rephrase that wrote it, or restore the object.",
        ) from error


async def _read(store: Store, name: str, model: type[R]) -> R | None:
    got = await store.get(name)
    return None if got is None else _parse(got, model)


async def gather_bounded(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all coroutines, at most 32 at a time, results in order. The first error cancels the rest."""
    gate = asyncio.Semaphore(_PARALLEL_READS)

    async def guarded(job: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await job

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(guarded(job)) for job in jobs]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
