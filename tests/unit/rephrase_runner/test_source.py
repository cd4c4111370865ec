import gzip
import io
import json
import os
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from rephrase_api.v1alpha1.source import Source
from rephrase_runner.columns import schema_from_text, schema_to_text
from rephrase_runner.documents import Tally
from rephrase_runner.rows import Document, Problem, Status
from rephrase_runner.seeds import keep
from rephrase_runner.source import Reader, Scan, failed_rows, scan
from rephrase_runner.source_jsonl import JsonlRows, split_lines
from rephrase_runner.source_parquet import ParquetRows
from rephrase_runner.store import SourceChanged
from rephrase_runner.units import Unit, plan_units

COLUMNS = {"text": "text", "id": "id", "keep": ("url", "score")}


def a_row(number: int, **changes: object) -> dict[str, Any]:
    return {
        "id": f"id-{number}",
        "text": f"document {number} " + "words " * (number % 5),
        "url": f"http://example.org/{number}" if number % 3 else None,
        "score": number / 2,
        **changes,
    }


def rows(count: int) -> list[dict[str, Any]]:
    return [a_row(number) for number in range(count)]


def lines(found: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in found)


def write_parquet(path: Path, found: list[dict[str, Any]], **options: object) -> Path:
    path = path / "source.parquet"
    pq.write_table(pa.Table.from_pylist(found), path, **{"row_group_size": 10, **options})
    return path


def write_parquet_as(type_: pa.DataType) -> Callable[[Path, list[dict[str, Any]]], Path]:
    def write(path: Path, found: list[dict[str, Any]]) -> Path:
        table = pa.Table.from_pylist(found)
        for name in ("text", "url"):
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(type_))
        pq.write_table(table, path / "source.parquet", row_group_size=33)
        return path / "source.parquet"

    return write


def write_one_row_group(path: Path, found: list[dict[str, Any]]) -> Path:
    return write_parquet(path, found, row_group_size=1_000_000)


def write_plain_pages(path: Path, found: list[dict[str, Any]]) -> Path:
    options = {"row_group_size": 1_000_000, "use_dictionary": False, "write_batch_size": 64}
    return write_parquet(path, found, **options)


def write_jsonl(path: Path, found: list[dict[str, Any]]) -> Path:
    (path / "source.jsonl").write_bytes(lines(found))
    return path / "source.jsonl"


def write_jsonl_without_last_newline(path: Path, found: list[dict[str, Any]]) -> Path:
    (path / "source.ndjson").write_bytes(lines(found).removesuffix(b"\n"))
    return path / "source.ndjson"


def write_gzip(path: Path, found: list[dict[str, Any]]) -> Path:
    half = len(found) // 2  # two members: what `cat a.gz b.gz` makes
    members = gzip.compress(lines(found[:half])) + gzip.compress(lines(found[half:]))
    (path / "source.jsonl.gz").write_bytes(members)
    return path / "source.jsonl.gz"


def write_zstd(path: Path, found: list[dict[str, Any]]) -> Path:
    half = len(found) // 2
    compress = zstandard.ZstdCompressor().compress
    (path / "source.json.zst").write_bytes(
        compress(lines(found[:half])) + compress(lines(found[half:]))
    )
    return path / "source.json.zst"


FORMATS = {
    "parquet": write_parquet,
    "parquet, one row group": write_one_row_group,
    "parquet, dictionary": write_parquet_as(pa.dictionary(pa.int32(), pa.string())),
    "parquet, large_string": write_parquet_as(pa.large_string()),
    "jsonl": write_jsonl,
    "jsonl without last newline": write_jsonl_without_last_newline,
    "jsonl.gz": write_gzip,
    "json.zst": write_zstd,
}
Write = Callable[[Path, list[dict[str, Any]]], Path]


@pytest.fixture(params=FORMATS)
def write(request: pytest.FixtureRequest) -> Write:
    return FORMATS[request.param]


def a_source(uri: Path, **changes: object) -> Source:
    return Source.model_validate(
        {"uri": str(uri), "columns": COLUMNS, "unit": {"target_documents": 7}, **changes}
    )


