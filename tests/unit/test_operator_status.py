"""The status that a look writes, its conditions, and the Events between two of them."""

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rephrase_api.progress import Progress
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1.conditions import Reason
from rephrase_api.v1alpha1.status import (
    Condition,
    ProgressStatus,
    RecentFailure,
    RephraseRunStatus,
    UnitCounts,
)
from rephrase_operator.conditions import phase, refused_status
from rephrase_operator.look import Look, decide
from rephrase_operator.observed import Ending, Observed
from rephrase_operator.plan import Plan
from rephrase_operator.scaling import Pace
from rephrase_operator.settle import MAX_SETTLING
from rephrase_operator.status import status_of
from rephrase_operator.transitions import Event, changes, events, interruptions
from rephrase_operator.verdict import Cause, Verdict
from support.looks import (
    NOW,
    SETTINGS,
    a_driver_job,
    a_job,
    a_look,
    a_pending_pod,
    a_pod,
    a_preempted_pod,
    a_progress,
    a_run,
    ago,
    an_ended_pod,
    at_work,
    observed,
    prices,
    with_driver,
)

WANTS_ONE = Plan((), {"default": 1})
STOPPED = Verdict(stopped=Cause(Reason.REQUESTED, "spec.suspend is true"))
COMPLETE = Verdict(complete=True)
FAILED = Verdict(failed=Cause(Reason.INVALID_MODEL, "no such model"))


def one(status: RephraseRunStatus, kind: str) -> Condition:
    (found,) = (one for one in status.conditions if one.type == kind)
    return found


def said(look: Look, kind: str) -> tuple[str, str]:
    found = one(status_of(look), kind)
    return found.status.value, found.reason


def back(status: RephraseRunStatus) -> RephraseRunStatus:
    """As the API server gives it back."""
    return RephraseRunStatus.from_api(status.to_api())


def a_condition(kind: str, status: str = "True", reason: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason or kind, last_transition_time=NOW)


def one_worker(**worker: Any) -> Observed:  # noqa: ANN401
    """A worker that is at work, unless the driver says otherwise."""
    job = a_job()
    pod = a_pod(job)
    return with_driver([job], [pod], a_progress(workers=at_work(pod, **worker)))


# -- phase --


@pytest.mark.parametrize(
    ("conditions", "units", "expected"),
    [
        ("Failed Complete", None, "Failed"),
        ("Complete Suspended", None, "Succeeded"),
        ("Suspended Deleted", None, "Terminating"),
        ("Suspended Accepted Planned", None, "Suspended"),
        ("Accepted Planned Draining", None, "Suspending"),
        ("Planned WorkersAvailable", None, "Pending"),
        ("Accepted", None, "Planning"),
        ("Accepted Planned WorkersAvailable", (5, 5), "Publishing"),
        ("Accepted Planned WorkersAvailable", (5, 4), "Running"),
        ("Accepted Planned WorkersAvailable", (0, 0), "Running"),
        ("Accepted Planned", None, "Waiting"),
    ],
)
def test_the_phase_is_the_first_that_matches(
    conditions: str, units: tuple[int, int] | None, expected: str
) -> None:
    kinds, run = conditions.split(), a_run()
    found = [a_condition(kind) for kind in kinds if kind not in {"Draining", "Deleted"}]
    if "Draining" in kinds:
        found.append(a_condition("Suspended", "False", "Draining"))
    if "Deleted" in kinds:
        meta = run.metadata.model_copy(update={"deletion_timestamp": NOW})
        run = run.model_copy(update={"metadata": meta})
    counts = UnitCounts(planned=units[0], committed=units[1]) if units else None

    assert phase(run, found, ProgressStatus(units=counts)).value == expected


# -- conditions --


DRIVER = a_driver_job()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (observed(), ("False", "Planning")),
        (observed([DRIVER]), ("False", "Planning")),
        (observed([DRIVER], [a_pending_pod(DRIVER)]), ("False", "Planning")),
        (observed([DRIVER], [an_ended_pod(DRIVER, code=69)]), ("False", "DriverFailed")),
        (observed([DRIVER], [an_ended_pod(DRIVER, code=1)]), ("False", "DriverFailed")),
        (observed([DRIVER], [a_pod(DRIVER)]), ("Unknown", "DriverUnreachable")),
        (observed([DRIVER], [a_pod(DRIVER)], a_progress(0)), ("False", "Planning")),
        (with_driver(), ("True", "Planned")),
    ],
)
def test_planned_follows_the_driver(found: Observed, expected: tuple[str, str]) -> None:
    assert said(a_look(observed=found), "Planned") == expected


