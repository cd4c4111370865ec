"""Rows as a format delivers them to Documents: filter, sample, and what cannot be rewritten. Pure.

Rules: a row whose filter columns cannot be read passes the filters, so that it is counted as failed
and not as filtered; sampling goes by the source id, by `<file name>:<row>` where there is none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from rephrase_runner.filters import Filters
from rephrase_runner.rows import Document, Problem, Status
from rephrase_runner.seeds import keep

BATCH_ROWS = 64
"""Rows that are handed on together: small, so that the first can be rewritten at once."""
KEPT_NULL = "kept_null"
_NOTHING: Mapping[str, object] = {}


class Raw(NamedTuple):
    """One row as its format delivers it.

    Attributes:
        text: value of the text column; str, None, or whatever stands there.
        id: value of the id column, None where there is none.
        compared: values of the filter columns, in the order of the filters; None if the row cannot
            be read.
        kept: values of the kept columns, of their planned types.
        kept_null: whether a kept value did not fit its type and is null now.
        problem: set if the row or its text cannot be read.
    """

    text: object
    id: object = None
    compared: Sequence[object] | None = ()
    kept: Mapping[str, object] = _NOTHING
    kept_null: bool = False
    problem: Problem | None = None


@dataclass(slots=True)
class Tally:
    """What was read of a unit so far: rows, and how many of them were filtered out."""

    rows: int = 0
    filtered: int = 0


class DocumentMaker:
    """Makes Documents of one plan's rows.

    Args:
        names: names of the plan's files, by index.
        filters: compiled.
        fraction: share of the rows to take; 1 takes all.
        seed: of the sample.
    """

    def __init__(
        self, names: Sequence[str], *, filters: Filters, fraction: Decimal, seed: int
    ) -> None:
        self._names = names
        self._filters = filters if filters.columns else None
        self._fraction = fraction
        self._seed = seed

    def documents(
        self, file: int, first_row: int, raws: Iterable[Raw], tally: Tally
    ) -> list[Document]:
        """The rows from `first_row` on that are not filtered out; all are counted in `tally`."""
        filters, fraction = self._filters, self._fraction
        documents = []
        for row, raw in enumerate(raws, first_row):
            tally.rows += 1
            if filters is not None and raw.compared is not None and not filters.fit(raw.compared):
                tally.filtered += 1
                continue
            source_id = _id_text(raw.id) or f"{self._names[file]}:{row}"
            if fraction < 1 and not keep(source_id, fraction, self._seed):
                tally.filtered += 1
                continue
            text = raw.text
            problem = raw.problem or text_problem(text)
            documents.append(
                Document(
                    file,
                    row,
                    source_id,
                    text if problem is None and isinstance(text, str) else "",
                    raw.kept,
                    problem,
                    (KEPT_NULL,) if raw.kept_null else (),
                )
            )
        return documents


def text_problem(text: object) -> Problem | None:
    """Why this value of the text column cannot be rewritten, or None."""
    if text is None:
        return Problem(Status.SKIPPED, "null_text", "The text column is null.")
    if not isinstance(text, str):
        kind = type(text).__name__
        return Problem(Status.FAILED, "text_not_string", f"The text column holds a {kind}.")
    if not text or text.isspace():
        return Problem(Status.SKIPPED, "empty_text", "The text is empty or white space only.")
    return None


def corrupt_rows(rows: int, message: str) -> Iterator[list[Raw]]:
    """Rows that damage inside their file made unreadable."""
    problem = Problem(Status.FAILED, "source_corrupt", message)
    for first in range(0, rows, BATCH_ROWS):
        yield [Raw(None, compared=None, problem=problem)] * min(BATCH_ROWS, rows - first)


def _id_text(value: object) -> str:
    """A source's own id as text; empty if it has none."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return value.hex() if isinstance(value, bytes) else str(value)
