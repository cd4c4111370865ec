"""The canary: what it decides at each stage, and that restarts and silent drivers change nothing."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.policy import MaxFailedDocuments
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.expected import expected_rate
from rephrase_operator.jobs import driver_job, template_hash, worker_job
from rephrase_operator.look import Look, decide
from rephrase_operator.observed import JobSeen, Observed, job_seen
from rephrase_operator.plan import DeleteJob, StartWorker
from rephrase_operator.status import status_of
from rephrase_operator.transitions import events, is_urgent
from support.looks import (
    NOW,
    SETTINGS,
    a_job,
    a_job_body,
    a_pod,
    a_progress,
    a_run,
    ago,
    an_ended_pod,
    at_work,
    observed,
    prices,
    with_driver,
)
from support.manifests import merged

MANUAL = {"canary": {"documents": 5000, "approval": "Manual"}}
POOLS: dict[str, Any] = {"max": 4, "pools": [{"name": "default", "gpu": {"name": "L4"}}]}


def a_canary_run(**spec: Any) -> RephraseRun:  # noqa: ANN401
    """A run of a hundred units with 2,000 documents each, whose canary are the first three."""
    base = {"canary": {"documents": 5000}, "workers": POOLS}
    return a_run(**merged(base, spec))


def told(committed: int = 3, failed: int = 0, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """The driver's word on it."""
    documents = committed * 2000
    return {
        "asked": 5000,
        "units": 3,
        "committed": committed,
        "documents": documents,
        "failedDocuments": failed,
        "samples": {"expected": 6000, "written": documents - failed, "failed": failed},
        "tokens": {"prompt": documents * 100, "completion": documents * 50},
        "outputTokens": {"faq": 50.0} if committed else {},
        "tokensPerSecond": 1000.0 if committed else 0.0,
        "pool": "default" if committed else "",
        "gpus": 1 if committed else 0,
        **({"reasons": {"engine_error": failed}} if failed else {}),
        "flags": {"refusal": 7, "length": 300} if committed else {},
        **more,
    }


def looked(
    run: RephraseRun,
    there: Observed,
    before: RephraseRunStatus | None = None,
    *,
    priced: bool = True,
) -> Look:
    return decide(
        run,
        before or RephraseRunStatus(),
        there,
        refused=None,
        prices=prices(default="2") if priced else {},
        template_hashes={"": "now", "default": "now"},
        settings=SETTINGS,
        now=NOW,
    )


def with_canary(canary: Mapping[str, Any], *jobs: JobSeen, units: int = 0) -> Observed:
    """A driver that tells of it and of committed units, and workers with these Jobs."""
    pods = [a_pod(job) for job in jobs]
    progress = a_progress(100, units, canary=dict(canary), workers=at_work(*pods))
    return with_driver(jobs, pods, progress)


def written(look: Look) -> RephraseRunStatus:
    """Its status, as the API server gives it back."""
    return RephraseRunStatus.from_api(json.loads(json.dumps(status_of(look).to_api())))


def said(status: RephraseRunStatus, kind: str) -> tuple[str, str]:
    (found,) = (one for one in status.conditions if one.type == kind)
    return found.status.value, found.reason


def message(status: RephraseRunStatus, kind: str) -> str:
    return next(one.message for one in status.conditions if one.type == kind)


CANARY_JOB = a_job(units=3)
DONE = with_canary(told())


def starts(look: Look) -> list[StartWorker]:
    return [action for action in look.plan.actions if isinstance(action, StartWorker)]


# -- while it runs --


def test_one_worker_is_made_for_its_units_alone_and_others_wait() -> None:
    look = looked(a_canary_run(workers={"min": 2}), with_canary(told(0)))
    going = looked(a_canary_run(workers={"min": 2}), with_canary(told(1), CANARY_JOB))

    (start,) = starts(look)
    status = written(going)
    assert (start.slot, start.start, start.units) == (0, 0, 3)
    assert going.plan.actions == ()
    assert said(status, "CanaryPassed") == ("False", "Running")
    assert message(status, "CanaryPassed") == "one worker does it: 1 of its 3 units are committed"
    assert said(status, "WorkersAvailable") == ("True", "MinimumReached")
    assert status.scaling is not None
    assert (status.scaling.target, status.scaling.reason) == (1, "Canary")


def test_nobody_starts_before_the_driver_has_told_its_units() -> None:
    other = with_canary(told(asked=100))

    for there in (with_driver(), other):
        look = looked(a_canary_run(), there)
        assert starts(look) == []
        assert said(written(look), "CanaryPassed") == ("False", "Running")