def stuck(job: Any, *pods: Any, **more: Any) -> Observed:  # noqa: ANN401
    return replace(with_driver([job], pods), **more)


JOB = a_job()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (one_worker(), ("True", "MinimumReached")),
        (one_worker(phase="loading"), ("False", "ModelLoading")),
        (stuck(a_job(suspended=True)), ("False", "QuotaPending")),
        (stuck(JOB), ("False", "BackingOff")),
        (stuck(JOB, warnings={JOB.uid: "forbidden: quota"}), ("False", "PodCreationBlocked")),
        (stuck(JOB, a_pending_pod(JOB)), ("False", "Unschedulable")),
        (stuck(JOB, an_ended_pod(JOB)), ("False", "CrashLoop")),
        (stuck(JOB, an_ended_pod(JOB, code=69)), ("False", "AccessRefused")),
        (observed([JOB], [a_pod(JOB)]), ("Unknown", "NotReadable")),
        (observed(), ("False", "BackingOff")),
        (observed([DRIVER], [a_pending_pod(DRIVER)]), ("False", "Unschedulable")),
        (with_driver(progress=a_progress(5, 5)), ("False", "NoWorkLeft")),
    ],
)
def test_workers_are_available_or_it_is_told_why_not(
    found: Observed, expected: tuple[str, str]
) -> None:
    assert said(a_look(observed=found, plan=WANTS_ONE), "WorkersAvailable") == expected


def test_workers_are_not_available_below_the_least_the_spec_keeps_or_at_none_at_all() -> None:
    few = a_look(observed=one_worker(), run=a_run(workers={"min": 2, "max": 4}), plan=WANTS_ONE)
    none = one(status_of(a_look(observed=with_driver())), "WorkersAvailable")

    assert said(few, "WorkersAvailable") == ("False", "ModelLoading")
    assert "spec.workers.max is 0" in none.message


SECOND = a_job(1)


@pytest.mark.parametrize(
    ("jobs", "pods", "expected"),
    [
        ([SECOND], [a_pod(SECOND)], "1 of 2 ready; 1 loads the model"),
        ([], [], "1 of 2 ready; 1 is not made yet"),
        ([replace(SECOND, deleting=True)], [a_pod(SECOND)], "1 of 2 ready; 1 is not made yet"),
        (
            [replace(SECOND, complete=True)],
            [an_ended_pod(SECOND, code=0)],
            "1 of 2 ready; 1 ended, as no unit was left to claim",
        ),
    ],
)
def test_every_worker_that_is_wanted_and_not_ready_is_accounted_for(
    jobs: list[Any], pods: list[Any], expected: str
) -> None:
    alone = one_worker()
    found = replace(alone, jobs=[*alone.jobs, *jobs], pods=[*alone.pods, *pods])
    look = a_look(observed=found, plan=Plan((), {"default": 2}))

    assert one(status_of(look), "WorkersAvailable").message == expected


def test_those_that_load_are_told_beside_those_that_wait() -> None:
    third = a_job(2)
    found = with_driver([JOB, SECOND, third], [a_pod(JOB), a_pod(SECOND), a_pending_pod(third)])

    told = one(
        status_of(a_look(observed=found, plan=Plan((), {"default": 4}))), "WorkersAvailable"
    ).message

    assert told.startswith("0 of 4 ready; 2 load the model; 1 is not made yet; 0/3 nodes are")


def test_workers_that_are_not_made_yet_do_not_load_a_model() -> None:
    look = a_look(observed=with_driver(), plan=WANTS_ONE)

    assert said(look, "WorkersAvailable") == ("False", "BackingOff")
    assert one(status_of(look), "WorkersAvailable").message == "0 of 1 ready; 1 is not made yet"


