import re

from rephrase_api import names
from rephrase_api.v1alpha1.conditions import (
    REASONS,
    ConditionStatus,
    ConditionType,
    Reason,
)
from rephrase_api.v1alpha1.run import MAX_NAME_CHARACTERS
from rephrase_api.v1alpha1.workers import MAX_WORKERS


def test_names_of_jobs_are_those_people_see_in_the_docs() -> None:
    assert names.driver_job_name("faq-math-1b") == "faq-math-1b-driver"
    assert names.worker_job_name("faq-math-1b", slot=3, attempt=2) == "faq-math-1b-w003-2"


def test_the_longest_name_of_a_run_still_makes_names_of_pods() -> None:
    run = "r" * MAX_NAME_CHARACTERS

    longest = names.worker_job_name(run, slot=MAX_WORKERS, attempt=99_999_999)

    assert len(longest) <= names.MAX_JOB_NAME_CHARACTERS


def test_the_selector_of_workers_is_part_of_the_run() -> None:
    assert names.worker_selector("a") == "rephrase.io/run=a,rephrase.io/role=worker"
    assert names.worker_selector("a").startswith(names.run_selector("a"))


def test_every_condition_has_reasons_for_true_and_false() -> None:
    assert list(REASONS) == list(ConditionType)
    for condition, by_status in REASONS.items():
        assert {ConditionStatus.TRUE, ConditionStatus.FALSE} <= by_status.keys(), condition
        assert all(by_status.values()), condition


def test_every_reason_belongs_to_a_condition_and_is_one_word() -> None:
    used = {reason for table in REASONS.values() for group in table.values() for reason in group}

    assert used == set(Reason)
    for reason in Reason:
        assert re.fullmatch(r"[A-Z][A-Za-z]+", reason)
