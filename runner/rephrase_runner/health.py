"""HTTP of a process: `/healthz`, `/metrics` and a driver's `/progress`. Read only, no state of its own."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from rephrase_api.errors import InvalidSpec
from rephrase_api.progress import Progress

logger = logging.getLogger(__name__)
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    *,
    metrics: Callable[[], bytes],
    progress: Callable[[], Progress] | None = None,
) -> AsyncIterator[int]:
    """Serve while the context lives; yields the port, which is also told in the log.

    Args:
        host: address to listen on.
        port: 0 = any free one.
        metrics: gives the body of `/metrics` at each request.
        progress: gives that of `/progress`; None: there is no such page.

    Raises:
        InvalidSpec: the address cannot be listened on.
    """

    async def get_progress(_: web.Request) -> web.Response:
        if progress is None:
            raise web.HTTPNotFound
        body = progress().model_dump_json(by_alias=True)
        return web.Response(text=body, content_type="application/json")

    async def get_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": _METRICS_TYPE})

    async def get_health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.add_routes(
        [
            web.get("/progress", get_progress),
            web.get("/healthz", get_health),
            web.get("/metrics", get_metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise InvalidSpec(
                f"cannot listen: {error.strerror}",
                where=f"{host}:{port}",
                remedy="Choose another port.",
            ) from error
        bound = int(runner.addresses[0][1])
        logger.info("listening", extra={"host": host, "port": bound})
        yield bound
    finally:
        await runner.cleanup()
