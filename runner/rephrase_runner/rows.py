"""The values that flow through a worker: documents in, samples out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Status(StrEnum):
    """What became of one sample. Order is the order of preference when two records meet."""

    WRITTEN = "written"
    SKIPPED = "skipped"
    FAILED = "failed"


class Key(NamedTuple):
    """Identity of a sample inside a run; never the source's own id, which may repeat."""

    file: int
    row: int
    prompt: str
    rollout: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document or a sample has no rewrite.

    Attributes:
        status: SKIPPED (nothing to rewrite) or FAILED (something broke).
        reason: short machine name, for example ``empty_text``; bounded set, see `docs/reasons.md`.
        message: one sentence for a person; never document text.
    """

    status: Status
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """One source row that passed the declared filter.

    Attributes:
        file: index into the plan's files.
        row: 0-based row (Parquet) or line (JSON lines) in that file.
        source_id: value of the id column as text, else ``<file name>:<row>``.
        text: the text column; empty if `problem` is set.
        kept: values of the kept columns, by name.
        problem: set if the row cannot be rewritten at all (null, empty, broken ...).
        flags: facts to record with its samples, for example ``kept_null`` (a kept value did not fit).
    """

    file: int
    row: int
    source_id: str
    text: str
    kept: Mapping[str, object] = field(default_factory=dict)
    problem: Problem | None = None
    flags: tuple[str, ...] = ()


class Sample(NamedTuple):
    """The outcome of one (document, prompt, rollout): a rewrite, or a problem. One row of a part.

    A tuple, since it is made in a third of the time of a frozen dataclass with as many fields.

    Attributes:
        text: the rewrite; empty unless written.
        finish_reason: ``stop`` or ``length`` as the engine said; empty unless written.
        truncated: whether the document was cut to fit.
        attempts: engine calls made for it; 0 where none was needed.
        attempt_seed: seed of the call that succeeded, or None where none was set.
        notes: what the checks count about it, by name; in parts only, for the report.
    """

    key: Key
    source_id: str
    status: Status
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    truncated: bool = False
    flags: tuple[str, ...] = ()
    attempt_seed: int | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0
    kept: Mapping[str, object] = MappingProxyType({})
    source_text: str | None = None
    notes: Mapping[str, int] = MappingProxyType({})
