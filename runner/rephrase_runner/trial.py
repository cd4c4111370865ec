"""`rephrase trial`: one engine with one set of settings, kept full for a while; how fast it was.

A process of its own, since an engine that runs out of memory may take everything with it. What to do is
JSON on standard input; what was measured is the log line "measured", or "exit" tells what went wrong.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from rephrase_api import logs
from rephrase_api.errors import EngineFailed, RephraseError, first_cause
from rephrase_api.v1alpha1.generation import Quality
from rephrase_runner.answering import Slots
from rephrase_runner.engines import EngineSettings
from rephrase_runner.engines.base import Completion, Engine, EngineDead, RequestFailed
from rephrase_runner.prepare import Prepared, Preparer
from rephrase_runner.processes import load, warm_up
from rephrase_runner.prompts import compile_prompts
from rephrase_runner.records import Resolved
from rephrase_runner.rows import Document, Key
from rephrase_runner.tuning import steady_rate

logger = logging.getLogger(__name__)
_HANG_SECONDS = 180
_LOOK_SECONDS = 1
_PATIENCE = 15
"""An engine that has not answered once all that ran first in so many windows is measured as it is: with
thousands of sequences at once that takes minutes."""


class Order(BaseModel):
    """What to try."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: EngineSettings
    resolved: Resolved
    texts: tuple[str, ...]
    max_document_tokens: int | None = None
    seed: int | None = None
    window_seconds: float


def trial_main(order: str) -> int:
    """Do it; returns the exit code."""
    logs.configure("Info")
    try:
        asyncio.run(_try(Order.model_validate_json(order)))
    except RephraseError as error:
        logger.error("exit", extra={"reason": error.reason, "error": str(error)})
        return int(error.exit_code)
    return 0


async def _try(order: Order) -> None:
    clock = asyncio.get_running_loop().time
    started = clock()
    engine = await load(order.settings)
    ramp = engine.max_in_flight  # while it is empty
    try:
        resolved = order.resolved
        prompts = compile_prompts(
            resolved.prompts, engine.tokenizer, system_message=resolved.system_message
        )
        await warm_up(engine, prompts, patience_seconds=_HANG_SECONDS)
        ready = clock()
        preparer = Preparer(
            prompts,
            engine.tokenizer,
            context_tokens=engine.context_tokens,
            max_document_tokens=order.max_document_tokens,
            seed=order.seed,
            quality=Quality(),
        )
        keys = [
            (prompt.name, rollout)
            for prompt in resolved.prompts
            for rollout in range(prompt.rollouts)
        ]
        prepared = (preparer.prepare(*one) for one in endless(order.texts, keys))
        answers = await keep_full(engine, prepared, order.window_seconds, ramp)
    except BaseExceptionGroup as errors:
        cause = first_cause(errors)
        if isinstance(cause, EngineDead | TimeoutError):
            raise EngineFailed(f"the engine died: {str(cause) or 'it hangs'}") from errors
        raise cause from errors
    finally:
        await asyncio.to_thread(engine.close)
    logger.info(
        "measured",
        extra={
            "rate": steady_rate(answers, ramp=ramp),
            "answers": len(answers),
            "start_seconds": round(ready - started, 1),
        },
    )


def endless(
    texts: Sequence[str], keys: Sequence[tuple[str, int]]
) -> Iterator[tuple[Document, list[Key]]]:
    """The documents again and again, each time without one more of their first characters.

    So that a document that comes again shares nothing with what is in the engine's prefix cache.
    """
    for turn in itertools.count():
        for number, text in enumerate(texts):
            row = turn * len(texts) + number
            begun = text[turn % max(1, len(text) // 2) :]
            yield Document(0, row, "", begun), [Key(0, row, *key) for key in keys]


async def keep_full(
    engine: Engine, prepared: Iterator[Prepared], window_seconds: float, ramp: int
) -> list[tuple[float, int]]:
    """Time and tokens of each answer; the window begins when `ramp` of them came, as many as run at once."""
    clock = asyncio.get_running_loop().time
    slots = Slots(engine)
    answers: list[tuple[float, int]] = []
    begun = clock()

    def deliver(_index: int, outcome: Completion | RequestFailed) -> None:
        slots.give(1)
        if isinstance(outcome, Completion):
            answers.append((clock() - begun, outcome.completion_tokens))

    def over() -> bool:
        now = clock() - begun
        full = len(answers) > ramp and now - answers[ramp][0] >= window_seconds
        return full or now >= _PATIENCE * window_seconds

    async def room() -> bool:
        """Wait for room; False if the time is over before there is any."""
        signs, since = engine.steps, clock()
        while not over():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await slots.some()
                    return True
            if engine.steps != signs:
                signs, since = engine.steps, clock()
            elif clock() - since > _HANG_SECONDS:
                raise TimeoutError
        return False

    async with asyncio.TaskGroup() as group:
        tasks = set()
        while await room():
            one = await asyncio.to_thread(next, prepared)
            await slots.take(len(one.requests))
            task = group.create_task(
                engine.generate([ask.request for ask in one.requests], deliver)
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in list(tasks):
            task.cancel()
    return answers
