"""When a claim may be taken over, and which unit a worker tries next."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.claims import Board, Look, Seen, Verdict, judge, longest_run, runs
from rephrase_runner.records import Claim, Heartbeat, Hold

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = 60.0


def a_claim(beat: int = 5) -> Claim:
    return Claim(run="r", worker="other", beat=beat, why="free")


def a_beat(
    beat: int,
    *,
    at: float = 0.0,
    state: str = "live",
    holds: tuple[tuple[int, int], ...] = (),
    worker: str = "other",
) -> Seen:
    heartbeat = Heartbeat(
        run="r",
        worker=worker,
        beat=beat,
        state=state,
        phase="generating",
        holds=tuple(Hold(unit=unit, epoch=epoch) for unit, epoch in holds),
    )
    return Seen(heartbeat, START + timedelta(seconds=at))


def judged(
    holder: Seen | None,
    *,
    own_at: float = 0.0,
    own_beat: int = 10,
    earlier: Look | None = None,
    monotonic: float = 0.0,
    claim: Claim | None = None,
) -> Verdict:
    return judge(
        7,
        1,
        claim or a_claim(),
        holder,
        own=a_beat(own_beat, at=own_at, worker="me"),
        earlier=earlier,
        monotonic=monotonic,
        lease_seconds=LEASE,
    )


def test_a_holder_that_said_goodbye_has_released_its_units() -> None:
    assert judged(a_beat(9, state="gone", holds=((7, 1),))).why == "released"


def test_a_holder_that_no_longer_lists_the_unit_has_abandoned_it() -> None:
    assert judged(a_beat(5, holds=((8, 1),))).why == "abandoned"


def test_a_unit_held_at_another_epoch_is_not_held_at_this_one() -> None:
    assert judged(a_beat(5, holds=((7, 2),))).why == "abandoned"


def test_a_heartbeat_older_than_the_claim_says_nothing_about_it() -> None:
    assert judged(a_beat(4)).why is None


def test_one_look_is_never_enough_however_old_the_heartbeat() -> None:
    verdict = judged(a_beat(5, at=0, holds=((7, 1),)), own_at=10_000)

    assert verdict.why is None
    assert verdict.look == Look(epoch=1, beat=5, own_beat=10, at=0.0)


def test_a_silent_holder_is_stale_at_the_second_look() -> None:
    holder = a_beat(5, at=0, holds=((7, 1),))
    first = judged(holder, own_at=70).look

    second = judged(holder, own_at=90, own_beat=12, earlier=first, monotonic=20)

    assert second.why == "stale"


def test_after_an_outage_nobody_is_stale_before_he_could_beat_again() -> None:
    """Hole 18: all heartbeats are old; the first to wake looks twice, and meanwhile the others beat."""
    first = judged(a_beat(5, at=0, holds=((7, 1),)), own_at=10_000).look

    second = judged(
        a_beat(6, at=10_005, holds=((7, 1),)),
        own_at=10_020,
        own_beat=12,
        earlier=first,
        monotonic=20,
    )

    assert second.why is None


def test_the_second_look_needs_an_own_heartbeat_in_between() -> None:
    holder = a_beat(5, at=0, holds=((7, 1),))
    first = judged(holder, own_at=10_000).look

    assert judged(holder, own_at=10_000, earlier=first, monotonic=500).why is None


def test_the_second_look_must_not_follow_at_once() -> None:
    holder = a_beat(5, at=0, holds=((7, 1),))
    first = judged(holder, own_at=10_000).look

    assert judged(holder, own_at=10_000, own_beat=11, earlier=first, monotonic=19).why is None


def test_a_holder_within_its_lease_is_never_stale() -> None:
    holder = a_beat(5, at=0, holds=((7, 1),))
    first = judged(holder, own_at=30).look

    assert judged(holder, own_at=62, own_beat=15, earlier=first, monotonic=32).why is None


def test_a_worker_without_a_heartbeat_counts_as_the_oldest() -> None:
    first = judged(None).look

    assert judged(None, own_beat=11, earlier=first, monotonic=20).why == "stale"


@given(
    beat=st.integers(1, 20),
    claim_beat=st.integers(1, 20),
    age=st.floats(0, 1e6),
    waited=st.floats(0, 1e6),
)
def test_a_claim_that_its_holder_lists_is_never_called_released_or_abandoned(
    beat: int, claim_beat: int, age: float, waited: float
) -> None:
    verdict = judged(
        a_beat(beat, holds=((7, 1),)),
        own_at=age,
        own_beat=99,
        earlier=Look(epoch=1, beat=beat, own_beat=1, at=0.0),
        monotonic=waited,
        claim=a_claim(claim_beat),
    )

    assert verdict.why in (None, "stale")
    if verdict.why == "stale":
        assert age > LEASE
        assert waited >= LEASE / 3


def test_a_worker_goes_on_with_the_next_unit() -> None:
    board = Board(10)
    board.take(3)

    assert board.next_free(4) == 4


def test_a_worker_whose_next_unit_is_taken_goes_to_the_middle_of_the_longest_free_run() -> None:
    board = Board(100)
    board.commit(0, 10)
    for unit in (10, 40):
        board.take(unit)

    assert board.next_free(10) == 70  # 41 to 99 is longer than 11 to 39


def test_nothing_is_free_when_all_is_taken_or_committed() -> None:
    board = Board(3)
    board.commit(0, 2)
    board.take(2)

    assert board.next_free(0) is None
    assert board.open_units() == [2]
    assert board.committed == 2


def test_a_commit_is_a_fact_that_no_later_belief_unsets() -> None:
    board = Board(3)
    board.commit(1, 2)
    board.take(1)
    board.free_all_taken([0, 1])

    assert board.open_units() == [0]
    assert board.committed == 1


def test_units_beyond_the_board_are_of_no_concern() -> None:
    board = Board(3)
    board.commit(0, 9)
    board.commit(5, 9)
    board.free_all_taken([2, 7])

    assert (len(board), board.committed, board.next_free(7)) == (3, 3, None)


@given(st.lists(st.integers(0, 2), max_size=60))
def test_workers_that_follow_the_board_visit_every_free_unit_once(states: list[int]) -> None:
    board = Board(len(states))
    for unit, state in enumerate(states):
        if state == Board.TAKEN:
            board.take(unit)
        if state == Board.COMMITTED:
            board.commit(unit, unit + 1)
    visited = []
    wish = 0
    while (found := board.next_free(wish)) is not None:
        visited.append(found)
        board.take(found)
        wish = found + 1

    assert sorted(visited) == [unit for unit, state in enumerate(states) if state == Board.FREE]


@given(st.binary(max_size=40), st.integers(0, 3))
def test_the_longest_run_is_the_longest(states: bytes, wanted: int) -> None:
    states = bytes(state % 4 for state in states)
    lengths = [
        (end - first, first)
        for first in range(len(states))
        for end in range(first + 1, len(states) + 1)
        if set(states[first:end]) == {wanted}
    ]

    found = longest_run(states, wanted)

    if not lengths:
        assert found is None
    else:
        longest = max(length for length, _ in lengths)
        first = min(first for length, first in lengths if length == longest)
        assert found == (first, first + longest)


@given(st.sets(st.integers(0, 50)))
def test_runs_name_every_unit_once(units: set[int]) -> None:
    ranges = runs(sorted(units))

    assert [unit for first, end in ranges for unit in range(first, end)] == sorted(units)
    assert all(end < later for (_, end), (later, _) in itertools.pairwise(ranges))
