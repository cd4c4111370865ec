"""What an installation allows a run: refused before it begins, and never at the cost of what is under way."""

from dataclasses import replace
from typing import Any

import pytest

from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.status import (
    Condition,
    ProgressStatus,
    RephraseRunStatus,
)
from rephrase_operator.claims import ahead, claim_of, holder
from rephrase_operator.limits import not_allowed
from rephrase_operator.look import Look, decide
from rephrase_operator.plan import DeleteJob, StartWorker
from rephrase_operator.settings import Settings
from rephrase_operator.status import status_of
from rephrase_operator.transitions import events
from rephrase_operator.verdict import Cause
from support.looks import NOW, SETTINGS, a_job, a_pod, a_run, prices, with_driver

NEW = RephraseRunStatus()
PLANNED = RephraseRunStatus(progress=ProgressStatus(display="0/100"))
OVERLAY = {"metadata": {"labels": {"team": "a"}}}


def accepted(reason: Reason = Reason.ACCEPTED) -> RephraseRunStatus:
    said = Condition(
        type=ConditionType.ACCEPTED.value,
        status=ConditionStatus.TRUE,
        reason=reason.value,
        message="",
        last_transition_time=NOW,
    )
    return RephraseRunStatus(conditions=(said,))


def refusal(
    run: RephraseRun,
    status: RephraseRunStatus = NEW,
    ahead: tuple[str, ...] = (),
    **limits: Any,  # noqa: ANN401 - attributes of `Settings`
) -> Cause | None:
    return not_allowed(run, status, ahead=ahead, settings=replace(SETTINGS, **limits))


def looked(run: RephraseRun, settings: Settings, workers: int) -> Look:
    jobs = [a_job(slot) for slot in range(workers)]
    return decide(
        run,
        accepted(),
        with_driver(jobs, [a_pod(job) for job in jobs]),
        refused=None,
        prices=prices(),
        template_hashes={"": "now", "default": "now"},
        settings=settings,
        now=NOW,
    )


# -- workers --


def test_a_run_that_asks_for_too_many_workers_is_told_field_value_and_limit() -> None:
    found = refusal(a_run(workers={"max": 64}), max_workers_per_run=16)

    assert found is not None
    assert found.reason is Reason.NOT_ALLOWED
    assert "spec.workers.max is 64, and limits.maxWorkersPerRun is 16; lower it" in found.message


@pytest.mark.parametrize("limit", [0, 64])
def test_as_many_workers_as_are_allowed_may_be_asked_for(limit: int) -> None:
    assert refusal(a_run(workers={"max": 64}), max_workers_per_run=limit) is None


@pytest.mark.parametrize("status", [accepted(), accepted(Reason.WORKERS_LIMITED), PLANNED])
def test_a_run_under_way_is_not_refused_for_its_workers(status: RephraseRunStatus) -> None:
    assert refusal(a_run(workers={"max": 64}), status, max_workers_per_run=16) is None


def test_a_run_under_way_goes_on_with_as_many_workers_as_are_allowed_and_says_so() -> None:
    run = a_run(workers={"max": 64, "min": 8})

    look = looked(run, replace(SETTINGS, max_workers_per_run=2), workers=4)

    gone = [action for action in look.plan.actions if isinstance(action, DeleteJob)]
    (said,) = (one for one in status_of(look).conditions if one.type == ConditionType.ACCEPTED)
    (told,) = (one for one in events(accepted(), status_of(look)) if one.reason == said.reason)
    assert sum(look.plan.desired.values()) == 2
    assert len(gone) == 2
    assert (said.status, said.reason) == ("True", "WorkersLimited")
    assert "spec.workers.max is 64, and limits.maxWorkersPerRun is 2" in said.message
    assert told.type == "Warning"


def test_a_higher_limit_gives_a_run_its_workers_back() -> None:
    look = looked(a_run(workers={"max": 4}), replace(SETTINGS, max_workers_per_run=4), workers=2)

    made = [action for action in look.plan.actions if isinstance(action, StartWorker)]
    (said,) = (one for one in status_of(look).conditions if one.type == ConditionType.ACCEPTED)
    assert len(made) == 2
    assert said.reason == "Accepted"


# -- pod templates --


@pytest.mark.parametrize("status", [NEW, accepted(), PLANNED])
def test_no_pod_is_made_of_an_overlay_that_is_not_allowed(status: RephraseRunStatus) -> None:
    pools = [{"name": "spot", "podTemplate": OVERLAY}, {"name": "od"}]
    run = a_run(workers={"pools": pools}, driver={"podTemplate": OVERLAY})

    found = refusal(run, status, allow_pod_template=False)

    assert found is not None
    assert found.reason is Reason.NOT_ALLOWED
    assert found.message.startswith(
        "spec.workers.pools[spot].podTemplate, spec.driver.podTemplate are set, and "
        "limits.allowPodTemplate is false"
    )
    assert refusal(run, status) is None
    assert refusal(a_run(), status, allow_pod_template=False) is None


