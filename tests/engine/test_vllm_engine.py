"""The engine suite and what is particular to vLLM, with one load of the model for the whole module.

The last test uses the engine up.
"""

import asyncio
import inspect
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rephrase_api.names import label_value
from rephrase_api.presets import presets
from rephrase_api.v1alpha1.generation import PromptLayout
from rephrase_runner.engines import EngineSettings, build
from rephrase_runner.engines.base import Completion, Engine, EngineDead, Request
from rephrase_runner.engines.vllm_engine import VLLMEngine
from rephrase_runner.engines.vllm_metrics import PASSED_ON, passed_on
from rephrase_runner.prompts import compile_prompts, compose
from rephrase_runner.records import ResolvedPrompt
from rephrase_runner.truncate import encode_head
from support.engine_suite import DOCUMENT, GREEDY, EngineSuite, a_request, answer, answers
from support.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # of vLLM
]

LONG = replace(GREEDY, max_tokens=1000)
CACHE_BLOCKS = 46
"""Of 128 tokens: more than the context, fewer than a dozen long prompts need."""


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    settings = EngineSettings(
        "VLLM",
        model=str(model),
        max_model_length=4096,
        args=("--max-num-seqs=64", "--enforce-eager", f"--num-gpu-blocks-override={CACHE_BLOCKS}"),
        uses_seeds=True,
    )
    with ThreadPoolExecutor(1) as thread:  # which ends before the engine is used, as in a worker
        built = thread.submit(build, settings).result()
    yield built
    built.close()


class TestVLLM(EngineSuite):
    pass


def processes_of(engine: Engine) -> list[psutil.Process]:
    """EngineCore and its workers, the core first."""
    cores = [child for child in psutil.Process().children() if child.name().startswith("VLLM")]
    return [*cores, *(worker for core in cores for worker in core.children())]


