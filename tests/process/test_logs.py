"""What driver and workers log: JSON lines with run, worker and unit, and never a word of a document."""

import json
from typing import Any

from support.corpora import rows, write_parquet
from support.laptop import Laptop
from support.manifests import a_manifest

WORDS = ("Zanzibar", "Prompting")
"""Of every document, and of the prompt; nothing else says them."""


def logged(laptop: Laptop, pattern: str) -> list[dict[str, Any]]:
    """Every line of some logs; one that is no JSON fails."""
    paths = sorted(laptop.state.glob(f"rephrase/*/*/{pattern}.log"))
    assert paths
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_each_unit_is_a_line_with_run_worker_and_unit_and_no_line_has_a_word_of_a_text(
    laptop: Laptop,
) -> None:
    documents = [row | {"text": f"{WORDS[0]}: {row['text']}"} for row in rows(120)]
    write_parquet(laptop.source / "docs.parquet", documents)
    prompt = {"name": "brief", "template": f"{WORDS[1]}: shorten.\n\n[[DOCUMENT]]"}
    model = {"engine": {"args": ["--output-tokens=16", "--fail-on=district 7 "]}}
    unit = {"unit": {"targetDocuments": 20}}
    laptop.write(
        a_manifest(
            prompts=[prompt],
            model=model,
            source=unit,
            retries={"maxFailedDocuments": {"share": "50%"}},
            observability={"logLevel": "Debug"},
        )
    )
    ended = laptop.run("--workers", "2")
    lines = logged(laptop, "worker-*")
    units = [line for line in lines if line["message"] == "unit committed"]

    assert ended.code == 0, ended.said
    assert laptop.record("_run/manifest.json")["counts"]["brief"]["failed"] > 0
    assert sorted(line["unit"] for line in units) == list(range(6))
    assert {line["run"] for line in units} == {"test"}
    assert all(line["worker"] and line["epoch"] and line["samples"] for line in units)
    workers = {line["slot"]: line["worker"] for line in units}
    assert len(set(workers.values())) == len(workers)
    everything = json.dumps([*lines, *logged(laptop, "driver*")])
    assert [word for word in WORDS if word in everything] == []
