"""What holds of every status, whatever a look finds."""

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api.v1alpha1.conditions import REASONS, ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.look import Look, decide
from rephrase_operator.observed import JobSeen, Observed, PodSeen
from rephrase_operator.status import status_of
from rephrase_operator.transitions import changes, events, is_urgent
from rephrase_operator.verdict import Cause
from support.looks import (
    NOW,
    SETTINGS,
    a_driver_job,
    a_job,
    a_pod,
    a_progress,
    a_run,
    ago,
    at_work,
    observed,
    prices,
)

REFUSALS = [
    Reason.POD_TEMPLATE_REJECTED,
    Reason.NAME_CONFLICT,
    Reason.PRICE_MISSING,
    Reason.OUTPUT_IN_USE,
    Reason.NOT_ALLOWED,
    Reason.TOO_MANY_RUNS,
    Reason.NOT_CHECKED,
]
WORDS = st.sampled_from(
    [
        *("", "killed", "InvalidSpec: x", "InvalidModel: x", "FailureLimit: x", "AccessRefused: x"),
        *("StorageFull: x", "Suspended: x", "LedgerDamaged: x"),
        '{"phase": "Complete", "finished": true}',
    ]
)
CODES = st.sampled_from([None, 0, 1, 64, 69, 70, 75, 137])
POD_REASONS = st.sampled_from(
    [
        *("", "Unschedulable", "ImagePull", "CreateContainerConfigError", "ContainerCreating"),
        *("OOMKilled", "Evicted", "OutOfcpu", "ContainerStatusUnknown", "Error", "SchedulingGated"),
    ]
)
TIMES = st.none() | st.sampled_from([ago(0), ago(30), ago(130), ago(1000), ago(10**6)])


A_STATE: list[dict[str, Any]] = [
    *({}, {}, {}, {"deleting": True}, {"suspended": True}, {"complete": True}),
    *({"failure": "FailedIndexes"}, {"failure": "PodFailurePolicy", "deleting": True}),
]


@st.composite
def jobs(draw: st.DrawFn, slot: int) -> JobSeen:
    make = a_driver_job if slot < 0 else lambda **more: a_job(slot, **more)
    template = draw(st.sampled_from(["now", "now", "old"]))
    return make(template_hash=template, ended=draw(TIMES), **draw(st.sampled_from(A_STATE)))


