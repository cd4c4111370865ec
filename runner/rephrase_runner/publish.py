"""Parts to the dataset: whole files under `data/` and `dead_letter/`, a group of units at a time.

Exact under any number of drivers and restarts: a group's bounds are fixed by a record before its first
file is written, a file's name can be created once, and a file that is there already is accepted only if
its footer says that it is the same group of the same run (ledger holes 12 and 13). Until the manifest is
written, `data/` is a prefix of the dataset in whole files.
"""

import asyncio
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rephrase_api.errors import LedgerDamaged
from rephrase_runner import parts, records
from rephrase_runner.account import group_digest, group_end
from rephrase_runner.ledger import Ledger
from rephrase_runner.records import Commit, DataFile, Group, GroupDone, GroupFile
from rephrase_runner.rows import Status
from rephrase_runner.schema import (
    DEAD_LETTER,
    KEPT_PREFIX,
    VERSION,
    dictionary_columns,
    output_schema,
)
from rephrase_runner.store import Outcome

logger = logging.getLogger(__name__)
_ROWS_PER_ROW_GROUP = 8192


class Publisher:
    """Publishes the groups of one run, in order.

    Args:
        ledger: the run.
        units: how many the plan has.
        kept: types of the kept columns.
        include_source_text: whether the data has the column `source_text`.
        target_bytes: a group closes once its largest prompt has this size.
        compression: of the data files, as pyarrow names it.
    """

    def __init__(
        self,
        ledger: Ledger,
        units: int,
        *,
        kept: pa.Schema,
        include_source_text: bool,
        target_bytes: int,
        compression: str,
    ) -> None:
        self.files: list[DataFile] = []
        """Files of all groups published so far, in order."""
        self._ledger = ledger
        self._units = units
        self._schema = output_schema(kept, include_source_text=include_source_text)
        self._kept = kept
        self._target_bytes = target_bytes
        self._compression = compression
        self._group = 0
        self._first = 0

    @property
    def first(self) -> int:
        """The first unit that is not published."""
        return self._first

    @property
    def finished(self) -> bool:
        """Whether every unit is published."""
        return self._first == self._units

    async def advance(self, commits: Mapping[int, Commit]) -> None:
        """Publish every group that can be closed.

        Args:
            commits: all known commits by unit; those of published groups may be left out.

        Raises:
            LedgerDamaged: a part is missing or damaged, or a foreign file has one of our names.
        """
        while not self.finished:
            group = await self._ledger.group(self._group)
            if group is None:
                end = group_end(
                    commits,
                    first=self._first,
                    units=self._units,
                    target_bytes=self._target_bytes,
                )
                if end is None:
                    return
                mine = self._plan_group([commits[unit] for unit in range(self._first, end)])
                group = await self._ledger.open_group(self._group, mine)
            done = await self._ledger.group_done(self._group)
            if done is None:
                done = await self._publish(group)
            self.files.extend(done.files)
            self._first = group.end
            self._group += 1

    def _plan_group(self, commits: Sequence[Commit]) -> Group:
        """The record of a group: its bounds, files and rows. No file is made for zero rows."""
        prompts = sorted({prompt for commit in commits for prompt in commit.counts})
        files = []
        dead = 0
        for prompt in prompts:
            counts = [commit.counts[prompt] for commit in commits]
            written = sum(count.written for count in counts)
            dead += sum(count.skipped + count.failed for count in counts)
            if written:
                path = records.data_file(prompt, self._group)
                files.append(GroupFile(path=path, prompt=prompt, rows=written))
        if dead:
            path = records.dead_letter_file(self._group)
            files.append(GroupFile(path=path, prompt="", rows=dead))
        return Group(
            run=self._ledger.run,
            first=commits[0].unit,
            end=commits[-1].unit + 1,
            files=tuple(files),
            digest=group_digest(commits),
        )

    async def _publish(self, group: Group) -> GroupDone:
        commits = await self._ledger.read_commits(range(group.first, group.end))
        if len(commits) != group.end - group.first or group_digest(commits) != group.digest:
            raise LedgerDamaged(
                "its commits are not those it was made for",
                where=f"{self._ledger.store.uri}/{self._ledger.names.group(self._group)}",
                remedy="A commit was deleted or replaced; restore it.",
            )
        with tempfile.TemporaryDirectory(prefix="rephrase-publish-") as folder:
            writer = GroupWriter(
                Path(folder),
                group,
                run=self._ledger.run,
                schema=self._schema,
                kept=self._kept,
                compression=self._compression,
            )
            for commit in commits:
                data = await self._ledger.read_part(commit)
                await asyncio.to_thread(writer.add, data)
            await asyncio.to_thread(writer.close)
            files = [await self._put(group, file, writer.path(file)) for file in group.files]
        done = GroupDone(run=self._ledger.run, files=tuple(files))
        await self._ledger.finish_group(self._group, done)
        logger.info(
            "group published",
            extra={"group": self._group, "units": group.end - group.first, "files": len(files)},
        )
        return done

    async def _put(self, group: Group, file: GroupFile, path: Path) -> DataFile:
        data = await asyncio.to_thread(path.read_bytes)
        store = self._ledger.store
        outcome = await store.put_new(file.path, data, deadline_seconds=None, bulk=True)
        if outcome is Outcome.THEIRS:
            got = await store.get(file.path, bulk=True)
            data = got.data if got is not None else b""
            if not await asyncio.to_thread(self._same_content, data, group, file):
                raise LedgerDamaged(
                    "foreign file: it does not belong to this run",
                    where=f"{store.uri}/{file.path}",
                    remedy="Move it away, or use an empty output, and run again.",
                )
        return DataFile(
            path=file.path,
            prompt=file.prompt,
            rows=file.rows,
            bytes=len(data),
            sha256=await asyncio.to_thread(parts.digest, data),
        )

    def _same_content(self, data: bytes, group: Group, file: GroupFile) -> bool:
        """Whether another driver's file says that it holds the same rows as ours."""
        try:
            found = pq.read_metadata(pa.BufferReader(data))
            footer = json.loads((found.metadata or {})[parts.FOOTER])
        except (pa.ArrowException, OSError, KeyError, ValueError):
            return False
        expected = _footer(self._ledger.run, group, file)
        return bool(found.num_rows == file.rows and footer == expected)


