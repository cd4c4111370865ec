"""Serves the logs of containers to the API server, for `kubectl logs`: whole, the last lines, or followed."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from support.cluster.certificates import Authority
from support.cluster.kubelet.addresses import Addresses

_POLL_SECONDS = 0.2
_PIECE_BYTES = 1 << 16


class LogServer:
    """What listens where nodes say that their kubelet does.

    Args:
        addresses: with the socket.
        folder: empty; for the server's certificate.
        logs: gives the log files of a container, oldest start first, and whether it still runs;
            arguments are namespace, pod and container.
    """

    def __init__(
        self,
        addresses: Addresses,
        folder: Path,
        logs: Callable[[str, str, str], tuple[list[Path], bool]],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._addresses = addresses
        self._logs = logs
        pair = Authority(folder).issue("kubelet", names=[addresses.own])
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pair.certificate, pair.key)
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._serve)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        site = web.SockSite(self._runner, self._addresses.socket, ssl_context=self._context)
        await site.start()

    async def stop(self) -> None:
        """Cut off whoever listens."""
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        about = request.match_info
        key = (about["namespace"], about["pod"], about["container"])
        files, _ = self._logs(*key)
        place = -2 if request.query.get("previous") == "true" else -1
        if len(files) < -place:
            return web.Response(status=404, text=f"no log of container {key[2]} in pod {key[1]}\n")
        follow = request.query.get("follow") == "true" and place == -1
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        answer.force_close()  # so that no connection is left to be closed at the end
        await answer.prepare(request)
        with files[place].open("rb") as log:
            log.seek(_start(log.read(), request.query.get("tailLines")))
            while True:
                _, runs = self._logs(*key)  # before reading: what it wrote last is then read too
                while piece := log.read(_PIECE_BYTES):
                    await answer.write(piece)
                if not (follow and runs):
                    return answer
                await asyncio.sleep(_POLL_SECONDS)


def _start(content: bytes, tail_lines: str | None) -> int:
    """Where the last lines begin."""
    if tail_lines is None:
        return 0
    lines = content.splitlines(keepends=True)
    return len(content) - sum(map(len, lines[max(0, len(lines) - int(tail_lines)) :]))
