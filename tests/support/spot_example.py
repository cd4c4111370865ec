"""examples/s3-spot-gpu.yaml where there is no cloud: its buckets, and what is changed of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.corpora import rows, write_parquet
from support.s3 import S3

NAME = "s3-spot-gpu.yaml"
SOURCE, OUTPUT = "corpus", "synthetic"
"""Its buckets."""
_TAKEN = [f"CC-MAIN-2024-{week}/part-0.parquet" for week in (10, 18)]
_LEFT_OUT = ("CC-MAIN-2023-50/part-0.parquet", "CC-MAIN-2024-10/part-0.txt")
"""By `include`."""


def in_bucket(endpoint: str, bucket: str) -> S3:
    """A bucket of the example on a server."""
    return S3(endpoint, bucket, {SOURCE: "fineweb-edu", OUTPUT: "faq-math"}[bucket])


def changes(endpoint: str, *echo: str) -> Mapping[str, str]:
    """What is another here: the server that has the buckets, and the engine.

    Args:
        endpoint: of the server.
        echo: arguments of the engine.
    """
    vllm = "type: VLLM\n      args: [--max-num-seqs=256, --gpu-memory-utilization=0.92]"
    place = f"{{endpoint: {endpoint!r}, region: eu-central-1, allowHTTP: true}}"
    return {
        "storage: {region: eu-central-1}": f"storage: {place}",
        vllm: f"type: Echo\n      args: [{', '.join(echo)}]",
    }


def fill(endpoint: str, folder: Path, documents: int) -> list[dict[str, Any]]:
    """Make the buckets, and a source beside which lies what is none of it; returns the rows that fit.

    Args:
        endpoint: of an S3 server that no other test uses.
        folder: for files on their way.
        documents: of the files that the example includes.
    """
    store = in_bucket(endpoint, SOURCE)
    for bucket in (SOURCE, OUTPUT):
        store.client().create_bucket(Bucket=bucket)
    found = [row | {"score": float(number % 5)} for number, row in enumerate(rows(documents))]
    half = documents // 2
    parts = dict(zip(_TAKEN, (found[:half], found[half:]), strict=True))
    others = {name: [row | {"score": 5.0} for row in rows(10)] for name in _LEFT_OUT}
    for name, part in (parts | others).items():
        path = write_parquet(folder / name, part)
        key = f"{store.prefix}/data/{name}"
        store.client().upload_file(Filename=str(path), Bucket=SOURCE, Key=key)
    return [row for row in found if row["score"] >= 3]
