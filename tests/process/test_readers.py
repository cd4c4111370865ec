"""Every tool for datasets reads the output as it lies: the rewrite in `text`, a config for each prompt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.pipeline.readers import ParquetReader

from support import corpora
from support.laptop import Laptop, tree
from support.manifests import BUILT_IN, a_manifest

PROMPTS = [prompt["name"] for prompt in BUILT_IN]
SOURCE = corpora.rows(2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """Two documents rewritten with the four built-in prompts."""
    machine = Laptop(tmp_path_factory.mktemp("readers"))
    corpora.write_parquet(machine.source / "docs.parquet", SOURCE)
    machine.write(a_manifest(prompts=BUILT_IN))
    ended = machine.run()
    assert ended.code == 0, ended.said
    return machine


@pytest.fixture(scope="module")
def expected(finished: Laptop) -> dict[str, str]:
    """Rewrites of the prompt faq by id, as pyarrow reads them."""
    table = pq.read_table(finished.output / "data" / "faq")
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def test_text_is_the_rewrite_and_the_row_says_what_it_was_made_from(finished: Laptop) -> None:
    found = finished.samples("faq").to_pylist()

    assert [row["source_id"] for row in found] == ["doc-0", "doc-1"]
    assert [row["source_row"] for row in found] == [0, 1]
    assert {row["source_file"] for row in found} == {"source/docs.parquet"}
    assert [row["url"] for row in found] == [row["url"] for row in SOURCE]
    for row, source in zip(found, SOURCE, strict=True):
        assert row["text"].strip()
        assert row["text"] not in source["text"]
        assert source["text"] not in row["text"]
        assert row["completion_tokens"] > 0


def test_each_prompt_has_its_own_rewrites_under_ids_of_their_own(finished: Laptop) -> None:
    found = finished.samples(*PROMPTS).to_pylist()

    assert len(found) == 8
    assert len({row["id"] for row in found}) == 8
    assert len({row["text"] for row in found}) == 8


def test_the_output_holds_the_data_a_card_a_report_and_the_ledger_and_nothing_else(
    finished: Laptop,
) -> None:
    there = sorted(path.name for path in finished.output.iterdir())
    assert there == ["README.md", "_run", "data", "report.html"]
    assert sorted(tree(finished.output / "data")) == [
        f"{prompt}/part-00000.parquet" for prompt in sorted(PROMPTS)
    ]


def test_the_schema_is_the_documented_one(finished: Laptop) -> None:
    schema = pq.read_schema(finished.output / "data" / "faq" / "part-00000.parquet")

    assert schema.remove_metadata() == pa.schema(
        [
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
            pa.field("url", pa.string()),
        ]
    )


def test_duckdb_reads_it(finished: Laptop, expected: dict[str, str]) -> None:
    found = duckdb.read_parquet(f"{finished.output}/data/faq/*.parquet")

    assert dict(found.project("id, text").fetchall()) == expected


def test_duckdb_reads_all_prompts_at_once(finished: Laptop) -> None:
    found = duckdb.read_parquet(f"{finished.output}/data/**/*.parquet")

    assert dict(found.aggregate("prompt, count(*)").fetchall()) == dict.fromkeys(PROMPTS, 2)


def test_polars_reads_it(finished: Laptop, expected: dict[str, str]) -> None:
    found = polars.scan_parquet(finished.output / "data/faq/*.parquet").collect()

    assert dict(zip(found["id"], found["text"], strict=True)) == expected


def test_datasets_loads_each_prompt_by_its_name(
    finished: Laptop, expected: dict[str, str], tmp_path: Path
) -> None:
    # a process of its own, since `datasets` takes its folders from the environment when imported
    script = """if True:
        import json, sys
        from datasets import get_dataset_config_names, load_dataset
        rows = load_dataset(sys.argv[1], "faq", split="train")
        print(json.dumps([get_dataset_config_names(sys.argv[1]), rows.column_names, rows.to_list()]))
    """
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}

    loaded = subprocess.run(
        [sys.executable, "-c", script, finished.output],
        env=offline,
        capture_output=True,
        check=True,
    )

    names, columns, rows = json.loads(loaded.stdout)
    assert sorted(names) == sorted(PROMPTS)
    assert columns[-1] == "url"
    assert {row["id"]: row["text"] for row in rows} == expected


def test_datatrove_reads_the_rewrite_as_the_text_of_a_document(
    finished: Laptop, expected: dict[str, str]
) -> None:
    documents = list(ParquetReader(str(finished.output / "data" / "faq")).run())

    assert {document.id: document.text for document in documents} == expected
    assert {document.metadata["url"] for document in documents} == {row["url"] for row in SOURCE}