@pytest.mark.parametrize(
    ("seconds", "ready", "expected"),
    [
        (899, True, ("True", "Committing")),
        (901, True, ("False", "Stalled")),
        (901, False, ("Unknown", "Starting")),
        (None, True, ("False", "Stalled")),
        (None, False, ("Unknown", "Starting")),
    ],
)
def test_progress_is_seen_missed_or_not_expected_yet(
    seconds: float | None, *, ready: bool, expected: tuple[str, str]
) -> None:
    pod = a_pod(JOB)
    last: dict[str, Any] = (
        {"lastProgressTime": ago(seconds).isoformat()} if seconds is not None else {}
    )
    progress = a_progress(workers=at_work(pod) if ready else [], **last)

    assert said(a_look(observed=with_driver([JOB], [pod], progress)), "Progressing") == expected
    young = replace(pod, created=ago(60))  # has no time to stall yet
    if expected[1] == "Stalled":
        assert said(a_look(observed=with_driver([JOB], [young], progress)), "Progressing") == (
            "Unknown",
            "Starting",
        )


@pytest.mark.parametrize(
    ("pods", "jobs", "expected"),
    [
        ([], [], ("True", "Requested")),
        ([a_pod(JOB)], [JOB], ("False", "Draining")),
        ([a_pod(JOB, deletion=NOW)], [], ("False", "Draining")),
        ([], [JOB], ("False", "Draining")),
        ([an_ended_pod(JOB)], [a_job(complete=True)], ("True", "Requested")),
    ],
)
def test_a_run_is_suspended_when_no_worker_is_left(
    pods: list[Any], jobs: list[Any], expected: tuple[str, str]
) -> None:
    status = status_of(a_look(verdict=STOPPED, observed=observed(jobs, pods)))

    assert (one(status, "Suspended").status.value, one(status, "Suspended").reason) == expected
    assert status.phase == ("Suspended" if expected[0] == "True" else "Suspending")
    assert status.stop is not None
    assert (status.stop.reason, status.stop.generation) == ("Requested", 1)
    assert status_of(a_look(before=back(status))).stop is None


@pytest.mark.parametrize(
    ("spec", "seconds", "price", "expected"),
    [
        ({}, 3600, "1", ("False", "NoBudget")),
        ({"budget": {"amount": "2"}}, 3600, "1", ("False", "BelowBudget")),
        ({"budget": {"amount": "1.25"}}, 3600, "1", ("False", "BudgetNearlyExhausted")),
        ({"budget": {"amount": "1.26"}}, 3600, "1", ("False", "BelowBudget")),
        ({"budget": {"amount": "1"}}, 3600, "1", ("True", "BudgetExhausted")),
        ({"budget": {"amount": "1"}}, 3600, None, ("Unknown", "CostUnknown")),
        ({"budget": {"amount": "0"}}, 3600, None, ("True", "BudgetExhausted")),
    ],
)
def test_the_budget_is_told(
    spec: dict[str, Any], seconds: float, price: str | None, expected: tuple[str, str]
) -> None:
    look = a_look(
        run=a_run(scaling=spec),
        observed=observed([JOB], [a_pod(JOB, scheduled=ago(seconds))]),
        prices=prices(default=price) if price else {},
    )

    assert said(look, "BudgetExhausted") == expected


PACE = Pace(work=7200, tail=0, start=300, workers=2)  # an hour for the two of them


@pytest.mark.parametrize(
    ("deadline", "pace", "expected", "message"),
    [
        (None, PACE, ("False", "NoDeadline"), "no deadline"),
        ("12:10", None, ("Unknown", "NoThroughput"), "no throughput yet"),
        ("13:00", PACE, ("False", "OnTrack"), "with up to 4 workers it ends 27m30s before it"),
        (
            "12:20",
            PACE,
            ("True", "BehindDeadline"),
            "with all 4 workers it will miss the deadline by 12m30s; set spec.workers.max to 8, or "
            "spec.scaling.deadline 12m30s later",
        ),
        (
            "12:04",
            PACE,
            ("True", "BehindDeadline"),
            "with all 4 workers it will miss the deadline by 28m30s; set spec.scaling.deadline 28m30s "
            "later; more workers would start too late",
        ),
        (
            "11:50",
            PACE,
            ("True", "BehindDeadline"),
            "the deadline passed 10m00s ago; it will miss it by 42m30s",
        ),
        ("11:50", None, ("True", "BehindDeadline"), "the deadline passed 10m00s ago"),
        ("13:00", replace(PACE, work=1e13), ("True", "BehindDeadline"), "more workers"),
    ],
)
def test_the_deadline_is_told_with_what_would_help(
    deadline: str | None, pace: Pace | None, expected: tuple[str, str], message: str
) -> None:
    scaling = {"deadline": f"2026-11-23T{deadline}:00Z"} if deadline else {}
    look = a_look(run=a_run(scaling=scaling), observed=with_driver(), pace=pace)

    assert said(look, "DeadlineAtRisk") == expected
    assert message in one(status_of(look), "DeadlineAtRisk").message