def test_workers_that_may_do_anything_make_way_for_one_that_was_asked_for_later() -> None:
    free = [a_job(slot) for slot in range(3)]
    unknown = looked(a_canary_run(), with_driver(free, [a_pod(job) for job in free]))
    scaled = written(looked(a_run(workers=POOLS), with_canary(told(0), *free)))
    silent = looked(a_canary_run(), with_driver(free, [a_pod(job) for job in free]), scaled)
    known = looked(a_canary_run(), with_canary(told(0), *free))

    assert starts(unknown) == starts(silent) == []
    assert silent.plan.actions == ()
    gone = [action.name for action in known.plan.actions if isinstance(action, DeleteJob)]
    assert sorted(gone) == sorted(job.name for job in free)
    assert [start.units for start in starts(known)] == [3]


def test_a_worker_that_ended_with_the_canary_is_followed_by_others_at_once() -> None:
    job = a_job(units=3, complete=True, ended=NOW)
    pod = an_ended_pod(job, code=0)
    before = RephraseRunStatus(settling=(pod.uid,))
    progress = a_progress(100, 3, canary=told())
    look = looked(a_canary_run(), with_driver([job], [pod], progress), before)
    early = a_progress(100, 3, canary=told(2))
    waits = looked(a_canary_run(), with_driver([job], [pod], early), before)

    assert [type(action).__name__ for action in look.plan.actions[:1]] == ["DeleteJob"]
    assert [(start.slot, start.attempt, start.units) for start in starts(look)] == [
        *((0, 2, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0))
    ]
    assert waits.plan.actions == ()


# -- what it ends with --


def test_within_the_limits_the_run_goes_on_by_itself() -> None:
    look = looked(a_canary_run(), with_canary(told(failed=60), CANARY_JOB))
    status = written(look)

    assert look.verdict.stopped is None
    assert said(status, "CanaryPassed") == ("True", "WithinLimits")
    assert len(starts(look)) == 3
    assert {start.units for start in starts(look)} == {0}
    assert status.canary is not None
    assert status.canary.completion_tokens_per_second == 1000
    assert [(one.name, one.samples) for one in status.canary.flags] == [
        *(("length", 300), ("refusal", 7))
    ]
    assert [one.reason for one in events(RephraseRunStatus(), status)].count("CanaryPassed") == 1


def test_more_failures_than_the_share_stop_it_whatever_their_number() -> None:
    look = looked(a_canary_run(), with_canary(told(failed=61), CANARY_JOB))
    status = written(look)

    assert said(status, "CanaryPassed") == ("False", "LimitExceeded")
    assert said(status, "Suspended") == ("False", "Draining")
    assert status.stop is not None
    assert status.stop.reason == "FailureLimit"
    assert "61 of the 6000 documents of the canary failed, more than 1%" in status.stop.message
    assert "engine_error 61" in status.stop.message
    assert "raise spec.retries.maxFailedDocuments.share" in status.stop.message
    assert starts(look) == []
    warnings = [one.reason for one in events(RephraseRunStatus(), status) if one.type == "Warning"]
    assert "LimitExceeded" in warnings


def test_a_stopped_canary_stays_stopped_without_driver_or_operator_until_the_limit_is_raised() -> (
    None
):
    failed = written(looked(a_canary_run(), with_canary(told(failed=600))))
    still = looked(a_canary_run(), observed(), failed)
    touched = looked(a_canary_run(generation=2), observed(), failed)
    limit = {"retries": {"maxFailedDocuments": {"share": "10%"}}}
    raised = looked(a_canary_run(generation=2, **limit), observed(), failed)
    without = looked(a_canary_run(generation=2, canary={"documents": 0}), observed(), failed)

    for look in (still, touched):
        assert said(written(look), "Suspended") == ("True", "FailureLimit")
        assert said(written(look), "CanaryPassed") == ("False", "LimitExceeded")
    assert said(written(raised), "CanaryPassed") == ("True", "WithinLimits")
    assert said(written(without), "CanaryPassed") == ("True", "NotRequested")
    for look in (raised, without):
        assert len(starts(look)) == 4


def test_manual_approval_is_waited_for_without_a_worker() -> None:
    run = a_canary_run(**MANUAL)
    look = looked(run, with_canary(told(), CANARY_JOB, units=3))
    status = written(look)
    waiting = looked(run, observed(), status)
    approved = looked(
        a_canary_run(generation=2, **merged(MANUAL, {"canary": {"approved": True}})),
        observed(),
        written(waiting),
    )

    assert [action.name for action in look.plan.actions if isinstance(action, DeleteJob)] == [
        CANARY_JOB.name
    ]
    assert said(status, "CanaryPassed") == ("False", "AwaitingApproval")
    assert said(written(waiting), "Suspended") == ("True", "AwaitingApproval")
    assert "set spec.canary.approved to true" in message(written(waiting), "Suspended")
    assert waiting.plan.actions == ()
    assert written(waiting).estimate == status.estimate
    assert status.estimate is not None
    assert said(written(approved), "CanaryPassed") == ("True", "WithinLimits")
    assert len(starts(approved)) == 4


