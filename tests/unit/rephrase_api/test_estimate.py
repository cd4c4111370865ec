"""The estimator: what a run takes, what each figure rests on, and what is never guessed."""

from decimal import Decimal
from typing import Any

import pytest

from rephrase_api.benchmarks import BENCHMARKS, SOURCE, benchmark_of, missing_arguments
from rephrase_api.estimate import (
    START_SECONDS,
    Basis,
    Figure,
    Measured,
    PoolEstimate,
    Price,
    Shape,
    gpu_hours,
    in_pool,
    mean_output_tokens,
    output_tokens,
    prefill,
    rate,
    samples,
)
from rephrase_api.v1alpha1 import RephraseRunSpec
from support.looks import a_run
from support.manifests import BUILT_IN

SMOLLM = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
TUNED = [
    "--max-num-seqs=2048",
    "--max-num-batched-tokens=32768",
    "--gpu-memory-utilization=0.950",
    '--speculative-config={"num_speculative_tokens": 32, "method": "suffix"}',
]
THREE = Price(Decimal("3.00"), "pricePerGPUHour of the pool")


def a_spec(
    pool: dict[str, Any] | None = None,
    *,
    model: str = SMOLLM,
    args: list[str] | None = None,
    workers: int = 8,
    **more: Any,  # noqa: ANN401
) -> RephraseRunSpec:
    pools = [{"name": "p", "gpu": {"name": "H100"}, **(pool or {})}]
    base: dict[str, Any] = {
        "prompts": BUILT_IN,
        "model": {"name": model, "engine": {"args": args or []}},
        "workers": {"max": workers, "pools": pools},
    }
    return a_run(**(base | more)).spec


def a_shape(spec: RephraseRunSpec, documents: float = 1e7, units: int = 5000) -> Shape:
    return Shape(spec, Figure.exactly(documents, Basis.COUNTED, "footers"), units)


def estimated(
    spec: RephraseRunSpec,
    *,
    price: Price = THREE,
    measured: Measured | None = None,
    documents: float = 1e7,
    units: int = 5000,
) -> PoolEstimate:
    (pool,) = spec.pools()
    return in_pool(a_shape(spec, documents, units), pool, price, measured)


def of_run(**more: Any) -> Measured:  # noqa: ANN401
    base: dict[str, Any] = {"basis": Basis.RUN, "documents": 1000, "output_tokens": {"": 100.0}}
    return Measured(**(base | more))


def numbers(figure: Figure[Any]) -> tuple[Any, ...]:
    return figure.least, figure.likely, figure.most


# -- the figures of the paper --


def test_the_paper_s_run_comes_out_at_what_the_paper_says() -> None:
    hours = gpu_hours(486.4e9, 9200)

    assert int(hours) == 14_685
    assert round(hours * 3, -3) == 44_000


def test_ten_million_documents_in_four_formats_on_eight_h100() -> None:
    found = estimated(a_spec(args=TUNED))

    starts = 8 * START_SECONDS[1] / 3600
    assert output_tokens(a_shape(a_spec())).likely == 1e7 * (432 + 271 + 266 + 429)
    assert found.gpu_hours.likely == pytest.approx(842.4 + starts, abs=0.1)
    assert found.gpu_hours.least == pytest.approx(421.2, abs=0.1)
    assert found.gpu_hours.most == pytest.approx(1053.0 + 0.4, abs=0.1)
    assert found.money.likely == pytest.approx(Decimal(2528), abs=1)
    assert found.seconds.likely == pytest.approx(105.3 * 3600 + 64 + 606, rel=0.001)


def test_all_eighteen_models_are_in_the_table_once() -> None:
    assert len({row.model for row in BENCHMARKS}) == len(BENCHMARKS) == 18
    assert all(row.tuned.rate >= row.default.rate for row in BENCHMARKS)


