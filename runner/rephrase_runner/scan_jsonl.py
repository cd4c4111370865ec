"""Planning of JSON lines: one streaming pass counts the lines and notes where units can begin.

JSON lines have no footer. An estimate that must read little tells their number from the head of each file.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from typing_extensions import override

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Source
from rephrase_runner.columns import json_type, require_columns, used_columns
from rephrase_runner.filters import check_values
from rephrase_runner.listing import ListedFile, UnreadableFile, compression_of
from rephrase_runner.source_jsonl import (
    BLANK,
    BYTE_ORDER_MARK,
    CHUNK_BYTES,
    NOT_OBJECT,
    Readable,
    decompressed,
    parse_line,
)
from rephrase_runner.units import SourceFile

_HEAD_BYTES = 16 << 20
ESTIMATE_BYTES = 1 << 20
"""Of each file that are read for an estimate. Of zstd the last block, up to 128 KiB of text, is lost."""
_PIECE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Counted:
    """What planning needs of a file.

    Attributes:
        rows: lines; no more than the limit.
        line_starts: byte offset of every n-th line.
        kinds: for each key of the first lines the Python types of its values, without NoneType.
        objects: how many of the first lines are JSON objects.
        others: how many are something else; blank lines are not counted.
        is_array: whether the first one begins an array that goes on.
    """

    rows: int
    line_starts: tuple[int, ...]
    kinds: dict[str, frozenset[type]]
    objects: int
    others: int
    is_array: bool


class JsonlScan:
    """Counts lines, checks the first lines of all files against the spec, finds the kept types.

    Args:
        source: the spec.
        first_lines: how many lines of each file to look into.
    """

    def __init__(self, source: Source, *, first_lines: int) -> None:
        self._source = source
        self._first_lines = first_lines
        self._kinds: dict[str, frozenset[type]] = {}
        self._uri = ""

    def look(self, raw: io.RawIOBase, name: str, on_chunk: Callable[[], None]) -> Counted:
        """Count a file.

        Raises:
            UnreadableFile: compressed, and damaged or cut.
        """
        return count(
            decompressed(raw, compression_of(name)),
            lines_per_start=self._source.unit.target_documents,
            limit=self._source.limit.documents,
            first_lines=self._first_lines,
            on_chunk=on_chunk,
        )

    def add(self, file: ListedFile, found: Counted) -> SourceFile:
        """Check one more file.

        Raises:
            InvalidSpec: not JSON lines, or no text column, or one that never holds a string.
        """
        self._check(found, file.uri)
        plain = compression_of(file.name) is None
        return SourceFile(
            file.uri,
            file.name,
            file.size,
            file.etag,
            rows=found.rows,
            line_starts=found.line_starts if plain else None,
            lines_per_start=self._source.unit.target_documents if plain else 0,
        )

    def kept(self) -> pa.Schema:
        """The types of the kept columns; checks the filters against the columns' values.

        Raises:
            InvalidSpec: a column that no file has, or a filter that can never hold.
        """
        if self._kinds:
            # a key may be absent from some lines, even from all the first lines of a file
            require_columns(used_columns(self._source), self._kinds, uri=self._uri)
            filters = self._source.filters
            check_values(filters, {f.column: _comparable(self._kinds[f.column]) for f in filters})
        keep = self._source.columns.keep
        return pa.schema([(name, json_type(self._kinds.get(name, ()))) for name in keep])

    def _check(self, counted: Counted, uri: str) -> None:
        if counted.is_array or (counted.others and not counted.objects):
            what = "one JSON array" if counted.is_array else "lines that are no JSON objects"
            raise InvalidSpec(
                f"{uri} holds {what}, not JSON lines",
                where="spec.source.uri",
                remedy=(
                    "JSON lines have one object a line; `jq -c '.[]'` makes them of an array. "
                    "spec.source.include can leave the file out."
                ),
            )
        if not counted.objects:
            return
        text, id_ = self._source.columns.text, self._source.columns.id
        used = used_columns(self._source)
        always = {name: field for name, field in used.items() if name in (text, id_)}
        require_columns(always, counted.kinds, uri=uri)
        kinds = counted.kinds[text]
        if kinds and str not in kinds:
            strings = [name for name, known in counted.kinds.items() if str in known]
            raise InvalidSpec(
                f'column "{text}" holds {_words(kinds)} in {uri}',
                where=used[text],
                remedy=f"It must hold strings. Columns of strings: {', '.join(strings) or 'none'}.",
            )
        for name, known in counted.kinds.items():
            self._kinds[name] = self._kinds.get(name, frozenset()) | known
        self._uri = self._uri or uri


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a file tells: `read` of its bytes hold what was counted."""

    counted: Counted
    read: int


