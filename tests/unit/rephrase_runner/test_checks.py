"""What decides about an answer: thinking goes, the rest is flagged and dropped only if the spec says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.v1alpha1.generation import OnTruncated, Quality
from rephrase_runner.checks import EMPTY_OUTPUT, TRUNCATED_OUTPUT, assess

LONG = "The harbor repairs ships, and has done so since 1700."


@pytest.mark.parametrize(
    ("text", "answer", "flags"),
    [
        (f"<think>Let me see.</think>\n\n{LONG}", LONG, ("thinking",)),
        (f"Let me see.\n</think>\n{LONG}", LONG, ("thinking",)),
        (f"So: <think>a</think> {LONG}", f"So: {LONG}", ("thinking",)),
        (f"<think>a</think>{LONG}<think>b</think> End.", f"{LONG}End.", ("thinking",)),
        (f"<think>a</think>{LONG} <think>b", f"{LONG} <think>b", ("thinking", "thinking_open")),
        (f"<think>{LONG}", f"<think>{LONG}", ("thinking_open",)),
        (LONG, LONG, ()),
    ],
)
def test_thinking_is_taken_out_and_what_never_ends_is_flagged(
    text: str, answer: str, flags: tuple[str, ...]
) -> None:
    found = assess(text, "stop", 50, Quality())

    assert (found.text, found.flags, found.problem) == (answer, flags, None)


def test_an_answer_of_thinking_alone_is_empty() -> None:
    found = assess("<think>Nothing to say.</think>\n", "stop", 50, Quality())

    assert (found.problem, found.flags) == (EMPTY_OUTPUT, ("thinking",))


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("I'm sorry, but I cannot do this.", "refusal"),
        ("As an AI, I have no opinion.", "refusal"),
        ("The document does not tell.", "refusal"),
        (f"Here is the FAQ:\n\n{LONG}", "preamble"),
        (f"Sure! Here's a tutorial about harbors:\n{LONG}", "preamble"),
    ],
)
def test_what_an_answer_begins_with_is_flagged_and_kept(text: str, flag: str) -> None:
    found = assess(text, "stop", 50, Quality())

    assert (found.text, found.flags, found.problem) == (text, (flag,), None)


@pytest.mark.parametrize("text", [LONG, f"{LONG} Here is the FAQ:\n", "Here is New York."])
def test_what_only_looks_like_it_is_not_flagged(text: str) -> None:
    assert assess(text, "stop", 50, Quality()).flags == ()


def test_a_preamble_is_removed_on_request() -> None:
    found = assess(f"Here is the FAQ:\n\n{LONG}", "stop", 50, Quality(strip_preamble=True))

    assert (found.text, found.flags) == (LONG, ("preamble",))


@pytest.mark.parametrize(
    ("policy", "text", "problem"),
    [
        (OnTruncated.KEEP, f"{LONG}\nand th", None),
        (OnTruncated.TRIM, LONG, None),
        (OnTruncated.DROP, "", TRUNCATED_OUTPUT),
    ],
)
def test_a_truncated_answer_is_kept_trimmed_or_dropped_as_the_spec_says(
    policy: OnTruncated, text: str, problem: object
) -> None:
    found = assess(f"{LONG}\nand th", "length", 300, Quality(on_truncated=policy))

    assert (found.text, found.problem) == (text, problem)
    assert "length" in found.flags
    assert ("trimmed" in found.flags) is (policy is OnTruncated.TRIM)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_answer_is_skipped(text: str) -> None:
    assert assess(text, "stop", 1, Quality()).problem == EMPTY_OUTPUT


def test_few_tokens_are_flagged() -> None:
    assert assess(LONG, "stop", 29, Quality()).flags == ("tiny",)


MARKS = st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n", "b?"])).map("".join)


@given(MARKS)
def test_nothing_is_invented_and_no_end_of_thinking_stays_at_the_front(text: str) -> None:
    found = assess(text, "stop", 50, Quality())

    assert len(found.text) <= len(text)
    assert set(found.text) <= set(text)
    if text.count("</think>") == 1:
        assert "</think>" not in found.text