def test_what_was_approved_before_it_ended_does_not_wait() -> None:
    run = a_canary_run(**merged(MANUAL, {"canary": {"approved": True}}))

    assert said(written(looked(run, DONE)), "CanaryPassed") == ("True", "WithinLimits")


def test_where_the_canary_is_all_there_is_nothing_is_left_to_approve() -> None:
    there = with_driver(progress=a_progress(3, 3, canary=told()))

    assert said(written(looked(a_canary_run(**MANUAL), there)), "CanaryPassed") == (
        *("True", "WithinLimits"),
    )


def test_it_is_measured_once_and_a_silent_driver_changes_nothing() -> None:
    first = written(looked(a_canary_run(), DONE))
    later = written(looked(a_canary_run(), with_canary(told(tokensPerSecond=1.0)), first))
    silent = looked(a_canary_run(), observed(), first)

    assert later.canary == first.canary
    assert written(silent).canary == first.canary
    assert len(starts(silent)) == 4


def test_a_new_object_takes_what_the_ledger_of_its_output_says() -> None:
    look = looked(a_canary_run(), with_canary(told(), units=50))

    assert said(written(look), "CanaryPassed") == ("True", "WithinLimits")
    assert len(starts(look)) == 4


def test_a_larger_canary_is_measured_anew() -> None:
    passed = written(looked(a_canary_run(), DONE))
    larger = a_canary_run(canary={"documents": 9000}, generation=2)
    more = told(asked=9000, units=5)

    assert said(written(looked(larger, DONE, passed)), "CanaryPassed") == ("False", "Running")
    assert [start.units for start in starts(looked(larger, with_canary(more), passed))] == [5]


def test_what_it_measured_is_written_at_once() -> None:
    before = written(looked(a_canary_run(), with_canary(told(tokensPerSecond=0.0))))
    after = written(looked(a_canary_run(), DONE, before))

    assert is_urgent(before, after)


def test_of_a_complete_run_nothing_is_held_back() -> None:
    there = with_driver(progress=a_progress(100, 100, finished=True, phase="Complete"))

    assert said(written(looked(a_canary_run(), there)), "CanaryPassed") == ("True", "WithinLimits")


# -- the limit --


@pytest.mark.parametrize(
    ("share", "count", "failed", "done", "exceeded"),
    [
        ("1%", 100, 2, 10, False),
        ("1%", 100, 3, 10, True),
        ("1%", 100, 10, 1000, False),
        ("1%", 100, 11, 1000, True),
        ("1%", 0, 1, 10, True),
        ("1%", 100, 2, 2, True),
        ("50%", 100, 5, 10, False),
        ("100%", 0, 10, 10, False),
        ("1%", 100, 0, 0, False),
    ],
)
def test_its_share_counts_alone_but_for_one_or_two_failures(
    share: str,
    count: int,
    failed: int,
    done: int,
    exceeded: bool,  # noqa: FBT001 - a column of the table
) -> None:
    limit = MaxFailedDocuments(share=share, count=count)

    assert limit.exceeded_by_canary(failed, done) is exceeded


# -- the estimate --


def test_the_estimate_is_the_canarys_once_it_is_done() -> None:
    """200,000 documents are 10 M tokens at 1,000 a second: 10,000 s, and four starts."""
    before = written(looked(a_canary_run(), with_canary(told(0)))).estimate
    found = written(looked(a_canary_run(), DONE)).estimate
    unpriced = written(looked(a_canary_run(), DONE, priced=False)).estimate

    assert before is not None
    assert (before.gpu_hours, before.cost, before.workers) == (None, None, None)
    assert (
        before.basis
        == "all in pool default: unknown: nobody measured some/model on L4: run a canary"
    )
    assert found is not None
    assert found.gpu_hours is not None
    assert found.cost is not None
    assert found.time is not None
    assert (found.completion_tokens, found.workers) == (200_000 * 50, 4)
    hours = 10_000 / 3600 + 4 * 30 / 3600
    assert float(found.gpu_hours.low or 0) == pytest.approx(hours, abs=0.001)
    assert float(found.cost.low or 0) == pytest.approx(2 * hours, abs=0.01)
    assert found.time.low == "43m50s"  # a last unit takes 100 s
    assert "measured by a canary: over 6,000 documents" in (found.basis or "")
    assert unpriced is not None
    assert (unpriced.cost, unpriced.gpu_hours) == (None, found.gpu_hours)