@pytest.mark.parametrize(
    ("model", "row"),
    [
        (SMOLLM, "HuggingFaceTB/SmolLM2-1.7B"),
        ("google/gemma-3-1b-it", "google/gemma-3-1b"),
        ("google/gemma-3-270m-it", "google/gemma-3-270m"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("OpenAI/GPT-OSS-120b", "openai/gpt-oss-120b"),
        ("Qwen/Qwen3-8B-FP8", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("somebody/Qwen3-8B", None),
        ("Qwen3-8B", None),
        ("Qwen/Qwen3-8", None),
    ],
)
def test_a_model_of_the_hub_is_found_by_its_whole_name(model: str, row: str | None) -> None:
    found = benchmark_of(model, "H100")

    assert (found.model if found else None) == row


@pytest.mark.parametrize("gpu", ["A100", "L4", "H200", "H100-NVL", "H100-PCIe", "B200", ""])
def test_no_other_gpu_has_a_row(gpu: str) -> None:
    assert benchmark_of(SMOLLM, gpu) is None
    assert benchmark_of(SMOLLM, "NVIDIA-H100-80GB-HBM3") is not None


# -- what is not known --

UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "a GPU": ({"pool": {"gpu": {"name": "A100"}}}, f"nobody measured {SMOLLM} on A100"),
    "no GPU's name": ({"pool": {"gpu": {"count": 1}}}, "does not name its GPU"),
    "a CPU": ({"pool": {"gpu": {"count": 0, "name": "H100"}}}, "on a CPU"),
    "a model": ({"model": "meta-llama/Llama-3.2-1B"}, "nobody measured meta-llama/Llama-3.2-1B on"),
    "two GPUs a worker": (
        {"pool": {"gpu": {"name": "H100", "count": 2}}},
        "with workers of 1 GPUs, not of 2",
    ),
    "one of two GPUs used": (
        {"pool": {"gpu": {"name": "H100", "count": 2}}, "args": ["--tensor-parallel-size=1"]},
        "not of 2 with tensor-parallel size 1",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_nobody_measured_has_no_figure_but_a_remedy(case: str) -> None:
    spec, words = UNKNOWN[case]

    found = estimated(a_spec(**spec))

    for figure in (found.rate, found.gpu_hours, found.money, found.seconds):
        assert numbers(figure) == (None, None, None)
        assert figure.basis is Basis.UNKNOWN
        assert words in figure.source
        assert "run a canary" in figure.source


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"uri": "s3://models/SmolLM2-1.7B-Instruct"}, "a folder does not tell which model"),
        ({"name": SMOLLM, "quantization": "fp8"}, "as fp8"),
        ({"name": SMOLLM, "dtype": "float32"}, "as float32"),
        ({"name": "echo", "engine": {"type": "Echo"}}, "engine Echo"),
    ],
)
def test_a_model_that_is_not_surely_the_measured_one_has_no_rate(
    model: dict[str, Any], words: str
) -> None:
    spec = a_spec()
    changed = spec.to_api() | {"model": model}
    found = estimated(RephraseRunSpec.from_api(changed))

    assert found.rate.likely is None
    assert found.settings is None
    assert words in found.rate.source


def test_a_prompt_of_one_s_own_has_no_length_until_it_was_measured() -> None:
    own = {"name": "own", "template": "Say: [[DOCUMENT]]"}
    spec = a_spec(prompts=[BUILT_IN[0], own])

    unmeasured, measured = estimated(spec), estimated(spec, measured=of_run())

    assert numbers(unmeasured.gpu_hours) == (None, None, None)
    assert "nobody measured how long answers to own are: run a canary" in unmeasured.money.source
    assert unmeasured.rate.likely == 0.5 * 5255
    assert measured.gpu_hours.likely is not None


def test_without_a_price_money_is_unknown_and_never_nothing() -> None:
    found = estimated(a_spec(), price=Price(None, "pool p has no pricePerGPUHour"))

    assert numbers(found.money) == (None, None, None)
    assert found.money.source == "pool p has no pricePerGPUHour"
    assert found.gpu_hours.likely is not None
    assert estimated(a_spec(), price=Price(Decimal(0), "Reserved")).money.likely == 0


def test_a_pool_that_may_have_no_workers_takes_for_ever() -> None:
    for spec in (a_spec(workers=0), a_spec({"max": 0})):
        found = estimated(spec)
        assert found.seconds.likely is None
        assert found.money.likely is None
        assert "may have no workers" in found.seconds.source


# -- ranges and bases --


def test_every_figure_is_a_range_in_order_and_says_what_it_rests_on() -> None:
    found = estimated(a_spec())

    for figure in (found.rate, found.gpu_hours, found.money, found.seconds):
        least, likely, most = numbers(figure)
        assert 0 < least < likely < most
        assert figure.basis is Basis.TABLE
        assert figure.source
    assert SOURCE in found.rate.source


def test_the_rate_is_that_of_the_settings_that_the_manifest_has() -> None:
    (pool,) = a_spec().pools()

    assert rate(a_spec(), pool).most == 5255
    assert rate(a_spec(args=TUNED), pool).most == 9220
    assert rate(a_spec(args=TUNED[:3]), pool).most == 5255
    two = {"gpu": {"name": "H100", "count": 2}}
    big = a_spec(two, model="openai/gpt-oss-120b")
    assert "on 2 GPUs a worker only with --max-num-seqs=1024" in rate(big, big.pools()[0]).source
    tuned = a_spec(
        two,
        model="openai/gpt-oss-120b",
        args=["--max-num-seqs=1024", "--max-num-batched-tokens=32768"],
    )
    assert rate(tuned, tuned.pools()[0]).most == 6117


def test_the_pool_s_arguments_count_as_the_manifest_s() -> None:
    spec = a_spec({"engine": {"args": TUNED[1:]}}, args=TUNED[:1])

    found = estimated(spec)

    assert found.rate.most == 9220
    assert found.settings is not None
    assert found.settings.missing == ()


