"""Runs of two sizes for the process tier, the same ones in every folder, so that results can be compared."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from support.corpora import write_corpus
from support.laptop import Laptop
from support.manifests import a_manifest, merged

Keys = list[tuple[str, int, str, int]]
_ROLLOUTS = {"brief": 1, "twice": 2}


def small_run(laptop: Laptop, **spec: Any) -> None:  # noqa: ANN401 - YAML values
    """2 files, 2,000 documents, 20 units, 6,000 samples, several groups of files."""
    write_corpus(laptop.source, files=2, rows_per_file=1000, row_group_rows=100)
    laptop.write(_manifest(100, 16 * 1024, spec))


def large_run(laptop: Laptop, **spec: Any) -> None:  # noqa: ANN401 - YAML values
    """2 files, 20,000 documents, 40 units, 60,000 samples, several groups of files."""
    write_corpus(laptop.source, files=2, rows_per_file=10_000, row_group_rows=500)
    laptop.write(_manifest(500, 64 * 1024, spec))


def small_keys() -> Keys:
    """Every key of the small run."""
    return _keys(1000)


def large_keys() -> Keys:
    """Every key of the large run."""
    return _keys(10_000)


def _manifest(unit: int, file_bytes: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    base = {
        "source": {"unit": {"targetDocuments": unit}},
        "output": {"targetFileBytes": file_bytes},
    }
    return a_manifest(**merged(base, spec))


def _keys(rows_per_file: int) -> Keys:
    files = [f"source/part-{number}.parquet" for number in range(2)]
    samples = [(prompt, n) for prompt, rollouts in _ROLLOUTS.items() for n in range(rollouts)]
    return sorted(
        (file, row, *sample) for file, row, sample in product(files, range(rows_per_file), samples)
    )