class JsonlHeads:
    """Estimates lines from the head of each file; checks the same as `JsonlScan` does.

    Args:
        source: the spec.
        first_lines: how many lines of each file to look into.
    """

    def __init__(self, source: Source, *, first_lines: int) -> None:
        self._target = source.unit.target_documents
        self._first_lines = first_lines
        self._scan = JsonlScan(source, first_lines=first_lines)
        self.exact = True
        """Whether every file so far was read to its end."""

    def look(self, raw: io.RawIOBase, name: str, on_chunk: Callable[[], None]) -> Head:
        """Count the lines of a file's head.

        Raises:
            UnreadableFile: compressed, and damaged.
        """
        head = _Cut(raw, ESTIMATE_BYTES)
        found = count(
            _UpToCut(decompressed(head, compression_of(name)), head),
            lines_per_start=self._target,
            limit=None,
            first_lines=self._first_lines,
            on_chunk=on_chunk,
        )
        return Head(found, head.size)

    def add(self, file: ListedFile, found: Head) -> SourceFile:
        """Check one more file; its rows are estimated.

        Raises:
            InvalidSpec: not JSON lines, or no text column, or one that never holds a string.
        """
        rows, whole = found.counted.rows, found.read == file.size
        if whole or found.counted.objects:  # else no line ends in the head, and nothing is known
            self._scan.add(file, found.counted)
        if not whole:
            self.exact = False
            rows = round((rows - 0.5) * file.size / found.read)  # the last line is cut somewhere
        plain = compression_of(file.name) is None
        starts = range(-(-rows // self._target))  # not where lines begin: an estimate reads no unit
        return SourceFile(
            file.uri,
            file.name,
            file.size,
            file.etag,
            rows=rows,
            line_starts=starts if plain else None,
            lines_per_start=self._target if plain else 0,
        )

    def kept(self) -> pa.Schema:
        """The types of the kept columns, as far as the heads show them."""
        return self._scan.kept()


class _Cut(io.RawIOBase):
    """The first bytes of a file, read at once."""

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__()
        self._left = memoryview(raw.read(size) or b"")
        self.size = len(self._left)
        self.is_cut = self.size == size

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class _UpToCut:
    """A decompressed stream that ends where its file was cut; in pieces, since the last one is lost."""

    def __init__(self, stream: Readable, head: _Cut) -> None:
        self._stream, self._head = stream, head

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(min(size, _PIECE_BYTES))
        except OSError:
            if not self._head.is_cut:
                raise
            return b""


def count(
    stream: Readable,
    *,
    lines_per_start: int,
    limit: int | None,
    first_lines: int,
    on_chunk: Callable[[], None],
) -> Counted:
    """Count lines in one pass, in memory that does not grow with the file.

    Args:
        stream: the content.
        lines_per_start: note where every n-th line begins.
        limit: stop after this many lines.
        first_lines: how many lines to look into for the columns.
        on_chunk: called after each few MB.

    Raises:
        UnreadableFile: compressed data that is damaged or cut.
    """
    starts, rows, position = [0], 0, 0
    head, last, ended = b"", b"\n", False
    while not ended and (limit is None or rows < limit):
        try:
            chunk = stream.read(CHUNK_BYTES)
        except OSError as error:
            raise UnreadableFile(str(error)) from error
        ended = not chunk
        if len(head) < _HEAD_BYTES and head.count(b"\n") < first_lines:
            head += chunk
        newlines, passed, at = chunk.count(b"\n"), 0, 0
        while (wanted := len(starts) * lines_per_start - rows) <= newlines:
            at, passed = _after_newline(chunk, at, wanted - passed), wanted
            starts.append(position + at)
        rows += newlines
        position += len(chunk)
        last = chunk[-1:] or last
        on_chunk()
    if limit is not None and rows >= limit:
        rows = limit
    elif last != b"\n":
        rows += 1
    first = head.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    if not (ended and position == len(head)):
        first.pop()  # cut somewhere
    needed = -(-rows // lines_per_start)
    return Counted(rows, tuple(starts[:needed]), *_look_into(first[:first_lines]))


def _look_into(lines: list[bytes]) -> tuple[dict[str, frozenset[type]], int, int, bool]:
    kinds: dict[str, set[type]] = {}
    objects = others = 0
    is_array = False
    for line in lines:
        value = parse_line(line)
        if isinstance(value, dict):
            objects += 1
            for name, item in value.items():
                known = kinds.setdefault(name, set())
                if item is not None:
                    known.add(type(item))
        elif value is not BLANK:
            # the last element of an array over several lines is an object on a line of its own
            first = objects + others == 0
            is_array |= first and value is not NOT_OBJECT and line.lstrip().startswith(b"[")
            others += 1
    return {name: frozenset(known) for name, known in kinds.items()}, objects, others, is_array


def _after_newline(chunk: bytes, start: int, number: int) -> int:
    """Index after the `number`-th newline from `start` on; there are so many.

    By doubling, then by halves: counting is far faster than finding one after the other.
    """
    low, step = start, 64
    while (before := chunk.count(b"\n", low, low + step)) < number:
        low, number, step = low + step, number - before, step * 2
    high = min(low + step, len(chunk))
    while high - low > 1:
        middle = (low + high) // 2
        before = chunk.count(b"\n", low, middle)
        if before >= number:
            high = middle
        else:
            low, number = middle, number - before
    return high


def _comparable(kinds: frozenset[type]) -> frozenset[type]:
    """What a filter can compare; `bytes` stands for what it cannot."""
    simple = kinds - {list, dict}
    return simple if simple or not kinds else frozenset({bytes})


def _words(kinds: frozenset[type]) -> str:
    names = {bool: "booleans", int: "numbers", float: "numbers", list: "arrays", dict: "objects"}
    return " and ".join(sorted({names[kind] for kind in kinds}))
