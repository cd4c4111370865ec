"""How many requests an engine is to have, by how full it says it is."""

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.engines.admission import Load, requests_to_keep

MOST = st.integers(1, 4096)


def test_an_engine_that_has_said_nothing_or_has_room_gets_a_quarter_more_than_can_run() -> None:
    assert requests_to_keep(64, []) == 64 + 32
    assert requests_to_keep(1024, []) == 1024 + 256
    assert requests_to_keep(1024, [Load(running=0, cache_used=0.0)]) == 1024 + 256
    assert requests_to_keep(1024, [Load(running=600, cache_used=0.5)]) == 1024 + 256


def test_long_sequences_that_fill_the_cache_leave_room_for_no_others() -> None:
    assert requests_to_keep(1024, [Load(running=400, cache_used=1.0)]) == 400 + 100
    assert requests_to_keep(1024, [Load(running=200, cache_used=0.5)]) == 400 + 100
    assert requests_to_keep(64, [Load(running=5, cache_used=0.9)]) == 6 + 32


def test_ranks_share_what_is_submitted() -> None:
    full, other = Load(running=300, cache_used=1.0), Load(running=100, cache_used=1.0)
    assert requests_to_keep(2048, [full, other]) == 400 + 100
    assert requests_to_keep(2048, [full, Load(running=0, cache_used=0.0)]) == 600 + 150


@given(MOST, st.integers(0, 4096), st.floats(0, 1))
def test_one_waits_for_every_running_one_that_may_end_and_never_more_than_by_the_settings(
    most: int, running: int, used: float
) -> None:
    running = min(running, most)

    kept = requests_to_keep(most, [Load(running, used)])

    assert running + 32 <= kept <= requests_to_keep(most, [])


@given(MOST, st.integers(1, 4096), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_fuller_the_cache_the_fewer(most: int, running: int, used: float, other: float) -> None:
    less, more = sorted((used, other))
    assert requests_to_keep(most, [Load(running, more)]) <= requests_to_keep(
        most, [Load(running, less)]
    )
