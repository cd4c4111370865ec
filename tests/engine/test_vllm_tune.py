"""Settings of a real vLLM, which alone knows whether they are right and work."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.corpora import write_corpus
from support.laptop import Laptop
from support.manifests import a_manifest


@pytest.mark.full
def test_settings_of_vllm_are_tried_on_the_runs_own_documents(model: Path, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)
    write_corpus(laptop.source, files=1, rows_per_file=60, row_group_rows=60)
    engine = {"type": "VLLM", "args": ["--enforce-eager", "--max-num-seqs=2"]}
    laptop.write(
        a_manifest(
            model={"name": None, "uri": str(model), "maxModelLength": 512, "engine": engine},
            sampling={"maxTokens": 24, "temperature": 0, "seed": None},
        )
    )

    ended = laptop.rephrase("tune", "run.yaml", "--json", "--minutes=8", "--window=5", within=550)

    assert ended.code == 0, ended.said
    own, *others = json.loads(ended.out)["trials"]
    assert own["args"] == engine["args"]
    assert own["tokensPerSecond"] > 0
    assert own["startSeconds"] > 1
    assert any(one["tokensPerSecond"] for one in others), others
    assert not laptop.output.exists()
    assert laptop.processes() == []


@pytest.mark.full
def test_a_run_with_a_wrong_argument_ends_before_a_model_is_loaded_and_goes_on_with_a_right_one(
    model: Path, tmp_path: Path
) -> None:
    laptop = Laptop(tmp_path)
    write_corpus(laptop.source, files=1, rows_per_file=3, row_group_rows=3)

    def manifest(argument: str) -> dict[str, Any]:
        engine = {"type": "VLLM", "args": ["--enforce-eager", argument]}
        return a_manifest(
            model={"name": None, "uri": str(model), "maxModelLength": 512, "engine": engine},
            sampling={"maxTokens": 8, "seed": None},
        )

    laptop.write(manifest("--max-num-sequences=2"))
    refused = laptop.run(within=200)
    assert refused.code == 64, refused.said
    assert "unrecognized arguments: --max-num-sequences=2" in refused.err

    laptop.write(manifest("--max-num-seqs=2"))
    assert laptop.run(within=300).code == 0