class GroupWriter:
    """Writes the files of a group side by side into a folder, so that each part is read once.

    Args:
        folder: empty, for this group alone.
        group: what to write.
        run: id of the run.
        schema: of the data files.
        kept: types of the kept columns.
        compression: of the data files.
    """

    def __init__(
        self,
        folder: Path,
        group: Group,
        *,
        run: str,
        schema: pa.Schema,
        kept: pa.Schema,
        compression: str,
    ) -> None:
        self._folder = folder
        self._files = group.files
        self._data_columns = [
            KEPT_PREFIX + name if name in kept.names else name for name in schema.names
        ]
        self._dead_columns = ["status" if name == "outcome" else name for name in DEAD_LETTER.names]
        dead = any(not file.prompt for file in group.files)
        needed = {*self._data_columns, "status", *(self._dead_columns if dead else ())}
        self._columns = sorted(needed)
        self._waiting: dict[str, list[pa.Table]] = {file.prompt: [] for file in group.files}
        self._rows = {file.prompt: 0 for file in group.files}
        self._schemas = {}
        self._writers = {}
        for file in group.files:
            footer = json.dumps(_footer(run, group, file), sort_keys=True).encode()
            base = schema if file.prompt else DEAD_LETTER
            self._schemas[file.prompt] = base.with_metadata({parts.FOOTER: footer})
            self._writers[file.prompt] = pq.ParquetWriter(
                self.path(file),
                self._schemas[file.prompt],
                compression=compression,
                use_dictionary=dictionary_columns(base),
            )

    def path(self, file: GroupFile) -> Path:
        """Where a file of the group is written."""
        return self._folder / f"{file.prompt or '_dead_letter'}.parquet"

    def add(self, data: bytes) -> None:
        """Distribute the rows of one part.

        Raises:
            LedgerDamaged: the part has rows that its commit did not count.
        """
        _, table = parts.read_table(data, self._columns)
        written = pc.equal(table["status"], Status.WRITTEN.value)
        columns = table.select(self._data_columns)
        for prompt in self._waiting:
            if prompt:
                chosen = pc.and_(written, pc.equal(table["prompt"], prompt))
                self._wait(prompt, columns.filter(chosen))
            else:
                self._wait(prompt, table.select(self._dead_columns).filter(pc.invert(written)))

    def _wait(self, prompt: str, rows: pa.Table) -> None:
        schema = self._schemas[prompt]
        self._waiting[prompt].append(rows.rename_columns(schema.names).cast(schema))
        if sum(table.num_rows for table in self._waiting[prompt]) >= _ROWS_PER_ROW_GROUP:
            self._flush(prompt)

    def _flush(self, prompt: str) -> None:
        tables, self._waiting[prompt] = self._waiting[prompt], []
        rows = pa.concat_tables(tables) if tables else None
        if rows is not None and rows.num_rows:
            self._writers[prompt].write_table(rows)
            self._rows[prompt] += rows.num_rows

    def close(self) -> None:
        """Write what is waiting and the footers.

        Raises:
            LedgerDamaged: a file has not the rows that the commits counted.
        """
        for file in self._files:
            self._flush(file.prompt)
            self._writers[file.prompt].close()
        for file in self._files:
            if self._rows[file.prompt] != file.rows:
                raise LedgerDamaged(
                    f"{self._rows[file.prompt]} rows, the commits counted {file.rows}",
                    where=file.path,
                    remedy="A part does not fit its commit. Run `rephrase verify` to find it.",
                )


def _footer(run: str, group: Group, file: GroupFile) -> dict[str, Any]:
    """What a data file says of itself."""
    return {"schema": VERSION, "run": run, "group": group.digest, "prompt": file.prompt}
