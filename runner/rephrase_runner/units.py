"""Source files with their row counts to the units of a run, in order. Pure.

Invariants: the units of a file tile its rows from the first on, without gap or overlap; no unit
spans two files; units are numbered from 0 in file order; the same files give the same units.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A source file as it was when planned, and where it can be entered.

    Attributes:
        uri: opens it from anywhere: absolute for a local file.
        name: what the output calls it (`source_file`): the URI of a remote file, the path as the
            user gave it for a local one.
        size: bytes.
        etag: version; reads are conditional on it. Empty where the store has none.
        rows: rows or lines. Of JSON lines counted under `limit.documents`, no more than are needed.
        row_groups: rows of each row group of a Parquet file, else None.
        line_starts: for plain JSON lines, byte offsets of lines 0, n, 2n ... (n =
            `lines_per_start`), else None. A file with neither cannot be entered in the middle.
        lines_per_start: lines from one entry of `line_starts` to the next.

    Readers need neither `row_groups` nor `line_starts`: a plan holds them in its units.
    """

    uri: str
    name: str
    size: int
    etag: str
    rows: int
    row_groups: Sequence[int] | None = None
    line_starts: Sequence[int] | None = None
    lines_per_start: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """A contiguous slice of one source file: the grain of claiming and of committing.

    Attributes:
        index: position in the plan, from 0.
        file: index into the plan's files.
        first_row: 0-based row or line of the file.
        byte_offset: where that line begins, for plain JSON lines; else 0.
        rows: rows in it, at least 1.
    """

    index: int
    file: int
    first_row: int
    byte_offset: int
    rows: int


def plan_units(
    files: Iterable[SourceFile], *, target_documents: int, limit: int | None = None
) -> Iterator[Unit]:
    """The units of all files, in order; one at a time, so that memory does not grow with them.

    A Parquet unit is made of whole neighboring row groups, or of an even slice of one that is
    larger than the target; a unit of plain JSON lines begins at a known line start; a compressed
    file is one unit. Units that can be cut have half the target to twice the target of rows, but
    for the last of a file, which may be smaller.

    Args:
        files: in the order of the plan; those without rows have no units.
        target_documents: rows per unit to aim for, at least 1.
        limit: plan only this many source rows, counted before filters in file order; cuts the
            last unit. None for all.
    """
    index = 0
    left = limit
    for number, file in enumerate(files):
        first_row = 0
        for rows in _sizes(file, target_documents):
            if left is not None:
                rows = min(rows, left)
                left -= rows
            if rows == 0:
                return
            yield Unit(index, number, first_row, _byte_offset(file, first_row), rows)
            index += 1
            first_row += rows


def units_for(units: Iterable[Unit], documents: int) -> int:
    """The fewest units, from the first on, that hold so many rows; all of them if they hold fewer."""
    count = rows = 0
    for unit in units:
        if rows >= documents:
            break
        count += 1
        rows += unit.rows
    return count


def _sizes(file: SourceFile, target: int) -> Iterator[int]:
    """Rows of each unit of `file`: its blocks, small neighbors merged."""
    finished = 0  # held back by one: the scrap at the end of the file may join it
    held = 0
    for block in _blocks(file, target):
        # apart if that is closer to the target than together; a scrap goes with what follows it
        if 2 * held >= target and 2 * held + block >= 2 * target:
            if finished:
                yield finished
            finished, held = held, 0
        held += block
    if 2 * held < target and finished + held <= 2 * target:
        finished, held = finished + held, 0
    yield from (rows for rows in (finished, held) if rows)


def _blocks(file: SourceFile, target: int) -> Iterator[int]:
    """Pieces of `file` that are never cut; of Parquet at most 1.5 times the target."""
    if file.row_groups is not None:
        for rows in file.row_groups:
            pieces = max(1, (2 * rows + target) // (2 * target))
            yield from ((rows * (i + 1)) // pieces - (rows * i) // pieces for i in range(pieces))
    elif file.line_starts is not None:
        for first in range(0, file.rows, file.lines_per_start):
            yield min(file.lines_per_start, file.rows - first)
    elif file.rows:
        yield file.rows


def _byte_offset(file: SourceFile, first_row: int) -> int:
    return 0 if file.line_starts is None else file.line_starts[first_row // file.lines_per_start]
