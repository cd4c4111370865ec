"""`spec.source.filters` as SQL users know them: all must hold, and none holds for null. Pure.

A value is compared as what it is: numbers as numbers, strings as strings, timestamps as instants
(without a time zone: UTC). A row without a value fits only DoesNotExist, as `NULL <> 'x'` is not
true in SQL either. In JSON lines each row's own value decides; one that the filter's values cannot
be compared with does not fit.
"""

import operator
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Filter, Operator

_ORDER: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
}
_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    str: "a string",
    datetime: "a date or time, as in 2024-05-31 or 2024-05-31T12:00:00Z",
}


class Filters:
    """The filters of a spec, compiled; all must hold, and none lets every row pass."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self.columns: tuple[str, ...] = tuple(filter_.column for filter_ in filters)
        self._holds = [_Comparison(filter_).holds for filter_ in filters]

    def fit(self, values: Sequence[object]) -> bool:
        """Whether a row fits, whose `columns` have these values."""
        return all(holds(value) for holds, value in zip(self._holds, values, strict=True))


def check_values(filters: Sequence[Filter], types: dict[str, AbstractSet[type]]) -> None:
    """Refuse filters that can never hold because of what stands in their columns.

    Args:
        filters: as in the spec.
        types: for each of their columns the Python types of its values: bool, int, float, Decimal,
            str, datetime; bytes for all that cannot be compared; none where none is known.

    Raises:
        InvalidSpec: names the filter, the value and what it should be.
    """
    for number, filter_ in enumerate(filters):
        where = f"spec.source.filters[{number}]"
        _check_count(filter_, where)
        known = types[filter_.column]
        if filter_.values and known == {bytes}:
            raise InvalidSpec(
                f'column "{filter_.column}" cannot be compared with anything',
                where=f"{where}.column",
                remedy="Compare booleans, numbers, strings, dates or timestamps; or use Exists.",
            )
        for value in filter_.values:
            if known and all(_parse(value, kind) is None for kind in known):
                words = " or ".join(sorted({_WORDS[kind] for kind in known}))
                raise InvalidSpec(
                    f'"{value}" is not {words}',
                    where=f"{where}.values",
                    remedy=f'Column "{filter_.column}" can only be compared with {words}.',
                )


def _check_count(filter_: Filter, where: str) -> None:
    given = len(filter_.values)
    match filter_.operator:
        case Operator.EXISTS | Operator.DOES_NOT_EXIST:
            fine, words = given == 0, "no values"
        case Operator.IN | Operator.NOT_IN:
            fine, words = given >= 1, "at least one value"
        case _:
            fine, words = given == 1, "exactly one value"
    if not fine:
        raise InvalidSpec(
            f"{filter_.operator} has {given} values",
            where=f"{where}.values",
            remedy=f"{filter_.operator} takes {words}.",
        )


class _Comparison:
    """One filter; its values are parsed once for each type of value met."""

    def __init__(self, filter_: Filter) -> None:
        self._operator = filter_.operator
        self._texts = filter_.values
        self._parsed: dict[type, tuple[Any, ...]] = {}

    def holds(self, value: object) -> bool:
        """Whether a row with this value passes."""
        if self._operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
            return (value is None) == (self._operator is Operator.DOES_NOT_EXIST)
        if value is None:
            return False
        if isinstance(value, date):
            value = _instant(value)
        limits = self._parsed.get(type(value))
        if limits is None:
            limits = self._parsed[type(value)] = self._limits(type(value))
        if not limits:
            return False
        order = _ORDER.get(self._operator)
        if order is not None:
            return order(value, limits[0])
        return (value in limits) == (self._operator in (Operator.EQUAL, Operator.IN))

    def _limits(self, kind: type) -> tuple[Any, ...]:
        parsed = (_parse(text, kind) for text in self._texts)
        return tuple(value for value in parsed if value is not None)


def _parse(text: str, kind: type) -> Any:  # noqa: ANN401 - what a `kind` compares with
    """`text` as something a value of `kind` can be compared with, or None."""
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False}.get(text.lower())
        if kind is float:
            return float(text)
        if kind in (int, Decimal):
            number = Decimal(text)
            return None if number.is_nan() else number
        if kind is datetime:
            return _instant(datetime.fromisoformat(text))
    except (ValueError, InvalidOperation):
        pass
    return None


def _instant(value: date) -> datetime:
    """A date or time as UTC without a zone, so that any two can be compared."""
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - UTC is meant
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