def test_more_workers_than_the_installation_allows_are_no_remedy() -> None:
    scaling = {"deadline": "2026-11-23T12:20:00Z"}
    settings = replace(SETTINGS, max_workers_per_run=4)
    look = a_look(run=a_run(scaling=scaling), observed=with_driver(), pace=PACE, settings=settings)

    assert one(status_of(look), "DeadlineAtRisk").message.endswith(
        "set spec.scaling.deadline 12m30s later; 8 workers would do, and limits.maxWorkersPerRun is 4"
    )


def again(look: Look, times: int) -> list[RephraseRunStatus]:
    """The statuses of the same look, each read back by the next; a failure is remembered by its condition."""
    found = [back(status_of(look))]
    for _ in range(times - 1):
        before = found[-1]
        told = one(before, "Failed")
        failed = Cause(Reason(told.reason), told.message)
        verdict = Verdict(failed=failed) if look.verdict.failed else look.verdict
        look = replace(look, before=before, verdict=verdict, now=look.now + timedelta(seconds=30))
        found.append(back(status_of(look)))
    return found


@pytest.mark.parametrize("verdict", [COMPLETE, STOPPED, FAILED, Verdict()])
def test_the_same_look_again_changes_nothing_and_is_no_event(verdict: Verdict) -> None:
    pod = an_ended_pod(JOB, code=0)
    look = a_look(verdict=verdict, observed=observed([JOB], [pod]), prices=prices(default="1"))

    first, *others = again(look, 4)

    for other in others:
        assert changes(first.to_api(), other.to_api()) == {}
        assert events(first, other) == []


# -- numbers --


def test_a_status_tells_progress_workers_and_cost() -> None:
    jobs = [a_job(slot) for slot in range(3)]
    pods = [a_pod(jobs[0], scheduled=ago(7200)), a_pending_pod(jobs[1]), a_pod(deletion=NOW)]
    progress = a_progress(
        100,
        25,
        workers=at_work(pods[0]),
        rates={"documentsPerSecond": 10, "completionTokensPerSecond": 81234.56},
        tokens={"prompt": 1, "completion": 3_000_000, "discarded": 1_000_000},
    )
    look = a_look(
        observed=with_driver(jobs[:2], pods[:2], progress),
        plan=Plan((), {"default": 2}),
        prices=prices(default="2"),
    )

    status = status_of(look)

    assert status.progress is not None
    assert status.progress.display == "25/100"
    assert status.workers is not None
    assert (status.workers.display, status.workers.active) == ("1/2", 2)
    assert status.workers.selector == "rephrase.io/run=run,rephrase.io/role=worker"
    (pool,) = status.workers.pools
    assert (pool.desired, pool.active, pool.ready, pool.pending) == (2, 2, 1, 1)
    assert pool.reason == "Unschedulable"
    assert status.cost is not None
    assert (status.cost.total, status.cost.discarded) == ("4.00", "1.00")
    assert (status.cost.projected, status.cost.per_million_tokens) == ("16.00", "1.33")
    assert status.throughput is not None
    assert status.throughput.completion_tokens_per_second == 81234.6
    assert status.eta == "4h10m"
    assert status.output is not None
    assert status.output.manifest == "s3://synthetic/run/_run/manifest.json"
    assert status.spec_hash == spec_hash(declared(a_run().spec))
    assert status.image is not None
    assert status.image.runner == "registry.test/runner:1"


