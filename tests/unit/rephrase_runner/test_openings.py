"""Template collapse as the paper's authors measured it, and a sample that depends on documents alone."""

import math
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_runner.openings import (
    SAMPLE,
    Gathered,
    beginning,
    bound,
    collapse,
    effective,
    smallest,
    warnings,
)
from rephrase_runner.seeds import document_hash, sample_order

MATH_PROMPT = {
    "SmolLM2": (3_235, 1_897),
    "Falcon3": (3_733, 476),
    "Granite3": (1_152, 1_627),
    "Gemma-3": (3_559, 1_857),
    "Llama-3.2": (2_481, 1_041),
    "Qwen3": (7_619, 40),
}
"""Of 10,000 rewrites: how many begin with the most frequent ten characters, how many beginnings there are."""


def rewrites(top: int, distinct: int) -> list[str]:
    """10,000 beginnings with these figures; the others are as even as can be."""
    others = [f"{number:010}" for number in range(distinct - 1)]
    return ["Problem: A"] * top + [others[n % len(others)] for n in range(SAMPLE - top)]


@pytest.mark.parametrize("model", MATH_PROMPT)
def test_the_figures_of_the_paper_come_out_and_only_qwen_is_warned_of(model: str) -> None:
    top, distinct = MATH_PROMPT[model]

    found = collapse([beginning(text) for text in rewrites(top, distinct)])

    assert (found.samples, found.top[10], found.distinct[10]) == (SAMPLE, top, distinct)
    assert found.beginning[10] == "Problem: A"
    assert list(warnings({"math": found})) == (["math"] if model == "Qwen3" else [])


def test_the_effective_number_is_the_exponential_of_the_entropy() -> None:
    assert effective([5, 5, 5, 5]) == 4
    assert effective([20]) == 1
    assert effective([6, 2]) == round(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))), 1)


def test_longer_beginnings_are_never_less_diverse() -> None:
    found = collapse(["Step 1: look", "Step 1: long", "Step 2: go", "So"])

    assert found.top == {4: 3, 10: 2, 20: 1, 40: 1}
    assert found.distinct == {4: 2, 10: 3, 20: 4, 40: 4}


@pytest.mark.parametrize("blanks", [0, 3, 200])
def test_leading_white_space_does_not_count(blanks: int) -> None:
    assert beginning(" " * blanks + "x" * 50) == "x" * 40


OPENINGS = [
    (sample_order(f"document-{number}", "faq", 0), f"text {number}") for number in range(3 * SAMPLE)
]


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_the_sample_does_not_depend_on_order_or_on_how_units_are_cut(units: int, seed: int) -> None:
    mixed = sorted(OPENINGS, key=lambda opening: document_hash(opening[1], seed))
    gathered = Gathered()
    for first in range(units):
        gathered.add({"faq": tuple(mixed[first::units])})

    assert gathered.collapse() == {"faq": collapse([text for _, text in smallest(OPENINGS)])}


@pytest.mark.parametrize("keys", [1, SAMPLE, 100_000, 1_000_000])
def test_what_commits_keep_holds_the_whole_sample_and_not_much_more(keys: int) -> None:
    every = [sample_order(f"document-{number}", "faq", 0) for number in range(keys)]

    kept = [place for place in every if place < bound(keys)]

    assert set(sorted(every)[:SAMPLE]) <= set(kept)
    assert len(kept) <= 5 * SAMPLE


def test_another_prompt_or_rollout_is_another_place() -> None:
    keys = [("a", "faq", 0), ("a", "faq", 1), ("a", "math", 0), ("b", "faq", 0)]

    assert len({sample_order(*key) for key in chain(keys, keys)}) == 4