def a_reader(source: Source, found: Scan) -> Reader:
    kept = schema_from_text(schema_to_text(found.kept))  # as a worker gets it
    return Reader(source, found.files, format=found.format, kept=kept)


def units_of(source: Source, found: Scan) -> list[Unit]:
    return list(
        plan_units(
            found.files,
            target_documents=source.unit.target_documents,
            limit=source.limit.documents,
        )
    )


def read(reader: Reader, unit: Unit) -> tuple[list[Document], Tally]:
    tally = Tally()
    documents = [document for batch in reader.read_unit(unit, tally) for document in batch]
    assert tally.rows == unit.rows
    assert len(documents) == tally.rows - tally.filtered
    return documents, tally


async def read_all(source: Source) -> list[Document]:
    found = await scan(source)
    with a_reader(source, found) as reader:
        return [d for unit in units_of(source, found) for d in read(reader, unit)[0]]


async def problems(source: Source) -> list[tuple[str, str] | None]:
    return [
        None if d.problem is None else (d.problem.status.value, d.problem.reason)
        for d in await read_all(source)
    ]


# -- the reader suite: every format, the same documents ------------------------------------------


async def test_every_format_gives_the_same_documents(write: Write, tmp_path: Path) -> None:
    wanted = rows(100)

    documents = await read_all(a_source(write(tmp_path, wanted)))

    assert documents == [
        Document(
            0,
            number,
            row["id"],
            row["text"],
            {"url": row["url"], "score": row["score"]},
        )
        for number, row in enumerate(wanted)
    ]


async def test_units_can_be_read_in_any_order(write: Write, tmp_path: Path) -> None:
    source = a_source(write(tmp_path, rows(100)))
    found = await scan(source)
    units = units_of(source, found)
    units = units[1::2] + units[::2][::-1]

    with a_reader(source, found) as reader:
        by_unit = {unit.first_row: read(reader, unit)[0] for unit in units}

    assert [d.row for first in sorted(by_unit) for d in by_unit[first]] == list(range(100))
    assert all(d.source_id == f"id-{d.row}" for documents in by_unit.values() for d in documents)


async def test_a_fresh_reader_can_begin_at_any_unit(write: Write, tmp_path: Path) -> None:
    source = a_source(write(tmp_path, rows(100)))
    found = await scan(source)

    for unit in units_of(source, found):
        with a_reader(source, found) as reader:
            documents, _ = read(reader, unit)
        wanted = range(unit.first_row, unit.first_row + unit.rows)
        assert [d.source_id for d in documents] == [f"id-{row}" for row in wanted]


async def test_a_unit_left_in_the_middle_does_not_disturb_the_next(
    write: Write, tmp_path: Path
) -> None:
    source = a_source(write(tmp_path, rows(300)), unit={"target_documents": 150})
    found = await scan(source)
    units = units_of(source, found)

    with a_reader(source, found) as reader:
        reading = reader.read_unit(units[0], Tally())
        first = next(reading)
        reading.close()
        again, _ = read(reader, units[0])
        last, _ = read(reader, units[-1])

    assert again[: len(first)] == first
    assert len(again) == units[0].rows
    assert last[-1].source_id == "id-299"


async def test_two_units_read_in_turns_do_not_mix(write: Write, tmp_path: Path) -> None:
    source = a_source(write(tmp_path, rows(600)), unit={"target_documents": 300})
    found = await scan(source)
    one, other = (units_of(source, found) * 2)[:2]

    with a_reader(source, found) as reader:
        readings = [reader.read_unit(one, Tally()), reader.read_unit(other, Tally())]
        pairs = list(zip_longest(*readings, fillvalue=[]))

    for unit, batches in zip((one, other), zip(*pairs, strict=True), strict=True):
        found_rows = [document.row for batch in batches for document in batch]
        assert found_rows == list(range(unit.first_row, unit.first_row + unit.rows))


