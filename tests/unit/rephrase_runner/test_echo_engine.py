import asyncio
import time

import pytest

from rephrase_api.errors import InvalidSpec
from rephrase_runner.engines import EngineSettings, build, check
from rephrase_runner.engines.base import (
    Completion,
    Engine,
    EngineDead,
    Request,
    RequestFailed,
    Sampling,
    Tokenizer,
)
from rephrase_runner.engines.echo import EchoTokenizer
from support.engine_suite import (
    DOCUMENT,
    EngineSuite,
    TokenizerSuite,
    a_request,
    answer,
    answers,
)


def an_engine(*args: str) -> Engine:
    return build(EngineSettings("Echo", args=args, uses_seeds=True))


class TestAtOnce(EngineSuite):
    @pytest.fixture
    def engine(self) -> Engine:
        return an_engine()


class TestAfterADelay(EngineSuite):
    @pytest.fixture
    def engine(self) -> Engine:
        return an_engine("--latency-seconds=0.01", "--concurrency=33")


class TestTokenizer(TokenizerSuite):
    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        return EchoTokenizer()


each_pace = pytest.mark.parametrize(
    "pace", [(), ("--latency-seconds=0.001",)], ids=["at once", "after a delay"]
)


def test_an_answer_is_made_of_words_of_the_prompt() -> None:
    engine = an_engine("--output-tokens=20")

    found = asyncio.run(answer(engine, a_request(engine, sampling=Sampling(max_tokens=100))))

    words = found.text.split()
    assert len(words) > 3
    assert set(words[:-1]) <= set(f"Tell this in your own words: {DOCUMENT}".split())
    assert DOCUMENT[:40] not in found.text


def test_answers_are_about_as_long_as_asked_for() -> None:
    engine = an_engine("--output-tokens=40")
    sampling = Sampling(max_tokens=1000)
    requests = [a_request(engine, sampling=sampling, seed=seed) for seed in range(500)]

    found = asyncio.run(answers(engine, *requests))

    lengths = [one.completion_tokens for one in found if isinstance(one, Completion)]
    assert 20 <= min(lengths) < 25
    assert 55 < max(lengths) <= 60
    assert 38 < sum(lengths) / len(lengths) < 42


def test_the_context_is_the_specs_if_it_names_one() -> None:
    assert an_engine().context_tokens == 8192
    assert an_engine("--context-tokens=500").context_tokens == 500
    assert build(EngineSettings("Echo", max_model_length=700)).context_tokens == 700


def test_a_new_engine_gives_the_same_answers() -> None:
    one, other = (
        asyncio.run(answer(engine, a_request(engine, seed=3)))
        for engine in (an_engine(), an_engine("--latency-seconds=0.001"))
    )

    assert one == other


def test_an_answer_takes_at_least_half_the_mean_latency() -> None:
    def seconds(seed: int) -> float:
        engine = an_engine("--latency-seconds=0.02")
        started = time.perf_counter()
        asyncio.run(answer(engine, a_request(engine, seed=seed)))
        return time.perf_counter() - started

    assert all(seconds(seed) >= 0.01 for seed in range(10))


def test_starting_takes_as_long_as_asked_for() -> None:
    started = time.perf_counter()

    an_engine("--start-seconds=0.05")

    assert time.perf_counter() - started >= 0.05


def test_more_requests_than_places_wait_for_one() -> None:
    engine = an_engine("--latency-seconds=0.02", "--concurrency=2")
    requests = [a_request(engine, f"{number} {DOCUMENT}") for number in range(6)]
    started = time.perf_counter()

    asyncio.run(answers(engine, *requests))

    assert engine.max_in_flight == 2
    assert time.perf_counter() - started >= 3 * 0.01


@each_pace
def test_a_request_fails_where_its_prompt_holds_a_text(pace: tuple[str, ...]) -> None:
    engine = an_engine("--fail-on=harbor", *pace)
    requests = [a_request(engine), a_request(engine, "Nothing here.")]

    async def twice() -> list[list[Completion | RequestFailed]]:
        return [await answers(engine, *requests) for _ in range(2)]

    for failed, fine in asyncio.run(twice()):
        assert failed == RequestFailed("echo_failed", "the prompt holds 'harbor'")
        assert isinstance(fine, Completion)


