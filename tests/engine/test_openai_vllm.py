"""The engine OpenAI against a real `vllm serve`: what it sends is taken, what comes back understood."""

import asyncio
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rephrase_api.errors import AccessRefused, InvalidModel
from rephrase_runner.engines import EngineSettings, build
from rephrase_runner.engines.base import Engine, RequestFailed, Sampling
from support.engine_suite import DOCUMENT, GREEDY, a_request, answer, answers
from support.waiting import wait_until

KEY = "sk-of-this-test"
NAME = "smollm"


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "serve.log"
    arguments = [
        *("--model", str(model), "--served-model-name", NAME, "--api-key", KEY),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "2048", "--max-num-seqs", "16", "--enforce-eager"),
    ]
    with log.open("wb") as out:
        server = subprocess.Popen(
            # what `vllm serve` starts; the command itself asks for a distribution of the name vllm
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"VLLM_NO_USAGE_STATS": "1"},
        )

    def answers_now() -> bool:
        assert server.poll() is None, log.read_text()[-5000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_until(answers_now, "vllm serve is ready", within=400)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def settings(url: str, model: Path) -> EngineSettings:
    return EngineSettings(
        "OpenAI", model=NAME, tokenizer=str(model), max_model_length=2048, base_url=url
    )


@pytest.fixture
async def engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    built = build(settings)
    yield built
    await asyncio.to_thread(built.close)


async def test_requests_are_answered_counted_and_cut_as_asked(engine: Engine) -> None:
    short = a_request(engine, sampling=replace(GREEDY, max_tokens=4))

    whole, cut = await asyncio.gather(answer(engine, a_request(engine)), answer(engine, short))
    stopped = await answer(
        engine, a_request(engine, sampling=replace(GREEDY, stop=(whole.text[4:7],)))
    )

    assert whole.text.startswith(cut.text.strip())
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 4)
    assert stopped.text == whole.text.partition(whole.text[4:7])[0]
    # the rest is the chat template, for which room is left
    assert 0 < whole.prompt_tokens - len(short.prompt_token_ids) <= 64


async def test_every_sampling_parameter_is_taken_and_a_seed_repeats_an_answer(
    engine: Engine,
) -> None:
    drawn = Sampling(
        max_tokens=16,
        temperature=0.9,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=0.1,
    )

    first, again, other = [
        await answer(engine, a_request(engine, sampling=drawn, seed=seed)) for seed in (5, 5, 6)
    ]

    assert first == again
    assert first.text != other.text


async def test_a_document_as_long_as_there_is_room_for_fits(engine: Engine) -> None:
    request = a_request(engine, DOCUMENT * 100)
    room = engine.context_tokens - GREEDY.max_tokens
    assert len(request.prompt_token_ids) > room

    found = await answer(engine, replace(request, prompt_token_ids=request.prompt_token_ids[:room]))

    assert found.completion_tokens > 0


async def test_a_prompt_that_does_not_fit_fails_alone_and_for_good(engine: Engine) -> None:
    refused, fine = await answers(engine, a_request(engine, DOCUMENT * 100), a_request(engine))

    assert isinstance(refused, RequestFailed)
    assert (refused.reason, refused.retryable) == ("engine_refused", False)
    assert "2048" in refused.message
    assert not isinstance(fine, RequestFailed)


async def test_a_wrong_key_and_a_wrong_model_are_told_of(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build(replace(settings, model="other"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    stranger = build(settings)

    with pytest.raises(InvalidModel, match="`other` does not exist"):
        await answers(other, a_request(other))
    with pytest.raises(AccessRefused, match="refused the key"):
        await answers(stranger, a_request(stranger))
    for built in (other, stranger):
        await asyncio.to_thread(built.close)
