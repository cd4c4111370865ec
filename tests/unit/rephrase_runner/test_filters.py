from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Filter
from rephrase_runner.filters import Filters, check_values


def a_filter(operator: str, *values: str, column: str = "c") -> Filter:
    return Filter.model_validate({"column": column, "operator": operator, "values": list(values)})


@pytest.mark.parametrize(
    ("operator", "values", "value", "fits"),
    [
        ("Equal", ["3"], 3, True),
        ("Equal", ["3"], 3.0, True),
        ("Equal", ["3.0"], 3, True),
        ("Equal", ["0.1"], 0.1, True),
        ("Equal", ["0.1"], Decimal("0.1"), True),
        ("Equal", ["3"], "3", True),
        ("Equal", ["3"], "3.0", False),
        ("Equal", ["true"], True, True),
        ("Equal", ["True"], True, True),
        ("NotEqual", ["3"], 4, True),
        ("NotEqual", ["3"], 3, False),
        ("Greater", ["9"], 10, True),
        ("Greater", ["9"], "10", False),
        ("GreaterOrEqual", ["3.5"], 4, True),
        ("GreaterOrEqual", ["3.5"], 3, False),
        ("GreaterOrEqual", ["9007199254740993"], 9007199254740992, False),
        ("Less", ["-1"], -1.5, True),
        ("LessOrEqual", ["b"], "b", True),
        ("Less", ["3"], float("nan"), False),
        ("In", ["en", "de"], "de", True),
        ("In", ["1", "2"], 3, False),
        ("NotIn", ["en", "de"], "fr", True),
        ("NotIn", ["1", "2"], 2, False),
        ("Less", ["2024-05-31"], date(2024, 5, 30), True),
        ("Less", ["2024-05-31T12:00:00Z"], datetime(2024, 5, 31, 11, 59), True),  # noqa: DTZ001
        ("Less", ["2024-05-31T14:00:00+02:00"], datetime(2024, 5, 31, 12, tzinfo=UTC), False),
        ("Equal", ["2024-05-31"], datetime(2024, 5, 31, tzinfo=UTC), True),
        ("Exists", [], "", True),
        ("Exists", [], [], True),
        ("DoesNotExist", [], 0, False),
    ],
)
def test_values_are_compared_as_what_they_are(
    operator: str, values: list[str], value: object, *, fits: bool
) -> None:
    assert Filters([a_filter(operator, *values)]).fit([value]) is fits


@pytest.mark.parametrize(
    ("operator", "values"),
    [
        ("Equal", ["3"]),
        ("NotEqual", ["3"]),
        ("Greater", ["3"]),
        ("Less", ["3"]),
        ("In", ["3"]),
        ("NotIn", ["3"]),
        ("Exists", []),
    ],
)
def test_null_fits_no_filter_but_does_not_exist(operator: str, values: list[str]) -> None:
    assert Filters([a_filter(operator, *values)]).fit([None]) is False
    assert Filters([a_filter("DoesNotExist")]).fit([None]) is True


@pytest.mark.parametrize("operator", ["Equal", "NotEqual", "Greater", "In", "NotIn"])
@pytest.mark.parametrize("value", [7, 7.5, True, datetime(2024, 1, 1, tzinfo=UTC), [1], {}, b"x"])
def test_a_value_that_cannot_be_compared_does_not_fit(operator: str, value: object) -> None:
    assert Filters([a_filter(operator, "word")]).fit([value]) is False


def test_all_filters_must_hold() -> None:
    filters = Filters([a_filter("Greater", "1"), a_filter("Equal", "en", column="lang")])

    assert filters.columns == ("c", "lang")
    assert [filters.fit(v) for v in ([2, "en"], [1, "en"], [2, "de"])] == [True, False, False]


def test_no_filter_lets_every_row_pass() -> None:
    assert Filters([]).fit([]) is True


@pytest.mark.parametrize(
    ("filter_", "types", "message"),
    [
        (
            a_filter("Greater", "high"),
            {int},
            'spec.source.filters[0].values: "high" is not a number',
        ),
        (a_filter("Equal", "yes"), {bool}, '"yes" is not true or false'),
        (a_filter("In", "2024-01-01", "May"), {datetime}, '"May" is not a date or time'),
        (a_filter("Greater", "x"), {bytes}, 'column "c" cannot be compared with anything'),
        (a_filter("Greater", "1", "2"), {int}, "Greater has 2 values. Greater takes exactly one"),
        (a_filter("Exists", "1"), {int}, "Exists has 1 values. Exists takes no values"),
        (a_filter("In"), {int}, "In has 0 values. In takes at least one value"),
    ],
)
def test_a_filter_that_can_never_hold_is_refused(
    filter_: Filter, types: set[type], message: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check_values([filter_], {"c": types})

    assert message in str(refused.value)


@pytest.mark.parametrize("types", [set(), {str}, {int, str}, {int, float}])
def test_a_filter_that_may_hold_is_not_refused(types: set[type]) -> None:
    value = "3" if types == {int, float} else "word"

    check_values([a_filter("Equal", value)], {"c": types})
