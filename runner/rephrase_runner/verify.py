"""`rephrase verify`: the whole account of an output, re-checked from its objects alone.

Trusts nothing it can recompute: checksums from bytes, counts and keys from rows. The invariants and their
numbers are those of `docs/ledger.md`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from rephrase_api.errors import InvalidSpec, LedgerDamaged
from rephrase_runner import parts, records
from rephrase_runner.account import Account, group_digest, imbalances
from rephrase_runner.ledger import Ledger, gather_bounded, read_spec
from rephrase_runner.records import Commit, DataFile, Group, GroupDone, Manifest, Plan
from rephrase_runner.store import Store
from rephrase_runner.units import Unit

_COMMITS_AT_ONCE = 500


@dataclass(slots=True)
class Report:
    """What was checked and what was found. `account`: outcomes by prompt, as the commits count them."""

    units: int = 0
    parts: int = 0
    files: int = 0
    samples: int = 0
    rows: int = 0
    account: dict[str, dict[str, int]] = field(default_factory=dict)
    complete: bool = False
    faults: list[str] = field(default_factory=list)


async def verify(store: Store, *, progress: Callable[[Report], None] | None = None) -> Report:
    """Check every invariant of the run in `store`.

    Returns:
        The report; the output is sound if it has no faults.

    Raises:
        InvalidSpec: there is no run in this output.
        AccessRefused: it cannot be read.
    """
    spec = await read_spec(store)
    if spec is None:
        raise InvalidSpec(
            "no run here: _run/spec.json is missing",
            where=store.uri,
            remedy="Name the output of a run, the folder that holds _run/.",
        )
    check = Verification(store, Ledger(store, spec.run), spec, progress)
    await check.run()
    return check.report


class Verification:
    """One pass over the objects of a run."""

    def __init__(
        self,
        store: Store,
        book: Ledger,
        spec: records.SpecRecord,
        progress: Callable[[Report], None] | None,
    ) -> None:
        self.report = Report()
        self._store = store
        self._book = book
        self._spec = spec
        self._progress = progress or (lambda report: None)
        self._rollouts = {prompt.name: prompt.rollouts for prompt in spec.resolved.prompts}
        self._account = Account()

    async def run(self) -> None:
        """Check everything that is there; what is missing is a fault too."""
        try:
            plan = await self._book.plan()
            if plan is None:
                self._fault(f"{self._book.names.plan} is missing: the run was never planned")
                return
            units = await self._book.units(plan)
        except LedgerDamaged as damage:
            self._fault(str(damage))
            return
        commits = await self._commits(plan, units)
        if not await self._book.parts_removed():
            await self._parts(plan, units, commits)
        done = await self._groups(plan, units, commits)
        await self._strays(done)
        await self._manifest(plan, done)

    def _fault(self, what: str) -> None:
        self.report.faults.append(what)

    # -- invariants 1 and 2: one commit per unit, balanced --

    async def _commits(self, plan: Plan, units: list[Unit]) -> dict[int, Commit]:
        present = await self._book.committed_units()
        for unit in present:
            if not 0 <= unit < plan.units:
                self._fault(f"commit of unit {unit}, but the plan has {plan.units} units")
        missing = sorted(set(range(plan.units)) - set(present))
        for unit in missing[:10]:
            self._fault(f"{self._book.names.commit(unit)} is missing: the unit is not committed")
        if len(missing) > 10:
            self._fault(f"... and {len(missing) - 10} more commits are missing")
        commits: dict[int, Commit] = {}
        known = [unit for unit in present if 0 <= unit < plan.units]
        for first in range(0, len(known), _COMMITS_AT_ONCE):
            batch = known[first : first + _COMMITS_AT_ONCE]
            found = await gather_bounded([self._read_commit(unit) for unit in batch])
            for unit, commit in zip(batch, found, strict=True):
                if commit is None:
                    continue
                for fault in imbalances(commit, rows=units[unit].rows, rollouts=self._rollouts):
                    self._fault(fault)
                commits[unit] = commit.bare()
                self._account.add(commit)
        self.report.units = len(commits)
        self.report.rows = self._account.rows
        self.report.account = {
            prompt: {name: getattr(counts, name) for name in ("written", "skipped", "failed")}
            for prompt, counts in sorted(self._account.counts.items())
        }
        return commits

    async def _read_commit(self, unit: int) -> Commit | None:
        try:
            commit = await self._book.read_commit(unit)
        except LedgerDamaged as damage:
            self._fault(str(damage))
            return None
        if commit is None or commit.unit != unit:
            self._fault(f"{self._book.names.commit(unit)} is not the commit of its unit")
            return None
        return commit

    # -- invariant 3: keys of a part = keys of its unit, each once; checksum fits --

    async def _parts(self, plan: Plan, units: list[Unit], commits: dict[int, Commit]) -> None:
        for unit, commit in sorted(commits.items()):
            try:
                data = await self._book.read_part(commit)
                faults = await asyncio.to_thread(self._part_faults, data, commit, units[unit], plan)
            except (LedgerDamaged, parts.UnreadablePart) as damage:
                faults = [f"{commit.part}: {damage}"]
            for fault in faults:
                self._fault(fault)
            self.report.parts += 1
            self._progress(self.report)

    def _part_faults(self, data: bytes, commit: Commit, unit: Unit, plan: Plan) -> list[str]:
        origin, table = parts.read_table(data)
        faults = []
        if (origin.run, origin.unit, origin.plan) != (self._book.run, unit.index, plan.sha256):
            faults.append(f"{commit.part}: belongs to another unit, plan or run")
        columns = ("file", "source_row", "prompt", "rollout")
        keys = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
        if any(file != unit.file for file, _, _, _ in keys):
            faults.append(f"{commit.part}: rows of another source file")
        rows = (key[1:] for key in keys)
        faults += self._key_faults(commit.part, rows, [unit], commit.rows - commit.filtered)
        outcomes = Counter(
            zip(table["prompt"].to_pylist(), table["status"].to_pylist(), strict=True)
        )
        for prompt, counts in commit.counts.items():
            for status in ("written", "skipped", "failed"):
                if outcomes[prompt, status] != getattr(counts, status):
                    faults.append(
                        f"{commit.part}, prompt {prompt}: {outcomes[prompt, status]} {status}, "
                        f"its commit counts {getattr(counts, status)}"
                    )
        return faults

    def _key_faults(
        self,
        where: str,
        keys: Iterable[tuple[int, str, int]],
        units: list[Unit],
        documents: int,
    ) -> list[str]:
        """Whether (row, prompt, rollout) keys of one source file are whole documents, each key once."""
        counted = Counter(keys)
        faults = []
        twice = [key for key, count in counted.items() if count > 1]
        if twice:
            row, prompt, rollout = twice[0]
            faults.append(
                f"{where}: {len(twice)} samples are there more than once, for example row {row}, "
                f"prompt {prompt}, rollout {rollout}"
            )
        inside = _row_ranges(units)
        if any(not any(row in rows for rows in inside) for row, _, _ in counted):
            faults.append(f"{where}: rows that are not of its units")
        wanted = {
            (prompt, rollout)
            for prompt, rollouts in self._rollouts.items()
            for rollout in range(rollouts)
        }
        by_row: dict[int, set[tuple[str, int]]] = {}
        for row, prompt, rollout in counted:
            by_row.setdefault(row, set()).add((prompt, rollout))
        partial = [row for row, found in by_row.items() if found != wanted]
        if partial:
            faults.append(
                f"{where}: {len(partial)} documents without all their samples, for example row "
                f"{min(partial)}"
            )
        if len(by_row) != documents:
            faults.append(f"{where}: {len(by_row)} documents, {documents} expected")
        return faults

    # -- invariants 4 and 5: groups tile the units, their files hold what the commits counted --

    async def _groups(
        self, plan: Plan, units: list[Unit], commits: dict[int, Commit]
    ) -> list[DataFile]:
        files: list[DataFile] = []
        number = first = 0
        while first < plan.units:
            name = self._book.names.group(number)
            try:
                group = await self._book.group(number)
                done = await self._book.group_done(number)
            except LedgerDamaged as damage:
                self._fault(str(damage))
                break
            if group is None or done is None:
                self._fault(f"{name}: units from {first} on are not published")
                break
            if group.first != first or group.end <= first:
                self._fault(f"{name}: begins at unit {group.first}, the one before ends at {first}")
                break
            await self._group(name, group, done, plan, units, commits)
            files.extend(done.files)
            first, number = group.end, number + 1
        return files

    async def _group(
        self,
        name: str,
        group: Group,
        done: GroupDone,
        plan: Plan,
        units: list[Unit],
        commits: dict[int, Commit],
    ) -> None:
        mine = [commits[unit] for unit in range(group.first, group.end) if unit in commits]
        if group_digest(mine) != group.digest:
            self._fault(f"{name}: was made for other commits than those that are there")
        keys: dict[str, list[tuple[int, str, int]]] = {}
        expected = {file.path: file.rows for file in group.files}
        if expected != {file.path: file.rows for file in done.files}:
            self._fault(f"{name}: its files are not those that were planned")
        for file in done.files:
            got = await self._store.get(file.path, bulk=True)
            if got is None:
                self._fault(f"{file.path} is missing")
                continue
            self.report.files += 1
            if parts.digest(got.data) != file.sha256:
                self._fault(f"{file.path}: checksum does not fit, its bytes were changed")
            try:
                table = await asyncio.to_thread(_read_keys, got.data)
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                self._fault(f"{file.path}: cannot be read: {error}")
                continue
            if table.num_rows != file.rows:
                self._fault(f"{file.path}: {table.num_rows} rows, {file.rows} expected")
            if file.prompt:
                self.report.samples += table.num_rows
            for source, row, prompt, rollout in zip(
                *(table[column].to_pylist() for column in _KEY_COLUMNS), strict=True
            ):
                keys.setdefault(source, []).append((row, prompt, rollout))
            self._progress(self.report)
        await asyncio.to_thread(self._published_keys, name, group, plan, units, commits, keys)

    def _published_keys(
        self,
        name: str,
        group: Group,
        plan: Plan,
        units: list[Unit],
        commits: dict[int, Commit],
        keys: dict[str, list[tuple[int, str, int]]],
    ) -> None:
        """Every key of the group's units once, in the data or in the dead letters."""
        names = [file.name for file in plan.files]
        by_file: dict[str, list[Unit]] = {}
        for unit in units[group.first : group.end]:
            by_file.setdefault(names[unit.file], []).append(unit)
        for source in sorted(by_file.keys() | keys.keys()):
            mine = by_file.get(source, [])
            documents = sum(
                commits[unit.index].rows - commits[unit.index].filtered
                for unit in mine
                if unit.index in commits
            )
            for fault in self._key_faults(
                f"{name}, {source}", keys.get(source, []), mine, documents
            ):
                self._fault(fault)

    # -- invariant 6: nothing that no record names --

    async def _strays(self, files: list[DataFile]) -> None:
        named = {file.path for file in files}
        for folder in ("data", "dead_letter"):
            for meta in await self._store.list(folder):
                if meta.name not in named:
                    self._fault(f"{meta.name}: no group names this file")

    # -- the manifest, and invariant 7 --

    async def _manifest(self, plan: Plan, files: list[DataFile]) -> None:
        try:
            manifest = await self._book.manifest()
        except LedgerDamaged as damage:
            self._fault(str(damage))
            return
        if manifest is None:
            self._fault(f"{records.MANIFEST} is missing: the run is not complete")
            return
        self.report.complete = True
        for fault in self._manifest_faults(manifest, plan, files):
            self._fault(f"{records.MANIFEST}: {fault}")
        seen = await self._book.read_heartbeats(await self._book.heartbeat_metas())
        generated = sum(beat.heartbeat.generated_tokens for beat in seen)
        committed = self._account.tokens.completion
        if generated < committed:
            self._fault(f"{committed} tokens committed, but only {generated} were generated")

    def _manifest_faults(
        self, manifest: Manifest, plan: Plan, files: list[DataFile]
    ) -> Iterable[str]:
        account = self._account
        told = {
            "run": self._book.run,
            "hash": self._spec.hash,
            "declared": self._spec.declared,
            "resolved": self._spec.resolved,
            "units": plan.units,
            "rows": plan.rows,
            "source": plan.files,
            "skipped_files": plan.skipped_files,
            "filtered": account.filtered,
            "documents": account.rows - account.filtered,
            "counts": account.counts,
            "reasons": account.reasons,
            "tokens": account.tokens,
            "truncated": account.truncated,
            "noticed": account.noticed,
            "collapse": account.openings.collapse(),
            "files": tuple(files),
        }
        for name, value in told.items():
            if getattr(manifest, name) != value:
                yield f'"{name}" is not what spec, plan, commits and groups say'


def _row_ranges(units: Iterable[Unit]) -> list[range]:
    """Rows of units of one file, neighbors joined: a group's are nearly always one range."""
    ranges: list[range] = []
    for unit in units:
        if ranges and ranges[-1].stop == unit.first_row:
            ranges[-1] = range(ranges[-1].start, unit.first_row + unit.rows)
        else:
            ranges.append(range(unit.first_row, unit.first_row + unit.rows))
    return ranges


_KEY_COLUMNS = ("source_file", "source_row", "prompt", "rollout")


def _read_keys(data: bytes) -> pa.Table:
    """Key columns of a published file; all of it is decoded, so that damage anywhere shows."""
    return pq.read_table(pa.BufferReader(data)).select(_KEY_COLUMNS)