@st.composite
def pods(draw: st.DrawFn, job: JobSeen, number: int) -> PodSeen:
    return a_pod(
        job,
        number,
        phase=draw(st.sampled_from(["Pending", "Running", "Succeeded", "Failed"])),
        scheduled=draw(TIMES),
        finished=draw(TIMES),
        deletion=draw(TIMES),
        disruption=draw(st.sampled_from(["", "", "EvictionByEvictionAPI"])),
        exit_code=draw(CODES),
        reason=draw(POD_REASONS),
        message=draw(WORDS),
        gone=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def progresses(draw: st.DrawFn, there: list[PodSeen]) -> Any:  # noqa: ANN401
    planned = draw(st.sampled_from([0, 1, 100]))
    last = draw(TIMES)
    phases = ["Preflight", "Planning", "Running", "Publishing", "Complete", "Failed"]
    told = {
        "phase": draw(st.sampled_from(phases)),
        "reason": draw(st.sampled_from(["", *sorted(Reason), "LedgerDamaged"])),
        "finished": draw(st.sampled_from([False, False, True])),
        "message": draw(WORDS),
        "workers": at_work(
            *(pod for pod in there if pod.slot >= 0),
            phase=draw(st.sampled_from(["loading", "generating"])),
        ),
        "rates": {"documentsPerSecond": draw(st.sampled_from([0, 1, 1000]))},
    }
    committed = draw(st.sampled_from([0, planned // 2, planned]))
    when = {"lastProgressTime": last.isoformat()} if last is not None else {}
    return a_progress(planned, committed, **told, **when)


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    found = [draw(jobs(slot)) for slot in draw(st.sets(st.integers(-1, 3)))]
    owners = [*found, a_job(9)]
    there = [
        draw(pods(owner, number)) for owner in owners for number in range(draw(st.integers(0, 2)))
    ]
    progress = draw(st.none() | progresses(there))
    warned = draw(st.booleans())
    uids = [*(job.uid for job in found), *(pod.uid for pod in there)] if warned else []
    return observed(found, there, progress, dict.fromkeys(uids, "FailedMount: x"))


HASTY = replace(SETTINGS, crash_loop_failures=1)
RUNS = st.builds(
    a_run,
    generation=st.integers(1, 2),
    suspend=st.sampled_from([False, False, False, True]),
    workers=st.fixed_dictionaries({"max": st.integers(0, 3)}),
    scaling=st.fixed_dictionaries(
        {
            "onBudgetExhausted": st.sampled_from(["Suspend", "Fail"]),
            "budget": st.sampled_from([None, {"amount": "1"}, {"amount": "1000000"}]),
            "deadline": st.sampled_from([None, "2026-11-23T12:00:30Z", "2027-11-23T12:00:00Z"]),
        }
    ),
    canary=st.sampled_from([{}, {"documents": 5}]),
)
Input = tuple[Any, Observed, Any, bool]
LOOKS = st.lists(
    st.tuples(RUNS, worlds(), st.sampled_from([None, None, None, *REFUSALS]), st.booleans()),
    min_size=1,
    max_size=3,
)


def look_at(before: RephraseRunStatus, found: Input, second: int) -> Look:
    run, there, refusal, priced = found
    now = NOW + timedelta(seconds=second)
    refused = Cause(refusal, "why") if refusal is not None else None
    return decide(
        run,
        before,
        there,
        refused=refused,
        prices=prices(default="1") if priced else {},
        template_hashes={"": "now", "default": "now"},
        settings=HASTY,
        now=now,
    )


def statuses(found: list[Input]) -> list[RephraseRunStatus]:
    """The status after each look, as the API server gives it back to the next."""
    result = [RephraseRunStatus()]
    for second, one in enumerate(found):
        status = status_of(look_at(result[-1], one, second))
        result.append(RephraseRunStatus.from_api(json.loads(json.dumps(status.to_api()))))
        assert result[-1] == status
    return result


@settings(max_examples=250)
@given(LOOKS)
def test_every_condition_has_a_reason_that_the_api_names(found: list[Input]) -> None:
    for status in statuses(found)[1:]:
        assert [one.type for one in status.conditions] == list(ConditionType)
        for one in status.conditions:
            allowed = REASONS[ConditionType(one.type)].get(one.status, ())
            assert one.reason in allowed, f"{one.type}={one.status} {one.reason}"


@settings(max_examples=100)
@given(LOOKS)
def test_times_move_only_with_the_status_and_what_is_over_stays_over(found: list[Input]) -> None:
    for before, after in itertools.pairwise(statuses(found)):
        old = {one.type: one for one in before.conditions}
        for one in after.conditions:
            if (was := old.get(one.type)) is not None:
                moved = was.last_transition_time != one.last_transition_time
                assert moved == (was.status is not one.status), one
        ends = [kind for kind in ("Complete", "Failed") if holds(after, kind)]
        assert len(ends) == (after.completion_time is not None)
        for kind in ("Complete", "Failed"):
            if holds(before, kind):
                assert ends == [kind]
                assert after.completion_time == before.completion_time


@settings(max_examples=100)
@given(LOOKS)
def test_applying_the_changes_gives_the_status_and_events_tell_transitions_only(
    found: list[Input],
) -> None:
    result = statuses(found)
    for before, after in itertools.pairwise(result):
        old, new = before.to_api(), after.to_api()
        patch = json.loads(json.dumps(changes(old, new)))
        assert applied(old, patch) == new
        assert changes(new, new) == {}
        assert events(after, after) == []
        assert not is_urgent(after, after)
        flipped = {(one.type, one.status, one.reason) for one in after.conditions} - {
            (one.type, one.status, one.reason) for one in before.conditions
        }
        assert is_urgent(before, after) or not flipped
        for event in events(before, after):
            assert event.type in {"Normal", "Warning"}
            assert event.reason.isalnum()


JSON = st.recursive(
    st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(OBJECTS, OBJECTS)
def test_changes_are_a_merge_patch_of_any_two_objects(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert applied(old, changes(old, new)) == new
    assert changes(new, new) == {}


def applied(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """RFC 7396, word by word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = applied(result.get(key), value)
    return result


def holds(status: RephraseRunStatus, kind: str) -> bool:
    return any(one.type == kind and one.status is ConditionStatus.TRUE for one in status.conditions)
