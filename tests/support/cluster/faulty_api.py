"""A proxy in front of an API server that refuses, delays, cuts, loses answers and lets watches go silent.

What is carried out is carried out by the genuine server; only what becomes of request and answer on their
way is scripted. It runs in a thread of its own, and its script may be changed at any time.
"""

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

from support.cluster.access import Access
from support.cluster.certificates import Authority

_HERE = "127.0.0.1"
_PASSED_ON = ("Authorization", "Content-Type", "Accept")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        verb: get, list, watch, post, patch, put or delete.
        resource: plural name, ``rephraseruns/status`` for example; empty if it asks for none.
        dry: nothing is to be stored.
    """

    verb: str
    resource: str
    dry: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """What becomes of a request.

    Attributes:
        name: for counting.
        code: it is answered with this error, 0 if with none.
        retry_after: seconds to wait, said beside the error; 0: nothing is said.
        carried_out: the server gets it.
        answered: its answer arrives; else the connection is reset.
        delay: seconds until anything happens.
        event: the stream of this watch begins and ends with an error of this code.
    """

    name: str
    code: int = 0
    retry_after: int = 0
    carried_out: bool = False
    answered: bool = True
    delay: float = 0
    event: int = 0


CONFLICT = Trouble("409", code=409)
BUSY = Trouble("429", code=429, retry_after=1)
BROKEN = Trouble("500", code=500)
AWAY = Trouble("503", code=503)
RESET = Trouble("reset", answered=False)
LOST = Trouble("lost answer", carried_out=True, answered=False)
SLOW = Trouble("slow", carried_out=True, delay=3)
EXPIRED = Trouble("410 in a watch", event=410)
BROKEN_WATCH = Trouble("500 in a watch", event=500)

Script = Callable[[Asked], Trouble | None]


def calm(_asked: Asked) -> None:
    """Every request is carried out and answered."""


def stormy(seed: int, share: float) -> Script:
    """Each request, with this probability, meets a trouble that it can meet."""
    random = Random(seed)  # noqa: S311 - no secret
    writes = (CONFLICT, BUSY, BROKEN, AWAY, RESET, LOST, LOST, SLOW)

    def script(asked: Asked) -> Trouble | None:
        if random.random() >= share:
            return None
        if asked.verb == "watch":
            return random.choice((BUSY, BROKEN, AWAY, RESET, EXPIRED))
        return random.choice(writes if asked.verb in {"post", "patch", "delete"} else writes[1:])

    return script


class FaultyAPI:
    """The proxy; a context manager.

    Args:
        upstream: the genuine server.
        folder: for a certificate authority of its own.
    """

    def __init__(self, upstream: Access, folder: Path) -> None:
        self.script: Script = calm
        self.troubles: Counter[str] = Counter()
        """By the name of the trouble."""
        self.watches: Counter[str] = Counter()
        """Begun so far, by resource."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(folder)
        self._pair = authority.issue("faulty-api", names=(_HERE,))
        self._authority = authority.file
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._streams: set[_Stream] = set()

    def access(self, token: str) -> Access:
        """Through the proxy, for the bearer of a token."""
        return Access(self._server, self._authority, token=token)

    def cut_watches(self) -> None:
        """Reset the connections of all watches."""
        for stream in list(self._streams):
            self._loop.call_soon_threadsafe(stream.cut)

    def silence_watches(self) -> None:
        """Watches that are open now tell nothing any more, and stay open."""
        for stream in list(self._streams):
            self._loop.call_soon_threadsafe(stream.silence)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- in the thread ----------------------------------------------------------------------------

    def _call(self, doing: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(timeout=30)

    async def _open(self) -> None:
        trusting = ssl.create_default_context(cafile=str(self._upstream.authority))
        self._session = ClientSession(
            connector=TCPConnector(limit=0, ssl=trusting),
            timeout=ClientTimeout(total=None),
            read_bufsize=2**22,  # a line of a watch holds a whole object
        )
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(self._pair.certificate, self._pair.key)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, _HERE, 0, ssl_context=serving).start()
        self._server = f"https://{_HERE}:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        for stream in list(self._streams):
            stream.cut()
        await self._runner.cleanup()
        await self._session.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # of connections that were reset
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request)
        if asked.verb == "watch":
            self.watches[asked.resource] += 1
        trouble = self.script(asked)
        if trouble is None:
            return await self._pass_on(request, asked)
        self.troubles[trouble.name] += 1
        await asyncio.sleep(trouble.delay)
        if trouble.event:
            error = {"type": "ERROR", "object": _status(trouble.event)}
            return web.Response(text=json.dumps(error) + "\n", content_type="application/json")
        if trouble.code:
            wait = {"Retry-After": str(trouble.retry_after)} if trouble.retry_after else {}
            return web.json_response(_status(trouble.code), status=trouble.code, headers=wait)
        answer = await self._pass_on(request, asked) if trouble.carried_out else web.Response()
        if not trouble.answered and request.transport is not None:
            request.transport.abort()
        return answer

    async def _pass_on(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        url = URL(self._upstream.server + request.raw_path, encoded=True)
        body = await request.read()
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body or None
            ) as answer:
                kind = {"Content-Type": answer.headers["Content-Type"]}
                if asked.verb != "watch" or answer.status != 200:
                    data = await answer.read()
                    return web.Response(status=answer.status, headers=kind, body=data)
                stream = _Stream(request)
                self._streams.add(stream)
                try:
                    told = web.StreamResponse(headers=kind)
                    await told.prepare(request)
                    async for line in answer.content:
                        await stream.tell(told, line)
                    return told
                finally:
                    self._streams.discard(stream)
        except ClientError as error:
            return web.json_response(_status(502, str(error)), status=502)


class _Stream:
    """An open watch."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._silent = False

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    def silence(self) -> None:
        self._silent = True

    async def tell(self, to: web.StreamResponse, line: bytes) -> None:
        if self._silent:
            await asyncio.Event().wait()  # until the other side has had enough
        await to.write(line)


def _asked(request: web.Request) -> Asked:
    parts = request.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    verb = request.method.lower()
    if verb == "get":
        verb = "watch" if "watch" in request.query else "get" if len(parts) > 1 else "list"
    resource = "/".join((*parts[:1], *parts[2:]))
    return Asked(verb, resource, "dryRun" in request.query)


def _status(code: int, message: str = "scripted") -> dict[str, object]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "message": message, "reason": ""}  # fmt: skip
