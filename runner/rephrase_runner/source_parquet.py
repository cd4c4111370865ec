"""Parquet, read by row group: each is decoded once as long as units follow each other.

A row group of a million rows holds hundreds of units: the batches of the one being read are kept,
and the next unit goes on where the last one ended. Only the columns that are used are fetched, and
a few MB at a time.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rephrase_api.errors import RephraseError
from rephrase_api.v1alpha1.source import Source
from rephrase_runner.columns import (
    plain_array,
    plain_type,
    used_columns,
    values_as,
)
from rephrase_runner.documents import BATCH_ROWS, Raw, corrupt_rows
from rephrase_runner.rows import Problem, Status
from rephrase_runner.store import SourceChanged
from rephrase_runner.units import Unit

_BATCH_BYTES = 8 << 20
_FETCH_BYTES = 4 << 20
# what the decoder raises on damage; not what a read raises: SourceChanged, AccessRefused
DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError)
_INVALID_UTF8 = Problem(Status.FAILED, "invalid_utf8", "The text is not valid UTF-8.")


class ParquetRows:
    """Reads rows of units, each row group once as long as units follow each other.

    Args:
        open_file: a file of the plan, by index, as a blocking seekable reader.
        source: the spec.
        kept: types of the kept columns.
    """

    def __init__(
        self, open_file: Callable[[int], io.RawIOBase], source: Source, kept: pa.Schema
    ) -> None:
        self._open_file = open_file
        self._source = source
        self._kept = kept
        self._columns = list(used_columns(source))
        self._number = -1
        self._file: pq.ParquetFile | None = None
        self._starts: list[int] = []
        self._group: _GroupBatches | None = None

    def read(self, unit: Unit) -> Iterator[list[Raw]]:
        """The rows of a unit, in order and all of them, in small lists.

        Raises:
            SourceChanged: the file is another one, or has fewer rows.
        """
        try:
            yield from self._read(unit)
        except (SourceChanged, RephraseError):
            self.close()  # what was half read cannot be read on
            raise

    def close(self) -> None:
        """Let go of the open file."""
        self._number, self._file, self._group = -1, None, None

    def _read(self, unit: Unit) -> Iterator[list[Raw]]:
        row, end = unit.first_row, unit.first_row + unit.rows
        while row < end:
            try:
                file = self._enter(unit.file)
            except DAMAGE as error:
                yield from corrupt_rows(end - row, first_line(error))
                return
            if end > self._starts[-1]:
                raise SourceChanged(f"planned up to row {end}, the file has {self._starts[-1]}")
            group = self._group_at(file, row)
            batch = group.at(row)
            if isinstance(batch, str):
                rows = min(end, group.end) - row
                yield from corrupt_rows(rows, batch)
            else:
                batch = batch.slice(0, end - row)
                rows = len(batch)
                yield self._raws(batch)
            row += rows

    def _enter(self, number: int) -> pq.ParquetFile:
        if self._file is None or number != self._number:
            self.close()
            file = open_parquet(self._open_file(number))
            missing = set(self._columns).difference(file.schema_arrow.names)
            if missing:
                raise SourceChanged(f"it has no column {', '.join(sorted(missing))} any more")
            groups = (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
            self._starts = list(accumulate(groups, initial=0))
            self._number, self._file = number, file
        return self._file

    def _group_at(self, file: pq.ParquetFile, row: int) -> "_GroupBatches":
        group = self._group
        if group is None or not group.reached <= row < group.end:
            number = bisect_right(self._starts, row) - 1
            bounds = self._starts[number], self._starts[number + 1]
            group = self._group = _GroupBatches(file, number, *bounds, self._columns)
        return group

    def _raws(self, batch: pa.RecordBatch) -> list[Raw]:
        try:
            return self._readable(batch)
        except DAMAGE as error:  # for example an index that its dictionary does not have
            return [raw for raws in corrupt_rows(len(batch), first_line(error)) for raw in raws]

    def _readable(self, batch: pa.RecordBatch) -> list[Raw]:
        columns = self._source.columns
        texts = _texts(batch.column(columns.text))
        rows = len(batch)
        ids = [None] * rows if columns.id is None else _singles(batch.column(columns.id))
        filters = [_singles(batch.column(f.column)) for f in self._source.filters]
        compared = list(zip(*filters, strict=True)) if filters else [()] * rows
        misfits: set[int] = set()
        kept: list[list[Any]] = []
        for field in self._kept:
            values, bad = values_as(batch.column(field.name), field.type)
            kept.append(values)
            misfits.update(bad)
        names = self._kept.names
        keeps: list[dict[str, Any]] = [{}] * rows
        if kept:
            keeps = [dict(zip(names, values, strict=True)) for values in zip(*kept, strict=True)]
        return [
            Raw(
                None if isinstance(text, Problem) else text,
                ids[i],
                compared[i],
                keeps[i],
                i in misfits,
                text if isinstance(text, Problem) else None,
            )
            for i, text in enumerate(texts)
        ]


class _GroupBatches:
    """The batches of one row group, forward only.

    Attributes:
        reached: first row that can still be had.
        end: row after the last.
    """

    def __init__(
        self, file: pq.ParquetFile, number: int, first: int, end: int, columns: list[str]
    ) -> None:
        self.reached = first
        self.end = end
        size = max(1, file.metadata.row_group(number).total_byte_size)
        rows = max(1, min(BATCH_ROWS, _BATCH_BYTES * (end - first) // size))
        self._batches = file.iter_batches(
            rows, row_groups=[number], columns=columns, use_threads=False
        )
        self._batch: pa.RecordBatch | None = None
        self._damage = ""

    def at(self, row: int) -> pa.RecordBatch | str:
        """The rows from `row` on that are at hand, at least one; or why no more can be read."""
        while not self._damage:
            batch = self._batch
            if batch is not None:
                if row < self.reached + len(batch):
                    self._batch = batch.slice(row - self.reached)
                    self.reached = row
                    return self._batch
                self.reached += len(batch)
                self._batch = None
            try:
                self._batch = next(self._batches)
            except StopIteration:
                self._damage = "The row group ends early."
            except DAMAGE as error:
                self._damage = first_line(error)
        return self._damage


def open_parquet(raw: io.RawIOBase) -> pq.ParquetFile:
    """Open a file; reads its footer. Raises one of `DAMAGE` if that cannot be read."""
    # without the buffer a column of the whole row group is fetched at once, whatever its size
    return pq.ParquetFile(
        pa.PythonFile(raw, mode="r"),
        pre_buffer=False,
        buffer_size=_FETCH_BYTES,
        page_checksum_verification=True,
    )


def _texts(array: pa.Array) -> list[str | Problem | None]:
    """Strings, nulls, and problems where the bytes are not UTF-8, which Parquet does not check."""
    array = plain_array(array)
    try:
        texts: list[str | Problem | None] = array.to_pylist()
        return texts
    except UnicodeDecodeError:
        return [_decoded(value) for value in array.cast(pa.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | Problem | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _INVALID_UTF8


def _singles(array: pa.Array) -> list[Any]:
    """Ids and filter values as Python values; None where one cannot be represented."""
    array = plain_array(array)
    if pa.types.is_float32(array.type):
        # by way of its shortest decimal, so that a stored 0.9 is 0.9 and not 0.89999998
        array = array.cast(pa.string()).cast(pa.float64())
    elif pa.types.is_timestamp(array.type):
        array = array.cast(plain_type(array.type), safe=False)
    return values_as(array, plain_type(array.type))[0]


def first_line(error: BaseException) -> str:
    """The first line of an error's text; Arrow's go on with a C++ backtrace."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
