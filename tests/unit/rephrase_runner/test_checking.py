"""Checks run beside generation, and nothing is written before it is checked."""

from collections.abc import AsyncIterator

import pytest

from rephrase_runner.checking import Checker
from rephrase_runner.holding import Holding
from rephrase_runner.rows import Document, Key, Sample, Status
from rephrase_runner.units import Unit
from support.corpora import a_text

ROWS = 40


@pytest.fixture
async def checker() -> AsyncIterator[Checker]:
    found = Checker({"faq": "faq", "own": ""})
    yield found
    found.close()


def a_holding() -> Holding:
    unit = Unit(index=0, file=0, first_row=0, byte_offset=0, rows=ROWS)
    return Holding(unit, 1, {"faq": 1, "own": 1}, include_source_text=False, since=0.0)


def answer(holding: Holding, checker: Checker, row: int) -> tuple[Document, list[Sample]]:
    """A document whose rewrites are copies of it, not checked yet."""
    text = a_text(row)
    document = Document(file=0, row=row, source_id=f"{row}", text=text)
    samples = [
        Sample(Key(0, row, prompt, 0), f"{row}", Status.WRITTEN, text=text, flags=("tiny",))
        for prompt in ("faq", "own")
    ]
    for sample in samples:
        holding.add(sample, unchecked=checker.checks(sample))
    return document, samples


async def test_all_samples_are_checked_before_a_unit_is_written(checker: Checker) -> None:
    holding = a_holding()
    for row in range(ROWS):
        checker.submit(*answer(holding, checker, row), holding)
    holding.filtered = 0

    await holding.wait_for_checks(everything=True)

    samples = holding.close()
    assert {sample.flags for sample in samples} == {("tiny", "copy")}
    assert all(sample.notes["compared"] == 1 for sample in samples)
    assert {sample.key.prompt for sample in samples if "form" in sample.notes} == {"faq"}
    assert holding.unsaved() == sorted(samples, key=lambda sample: sample.key.row)


async def test_a_checkpoint_takes_what_is_checked_and_leaves_the_rest_for_the_next(
    checker: Checker,
) -> None:
    holding = a_holding()
    checker.submit(*answer(holding, checker, 0), holding)
    document, samples = answer(holding, checker, 1)  # one prompt is still being answered

    await holding.wait_for_checks(everything=False)
    first = holding.unsaved()
    checker.submit(document, samples, holding)
    await holding.wait_for_checks(everything=False)
    second = holding.unsaved()

    assert [sample.key.row for sample in first] == [0, 0]
    assert [sample.key.row for sample in second] == [1, 1]
    assert all("copy" in sample.flags for sample in [*first, *second])
    assert holding.unsaved() == []


async def test_a_drain_saves_what_is_checked_although_checks_are_not_done(checker: Checker) -> None:
    holding = a_holding()
    checker.submit(*answer(holding, checker, 0), holding)
    await holding.wait_for_checks(everything=True)
    _, samples = answer(holding, checker, 1)
    holding.in_check(samples)  # as if the checks took for ever

    await holding.wait_for_checks(everything=False, patience=0.01)

    assert [sample.key.row for sample in holding.unsaved()] == [0, 0]


async def test_samples_that_were_not_saved_after_all_come_again_first(checker: Checker) -> None:
    holding = a_holding()
    checker.submit(*answer(holding, checker, 0), holding)
    await holding.wait_for_checks(everything=True)
    taken = holding.unsaved()
    checker.submit(*answer(holding, checker, 1), holding)
    holding.keep_unsaved(taken)
    await holding.wait_for_checks(everything=True)

    assert [sample.key.row for sample in holding.unsaved()] == [0, 0, 1, 1]


async def test_checks_of_samples_that_were_dropped_meanwhile_change_nothing(
    checker: Checker,
) -> None:
    holding = a_holding()
    checker.submit(*answer(holding, checker, 0), holding)
    holding.forget()

    await holding.wait_for_checks(everything=True)

    assert holding.samples == {}
    assert holding.unsaved() == []


async def test_broken_checks_are_told_to_whoever_waits() -> None:
    checker = Checker({"faq": "faq"})
    checker.close()
    holding = a_holding()
    checker.submit(*answer(holding, checker, 0), holding)

    with pytest.raises(RuntimeError, match="shutdown"):
        await holding.wait_for_checks(everything=True)


async def test_without_checks_nothing_waits() -> None:
    checker = Checker(None)
    holding = a_holding()
    answer(holding, checker, 0)

    await holding.wait_for_checks(everything=True)

    assert [sample.flags for sample in holding.unsaved()] == [("tiny",), ("tiny",)]
    checker.close()