@each_pace
def test_a_request_that_failed_often_enough_succeeds(pace: tuple[str, ...]) -> None:
    engine = an_engine("--fail-on=harbor", "--fail-times=2", *pace)

    async def calls() -> list[bool]:
        outcomes = [await answers(engine, a_request(engine)) for _ in range(4)]
        return [isinstance(outcome, Completion) for (outcome,) in outcomes]

    assert asyncio.run(calls()) == [False, False, True, True]


@each_pace
def test_a_deadly_prompt_ends_all_calls_in_flight_and_all_later_ones(
    pace: tuple[str, ...],
) -> None:
    engine = an_engine("--die-on=poison", "--hang-on=asleep", *pace)

    async def calls() -> list[object]:
        waiting = asyncio.create_task(answers(engine, a_request(engine, "asleep")))
        await asyncio.sleep(0)
        deadly = answers(engine, a_request(engine), a_request(engine, "poison"))
        in_flight = await asyncio.gather(waiting, deadly, return_exceptions=True)
        later = await asyncio.gather(answers(engine, a_request(engine)), return_exceptions=True)
        return [*in_flight, *later]

    outcomes = asyncio.run(calls())

    assert [getattr(outcome, "cause", outcome) for outcome in outcomes] == ["exit"] * 3
    assert all(isinstance(outcome, EngineDead) for outcome in outcomes)


def test_what_was_answered_before_a_death_stands() -> None:
    engine = an_engine("--die-on=poison")
    delivered: list[int] = []

    async def call() -> None:
        requests = [a_request(engine), a_request(engine, "poison"), a_request(engine)]
        await engine.generate(requests, lambda index, outcome: delivered.append(index))

    with pytest.raises(EngineDead):
        asyncio.run(call())
    assert delivered == [0]


@each_pace
def test_a_prompt_that_hangs_is_never_answered_while_others_are(pace: tuple[str, ...]) -> None:
    engine = an_engine("--hang-on=asleep", *pace)
    delivered: list[int] = []

    async def call() -> None:
        async with asyncio.timeout(0.2):
            await engine.generate(
                [a_request(engine, "asleep"), a_request(engine)],
                lambda index, outcome: delivered.append(index),
            )

    with pytest.raises(TimeoutError):
        asyncio.run(call())
    assert delivered == [1]


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("--latency=1", "unrecognized arguments: --latency=1"),
        ("--model=x", "unrecognized arguments: --model=x"),
        ("stray", "unrecognized arguments: stray"),
        (
            "--concurrency=many",
            "argument --concurrency: must be a whole number from 1 on, got many",
        ),
        ("--concurrency=0", "argument --concurrency: must be a whole number from 1 on, got 0"),
        ("--latency-seconds=-1", "argument --latency-seconds: must be a number from 0 on, got -1"),
        (
            "--latency-seconds=nan",
            "argument --latency-seconds: must be a number from 0 on, got nan",
        ),
        ("--start-seconds=x", "argument --start-seconds: must be a number from 0 on, got x"),
        ("--fail-on=", "argument --fail-on: must not be empty: every prompt holds the empty text"),
        ("--die-on", "argument --die-on: expected one argument"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_allowed_ones(argument: str, what: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check(EngineSettings("Echo", args=(argument,)))

    assert refused.value.what == what
    assert refused.value.where == "spec.model.engine.args"
    assert "--latency-seconds, --concurrency, --start-seconds" in refused.value.remedy


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="there is no engine 'Parrot'"):
        build(EngineSettings("Parrot"))


def test_it_is_fast_enough_to_measure_the_data_path_with() -> None:
    # 20,000 and more on an idle core; this only keeps it from becoming slow unnoticed
    engine = an_engine()
    documents = [engine.tokenizer.encode(f"{n} {DOCUMENT}" * 15) for n in range(50)]
    sampling = Sampling(max_tokens=2048)
    requests = [[Request(ids, sampling, seed) for seed in range(4)] for ids in documents]

    async def run() -> float:
        started = time.process_time()
        for four in requests * 5:
            await engine.generate(four, lambda index, outcome: None)
        return 1000 / (time.process_time() - started)

    assert asyncio.run(run()) > 5_000
