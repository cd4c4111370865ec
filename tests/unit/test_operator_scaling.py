"""How many workers a run gets, and why."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rephrase_api.v1alpha1.status import RephraseRunStatus, ScalingStatus
from rephrase_operator.observed import Observed
from rephrase_operator.scaling import (
    CARE,
    COOL_DOWN_SECONDS,
    Pace,
    Wanted,
    needed,
    pace,
    seconds_late,
    settled_on,
    start_seconds,
    wanted,
    worth_starting,
)
from support.looks import NOW, a_job, a_pod, a_progress, a_run, ago, at_work, with_driver

GOLDEN = Path(__file__).parent / "golden" / "scaling.json"
HOUR = 3600
PACE = Pace(work=10 * HOUR, tail=60, start=300, workers=2)


def due(seconds: float, **workers: int) -> Any:  # noqa: ANN401
    deadline = (NOW + timedelta(seconds=seconds)).isoformat()
    return a_run(scaling={"deadline": deadline}, workers={"max": 64, **workers})


def two_at_work(*, seconds: float = 100, rate: float = 50) -> Observed:
    """Two workers that loaded for a minute, after half a minute for the image; ten tokens a sample."""
    jobs = [a_job(slot) for slot in range(2)]
    pods = [a_pod(job, scheduled=ago(1000), started=ago(970)) for job in jobs]
    vitals = {
        "tokensPerSecond": rate,
        "samples": 500,
        "completionTokens": 5000,
        "generatingSeconds": seconds,
        "loadingSeconds": 60,
    }
    progress = a_progress(100, 50, workers=at_work(*pods, **vitals))
    return with_driver(jobs, pods, progress)


def test_the_pace_is_what_the_warm_workers_show_less_some_care() -> None:
    found = pace(a_run(), RephraseRunStatus(), two_at_work(), held_seconds=2000)

    assert found is not None
    assert found.work == pytest.approx(100_000 / (CARE * 5))
    assert found.tail == pytest.approx(2000 / (CARE * 5))
    assert (found.start, found.workers) == (90, 2)


def test_interruptions_slow_the_pace_by_what_they_cost() -> None:
    calm = pace(a_run(), RephraseRunStatus(), two_at_work(), held_seconds=1200)
    often = pace(a_run(), RephraseRunStatus(disruptions=5), two_at_work(), held_seconds=1200)

    assert calm is not None
    assert often is not None
    assert often.work == pytest.approx(calm.work * 2)  # five times 90 + 30 s of 1,200


@pytest.mark.parametrize("there", [with_driver(), two_at_work(seconds=59), two_at_work(rate=0)])
def test_there_is_no_pace_before_a_worker_is_warm(there: Observed) -> None:
    assert pace(a_run(), RephraseRunStatus(), there, held_seconds=0) is None


def test_a_start_takes_what_was_measured_or_five_minutes() -> None:
    assert start_seconds(a_run(), two_at_work()) == 90
    assert start_seconds(a_run(), with_driver()) == 300
    assert start_seconds(a_run(model={"engine": {"type": "Echo"}}), with_driver()) == 30


def test_workers_that_start_too_late_do_not_help() -> None:
    nearly_done = Pace(work=500, tail=60, start=300, workers=2)

    assert nearly_done.finish_seconds(64) == nearly_done.finish_seconds(2) == 280
    assert needed(nearly_done, 100, 64) == 2
    assert PACE.finish_seconds(4) == (10 * HOUR + 60 + 2 * 300) / 4
    assert worth_starting(PACE) == 120
    assert worth_starting(None) is None


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["what"])
def test_what_is_wanted(case: dict[str, Any]) -> None:
    """The golden file: seconds to the deadline, bounds and pace, and the number and reason for it."""
    run = (
        due(case["due"], **case["workers"])
        if case["due"] is not None
        else a_run(workers={"max": 64, **case["workers"]})
    )
    speed = Pace(**case["pace"]) if case["pace"] is not None else None

    found = wanted(run, speed, start=300, now=NOW)

    assert (found.workers, found.reason) == (case["wanted"], case["reason"]), found.message


def decided(target: int, seconds: float, direction: str) -> ScalingStatus:
    changed = ago(seconds)
    return ScalingStatus(target=target, changed_time=changed, direction=direction)


@pytest.mark.parametrize(
    ("before", "speed", "expected"),
    [
        (None, PACE, (6, None)),
        (decided(3, 1, "Up"), PACE, (6, "Up")),
        (decided(3, COOL_DOWN_SECONDS - 1, "Down"), PACE, (3, "Down")),
        (decided(3, COOL_DOWN_SECONDS, "Down"), PACE, (6, "Up")),
        (decided(9, COOL_DOWN_SECONDS - 1, "Up"), PACE, (9, "Up")),
        (decided(9, COOL_DOWN_SECONDS, "Up"), PACE, (6, "Down")),
        (decided(9, 1, "Down"), PACE, (6, "Down")),
        (decided(9, 9999, "Up"), None, (9, "Up")),
        (decided(99, 1, "Up"), None, (64, "Up")),
    ],
    ids=[
        "at first",
        "more at once",
        "not more just after fewer",
        "more after a while",
        "not fewer just after more",
        "fewer after a while",
        "fewer and fewer",
        "the rate is lost for a while",
        "the spec's bounds hold at once",
    ],
)
def test_moves_are_damped(
    before: ScalingStatus | None, speed: Pace | None, expected: tuple[int, str | None]
) -> None:
    run = due(2 * HOUR)

    found = settled_on(run, wanted(run, speed, start=300, now=NOW), before, now=NOW)

    assert (found.target, found.direction) == expected


def test_no_worker_is_let_go_shortly_before_the_end() -> None:
    run, wish = due(2 * HOUR), Wanted(1, "Deadline", "")
    assert Pace(work=2 * COOL_DOWN_SECONDS, tail=60, start=300, workers=4).nearly_done
    assert not Pace(work=4 * COOL_DOWN_SECONDS, tail=60, start=300, workers=4).nearly_done

    found = settled_on(run, wish, decided(4, 9999, "Up"), now=NOW, nearly_done=True)

    assert found.target == 4


def test_a_miss_is_known_from_the_pace_of_all_workers() -> None:
    run = due(HOUR, max=4)

    assert seconds_late(run, PACE, now=NOW) == PACE.finish_seconds(4) - HOUR
    assert seconds_late(run, None, now=NOW) is None
    assert seconds_late(a_run(), PACE, now=NOW) is None


def test_the_one_worker_of_a_canary_is_no_decision_that_is_kept() -> None:
    """Its rate may be unknown, where its worker was lost before it could tell."""
    before = ScalingStatus(target=1, reason="Canary", message="one worker does it")
    wish = Wanted(8, "Measuring", "8 until the rate is known")

    found = settled_on(due(10 * HOUR), wish, before, now=NOW)

    assert (found.target, found.reason, found.changed_time) == (8, "Measuring", None)
