"""The search itself, on models small enough to be checked by hand."""

from collections.abc import Hashable, Iterator, Sequence

from model.search import Move, explore

Steps = dict[int, list[tuple[int, bool]]]


class Walker:
    """One process on a graph of numbers, from 0 to 9; 13 must not be."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def start(self) -> tuple[int, Sequence[str]]:
        return 0, ["walker"]

    def moves(self, process: int, world: int, local: str) -> Iterator[Move[int, str]]:
        for number, fair in self._steps.get(world, []):
            yield Move(f"goes to {number}", number, local, fair=fair, claim=("left", world))

    def who(self, process: int, local: str) -> str:
        return local

    def fault(self, world: int) -> str | None:
        return "unlucky" if world == 13 else None

    def wrong(self, claim: Hashable, locals_: Sequence[str]) -> str | None:
        return "leaves 7" if claim == ("left", 7) else None

    def ended(self, world: int) -> bool:
        return world == 9

    def at_rest(self, local: str) -> bool:
        return True


def test_what_must_not_be_is_found_by_the_shortest_way() -> None:
    outcome = explore(
        Walker({0: [(1, True), (2, False)], 1: [(3, True)], 3: [(13, True)], 2: [(13, True)]})
    )

    assert outcome.violation is not None
    assert outcome.violation.what == "unlucky"
    assert outcome.violation.trace == ("walker goes to 2", "walker goes to 13")


def test_a_step_that_must_not_be_made_is_found() -> None:
    outcome = explore(Walker({0: [(7, True)], 7: [(9, True)]}))

    assert outcome.violation is not None
    assert outcome.violation.trace == ("walker goes to 7", "walker goes to 9")


def test_a_state_from_which_only_faults_lead_to_the_end_is_found() -> None:
    outcome = explore(
        Walker(
            {0: [(1, True), (2, False)], 1: [(9, True)], 2: [(3, True)], 3: [(2, True), (9, False)]}
        )
    )

    assert outcome.violation is not None
    assert outcome.violation.what == "the end cannot be reached any more"
    assert outcome.violation.trace == ("walker goes to 2",)


def test_a_circle_that_can_be_left_is_no_violation() -> None:
    outcome = explore(Walker({0: [(1, True)], 1: [(0, True), (2, True)], 2: [(9, True)]}))

    assert outcome.violation is None
    assert outcome.exhausted
    assert outcome.states == 4


def test_a_search_that_was_cut_short_says_so() -> None:
    outcome = explore(Walker({number: [(number + 1, True)] for number in range(9)}), max_states=5)

    assert not outcome.exhausted
    assert outcome.violation is None
