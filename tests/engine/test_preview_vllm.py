"""`rephrase preview` of two real models in one command: one that can write, and one made at random."""

import json
import shutil
from pathlib import Path

import pytest

from support.corpora import write_corpus
from support.laptop import Laptop
from support.manifests import BUILT_IN, a_manifest

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def tiny(model: Path, tmp_path: Path) -> Path:
    """A model of the same family with two small layers and weights drawn by chance."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "tiny"
    config = AutoConfig.from_pretrained(
        model,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
    )
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for file in model.iterdir():
        if file.name != "config.json" and file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
    return folder


def test_three_documents_four_prompts_and_two_models_in_one_command(
    laptop: Laptop, model: Path, tiny: Path
) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=20, row_group_rows=10)
    laptop.write(
        a_manifest(
            prompts=BUILT_IN,
            promptLayout="DocumentFirst",
            model={
                "name": None,
                "uri": str(model),
                "maxModelLength": 1024,
                "engine": {"type": "VLLM", "args": ["--enforce-eager", "--max-num-seqs=16"]},
            },
            sampling={"maxTokens": 48, "seed": None},
        )
    )

    ended = laptop.rephrase(
        *("preview", "run.yaml", "--model", str(tiny), "--html", "look.html", "--json"),
        environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
        within=800,
    )

    assert ended.code == 0, ended.said
    first, second = json.loads(ended.out)["models"]
    page = (laptop.folder / "look.html").read_text()
    assert (first["model"], second["model"]) == (str(model), str(tiny))
    for made in (first, second):
        assert len(made["samples"]) == 3 * 4
        assert {one["status"] for one in made["samples"]} == {"written"}
        assert page.count(f"<h4>{made['model']} ") == 3 * 4
    assert {one["text"] for one in first["samples"]}.isdisjoint(
        {one["text"] for one in second["samples"]}
    )
    assert not laptop.output.exists()
