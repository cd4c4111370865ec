"""What vLLM refuses before it loads anything."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rephrase_api.errors import AccessRefused, InvalidModel, InvalidSpec
from rephrase_runner.engines import EngineSettings, build, check, installed
from rephrase_runner.engines.vllm_engine import _cannot_speculate

pytestmark = pytest.mark.filterwarnings("default")  # of vLLM, at import


def settings(*args: str, model: Path | str = "m", uses_seeds: bool = False) -> EngineSettings:
    return EngineSettings("VLLM", model=str(model), args=args, uses_seeds=uses_seeds)


def test_vllm_is_installed_here() -> None:
    assert installed("VLLM")


def test_arguments_for_speed_are_accepted_without_a_model() -> None:
    check(settings("--max-num-seqs=256", "--gpu-memory-utilization=0.92", "--enforce-eager"))


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("--max-num-sequences=1", "unrecognized arguments: --max-num-sequences=1"),
        ("--max-num-seq=1", "unrecognized arguments: --max-num-seq=1"),
        ("--max-num-seqs=many", "argument --max-num-seqs: invalid int value: 'many'"),
        ("--max-num-seqs", "argument --max-num-seqs: expected one argument"),
        ("--port=80", "unrecognized arguments: --port=80"),
        ("--help", "unrecognized arguments: --help"),
    ],
)
def test_a_wrong_argument_is_refused_in_vllms_words(argument: str, what: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check(settings(argument))

    assert (refused.value.what, refused.value.where) == (what, "spec.model.engine.args")


def test_a_value_out_of_bounds_is_refused_before_the_model_is_loaded(model: Path) -> None:
    with pytest.raises(
        InvalidSpec, match=r"engine\.args: vLLM refuses the arguments: max_num_seqs: "
    ):
        build(settings("--max-num-seqs=-1", "--max-num-batched-tokens=512", model=model))


@pytest.mark.parametrize(
    "argument", ["--enable-chunked-prefill", "--long-prefill-token-threshold=64"]
)
def test_on_a_cpu_seeds_do_not_go_with_prefills_in_parts(argument: str) -> None:
    check(settings(argument))

    with pytest.raises(InvalidSpec, match=r"spec\.sampling\.seed: vLLM on a CPU cannot use seeds"):
        check(settings(argument, uses_seeds=True))


@pytest.mark.parametrize(
    ("method", "uses_min_p", "reason"),
    [
        ("ngram", False, ""),
        ("ngram", True, "min_p"),
        ("suffix", False, "arctic-inference"),
    ],
)
def test_speculation_that_vllm_cannot_do_here_is_left_aside(
    method: str, *, uses_min_p: bool, reason: str
) -> None:
    config = {"method": method, "num_speculative_tokens": 6}

    found = _cannot_speculate(config, uses_min_p=uses_min_p)

    assert reason in found
    assert bool(found) == bool(reason)
    assert _cannot_speculate(None, uses_min_p=True) == ""


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=rf"there is no model in {tmp_path} \(no config\.json\)"):
        build(settings(model=tmp_path))


def test_a_context_longer_than_the_models_is_an_invalid_model(model: Path) -> None:
    too_long = replace(settings(model=model), max_model_length=100_000)

    with pytest.raises(InvalidModel, match=r"max_model_len \(100000\) is greater than the derived"):
        build(too_long)


def test_an_unknown_quantization_is_an_invalid_model(model: Path) -> None:
    with pytest.raises(InvalidModel, match="Unknown quantization method: bogus"):
        build(replace(settings(model=model), quantization="bogus"))


def test_a_model_that_is_not_in_the_cache_while_the_hub_is_out_of_reach_is_access_refused() -> None:
    with pytest.raises(AccessRefused, match="the hub cannot be reached, and nobody/nothing is not"):
        build(settings(model="nobody/nothing"))


def test_a_model_without_a_chat_template_is_refused_before_its_weights_are_loaded(
    model: Path, tmp_path: Path
) -> None:
    for file in model.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, tmp_path)

    with pytest.raises(InvalidModel, match="it has no chat template"):
        build(settings(model=tmp_path))
