"""Samples to the bytes of parts and checkpoints, and back. Deterministic: same samples, same bytes."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rephrase_runner.rows import Key, Sample, Status
from rephrase_runner.schema import KEPT_PREFIX, VERSION, dictionary_columns, part_schema
from rephrase_runner.seeds import sample_id

FOOTER = b"rephrase"
_RANK = {Status.WRITTEN: 0, Status.SKIPPED: 1, Status.FAILED: 2}


class UnreadablePart(Exception):
    """These bytes are not a part or checkpoint of ours."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The footer of a part or checkpoint: what it belongs to. Others' objects are recognized by it."""

    run: str
    unit: int
    plan: str
    etag: str
    filtered: int | None = None


def encode(
    samples: Iterable[Sample], *, origin: Origin, kept: pa.Schema, source_files: Sequence[str]
) -> bytes:
    """Samples as Parquet bytes, in source order: by row, then prompt, then rollout.

    Args:
        samples: any order, keys distinct.
        origin: what they belong to; goes into the footer.
        kept: schema of the kept columns, as planned.
        source_files: names of the plan's files, by index.
    """
    ordered = sorted(samples, key=attrgetter("key"))
    schema = part_schema(kept)
    keys = [sample.key for sample in ordered]
    names = [source_files[key.file] for key in keys]
    columns: dict[str, Sequence[Any]] = {
        "id": [
            sample_id(name, key.row, key.prompt, key.rollout)
            for name, key in zip(names, keys, strict=True)
        ],
        "text": [s.text for s in ordered],
        "prompt": [key.prompt for key in keys],
        "source_id": [s.source_id for s in ordered],
        "source_file": names,
        "source_row": [key.row for key in keys],
        "rollout": [key.rollout for key in keys],
        "finish_reason": [s.finish_reason for s in ordered],
        "prompt_tokens": [s.prompt_tokens for s in ordered],
        "completion_tokens": [s.completion_tokens for s in ordered],
        "truncated": [s.truncated for s in ordered],
        "flags": [s.flags for s in ordered],
        "attempt_seed": [s.attempt_seed for s in ordered],
        "status": [s.status for s in ordered],
        "reason": [s.reason for s in ordered],
        "message": [s.message for s in ordered],
        "attempts": [s.attempts for s in ordered],
        "file": [key.file for key in keys],
        "notes": [tuple(s.notes.items()) for s in ordered],
        "source_text": [s.source_text for s in ordered],
    }
    for field in kept:
        columns[KEPT_PREFIX + field.name] = [s.kept.get(field.name) for s in ordered]
    footer = {
        "schema": VERSION,
        "run": origin.run,
        "unit": origin.unit,
        "plan": origin.plan,
        "etag": origin.etag,
        "filtered": origin.filtered,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    table = pa.Table.from_arrays(
        arrays, schema=schema.with_metadata({FOOTER: json.dumps(footer, sort_keys=True).encode()})
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=dictionary_columns(schema),
        store_schema=True,
    )
    return bytes(sink.getvalue())


def origin_of(metadata: dict[bytes, bytes] | None) -> Origin:
    """The footer of a part.

    Raises:
        UnreadablePart: there is none, or it is of another schema.
    """
    try:
        footer = json.loads((metadata or {})[FOOTER])
        if footer["schema"] != VERSION:
            raise UnreadablePart(f"schema {footer['schema']}, expected {VERSION}")
        return Origin(
            footer["run"], footer["unit"], footer["plan"], footer["etag"], footer.get("filtered")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadablePart("no footer of ours") from error


def read_table(data: bytes, columns: Sequence[str] | None = None) -> tuple[Origin, pa.Table]:
    """A part's footer and rows: all of its columns, or these (and any whose name begins with one and a dot).

    Raises:
        UnreadablePart: not Parquet, damaged, or not ours.
    """
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadablePart(str(error)) from error
    return origin_of(table.schema.metadata), table


def decode(data: bytes) -> tuple[Origin, list[Sample]]:
    """The samples of a part or checkpoint, in its order.

    Raises:
        UnreadablePart: not Parquet, damaged, or not ours.
    """
    origin, table = read_table(data)
    kept = [name for name in table.column_names if name.startswith(KEPT_PREFIX)]
    samples = [
        Sample(
            key=Key(row["file"], row["source_row"], row["prompt"], row["rollout"]),
            source_id=row["source_id"],
            status=Status(row["status"]),
            text=row["text"],
            finish_reason=row["finish_reason"],
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            truncated=row["truncated"],
            flags=tuple(row["flags"]),
            attempt_seed=row["attempt_seed"],
            reason=row["reason"],
            message=row["message"],
            attempts=row["attempts"],
            kept={name.removeprefix(KEPT_PREFIX): row[name] for name in kept},
            source_text=row["source_text"],
            notes=dict(row.get("notes") or ()),  # earlier versions wrote none
        )
        for row in table.to_pylist()
    ]
    return origin, samples


def merge(checkpoints: Iterable[tuple[str, Iterable[Sample]]]) -> dict[Key, Sample]:
    """One sample per key out of several checkpoints, whatever their epochs (ledger hole 6).

    Written goes before skipped before failed; of equals the one from the smallest object name, so
    that everybody who reads the same objects keeps the same sample.
    """
    best: dict[Key, Sample] = {}
    for _, samples in sorted(checkpoints, key=lambda named: named[0]):
        for sample in samples:
            known = best.get(sample.key)
            if known is None or _RANK[sample.status] < _RANK[known.status]:
                best[sample.key] = sample
    return best


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