@pytest.mark.parametrize("progress", [None, a_progress(0)], ids=["silent", "starting"])
def test_what_was_known_stays_while_the_driver_is_silent_or_starts(
    progress: Progress | None,
) -> None:
    there = with_driver([JOB], [a_pod(JOB)], a_progress(100, 25))
    before = back(status_of(a_look(observed=there, prices=prices(default="2"))))
    there = replace(there, progress=progress)

    after = status_of(a_look(before=before, observed=there, prices=prices(default="2")))

    assert (after.progress, after.tokens) == (before.progress, before.tokens)
    assert after.cost is not None
    assert after.cost.per_million_tokens is not None
    assert after.cost == before.cost
    assert (after.throughput, after.eta) == (None, None)


def test_what_pods_cost_after_the_last_word_of_the_driver_is_in_the_ratios_too() -> None:
    there = with_driver([JOB], [a_pod(JOB)], a_progress(100, 25))
    before = back(status_of(a_look(observed=there, prices=prices(default="2"))))
    later = NOW + timedelta(seconds=1800)
    look = a_look(before=before, observed=replace(there, progress=None), now=later)

    cost = status_of(replace(look, prices=prices(default="2"))).cost

    assert before.cost is not None
    assert before.tokens is not None
    assert cost is not None
    assert cost.total is not None
    assert cost.discarded is not None
    tokens = (before.tokens.completion or 0) + (before.tokens.discarded or 0)
    assert float(cost.total) > float(before.cost.total or 0)
    lost = float(cost.total) * (before.tokens.discarded or 0) / tokens
    assert float(cost.discarded) == pytest.approx(lost, abs=0.01)
    assert cost.projected == before.cost.projected


def test_numbers_at_the_end_of_what_is_believed_can_be_written() -> None:
    most = (1 << 53) - 1
    samples = {"expected": most, "written": most, "skipped": most, "failed": most, "finished": 1}
    progress = a_progress(
        most,
        most,
        documents={"total": most, "done": most},
        samples=samples,
        tokens={"prompt": most, "completion": most, "discarded": most},
        rates={"documentsPerSecond": 1e15, "completionTokensPerSecond": 1e15},
    )
    look = a_look(
        observed=with_driver([JOB], [a_pod(JOB)], progress), prices=prices(default="1000000")
    )

    assert back(status_of(look)) == status_of(look)


def test_without_a_price_there_are_gpu_hours_and_no_money() -> None:
    found = status_of(a_look(observed=observed([JOB], [a_pod(JOB, scheduled=ago(1800))]))).cost

    assert found is not None
    assert (found.total, found.basis) == (None, "Unknown")
    assert [(pool.amount, pool.gpu_hours) for pool in found.by_pool] == [(None, "0.500")]


def test_a_generation_counts_as_observed_when_nothing_is_left_to_do_for_it() -> None:
    run = a_run(generation=7)

    assert status_of(a_look(run=run)).observed_generation == 7
    assert status_of(a_look(run=run, applied=False)).observed_generation is None
    assert (
        status_of(a_look(run=run, plan=Plan((), {}, unfinished=True))).observed_generation is None
    )


def test_a_finished_driver_that_nobody_asked_is_read_from_its_last_words() -> None:
    body = a_progress(7, 7, phase="Complete", finished=True).model_dump_json(
        by_alias=True, exclude={"workers"}
    )
    pod = an_ended_pod(DRIVER, code=0, message=body)

    status = status_of(a_look(observed=observed([DRIVER], [pod]), verdict=COMPLETE))

    assert status.progress is not None
    assert status.progress.display == "7/7"


def test_the_largest_status_is_far_below_what_the_api_server_takes() -> None:
    jobs = [a_job(slot) for slot in range(4096)]
    pods = [an_ended_pod(job, message="x" * 4096) for job in jobs]
    progress = a_progress(10**9, 10**8, message="y" * 9999)
    verdict = Verdict(stopped=Cause(Reason.WORKERS_NEVER_READY, "z" * 99_999))

    status = status_of(a_look(observed=with_driver(jobs, pods, progress), verdict=verdict))

    assert len(status.settling) == MAX_SETTLING
    assert len(json.dumps(status.to_api())) < 200_000


# -- Events --


def transitions(*looks: Look) -> list[list[Event]]:
    statuses = [status_of(look) for look in looks]
    return [events(before, after) for before, after in itertools.pairwise(statuses)]