async def test_documents_come_in_small_lists(write: Write, tmp_path: Path) -> None:
    source = a_source(write(tmp_path, rows(300)), unit={"target_documents": 300})
    found = await scan(source)
    unit, *_ = units_of(source, found)

    with a_reader(source, found) as reader:
        sizes = [len(batch) for batch in reader.read_unit(unit, Tally())]

    assert max(sizes) <= 64


async def test_a_text_of_5_mb_is_an_ordinary_document(write: Write, tmp_path: Path) -> None:
    text = "long words " * 500_000
    path = write(tmp_path, [a_row(0), a_row(1, text=text), a_row(2)])

    documents = await read_all(a_source(path))

    assert [d.source_id for d in documents] == ["id-0", "id-1", "id-2"]
    assert documents[1].text == text


async def test_without_an_id_column_a_document_is_named_by_file_and_row(
    write: Write, tmp_path: Path
) -> None:
    path = write(tmp_path, rows(3))

    documents = await read_all(a_source(path, columns={}))

    assert [d.source_id for d in documents] == [f"{path}:0", f"{path}:1", f"{path}:2"]
    assert documents[0].kept == {}


async def test_a_missing_or_empty_id_is_replaced_by_file_and_row(
    write: Write, tmp_path: Path
) -> None:
    path = write(tmp_path, [a_row(0), a_row(1, id=None), a_row(2, id="")])

    documents = await read_all(a_source(path))

    assert [d.source_id for d in documents] == ["id-0", f"{path}:1", f"{path}:2"]


async def test_ids_that_are_numbers_become_text(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, [a_row(0, id=17), a_row(1, id=2**40)])

    documents = await read_all(a_source(path))

    assert [d.source_id for d in documents] == ["17", str(2**40)]


async def test_a_limit_takes_the_first_rows_before_filters(write: Write, tmp_path: Path) -> None:
    source = a_source(
        write(tmp_path, rows(100)),
        limit={"documents": 33},
        filters=[{"column": "score", "operator": "GreaterOrEqual", "values": ["15"]}],
    )

    documents = await read_all(source)

    assert [d.row for d in documents] == [30, 31, 32]


async def test_filtered_rows_are_counted_and_keep_the_row_numbers_of_others(
    write: Write, tmp_path: Path
) -> None:
    source = a_source(
        write(tmp_path, rows(100)),
        filters=[
            {"column": "score", "operator": "Greater", "values": ["1.5"]},
            {"column": "url", "operator": "Exists"},
            {"column": "id", "operator": "NotIn", "values": ["id-4", "id-7"]},
        ],
    )
    found = await scan(source)
    unit = units_of(source, found)[0]

    with a_reader(source, found) as reader:
        documents, tally = read(reader, unit)

    wanted = [row for row in range(unit.rows) if row > 3 and row % 3 and row not in (4, 7)]
    assert [d.row for d in documents] == wanted
    assert tally == Tally(rows=unit.rows, filtered=unit.rows - len(wanted))


async def test_a_sample_is_the_same_documents_in_every_format(write: Write, tmp_path: Path) -> None:
    source = a_source(write(tmp_path, rows(300)), sample={"fraction": "0.1", "seed": 5})

    documents = await read_all(source)

    wanted = [row for row in range(300) if keep(f"id-{row}", Decimal("0.1"), 5)]
    assert [d.row for d in documents] == wanted
    assert 0 < len(wanted) < 100


