"""Why a Job has no pod at work, and what is said of many."""

from typing import Any

import pytest

from rephrase_api.v1alpha1.conditions import Reason
from rephrase_operator.availability import Blockage, blockage, summary, why_it_failed
from rephrase_operator.observed import JobSeen, PodSeen, telling
from support.looks import (
    NOW,
    a_job,
    a_pending_pod,
    a_pod,
    a_preempted_pod,
    ago,
    an_ended_pod,
    observed,
)

JOB = a_job()


def found(
    *pods: PodSeen,
    job: JobSeen = JOB,
    warnings: dict[str, str] | None = None,
    **more: Any,  # noqa: ANN401
) -> tuple[str, bool] | None:
    one = blockage(job, observed([job], pods, None, warnings), now=NOW, **more)
    return (one.reason.value, one.pending) if one is not None else None


def starting(seconds: float, **more: Any) -> PodSeen:  # noqa: ANN401
    fields = {"phase": "Pending", "scheduled": ago(seconds), "created": ago(seconds), **more}
    return a_pod(JOB, 5, **fields)


def test_a_job_that_is_done_deleted_or_at_work_is_not_blocked() -> None:
    assert found(a_pod(JOB)) is None
    assert found(job=a_job(complete=True)) is None
    assert found(job=a_job(deleting=True)) is None
    assert found(an_ended_pod(JOB, code=0)) is None


def test_a_job_waits_for_its_queue_its_pod_and_a_node_which_costs_nothing() -> None:
    gated = starting(9999, scheduled=None, node="", reason="SchedulingGated")

    assert found(job=a_job(suspended=True)) == ("QuotaPending", True)
    assert found() == ("BackingOff", True)
    assert found(warnings={JOB.uid: "exceeded quota"}) == ("PodCreationBlocked", True)
    assert found(gated) == ("BackingOff", True)
    assert found(a_pending_pod(JOB)) == ("Unschedulable", True)
    assert found(a_preempted_pod(JOB)) == ("BackingOff", True)
    assert found(gated, warnings={gated.uid: "SomeReason: some words"}) == ("BackingOff", True)


def test_a_node_that_an_autoscaler_does_not_get_is_told_in_its_words() -> None:
    pod = a_pending_pod(JOB)
    refused = telling(
        [
            ("FailedScheduling", "0/3 nodes are available"),
            ("InsufficientCapacityError", "no capacity is left for gpu-1/zone-a/spot"),
            ("FailedScheduling", "0/4 nodes are available"),
        ]
    )
    other = telling([("FailedScheduling", "old"), ("FailedScheduling", "0/4 nodes are available")])

    assert refused == "InsufficientCapacityError: no capacity is left for gpu-1/zone-a/spot"
    assert found(pod, warnings={pod.uid: refused}) == ("CapacityStockout", True)
    assert other == "0/4 nodes are available"
    assert found(pod, warnings={pod.uid: other}) == ("Unschedulable", True)


def test_a_pod_that_starts_has_time_until_somebody_says_what_is_wrong() -> None:
    assert found(starting(600, reason="ContainerCreating")) == ("BackingOff", False)
    assert found(starting(601, reason="ContainerCreating")) == ("VolumeMount", False)
    assert found(starting(9), warnings={starting(9).uid: "FailedMount"}) == ("VolumeMount", False)
    assert found(starting(9, reason="CreateContainerConfigError")) == ("VolumeMount", False)
    assert found(starting(9, reason="ImagePull")) == ("ImagePull", False)
    assert found(job=a_job(failure="FailedIndexes")) == ("CrashLoop", False)


def test_what_ended_the_last_pod_is_said_until_one_is_at_work() -> None:
    failed, live = an_ended_pod(JOB), a_pod(JOB, 1)
    full = an_ended_pod(JOB, code=69, message="StorageFull: no space")
    refused = an_ended_pod(JOB, code=69, message="AccessRefused: 403")

    assert found(failed, live) == ("CrashLoop", False)
    assert found(failed, live, at_work=frozenset([live.uid])) is None
    assert found(a_preempted_pod(JOB), live) is None
    assert found(full, live) == ("StorageFull", False)
    assert found(refused) == ("AccessRefused", False)


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        (an_ended_pod(code=137, reason="OOMKilled"), "resources.limits.memory"),
        (an_ended_pod(code=137, reason="Evicted", message="over 1Gi"), "evicted, over 1Gi"),
        (an_ended_pod(code=70, message="EngineFailed: x"), "exit 70: EngineFailed: x"),
        (an_ended_pod(code=1, message="a\n" * 999 + "last"), "last"),
        (an_ended_pod(code=2), "exit 2: Error"),
    ],
)
def test_one_sentence_says_why_a_pod_failed(pod: PodSeen, text: str) -> None:
    assert text in why_it_failed(pod)
    assert why_it_failed(pod).startswith(pod.name)
    assert len(why_it_failed(pod)) < 500


def test_the_worst_is_named_first_and_the_others_counted() -> None:
    def blocked(reason: Reason, message: str = "why.") -> Blockage:
        return Blockage("job", "pool", reason, message)

    assert summary([]) is None
    assert summary([blocked(Reason.BACKING_OFF)]) == (Reason.BACKING_OFF, "why")
    unschedulable = [blocked(Reason.UNSCHEDULABLE)] * 2
    pull = blocked(Reason.IMAGE_PULL, "not found.")
    assert summary([*unschedulable, pull, blocked(Reason.BACKING_OFF)]) == (
        Reason.IMAGE_PULL,
        "1 of 4 waiting: not found. 2 Unschedulable, 1 BackingOff. "
        "Correct spec.image or spec.imagePullSecrets.",
    )
