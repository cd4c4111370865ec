import asyncio
import gzip
import hashlib
import io
import json
import os
import tracemalloc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Source, SourceFormat
from rephrase_runner.columns import schema_from_text, schema_to_text
from rephrase_runner.scan_jsonl import ESTIMATE_BYTES, Counted, count
from rephrase_runner.source import Scan, ScanProgress, scan
from rephrase_runner.units import plan_units


def a_source(uri: Path, **changes: object) -> Source:
    return Source.model_validate({"uri": str(uri), **changes})


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:  # noqa: ANN401
    pq.write_table(pa.table(columns), path, **options)
    return path


async def refusal(source: Source) -> str:
    with pytest.raises(InvalidSpec) as refused:
        await scan(source)
    return str(refused.value)


def size_of(path: Path) -> int:
    return path.stat().st_size


class Trickle:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, at_most: int) -> None:
        self.data = io.BytesIO(data)
        self.at_most = at_most

    def read(self, size: int, /) -> bytes:
        return self.data.read(min(size, self.at_most))


def counted(
    data: bytes, *, at_most: int, lines_per_start: int, limit: int | None = None
) -> Counted:
    return count(
        Trickle(data, at_most),
        lines_per_start=lines_per_start,
        limit=limit,
        first_lines=16,
        on_chunk=lambda: None,
    )


# -- counting ------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    lines=st.lists(st.binary(max_size=8).map(lambda b: b.replace(b"\n", b"")), max_size=40),
    ended=st.booleans(),
    lines_per_start=st.integers(1, 10),
    limit=st.none() | st.integers(1, 45),
    at_most=st.integers(1, 100),
)
def test_lines_and_their_starts_are_counted(
    lines: list[bytes], *, ended: bool, lines_per_start: int, limit: int | None, at_most: int
) -> None:
    data = b"".join(line + b"\n" for line in lines)
    if not ended:
        data = data.removesuffix(b"\n")
    wanted = data.split(b"\n")[: -1 if data.endswith(b"\n") or not data else None]
    wanted = wanted[:limit]
    starts = list(accumulate((len(line) + 1 for line in wanted), initial=0))[: len(wanted)]

    found = counted(data, at_most=at_most, lines_per_start=lines_per_start, limit=limit)

    assert found.rows == len(wanted)
    assert list(found.line_starts) == starts[::lines_per_start]


def test_counting_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    line = json.dumps({"text": "x" * 1000}).encode() + b"\n"
    with path.open("wb") as file:
        file.writelines([line] * 100_000)

    with path.open("rb", buffering=0) as raw:
        tracemalloc.start()
        found = count(
            raw, lines_per_start=1000, limit=None, first_lines=1000, on_chunk=lambda: None
        )
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert (found.rows, len(found.line_starts)) == (100_000, 100)
    assert found.line_starts[7] == 7000 * len(line)
    assert peak < 32 << 20


async def test_a_limit_ends_the_count_with_the_file_that_reaches_it(tmp_path: Path) -> None:
    for name in "abc":
        write_jsonl(tmp_path / f"{name}.jsonl", *[{"text": "x"}] * 10)

    found = await scan(a_source(tmp_path, limit={"documents": 15}))

    assert [(file.name[-7:], file.rows) for file in found.files] == [
        ("a.jsonl", 10),
        ("b.jsonl", 10),
    ]


async def test_the_rows_of_a_parquet_file_are_those_of_its_row_groups(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["x"] * 25}, row_group_size=10)

    found = await scan(a_source(path))

    (file,) = found.files
    assert found.format is SourceFormat.PARQUET
    assert (file.rows, file.row_groups, file.size) == (25, (10, 10, 5), size_of(path))


async def test_files_without_rows_are_part_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    write_jsonl(tmp_path / "full.jsonl", {"text": "x"})

    found = await scan(a_source(tmp_path))

    assert [file.rows for file in found.files] == [0, 1]