def test_a_run_that_drains_has_not_resumed() -> None:
    runs = a_look(observed=one_worker(), plan=WANTS_ONE)
    drains = replace(runs, verdict=STOPPED)
    stopped = a_look(verdict=STOPPED)

    to_drain, to_stop, to_run = transitions(runs, drains, stopped, runs)

    assert "Resumed" not in [event.reason for event in to_drain]
    assert "Suspended" in [event.reason for event in to_stop]
    assert "Resumed" in [event.reason for event in to_run]


def test_a_failure_is_told_once() -> None:
    failure = RecentFailure(time=NOW, worker="w", reason="OOMKilled", message="exit 137")
    before, after = RephraseRunStatus(), RephraseRunStatus(recent_failures=(failure,))

    assert events(before, after) == [Event("Warning", "WorkerFailed", "OOMKilled: exit 137")]
    assert events(after, after) == []


def test_interrupted_workers_are_told_by_name_in_one_event_and_failures_are_not_among_them() -> (
    None
):
    taken = [a_preempted_pod(a_job(slot)) for slot in range(5)]
    failed, done = an_ended_pod(a_job(7)), an_ended_pod(a_job(8), code=0)
    look = a_look(observed=observed([a_job(slot) for slot in range(9)], [*taken, failed, done]))

    (event,) = interruptions(look.settlement.ended)

    assert (event.type, event.reason) == ("Normal", "WorkersInterrupted")
    assert event.message.startswith(
        "5 workers were interrupted: run-w000-1-0-00000 on node-1 (Evict"
    )
    assert "2 more; that uses up no retry" in event.message
    assert interruptions([(failed, Ending.FAILURE), (done, Ending.DONE)]) == []


def test_a_driver_that_is_lost_is_told_with_the_reason_and_one_that_only_starts_is_not() -> None:
    driver = a_driver_job()
    starts = a_look(observed=observed([driver], [a_pod(driver)]))
    works = a_look(observed=with_driver(progress=a_progress(lastProgressTime=NOW.isoformat())))
    killed = an_ended_pod(driver, code=137, reason="OOMKilled")
    lost = a_look(observed=observed([driver], [killed]))

    to_work, to_loss = transitions(starts, works, lost)

    assert "DriverUnreachable" not in [event.reason for event in to_work]
    (event,) = (event for event in to_loss if event.reason == "DriverUnreachable")
    assert "out of memory" in event.message


def test_ends_refusals_and_scaling_are_events_and_the_last_units_are_no_scaling() -> None:
    refused = a_look(verdict=Verdict(refused=Cause(Reason.PRICE_MISSING, "set it")))
    jobs = [a_job(slot) for slot in range(4)]

    def scaled(committed: int) -> Look:
        there = with_driver(jobs, [a_pod(job) for job in jobs], a_progress(100, committed))
        return decide(
            a_run(),
            RephraseRunStatus(),
            there,
            refused=None,
            prices={},
            template_hashes={"": "now", "default": "now"},
            settings=SETTINGS,
            now=NOW,
        )

    up, last = transitions(a_look(), scaled(90), scaled(99))

    (told,) = (event for event in up if event.reason == "WorkersScaled")
    assert told.message == "0 -> 4 wanted: no deadline: as many as are allowed, 4"
    assert "WorkersScaled" not in [event.reason for event in last]
    for look, kind, reason in (
        (a_look(verdict=COMPLETE), "Normal", "Completed"),
        (a_look(verdict=FAILED), "Warning", "Failed"),
        (refused, "Warning", "PriceMissing"),
    ):
        found = events(RephraseRunStatus(), status_of(look))
        assert (kind, reason) in [(event.type, event.reason) for event in found]


# -- objects that cannot be read --


def test_an_object_that_cannot_be_read_is_refused_and_keeps_the_rest() -> None:
    before = back(status_of(a_look(observed=one_worker(), plan=WANTS_ONE)))
    cause = Cause(Reason.INVALID_SPEC, "spec.prompts: must be set")

    after = refused_status(before, cause, generation=2, now=NOW + timedelta(seconds=9))
    again = refused_status(back(after), cause, generation=2, now=NOW + timedelta(seconds=99))

    assert one(after, "Accepted").reason == "InvalidSpec"
    assert one(after, "Accepted").last_transition_time == NOW + timedelta(seconds=9)
    assert one(after, "Planned") == one(before, "Planned")
    assert after.observed_generation == 2
    assert after.progress == before.progress
    assert changes(after.to_api(), again.to_api()) == {}
