"""Make the demo's source: the Python manual's help topics as Parquet, text that every Python ships.

python examples/demo/source.py FOLDER [--documents 16]
"""

import argparse
import pydoc_data.topics
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SHORTEST, LONGEST = 1_000, 4_000
"""Characters: a paragraph or two at least, and no more than a small CPU reads in a moment."""


def documents(count: int) -> pa.Table:
    """The first `count` topics of a middle length, with an id and the page they are from."""
    topics = pydoc_data.topics.topics
    chosen = [name for name in sorted(topics) if SHORTEST <= len(topics[name]) <= LONGEST][:count]
    if len(chosen) < count:
        raise SystemExit(f"only {len(chosen)} topics of this length, {count} asked for")
    return pa.table(
        {
            "id": [f"python/{name}" for name in chosen],
            "text": [topics[name].strip() for name in chosen],
            "url": [f"https://docs.python.org/3/search.html?q={name}" for name in chosen],
        }
    )


def main() -> None:
    """Write one Parquet file, always the same for one Python."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=16)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    target = options.folder / "topics.parquet"
    table = documents(options.documents)
    if not target.exists() or pq.read_table(target) != table:  # a new file would be a new source
        pq.write_table(table, target)
    print(target)


if __name__ == "__main__":
    main()
