"""`spec.source`: which documents are rewritten."""

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import (
    CLUSTER_ONLY,
    MAX_INTEGER,
    ColumnName,
    Fraction,
    IntOrString,
    SourceUri,
    Unique,
    number_as_text,
)
from rephrase_api.v1alpha1.shared import SecretRef, Storage

RESERVED_COLUMNS = (
    "id",
    "text",
    "prompt",
    "source_id",
    "source_file",
    "source_row",
    "rollout",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "truncated",
    "flags",
    "attempt_seed",
    "source_text",
)
"""Columns of the output; a kept column of the source may not be named like one of them."""


class SourceFormat(StrEnum):
    """How source files are encoded."""

    AUTO = "Auto"
    PARQUET = "Parquet"
    JSONL = "Jsonl"


class Operator(StrEnum):
    """How a filter compares a column with its values."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    GREATER = "Greater"
    GREATER_OR_EQUAL = "GreaterOrEqual"
    LESS = "Less"
    LESS_OR_EQUAL = "LessOrEqual"
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class OnUnreadableFile(StrEnum):
    """What a source file that cannot be opened means."""

    FAIL = "Fail"
    SKIP = "Skip"


class Columns(Model):
    """Which columns of a source row are used."""

    text: ColumnName = "text"
    """Column that holds the document. Default: `text`."""
    id: ColumnName | None = None
    """Column that identifies a document in its source. Absent: `<file name>:<row>`."""
    keep: Annotated[tuple[ColumnName, ...], Field(max_length=64), Unique()] = ()
    """Columns copied to the output beside each rewrite, as in `[url, score]`. Default: none."""


class Filter(Model):
    """Keeps the rows whose column compares as asked; a row without a value never matches."""

    column: ColumnName
    """Column to look at."""
    operator: Operator
    """Equal, NotEqual, Greater, GreaterOrEqual, Less and LessOrEqual take one value, In and NotIn
    one or more, Exists and DoesNotExist none."""
    values: Annotated[
        tuple[
            Annotated[str, BeforeValidator(number_as_text), Field(max_length=1024), IntOrString()],
            ...,
        ],
        Field(max_length=256),
    ] = ()
    """What to compare with, as strings; they are read as the column's type. Default: none."""


class Limit(Model):
    """Takes only the beginning of the source."""

    documents: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    """Source rows to read, in file order and before filters. Absent: all of them."""


class Sampled(Model):
    """Takes a deterministic sample of the source, by a hash of the source id."""

    fraction: Fraction = "1"
    """Share of the rows to take, above 0 and up to 1, as a decimal string. Default: `1`, all of
    them."""
    seed: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Another seed takes another sample; with one seed a larger fraction contains the smaller one.
    Default: 0."""


class Unit(Model):
    """The grain in which work is claimed and committed. Not part of the run's identity."""

    target_documents: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Documents a unit should have; a unit should take a worker 2 to 15 minutes. Read once, when
    the run is planned. Default: 2000."""


class Source(Model):
    """Where the documents come from and which of them are taken."""

    uri: SourceUri
    """A file, or a folder of files: `s3://`, `gs://`, `az://`,
    `hf://datasets/<owner>/<name>[@<revision>]/<folder>` (pinned to its commit when the run is
    planned), `https://` (one file, or a .txt with one URL a line), or a local path (`file:///` or a
    plain path) that every worker can read."""
    format: SourceFormat = SourceFormat.AUTO
    """Auto, Parquet or Jsonl (also .gz and .zst). Default: Auto, told by the files' names."""
    include: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
        Field(max_length=64),
        Unique(),
    ] = ()
    """Globs relative to `uri`, as in `[data/CC-MAIN-2024-*/*.parquet]`; a file that fits any of
    them is read. Default: none, which reads every file of the format."""
    columns: Columns = Columns()
    """Which columns of a source row are used. Default: `text` alone."""
    filters: Annotated[tuple[Filter, ...], Field(max_length=32)] = ()
    """Rows must fit all of these. Default: none, which takes every row."""
    limit: Limit = Limit()
    """Takes only the beginning of the source. Default: no limit."""
    sample: Sampled = Sampled()
    """Takes a deterministic sample of the source. Default: every row."""
    unit: Unit = Unit()
    """The grain in which work is claimed and committed."""
    on_unreadable_file: OnUnreadableFile = OnUnreadableFile.FAIL
    """Fail stops the run with a list of the files that cannot be opened, Skip leaves them out and
    lists them in the manifest. Default: Fail."""
    max_document_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Longer documents are cut to this many tokens of the model; the cut is recorded with each
    sample. Absent: what the model's context leaves beside prompt and `maxTokens`."""
    storage: Storage = Storage()
    """How to reach the store. Default: as the cloud's own client would."""
    secret_ref: Annotated[SecretRef | None, CLUSTER_ONLY] = None
    """Secret with the credentials to read the source; its keys are named like the environment
    variables of the cloud's client. Absent: the service account's identity; on a laptop: the
    environment."""
