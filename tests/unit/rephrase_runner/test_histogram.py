"""Histograms whose steps tile the numbers and add up."""

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.histogram import added, following, quantile, step

NUMBERS = st.integers(0, 10**7)


@given(NUMBERS)
def test_every_number_lies_in_its_step_and_in_no_other(number: int) -> None:
    assert step(number) <= number < following(step(number))
    assert step(following(step(number))) == following(step(number))


def test_steps_are_round_numbers() -> None:
    steps = sorted({step(number) for number in range(100)})

    assert steps == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]


@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_two_histograms_together_are_that_of_both(one: list[int], other: list[int]) -> None:
    assert added(counted(one), counted(other)) == counted(one + other)


@given(st.lists(st.integers(1, 4096), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_step_of_the_true_one(numbers: list[int], share: float) -> None:
    true = sorted(numbers)[max(0, -int(-share * len(numbers) // 1) - 1)]

    found = quantile(counted(numbers), share, largest=max(numbers))

    assert step(true) <= found <= following(step(true))
    assert found <= max(numbers)


def test_what_ran_into_a_limit_is_told_as_the_limit() -> None:
    assert quantile({16: 1, 256: 15}, 0.5, largest=256) == 256


def counted(numbers: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for number in numbers:
        found[step(number)] = found.get(step(number), 0) + 1
    return dict(sorted(found.items()))
