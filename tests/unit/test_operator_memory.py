"""What the operator knows between looks that no watch has told."""

from dataclasses import replace
from typing import Any

from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.memory import ROLL_CALL, SOON, Memory
from rephrase_operator.observed import JobSeen, PodSeen
from support.looks import NOW, a_driver_job, a_job, a_pod, a_preempted_pod

NOTHING = RephraseRunStatus()


def at_version(version: int) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version)}}


def counting(*uids: str) -> RephraseRunStatus:
    return RephraseRunStatus(settling=uids)


def test_a_look_starts_from_what_is_newer_the_watch_or_what_was_written() -> None:
    memory = Memory(latest=at_version(10))

    assert memory.latest_of(at_version(9)) == at_version(10)
    assert memory.latest_of(at_version(11)) == at_version(11)
    assert memory.latest is None


def test_who_is_missed_twice_is_gone_and_a_worker_is_still_to_be_counted() -> None:
    memory, job, driver = Memory(), a_job(), a_driver_job()
    pod, other = a_pod(job), a_pod(job, 1)
    known: list[JobSeen | PodSeen] = [job, driver, pod, other]
    there = {driver.uid, other.uid}

    first = memory.call_roll(known, there, NOW)
    second = memory.call_roll(known, there, NOW + SOON)
    jobs, pods = memory.children(NOTHING, [job, driver], [pod, other])

    assert first == []
    assert second == [job, pod]
    assert jobs == [driver]
    assert {(one.uid, one.gone, one.finished) for one in pods} == {
        (pod.uid, True, NOW + SOON),
        (other.uid, False, None),
    }


def test_who_was_missed_once_and_is_there_again_is_not_gone() -> None:
    memory, job = Memory(), a_job()

    memory.call_roll([job], set(), NOW)
    memory.call_roll([job], {job.uid}, NOW + SOON)

    assert memory.call_roll([job], set(), NOW + 2 * SOON) == []
    assert memory.children(NOTHING, [job], []) == ([job], [])


def test_the_roll_is_called_each_minute_and_soon_while_somebody_is_missed() -> None:
    memory, job = Memory(), a_job()

    assert not memory.roll_call_is_due([job], NOW)
    assert not memory.roll_call_is_due([job], NOW + SOON)
    assert memory.roll_call_is_due([job], NOW + ROLL_CALL)
    memory.call_roll([job], set(), NOW)
    assert memory.roll_call_is_due([job], NOW + SOON)


def test_an_ended_pod_that_was_deleted_and_still_is_there_is_asked_about_soon() -> None:
    memory = Memory(called_at=NOW)
    held = a_preempted_pod(deletion=NOW, exit_code=75, phase="Failed", finished=NOW)

    assert memory.roll_call_is_due([held], NOW + SOON)


def test_attempts_of_a_slot_are_remembered_when_its_jobs_are_gone() -> None:
    memory = Memory()

    memory.children(NOTHING, [a_job(0, 4), a_job(1, 2)], [])
    memory.children(NOTHING, [a_job(1, 1)], [])

    assert memory.attempts == {0: 4, 1: 2}


def test_a_job_that_was_made_is_there_before_a_watch_tells_of_it() -> None:
    memory, job = Memory(), a_job()
    memory.note_made(job)
    told = replace(job, suspended=True)

    assert memory.children(NOTHING, [], []) == ([job], [])
    assert memory.children(NOTHING, [told], []) == ([told], [])
    assert memory.children(NOTHING, [], []) == ([], []), "it was told, and then that it is gone"


def test_a_job_that_was_made_and_that_no_watch_tells_of_is_asked_about_soon() -> None:
    memory, job = Memory(called_at=NOW), a_job(created=NOW)
    memory.note_made(job)

    assert not memory.roll_call_is_due([job], NOW + SOON), "it was told"
    assert memory.roll_call_is_due([], NOW + SOON)
    memory.call_roll([], set(), NOW + SOON)
    memory.call_roll([], set(), NOW + 2 * SOON)
    assert memory.children(NOTHING, [], []) == ([], [])


def test_a_pod_that_another_operator_has_counted_is_not_counted_again() -> None:
    memory, pod = Memory(), a_pod()
    memory.keep(pod, NOW)

    memory.note_counted([pod.uid])  # told by a watch; the other has seen it go since
    _, pods = memory.children(NOTHING, [], [pod])
    memory.keep(pod, NOW)

    assert pods == []
    assert memory.children(NOTHING, [], [])[1] == []


def test_a_pod_that_is_gone_is_shown_until_a_look_has_seen_it_counted() -> None:
    memory, pod = Memory(), a_pod()
    memory.keep(pod, NOW)
    before = counting(pod.uid)

    memory.note_counted(before.settling)
    _, shown = memory.children(before, [], [])
    memory.let_go(before)

    assert [one.uid for one in shown] == [pod.uid]
    assert memory.children(before, [], [])[1] == []
