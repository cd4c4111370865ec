"""What a spec leaves open is looked up once: in the model's own files, else neutral."""

import json
from pathlib import Path
from typing import Any

import pytest

from rephrase_api.errors import InvalidModel, InvalidSpec
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_runner.preflight import NEUTRAL, Mounted, resolve
from rephrase_runner.records import Resolved
from support.manifests import BRIEF, TWICE, a_manifest

GENERATION = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "bos_token_id": 1}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    (tmp_path / "generation_config.json").write_text(json.dumps(GENERATION))
    return tmp_path


async def resolved(
    folder: Path,
    *,
    context: int | None = None,
    **spec: Any,  # noqa: ANN401 - YAML values
) -> Resolved:
    here = {"name": None, "uri": str(folder), "engine": None, "maxModelLength": context}
    run = RephraseRun.from_file(a_manifest(**{"sampling": {"seed": None}} | {"model": here} | spec))
    return await resolve(run.spec, engine_here=False, mounted=Mounted())


async def test_what_the_spec_leaves_open_is_the_models_own_and_else_neutral(model: Path) -> None:
    found = await resolved(model, sampling={"temperature": 0.1, "maxTokens": 300})

    assert found.max_model_length == 4096
    for prompt in found.prompts:
        assert prompt.sampling == NEUTRAL | {
            "temperature": 0.1,
            "top_k": 20,
            "top_p": 0.95,
            "max_tokens": 300,
            "stop": [],
        }


async def test_a_prompt_may_have_settings_of_its_own(model: Path) -> None:
    own = BRIEF | {"sampling": {"topK": 0, "stop": ["##"]}}

    found = await resolved(model, prompts=[TWICE, own])

    brief, twice = found.prompts
    assert (brief.name, brief.sampling["top_k"], brief.sampling["stop"]) == ("brief", 0, ["##"])
    assert (twice.name, twice.sampling["top_k"], twice.rollouts) == ("twice", 20, 2)


async def test_a_model_without_settings_of_its_own_is_asked_neutrally(model: Path) -> None:
    (model / "generation_config.json").unlink()

    (brief, _) = (await resolved(model)).prompts

    assert {name: brief.sampling[name] for name in NEUTRAL} == NEUTRAL


async def test_the_specs_context_goes_before_the_models(model: Path) -> None:
    found = await resolved(model, context=3000)

    assert found.max_model_length == 3000
    with pytest.raises(InvalidSpec, match="leaves no room for a document"):
        await resolved(model, sampling={"maxTokens": 4096})


async def test_files_of_a_model_that_cannot_be_read_are_named(model: Path) -> None:
    (model / "generation_config.json").write_text("{")

    with pytest.raises(InvalidModel, match=r"generation_config\.json: not JSON"):
        await resolved(model)
