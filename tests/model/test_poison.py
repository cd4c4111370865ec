"""Documents that kill the engine are found, however they kill, and nobody else is condemned (hole 17)."""

from collections.abc import Iterable

import pytest

from model.poison import Case, Trial, cases, cases_in_company


def faulty(tried: Iterable[Case]) -> list[tuple[Case, list[str]]]:
    """Cases in which something went wrong; the search for killers must also end."""
    return [(case, faults) for case in tried if (faults := list(Trial(case).faults()))]


def test_killers_are_condemned_within_their_deaths_and_innocents_never() -> None:
    assert faulty(cases(every=401)) == []


@pytest.mark.full
@pytest.mark.timeout(600)
def test_killers_are_condemned_in_tens_of_thousands_of_cases() -> None:
    assert faulty(cases(every=25)) == []
    assert faulty(cases_in_company()) == []


def test_two_preemptions_alone_condemn_nobody() -> None:
    lost = [
        Case((rows,), 1, preemptions=(first, second))
        for rows in (1, 2, 3)
        for first in range(9)
        for second in range(first)
    ]

    assert faulty(lost) == []


def test_a_killer_of_another_unit_condemns_no_innocent() -> None:
    assert faulty(cases_in_company(every=7)) == []
