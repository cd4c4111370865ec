"""The canary on one machine: its units first and by one worker, then all, or a stop, or a plan."""

import json
from typing import Any

import pytest

from support.laptop import Ended, Laptop, tree
from support.manifests import echo
from support.runs import small_keys, small_run

CANARY = {"documents": 100}
"""Of 20 units with 40 documents each: the first three."""


def log(laptop: Laptop, kind: str) -> list[dict[str, Any]]:
    """What the processes of a kind logged, in order."""
    found = sorted(laptop.state.glob(f"rephrase/*/*/{kind}*.log"))
    return [json.loads(line) for path in found for line in path.read_text().splitlines()]


def committed_by(laptop: Laptop) -> dict[str, list[int]]:
    """Units by the worker that committed them."""
    found: dict[str, list[int]] = {}
    for path in laptop.ledger("commits"):
        found.setdefault(json.loads(path.read_text())["worker"], []).append(int(path.stem))
    return found


def plan(laptop: Laptop, *args: str) -> Ended:
    return laptop.rephrase("plan", "run.yaml", *args)


def test_its_units_are_done_by_one_worker_before_others_start(laptop: Laptop) -> None:
    small_run(laptop, canary={**CANARY, "approval": "Manual"})

    ended = laptop.run("--workers", "2")

    first = [units for units in committed_by(laptop).values() if 0 in units]
    assert ended.code == 0, ended.said
    assert first == [[0, 1, 2]]
    assert len(committed_by(laptop)) > 1
    assert laptop.keys() == small_keys()
    assert laptop.rephrase("verify", "output").code == 0
    assert "only a cluster can honor spec.canary.approval; left aside here" in ended.out
    lines = ended.out.splitlines()
    (said,) = [line for line in lines if line.startswith("canary: ")]
    assert said.startswith("canary: 120 documents in 3 units done, 0 failed, ")
    assert "% of the samples skipped" in said
    assert "% tiny" in said
    assert lines.index(said) < next(n for n, line in enumerate(lines) if "worker-1: model" in line)


def test_a_plan_with_a_canary_starts_the_run_and_tells_what_it_measured(laptop: Laptop) -> None:
    small_run(laptop, canary=CANARY, model=echo(concurrency=8, latency=0.02))

    shown = plan(laptop, "--canary")
    before = tree(laptop.output)
    again = plan(laptop, "--json")
    assert tree(laptop.output) == before
    once_more = plan(laptop, "--canary")
    units, commits = laptop.committed(), laptop.ledger("commits")
    ended = laptop.run("--workers", "2")

    assert shown.code == 0, shown.said
    assert laptop.processes() == []
    assert "this starts the run: its first units are written to output" in shown.err
    lines = {line.split("  ")[0]: line for line in shown.out.splitlines()}
    for name in ("tokens of brief", "tokens of twice", "output tokens", "rate", "worker hours"):
        assert "[measured by a canary]" in lines[name], shown.out
    assert units == [0, 1, 2]
    found = json.loads(again.out)
    assert (found["units"], found["documents"]["likely"]) == (17, 680)
    assert found["failedShare"]["basis"] == "measured by a canary"
    assert 12 < found["meanOutputTokens"]["brief"]["likely"] <= 17
    assert found["pools"][0]["rate"]["likely"] > 100
    assert once_more.code == 0, once_more.said
    assert [before[str(path.relative_to(laptop.output))] for path in commits] == [
        path.read_bytes() for path in commits
    ]
    assert ended.code == 0, ended.said
    assert laptop.keys() == small_keys()


def test_one_with_too_many_failures_ends_the_run_until_the_limit_is_raised(
    laptop: Laptop,
) -> None:
    """Far fewer than the hundred that a whole run may have."""
    model = {"engine": {"args": ["--fail-on=harbor", "--output-tokens=16"]}}
    small_run(laptop, canary=CANARY, model=model)

    planned = plan(laptop, "--canary")
    ran = laptop.run("--workers", "2")
    units = laptop.committed()
    limit = {"retries": {"maxFailedDocuments": {"share": "100%"}}}
    small_run(laptop, canary=CANARY, model=model, **limit)
    raised = laptop.run("--workers", "2")

    for ended in (planned, ran):
        assert ended.code == 1, ended.said
        assert "FailureLimit: " in ended.err
        assert "of the 120 documents of the canary failed, more than 1%" in ended.err
        assert "echo_failed" in ended.err
    assert units == [0, 1, 2]
    assert planned.out == ""
    assert raised.code == 0, raised.said
    assert laptop.keys() == small_keys()


def test_a_canary_as_large_as_the_run_is_all_of_it(laptop: Laptop) -> None:
    small_run(laptop, canary={"documents": 10_000})

    ended = laptop.run("--workers", "2")

    starts = [one for one in log(laptop, "worker") if one["message"] == "engine ready"]
    assert ended.code == 0, ended.said
    assert len(starts) == 1, "nobody loads a model for nothing"
    assert list(committed_by(laptop).values()) == [list(range(20))]


@pytest.mark.full
def test_a_run_that_lost_its_power_in_the_canary_goes_on_with_it(laptop: Laptop) -> None:
    small_run(laptop, canary=CANARY, model=echo(concurrency=2, latency=0.02))
    laptop.start_run("--workers", "2")
    laptop.wait_for_commits(1)
    laptop.lose_power()
    assert set(laptop.committed()) <= {0, 1, 2}

    small_run(laptop, canary=CANARY)
    ended = laptop.run("--workers", "2")

    assert ended.code == 0, ended.said
    assert laptop.keys() == small_keys()
    assert laptop.rephrase("verify", "output").code == 0


def test_a_canary_without_documents_is_refused(laptop: Laptop) -> None:
    small_run(laptop)

    ended = plan(laptop, "--canary")

    assert ended.code == 64
    assert "spec.canary.documents: is 0" in ended.err
    assert not laptop.output.exists()
