"""What decides about an answer: its text after the checks, and whether it is a rewrite. Pure, microseconds.

Checks flag. Nothing is dropped unless the spec says so: the paper found no cheap score that predicts training
value (arXiv 2604.13977, analysis chapter). Only a model's thinking is no part of its answer, and goes. What
compares a rewrite with its document takes longer: `scrutiny.py`.
"""

import re
from typing import NamedTuple

from rephrase_api.v1alpha1.generation import OnTruncated, Quality
from rephrase_runner.rows import Problem, Status

TINY_TOKENS = 30
_HEAD_CHARACTERS = 200
_REFUSALS = ("i cannot", "i can't", "i'm sorry", "i am sorry", "as an ai", "does not")
"""One of these is in every refusal: to look for them takes a tenth of what the pattern takes."""
_REFUSAL = re.compile(
    r"\b(i cannot|i can't|i'm sorry|i am sorry|as an ai)\b|the (document|text) does not"
)
_PREAMBLE = re.compile(
    r"^\s*(sure[,!.]?\s+)?here(?:'s| is| are)\b[^\n]{0,120}"
    r"\b(version|tables?|faqs?|tutorial|guide|problem|questions?|rewrite|document)\b[^\n]{0,120}:\s*\n+",
    re.IGNORECASE,
)

_THINKING, _THOUGHT, _MARK = "<think>", "</think>", "think>"

EMPTY_OUTPUT = Problem(Status.SKIPPED, "empty_output", "the model answered with nothing")
TRUNCATED_OUTPUT = Problem(
    Status.SKIPPED, "truncated_output", "the answer ran into maxTokens (spec.quality.onTruncated)"
)


class Assessed(NamedTuple):
    """A rewrite after the checks: its text, what was noticed, and why it is left out if it is."""

    text: str
    flags: tuple[str, ...]
    problem: Problem | None


def assess(text: str, finish_reason: str, completion_tokens: int, quality: Quality) -> Assessed:
    """Check one answer of the model.

    Flags: `thinking` (taken out), `thinking_open` (begun and not ended, left in), `length` (ran into
    maxTokens), `tiny` (fewer than 30 tokens), `refusal` and `preamble` (by its first 200 characters),
    `trimmed` (cut back to its last whole line, as the spec asks).
    """
    flags = []
    if _MARK in text:
        answer, unended = _without_thinking(text)
        if answer != text:
            flags.append("thinking")
            text = answer
        if unended:
            flags.append("thinking_open")
    head = text[:_HEAD_CHARACTERS].casefold()
    preamble = _PREAMBLE.match(text)
    if any([phrase in head for phrase in _REFUSALS]) and _REFUSAL.search(head):
        flags.append("refusal")
    if preamble is not None:
        flags.append("preamble")
        if quality.strip_preamble:
            text = text[preamble.end() :]
    problem = None
    if finish_reason == "length":
        flags.append("length")
        if quality.on_truncated is OnTruncated.DROP:
            problem = TRUNCATED_OUTPUT
        elif quality.on_truncated is OnTruncated.TRIM:
            whole, newline, _ = text.rpartition("\n")
            kept = completion_tokens * len(whole) // max(1, len(text))
            if not newline or kept < TINY_TOKENS:
                problem = TRUNCATED_OUTPUT
            else:
                text = whole.rstrip()
                flags.append("trimmed")
    if completion_tokens < TINY_TOKENS:
        flags.append("tiny")
    if not text or text.isspace():
        problem = EMPTY_OUTPUT
    return Assessed("" if problem is not None else text, tuple(flags), problem)


def _without_thinking(text: str) -> tuple[str, bool]:
    """The text without what stands between the marks of thinking, and whether some of it never ends.

    Some chat templates open the thinking themselves, so that only its end is in the answer.
    """
    kept: list[str] = []
    rest = text
    while _THOUGHT in rest:
        thinking, _, rest = rest.partition(_THOUGHT)
        before, opened, _ = thinking.partition(_THINKING)
        if opened or not kept:
            kept.append(before if opened else "")
        else:
            kept.append(thinking)  # an end without a beginning, after the first: just text
    if kept:
        rest = rest.lstrip()
    return "".join([*kept, rest]), _THINKING in rest
