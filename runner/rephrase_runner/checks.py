"""What is noticed about a rewrite, and what becomes of it by `spec.quality`. Pure, microseconds each.

Checks only flag. Nothing is dropped or changed unless the spec says so: the paper found no cheap score
that predicts training value (arXiv 2604.13977, analysis chapter).
"""

import re
from dataclasses import dataclass

from rephrase_api.v1alpha1.generation import OnTruncated, Quality
from rephrase_runner.rows import Problem, Status

TINY_TOKENS = 30
_HEAD_CHARACTERS = 200
_REFUSAL = re.compile(
    r"\b(i cannot|i can't|i'm sorry|i am sorry|as an ai)\b|the (document|text) does not"
)
_PREAMBLE = re.compile(
    r"^\s*(sure[,!.]?\s+)?here(?:'s| is| are)\b[^\n]{0,120}"
    r"\b(version|tables?|faqs?|tutorial|guide|problem|questions?|rewrite|document)\b[^\n]{0,120}:\s*\n+",
    re.IGNORECASE,
)

EMPTY_OUTPUT = Problem(Status.SKIPPED, "empty_output", "the model answered with nothing")
TRUNCATED_OUTPUT = Problem(
    Status.SKIPPED, "truncated_output", "the answer ran into maxTokens (spec.quality.onTruncated)"
)


@dataclass(frozen=True, slots=True)
class Assessed:
    """A rewrite after the checks: its text, what was noticed, and why it is left out if it is."""

    text: str
    flags: tuple[str, ...]
    problem: Problem | None


def assess(text: str, finish_reason: str, completion_tokens: int, quality: Quality) -> Assessed:
    """Check one answer of the model.

    Flags: `length` (ran into maxTokens), `tiny` (fewer than 30 tokens), `refusal` and `preamble` (by its
    first 200 characters), `trimmed` (cut back to its last whole line, as the spec asks).
    """
    flags = []
    head = text[:_HEAD_CHARACTERS].casefold()
    preamble = _PREAMBLE.match(text)
    if _REFUSAL.search(head):
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
    if not text.strip():
        problem = EMPTY_OUTPUT
    return Assessed("" if problem is not None else text, tuple(flags), problem)
