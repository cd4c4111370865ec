"""Answers are recorded, and their slots given back, in an order that whoever waits can rely on."""

import asyncio

import pytest

from rephrase_api.v1alpha1.generation import Quality
from rephrase_runner.answering import Answerer, Slots
from rephrase_runner.checking import Checker
from rephrase_runner.engines import EngineSettings, build
from rephrase_runner.engines.echo import EchoEngine
from rephrase_runner.holding import Holding
from rephrase_runner.prepare import Preparer
from rephrase_runner.prompts import compile_prompts
from rephrase_runner.records import ResolvedPrompt
from rephrase_runner.rows import Document
from rephrase_runner.units import Unit
from rephrase_runner.vitals import Vitals
from support.corpora import a_text

ROWS = 5
ROLLOUTS = {"own": 1, "other": 2}


async def test_slots_follow_an_engine_that_changes_its_mind() -> None:
    engine = build(EngineSettings("Echo", args=("--concurrency=8",)))
    assert isinstance(engine, EchoEngine)
    slots = Slots(engine)
    await slots.take(8)
    engine.max_in_flight = 4  # its cache is full

    some = asyncio.create_task(slots.some())
    for answered, room in ((4, False), (1, True)):
        slots.give(answered)
        for _ in range(3):  # turns of the loop, to look
            await asyncio.sleep(0)
        assert some.done() == room


async def test_a_document_with_more_requests_than_are_missing_does_not_wait_for_an_empty_engine() -> (
    None
):
    slots = Slots(build(EngineSettings("Echo", args=("--concurrency=8",))))
    await slots.take(6)

    await slots.take(64)

    assert slots.taken == 70
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await slots.take(1)


@pytest.mark.parametrize(
    "pace", [(), ("--latency-seconds=0.01",)], ids=["at once", "after a delay"]
)
async def test_once_all_slots_are_given_back_a_checkpoint_takes_every_sample(
    pace: tuple[str, ...],
) -> None:
    engine = build(EngineSettings("Echo", args=pace))
    prompts = [
        ResolvedPrompt(
            name=name, text="Shorten: [[DOCUMENT]]", rollouts=count, sampling={"max_tokens": 9}
        )
        for name, count in ROLLOUTS.items()
    ]
    preparer = Preparer(
        compile_prompts(prompts, engine.tokenizer, system_message=None),
        engine.tokenizer,
        context_tokens=engine.context_tokens,
        max_document_tokens=None,
        seed=None,
        quality=Quality(),
    )
    unit = Unit(index=0, file=0, first_row=0, byte_offset=0, rows=ROWS)
    holding = Holding(unit, 1, ROLLOUTS, include_source_text=False, since=0.0)
    checker = Checker(dict.fromkeys(ROLLOUTS, ""))
    answerer = Answerer(engine, preparer, Vitals(0.0), checker, attempts=1, retry_seconds=0)

    async with asyncio.TaskGroup() as tasks:
        for row in range(ROWS):
            document = Document(file=0, row=row, source_id=f"{row}", text=a_text(row))
            prepared = preparer.prepare(document, holding.missing(document))
            await answerer.slots.take(len(prepared.requests))
            tasks.create_task(answerer.answer(prepared, holding))
        await answerer.slots.none_taken()
        await holding.wait_for_checks(everything=False)
        saved = holding.unsaved()
    checker.close()

    assert len(saved) == ROWS * sum(ROLLOUTS.values())
    assert all(sample.notes for sample in saved)