async def test_progress_ends_with_everything(tmp_path: Path) -> None:
    for number in range(40):
        write_jsonl(tmp_path / f"{number:02}.jsonl", {"text": "x" * 100})
    told: list[ScanProgress] = []

    await scan(a_source(tmp_path), progress=told.append)

    size = sum(size_of(tmp_path / f"{number:02}.jsonl") for number in range(40))
    assert told[-1] == ScanProgress(40, 40, size, size)
    assert [p.files for p in told] == sorted(p.files for p in told)


async def test_a_scan_can_be_canceled(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.jsonl").write_bytes(b'{"text": "x"}\n' * 100_000)
    began = asyncio.Event()
    scanning = asyncio.create_task(scan(a_source(tmp_path), progress=lambda _: began.set()))
    await began.wait()

    scanning.cancel()

    with pytest.raises(asyncio.CancelledError):
        await scanning


# -- files that cannot be opened -----------------------------------------------------------------


def a_corpus_with_damage(path: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        write_parquet(path / f"{name}.parquet", {"text": ["x"] * 100})
    whole = (path / "b.parquet").read_bytes()
    (path / "b.parquet").write_bytes(whole[:-20])
    (path / "c.parquet").write_bytes(b"")
    footer = int.from_bytes(whole[-8:-4], "little")
    (path / "d.parquet").write_bytes(whole[: -8 - footer] + b"\xff" * footer + whole[-8:])
    return path


async def test_all_unreadable_files_are_named_at_once(tmp_path: Path) -> None:
    message = await refusal(a_source(a_corpus_with_damage(tmp_path)))

    assert "spec.source.uri: 3 of 4 files cannot be opened" in message
    assert all(f"{tmp_path}/{name}.parquet: " in message for name in "bcd")
    assert "spec.source.onUnreadableFile: Skip" in message


async def test_unreadable_files_can_be_skipped_and_are_listed(tmp_path: Path) -> None:
    source = a_source(a_corpus_with_damage(tmp_path), on_unreadable_file="Skip")

    found = await scan(source)

    assert [file.uri for file in found.files] == [f"{tmp_path}/a.parquet"]
    assert [file.uri[-9:] for file in found.unreadable] == ["b.parquet", "c.parquet", "d.parquet"]
    assert all(file.message and "\n" not in file.message for file in found.unreadable)


async def test_a_source_of_unreadable_files_only_is_refused_under_skip_too(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")

    message = await refusal(a_source(tmp_path, on_unreadable_file="Skip"))

    assert "1 of 1 files cannot be opened" in message


@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.ZstdCompressor().compress)],
)
async def test_a_cut_compressed_file_cannot_be_opened(
    tmp_path: Path,
    name: str,
    compress: Any,  # noqa: ANN401
) -> None:
    data = compress(
        b"".join(json.dumps({"text": os.urandom(99).hex()}).encode() + b"\n" for _ in range(999))
    )
    (tmp_path / name).write_bytes(data[: len(data) // 2])

    assert f"1 of 1 files cannot be opened:\n  {tmp_path}/{name}: Trunc" in await refusal(
        a_source(tmp_path)
    )


# -- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"text": "txt"}, "spec.source.columns.text"),
        ({"id": "txt"}, "spec.source.columns.id"),
        ({"keep": ["txt"]}, "spec.source.columns.keep"),
    ],
)
async def test_a_missing_column_is_refused_with_the_nearest_name(
    tmp_path: Path, format_: str, columns: dict[str, object], field: str
) -> None:
    path = tmp_path / f"a.{format_}"
    if format_ == "parquet":
        write_parquet(path, {"text": ["x"], "language": ["en"]})
    else:
        write_jsonl(path, {"text": "x", "language": "en"})

    message = await refusal(a_source(path, columns=columns))

    assert message.startswith(f'{field}: no column "txt" in {path}.')
    assert "text, language." in message
    assert message.endswith('Did you mean "text"?')


