"""Which slice a helper takes, and whose."""

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.records import Open
from rephrase_runner.tail import last_free_slice, slice_of, slice_range, slowest_first
from rephrase_runner.units import Unit


def a_unit(rows: int = 100, first_row: int = 1000) -> Unit:
    return Unit(index=3, file=0, first_row=first_row, byte_offset=0, rows=rows)


@given(st.integers(1, 300), st.integers(1, 50), st.integers(0, 1000))
def test_slices_tile_a_unit(rows: int, slice_rows: int, first_row: int) -> None:
    unit = a_unit(rows, first_row)
    last = slice_of(unit, first_row + rows - 1, slice_rows)

    found = [row for number in range(last + 1) for row in slice_range(unit, number, slice_rows)]

    assert found == list(range(first_row, first_row + rows))
    assert all(
        row in slice_range(unit, slice_of(unit, row, slice_rows), slice_rows) for row in found
    )


def test_helpers_take_slices_from_the_end() -> None:
    unit = a_unit()

    assert last_free_slice(unit, 30, taken=(), next_row=1000) == 3
    assert last_free_slice(unit, 30, taken=(3,), next_row=1000) == 2


def test_a_slice_that_its_holder_has_begun_is_not_helped_with() -> None:
    unit = a_unit()

    assert last_free_slice(unit, 30, taken=(3,), next_row=1061) is None
    assert last_free_slice(unit, 30, taken=(3,), next_row=1060) == 2
    assert last_free_slice(unit, 30, taken=(), next_row=1100) is None


def test_a_unit_no_larger_than_a_slice_is_its_holders_alone_once_begun() -> None:
    assert last_free_slice(a_unit(10), 30, taken=(), next_row=1001) is None


def test_the_unit_that_will_take_longest_is_helped_first() -> None:
    fast = Open(unit=1, epoch=1, next=0, left=1000, rate=100.0)
    slow = Open(unit=2, epoch=1, next=0, left=500, rate=10.0)
    stuck = Open(unit=3, epoch=1, next=0, left=1, rate=0.0)

    assert [one.unit for one in slowest_first([fast, slow, stuck])] == [3, 2, 1]
