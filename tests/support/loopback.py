"""Servers of the tests' own on a free port of this machine."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import ThreadingHTTPServer

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[tuple[str, int]]:
    """Serve an application in this event loop; yields host and port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, int]]:
    """Serve whatever is asked for; yields host and port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with served(app) as address:
        yield address


@contextmanager
def in_thread(server: ThreadingHTTPServer) -> Iterator[str]:
    """Have a server answer in a thread of its own; yields host and port as in a URL."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
