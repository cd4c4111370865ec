"""The fold of a unit's history: who is suspect, what is tried next, who is guilty."""

from rephrase_runner.suspects import Death, End, Silence, next_window, suspect

OPEN = range(16)


def rows(*values: int) -> frozenset[int]:
    return frozenset(values)


def test_a_unit_without_deaths_has_no_suspects() -> None:
    assert suspect([], OPEN, kills=2).rows == rows()


def test_everything_in_flight_at_a_death_is_suspect() -> None:
    assert suspect([Death(1, rows(3, 4, 5))], OPEN, kills=2).groups == (rows(3, 4, 5),)


def test_a_row_with_its_results_is_no_longer_suspect() -> None:
    assert suspect([Death(1, rows(3, 4, 5))], [3, 9], kills=2).groups == (rows(3),)


def test_a_second_death_splits_the_group_it_cuts_and_lets_neither_half_go() -> None:
    found = suspect([Death(1, rows(3, 4, 5, 6)), Death(2, rows(3, 4))], OPEN, kills=2)

    assert set(found.groups) == {rows(3, 4), rows(5, 6)}


def test_the_first_half_of_the_smallest_group_is_tried_next() -> None:
    assert next_window([rows(1, 2, 3, 4, 5), rows(7, 8, 9)]) == rows(7, 8)
    assert next_window([rows(7)]) == rows(7)


def test_a_row_alone_in_two_recorded_deaths_is_guilty() -> None:
    ends = [Death(1, rows(3, 4)), Death(2, rows(3), "a"), Death(3, rows(3), "b")]
    found = suspect(ends, OPEN, kills=2)

    assert [(one.row, one.evidence) for one in found.guilty] == [(3, ("a", "b"))]
    assert found.groups == (rows(4),)


def test_a_row_that_was_alone_of_its_unit_only_is_not_condemned() -> None:
    """Beside it were rows of other units, and any of them may have been the killer."""
    ends = [Death(1, rows(3), company=True), Death(2, rows(3), company=True)]

    assert suspect(ends, OPEN, kills=2).guilty == ()
    assert suspect(ends, OPEN, kills=2).rows == rows(3)


def test_two_deaths_in_company_condemn_nobody() -> None:
    found = suspect([Death(1, rows(3, 4)), Death(2, rows(3, 4))], OPEN, kills=2)

    assert found.guilty == ()


def test_a_lost_node_is_no_evidence_the_first_time() -> None:
    assert suspect([Silence(1)], OPEN, kills=2).rows == rows()


def test_from_the_second_silent_end_on_all_open_rows_are_suspect() -> None:
    assert suspect([Silence(1), Silence(2)], OPEN, kills=2).groups == (frozenset(OPEN),)


def test_two_preemptions_while_alone_condemn_no_innocent() -> None:
    ends = [Silence(1, rows(3)), Silence(2, rows(3))]

    assert suspect(ends, OPEN, kills=2).guilty == ()


def test_one_more_end_of_any_kind_alone_condemns() -> None:
    ends: list[End] = [Silence(1, rows(3)), Death(2, rows(3)), Silence(3, rows(3))]

    assert [one.row for one in suspect(ends, OPEN, kills=2).guilty] == [3]


def test_deaths_are_fruitless_until_somebody_is_found_guilty() -> None:
    crowd = [Death(epoch, rows(1, 2, 3)) for epoch in (1, 2)]
    verdict = [Death(3, rows(3)), Death(4, rows(3))]

    assert suspect(crowd, OPEN, kills=2).fruitless == 2
    assert suspect([*crowd, *verdict], OPEN, kills=2).fruitless == 0
    assert suspect([*crowd, *verdict, Death(5, rows(1, 2))], OPEN, kills=2).fruitless == 1
    assert suspect([*crowd, *verdict], [1, 2], kills=2).fruitless == 0, "3 has its result by now"