async def test_a_missing_filter_column_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"text": "x"})
    filters = [{"column": "score", "operator": "Exists"}]

    assert "spec.source.filters[0].column: no column" in await refusal(
        a_source(path, filters=filters)
    )


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([1]), "int64"),
        (pa.array([b"x"]), "binary"),
        (pa.array([["x"]]), "list<element: string>"),
        (pa.array([{"a": "x"}]), "struct<a: string>"),
    ],
)
async def test_a_text_column_of_another_type_is_refused(
    tmp_path: Path, column: pa.Array, words: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": column, "body": ["x"], "n": [1]})

    message = await refusal(a_source(path))

    assert message.startswith(f'spec.source.columns.text: column "text" is {words} in {path}')
    assert message.endswith("Columns of strings there: body.")


async def test_a_text_key_that_never_holds_a_string_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"text": ["x"], "body": "x"}, {"text": 1})

    message = await refusal(a_source(path))

    assert f'column "text" holds arrays and numbers in {path}' in message
    assert "Columns of strings: body." in message


async def test_an_all_null_text_column_is_no_fault_of_the_spec(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": pa.array([None, None])})
    write_parquet(tmp_path / "b.parquet", {"text": ["x"]})

    found = await scan(a_source(tmp_path))

    assert [file.rows for file in found.files] == [2, 1]


async def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["x"], "score": [1]})
    write_parquet(tmp_path / "b.parquet", {"text": ["x"], "score": ["high"]})
    write_parquet(tmp_path / "c.parquet", {"content": ["x"]})
    keep = {"keep": ["score"]}

    of_two_types = await refusal(a_source(tmp_path, columns=keep))
    of_two_names = await refusal(a_source(tmp_path))

    assert (
        f'column "score" is string in {tmp_path}/b.parquet but int64 in {tmp_path}/a.parquet'
        in of_two_types
    )
    assert f'no column "text" in {tmp_path}/c.parquet' in of_two_names


@pytest.mark.parametrize("content", ['[{"text": "x"}, {"text": "y"}]', "a,b\n1,2\n"])
async def test_a_file_that_is_not_json_lines_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)

    message = await refusal(a_source(tmp_path))

    assert f"{tmp_path}/a.json" in message
    assert "not JSON lines" in message


async def test_an_array_spread_over_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x"}, {"text": "y"}], indent=1))
    rows = ",\n".join(json.dumps({"text": str(number)}) for number in range(9))
    (tmp_path / "b.json").write_text(f"[\n{rows}\n]")

    for name in ("a.json", "b.json"):
        message = await refusal(a_source(tmp_path / name))
        assert f"{tmp_path}/{name} holds one JSON array, not JSON lines" in message


async def test_an_array_on_the_first_line_is_one_bad_row_among_objects(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["x"], {"text": "x"})

    found = await scan(a_source(path))

    assert found.files[0].rows == 2


async def test_a_filter_is_checked_against_the_type_of_its_column(tmp_path: Path) -> None:
    columns = {"text": ["x"], "score": [1.5], "at": pa.array([0], pa.date32())}
    write_parquet(tmp_path / "a.parquet", columns)
    write_jsonl(tmp_path / "a.jsonl", {"text": "x", "score": 1.5})
    filters = [{"column": "score", "operator": "Greater", "values": ["high"]}]

    for format_ in ("Parquet", "Jsonl"):
        message = await refusal(a_source(tmp_path, format=format_, filters=filters))
        assert 'spec.source.filters[0].values: "high" is not a number' in message


# -- types of kept columns -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([True, None], pa.bool_()),
        (["a", None], pa.string()),
        ([None, None], pa.string()),
        (["a", 1], pa.string()),
        ([{"a": 1}], pa.string()),
        ([[1]], pa.string()),
        ([True, 1], pa.string()),
    ],
)
async def test_kept_types_of_json_lines_are_told_by_their_values(
    tmp_path: Path, values: list[object], type_: pa.DataType
) -> None:
    for number, value in enumerate(values):
        write_jsonl(tmp_path / f"{number}.jsonl", {"text": "x", "k": value})

    found = await scan(a_source(tmp_path, columns={"keep": ["k"]}))

    assert found.kept == pa.schema([("k", type_)])


