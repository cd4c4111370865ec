import pytest
from pydantic import ValidationError

from rephrase_api.v1alpha1 import (
    Engine,
    LanguageModel,
    MaxFailedDocuments,
    Output,
    Pool,
    Prompt,
    RephraseRunSpec,
    RephraseRunStatus,
    Sampling,
    SamplingOverrides,
    Source,
    Workers,
)
from rephrase_api.v1alpha1.base import camel


def a_spec(*, engine: str = "VLLM", pools: tuple[Pool, ...] = ()) -> RephraseRunSpec:
    return RephraseRunSpec(
        source=Source(uri="corpus"),
        prompts=(Prompt(name="faq", built_in="faq"),),
        model=LanguageModel.from_api({"name": "a/b", "engine": {"type": engine}}),
        output=Output(uri="rewritten"),
        workers=Workers(pools=pools),
    )


@pytest.mark.parametrize(
    ("attribute", "key"),
    [
        ("max_tokens", "maxTokens"),
        ("open_ai", "openAI"),
        ("base_url", "baseURL"),
        ("allow_http", "allowHTTP"),
        ("price_per_gpu_hour", "pricePerGPUHour"),
        ("api_key_secret_ref", "apiKeySecretRef"),
        ("gpu", "gpu"),
        ("uri", "uri"),
    ],
)
def test_keys_are_camel_case_with_initialisms_in_capitals(attribute: str, key: str) -> None:
    assert camel(attribute) == key


def test_a_spec_survives_the_way_to_the_api_server_and_back() -> None:
    pool = Pool(name="spot", price_per_gpu_hour="1.95", pod_template={"spec": {"a": [1]}})
    spec = a_spec(pools=(pool,))

    assert RephraseRunSpec.from_file(spec.to_api()) == spec
    assert spec.to_api()["workers"]["pools"][0]["pricePerGPUHour"] == "1.95"  # type: ignore[index]


def test_a_file_with_an_unknown_key_is_refused_and_an_object_of_the_server_is_not() -> None:
    with pytest.raises(ValidationError):
        Engine.from_file({"type": "Echo", "new": 1})

    assert Engine.from_api({"type": "Echo", "new": 1}).type == "Echo"


def test_attribute_names_are_no_keys_of_a_file() -> None:
    with pytest.raises(ValidationError):
        Sampling.from_file({"max_tokens": 1})


def test_nothing_is_converted_that_the_api_server_would_refuse() -> None:
    for value in ("5", 5.5, True, None):
        with pytest.raises(ValidationError):
            Sampling.from_file({"maxTokens": value})


def test_models_are_immutable() -> None:
    with pytest.raises(ValidationError):
        Sampling().max_tokens = 1  # type: ignore[misc]


def test_without_pools_there_is_one_that_fits_the_engine() -> None:
    gpus = {}
    for engine in ("VLLM", "OpenAI", "Echo"):
        (pool,) = a_spec(engine=engine).pools()
        assert pool.gpu is not None
        gpus[engine] = (pool.name, pool.gpu.count)

    assert gpus == {"VLLM": ("default", 1), "OpenAI": ("default", 0), "Echo": ("default", 0)}


def test_a_pool_keeps_the_gpus_it_names() -> None:
    given = Pool.from_file({"name": "big", "gpu": {"count": 8}})

    assert a_spec(engine="Echo", pools=(given,)).pools() == (given,)


def test_a_prompt_replaces_only_the_sampling_parameters_it_sets() -> None:
    run = Sampling(temperature=0.7, top_p=0.9, max_tokens=100, stop=("a",), seed=1)
    own = Prompt(
        name="a", built_in="faq", sampling=SamplingOverrides(temperature=0, max_tokens=50, stop=())
    )

    assert run.for_prompt(own) == Sampling(temperature=0, top_p=0.9, max_tokens=50, stop=(), seed=1)
    assert run.for_prompt(Prompt(name="b", built_in="faq")) == run


@pytest.mark.parametrize(
    ("failed", "done", "exceeded"),
    [(100, 100, False), (101, 200, True), (101, 100_000, False), (1001, 100_000, True)],
)
def test_a_run_stops_when_more_failed_than_both_limits_allow(
    failed: int, done: int, *, exceeded: bool
) -> None:
    assert MaxFailedDocuments(share="1%", count=100).exceeded_by(failed, done) is exceeded


def test_a_status_of_a_newer_operator_can_be_read() -> None:
    status = RephraseRunStatus.from_api(
        {
            "phase": "Hibernating",
            "conditions": [
                {
                    "type": "Hibernating",
                    "status": "True",
                    "reason": "TooCold",
                    "lastTransitionTime": "2026-11-23T08:06:10Z",
                }
            ],
        }
    )

    assert status.conditions[0].reason == "TooCold"
