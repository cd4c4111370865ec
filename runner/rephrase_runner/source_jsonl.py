"""JSON lines, read from any line start; .gz and .zst as streams.

A line is what a newline ends; the last one may lack it. Rows are line numbers, blank and broken
lines included, so that a row number means the same to every tool.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from rephrase_api.errors import RephraseError
from rephrase_api.v1alpha1.source import Source
from rephrase_runner.columns import is_encodable, json_fit
from rephrase_runner.documents import BATCH_ROWS, Raw, corrupt_rows
from rephrase_runner.rows import Problem, Status
from rephrase_runner.store import SourceChanged
from rephrase_runner.units import Unit

LARGEST_LINE = 64 << 20
_BATCH_BYTES = 8 << 20
CHUNK_BYTES = 4 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK = Problem(Status.SKIPPED, "empty_line", "The line is blank.")
_INVALID_UTF8 = Problem(Status.FAILED, "invalid_utf8", "The line is not valid UTF-8.")
_SURROGATE = Problem(Status.FAILED, "invalid_utf8", "The text has a lone surrogate: not Unicode.")
NOT_OBJECT = Problem(Status.FAILED, "broken_json", "The line is JSON, but not an object.")
_TOO_LARGE = Problem(Status.FAILED, "row_too_large", "The line is longer than 64 MiB.")


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


def decompressed(raw: io.RawIOBase, compression: str | None) -> Readable:
    """The content of a file. All members or frames are read; one that is cut raises OSError."""
    if compression is None:
        return raw
    # by itself the codec would ask the store for 64 KiB at a time
    buffered = io.BufferedReader(raw, CHUNK_BYTES)
    return pa.CompressedInputStream(pa.PythonFile(buffered, mode="r"), compression)  # type: ignore[no-any-return]


class JsonlRows:
    """Reads rows of units; the stream is kept, so that the next unit goes on where the last ended.

    Args:
        open_file: a file of the plan, by index, as a blocking seekable reader.
        compressions: of the plan's files, by index: None, gzip or zstd.
        source: the spec.
        kept: types of the kept columns.
        largest_line: longer lines are read over, never held; bytes.
    """

    def __init__(
        self,
        open_file: Callable[[int], io.RawIOBase],
        compressions: Sequence[str | None],
        source: Source,
        kept: pa.Schema,
        *,
        largest_line: int = LARGEST_LINE,
    ) -> None:
        self._open_file = open_file
        self._compressions = compressions
        self._text = source.columns.text
        self._id = source.columns.id
        self._compared = [filter_.column for filter_ in source.filters]
        self._kept = [(field.name, json_fit(field.type)) for field in kept]
        self._as_text = json_fit(pa.string())
        self._largest_line = largest_line
        self._lines: Iterator[bytes | None] = iter(())
        self._next = (-1, 0)  # file and line that `_lines` goes on with

    def read(self, unit: Unit) -> Iterator[list[Raw]]:
        """The rows of a unit, in order and all of them, in small lists.

        Raises:
            SourceChanged: the file is another one, or ends before the planned rows.
        """
        try:
            yield from self._read(unit)
        except (SourceChanged, RephraseError):
            self.close()  # what was half read cannot be read on
            raise

    def close(self) -> None:
        """Let go of the open file."""
        self._next, self._lines = (-1, 0), iter(())

    def _read(self, unit: Unit) -> Iterator[list[Raw]]:
        row, end = unit.first_row, unit.first_row + unit.rows
        while row < end:
            try:
                raws = self._batch(unit, row)
            except OSError as error:  # the codec's; a read raises SourceChanged or AccessRefused
                yield from corrupt_rows(end - row, str(error))
                return
            row += len(raws)
            yield raws

    def _batch(self, unit: Unit, row: int) -> list[Raw]:
        """The rows from `row` on, at least one."""
        self._enter(unit, row)
        self._next = (-1, 0)  # until it is known where the stream stands again
        raws: list[Raw] = []
        held, most = 0, min(BATCH_ROWS, unit.first_row + unit.rows - row)
        while len(raws) < most and held < _BATCH_BYTES:
            try:
                line = next(self._lines)
            except StopIteration:
                message = f"it ends after {row + len(raws)} lines, more are planned"
                raise SourceChanged(message) from None
            except OSError:  # damage: what was read before it stands, the next batch meets it again
                if not raws:
                    raise
                return raws
            held += len(line or b"")
            if row == 0 and not raws and line is not None:
                line = line.removeprefix(BYTE_ORDER_MARK)
            raws.append(self._raw(line))
        self._next = (unit.file, row + len(raws))
        return raws

    def _enter(self, unit: Unit, row: int) -> None:
        if self._next == (unit.file, row):
            return
        raw, compression = self._open_file(unit.file), self._compressions[unit.file]
        line = 0
        if unit.byte_offset and compression is None:
            raw.seek(unit.byte_offset)
            line = unit.first_row
        self._lines = split_lines(decompressed(raw, compression), largest=self._largest_line)
        for _ in range(row - line):
            next(self._lines, None)

    def _raw(self, line: bytes | None) -> Raw:
        if line is None:
            return Raw(None, compared=None, problem=_TOO_LARGE)
        value = parse_line(line)
        if isinstance(value, Problem):
            return Raw(None, compared=None, problem=value)
        text = value.get(self._text)
        problem = None
        if b"\\u" in line and isinstance(text, str) and not is_encodable(text):
            problem = _SURROGATE
        id_ = None if self._id is None else value.get(self._id)
        kept, misfit = {}, False
        for name, fit in self._kept:
            item = value.get(name)
            kept[name] = None if item is None else fit(item)
            misfit = misfit or (item is not None and kept[name] is None)
        return Raw(
            text,
            None if id_ is None else self._as_text(id_),
            [value.get(name) for name in self._compared],
            kept,
            misfit,
            problem,
        )


def split_lines(stream: Readable, *, largest: int) -> Iterator[bytes | None]:
    """The lines of a stream, without their newlines; None for one that is longer than `largest`."""
    held: list[bytes] = []  # pieces of the line that is not ended yet
    size = 0  # its length, also once it is too long to be held
    while chunk := stream.read(CHUNK_BYTES):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            size += len(end)
            if size > largest:
                yield None
            else:
                yield b"".join([*held, end]) if held else end
            held, size = [], 0
        size += len(rest)
        if size > largest:
            held.clear()
        elif rest:
            held.append(rest)
    if size:
        yield b"".join(held) if size <= largest else None


def parse_line(line: bytes) -> dict[str, Any] | Problem:
    """The object on a line, or why there is none."""
    if not line or line.isspace():
        return BLANK
    try:
        # json.loads of bytes would let invalid UTF-8 pass
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return _INVALID_UTF8
    except json.JSONDecodeError as error:
        message = f"The line is not JSON: {error.msg} at column {error.colno}."
        return Problem(Status.FAILED, "broken_json", message)
    except (ValueError, RecursionError) as error:  # digits or nesting without end
        message = f"The line cannot be read as JSON: {type(error).__name__}."
        return Problem(Status.FAILED, "broken_json", message)
    return value if isinstance(value, dict) else NOT_OBJECT
