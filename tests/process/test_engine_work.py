"""What a worker asks of its engine and tokenizer: as much as the documents need, however they are cut."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from typing_extensions import override

from rephrase_api.launch import DriverLaunch, WorkerLaunch
from rephrase_runner import engines
from rephrase_runner.engines import EngineSettings
from rephrase_runner.engines.base import (
    Completion,
    Deliver,
    Engine,
    PromptTokens,
    Request,
    RequestFailed,
    Tokenizer,
)
from rephrase_runner.processes import run_driver, run_worker
from support.corpora import rows, write_parquet
from support.manifests import BUILT_IN, a_manifest
from support.waiting import eventually

DOCUMENTS = 60
CONCURRENCY = 16


class CountingTokenizer:
    """Counts what is asked of another."""

    def __init__(self, tokenizer: Tokenizer, counts: Counter[str]) -> None:
        self._tokenizer, self._counts = tokenizer, counts

    def encode(self, text: str) -> Sequence[int]:
        self._counts["encode"] += 1
        return self._tokenizer.encode(text)

    def encode_template(self, text: str) -> Sequence[int]:
        self._counts["encode_template"] += 1
        return self._tokenizer.encode_template(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        self._counts["decode"] += 1
        return self._tokenizer.decode(token_ids)

    def chat(self, system: str | None, user: str) -> str:
        self._counts["chat"] += 1
        return self._tokenizer.chat(system, user)


class CountingEngine:
    """Counts what is asked of another engine, and how many requests it has at most."""

    def __init__(self, engine: Engine) -> None:
        self.counts: Counter[str] = Counter()
        self.tokenizer: Tokenizer = CountingTokenizer(engine.tokenizer, self.counts)
        self.context_tokens = engine.context_tokens
        self.max_in_flight = engine.max_in_flight
        self.most_running = 0
        self._running = 0
        self._engine = engine

    @property
    def steps(self) -> int:
        return self._engine.steps

    async def generate(self, requests: Sequence[Request], deliver: Deliver) -> None:
        self.counts["generate"] += 1
        self.counts["requests"] += len(requests)
        prompts = [one.prompt_token_ids for one in requests]
        shared = {id(one.document) for one in prompts if isinstance(one, PromptTokens)}
        self.counts["token lists"] += len(shared)
        self._running += len(requests)
        self.most_running = max(self.most_running, self._running)

        def delivered(index: int, outcome: Completion | RequestFailed) -> None:
            self._running -= 1
            deliver(index, outcome)

        await self._engine.generate(requests, delivered)

    def close(self) -> None:
        self._engine.close()


class WaitingEngine(CountingEngine):
    """Answers the last document of the first unit only when one of the next unit is asked for."""

    def __init__(self, engine: Engine, *, unit: int) -> None:
        super().__init__(engine)
        self._last = unit + 1  # the warm-up is the first
        self._next = asyncio.Event()

    @override
    async def generate(self, requests: Sequence[Request], deliver: Deliver) -> None:
        number = self.counts["generate"] + 1
        if number > self._last:
            self._next.set()

        def held_back(index: int, outcome: Completion | RequestFailed) -> None:
            answers.append((index, outcome))

        answers: list[tuple[int, Completion | RequestFailed]] = []
        await super().generate(requests, held_back)
        if number == self._last:
            await asyncio.wait_for(self._next.wait(), 60)
        for index, outcome in answers:
            deliver(index, outcome)


async def run_with(
    folder: Path, make: Callable[[Engine], CountingEngine], *, documents: int, unit: int
) -> CountingEngine:
    """A run of one worker; returns its engine."""
    write_parquet(folder / "source" / "part-0.parquet", rows(documents))
    args = ("--output-tokens=16", f"--concurrency={CONCURRENCY}", "--latency-seconds=0.05")
    manifest = a_manifest(
        source={"uri": str(folder / "source"), "unit": {"targetDocuments": unit}},
        prompts=BUILT_IN,
        promptLayout="DocumentFirst",
        model={"engine": {"args": list(args)}},
        output={"uri": str(folder / "output")},
    )
    found: list[CountingEngine] = []

    async def load(settings: EngineSettings) -> Engine:
        found.append(make(engines.build(settings)))
        return found[-1]

    driver = DriverLaunch(run="test", manifest=json.dumps(manifest))
    worker = WorkerLaunch(run="test", output_uri=str(folder / "output"), engine_args=args)
    driving = asyncio.ensure_future(run_driver(driver, asyncio.Event()))
    await eventually(lambda: list(folder.glob("output/_run/*/plan.json")), "the run is planned")
    await run_worker(worker, asyncio.Event(), load)
    await driving
    (engine,) = found
    return engine


@pytest.mark.usefixtures("own_logging")
async def test_the_next_unit_is_asked_for_while_the_last_answers_of_a_large_one_come(
    tmp_path: Path,
) -> None:
    unit = 5 * CONCURRENCY

    engine = await run_with(
        tmp_path, partial(WaitingEngine, unit=unit), documents=2 * unit, unit=unit
    )

    assert engine.counts["generate"] == 2 * unit + 1


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("unit", [5, DOCUMENTS], ids=["twelve units", "one unit"])
async def test_a_document_is_tokenized_once_and_asked_for_once_with_all_its_prompts(
    tmp_path: Path, unit: int
) -> None:
    engine = await run_with(tmp_path, CountingEngine, documents=DOCUMENTS, unit=unit)

    prompts = len(BUILT_IN)
    # beside the documents there is the warm-up, one request with each prompt
    assert engine.counts["generate"] == DOCUMENTS + 1
    assert engine.counts["requests"] == (DOCUMENTS + 1) * prompts
    assert engine.counts["encode"] == DOCUMENTS + prompts
    assert engine.counts["decode"] == 0
    # the tokens of a document are there once, however many prompts it has
    assert engine.counts["token lists"] == DOCUMENTS + prompts
    # and the prompts are compiled for it, and for the documents: head and tail of each
    assert engine.counts["encode_template"] == 2 * 2 * prompts
    # it was full once, and never had more than it asked for, but for the rest of a document
    assert CONCURRENCY <= engine.most_running < CONCURRENCY + prompts
