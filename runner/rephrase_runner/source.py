"""Parquet and JSON lines to Documents: find the files, count them once, read any unit.

In the flow: the driver calls `scan` and plans units from what it returns; a worker opens a `Reader`
on the plan's files and reads units. What was planned is what is read: every read is conditional on
the planned etag, and a unit has the planned number of rows or is `SourceChanged`. A bad row is a
Document with a Problem, never an exception.

Files are found in `listing.py`; a format is looked at in `scan_*.py` and read in `source_*.py`;
`documents.py` makes Documents of rows.
"""

import asyncio
import io
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from types import TracebackType
from typing import Protocol, Self, TypeVar

import pyarrow as pa

from rephrase_api.errors import AccessRefused, InvalidSpec
from rephrase_api.v1alpha1.source import OnUnreadableFile, Source, SourceFormat
from rephrase_runner.documents import BATCH_ROWS, DocumentMaker, Tally
from rephrase_runner.filters import Filters
from rephrase_runner.listing import (
    Files,
    ListedFile,
    Listing,
    ReadableFile,
    UnreadableFile,
    compression_of,
    list_files,
)
from rephrase_runner.rows import Document, Problem, Status
from rephrase_runner.scan_jsonl import JsonlHeads, JsonlScan
from rephrase_runner.scan_parquet import ParquetScan
from rephrase_runner.source_jsonl import JsonlRows
from rephrase_runner.source_parquet import ParquetRows
from rephrase_runner.store import SourceChanged, StorageOptions
from rephrase_runner.units import SourceFile, Unit

F = TypeVar("F")
_PARALLEL_FILES = 16
_INFERRED_LINES = 1000
_LEAST_LINES = 16
_REPORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """How far planning has come. Of Parquet only footers are read, which `bytes` does not count."""

    files: int
    files_total: int
    bytes: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A source file that cannot be opened, and why, in one sentence."""

    uri: str
    message: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What planning needs to know about the source.

    Attributes:
        format: Parquet or Jsonl, never Auto; goes into the plan.
        files: in order of name; `plan_units` takes them as they are. Under `limit.documents` only
            as many as hold that many rows.
        kept: types of the kept columns, frozen here for the whole run; `columns.schema_to_text`
            makes it a string for the plan.
        unreadable: files left out under onUnreadableFile Skip.
        ignored: names of files in the folder that are not of the format.
        exact: whether rows were counted; else they are estimated, and no unit can be read.
    """

    format: SourceFormat
    files: tuple[SourceFile, ...]
    kept: pa.Schema
    unreadable: tuple[Unreadable, ...]
    ignored: tuple[str, ...]
    exact: bool = True