# -- a bad row is a document with a problem, in every format -------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, ("skipped", "null_text")),
        ("", ("skipped", "empty_text")),
        (" \n\t\u00a0\u2003", ("skipped", "empty_text")),
        ("\x00", None),
        ("\ufeff", None),
        (" x ", None),
    ],
)
async def test_texts_without_content_are_skipped(
    write: Write, tmp_path: Path, text: str | None, problem: tuple[str, str] | None
) -> None:
    path = write(tmp_path, [a_row(0), a_row(1, text=text), a_row(2)])

    assert await problems(a_source(path)) == [None, problem, None]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", ("skipped", "empty_line")),
        (b" \r", ("skipped", "empty_line")),
        (b"{", ("failed", "broken_json")),
        (b'["text"]', ("failed", "broken_json")),
        (b'"text"', ("failed", "broken_json")),
        (b'{"text": "a"} {"text": "b"}', ("failed", "broken_json")),
        (b"[" * 100_000, ("failed", "broken_json")),
        (b'{"text": ' + b"9" * 5000 + b"}", ("failed", "broken_json")),
        (b'{"text": 7}', ("failed", "text_not_string")),
        (b'{"text": ["a"]}', ("failed", "text_not_string")),
        (b'{"text": "\xff"}', ("failed", "invalid_utf8")),
        (b'{"text": "\xed\xa0\x80"}', ("failed", "invalid_utf8")),
        (b'{"text": "\\ud800"}', ("failed", "invalid_utf8")),
        (b'{"text": "\\ud83d\\ude00"}', None),
        (b'{"id": "without text"}', ("skipped", "null_text")),
        (b'\t{"text": "with CRLF"}\r', None),
    ],
)
async def test_a_bad_line_is_told_apart_and_stops_nothing(
    tmp_path: Path, line: bytes, problem: tuple[str, str] | None
) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes(lines([a_row(0)]) + line + b"\n" + lines([a_row(2)]))

    assert await problems(a_source(path)) == [None, problem, None]