@pytest.mark.parametrize(
    ("type_", "kept"),
    [
        (pa.int32(), pa.int32()),
        (pa.large_string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")),
        (pa.list_(pa.string()), pa.list_(pa.field("element", pa.string()))),
        (pa.null(), pa.string()),
        (pa.decimal128(9, 2), pa.decimal128(9, 2)),
    ],
)
async def test_kept_types_of_parquet_are_those_of_the_files_in_plain(
    tmp_path: Path, type_: pa.DataType, kept: pa.DataType
) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["x"], "k": pa.array([None], type_)})

    found = await scan(a_source(tmp_path, columns={"keep": ["k"]}))

    assert found.kept == pa.schema([("k", kept)])


async def test_a_later_file_may_widen_a_kept_type(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", {"text": "x", "k": 1})
    write_jsonl(tmp_path / "b.jsonl", {"text": "x"})
    write_jsonl(tmp_path / "c.jsonl", {"text": "x", "k": 1.5})

    found: Scan = await scan(a_source(tmp_path, columns={"keep": ["k"]}))

    assert found.kept == pa.schema([("k", pa.float64())])


def test_a_schema_survives_as_text() -> None:
    schema = pa.schema(
        [
            pa.field("a", pa.timestamp("us", "UTC"), metadata={"of": "a file"}),
            ("b", pa.list_(pa.struct([("c", pa.int8())]))),
        ],
        metadata={"pandas": "{}"},
    )

    text = schema_to_text(schema)

    assert schema_from_text(text).equals(schema)
    assert schema_from_text(text).metadata is None
    assert text == schema_to_text(schema_from_text(text))


# -- estimating ----------------------------------------------------------------------------------


def some_lines(number: int) -> bytes:
    """Lines of different lengths that do not compress too well."""
    texts = (hashlib.sha256(str(n).encode()).hexdigest() * (1 + n % 5) for n in range(number))
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda data: data),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress),
    ],
)
async def test_lines_are_estimated_from_the_head_of_a_file(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack(some_lines(80_000)))
    assert size_of(tmp_path / name) > 2 * ESTIMATE_BYTES

    found = await scan(a_source(tmp_path, unit={"targetDocuments": 1000}), estimate=True)

    assert not found.exact
    assert found.files[0].rows == pytest.approx(80_000, rel=0.05)
    units = list(plan_units(found.files, target_documents=1000))
    assert len(units) == (pytest.approx(80, abs=4) if name == "a.jsonl" else 1)


async def test_a_file_that_is_all_head_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(some_lines(100)))
    (tmp_path / "b.jsonl").write_bytes(some_lines(101))

    found = await scan(a_source(tmp_path), estimate=True)

    assert found.exact
    assert [file.rows for file in found.files] == [100, 101]


async def test_a_line_longer_than_the_head_is_no_reason_to_refuse_its_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", {"text": "x" * 2 * ESTIMATE_BYTES}, {"text": "y"})

    found = await scan(a_source(tmp_path), estimate=True)

    assert not found.exact
    assert found.files[0].rows >= 1


async def test_an_estimate_refuses_what_a_scan_refuses(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", {"txet": "x"})
    damaged = bytearray(gzip.compress(some_lines(100)))
    damaged[40:80] = bytes(40)
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(damaged)

    for source in (a_source(tmp_path / "a.jsonl"), a_source(folder)):
        with pytest.raises(InvalidSpec) as estimated:
            await scan(source, estimate=True)
        with pytest.raises(InvalidSpec) as scanned:
            await scan(source)
        assert str(estimated.value) == str(scanned.value)
