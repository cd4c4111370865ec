import time
import tracemalloc
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api.launch import bit_reversed_start
from rephrase_runner.units import SourceFile, Unit, plan_units, units_for

derandomized = settings(derandomize=True, deadline=None, max_examples=200)


def a_parquet_file(*row_groups: int) -> SourceFile:
    return SourceFile("s3://b/f", "s3://b/f", 1, "e", sum(row_groups), row_groups=row_groups)


def a_jsonl_file(line_lengths: list[int], *, lines_per_start: int) -> SourceFile:
    starts = tuple(accumulate(line_lengths, initial=0))[:-1:lines_per_start]
    return SourceFile(
        "f",
        "f",
        sum(line_lengths),
        "e",
        len(line_lengths),
        line_starts=starts,
        lines_per_start=lines_per_start,
    )


def a_compressed_file(rows: int) -> SourceFile:
    return SourceFile("f.gz", "f.gz", 1, "e", rows)


def rows_of(file: SourceFile, *, target: int) -> list[int]:
    return [unit.rows for unit in plan_units([file], target_documents=target)]


targets = st.integers(1, 50)
parquet_files = st.lists(st.integers(0, 300), max_size=20).map(lambda g: a_parquet_file(*g))
compressed_files = st.integers(0, 300).map(a_compressed_file)
jsonl_files = st.builds(
    lambda lengths, n: a_jsonl_file(lengths, lines_per_start=n),
    st.lists(st.integers(1, 9), max_size=120),
    st.integers(1, 50),
)
any_files = st.lists(st.one_of(parquet_files, compressed_files, jsonl_files), max_size=6)


@derandomized
@given(any_files, targets)
def test_units_tile_the_rows_of_every_file_in_order(files: list[SourceFile], target: int) -> None:
    units = list(plan_units(files, target_documents=target))

    assert [unit.index for unit in units] == list(range(len(units)))
    assert [unit.file for unit in units] == sorted(unit.file for unit in units)
    assert all(unit.rows > 0 for unit in units)
    for number, file in enumerate(files):
        own = [unit for unit in units if unit.file == number]
        assert [unit.first_row for unit in own] == [
            sum(unit.rows for unit in own[:i]) for i in range(len(own))
        ]
        assert sum(unit.rows for unit in own) == file.rows


@derandomized
@given(parquet_files, targets)
def test_units_of_parquet_are_close_to_the_target(file: SourceFile, target: int) -> None:
    sizes = rows_of(file, target=target)

    assert all(size <= 2 * target for size in sizes)
    assert all(2 * size >= target for size in sizes[:-1])


@derandomized
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_small_row_groups_are_never_cut(groups: list[int]) -> None:
    file = a_parquet_file(*groups)

    units = plan_units([file], target_documents=40)

    assert {unit.first_row for unit in units} <= set(accumulate(groups, initial=0))


@derandomized
@given(jsonl_files, targets)
def test_units_of_json_lines_begin_where_a_line_begins(file: SourceFile, target: int) -> None:
    assert file.line_starts is not None

    for unit in plan_units([file], target_documents=target):
        assert unit.first_row % file.lines_per_start == 0
        assert unit.byte_offset == file.line_starts[unit.first_row // file.lines_per_start]


@derandomized
@given(any_files, targets, st.integers(1, 500))
def test_a_limit_takes_the_first_rows_and_changes_no_unit_but_the_last(
    files: list[SourceFile], target: int, limit: int
) -> None:
    everything = list(plan_units(files, target_documents=target))

    limited = list(plan_units(files, target_documents=target, limit=limit))

    assert sum(unit.rows for unit in limited) == min(limit, sum(file.rows for file in files))
    assert limited[:-1] == everything[: len(limited)][:-1]


def test_neighboring_small_row_groups_are_merged() -> None:
    assert rows_of(a_parquet_file(*[1000] * 8), target=2000) == [2000] * 4


def test_a_large_row_group_is_sliced_evenly() -> None:
    assert rows_of(a_parquet_file(10_001), target=2000) == [2000, 2000, 2000, 2000, 2001]


def test_a_scrap_at_the_end_of_a_file_joins_the_unit_before_it() -> None:
    assert rows_of(a_parquet_file(2000, 2000, 10), target=2000) == [2000, 2010]


def test_a_scrap_between_large_row_groups_joins_the_unit_after_it() -> None:
    assert rows_of(a_parquet_file(2000, 10, 2000), target=2000) == [2000, 2010]


def test_a_compressed_file_is_one_unit_whatever_its_size() -> None:
    assert rows_of(a_compressed_file(1_000_000), target=2000) == [1_000_000]


def test_a_file_without_rows_has_no_unit_but_keeps_its_number() -> None:
    files = [a_parquet_file(5), a_parquet_file(), a_parquet_file(0), a_parquet_file(7)]

    units = list(plan_units(files, target_documents=10))

    assert units == [Unit(0, 0, 0, 0, 5), Unit(1, 3, 0, 0, 7)]


def test_340_million_rows_in_472_files_are_planned_in_seconds_and_little_memory() -> None:
    groups = (1000,) * 720  # one tuple for all files: what is measured is the planning
    files = [a_parquet_file(*groups) for _ in range(472)]
    began = time.perf_counter()

    planned = sum(unit.rows for unit in plan_units(files, target_documents=2000))

    assert time.perf_counter() - began < 5  # 0.4 s on one core of a laptop
    tracemalloc.start()
    rows = sum(unit.rows for unit in plan_units(files[:50], target_documents=2000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (planned, rows) == (339_840_000, 36_000_000)
    assert peak < 1 << 20


def test_workers_begin_at_halves_then_quarters_then_eighths() -> None:
    starts = [bit_reversed_start(slot, 800) for slot in range(9)]

    assert starts == [0, 400, 200, 600, 100, 500, 300, 700, 50]


@derandomized
@given(st.integers(1, 200), st.integers(1, 100_000))
def test_any_number_of_workers_is_spread_over_the_plan(slots: int, units: int) -> None:
    starts = sorted(bit_reversed_start(slot, units) for slot in range(slots))

    assert starts[0] == 0
    assert starts[-1] < units
    gaps = [after - before for before, after in zip(starts, [*starts[1:], units], strict=True)]
    assert max(gaps) <= 2 * units / slots + 1


def test_a_plan_without_units_has_a_start_too() -> None:
    assert bit_reversed_start(5, 0) == 0


def test_a_canary_has_the_fewest_units_that_hold_its_documents() -> None:
    units = [Unit(index, 0, 10 * index, 0, 10) for index in range(4)]

    assert [units_for(units, count) for count in (0, 1, 10, 11, 40, 41)] == [0, 1, 1, 2, 4, 4]