def test_rows_that_the_filters_left_out_count_less() -> None:
    half = told(documents=3000, filtered=3000)
    found = written(looked(a_canary_run(), with_canary(half))).estimate

    assert found is not None
    assert found.completion_tokens == 100_000 * 50  # half of the rows


def test_the_estimate_names_the_workers_that_the_deadline_takes() -> None:
    def workers(seconds: float) -> int:
        deadline = (NOW + timedelta(seconds=seconds)).isoformat()
        run = a_canary_run(scaling={"deadline": deadline})
        found = written(looked(run, DONE)).estimate
        assert found is not None
        return found.workers or 0

    assert workers(20_000) == 1
    assert workers(2_000) == 7  # 10,000 s / 0.85 by seven, and their starts
    assert 10 < workers(1_000) < 20


def test_scaling_goes_on_from_the_rate_that_it_showed() -> None:
    """9,700,000 tokens are left: 11,400 s of one worker at a careful 850 a second, and starts of 300 s."""
    deadline = (NOW + timedelta(seconds=7000)).isoformat()
    run = a_canary_run(scaling={"deadline": deadline}, workers={"max": 64})
    passed = looked(run, with_canary(told(), units=3))

    assert passed.scaling is not None
    assert (passed.scaling.target, passed.scaling.reason) == (2, "Deadline")


def test_workers_at_work_are_expected_to_be_as_fast_as_the_canary() -> None:
    one = expected_rate(looked(a_canary_run(), with_canary(told(), a_job(0), units=3)))
    two = expected_rate(looked(a_canary_run(), with_canary(told(), a_job(0), a_job(1), units=3)))
    pools = [*POOLS["pools"], {"name": "od", "gpu": {"name": "H100"}}]
    elsewhere = with_canary(told(), a_job(0, pool="od"), units=3)
    unmeasured = expected_rate(looked(a_canary_run(workers={"pools": pools}), elsewhere))

    assert (one, two, unmeasured) == (1000.0, 2000.0, None)
    assert expected_rate(looked(a_canary_run(), DONE)) is None


# -- its Jobs --


def test_the_limit_is_no_part_of_what_a_worker_is_made_from() -> None:
    run = a_canary_run()
    (pool,) = run.spec.pools()
    fields: Any = {"slot": 0, "attempt": 1, "start": 0, "settings": SETTINGS}
    free, kept = worker_job(run, pool, **fields), worker_job(run, pool, units=3, **fields)

    def environment(job: Any) -> dict[str, str]:  # noqa: ANN401
        (container,) = job["spec"]["template"]["spec"]["containers"]
        return {one["name"]: one.get("value", "") for one in container["env"]}

    assert template_hash(free) == template_hash(kept)
    assert "REPHRASE_UNITS" not in environment(free)
    assert environment(kept)["REPHRASE_UNITS"] == "3"
    annotations = kept["metadata"]["annotations"]
    assert job_seen(a_job_body(meta={"annotations": annotations})).units == 3
    assert job_seen(a_job_body()).units == 0


def test_a_driver_is_told_the_documents_and_nothing_else_makes_a_new_one() -> None:
    def hash_of(**canary: Any) -> str:  # noqa: ANN401
        return template_hash(driver_job(a_run(canary=canary), settings=SETTINGS))

    manual = {"documents": 5, "approval": "Manual"}
    assert hash_of() == hash_of(approval="Manual")
    assert hash_of(documents=5) == hash_of(**manual) == hash_of(**manual, approved=True)
    assert hash_of() != hash_of(documents=5) != hash_of(documents=6)


def test_the_canary_is_done_where_it_can_be_first() -> None:
    pools = [{"name": "spot", "priority": 1}, {"name": "od"}]
    run = a_canary_run(workers={"pools": pools})
    short = a_job(units=3, pool="spot", created=ago(5))
    look = decide(
        run,
        RephraseRunStatus(),
        with_canary(told(0)),
        refused=None,
        prices={},
        template_hashes={"": "now", "spot": "now", "od": "now"},
        settings=SETTINGS,
        now=NOW,
    )

    assert [(start.pool, start.units) for start in starts(look)] == [(short.pool, 3)]


@pytest.mark.parametrize(("share", "warned"), [(0.76, True), (0.5, False)])
def test_rewrites_that_begin_alike_are_told_before_anybody_approves(
    share: float, *, warned: bool
) -> None:
    canary = told(alike={"faq": share})

    status = written(looked(a_canary_run(**MANUAL), with_canary(canary)))

    assert status.canary is not None
    assert [(one.name, one.alike) for one in status.canary.prompts] == [("faq", share)]
    begin = "rewrites that begin alike: faq 76%"
    assert (begin in message(status, "CanaryPassed")) is warned
