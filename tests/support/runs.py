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
    """2 files, 800 documents, 20 units, 2,400 samples, several groups of files."""
    _write(laptop, 400, 40, 4 * 1024, spec)


def large_run(laptop: Laptop, **spec: Any) -> None:  # noqa: ANN401 - YAML values
    """2 files, 20,000 documents, 40 units, 60,000 samples, several groups of files."""
    _write(laptop, 10_000, 500, 64 * 1024, spec)


def small_keys() -> Keys:
    """Every key of the small run."""
    return _keys(400)


def large_keys() -> Keys:
    """Every key of the large run."""
    return _keys(10_000)


def _write(
    laptop: Laptop, rows_per_file: int, unit: int, file_bytes: int, spec: Mapping[str, Any]
) -> None:
    if not laptop.source.exists():  # a file written anew is another one to a run that goes on
        write_corpus(laptop.source, files=2, rows_per_file=rows_per_file, row_group_rows=unit)
    base = {
        "source": {"unit": {"targetDocuments": unit}},
        "output": {"targetFileBytes": file_bytes},
    }
    laptop.write(a_manifest(**merged(base, spec)))


def _keys(rows_per_file: int) -> Keys:
    files = [f"source/part-{number}.parquet" for number in range(2)]
    samples = [(prompt, n) for prompt, rollouts in _ROLLOUTS.items() for n in range(rollouts)]
    return sorted(
        (file, row, *sample) for file, row, sample in product(files, range(rows_per_file), samples)
    )
