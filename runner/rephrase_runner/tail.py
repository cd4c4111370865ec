"""The tail of a run: which slice of whose unit a worker without work helps with. Pure.

A slice is a fixed run of a unit's rows; helpers take slices from the unit's end, its holder works from the
front, so that they meet. A share gives no right but to write checkpoints (ledger protocol, section 7).
"""

from collections.abc import Collection, Iterable

from rephrase_runner.records import Open
from rephrase_runner.units import Unit


def slice_of(unit: Unit, row: int, slice_rows: int) -> int:
    """Number of the slice of `unit` that `row` is in."""
    return (row - unit.first_row) // slice_rows


def slice_range(unit: Unit, number: int, slice_rows: int) -> range:
    """Rows of a slice; the last one of a unit may be shorter."""
    first = unit.first_row + number * slice_rows
    return range(first, min(first + slice_rows, unit.first_row + unit.rows))


def last_free_slice(
    unit: Unit, slice_rows: int, *, taken: Collection[int], next_row: int
) -> int | None:
    """The last slice that no helper took and the holder has not begun; None if there is none.

    Args:
        unit: the unit.
        slice_rows: of the plan.
        taken: slices that helpers took.
        next_row: first row that the holder has not submitted, as far as is known.
    """
    for number in range((unit.rows - 1) // slice_rows, -1, -1):
        begun = slice_range(unit, number, slice_rows).start < next_row
        if begun:
            return None
        if number not in taken:
            return number
    return None


def slowest_first(held: Iterable[Open]) -> list[Open]:
    """Open units by the time they will still take their holders, longest first."""
    return sorted(held, key=lambda one: (-one.left / max(one.rate, 1e-9), one.unit))
