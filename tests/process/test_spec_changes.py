"""An output is continued by the same run only; speed may change, what is generated may not."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rephrase_api.names import API_VERSION, KIND
from support.laptop import Ended, Laptop, side_by_side, tree
from support.manifests import BRIEF, TWICE, echo
from support.runs import small_keys, small_run

SEMANTIC: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": (
        {"prompts": [{**BRIEF, "template": "Shorten well.\n\n[[DOCUMENT]]"}, TWICE]},
        'prompts[brief].template: changed at line 1: "Shorten." -> "Shorten well."',
    ),
    "prompt-added": (
        {"prompts": [BRIEF, TWICE, {"name": "faq", "builtIn": "faq"}]},
        "prompts[faq]: added",
    ),
    "rollouts": ({"prompts": [BRIEF, {**TWICE, "rollouts": 3}]}, "prompts[twice].rollouts: 2 -> 3"),
    "sampling": ({"sampling": {"temperature": 0.5}}, "sampling.temperature: not set -> 0.5"),
    "seed": ({"sampling": {"seed": None}}, "sampling.seed: 7 -> not set"),
    "model": ({"model": {"name": "another"}}, 'model.name: "echo" -> "another"'),
    "source": ({"source": {"limit": {"documents": 10}}}, "source.limit.documents: not set -> 10"),
    "kept": ({"source": {"columns": {"keep": []}}}, 'source.columns.keep: ["url"] -> []'),
}
"""Changes of what is generated, and the line that tells of them."""

SPEED = {
    "model": echo("--start-seconds=0.1", concurrency=32),
    "source": {"unit": {"targetDocuments": 50}},
    "output": {"targetFileBytes": 2**20, "compression": "snappy"},
    "durability": {"heartbeatSeconds": 2, "leaseSeconds": 6, "checkpointSeconds": 2},
    "workers": {"max": 1},
    "retries": {"requestAttempts": 5},
    "observability": {"logLevel": "Debug"},
}
"""Everything that may change while a run goes on."""


def copied(undisturbed: Laptop, folder: Path) -> Laptop:
    """The finished run in a folder of its own."""
    shutil.copytree(undisturbed.folder, folder, dirs_exist_ok=True)
    return Laptop(folder)


@pytest.fixture
def finished(undisturbed: Laptop, tmp_path: Path) -> Laptop:
    """A finished run that may be changed."""
    return copied(undisturbed, tmp_path)


@pytest.fixture(scope="module")
def refusals(
    undisturbed: Laptop, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Ended, bool]]:
    """How `rephrase run` of each changed manifest ended, and whether it left the output alone."""

    def run(spec: dict[str, Any], folder: Path) -> tuple[Ended, bool]:
        laptop = copied(undisturbed, folder)
        before = tree(laptop.output)
        small_run(laptop, **spec)
        return laptop.run(), tree(laptop.output) == before

    return side_by_side(
        {
            name: partial(run, spec, tmp_path_factory.mktemp("changed"))
            for name, (spec, _) in SEMANTIC.items()
        }
    )


def test_the_same_manifest_again_does_nothing_and_says_that_all_is_done(finished: Laptop) -> None:
    before = tree(finished.output)

    ended = finished.run()

    assert ended.code == 0, ended.said
    assert "complete: 2,346 samples written, 54 skipped, 0 failed" in ended.out
    assert tree(finished.output) == before


def test_the_same_run_written_in_other_words_is_the_same(finished: Laptop) -> None:
    small_run(
        finished,
        prompts=[TWICE, {**BRIEF, "rollouts": 1}],
        source={"format": "Auto", "sample": {"fraction": "1.0"}},
        output={"uri": f"{finished.output.name}/"},
        scaling={"deadline": "2030-01-01T00:00:00Z"},
    )
    before = tree(finished.output)

    ended = finished.run()

    assert ended.code == 0, ended.said
    assert "only a cluster can honor spec.scaling.deadline; left aside here" in ended.out
    assert tree(finished.output) == before


def test_the_manifest_can_be_made_again_from_the_output(finished: Laptop) -> None:
    """As docs/operations.md says for the case that all else is gone."""
    spec = json.loads((finished.output / "_run" / "spec.json").read_text())["declared"]
    names = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "again"}}
    finished.write({**names, "spec": spec})
    before = tree(finished.output)

    ended = finished.run()

    assert ended.code == 0, ended.said
    assert "complete: 2,346 samples written, 54 skipped, 0 failed" in ended.out
    assert tree(finished.output) == before


@pytest.mark.parametrize("change", SEMANTIC)
def test_another_run_in_the_same_output_is_refused_and_told_what_differs(
    refusals: dict[str, tuple[Ended, bool]], change: str
) -> None:
    _, difference = SEMANTIC[change]

    ended, untouched = refusals[change]

    assert ended.code == 64, ended.said
    assert "this output belongs to a run with another spec; what differs:" in ended.err
    assert [line.strip() for line in ended.err.splitlines()].count(difference) == 1, ended.err
    assert "name another output to begin a new one" in ended.err
    assert untouched


def test_a_run_that_was_stopped_goes_on_with_other_settings_for_speed(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    small_run(laptop, model=echo(latency=0.2))
    command = laptop.start_run("--workers", "2")
    laptop.wait_for_commits(3)
    command.signal(signal.SIGINT)
    assert command.ended().code == 75

    small_run(laptop, **SPEED)
    ended = laptop.run()

    assert ended.code == 0, ended.said
    assert laptop.keys() == small_keys()
    assert laptop.samples().equals(undisturbed.samples())
    assert laptop.rephrase("verify", "output").code == 0
