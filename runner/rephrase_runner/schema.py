"""The one explicit schema of everything we write as Parquet: parts, checkpoints, data files, dead letters."""

import pyarrow as pa

from rephrase_api.errors import InvalidSpec

VERSION = 1
KEPT_PREFIX = "kept."

_OUTPUT = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("prompt", pa.string(), nullable=False),
    pa.field("source_id", pa.string(), nullable=False),
    pa.field("source_file", pa.string(), nullable=False),
    pa.field("source_row", pa.int64(), nullable=False),
    pa.field("rollout", pa.int32(), nullable=False),
    pa.field("finish_reason", pa.string(), nullable=False),
    pa.field("prompt_tokens", pa.int32(), nullable=False),
    pa.field("completion_tokens", pa.int32(), nullable=False),
    pa.field("truncated", pa.bool_(), nullable=False),
    pa.field("flags", pa.list_(pa.string()), nullable=False),
    pa.field("attempt_seed", pa.int64()),
]
_OUTCOME = [
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("message", pa.string(), nullable=False),
    pa.field("attempts", pa.int32(), nullable=False),
    pa.field("file", pa.int32(), nullable=False),
    pa.field("notes", pa.map_(pa.string(), pa.int32()), nullable=False),
]
DEAD_LETTER = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("rollout", pa.int32(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)
SOURCE_TEXT = pa.field("source_text", pa.string())
RESERVED = frozenset([field.name for field in _OUTPUT] + [SOURCE_TEXT.name])


_SELDOM_TWICE = {"id", "text", "source_id", "source_row", "attempt_seed", "source_text"}


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """Columns to write with a dictionary, by their Parquet paths: those whose values repeat.

    Of the others, text above all, a dictionary costs time and memory and saves nothing.
    """
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
        if field.name not in _SELDOM_TWICE
    ]


def part_schema(kept: pa.Schema) -> pa.Schema:
    """Schema of parts and checkpoints: one row per sample, whatever became of it.

    Kept columns carry a prefix here, so that no name of the user's can meet one of ours.
    `source_text` is always present and all null unless it was asked for.
    """
    columns = [field.with_name(KEPT_PREFIX + field.name) for field in kept]
    return pa.schema([*_OUTPUT, *_OUTCOME, SOURCE_TEXT, *columns])


def output_schema(kept: pa.Schema, *, include_source_text: bool) -> pa.Schema:
    """Schema of `data/<prompt>/part-*.parquet`: our columns, the kept ones, the source text if asked for."""
    extra = [SOURCE_TEXT] if include_source_text else []
    return pa.schema([*_OUTPUT, *kept, *extra])


def check_kept(names: list[str]) -> None:
    """Refuse kept columns whose name the output needs itself.

    Raises:
        InvalidSpec: names them all.
    """
    taken = sorted(set(names) & RESERVED)
    if taken:
        raise InvalidSpec(
            f"{', '.join(taken)}: the output has columns of that name",
            where="spec.source.columns.keep",
            remedy=(
                "Leave them out: the id column becomes source_id, and output.includeSourceText "
                "keeps the text."
            ),
        )
