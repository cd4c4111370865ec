"""Where a run stands, and what takes precedence."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from rephrase_api.progress import Progress
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import Reason
from rephrase_api.v1alpha1.status import Condition, RephraseRunStatus, StopStatus
from rephrase_operator.observed import Observed
from rephrase_operator.settle import settle
from rephrase_operator.verdict import Cause, Verdict, final_word, is_complete, judge
from support.looks import (
    NOW,
    SETTINGS,
    a_driver_job,
    a_job,
    a_preempted_pod,
    a_progress,
    a_run,
    ago,
    an_ended_pod,
    observed,
    with_driver,
)

NOTHING = RephraseRunStatus()
BUDGET = {"budget": {"amount": "10"}}
GOES_ON = ("", "")
NEVER_READY = ("stopped", "WorkersNeverReady")


def judged(
    run: RephraseRun,
    found: Observed,
    status: RephraseRunStatus = NOTHING,
    *,
    refused: Cause | None = None,
    spent: str = "0",
    reserve: str = "0",
) -> Verdict:
    return judge(
        run,
        status,
        found,
        refused=refused,
        failures=settle(status, found, now=NOW).failures,
        spent=Decimal(spent),
        reserve=Decimal(reserve),
        template_hashes={"": "now", "default": "now"},
        settings=SETTINGS,
    )


def said(verdict: Verdict) -> tuple[str, str]:
    """The one thing it says, and its reason."""
    found = [
        *([("failed", verdict.failed.reason.value)] if verdict.failed else []),
        *([("complete", "")] if verdict.complete else []),
        *([("stopped", verdict.stopped.reason.value)] if verdict.stopped else []),
    ]
    assert len(found) <= 1
    return found[0] if found else GOES_ON


def with_condition(kind: str, reason: str, since: datetime = NOW, *, status: str = "True") -> Any:  # noqa: ANN401
    fields = {"reason": reason, "message": "told", "last_transition_time": since}
    return RephraseRunStatus(conditions=(Condition(type=kind, status=status, **fields),))


def stopped_before(reason: str, generation: int = 1) -> RephraseRunStatus:
    return RephraseRunStatus(stop=StopStatus(reason=reason, message="told", generation=generation))


def a_driver_that_ended(code: int, message: str = "", **more: Any) -> Observed:  # noqa: ANN401
    job = a_driver_job()
    return observed([job], [an_ended_pod(job, code=code, message=message, **more)])


def of_an_older_spec(found: Observed) -> Observed:
    return replace(found, jobs=[replace(job, template_hash="old") for job in found.jobs])


def finished(phase: str, reason: str = "", message: str = "") -> Progress:
    return a_progress(phase=phase, reason=reason, message=message, finished=True)


def crashes(count: int, progress: Progress | None = None, **pod: Any) -> Observed:  # noqa: ANN401
    jobs = [a_job(slot) for slot in range(count)]
    fields = {"message": "CUDA error.", **pod}
    return with_driver(jobs, [an_ended_pod(job, **fields) for job in jobs], progress)


A_LOOP = crashes(SETTINGS.crash_loop_failures)
COMPLETE = with_driver(progress=finished("Complete"))
INVALID = with_driver(progress=finished("Failed", "InvalidModel", "no such model"))
LIMIT = with_driver(progress=finished("Failed", "FailureLimit", "5 of 9 failed"))
SIXTY_FOUR = with_driver([a_job()], [an_ended_pod(code=64, message="InvalidSpec: x")])
SUSPEND = {"suspend": True}
ALL = {"suspend": True, "scaling": BUDGET}


@pytest.mark.parametrize(
    ("status", "found", "spec", "spent", "expected"),
    [
        # once said, it never goes back
        (with_condition("Failed", "SpecMismatch"), COMPLETE, ALL, "9", ("failed", "SpecMismatch")),
        (with_condition("Complete", "Published"), SIXTY_FOUR, ALL, "99", ("complete", "")),
        (with_condition("Failed", "MoonPhase"), COMPLETE, {}, "0", ("failed", "InvalidSpec")),
        # what has happened comes before what is wished
        (NOTHING, COMPLETE, ALL, "99", ("complete", "")),
        (NOTHING, INVALID, ALL, "99", ("failed", "InvalidModel")),
        (NOTHING, SIXTY_FOUR, ALL, "99", ("failed", "InvalidSpec")),
        # what the user wishes comes before what was found
        (stopped_before("FailureLimit"), LIMIT, SUSPEND, "0", ("stopped", "Requested")),
        (NOTHING, A_LOOP, ALL, "99", ("stopped", "Requested")),
        (
            stopped_before("FailureLimit"),
            A_LOOP,
            {"scaling": BUDGET},
            "99",
            ("stopped", "BudgetExhausted"),
        ),
        (stopped_before("WorkersNeverReady"), LIMIT, {}, "0", NEVER_READY),
        (NOTHING, LIMIT, {}, "0", ("stopped", "FailureLimit")),
        (NOTHING, A_LOOP, {}, "0", NEVER_READY),
        (NOTHING, with_driver(), {"scaling": BUDGET}, "9.99", GOES_ON),
    ],
)
def test_the_first_that_holds_is_the_verdict_and_a_refusal_is_told_beside_it(
    status: RephraseRunStatus,
    found: Observed,
    spec: dict[str, Any],
    spent: str,
    expected: tuple[str, str],
) -> None:
    refused = Cause(Reason.PRICE_MISSING, "x")

    verdict = judged(a_run(**spec), found, status, spent=spent, refused=refused)

    assert said(verdict) == expected
    assert verdict.over == (expected[0] in {"failed", "complete"})
    assert verdict.refused == refused


# -- the driver's final word --


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (observed(), None),
        (with_driver(), None),
        (INVALID, Cause(Reason.INVALID_MODEL, "no such model")),
        (LIMIT, Cause(Reason.FAILURE_LIMIT, "5 of 9 failed")),
        (with_driver(progress=finished("Failed", "LedgerDamaged", "x")), None),
        (a_driver_that_ended(64, "SpecMismatch: other"), Cause(Reason.SPEC_MISMATCH, "other")),
        (
            a_driver_that_ended(64, "no such option --x"),
            Cause(Reason.INVALID_SPEC, "driver: no such option --x"),
        ),
        (a_driver_that_ended(1, "FailureLimit: 5 of 9"), Cause(Reason.FAILURE_LIMIT, "5 of 9")),
        (a_driver_that_ended(69, "AccessRefused: 403"), Cause(Reason.ACCESS_REFUSED, "403")),
        (a_driver_that_ended(1, "Traceback"), None),
        (a_driver_that_ended(75, "Drained: stopped on request"), None),
        # while it was being killed, or for a spec that was corrected since
        (a_driver_that_ended(64, "InvalidSpec: x", disruption="TerminationByKubelet"), None),
        (of_an_older_spec(INVALID), None),
        (of_an_older_spec(a_driver_that_ended(1, "FailureLimit: 5 of 9")), None),
    ],
)
def test_why_the_driver_ended_is_served_or_left_behind(
    found: Observed, expected: Cause | None
) -> None:
    assert final_word(found, template_hash="now") == expected


def test_a_run_is_complete_when_its_driver_says_so_or_said_so_last() -> None:
    body = json.dumps({"phase": "Complete", "finished": True})

    assert is_complete(COMPLETE)
    assert is_complete(a_driver_that_ended(0, body))
    assert is_complete(of_an_older_spec(a_driver_that_ended(0, body)))
    assert not is_complete(with_driver(progress=a_progress(phase="Complete")))
    assert not is_complete(a_driver_that_ended(0, "not what a driver says"))


def test_a_refused_store_never_fails_or_stops_a_run() -> None:
    assert said(judged(a_run(), a_driver_that_ended(69, "AccessRefused: 403"))) == GOES_ON
    for word in ("AccessRefused: 403", "StorageFull: x", "StoreUnavailable: 503"):
        assert said(judged(a_run(), crashes(50, code=69, message=word))) == GOES_ON


# -- a worker's 64 --


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("InvalidModel: x", Cause(Reason.INVALID_MODEL, "x")),
        (
            "no such option --x\n",
            Cause(Reason.INVALID_SPEC, "run-w000-1-0-00000: no such option --x"),
        ),
        ("AccessRefused: x", Cause(Reason.INVALID_SPEC, "run-w000-1-0-00000: x")),
    ],
)
def test_a_workers_64_fails_the_run_with_its_message(message: str, expected: Cause) -> None:
    pod = an_ended_pod(code=64, message=message)

    assert judged(a_run(), with_driver([a_job()], [pod])).failed == expected


def test_a_64_of_a_worker_that_was_killed_or_is_outdated_fails_no_run() -> None:
    killed = a_preempted_pod(exit_code=64, message="InvalidSpec: x")

    assert said(judged(a_run(), with_driver([a_job()], [killed]))) == GOES_ON
    assert said(judged(a_run(), of_an_older_spec(SIXTY_FOUR))) == GOES_ON


# -- budget --


def test_a_budget_is_spent_when_its_last_cent_is_until_it_is_raised() -> None:
    run, there = a_run(scaling=BUDGET), with_driver()
    raised = a_run(generation=2, scaling={"budget": {"amount": "11"}})
    before = stopped_before("BudgetExhausted")

    assert said(judged(run, there, spent="9.9999")) == GOES_ON
    assert said(judged(run, there, spent="10")) == ("stopped", "BudgetExhausted")
    assert said(judged(raised, there, before, spent="10")) == GOES_ON
    assert said(judged(a_run(), there, before, spent="10")) == GOES_ON
    nothing = a_run(scaling={"budget": {"amount": "0"}})
    assert said(judged(nothing, there)) == ("stopped", "BudgetExhausted")


def test_a_run_stops_while_its_money_still_covers_the_drain_and_stays_so_until_it_is_raised() -> (
    None
):
    run, there = a_run(scaling=BUDGET), with_driver()
    edited, raised = (
        a_run(generation=2, scaling={"budget": {"amount": amount}}) for amount in ("10", "10.01")
    )
    stop = StopStatus(reason="BudgetExhausted", generation=1, budget="10")
    stopped = RephraseRunStatus(stop=stop)

    assert said(judged(run, there, spent="9.5", reserve="0.49")) == GOES_ON
    assert said(judged(run, there, spent="9.5", reserve="0.50")) == ("stopped", "BudgetExhausted")
    assert said(judged(run, there, stopped, spent="9.6")) == ("stopped", "BudgetExhausted")
    assert said(judged(edited, there, stopped, spent="9.6")) == ("stopped", "BudgetExhausted")
    assert said(judged(raised, there, stopped, spent="9.6")) == GOES_ON
    assert said(judged(a_run(generation=2), there, stopped, spent="9.6")) == GOES_ON


def test_a_budget_may_fail_the_run() -> None:
    run = a_run(scaling={**BUDGET, "onBudgetExhausted": "Fail"})

    verdict = judged(run, with_driver(), spent="10.004")

    assert said(verdict) == ("failed", "BudgetExhausted")
    assert verdict.failed is not None
    assert "10.00 of 10 USD" in verdict.failed.message


# -- crash loop --


def test_a_crash_loop_tells_what_its_last_worker_said() -> None:
    stopped = judged(a_run(), A_LOOP).stopped

    assert stopped is not None
    assert "8 workers failed" in stopped.message
    assert "CUDA error. Repair" in stopped.message


DISRUPTED: dict[str, Any] = {"exit_code": 75, "disruption": "EvictionByEvictionAPI"}
NEVER_HAD_A_NODE: dict[str, Any] = {
    "exit_code": None,
    "scheduled": None,
    "node": "",
    "reason": "Unschedulable",
}


@pytest.mark.parametrize(
    "found",
    [
        crashes(SETTINGS.crash_loop_failures - 1),
        crashes(50, **DISRUPTED),
        crashes(50, **NEVER_HAD_A_NODE, deletion=NOW),
        replace(crashes(50), jobs=crashes(50).jobs[:1]),  # they were deleted: stopped on purpose
        replace(A_LOOP, progress=None),
    ],
    ids=["few", "disrupted", "pending", "stopped", "the driver is silent"],
)
def test_anything_less_is_no_crash_loop(found: Observed) -> None:
    assert said(judged(a_run(), found)) == GOES_ON


def test_the_only_worker_of_a_run_is_in_a_crash_loop_though_its_pods_are_gone() -> None:
    first = settle(NOTHING, crashes(7), now=NOW)
    status = RephraseRunStatus(settled=tuple(first.pools.values()), recent_failures=first.failures)

    assert said(judged(a_run(), with_driver(), status)) == GOES_ON
    assert said(judged(a_run(), crashes(1), status)) == NEVER_READY


@pytest.mark.parametrize(("seconds", "expected"), [(-1, NEVER_READY), (0, GOES_ON), (1, GOES_ON)])
def test_progress_or_a_resume_since_then_ends_a_crash_loop(
    seconds: float, expected: tuple[str, str]
) -> None:
    when = ago(2400) + timedelta(seconds=seconds)  # the pods ended 2,400 s ago
    progress = a_progress(lastProgressTime=when.isoformat())
    resumed = with_condition("Suspended", "NotSuspended", when, status="False")

    assert said(judged(a_run(), crashes(8, progress))) == expected
    assert said(judged(a_run(), A_LOOP, resumed)) == expected


# -- stops that only the status remembers --


@pytest.mark.parametrize("reason", ["FailureLimit", "WorkersNeverReady"])
def test_a_remembered_stop_holds_for_its_generation(reason: str) -> None:
    status = stopped_before(reason, generation=1)

    assert said(judged(a_run(generation=1), with_driver(), status)) == ("stopped", reason)
    assert said(judged(a_run(generation=2), with_driver(), status)) == GOES_ON


@pytest.mark.parametrize(
    "reason", ["Requested", "BudgetExhausted", "AwaitingApproval", "MoonPhase"]
)
def test_a_stop_that_a_field_shows_is_not_remembered(reason: str) -> None:
    assert said(judged(a_run(), with_driver(), stopped_before(reason))) == GOES_ON
