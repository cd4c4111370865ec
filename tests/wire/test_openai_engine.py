"""The engine OpenAI against an endpoint that answers right, wrongly, late and not at all."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rephrase_api.errors import AccessRefused, EngineFailed, InvalidModel, InvalidSpec
from rephrase_runner.engines import EngineSettings, build, check
from rephrase_runner.engines.base import Completion, Engine, Request, RequestFailed, Sampling
from rephrase_runner.engines.message_tokenizer import load
from rephrase_runner.processes import warm_up
from rephrase_runner.prompts import CompiledPrompt, compile_prompts
from rephrase_runner.records import ResolvedPrompt
from support.endpoint import (
    MODEL,
    Endpoint,
    Fault,
    cuts,
    endpoint,
    hangs,
    says,
    says_plainly,
    write_tokenizer,
)
from support.engine_suite import GREEDY, EngineSuite, TokenizerSuite, a_request, answer, answers
from support.waiting import eventually


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def settings(folder: Path, url: str, *args: str) -> EngineSettings:
    return EngineSettings(
        "OpenAI",
        model=MODEL,
        tokenizer=str(folder),
        max_model_length=8192,
        args=args,
        base_url=url,
    )


@asynccontextmanager
async def asking(built: Engine) -> AsyncIterator[Engine]:
    try:
        yield built
    finally:
        await asyncio.to_thread(built.close)


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Endpoint]:
    async with endpoint(folder, context_tokens=8192) as found:
        yield found


@pytest.fixture
async def engine(served: Endpoint, folder: Path) -> AsyncIterator[Engine]:
    async with asking(build(settings(folder, served.url))) as built:
        yield built


class TestOpenAI(EngineSuite):
    pass


class TestTokenizer(TokenizerSuite):
    @pytest.fixture
    def tokenizer(self, folder: Path) -> object:
        return load(str(folder), None)


# -- what is sent --


async def test_prompts_are_sent_as_messages_and_sampling_by_its_names(
    served: Endpoint, engine: Engine
) -> None:
    prompt = ResolvedPrompt(
        name="own",
        text="Shorten:\n[[DOCUMENT]]\nBe brief.",
        rollouts=1,
        sampling={"max_tokens": 9, "temperature": 0.5, "top_k": 40, "stop": ["##"]},
    )
    (compiled,) = compile_prompts([prompt], engine.tokenizer, system_message="You edit.")
    ids, _ = compiled.around(engine.tokenizer.encode("Größe <|im_end|> 你好"), 100)

    await answers(engine, Request(ids, compiled.sampling, 7))

    assert served.bodies == [
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "You edit."},
                {"role": "user", "content": "Shorten:\nGröße <|im_end|> 你好\nBe brief."},
            ],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 1.0,
            "top_k": 40,
            "stop": ["##"],
            "seed": 7,
        }
    ]


async def test_what_does_nothing_is_not_sent_since_openai_refuses_what_it_does_not_know(
    served: Endpoint, engine: Engine
) -> None:
    await answer(engine, a_request(engine, sampling=Sampling(max_tokens=5)))

    assert set(served.bodies[0]) == {"model", "messages", "max_tokens", "temperature", "top_p"}


async def test_a_document_cut_in_the_middle_of_a_character_ends_before_it(
    served: Endpoint, engine: Engine
) -> None:
    prompt = ResolvedPrompt(
        name="own", text="[[DOCUMENT]]\nGo on.", rollouts=1, sampling={"max_tokens": 9}
    )
    (compiled,) = compile_prompts([prompt], engine.tokenizer, system_message=None)
    ids, truncated = compiled.around(engine.tokenizer.encode("a\ufffdb你好"), 9)

    await answers(engine, Request(ids, compiled.sampling))

    assert truncated
    assert served.bodies[0]["messages"] == [{"role": "user", "content": "a\ufffdb你\nGo on."}]


async def test_tokens_are_counted_here_where_the_endpoint_does_not_tell(
    served: Endpoint, engine: Engine
) -> None:
    served.tells_usage = False
    request = a_request(engine)

    found = await answer(engine, request)

    assert found.prompt_tokens == len(request.prompt_token_ids)
    assert found.completion_tokens == len(engine.tokenizer.encode(found.text))


async def test_the_endpoint_never_has_more_requests_than_it_should(
    served: Endpoint, folder: Path
) -> None:
    async with asking(build(settings(folder, served.url, "--concurrency=3"))) as engine:
        served.open.clear()
        call = asyncio.create_task(answers(engine, *[a_request(engine)] * 10))
        await eventually(lambda: len(served.bodies) == 3, "three are asked")
        served.open.set()
        await call

    assert engine.max_in_flight == served.at_once == 3
    assert len(served.bodies) == 10


# -- an endpoint that takes nothing now: waited out --


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 522, 529])
async def test_an_endpoint_that_is_busy_is_asked_again_and_no_request_fails(
    served: Endpoint, engine: Engine, status: int
) -> None:
    served.faults = [says(status, "busy")] * 2

    found = await answer(engine, a_request(engine))

    assert isinstance(found, Completion)
    assert len(served.bodies) == 3


async def test_pauses_grow_and_are_not_the_same_for_all(served: Endpoint, engine: Engine) -> None:
    clock = asyncio.get_running_loop().time
    times: list[list[float]] = [[], []]
    served.faults = [says(503)] * 6

    async def ask(number: int) -> None:
        request = a_request(engine, f"{number}")
        call = asyncio.create_task(answer(engine, request))
        await call
        times[number].append(clock())

    started = clock()
    await asyncio.gather(ask(0), ask(1))

    assert len(served.bodies) == 8
    assert times[0] != times[1]
    # three pauses of at least half of 0.5, 1 and 2 s, for one of the two
    assert max(times[0][0], times[1][0]) - started >= 1.75


async def test_what_the_endpoint_asks_to_wait_is_waited_by_all_requests(
    served: Endpoint, engine: Engine
) -> None:
    clock = asyncio.get_running_loop().time
    served.faults = [says(429, "slow down", Retry_After="1")]
    first = asyncio.create_task(answer(engine, a_request(engine, "first")))
    await eventually(lambda: not served.faults, "the first was sent away")
    told = clock()
    await eventually(lambda: engine._closed_until > told, "it heard that")  # type: ignore[attr-defined]

    await answer(engine, a_request(engine, "second"))

    assert clock() - told >= 0.9
    await first


async def test_a_date_to_come_back_at_is_read_by_the_endpoints_own_clock(
    served: Endpoint, engine: Engine
) -> None:
    clock = asyncio.get_running_loop().time
    served.faults = [
        says(
            503,
            Date="Fri, 31 Dec 1999 23:59:58 GMT",
            Retry_After="Fri, 31 Dec 1999 23:59:59 GMT",
        )
    ]
    started = clock()

    await answer(engine, a_request(engine))

    assert 1 <= clock() - started < 10


async def test_an_endpoint_that_stays_away_ends_the_worker_and_fails_no_sample(
    folder: Path,
) -> None:
    async with endpoint(folder) as gone:
        url = gone.url
    async with asking(build(settings(folder, url, "--patience-seconds=1"))) as engine:
        with pytest.raises(AccessRefused, match="takes no requests, and was waited for 1 s"):
            await answers(engine, a_request(engine))


async def test_an_endpoint_that_wants_to_be_left_alone_for_long_is_told_of_at_once(
    served: Endpoint, engine: Engine
) -> None:
    served.faults = [says(429, "tomorrow", Retry_After="86400")]

    with pytest.raises(AccessRefused, match="tomorrow"):
        await answers(engine, a_request(engine))


async def test_patience_is_counted_from_the_last_answer_to_anybody(
    served: Endpoint, folder: Path
) -> None:
    async with asking(build(settings(folder, served.url, "--patience-seconds=2"))) as engine:
        served.always = "limited", says(429)
        call = asyncio.create_task(answer(engine, a_request(engine, "limited")))
        clock = asyncio.get_running_loop().time
        until = clock() + 3

        while clock() < until:
            await answer(engine, a_request(engine, "fine"))
        served.always = None

        assert isinstance(await call, Completion)


@pytest.mark.parametrize("status", [502, 504])
async def test_a_request_that_a_gateway_never_gets_answered_breaks_while_others_are_answered(
    served: Endpoint, folder: Path, status: int
) -> None:
    async with asking(build(settings(folder, served.url, "--patience-seconds=1"))) as engine:
        served.always = "endless", says(status, "time-out")
        call = asyncio.create_task(answers(engine, a_request(engine, "endless")))

        while not call.done():
            await answer(engine, a_request(engine, "fine"))

        assert call.result() == [
            RequestFailed("endpoint_error", f"the endpoint answers {status}: time-out")
        ]


# -- a request that broke: one of its attempts --


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (says(500, "CUDA error"), "the endpoint answers 500: CUDA error"),
        (cuts, "the answer was cut: ClientPayloadError"),
        (says_plainly(b'{"choices": [{"mess'), "not one of the OpenAI API"),
        (says_plainly(b'{"choices": []}'), "not one of the OpenAI API"),
        (says_plainly(b"[]"), "not one of the OpenAI API"),
        (says_plainly(b"<html>Welcome</html>"), "not one of the OpenAI API"),
        (says_plainly(b"[" * 100_000), "not one of the OpenAI API"),
        (
            says_plainly(
                b'{"choices": [{"message": {"content": "Ha"}, "finish_reason": "abort"}]}'
            ),
            "the endpoint broke off: abort",
        ),
    ],
)
async def test_a_request_that_breaks_may_be_tried_again_and_the_others_are_not_touched(
    served: Endpoint, engine: Engine, fault: Fault, message: str
) -> None:
    served.always = "broken", fault

    broken, fine = await answers(engine, a_request(engine, "broken"), a_request(engine))

    assert isinstance(broken, RequestFailed)
    assert (broken.reason, broken.retryable) == ("endpoint_error", True)
    assert message in broken.message
    assert isinstance(fine, Completion)


async def test_an_answer_that_does_not_come_is_given_up(served: Endpoint, folder: Path) -> None:
    served.always = "asleep", hangs
    async with asking(build(settings(folder, served.url, "--timeout-seconds=1"))) as engine:
        hung, fine = await answers(engine, a_request(engine, "asleep"), a_request(engine))

    assert hung == RequestFailed("endpoint_timeout", "no answer within 1 s")
    assert isinstance(fine, Completion)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_refused_fails_for_good(
    served: Endpoint, engine: Engine, status: int
) -> None:
    served.faults = [says(status, "maximum context length is 2048 tokens")]

    (found,) = await answers(engine, a_request(engine))

    message = f"the endpoint answers {status}: maximum context length is 2048 tokens"
    assert found == RequestFailed("engine_refused", message, retryable=False)


async def test_what_the_endpoint_holds_back_fails_for_good(
    served: Endpoint, engine: Engine
) -> None:
    held = b'{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}'
    served.faults = [says_plainly(held)]

    (found,) = await answers(engine, a_request(engine))

    assert found == RequestFailed("content_filter", "the endpoint held it back", retryable=False)


async def test_an_answer_without_text_is_empty(served: Endpoint, engine: Engine) -> None:
    served.faults = [says_plainly(b'{"choices": [{"message": {"content": null}}]}')]

    found = await answer(engine, a_request(engine))

    assert (found.text, found.finish_reason, found.completion_tokens) == ("", "stop", 0)


async def test_half_a_character_of_an_answer_is_replaced_since_no_file_can_hold_it(
    served: Endpoint, engine: Engine
) -> None:
    cut = rb'{"choices": [{"message": {"content": "Hi \ud83d\ude80 \ud83d"}}]}'
    served.faults = [says_plainly(cut)]

    found = await answer(engine, a_request(engine))

    assert found.text == "Hi \N{ROCKET} \ufffd"


async def test_half_a_character_of_a_refusal_is_replaced_too(
    served: Endpoint, engine: Engine
) -> None:
    served.faults = [says(400, "cannot read \ud83d")]

    (found,) = await answers(engine, a_request(engine))

    assert isinstance(found, RequestFailed)
    assert found.message == "the endpoint answers 400: cannot read \ufffd"


@pytest.mark.parametrize("usage", ['"much"', "[1]", '{"completion_tokens": 1e400}', "null"])
async def test_counts_that_are_none_are_counted_here(
    served: Endpoint, engine: Engine, usage: str
) -> None:
    told = f'{{"choices": [{{"message": {{"content": ""}}}}], "usage": {usage}}}'
    served.faults = [says_plainly(told.encode())]

    found = await answer(engine, a_request(engine))

    assert (found.text, found.completion_tokens) == ("", 0)


# -- before anything is claimed --


def a_prompt(engine: Engine) -> tuple[CompiledPrompt, ...]:
    prompt = ResolvedPrompt(
        name="own", text="Shorten: [[DOCUMENT]]", rollouts=1, sampling={"max_tokens": 9}
    )
    return compile_prompts([prompt], engine.tokenizer, system_message=None)


async def test_an_endpoint_that_breaks_over_all_it_is_asked_gets_no_documents(
    served: Endpoint, engine: Engine
) -> None:
    served.always = "Shorten", says(500, "CUDA error")

    with pytest.raises(EngineFailed, match="first request: the endpoint answers 500: CUDA error"):
        await warm_up(engine, a_prompt(engine), patience_seconds=1)


async def test_an_endpoint_that_breaks_once_is_asked_again(
    served: Endpoint, engine: Engine
) -> None:
    served.faults = [says(500)]

    await warm_up(engine, a_prompt(engine), patience_seconds=60)

    assert len(served.bodies) == 2


# -- a person must act --


async def test_a_key_that_is_refused_ends_all_and_is_told_to_nobody(
    served: Endpoint,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-1234")
    served.key = "sk-right"
    caplog.set_level(logging.DEBUG)
    async with asking(build(settings(folder, served.url))) as engine:
        with pytest.raises(AccessRefused, match="refused the key") as refused:
            await answers(engine, a_request(engine), a_request(engine))

    assert served.headers[0]["Authorization"] == "Bearer sk-wrong-1234"
    assert "1234" not in str(refused.value)
    assert "1234" not in caplog.text


async def test_a_key_in_a_message_is_not_told_on(
    served: Endpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234")
    served.faults = [says(400, "bad header: Bearer sk-secret-1234")]
    async with asking(build(settings(folder, served.url))) as engine:
        (found,) = await answers(engine, a_request(engine))

    assert isinstance(found, RequestFailed)
    assert found.message == "the endpoint answers 400: bad header: Bearer ***"


async def test_no_beginning_of_a_key_stays_where_a_long_message_is_cut(
    served: Endpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234")
    served.faults = [says(400, "x" * 290 + "sk-secret-1234")]
    async with asking(build(settings(folder, served.url))) as engine:
        (found,) = await answers(engine, a_request(engine))

    assert isinstance(found, RequestFailed)
    assert "sk-secret" not in found.message


async def test_a_secret_that_was_changed_is_read_again(
    served: Endpoint, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "api-key"
    file.write_text("old\n")
    served.key = "old"
    async with asking(
        build(replace(settings(folder, served.url), api_key_file=str(file)))
    ) as engine:
        before = await answer(engine, a_request(engine))
        file.write_text("new\n")
        served.key = "new"

        after = await answers(engine, a_request(engine), a_request(engine))

    assert after == [before, before]


async def test_an_account_without_money_ends_all_although_its_status_says_busy(
    served: Endpoint, engine: Engine
) -> None:
    served.faults = [says(429, "You exceeded your current quota", code="insufficient_quota")]

    with pytest.raises(AccessRefused, match="exceeded your current quota"):
        await answers(engine, a_request(engine))


async def test_a_model_that_is_not_there_ends_all_for_good(served: Endpoint, folder: Path) -> None:
    wrong = replace(settings(folder, served.url), model="another")
    elsewhere = settings(folder, f"{served.url}/nowhere")

    for one in (wrong, elsewhere):
        async with asking(build(one)) as engine:
            with pytest.raises(InvalidModel, match="there is no model"):
                await answers(engine, a_request(engine))


async def test_an_address_that_has_answered_is_waited_for_when_it_loses_its_model(
    served: Endpoint, engine: Engine
) -> None:
    await answer(engine, a_request(engine))
    served.faults = [says(404, "no route")]

    assert isinstance(await answer(engine, a_request(engine)), Completion)


# -- before anything is asked --


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"args": ("--max-num-seqs=8",)}, "spec.model.engine.args"),
        ({"args": ("--concurrency=0",)}, "spec.model.engine.args"),
        ({"chat_template": "{{ messages }}"}, "spec.model.chatTemplate"),
        ({"max_model_length": None}, "spec.model.maxModelLength"),
    ],
)
def test_what_an_endpoint_cannot_honor_is_refused(
    folder: Path, change: dict[str, object], where: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check(replace(settings(folder, "http://127.0.0.1/v1"), **change))  # type: ignore[arg-type]

    assert refused.value.where == where


def test_a_tokenizer_that_changes_text_or_is_not_there_is_refused(tmp_path: Path) -> None:
    lower = write_tokenizer(tmp_path / "lower")
    file = lower / "tokenizer.json"
    file.write_text(
        file.read_text().replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}')
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{}")

    with pytest.raises(InvalidModel, match="changes text"):
        load(str(lower), None)
    with pytest.raises(InvalidModel, match="no tokenizer from"):
        load(str(broken), None)


@pytest.mark.parametrize("key", ["two words", "two\nlines", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_without_telling_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)

    with pytest.raises(InvalidSpec, match="OPENAI_API_KEY") as refused:
        build(settings(folder, "http://127.0.0.1/v1"))

    assert key not in str(refused.value)


def test_a_key_file_that_is_not_there_is_told_of(folder: Path, tmp_path: Path) -> None:
    missing = replace(settings(folder, "http://x/v1"), api_key_file=str(tmp_path / "api-key"))

    with pytest.raises(AccessRefused, match="apiKeySecretRef: the API key cannot be read"):
        build(missing)


async def test_the_context_leaves_room_for_the_endpoints_own_template(engine: Engine) -> None:
    assert engine.context_tokens == 8192 - 64
    assert GREEDY.max_tokens < engine.context_tokens
