"""DOOR to the file that says when a worker stops by itself, should no operator put that off.

It is an annotation of the pod, which the kubelet keeps up to date; only a run with a budget has one.
"""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

POLL_SECONDS = 5


async def watch(path: Path, *, poll_seconds: float = POLL_SECONDS) -> None:
    """Return once the time in a file has come; never while it is empty, missing or no time.

    Args:
        path: of the file, with a time of RFC 3339.
        poll_seconds: time between two readings; each is a few bytes from memory.
    """
    told = ""
    while True:
        try:
            text = path.read_text().strip()  # noqa: ASYNC240 - a file of a few bytes in memory
            until = datetime.fromisoformat(text) if text else None
            if until is not None and until <= datetime.now(UTC):  # noqa: TID251 - it is about the clock
                logger.warning("no operator has put off the time to stop", extra={"stop_at": text})
                return
        except (OSError, ValueError, TypeError) as error:
            if str(error) != told:  # once, not every few seconds
                logger.warning("time to stop is not readable", extra={"reason": str(error)})
            told = str(error)
        await asyncio.sleep(poll_seconds)
