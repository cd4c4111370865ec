"""One engine call for many requests, as tasks; the part of `generate` that engines have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rephrase_api.errors import RephraseError
from rephrase_runner.engines.base import (
    Completion,
    Deliver,
    EngineDead,
    Request,
    RequestFailed,
)

Answer = Callable[[Request], Awaitable[Completion | RequestFailed]]


async def fan_out(requests: Sequence[Request], deliver: Deliver, answer: Answer) -> None:
    """Answer all `requests` at once and deliver each outcome as it comes.

    The tasks take their first steps in the order of `requests`, so whatever `answer` does before it first
    waits happens in that order. Cancelling this call cancels them all.

    Raises:
        EngineDead, RephraseError: `answer` raised it for a request; the others are cancelled.
    """

    async def one(index: int, request: Request) -> None:
        deliver(index, await answer(request))

    try:
        async with asyncio.TaskGroup() as tasks:
            for index, request in enumerate(requests):
                tasks.create_task(one(index, request))
    except* (EngineDead, RephraseError) as ends:
        first = ends.exceptions[0]
    else:
        return
    raise first