async def test_a_bad_line_keeps_its_number_and_passes_the_filters(tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes(lines([a_row(0)]) + b"{\n\n" + lines([a_row(3)]))
    filters = [{"column": "score", "operator": "Greater", "values": ["1"]}]

    documents = await read_all(a_source(path, filters=filters))

    assert [(d.row, d.source_id) for d in documents] == [
        (1, f"{path}:1"),
        (2, f"{path}:2"),
        (3, "id-3"),
    ]


async def test_no_message_of_a_bad_line_has_its_text(tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes(lines([a_row(0)]) + b'{"text": "secret" oops\n{"text": {"secret": 1}}\n')

    documents = await read_all(a_source(path))

    messages = [d.problem.message for d in documents if d.problem is not None]
    assert len(messages) == 2
    assert not [message for message in messages if "secret" in message]


async def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(rows(3)))

    assert await problems(a_source(path)) == [None, None, None]


def test_a_line_that_is_too_long_is_read_over(tmp_path: Path) -> None:
    content = lines([a_row(0), a_row(1, text="x" * 5000), a_row(2)])
    rows_of = JsonlRows(
        lambda _: io.BytesIO(content),  # type: ignore[arg-type,return-value]
        [None],
        a_source(tmp_path, columns={}),
        pa.schema([]),
        largest_line=4000,
    )

    raws = [raw for batch in rows_of.read(Unit(0, 0, 0, 0, 3)) for raw in batch]

    assert [raw.problem and (raw.problem.status, raw.problem.reason) for raw in raws] == [
        None,
        (Status.FAILED, "row_too_large"),
        None,
    ]


class LongLine:
    """A stream of one line of `size` bytes and a short one."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.tail = b"\nshort"

    def read(self, size: int, /) -> bytes:
        taken = min(size, self.left)
        self.left -= taken
        if taken:
            return b"x" * taken
        tail, self.tail = self.tail, b""
        return tail


@settings(derandomize=True, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    at_most=st.integers(1, 30),
)
def test_lines_are_split_wherever_chunks_end(lines: list[bytes], at_most: int) -> None:
    stream = io.BytesIO(b"\n".join(lines))
    chunks = SimpleNamespace(read=lambda size: stream.read(min(size, at_most)))

    found = list(split_lines(chunks, largest=5))

    wanted = lines[:-1] if lines and not lines[-1] else lines  # what ends in a newline is ended
    assert found == [None if len(line) > 5 else line for line in wanted]


def test_a_line_that_is_too_long_is_never_held() -> None:
    tracemalloc.start()

    found = list(split_lines(LongLine(200 << 20), largest=8 << 20))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [None, b"short"]
    assert peak < 40 << 20


async def test_invalid_utf8_in_parquet_fails_that_row_only(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    texts = pa.array([b"fine", b"\xff\xfe", None, b"also fine"]).view(pa.string())
    urls = pa.array([b"\xff", b"a", b"b", None]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "url": urls}), path)
    source = a_source(path, columns={"keep": ["url"]})

    documents = await read_all(source)

    assert [d.problem and d.problem.reason for d in documents] == [
        None,
        "invalid_utf8",
        "null_text",
        None,
    ]
    assert [d.kept["url"] for d in documents] == [None, "a", "b", None]
    assert [d.flags for d in documents] == [("kept_null",), (), (), ()]


# -- kept columns --------------------------------------------------------------------------------


async def test_a_kept_value_of_another_type_is_converted_if_nothing_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "source.jsonl"
    first = [a_row(n, url="a", score=n, extra={"a": 1}) for n in range(1200)]
    later = [
        a_row(1200, url=5, score=7.0, extra=[1]),
        a_row(1201, url={"k": "ä"}, score=7.5, extra="as it is"),
        a_row(1202, url="\ud800", score="8", extra=True),
    ]
    path.write_bytes(lines(first) + b"".join(json.dumps(row).encode() + b"\n" for row in later))
    source = a_source(path, columns={"keep": ["url", "score", "extra"]})

    documents = (await read_all(source))[1199:]

    assert [(dict(d.kept), d.flags) for d in documents] == [
        ({"url": "a", "score": 1199, "extra": '{"a": 1}'}, ()),
        ({"url": "5", "score": 7, "extra": "[1]"}, ()),
        ({"url": '{"k": "ä"}', "score": None, "extra": "as it is"}, ("kept_null",)),
        ({"url": None, "score": None, "extra": "true"}, ("kept_null",)),
    ]


async def test_kept_values_of_parquet_files_of_several_types_meet_in_one(tmp_path: Path) -> None:
    for name, type_ in (("a", pa.int32()), ("b", pa.float64()), ("c", pa.null())):
        table = pa.table({"text": ["x"], "score": pa.array([None], type_)})
        if name != "c":
            table = table.set_column(1, "score", pa.array([3], type_))
        pq.write_table(table, tmp_path / f"{name}.parquet")
    source = a_source(tmp_path, columns={"keep": ["score"]})

    found = await scan(source)
    documents = await read_all(source)

    assert found.kept == pa.schema([("score", pa.float64())])
    assert [d.kept["score"] for d in documents] == [3.0, 3.0, None]


async def test_nested_kept_columns_are_kept_as_they_are(tmp_path: Path) -> None:
    meta = {"lang": "en", "tags": ["a", "b"]}
    path = write_parquet(tmp_path, [a_row(0, meta=meta), a_row(1, meta=None)])

    documents = await read_all(a_source(path, columns={"keep": ["meta"]}))

    assert [d.kept["meta"] for d in documents] == [meta, None]


async def test_nanoseconds_that_python_cannot_hold_become_null(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    times = pa.array([1_000, 1_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"text": ["a", "b"], "at": times}), path)

    documents = await read_all(a_source(path, columns={"keep": ["at"]}))

    assert documents[0].kept["at"] is not None
    assert (documents[1].kept["at"], documents[1].flags) == (None, ("kept_null",))


# -- what is not decoded twice -------------------------------------------------------------------


class CountingFile(io.FileIO):
    """A file that counts the bytes read from it."""

    total = 0

    @override
    def read(self, size: int | None = -1, /) -> Any:
        data = super().read(-1 if size is None else size)
        self.total += len(data or b"")
        return data


def test_a_row_group_of_100000_rows_is_read_once_for_50_units(tmp_path: Path) -> None:
    count = 100_000
    texts = [os.urandom(30).hex() for _ in range(count)]
    table = pa.table({"text": texts, "unused": [os.urandom(50) for _ in range(count)]})
    path = tmp_path / "source.parquet"
    pq.write_table(table, path, row_group_size=count)
    opened: list[CountingFile] = []

    def open_file(_: int) -> CountingFile:
        opened.append(CountingFile(path))
        return opened[-1]

    reader = ParquetRows(open_file, a_source(path, columns={}), pa.schema([]))
    units = [Unit(i, 0, i * 2000, 0, 2000) for i in range(50)]

    found = [raw.text for unit in units for batch in reader.read(unit) for raw in batch]

    column = pq.read_metadata(path).row_group(0).column(0).total_compressed_size
    assert found == texts
    assert len(opened) == 1
    assert column <= opened[0].total < column + 200_000  # and the footer
    opened[0].close()


def test_a_jsonl_file_is_read_once_for_all_its_units(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, rows(1000))
    opened: list[CountingFile] = []

    def open_file(_: int) -> CountingFile:
        opened.append(CountingFile(path))
        return opened[-1]

    reader = JsonlRows(open_file, [None], a_source(path, columns={}), pa.schema([]))
    units = [Unit(0, 0, 0, 0, 500), Unit(1, 0, 500, 12345, 500)]  # the offset is not needed

    found = [raw.text for unit in units for batch in reader.read(unit) for raw in batch]

    assert found == [row["text"] for row in rows(1000)]
    assert [file.total for file in opened] == [path.stat().st_size]
    opened[0].close()


# -- damage inside, and a source that changes ----------------------------------------------------


def damage_column(path: Path, *, row_group: int, column: int = 0, skip: int = 0) -> None:
    chunk = pq.read_metadata(path).row_group(row_group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(start + skip)
        file.write(b"\xa5" * 40)


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
async def test_a_damaged_row_group_fails_its_rows_and_no_others(
    tmp_path: Path, compression: str
) -> None:
    path = write_parquet(
        tmp_path, rows(40), compression=compression, write_page_checksum=True, use_dictionary=False
    )
    source = a_source(path)
    found = await scan(source)
    units = units_of(source, found)
    names = pq.read_schema(path).names
    damage_column(path, row_group=2, column=names.index("text"), skip=30)
    found = await scan(source)  # the damage was there when it was planned

    with a_reader(source, found) as reader:
        documents = [d for unit in units for d in read(reader, unit)[0]]

    reasons = [d.problem and (d.problem.status, d.problem.reason) for d in documents]
    assert [d.row for d in documents] == list(range(40))
    assert reasons[:20] == [None] * 20
    assert reasons[20:30] == [(Status.FAILED, "source_corrupt")] * 10
    assert reasons[30:] == [None] * 10


async def test_a_unit_behind_the_damage_in_its_row_group_fails_too_and_ends(
    tmp_path: Path,
) -> None:
    path = write_parquet(
        tmp_path,
        rows(4000),
        row_group_size=4000,
        data_page_size=2000,
        use_dictionary=False,
        write_page_checksum=True,
    )
    size = pq.read_metadata(path).row_group(0).column(1).total_compressed_size
    damage_column(path, row_group=0, column=1, skip=size // 2)
    source = a_source(path, unit={"target_documents": 500})
    found = await scan(source)
    units = units_of(source, found)

    with a_reader(source, found) as reader:
        in_order = [d for unit in units for d in read(reader, unit)[0]]
    with a_reader(source, found) as reader:
        last, _ = read(reader, units[-1])

    fine = [d.problem is None for d in in_order]
    assert fine == sorted(fine, reverse=True)
    assert 0 < sum(fine) < 4000
    assert [d.row for d in in_order] == list(range(4000))
    assert last == in_order[-len(last) :]
    assert {d.problem.reason for d in last if d.problem} == {"source_corrupt"}


async def test_rows_of_damaged_parts_are_sampled_like_others(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path, rows(1000), row_group_size=1000, write_page_checksum=True, use_dictionary=False
    )
    damage_column(path, row_group=0, column=1, skip=30)
    source = a_source(path, sample={"fraction": "0.05"}, unit={"target_documents": 1000})

    documents = await read_all(source)

    assert 0 < len(documents) < 150
    assert {d.problem.reason for d in documents if d.problem} == {"source_corrupt"}


@pytest.mark.parametrize("write_compressed", [write_gzip, write_zstd])
def test_damage_in_a_compressed_stream_fails_the_rows_behind_it(
    tmp_path: Path, write_compressed: Write
) -> None:
    path = write_compressed(tmp_path, [a_row(n, text=os.urandom(2000).hex()) for n in range(3000)])
    data = path.read_bytes()[: path.stat().st_size * 3 // 4]
    compression = "gzip" if path.suffix == ".gz" else "zstd"
    source = a_source(path, columns={})
    reader = JsonlRows(lambda _: io.BytesIO(data), [compression], source, pa.schema([]))  # type: ignore[arg-type,return-value]

    batches = list(reader.read(Unit(0, 0, 0, 0, 3000)))
    behind = [raw for batch in reader.read(Unit(1, 0, 2900, 0, 100)) for raw in batch]

    raws = [raw for batch in batches for raw in batch]
    bad = [raw.problem is not None for raw in raws]
    assert len(raws) == 3000
    assert max(map(len, batches)) <= 64
    assert behind == raws[2900:]
    assert bad == sorted(bad)
    assert bad[0] is False
    assert {raw.problem.reason for raw in raws if raw.problem} == {"source_corrupt"}


async def test_a_file_replaced_after_planning_is_never_read(write: Write, tmp_path: Path) -> None:
    source = a_source(write(tmp_path, rows(100)))
    found = await scan(source)
    write(tmp_path, rows(101))

    with a_reader(source, found) as reader, pytest.raises(SourceChanged):
        read(reader, units_of(source, found)[0])


@pytest.mark.parametrize("write_plain", [write_parquet, write_plain_pages, write_jsonl])
async def test_a_file_replaced_while_it_is_read_is_noticed(
    tmp_path: Path, write_plain: Write
) -> None:
    found_rows = [a_row(n, text=os.urandom(10_000).hex()) for n in range(1000)]
    source = a_source(write_plain(tmp_path, found_rows), unit={"target_documents": 1000})
    found = await scan(source)
    unit, *_ = units_of(source, found)

    with a_reader(source, found) as reader:
        reading = reader.read_unit(unit, Tally())
        next(reading)
        write_plain(tmp_path, found_rows)  # the same content, but another version
        with pytest.raises(SourceChanged):
            list(reading)
        with pytest.raises(SourceChanged):
            read(reader, unit)


async def test_a_file_or_folder_that_is_gone_has_changed(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    path = write(folder, rows(10))
    source = a_source(path)
    found = await scan(source)
    unit = units_of(source, found)[0]
    path.unlink()

    with a_reader(source, found) as reader, pytest.raises(SourceChanged):
        read(reader, unit)
    folder.rmdir()
    with a_reader(source, found) as reader, pytest.raises(SourceChanged):
        read(reader, unit)


@pytest.mark.parametrize("write_plain", [write_parquet, write_jsonl, write_gzip])
async def test_fewer_rows_than_planned_mean_that_the_source_changed(
    tmp_path: Path, write_plain: Write
) -> None:
    source = a_source(write_plain(tmp_path, rows(10)), unit={"target_documents": 100})
    found = await scan(source)
    (unit,) = units_of(source, found)
    longer = Unit(0, 0, 0, 0, unit.rows + 1)

    with a_reader(source, found) as reader, pytest.raises(SourceChanged):
        read(reader, longer)


async def test_a_changed_unit_can_be_accounted_for_row_by_row(tmp_path: Path) -> None:
    source = a_source(write_jsonl(tmp_path, rows(10)))
    found = await scan(source)
    unit = Unit(3, 0, 100, 0, 150)

    batches = list(failed_rows(unit, found.files, reason="source_changed", message="Gone."))

    documents = [document for batch in batches for document in batch]
    assert [d.row for d in documents] == list(range(100, 250))
    assert {d.problem for d in documents} == {Problem(Status.FAILED, "source_changed", "Gone.")}
    assert documents[0].source_id == f"{found.files[0].name}:100"
