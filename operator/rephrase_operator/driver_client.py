"""DOOR to drivers: `GET /progress` under a deadline. The answer is not trusted: bounded and checked."""

import logging

import aiohttp
from pydantic import ValidationError

from rephrase_api.progress import Progress

logger = logging.getLogger(__name__)
_SECONDS = 2
_MOST_BYTES = 4 << 20


class DriverClient:
    """Asks drivers for their progress."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Prepare; call within the event loop."""
        # a proxy for the API server is none for pods
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def progress(self, address: str, port: int) -> Progress | None:
        """What the driver at an address says; None if it does not answer, or not as a driver does."""
        if self._session is None:
            raise RuntimeError("not opened")
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{port}/progress"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                body = await response.content.read(_MOST_BYTES + 1)
                while len(body) <= _MOST_BYTES and not response.content.at_eof():
                    body += await response.content.read(_MOST_BYTES + 1 - len(body))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.debug("driver does not answer", extra={"url": url, "error": repr(error)})
            return None
        if len(body) > _MOST_BYTES:
            logger.warning("driver's answer is too large", extra={"url": url})
            return None
        try:
            return Progress.model_validate_json(body)
        except ValidationError as error:
            logger.warning("driver's answer is none", extra={"url": url, "error": str(error)})
            return None
