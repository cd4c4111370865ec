"""Documents for tests: all different, all of plain words, the same on every machine."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_PLACES = ("harbor", "valley", "market", "bridge", "orchard", "station", "quarry", "library")
_DOINGS = (
    "repairs",
    "ships",
    "counts",
    "paints",
    "sells",
    "measures",
    "records",
    "studies",
    "guards",
)
_THINGS = (
    "grain",
    "copper",
    "letters",
    "timber",
    "salt",
    "maps",
    "engines",
    "cloth",
    "honey",
    "glass",
)


def a_text(number: int) -> str:
    """The text of document `number`: some thirty words."""
    place = _PLACES[number % 8]
    sentences = [
        f"The {place} of district {number} {_DOINGS[(number + k) % 9]} "
        f"{_THINGS[(number * 7 + k) % 10]} {_DOINGS[(number // 9 + k) % 9]} in year {1700 + k}."
        for k in range(3)
    ]
    return " ".join(sentences)


def rows(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Documents `first` to `first + count` as rows with id, text and url."""
    return [
        {"id": f"doc-{n}", "text": a_text(n), "url": f"https://example.org/{n}"}
        for n in range(first, first + count)
    ]


def write_parquet(path: Path, found: list[dict[str, Any]], *, row_group_rows: int = 500) -> Path:
    """A Parquet file of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=row_group_rows)
    return path


def write_corpus(folder: Path, *, files: int, rows_per_file: int, row_group_rows: int) -> None:
    """Parquet files of documents, of which every 97th is empty and every 101st null."""
    for number in range(files):
        found = rows(rows_per_file, first=number * rows_per_file)
        for row in found[::97]:
            row["text"] = ""
        for row in found[50::101]:
            row["text"] = None
        write_parquet(folder / f"part-{number}.parquet", found, row_group_rows=row_group_rows)
