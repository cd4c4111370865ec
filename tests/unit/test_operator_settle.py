"""What ended pods used and why, counted once."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from rephrase_api.v1alpha1.status import (
    RecentFailure,
    RephraseRunStatus,
    SettledPool,
    StopStatus,
)
from rephrase_operator.observed import Disruption, Ending, JobSeen, Observed, PodSeen, disruption
from rephrase_operator.settle import MAX_SETTLING, Settlement, seconds_by_pool, settle
from support.looks import (
    NOW,
    a_driver_job,
    a_job,
    a_pod,
    a_preempted_pod,
    a_progress,
    ago,
    an_ended_pod,
    observed,
    with_driver,
)

NOTHING = RephraseRunStatus()


def written(settlement: Settlement) -> RephraseRunStatus:
    """The status with this account, as the API server gives it back."""
    status = RephraseRunStatus(
        settled=tuple(settlement.pools.values()),
        settling=settlement.settling,
        recent_failures=settlement.failures,
    )
    return RephraseRunStatus.from_api(status.to_api())


def settled(status: RephraseRunStatus, found: Observed) -> Settlement:
    return settle(status, found, now=NOW)


def test_an_ended_pod_adds_its_seconds_and_its_end_to_its_pool() -> None:
    driver, spot, od = a_driver_job(), a_job(0, pool="spot"), a_job(1, pool="od")
    pods = [
        an_ended_pod(spot, 0, 1, gpus=2),
        a_preempted_pod(spot, 1),
        an_ended_pod(od, 0, 0, gpus=0),  # counts its own seconds
        a_pod(od, 1),
        an_ended_pod(driver),
    ]

    found = settled(NOTHING, observed([driver, spot, od], pods))

    assert found.pools == {
        "spot": SettledPool(name="spot", gpu_seconds=1800, disruptions=1, failures=1),
        "od": SettledPool(name="od", gpu_seconds=600),
    }
    assert set(found.settling) == {pod.uid for pod in pods[:3]}
    assert {end for _, end in found.ended} == {Ending.FAILURE, Ending.DISRUPTION, Ending.DONE}


def test_a_pod_that_was_only_seen_going_is_counted_until_it_went() -> None:
    job = a_job()
    gone = a_pod(job, gone=True, scheduled=ago(100), finished=ago(40))

    found = settled(NOTHING, observed([job], [gone]))

    assert found.pools["default"] == SettledPool(
        name="default", gpu_seconds=60, disruptions=1, lost=1
    )


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (a_preempted_pod(disruption="PreemptionByScheduler"), Disruption.PREEMPTED),
        (a_preempted_pod(), Disruption.EVICTED),
        (a_preempted_pod(exit_code=None), Disruption.EVICTED),
        (a_preempted_pod(disruption="DeletionByTaintManager"), Disruption.EVICTED),
        (a_preempted_pod(disruption="DeletionByTaintManager", exit_code=None), Disruption.LOST),
        (a_preempted_pod(disruption="DeletionByPodGC", exit_code=None), Disruption.LOST),
        (an_ended_pod(exit_code=75), Disruption.EVICTED),  # a spot notice
        (an_ended_pod(exit_code=None, reason="Evicted"), Disruption.EVICTED),
        (an_ended_pod(exit_code=None, reason="OutOfcpu"), Disruption.LOST),
        (an_ended_pod(exit_code=137, reason="ContainerStatusUnknown"), Disruption.LOST),
    ],
)  # fmt: skip
def test_whether_a_lost_worker_was_told_to_go_can_be_seen(pod: PodSeen, reason: Disruption) -> None:
    assert disruption(pod) is reason


def test_no_more_pods_are_taken_than_the_list_may_hold() -> None:
    jobs = [a_job(slot) for slot in range(MAX_SETTLING + 10)]
    pods = [an_ended_pod(job) for job in jobs]
    first = settled(NOTHING, observed(jobs, pods))

    assert len(first.settling) == MAX_SETTLING
    assert first.pools["default"].failures == MAX_SETTLING
    assert len(first.failures) == 10

    full = settled(written(first), observed(jobs, pods))
    assert full.ended == ()

    left = [pod for pod in pods if pod.uid not in first.settling[:10]]
    last = settled(written(first), observed(jobs, left))
    assert last.pools["default"].failures == MAX_SETTLING + 10
    assert len(last.settling) == MAX_SETTLING


def test_a_new_spec_forgives_the_failures_that_had_stopped_the_run() -> None:
    old = RecentFailure(time=NOW, worker="run-w000-1", reason="Exit1")
    stop = StopStatus(reason="WorkersNeverReady", generation=1)
    stopped = RephraseRunStatus(recent_failures=(old,), stop=stop)
    nothing = observed([], [])

    assert settle(stopped, nothing, now=NOW, generation=1).failures == (old,)
    assert settle(stopped, nothing, now=NOW, generation=2).failures == ()


def test_recent_failures_are_the_last_ten_newest_first() -> None:
    jobs = [a_job(slot) for slot in range(12)]
    pods = [
        an_ended_pod(job, finished=NOW + timedelta(seconds=index)) for index, job in enumerate(jobs)
    ]
    old = RecentFailure(time=ago(9999), worker="old", reason="Exit1")

    found = settled(RephraseRunStatus(recent_failures=(old,)), observed(jobs, pods[:3]))
    more = settled(written(found), observed(jobs, pods))

    assert [one.time for one in found.failures] == [
        *(pods[2].finished, pods[1].finished, pods[0].finished),
        old.time,
    ]
    assert [one.time for one in more.failures] == [pod.finished for pod in reversed(pods[2:])]


def test_seconds_are_those_settled_and_those_of_live_pods() -> None:
    job, other = a_job(), a_job(1, pool="od")
    pods = [
        an_ended_pod(job),
        a_pod(job, 1, scheduled=ago(30), gpus=4),
        a_pod(other, scheduled=ago(7)),
    ]
    found = settled(NOTHING, observed([job, other], pods))

    assert seconds_by_pool(found, pods, now=NOW) == {"default": 720, "od": 7}


@pytest.mark.parametrize(
    ("code", "reason", "message", "expected"),
    [
        (69, "Error", "AccessRefused: 403", "AccessRefused"),
        (137, "OOMKilled", "", "OOMKilled"),
        (137, "Evicted", "over a limit", "Evicted"),
        (3, "Error", "some text", "Exit3"),
        (1, "Error", "X" * 200 + ": " + "y" * 5000, "Exit1"),
    ],
)
def test_a_failure_has_its_job_one_word_and_a_sentence(
    code: int, reason: str, message: str, expected: str
) -> None:
    job = a_job(7, 2)
    pod = an_ended_pod(job, code=code, reason=reason, message=message)

    (failure,) = settled(NOTHING, observed([job], [pod])).failures

    assert (failure.worker, failure.reason) == ("run-w007-2", expected)
    assert 0 < len(failure.message) <= 1024
    assert failure.time == pod.finished


# -- pods that nobody saw --


def reported(seconds: float, *jobs: JobSeen, pods: Sequence[PodSeen] = ()) -> Observed:
    """What is there beside a ledger in which workers reported so many GPU seconds."""
    return with_driver(jobs, pods, a_progress(gone={"gpuSeconds": seconds}))


def test_what_the_ledger_holds_before_the_first_worker_is_not_this_run_s() -> None:
    fresh = RephraseRunStatus()

    assert settle(fresh, with_driver(), now=NOW).inherited == 0
    assert settle(fresh, reported(5000), now=NOW).inherited == 5000
    assert settle(fresh, reported(5000, a_job()), now=NOW).inherited is None
    known = RephraseRunStatus(inherited_gpu_seconds=7)
    assert settle(known, reported(5000), now=NOW).inherited == 7


@pytest.mark.parametrize(
    ("inherited", "more", "expected"),
    [(0, 1500, 1500 - 600), (0, 650, 0), (900, 1500, 0), (None, 1500, 0)],
    ids=["unseen", "clocks that differ", "of an earlier run", "nobody knows"],
)
def test_gpu_seconds_that_were_reported_and_not_seen_are_charged_once(
    inherited: float | None, more: float, expected: float
) -> None:
    job = a_job()
    live = a_pod(job, scheduled=ago(600))
    before = RephraseRunStatus(inherited_gpu_seconds=inherited)
    there = reported(more, job, pods=[live])

    first = settle(before, there, now=NOW, unseen_in="default")
    again = settle(
        before.model_copy(update={"settled": tuple(first.pools.values())}),
        there,
        now=NOW,
        unseen_in="default",
    )

    assert sum(pool.gpu_seconds for pool in first.pools.values()) == expected
    assert again.pools == first.pools