# -- runs of a namespace --


def test_a_run_waits_while_its_namespace_has_as_many_as_are_allowed() -> None:
    others = ("a", "b", "c", "d")

    found = refusal(a_run(), ahead=others, max_runs_per_namespace=4)

    assert found is not None
    assert found.reason is Reason.TOO_MANY_RUNS
    assert "4 of the runs in namespace team (a, b, c, ...) are not over" in found.message
    assert "limits.maxRunsPerNamespace is 4" in found.message
    assert refusal(a_run(), ahead=others, max_runs_per_namespace=5) is None
    assert refusal(a_run(), accepted(), ahead=others, max_runs_per_namespace=1) is None


def test_what_only_an_edit_can_cure_is_told_before_what_time_does() -> None:
    run = a_run(workers={"max": 64})

    found = refusal(run, ahead=("a",), max_workers_per_run=16, max_runs_per_namespace=1)

    assert found is not None
    assert found.reason is Reason.NOT_ALLOWED


def a_body(name: str, hour: int, *, namespace: str = "team", **accepted: str) -> dict[str, Any]:
    conditions = [{"type": "Accepted", "observedGeneration": 1, **accepted}] if accepted else []
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": name,
            "generation": 1,
            "creationTimestamp": f"2026-11-23T{hour:02}:00:00Z",
        },
        "spec": {"output": {"uri": f"s3://synthetic/{name}/"}},
        "status": {"conditions": conditions},
    }


IN = {"status": "True", "reason": "Accepted"}
FULL = {"status": "False", "reason": "TooManyRuns"}
WRONG = {"status": "False", "reason": "NotAllowed"}


def places(*bodies: dict[str, Any], of: str = "me") -> list[str]:
    claims = [claim for body in bodies for claim in claim_of(body).values()]
    return ahead(claims, ("team", of))


def test_places_go_to_the_accepted_and_then_by_age() -> None:
    runs = [
        a_body("young", 11),
        a_body("me", 10, **FULL),
        a_body("old", 9, **FULL),
        a_body("accepted", 12, **IN),
        a_body("elsewhere", 1, namespace="others", **IN),
    ]

    assert places(*runs) == ["accepted", "old"]
    assert places(*runs, of="accepted") == []
    assert places(*runs, of="young") == ["accepted", "old", "me"]


def test_a_run_that_is_refused_for_its_spec_takes_no_place_until_that_changes() -> None:
    wrong = a_body("old", 9, **WRONG)
    edited = a_body("old", 9, **WRONG)
    edited["metadata"]["generation"] = 2

    assert places(wrong, a_body("me", 10)) == []
    assert places(edited, a_body("me", 10)) == ["old"]


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_run_that_is_over_or_ends_has_no_place(kind: str) -> None:
    over = a_body("over", 8, **IN)
    over["status"]["conditions"].append({"type": kind, "status": "True", "reason": "x"})
    ending = a_body("ending", 8, **IN)
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T11:00:00Z"
    others = a_body("others", 8)
    others["spec"]["managedBy"] = "somebody.else/queue"

    assert places(over, ending, others, a_body("me", 10)) == []


def test_an_output_is_the_accepted_run_s_or_the_oldest_s() -> None:
    (mine,) = claim_of(a_body("me", 10)).values()
    (older,) = claim_of(a_body("older", 9)).values()
    (accepted,) = claim_of(a_body("accepted", 11, **IN)).values()

    assert holder([mine, older], ("team", "me")) == ("team", "older")
    assert holder([mine, older, accepted], ("team", "older")) == ("team", "accepted")
    assert holder([mine, older], ("team", "older")) is None
    assert holder([older], ("team", "me")) is None  # no watch has told of it yet


def test_a_run_with_a_plan_keeps_its_output_while_the_api_server_refuses_its_jobs() -> None:
    works = a_body("works", 10, status="False", reason="PodTemplateRejected")
    works["status"]["progress"] = {"units": {"planned": 10, "committed": 3}}
    claims = [
        *claim_of(works).values(),
        *claim_of(a_body("older", 9, status="False", reason="OutputInUse")).values(),
    ]

    assert holder(claims, ("team", "works")) is None
    assert holder(claims, ("team", "older")) == ("team", "works")
