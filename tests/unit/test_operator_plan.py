"""What is done next for a run, branch by branch."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rephrase_api.progress import Progress
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import Reason
from rephrase_api.v1alpha1.status import RephraseRunStatus, StopStatus
from rephrase_operator.observed import JobSeen, Observed, PodSeen
from rephrase_operator.plan import (
    Action,
    DeleteJob,
    DeleteRun,
    Plan,
    PutOffStop,
    StartDriver,
    StartWorker,
    plan,
)
from rephrase_operator.verdict import Cause, Verdict
from support.looks import (
    NOW,
    a_driver_job,
    a_job,
    a_pending_pod,
    a_pod,
    a_preempted_pod,
    a_progress,
    a_run,
    ago,
    an_ended_pod,
    at_work,
    observed,
    two_pools,
    with_driver,
)

GOES_ON = Verdict()
SUSPENDED = Verdict(stopped=Cause(Reason.REQUESTED, "spec.suspend is true"))


def planned(
    run: RephraseRun,
    found: Observed,
    *,
    status: RephraseRunStatus | None = None,
    verdict: Verdict = GOES_ON,
    settled: tuple[PodSeen, ...] = (),
    **hashes: str,
) -> Plan:
    status = status or RephraseRunStatus()
    status = status.model_copy(update={"settling": tuple(pod.uid for pod in settled)})
    wanted = {"": "now", **{pool.name: "now" for pool in run.spec.pools()}, **hashes}
    return plan(run, status, found, verdict, template_hashes=wanted, now=NOW)


def started(found: Plan) -> list[tuple[int, int, str]]:
    return [
        (one.slot, one.attempt, one.pool) for one in found.actions if isinstance(one, StartWorker)
    ]


def deleted(found: Plan) -> list[str]:
    return [one.name for one in found.actions if isinstance(one, DeleteJob)]


def reasons(found: Plan) -> list[str]:
    return [one.reason for one in found.actions if isinstance(one, DeleteJob)]


def running(*slots: int, **more: Any) -> tuple[list[JobSeen], list[PodSeen]]:  # noqa: ANN401
    jobs = [a_job(slot, **more) for slot in slots]
    return jobs, [a_pod(job) for job in jobs]


# -- the driver comes first --


def test_a_new_run_gets_a_driver_and_nothing_else() -> None:
    driver = a_driver_job()

    found = planned(a_run(), observed())

    assert found.actions == (StartDriver("the run has no driver"),)
    assert found.desired == {"default": 0}
    for progress in (None, a_progress(0)):
        assert not planned(a_run(), observed([driver], [a_pod(driver)], progress)).actions


def test_workers_are_made_once_the_run_is_planned_the_lowest_slots_first() -> None:
    found = planned(a_run(workers={"max": 3}), with_driver(progress=a_progress(100)))

    assert [(one.slot, one.start) for one in found.actions if isinstance(one, StartWorker)] == [
        (0, 0),
        (1, 50),
        (2, 25),
    ]
    assert started(found) == [(0, 1, "default"), (1, 1, "default"), (2, 1, "default")]
    assert found.desired == {"default": 3}


@pytest.mark.parametrize(
    ("job", "pod", "expected"),
    [
        ({"deleting": True}, None, None),
        ({"template_hash": "old"}, None, "the spec has changed"),
        ({"failure": "FailedIndexes", "ended": ago(59)}, {"code": 69}, None),
        ({"failure": "FailedIndexes", "ended": ago(60)}, {"code": 69}, "the driver ended"),
        ({"failure": "FailedIndexes", "ended": ago(299)}, {"code": 1}, None),
        ({"failure": "FailedIndexes", "ended": ago(300)}, {"code": 1}, "the driver ended"),
        ({"failure": "PodFailurePolicy", "ended": ago(300)}, None, "the driver ended"),
        ({"complete": True, "ended": ago(59)}, {"code": 0}, None),
        ({"complete": True, "ended": ago(60)}, {"code": 0}, "the driver ended"),
    ],
)
def test_a_driver_is_made_anew_when_it_is_outdated_or_has_ended(
    job: dict[str, Any], pod: dict[str, Any] | None, expected: str | None
) -> None:
    driver = a_driver_job(**job)
    pods = [an_ended_pod(driver, code=pod["code"])] if pod else []

    found = planned(a_run(), observed([driver], pods))

    assert [reason[: len(expected or "")] for reason in reasons(found)] == (
        [expected] if expected else []
    )
    assert not [one for one in found.actions if isinstance(one, StartDriver)]  # at the next look


def test_a_driver_on_a_silent_node_is_made_anew() -> None:
    driver = a_driver_job()
    early, late = a_pod(driver, deletion=ago(59)), a_pod(driver, deletion=ago(60))

    assert deleted(planned(a_run(), observed([driver], [early]))) == []
    assert deleted(planned(a_run(), observed([driver], [late]))) == [driver.name]


# -- how many --


@pytest.mark.parametrize(
    ("workers", "units", "expected"),
    [
        (two_pools({"max": 3}, {}, max=8), 100, {"spot": 3, "od": 5}),
        (two_pools({}, {}, max=8), 100, {"spot": 8, "od": 0}),
        (two_pools({"max": 3}, {"max": 2}, max=8), 100, {"spot": 3, "od": 2}),
        (two_pools({}, {"min": 2}, max=8), 100, {"spot": 6, "od": 2}),
        (two_pools({}, {"min": 2}, max=1), 100, {"spot": 0, "od": 1}),
        (two_pools({"min": 1}, {"min": 1}, max=8), 1, {"spot": 1, "od": 0}),
        (two_pools({}, {}, max=8), 3, {"spot": 3, "od": 0}),
        (two_pools({}, {}, max=0), 3, {"spot": 0, "od": 0}),
    ],
    ids=str,
)
def test_pools_get_their_least_first_then_by_priority_and_no_more_than_there_are_units(
    workers: dict[str, Any], units: int, expected: dict[str, int]
) -> None:
    found = planned(a_run(**workers), with_driver(progress=a_progress(units)))

    assert found.desired == expected
    assert len(started(found)) == sum(expected.values())


def test_no_more_than_fifty_jobs_are_made_at_one_look() -> None:
    found = planned(a_run(workers={"max": 200}), with_driver())
    few = planned(a_run(workers={"max": 50}), with_driver())

    assert (len(started(found)), found.desired, found.unfinished) == (50, {"default": 100}, True)
    assert (len(started(few)), few.unfinished) == (50, False)


@pytest.mark.parametrize(("left", "new"), [(98, 2), (4, 2), (3, 1), (2, 0), (1, 0), (0, 0)])
def test_the_last_units_stop_no_worker_and_start_none_that_would_come_too_late(
    left: int, new: int
) -> None:
    there = with_driver(*running(0, 1), a_progress(100, 100 - left))

    found = planned(a_run(), there)

    assert (deleted(found), len(started(found)), found.desired) == ([], new, {"default": 4})


@pytest.mark.parametrize("progress", [None, a_progress(0)], ids=["silent", "starting"])
def test_a_driver_that_is_silent_or_starts_changes_no_number(progress: Progress | None) -> None:
    there = replace(with_driver(*running(0, 1, 2)), progress=progress)
    units = {"progress": {"units": {"planned": 100, "committed": 10}}}
    status = RephraseRunStatus.from_api(units)

    assert planned(a_run(), there, status=status).desired == {"default": 4}
    assert started(planned(a_run(), there, status=status)) == [(3, 1, "default")]
    fewer = planned(a_run(workers={"max": 1}), there, status=status)
    assert deleted(fewer) == ["run-w002-1", "run-w001-1"]


def test_a_lower_ceiling_takes_those_without_a_node_and_then_the_highest_slots() -> None:
    jobs, pods = running(0, 1, 2, 3)
    pods[1] = a_pending_pod(jobs[1])

    one_less = planned(a_run(workers={"max": 3}), with_driver(jobs, pods))
    two_less = planned(a_run(workers={"max": 2}), with_driver(jobs, pods))

    assert deleted(one_less) == ["run-w001-1"]
    assert deleted(two_less) == ["run-w001-1", "run-w003-1"]


def test_a_pool_that_left_the_spec_makes_way_for_the_others() -> None:
    jobs, pods = running(0, 1, pool="old")

    found = planned(a_run(workers={"max": 2}), with_driver(jobs, pods))

    assert deleted(found) == ["run-w001-1", "run-w000-1"]
    assert started(found) == [(0, 2, "default"), (1, 2, "default")]


def test_a_free_slot_is_used_with_the_attempt_after_the_highest_seen() -> None:
    jobs, pods = running(0, 2)
    going = a_job(1, 4, deleting=True)

    found = planned(a_run(workers={"max": 3}), with_driver([*jobs, going], pods))

    assert started(found) == [(1, 5, "default")]


def test_of_two_jobs_of_one_slot_the_younger_stays() -> None:
    jobs, pods = running(0, 1)
    twin = a_job(0, 2)
    there = with_driver([*jobs, twin], [*pods, a_pod(twin)])

    found = planned(a_run(workers={"max": 2}), there)

    assert (deleted(found), started(found)) == (["run-w000-1"], [])


def test_of_two_jobs_of_one_slot_the_one_that_has_not_failed_stays() -> None:
    jobs, pods = running(0, 1)
    twin = a_job(0, 2, failure="BackoffLimitExceeded", ended=ago(5))
    there = with_driver([*jobs, twin], [*pods, an_ended_pod(twin)])

    found = planned(a_run(workers={"max": 2}), there)

    assert "run-w000-1" not in deleted(found)
    assert started(found) == []


def test_a_slot_with_two_jobs_is_counted_once_when_workers_are_spread_over_pools() -> None:
    spot, spot_pods = running(0, 1, pool="spot")
    others, other_pods = running(2, 3, pool="od")
    twin = a_job(0, 2, pool="spot")
    there = with_driver([*spot, twin, *others], [*spot_pods, a_pod(twin), *other_pods])

    found = planned(a_run(**two_pools({"max": 3}, {}, max=4)), there)

    assert (deleted(found), started(found)) == (["run-w000-1"], [])


def test_two_operators_give_the_next_job_of_a_slot_one_name_though_its_last_is_gone() -> None:
    there = replace(with_driver(), attempts={0: 4})

    assert started(planned(a_run(workers={"max": 1}), there)) == [(0, 5, "default")]


# -- renewals --


def renewed(
    job: JobSeen, *pods: PodSeen, work: PodSeen | None = None, settled: bool = True
) -> Plan:
    workers = at_work(work, samplesCheckpointed=5) if work is not None else []
    there = with_driver([job], pods, a_progress(workers=workers))
    ended = tuple(pod for pod in pods if pod.terminal) if settled else ()
    return planned(a_run(workers={"max": 1}), there, settled=ended)


def test_a_job_whose_worker_was_interrupted_is_renewed_at_once() -> None:
    job = a_job()

    assert not renewed(job, a_preempted_pod(job, 0), settled=False).actions
    assert not renewed(job, a_preempted_pod(job, 0), a_pod(job, 1)).actions
    assert renewed(job, a_preempted_pod(job, 0)).actions == (
        DeleteJob(job.name, job.uid, "interrupted"),
        StartWorker(0, 2, "default", 0, "1 workers are wanted in pool default"),
    )


DRAINED = {"code": 75}
REJECTED = {"exit_code": None, "reason": "OutOfcpu", "finished": None}
LOST = {"code": 137, "reason": "ContainerStatusUnknown"}


@pytest.mark.parametrize("end", [DRAINED, REJECTED, LOST], ids=str)
def test_a_worker_that_nobody_took_keeps_the_back_off_until_its_job_has_failed(
    end: dict[str, Any],
) -> None:
    goes_on, failed = a_job(), a_job(failure="FailedIndexes", ended=ago(1))

    assert not renewed(goes_on, an_ended_pod(goes_on, **end)).actions
    assert reasons(renewed(failed, an_ended_pod(failed, **end))) == [
        "interrupted more often than Kubernetes allows"
    ]


def test_a_worker_that_has_finished_is_not_renewed_before_its_job_is_complete() -> None:
    job = a_job()
    done = an_ended_pod(job, code=0)

    assert not renewed(job, done, work=done).actions


def test_a_failure_after_some_work_renews_the_job() -> None:
    job = a_job()
    failed = an_ended_pod(job)

    assert not renewed(job, failed).actions
    assert reasons(renewed(job, failed, work=failed)) == [
        "it failed after it had got something done"
    ]


@pytest.mark.parametrize(
    ("code", "seconds", "expected"),
    [(69, 59, []), (69, 60, ["another try"]), (1, 299, []), (1, 300, ["another try"])],
)
def test_a_job_that_failed_for_good_is_tried_anew_after_a_pause(
    code: int, seconds: int, expected: list[str]
) -> None:
    job = a_job(failure="FailedIndexes", ended=ago(seconds))

    assert reasons(renewed(job, an_ended_pod(job, code=code))) == expected


def test_a_worker_that_ended_well_is_missed_only_after_the_driver_had_time_to_count() -> None:
    early, late = a_job(complete=True, ended=ago(59)), a_job(complete=True, ended=ago(60))

    assert not renewed(early, an_ended_pod(early, code=0)).actions
    assert started(renewed(late, an_ended_pod(late, code=0))) == [(0, 2, "default")]


def test_a_pod_on_a_silent_node_gives_its_slot_to_another() -> None:
    job = a_job()

    assert not renewed(job, a_pod(job, deletion=ago(59))).actions
    assert started(renewed(job, a_pod(job, deletion=ago(60)))) == [(0, 2, "default")]


# -- a spec that has changed --


def outdated(*others: tuple[JobSeen, PodSeen | None], ready: int = 0) -> Plan:
    """Of thirty workers those that are not of the old spec and at work are given; some are ready."""
    jobs, pods = running(*range(30 - len(others)), template_hash="old")
    jobs += [job for job, _ in others]
    new = [pod for _, pod in others if pod is not None]
    progress = a_progress(workers=at_work(*pods, *new[:ready]))
    return planned(a_run(workers={"max": 30}), with_driver(jobs, [*pods, *new], progress))


NEW = a_job(29, 2)
STARTING = a_pod(NEW, phase="Pending", scheduled=None, created=ago(179))
WAITING = a_pod(NEW, phase="Pending", scheduled=None, created=ago(180))


@pytest.mark.parametrize(
    ("job", "pod", "ready", "expected"),
    [
        (NEW, a_pod(NEW), 1, 3),
        (NEW, a_pod(NEW), 0, 2),  # it loads its model
        (NEW, an_ended_pod(NEW), 0, 2),  # it fails, or is refused
        (NEW, None, 0, 2),
        (NEW, STARTING, 0, 2),
        (NEW, WAITING, 0, 3),  # for a node, or for its queue
        (replace(NEW, suspended=True), None, 0, 3),
        (replace(NEW, suspended=True, created=ago(179)), None, 0, 2),
    ],
)
def test_outdated_workers_are_replaced_one_in_ten_at_a_time_until_the_new_ones_work(
    job: JobSeen, pod: PodSeen | None, ready: int, expected: int
) -> None:
    found = outdated((job, pod), ready=ready)

    assert deleted(found) == [f"run-w{slot:03}-1" for slot in range(expected)]
    assert set(reasons(found)) == {"the spec has changed"}
    assert started(found) == [(slot, 2, "default") for slot in range(expected)]
    assert found.unfinished


def test_outdated_workers_that_do_not_run_are_replaced_at_once() -> None:
    pending, unsettled = a_job(28, template_hash="old"), a_job(29, template_hash="old")

    found = outdated((pending, a_pending_pod(pending)), (unsettled, an_ended_pod(unsettled)))

    assert deleted(found) == ["run-w028-1", "run-w000-1", "run-w001-1", "run-w002-1"]


def test_only_the_pool_that_changed_is_replaced_and_only_while_the_driver_answers() -> None:
    spot, od = a_job(0, pool="spot"), a_job(1, pool="od")
    run = a_run(**two_pools({"max": 1}, {"max": 1}, max=2))
    pods = [a_pod(spot), a_pod(od)]
    there = with_driver([spot, od], pods, a_progress(workers=at_work(*pods)))

    found = planned(run, there, od="other")

    assert deleted(found) == [od.name]
    assert started(found) == [(1, 2, "od")]
    assert deleted(planned(run, replace(there, progress=None), od="other")) == []


# -- what is not settled stays --


@pytest.mark.parametrize("why", ["surplus", "outdated", "stopped", "over"])
def test_a_worker_is_settled_before_it_is_deleted(why: str) -> None:
    job = a_job(template_hash="old" if why == "outdated" else "now")
    pod = an_ended_pod(job)
    run = a_run(workers={"max": 0 if why == "surplus" else 1})
    verdict = {"stopped": SUSPENDED, "over": DONE}.get(why, GOES_ON)
    there = observed([job], [pod], a_progress())

    for settled in ((), (pod,)):
        found = planned(run, there, settled=settled, verdict=verdict, status=over(9))
        assert (job.name in deleted(found)) == bool(settled)


# -- refused, stopped, over --


def test_a_refused_run_gets_nothing_new_and_keeps_what_it_has() -> None:
    refused = Verdict(refused=Cause(Reason.OUTPUT_IN_USE, "x"))
    jobs, pods = running(0)

    assert planned(a_run(), observed(), verdict=refused).actions == ()
    assert planned(a_run(), with_driver(jobs, pods), verdict=refused).actions == ()


def test_a_stopped_run_drains_its_workers_first_and_then_its_driver() -> None:
    jobs, pods = running(0, 1)
    draining = [replace(pod, deletion=NOW) for pod in pods]

    first = planned(a_run(), with_driver(jobs, pods), verdict=SUSPENDED)
    then = planned(a_run(), with_driver([], draining), verdict=SUSPENDED)
    last = planned(a_run(), with_driver(), verdict=SUSPENDED)

    assert deleted(first) == ["run-w000-1", "run-w001-1"]
    assert then.actions == ()
    assert deleted(last) == ["run-driver"]
    assert first.desired == {}


@pytest.mark.parametrize("reason", [Reason.FAILURE_LIMIT, Reason.WORKERS_NEVER_READY])
def test_a_stop_that_only_the_status_remembers_is_recorded_before_it_is_carried_out(
    reason: Reason,
) -> None:
    jobs, pods = running(0)
    verdict = Verdict(stopped=Cause(reason, "x"))
    old = RephraseRunStatus(stop=StopStatus(reason=reason, generation=0))
    recorded = RephraseRunStatus(stop=StopStatus(reason=reason, generation=1))
    there = with_driver(jobs, pods)

    assert not planned(a_run(), there, verdict=verdict).actions
    assert not planned(a_run(), there, verdict=verdict, status=old).actions
    assert deleted(planned(a_run(), there, verdict=verdict, status=recorded)) == ["run-w000-1"]


def over(seconds: float | None) -> RephraseRunStatus:
    return RephraseRunStatus(completion_time=ago(seconds) if seconds is not None else None)


DONE = Verdict(complete=True)
FAILED = Verdict(failed=Cause(Reason.INVALID_MODEL, "x"))


def test_workers_of_a_complete_run_get_a_minute_to_end_by_themselves_and_of_a_failed_one_none() -> (
    None
):
    jobs, pods = running(0)
    there = with_driver(jobs, pods)

    assert deleted(planned(a_run(), there, verdict=DONE, status=over(59))) == ["run-driver"]
    for verdict, status in ((DONE, over(60)), (FAILED, over(0))):
        both = deleted(planned(a_run(), there, verdict=verdict, status=status))
        assert both == ["run-driver", "run-w000-1"]


@pytest.mark.parametrize(
    ("seconds", "jobs", "expected"),
    [
        (99, [], ()),
        (100, [], (DeleteRun("finished 100 s ago (spec.ttlSecondsAfterFinished)"),)),
        (100, [a_job(deleting=True)], ()),
    ],
)
def test_a_run_is_deleted_when_its_time_to_live_is_over_and_nothing_of_it_is_left(
    seconds: float, jobs: list[JobSeen], expected: tuple[Action, ...]
) -> None:
    run = a_run(ttlSecondsAfterFinished=100)

    assert planned(run, observed(jobs), verdict=DONE, status=over(seconds)).actions == expected
    assert planned(a_run(), observed(jobs), verdict=DONE, status=over(10**8)).actions == ()


@pytest.mark.parametrize(
    ("known", "wanted", "told"),
    [
        (None, None, False),
        (None, 4000, True),
        (4000, None, True),
        (4000, 4000, False),
        (4900, 4000, False),
        (5001, 4000, True),
        (2999, 4000, True),
    ],
    ids=["no budget", "a new one", "none any more", "right", "nearly", "too late", "too soon"],
)
def test_a_worker_is_told_when_to_stop_by_itself_once_that_is_a_quarter_off(
    known: float | None, wanted: float | None, *, told: bool
) -> None:
    job = a_job()
    until = NOW + timedelta(seconds=wanted) if wanted is not None else None
    pod = a_pod(job, stop_at=NOW + timedelta(seconds=known) if known is not None else None)
    ended = an_ended_pod(a_job(1))

    found = plan(
        a_run(workers={"max": 1}),
        RephraseRunStatus(),
        with_driver([job], [pod, ended]),
        GOES_ON,
        template_hashes={"": "now", "default": "now"},
        now=NOW,
        stop_at=until,
    )

    assert found.actions == ((PutOffStop(pod.name, pod.uid, until),) if told else ())


def test_a_job_that_is_being_deleted_is_not_deleted_again() -> None:
    job = a_job(deleting=True, template_hash="old", failure="FailedIndexes")
    there = with_driver([job], [a_pod(job, deletion=NOW - timedelta(hours=1))])

    assert not deleted(planned(a_run(workers={"max": 0}), there))
    assert not deleted(planned(a_run(), there, verdict=SUSPENDED))
    assert deleted(planned(a_run(), there, verdict=DONE, status=over(99))) == ["run-driver"]