async def scan(
    source: Source,
    *,
    storage: StorageOptions | None = None,
    progress: Callable[[ScanProgress], None] | None = None,
    estimate: bool = False,
) -> Scan:
    """Find the files of `source`, check their columns, and count their rows.

    Parquet: footers only. JSON lines: one streaming pass. 16 files at a time, in memory that does
    not grow with their size.

    Args:
        source: the spec.
        storage: how to reach the store.
        progress: called in the event loop, a few times a second at most.
        estimate: read only the heads of files without a footer, and estimate their rows.

    Raises:
        InvalidSpec: no such source, nothing that fits, a column that is missing or of a wrong
            type, files that differ, or files that cannot be opened (under onUnreadableFile Fail;
            all of them are listed).
        AccessRefused: the store refuses us or is away; or a file changes while it is scanned.
    """
    storage = storage or StorageOptions.of(source.storage)
    listing = await list_files(source, storage)
    if listing.format is SourceFormat.PARQUET:
        return await _scan(ParquetScan(source), source, listing, storage, progress)
    lines = max(_LEAST_LINES, _INFERRED_LINES // len(listing.files))
    if estimate:
        heads = JsonlHeads(source, first_lines=lines)
        found = await _scan(heads, source, listing, storage, progress)
        return replace(found, exact=heads.exact)
    jsonl = JsonlScan(source, first_lines=lines)
    return await _scan(jsonl, source, listing, storage, progress)


class Reader:
    """Reads units of one plan. Blocking: for one thread; units one after the other.

    Consecutive units are read on without opening or decoding anything twice. A unit that is left in
    the middle (the generator closed) is fine; two generators in turns are slow, but right.

    Args:
        source: the spec; columns, filters and sample are used.
        files: the plan's files: anything with uri, name, size, etag and rows.
        format: Parquet or Jsonl, as planned.
        kept: types of the kept columns, as planned.
        storage: how to reach the store.
    """

    def __init__(
        self,
        source: Source,
        files: Sequence[ReadableFile],
        *,
        format: SourceFormat,
        kept: pa.Schema,
        storage: StorageOptions | None = None,
    ) -> None:
        opener = Files(storage or StorageOptions())

        def open_file(number: int) -> io.RawIOBase:
            return opener.open(files[number])

        self._rows: ParquetRows | JsonlRows
        if format is SourceFormat.PARQUET:
            self._rows = ParquetRows(open_file, source, kept)
        else:
            compressions = [compression_of(file.name) for file in files]
            self._rows = JsonlRows(open_file, compressions, source, kept)
        self._maker = DocumentMaker(
            [file.name for file in files],
            filters=Filters(source.filters),
            fraction=Decimal(source.sample.fraction),
            seed=source.sample.seed,
        )

    def read_unit(self, unit: Unit, tally: Tally) -> Generator[list[Document], None, None]:
        """The documents of a unit in row order, in lists of up to 64.

        Rows that are filtered out are counted in `tally` only. When it ends, `tally.rows` is
        `unit.rows`.

        Raises:
            SourceChanged: the file is not the planned one any more, or has not the planned rows.
            AccessRefused: the store refuses us or was away for minutes.
        """
        row = unit.first_row
        for raws in self._rows.read(unit):
            documents = self._maker.documents(unit.file, row, raws, tally)
            row += len(raws)
            if documents:
                yield documents

    def close(self) -> None:
        """Let go of the open file and what was decoded of it."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def failed_rows(
    unit: Unit, files: Sequence[ReadableFile], *, reason: str, message: str, first: int = 0
) -> Iterator[list[Document]]:
    """Every row of a unit from its `first` on as failed, for a source that changed or is gone.

    None is filtered: neither filter nor sample can be read (ledger protocol, section 5).
    """
    problem = Problem(Status.FAILED, reason, message)
    name = files[unit.file].name
    end = unit.first_row + unit.rows
    for start in range(unit.first_row + first, end, BATCH_ROWS):
        yield [
            Document(unit.file, row, f"{name}:{row}", "", problem=problem)
            for row in range(start, min(end, start + BATCH_ROWS))
        ]


class _FormatScan(Protocol[F]):
    """What a format knows of planning; F is what it finds in a file."""

    def look(self, raw: io.RawIOBase, name: str, on_chunk: Callable[[], None]) -> F:
        """Look into a file. Blocking."""

    def add(self, file: ListedFile, found: F) -> SourceFile:
        """Check it against the spec and the files before it."""

    def kept(self) -> pa.Schema:
        """The types of the kept columns over all files."""


async def _scan(
    format_: _FormatScan[F],
    source: Source,
    listing: Listing,
    storage: StorageOptions,
    progress: Callable[[ScanProgress], None] | None,
) -> Scan:
    files: list[SourceFile] = []
    unreadable: list[Unreadable] = []
    rows, limit = 0, source.limit.documents
    meter = _Meter(listing, progress)
    opener = Files(storage)

    def look(file: ListedFile) -> F | Unreadable:
        try:
            raw = opener.open(file)
            return format_.look(raw, file.name, lambda: meter.chunk(file, raw.tell()))
        except UnreadableFile as error:
            return Unreadable(file.told, str(error))
        except SourceChanged as error:
            raise AccessRefused(
                "it changes while the run is planned",
                where=file.told,
                remedy="Run again when nothing writes to the source any more.",
            ) from error

    pool = ThreadPoolExecutor(_PARALLEL_FILES, thread_name_prefix="scan")
    loop = asyncio.get_running_loop()
    waiting: deque[tuple[ListedFile, asyncio.Future[F | Unreadable]]] = deque()
    left = iter(listing.files)
    try:
        while limit is None or rows < limit:
            while len(waiting) < _PARALLEL_FILES and (file := next(left, None)) is not None:
                waiting.append((file, loop.run_in_executor(pool, look, file)))
            if not waiting:
                break
            file, looking = waiting.popleft()
            found = await looking
            if isinstance(found, Unreadable):
                unreadable.append(found)
            else:
                files.append(format_.add(file, found))
                rows += files[-1].rows
            meter.file()
    finally:
        meter.stop()
        for _, looking in waiting:
            looking.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
    if unreadable and (source.on_unreadable_file is OnUnreadableFile.FAIL or not files):
        raise _unreadable_files(unreadable, len(listing.files))
    return Scan(listing.format, tuple(files), format_.kept(), tuple(unreadable), listing.ignored)


def _unreadable_files(unreadable: Sequence[Unreadable], total: int) -> InvalidSpec:
    lines = "\n  ".join(f"{file.uri}: {file.message}" for file in unreadable)
    return InvalidSpec(
        f"{len(unreadable)} of {total} files cannot be opened:\n  {lines}\n",
        where="spec.source.uri",
        remedy=(
            "Repair or remove them, choose others by spec.source.include, or leave them out with "
            "spec.source.onUnreadableFile: Skip."
        ),
    )


class _Stopped(Exception):
    """The scan is over; what still runs in a thread need not go on."""


class _Meter:
    """Counts what the scanning threads read and tells the event loop now and then."""

    def __init__(self, listing: Listing, progress: Callable[[ScanProgress], None] | None) -> None:
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._files, self._files_total = 0, len(listing.files)
        by_bytes = listing.format is SourceFormat.JSONL
        self._bytes_total = sum(file.size for file in listing.files) if by_bytes else 0
        self._bytes: dict[str, int] = {}
        self._told = 0.0
        self._stop = threading.Event()

    def chunk(self, file: ListedFile, position: int) -> None:
        """A thread has read up to `position`; raises `_Stopped` once nobody wants to know."""
        if self._stop.is_set():
            raise _Stopped
        self._loop.call_soon_threadsafe(self._read, file.uri, position)

    def file(self) -> None:
        """A file is done."""
        self._files += 1
        self._tell()

    def stop(self) -> None:
        """No more files are wanted."""
        self._stop.set()

    def _read(self, uri: str, position: int) -> None:
        self._bytes[uri] = position
        self._tell()

    def _tell(self) -> None:
        now = self._loop.time()
        if self._progress is None or (
            now - self._told < _REPORT_SECONDS and self._files < self._files_total
        ):
            return
        self._told = now
        read = sum(self._bytes.values())
        self._progress(ScanProgress(self._files, self._files_total, read, self._bytes_total))