def test_settings_of_the_table_that_are_missing_are_named() -> None:
    found = estimated(a_spec(args=["--max-num-seqs=256", *TUNED[1:3]])).settings

    assert found is not None
    assert [argument.partition("=")[0] for argument in found.missing] == [
        "--max-num-seqs",
        "--speculative-config",
    ]
    assert found.source == SOURCE
    assert "ran out of memory" in found.caution


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (['--speculative-config={"method":"ngram","num_speculative_tokens":6,"x":1}'], True),
        (['--speculative-config={"method":"ngram"}'], False),
        (["--speculative-config=[]"], False),
        (["--speculative-config={"], False),
        (["--speculative-config"], False),
    ],
)
def test_arguments_in_json_are_compared_as_values(given: list[str], *, same: bool) -> None:
    wanted = ['--speculative-config={"method":"ngram","num_speculative_tokens":6}']

    assert (missing_arguments(wanted, given) == ()) is same


def test_what_was_measured_wins_over_the_table() -> None:
    seen = of_run(output_tokens={"": 100.0, "faq": 50.0}, tokens_per_second=800.0, gpu="H100")

    found = estimated(a_spec(), measured=Measured(**(fields(seen) | {"gpus": 1})))

    assert numbers(found.rate) == (800, 800, 800)
    assert found.rate.basis is Basis.RUN
    tokens = output_tokens(a_shape(a_spec()), seen)
    assert (tokens.likely, tokens.basis) == (1e7 * 350, Basis.RUN)
    assert found.gpu_hours.least == pytest.approx(1e7 * 350 / 800 / 3600, rel=0.001)


def test_a_rate_of_another_gpu_is_not_used_but_lengths_are() -> None:
    seen = of_run(tokens_per_second=800.0, gpu="L4", gpus=1)

    found = estimated(a_spec(), measured=seen)

    assert found.rate.basis is Basis.TABLE
    assert found.gpu_hours.most == pytest.approx(4e9 / 2102 / 3600, rel=0.01)


def test_the_rate_of_a_worker_is_shared_by_its_gpus() -> None:
    spec = a_spec({"gpu": {"name": "L4", "count": 4}})
    seen = of_run(basis=Basis.CANARY, tokens_per_second=800.0, gpu="L4", gpus=4)

    found = estimated(spec, measured=seen)

    assert (found.rate.likely, found.rate.basis) == (200, Basis.CANARY)
    assert found.gpu_hours.likely == pytest.approx(4e9 / 200 / 3600, rel=0.001)


def test_an_answer_is_no_longer_than_it_may_be() -> None:
    means = mean_output_tokens(a_spec(sampling={"maxTokens": 300}))

    assert {name: mean.likely for name, mean in means.items()} == {
        "faq": 300,
        "math": 271,
        "table": 266,
        "tutorial": 300,
    }
    assert means["faq"].basis is Basis.ASSUMPTION
    assert means["math"].basis is Basis.TABLE


def test_rollouts_count() -> None:
    spec = a_spec(prompts=[{**BUILT_IN[1], "rollouts": 3}])

    assert output_tokens(a_shape(spec, 10)).likely == 10 * 3 * 271
    assert samples(a_shape(spec, 10)).likely == 30


def test_no_more_workers_are_counted_than_there_are_units() -> None:
    found = estimated(a_spec(workers=64), documents=8000, units=4)

    assert found.workers == 4
    one = estimated(a_spec(workers=1), documents=8000, units=4)
    assert found.seconds.likely is not None
    assert one.seconds.likely is not None
    assert found.seconds.likely > one.seconds.likely / 4, "the last unit is one worker's"


def test_when_nothing_is_left_nothing_is_spent() -> None:
    found = estimated(a_spec(), documents=0, units=0)

    assert numbers(found.gpu_hours) == numbers(found.seconds) == (0, 0, 0)
    assert found.money.likely == 0


# -- the order of the prompt --


def test_the_document_first_saves_what_the_paper_s_figures_say() -> None:
    found = prefill(a_spec())

    assert found is not None
    assert (found.instruction_first, found.document_first) == (4 * 1148, 1448)
    assert found.basis is Basis.ASSUMPTION


def test_what_the_layout_saves_is_computed_from_measured_prompts() -> None:
    found = prefill(a_spec(), of_run(prompt_tokens=600.0))

    assert found is not None
    assert (found.instruction_first, found.document_first) == (2400, 900)
    assert found.basis is Basis.RUN


def test_documents_that_are_cut_save_less() -> None:
    found = prefill(a_spec(source={"uri": "x", "maxDocumentTokens": 500}))

    assert found is not None
    assert (found.instruction_first, found.document_first) == (2400, 900)


def test_one_prompt_and_prompts_of_one_s_own_share_nothing() -> None:
    own = {"name": "own", "template": "Say: [[DOCUMENT]]"}

    assert prefill(a_spec(prompts=[BUILT_IN[0], own])) is None


def fields(measured: Measured) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in Measured.__dataclass_fields__}
