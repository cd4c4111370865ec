"""Jobs and pods as the API server has them, and what the end of a pod means."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rephrase_api.progress import Progress
from rephrase_operator.observed import (
    Ending,
    JobSeen,
    PodSeen,
    doubtful,
    ending,
    job_seen,
    pod_seen,
    ready_pods,
)
from support.looks import (
    NOW,
    RUN_UID,
    a_condition,
    a_driver_job,
    a_job,
    a_job_body,
    a_pod,
    a_pod_body,
    a_preempted_pod,
    a_progress,
    ago,
    an_ended_pod,
    at_work,
    observed,
    terminated,
)

LOST = {
    "terminated": {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was terminated",
        "startedAt": None,
        "finishedAt": None,
    }
}

# -- Jobs --


def test_a_job_is_known_by_its_labels_owner_and_hash() -> None:
    job = job_seen(a_job_body())

    assert (job.name, job.uid, job.owner) == ("faq-w003-2", "job-uid", RUN_UID)
    assert (job.role, job.pool, job.slot, job.attempt) == ("worker", "spot", 3, 2)
    assert job.template_hash == "0123456789abcdef"
    assert job.created == datetime(2026, 11, 23, 8, tzinfo=UTC)
    states = (job.deleting, job.suspended, job.complete, job.finished, job.ended)
    assert states == (False, False, False, False, None)
    meta = {"deletionTimestamp": "2026-11-23T09:00:00Z", "deletionGracePeriodSeconds": 0}
    assert job_seen(a_job_body(meta=meta)).deleting
    assert job_seen(a_job_body(spec={"suspend": True})).suspended


def test_a_job_is_complete_as_soon_as_it_is_decided() -> None:
    for kind in ("SuccessCriteriaMet", "Complete"):
        job = job_seen(a_job_body(conditions=[a_condition(kind)]))
        assert (job.complete, job.finished, job.failure) == (True, True, "")
        assert job.ended == datetime(2026, 11, 23, 9, tzinfo=UTC)


def test_a_job_that_its_queue_let_go_on_says_since_when() -> None:
    resumed = job_seen(a_job_body(conditions=[a_condition("Suspended", "JobResumed", "False")]))

    assert resumed.resumed == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert job_seen(a_job_body()).resumed is None


def test_a_job_has_failed_before_its_last_pod_is_gone() -> None:
    sentence = (
        "Container worker for pod team/x failed with exit code 64 matching FailJob rule at index 1"
    )
    target = a_condition("FailureTarget", "PodFailurePolicy", message=sentence)

    job = job_seen(a_job_body(conditions=[target]))
    other = job_seen(a_job_body(conditions=[{**target, "status": "False"}]))

    assert not other.finished
    assert (job.failure, job.message) == ("PodFailurePolicy", sentence)
    assert job.finished
    assert not job.complete


# -- pods --


def test_a_running_pod_is_known_by_its_labels_and_owner() -> None:
    pod = pod_seen(
        a_pod_body(states={"worker": {"running": {"startedAt": "2026-11-23T08:02:00Z"}}})
    )

    assert (pod.uid, pod.owner, pod.job) == ("pod-uid", "job-uid", "faq-w003-2")
    assert (pod.role, pod.pool, pod.slot) == ("worker", "spot", 3)
    assert (pod.phase, pod.node, pod.ip) == ("Running", "node-1", "10.1.2.3")
    assert (pod.gpus, pod.port) == (2, 8000)
    assert pod.scheduled == datetime(2026, 11, 23, 8, 0, 2, tzinfo=UTC)
    assert (pod.reason, pod.message, pod.exit_code, pod.disruption) == ("", "", None, "")
    assert pod.deletion is None
    assert not pod.terminal


PENDING = {"phase": "Pending"}
UNSCHEDULED = a_condition("PodScheduled", "Unschedulable", "False", "0/3 nodes are available")
PULLS = {"worker": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "EmptyDir exceeds 1Gi"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            a_pod_body(status=PENDING, conditions=[UNSCHEDULED]),
            ("Unschedulable", "0/3 nodes are available"),
        ),
        (a_pod_body(status=PENDING, states=PULLS), ("ImagePull", "not found")),
        # the kubelet's reason for the whole pod comes before its container's
        (
            a_pod_body(status=EVICTED, states={"worker": terminated(137)}),
            ("Evicted", "EmptyDir exceeds 1Gi"),
        ),
    ],
)
def test_the_best_source_says_why_a_pod_does_not_run(
    body: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert (pod_seen(body).reason, pod_seen(body).message) == expected


def test_a_pod_that_ended_says_how_when_and_its_last_words() -> None:
    state = terminated(69, message="AccessRefused: s3://corpus: 403. Give it read access")

    pod = pod_seen(a_pod_body(status={"phase": "Failed"}, states={"worker": state}))

    assert pod.exit_code == 69
    assert pod.finished == datetime(2026, 11, 23, 8, 11, tzinfo=UTC)
    assert pod.last_words == ("AccessRefused", "s3://corpus: 403. Give it read access")
    assert pod.terminal
    assert pod.billed_seconds(NOW) == timedelta(minutes=10, seconds=58).total_seconds()


def test_a_pod_or_job_that_is_only_made_has_little_to_tell() -> None:
    job_body, pod_body = a_job_body(), a_pod_body(spec={"nodeName": ""})
    job_body["status"], pod_body["status"] = {}, {}
    del job_body["metadata"]["annotations"]
    job_body["metadata"]["labels"] = {"rephrase.io/role": "driver"}

    job, pod = job_seen(job_body), pod_seen(pod_body)

    assert (job.role, job.pool, job.slot, job.attempt) == ("driver", "", -1, 0)
    assert (job.template_hash, job.finished) == ("", False)
    assert (pod.phase, pod.scheduled, pod.node) == ("Pending", None, "")


def test_a_label_that_was_edited_or_a_time_that_was_not_written_hides_no_worker() -> None:
    job_body, pod_body = a_job_body(conditions=[a_condition("Failed")]), a_pod_body()
    job_body["status"]["conditions"][0]["lastTransitionTime"] = None
    pod_body["status"]["conditions"][0]["lastTransitionTime"] = None
    for body in (job_body, pod_body):
        body["metadata"]["labels"]["rephrase.io/slot"] = "third"

    job, pod = job_seen(job_body), pod_seen(pod_body)

    assert (job.slot, job.finished, job.ended) == (-1, True, None)
    assert (pod.slot, pod.scheduled) == (-1, pod.created)


def test_an_injected_container_does_not_speak_for_the_worker() -> None:
    states = {
        "istio-proxy": terminated(0, "Completed"),
        "worker": terminated(64, message="InvalidSpec: x"),
    }
    body = a_pod_body(status={"phase": "Failed"}, states=states)
    body["spec"]["containers"].insert(0, {"name": "istio-proxy", "image": "x"})

    pod = pod_seen(body)

    assert (pod.exit_code, pod.gpus, pod.port) == (64, 2, 8000)


@pytest.mark.parametrize("states", [{}, {"worker": LOST}], ids=["rejected", "lost"])
def test_a_pod_of_which_no_container_tells_its_end_ended_with_its_last_condition(
    states: dict[str, Any],
) -> None:
    changed = a_condition("Ready", "PodFailed", "False")  # at nine

    pod = pod_seen(a_pod_body(status={"phase": "Failed"}, conditions=[changed], states=states))

    assert pod.finished == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert pod.billed_seconds(NOW) == 3598


# -- what the end of a pod means --

DISRUPTED, FAILED, EXPECTED = Ending.DISRUPTION, Ending.FAILURE, Ending.EXPECTED


@pytest.mark.parametrize(
    ("what", "code", "pod", "expected"),
    [
        ("all units are committed", 0, {}, Ending.DONE),
        ("preempted", 75, {"disruption": "PreemptionByScheduler"}, DISRUPTED),
        ("evicted", 143, {"disruption": "EvictionByEvictionAPI"}, DISRUPTED),
        ("tainted", 137, {"disruption": "DeletionByTaintManager"}, DISRUPTED),
        (
            "pressure on the node",
            137,
            {"reason": "Evicted", "disruption": "TerminationByKubelet"},
            DISRUPTED,
        ),
        ("64 while it was being killed", 64, {"disruption": "x"}, DISRUPTED),
        ("drained by itself", 75, {}, DISRUPTED),
        ("deleted, and it saved its samples", 75, {"deletion": NOW}, DISRUPTED),
        ("deleted by force", 137, {"deletion": ago(10)}, DISRUPTED),
        ("deleted, and stopped by a signal", 143, {"deletion": ago(10)}, DISRUPTED),
        ("lost container", 137, {"reason": "ContainerStatusUnknown"}, DISRUPTED),
        ("rebooted node", 255, {"reason": "Unknown"}, DISRUPTED),
        ("not admitted", None, {"reason": "UnexpectedAdmissionError"}, DISRUPTED),
        ("no room", None, {"reason": "OutOfnvidia.com/gpu"}, DISRUPTED),
        ("does not fit", None, {"reason": "TopologyAffinityError", "finished": None}, DISRUPTED),
        ("vanished with its node", None, {"disruption": "DeletionByPodGC"}, DISRUPTED),
        ("vanished unseen", None, {"phase": "Running", "gone": True, "reason": ""}, DISRUPTED),
        ("never had a node", None, {"node": "", "reason": "Unschedulable"}, EXPECTED),
        ("over its storage limit", 137, {"reason": "Evicted"}, FAILED),
        ("evicted before it ran", None, {"reason": "Evicted"}, FAILED),
        ("out of memory", 137, {"reason": "OOMKilled"}, FAILED),
        ("spec is wrong", 64, {}, FAILED),
        ("store refused", 69, {}, FAILED),
        ("traceback", 1, {}, FAILED),
    ],
)
def test_the_end_of_a_pod_means(
    what: str, code: int | None, pod: dict[str, Any], expected: Ending
) -> None:
    found = an_ended_pod(code=0 if code == 0 else 1, **{"exit_code": code, **pod})

    assert ending(found, job=a_job()) is expected, what


@pytest.mark.parametrize("code", [75, 143, 137, 1])
@pytest.mark.parametrize(
    "job",
    [None, a_job(deleting=True), a_job(suspended=True), a_job(resumed=ago(5))],
    ids=["gone", "deleted", "held back", "held back and let go on"],
)
def test_the_end_of_a_pod_whose_job_is_deleted_or_held_back_was_wanted(
    code: int, job: JobSeen | None
) -> None:
    assert ending(an_ended_pod(code=code, deletion=ago(10)), job=job) is Ending.EXPECTED


def test_a_job_is_read_anew_before_an_end_is_judged_that_its_deletion_would_explain() -> None:
    killed, failed, preempted, told, deleted, running = (a_job(slot) for slot in range(6))
    deleted = replace(deleted, deleting=True)
    pods = [
        an_ended_pod(killed, code=137, deletion=ago(10)),
        an_ended_pod(failed, code=69),
        a_preempted_pod(preempted),
        an_ended_pod(told, uid="told"),
        an_ended_pod(deleted, code=75),
        a_pod(running),
    ]
    there = observed([killed, failed, preempted, told, deleted, running], pods)

    assert doubtful(there, settled={"told"}) == [killed, failed]


# -- last words --


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (
            64,
            "InvalidModel: no such model. Correct it",
            ("InvalidModel", "no such model. Correct it"),
        ),
        (1, "Traceback (most recent call last):\n  File: x", None),
        (1, "killed", None),
        (1, "", None),
        (0, "InvalidModel: not when it ended well", None),
        (None, "InvalidModel: not while it runs", None),
        (64, "two words: x", None),
        (64, "usage: rephrase worker", None),
    ],
)
def test_last_words_have_a_reason_only_where_a_process_of_ours_said_it(
    code: int | None, message: str, expected: tuple[str, str] | None
) -> None:
    pod = a_pod(exit_code=code, message=message)

    assert pod.last_words == (expected or ("", message))


def a_finished_driver(**more: Any) -> PodSeen:  # noqa: ANN401
    body = {"phase": "Complete", "finished": True, "units": {"planned": 3, "committed": 3}}
    return an_ended_pod(a_driver_job(), code=0, **{"message": json.dumps(body), **more})


def test_a_finished_driver_leaves_its_progress() -> None:
    progress = a_finished_driver().final_progress

    assert progress is not None
    assert progress.units.planned == 3


@pytest.mark.parametrize(
    "pod",
    [
        a_finished_driver(exit_code=75),
        a_finished_driver(role="worker"),
        a_finished_driver(message="some log line"),
        a_finished_driver(message=Progress(phase="Running").model_dump_json(by_alias=True)),
    ],
)
def test_anything_else_is_no_last_word_of_a_driver(pod: PodSeen) -> None:
    assert pod.final_progress is None


# -- time that is paid --


@pytest.mark.parametrize(
    ("pod", "seconds"),
    [
        (a_pod(scheduled=ago(60)), 60),
        (a_pod(scheduled=None), 0),
        (a_pod(scheduled=ago(-5)), 0),
        (an_ended_pod(scheduled=ago(60), finished=ago(20)), 40),
        (an_ended_pod(scheduled=ago(60), finished=ago(90)), 0),
        (a_pod(scheduled=ago(60), finished=ago(20), gone=True), 40),
        # the process has ended and the pod has not: a container beside it still runs
        (a_pod(scheduled=ago(60), finished=ago(20)), 60),
    ],
)
def test_a_node_is_paid_from_when_the_pod_got_it_until_the_pod_ended(
    pod: PodSeen, seconds: float
) -> None:
    assert pod.billed_seconds(NOW) == seconds


def test_a_worker_is_ready_while_its_driver_hears_from_it() -> None:
    job = a_job()
    pod, ended = a_pod(job), an_ended_pod(job, 1)

    def ready(*there: PodSeen, **worker: Any) -> list[PodSeen]:  # noqa: ANN401
        progress = a_progress(workers=at_work(*there, **worker))
        return ready_pods(observed([job], there, progress), lease_seconds=60)

    assert ready(pod, ended, heartbeatAgeSeconds=60) == [pod]
    assert ready(pod, phase="idle") == [pod]
    assert ready(pod, heartbeatAgeSeconds=61) == []
    assert ready(pod, phase="loading") == []
    assert ready_pods(observed([job], [pod]), lease_seconds=60) == []