def passed() -> dict[str, float]:
    """The samples that are passed on, by name."""
    samples = [sample for family in passed_on() for sample in family.samples]
    assert len(samples) == len({sample.name for sample in samples})
    return {sample.name: sample.value for sample in samples}


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that ended and that nobody has waited for yet holds nothing."""
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


async def in_flight(engine: Engine, count: int) -> None:
    assert isinstance(engine, VLLMEngine)
    await eventually(
        lambda: engine._engine.get_num_unfinished_requests() == count, f"{count} in flight"
    )


async def test_context_and_requests_in_flight_are_what_the_settings_say(engine: Engine) -> None:
    assert engine.context_tokens == 4096
    await eventually(lambda: engine.max_in_flight == 64 + 32, "nothing is in its cache")


async def test_all_metrics_that_are_passed_on_are_there_one_series_each(
    engine: Engine, model: Path
) -> None:
    from vllm.v1.spec_decode import metrics as of_speculation

    finished, tokens = "vllm:e2e_request_latency_seconds_count", "vllm:generation_tokens_total"
    before = passed()
    outcome = await answer(engine, a_request(engine))
    await eventually(lambda: passed()[finished] > before.get(finished, 0), "it is counted")
    speculation = {name for name in PASSED_ON if "spec_decode" in name}
    source = inspect.getsource(of_speculation)

    assert passed().keys() == PASSED_ON.keys() - speculation
    models = {sample.labels["model_name"] for family in passed_on() for sample in family.samples}
    assert models == {label_value(str(model))}
    assert passed()[tokens] - before.get(tokens, 0) == outcome.completion_tokens
    assert all(name.removesuffix("_total") in source for name in speculation)


async def test_every_preset_is_answered_in_both_layouts_and_cut_documents_fit(
    engine: Engine,
) -> None:
    for layout in PromptLayout:
        prompts = compile_prompts(
            [
                ResolvedPrompt(
                    name=preset.name,
                    text=compose(preset.instruction, layout),
                    rollouts=1,
                    sampling={"max_tokens": 16, "temperature": 0.0},
                )
                for preset in presets().values()
            ],
            engine.tokenizer,
            system_message=None,
        )
        budget = prompts[0].document_tokens(engine.context_tokens, 400)
        document = encode_head(engine.tokenizer, DOCUMENT * 100, budget + 1)
        requests = []
        for prompt in prompts:
            ids, truncated = prompt.around(document, budget)
            assert truncated
            requests.append(Request(ids, prompt.sampling))

        outcomes = await answers(engine, *requests)

        for request, outcome in zip(requests, outcomes, strict=True):
            assert isinstance(outcome, Completion), outcome
            assert outcome.prompt_tokens == len(request.prompt_token_ids)
            assert outcome.text


async def test_the_prompt_is_the_one_that_the_models_chat_template_gives(engine: Engine) -> None:
    # a document is tokenized alone, the template around it too: the seams must not show
    text = compose(presets()["faq"].instruction, PromptLayout.DOCUMENT_FIRST)
    prompt = ResolvedPrompt(name="faq", text=text, rollouts=1, sampling={"max_tokens": 16})
    (compiled,) = compile_prompts([prompt], engine.tokenizer, system_message=None)

    ids, _ = compiled.around(engine.tokenizer.encode(DOCUMENT), 1000)

    whole = engine.tokenizer.chat(None, text.replace("[[DOCUMENT]]", DOCUMENT))
    assert [*ids] == engine.tokenizer.encode_template(whole)


async def test_a_full_context_is_answered(engine: Engine) -> None:
    filling = a_request(engine, DOCUMENT * 200)
    ids = filling.prompt_token_ids[: engine.context_tokens - GREEDY.max_tokens]

    assert (await answer(engine, replace(filling, prompt_token_ids=ids))).completion_tokens > 0


async def test_where_the_cache_holds_few_sequences_fewer_requests_are_to_be_kept(
    engine: Engine,
) -> None:
    assert isinstance(engine, VLLMEngine)
    usual = 64 + 32
    await eventually(lambda: engine.max_in_flight == usual, "it is empty")
    requests = [a_request(engine, f"Number {number}. {DOCUMENT * 12}") for number in range(12)]
    call = asyncio.create_task(answers(engine, *requests))

    await eventually(lambda: engine.max_in_flight < usual, "the cache is full")

    assert engine.max_in_flight - 32 < len(requests), "as many as fit, and those that wait"
    assert all(isinstance(outcome, Completion) for outcome in await call)
    await eventually(lambda: engine.max_in_flight == usual, "it is empty again")


async def test_sampling_that_vllm_refuses_fails_alone_and_for_good(engine: Engine) -> None:
    wrong = a_request(engine, sampling=replace(GREEDY, top_p=7.0))

    refused, fine = await answers(engine, wrong, a_request(engine))

    assert not isinstance(refused, Completion)
    assert (refused.reason, refused.retryable) == ("engine_refused", False)
    assert isinstance(fine, Completion)


async def test_steps_are_counted_long_before_there_is_an_answer(engine: Engine) -> None:
    call = asyncio.create_task(answers(engine, a_request(engine, sampling=LONG)))
    before = engine.steps

    await eventually(lambda: engine.steps > before + 5, "steps are made")

    assert not call.done()
    call.cancel()
    await asyncio.wait([call])


async def test_requests_of_a_cancelled_call_are_taken_from_vllm(engine: Engine) -> None:
    call = asyncio.create_task(answers(engine, *[a_request(engine, sampling=LONG)] * 5))
    await in_flight(engine, 5)

    call.cancel()
    await asyncio.wait([call])

    await in_flight(engine, 0)


async def test_a_call_to_a_hanging_engine_can_be_cancelled_and_the_engine_go_on(
    engine: Engine,
) -> None:
    processes = processes_of(engine)
    for process in processes:
        process.suspend()
    try:
        call = asyncio.create_task(answers(engine, *[a_request(engine)] * 70))
        await in_flight(engine, 70)

        async with asyncio.timeout(5):
            call.cancel()
            await asyncio.wait([call])
    finally:
        for process in processes:
            process.resume()

    assert isinstance(await answer(engine, a_request(engine)), Completion)


async def test_an_engine_that_dies_ends_all_calls_and_close_ends_what_is_left_of_it(
    engine: Engine,
) -> None:
    core, *workers = processes_of(engine)
    assert workers
    calls = [
        asyncio.create_task(answers(engine, a_request(engine, sampling=LONG))) for _ in range(2)
    ]
    await in_flight(engine, 2)
    for worker in workers:
        worker.suspend()  # in a kernel that never ends, say
    os.kill(core.pid, signal.SIGKILL)

    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        later = await asyncio.gather(answers(engine, a_request(engine)), return_exceptions=True)
    started = time.monotonic()
    engine.close()
    engine.close()

    for outcome in [*outcomes, *later]:
        assert isinstance(outcome, EngineDead)
        assert outcome.cause == "exit"
    assert "exit status -9" in str(outcomes[0])
    assert time.monotonic() - started < 5
    assert not any(map(is_alive, workers))
    with pytest.raises(EngineDead, match="closed"):
        await answers(engine, a_request(engine))
