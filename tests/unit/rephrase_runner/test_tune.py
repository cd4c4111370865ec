"""What a trial's words mean, and what it is given to do."""

import itertools
import json

import pytest
import yaml

from rephrase_api.manifest import parse_run
from rephrase_runner.trial import endless
from rephrase_runner.tune import Tuned, judged, patch_text
from rephrase_runner.tuning import Attempt, Trial
from support.manifests import a_manifest, merged

ATTEMPT = Attempt(("--max-num-seqs=512",), 20, 600)


def said(message: str, **fields: object) -> str:
    return json.dumps({"timestamp": "now", "message": message, **fields})


def test_a_measured_rate_counts_whatever_else_was_said() -> None:
    words = [
        "out of memory, once",
        said("measured", rate=88.5, answers=70, start_seconds=31.2),
        "bye",
    ]

    assert judged(ATTEMPT, "\n".join(words), 75, late=False) == Trial(ATTEMPT.args, 88.5, 31.2, 75)


@pytest.mark.parametrize(
    ("words", "late", "reason", "out_of_memory"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
            + said("exit", error="vLLM did not start"),
            False,
            "out of memory",
            True,
        ),
        ("ValueError: No available memory for the cache blocks.", False, "out of memory", True),
        (said("exit", error="vLLM did not start"), False, "vLLM did not start", False),
        ("", False, "ended without a word", False),
        (said("engine ready"), True, "not done in time", False),
        (said("measured", rate=None, start_seconds=1), False, "too few answers to tell", False),
        ("[1, 2]\n3", False, "ended without a word", False),
    ],
    ids=["out of GPU memory", "no cache", "did not start", "killed", "late", "too few", "no log"],
)
def test_no_rate_has_a_reason(words: str, *, late: bool, reason: str, out_of_memory: bool) -> None:
    trial = judged(ATTEMPT, words, 9, late=late)

    assert (trial.rate, trial.reason, trial.out_of_memory) == (None, reason, out_of_memory)


def test_a_document_that_comes_again_begins_otherwise() -> None:
    texts = ("The lake.", "A hill.")

    found = [document.text for document, _ in itertools.islice(endless(texts, [("faq", 0)]), 6)]

    assert found == ["The lake.", "A hill.", "he lake.", " hill.", "e lake.", "hill."]


def test_even_the_shortest_document_is_never_used_up() -> None:
    found = itertools.islice(endless(("ab",), [("faq", 0)]), 9)

    assert all(document.text for document, _ in found)


def test_a_sample_of_its_own_is_asked_for_each_prompt_and_rollout() -> None:
    keys = [("faq", 0), ("faq", 1), ("math", 0)]

    (_, first), (_, second) = itertools.islice(endless(("text",), keys), 2)

    assert [(key.prompt, key.rollout) for key in first] == keys
    assert set(first).isdisjoint(second)


def test_the_patch_is_a_file_that_says_what_it_is_and_can_be_applied() -> None:
    manifest = a_manifest()
    run = parse_run(yaml.safe_dump(manifest), where="run.yaml")
    patch = {"spec": {"model": {"engine": {"args": ["--concurrency=64"]}}}}

    text = patch_text(run, Tuned(patch, 1234.5, 1000, []), "tune.patch.yaml")

    assert "1,234 tokens/s" in text
    assert "instead of 1,000" in text
    assert "kubectl patch rephraserun test --type merge --patch-file tune.patch.yaml" in text
    patched = parse_run(yaml.safe_dump(merged(manifest, yaml.safe_load(text))), where="run.yaml")
    assert patched.spec.model.engine.args == ("--concurrency=64",)
