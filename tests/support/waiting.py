"""Waiting for a condition under a deadline: the one place of the tests that sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], T | None], what: str, *, within: float = 30) -> T:
    """Call `condition` again and again until it gives something true; returns that.

    Args:
        condition: an exception of it ends the wait.
        what: what is waited for, for the message.
        within: seconds; be generous, since they are only used up when the test fails.

    Raises:
        AssertionError: it gave nothing true in time.
    """
    give_up = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(_POLL_SECONDS)  # noqa: TID251 - this is the waiting under a deadline
    return found


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]], what: str, *, within: float = 30
) -> T: ...


@overload
async def eventually(condition: Callable[[], T | None], what: str, *, within: float = 30) -> T: ...


async def eventually(condition: Callable[[], Any], what: str, *, within: float = 30) -> Any:
    """`wait_until` in an event loop, which goes on meanwhile; the condition may be a coroutine."""
    give_up = time.monotonic() + within
    while True:
        given = condition()
        found = await given if isinstance(given, Awaitable) else given
        if found:
            return found
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {within:g} s: {what}")
        await asyncio.sleep(_POLL_SECONDS)
