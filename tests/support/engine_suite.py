"""What every engine must do, the fake ones like the real ones.

A test module inherits `EngineSuite` and gives a fixture `engine`, built for seeds; `TokenizerSuite` is
for its tokenizer, which may be had without the engine.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from rephrase_runner.engines.base import (
    Completion,
    Engine,
    Request,
    RequestFailed,
    Sampling,
    Tokenizer,
)

GREEDY = Sampling(max_tokens=16, temperature=0)
DOCUMENT = (
    "The river rises in the mountains and flows through three lakes before it reaches the sea. "
    "In spring the snow melts and the water stands two metres higher than in autumn. Boats can go "
    "as far as the second lake, where a small harbor was built in 1887."
)


def a_request(
    engine: Engine, text: str = DOCUMENT, *, sampling: Sampling = GREEDY, seed: int | None = None
) -> Request:
    rendered = engine.tokenizer.chat(None, f"Tell this in your own words: {text}")
    return Request(engine.tokenizer.encode_template(rendered), sampling, seed)


async def answers(engine: Engine, *requests: Request) -> list[Completion | RequestFailed]:
    """The outcomes of requests submitted together, in their order."""
    found: dict[int, Completion | RequestFailed] = {}

    def deliver(index: int, outcome: Completion | RequestFailed) -> None:
        assert index not in found, "answered twice"
        found[index] = outcome

    await engine.generate(requests, deliver)
    return [found[index] for index in range(len(requests))]


async def answer(engine: Engine, request: Request) -> Completion:
    (outcome,) = await answers(engine, request)
    assert isinstance(outcome, Completion), outcome
    return outcome


class EngineSuite:
    async def test_each_request_is_answered_once(self, engine: Engine) -> None:
        requests = [a_request(engine, f"{number}. {DOCUMENT}") for number in range(8)]

        outcomes = await answers(engine, *requests)

        assert all(isinstance(outcome, Completion) and outcome.text for outcome in outcomes)

    async def test_no_requests_are_answered_at_once(self, engine: Engine) -> None:
        assert await answers(engine) == []

    async def test_calls_at_the_same_time_do_not_mix_their_answers(self, engine: Engine) -> None:
        short = replace(GREEDY, max_tokens=3)
        alone = [await answer(engine, a_request(engine, sampling=s)) for s in (GREEDY, short)]

        together = await asyncio.gather(
            *(answer(engine, a_request(engine, sampling=s)) for s in (GREEDY, short))
        )

        assert [one.completion_tokens for one in together] == [
            one.completion_tokens for one in alone
        ]

    async def test_tokens_of_prompt_and_answer_are_counted(self, engine: Engine) -> None:
        request = a_request(engine)

        found = await answer(engine, request)

        assert found.prompt_tokens == len(request.prompt_token_ids)
        assert 1 <= found.completion_tokens <= GREEDY.max_tokens

    async def test_an_answer_cut_at_max_tokens_ends_with_length(self, engine: Engine) -> None:
        found = await answer(engine, a_request(engine, sampling=replace(GREEDY, max_tokens=4)))

        assert (found.finish_reason, found.completion_tokens) == ("length", 4)

    async def test_an_answer_ends_before_a_stop_string(self, engine: Engine) -> None:
        whole = await answer(engine, a_request(engine))
        stop = whole.text[4:7]

        found = await answer(engine, a_request(engine, sampling=replace(GREEDY, stop=(stop,))))

        assert found.text == whole.text.partition(stop)[0]
        assert found.finish_reason == "stop"

    async def test_the_likeliest_answer_is_always_the_same(self, engine: Engine) -> None:
        first = await answer(engine, a_request(engine))

        assert await answer(engine, a_request(engine, seed=5)) == first

    async def test_a_seed_repeats_an_answer_and_another_changes_it(self, engine: Engine) -> None:
        drawn = Sampling(max_tokens=16, temperature=1)

        first, again, other = [
            await answer(engine, a_request(engine, sampling=drawn, seed=seed)) for seed in (5, 5, 6)
        ]

        assert first == again
        assert first.text != other.text

    async def test_long_prompts_with_seeds_of_all_sizes_are_answered(self, engine: Engine) -> None:
        drawn = Sampling(max_tokens=4, temperature=1)
        document = DOCUMENT * (engine.context_tokens // 150)

        outcomes = await answers(
            engine,
            *(
                a_request(engine, f"{seed} {document}", sampling=drawn, seed=seed)
                for seed in (0, 1, 2**32, 2**63 - 1)
            ),
        )

        assert all(isinstance(outcome, Completion) for outcome in outcomes)

    async def test_a_prompt_that_does_not_fit_fails_alone_and_for_good(
        self, engine: Engine
    ) -> None:
        too_long = Request([*a_request(engine).prompt_token_ids] * 200, GREEDY)
        assert len(too_long.prompt_token_ids) > engine.context_tokens

        refused, fine = await answers(engine, too_long, a_request(engine))

        assert isinstance(refused, RequestFailed)
        assert not refused.retryable
        assert isinstance(fine, Completion)

    async def test_a_cancelled_call_keeps_what_was_delivered_and_frees_the_engine(
        self, engine: Engine
    ) -> None:
        delivered = asyncio.Event()
        requests = [
            a_request(engine, sampling=replace(GREEDY, max_tokens=1)),
            *(
                a_request(engine, f"{n}. {DOCUMENT}", sampling=replace(GREEDY, max_tokens=600))
                for n in range(4)
            ),
        ]
        call = asyncio.create_task(
            engine.generate(requests, lambda index, outcome: delivered.set())
        )

        await delivered.wait()
        call.cancel()
        await asyncio.wait([call])

        assert isinstance(await answer(engine, a_request(engine)), Completion)

    async def test_an_answer_is_a_sign_of_life(self, engine: Engine) -> None:
        before = engine.steps

        await answer(engine, a_request(engine))

        assert engine.steps > before

    async def test_there_is_room_for_more_than_one_document(self, engine: Engine) -> None:
        assert engine.max_in_flight >= 32
        assert engine.context_tokens > 0


class TokenizerSuite:
    def test_plain_text_comes_back_from_its_tokens(self, tokenizer: Tokenizer) -> None:
        text = "Größe: 6,650 km\n\n\t- 你好, 👩‍🚀!  \r\nEnd"

        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_a_text_that_utf_8_cannot_spell_has_tokens_too(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"

    def test_special_tokens_inside_a_document_are_plain_text(self, tokenizer: Tokenizer) -> None:
        rendered = tokenizer.chat("Be brief.", "Hello.")
        special = set(tokenizer.encode_template(rendered)) - set(tokenizer.encode(rendered))

        assert special
        assert tokenizer.decode(tokenizer.encode(rendered)) == rendered

    def test_the_chat_template_holds_both_messages_once(self, tokenizer: Tokenizer) -> None:
        rendered = tokenizer.chat("Be brief about it.", "What is a glacier?")

        assert rendered.count("Be brief about it.") == 1
        assert rendered.count("What is a glacier?") == 1
        assert rendered.index("Be brief") < rendered.index("What is")

    def test_tokenizing_in_threads_gives_the_same_tokens(self, tokenizer: Tokenizer) -> None:
        texts = [f"{number} {DOCUMENT}" * 10 for number in range(50)]

        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(tokenizer.encode, texts))

        assert found == [tokenizer.encode(text) for text in texts]
