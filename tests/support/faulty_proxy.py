"""A proxy in front of an S3 server that delays, errs, cuts and loses answers.

It signs nothing: a client signs for the proxy's own host and port, and the `Host` header is passed on as
it came, which is what the server checks the signature against. All requests are counted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from enum import Enum
from random import Random  # noqa: TID251 - seeded by the test
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from support.objects import kind_of

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}
_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Of aiohttp's client; what the real client did not send must not be there."""


class Trouble(Enum):
    """What may happen to a request."""

    DELAY = "delayed"
    STALL = "answered late"
    REFUSE_500 = "500, not carried out"
    REFUSE_503 = "503, not carried out"
    ANSWER_500 = "carried out, answered 500"
    ANSWER_503 = "carried out, answered 503"
    CUT = "cut, not carried out"
    LOSE = "carried out, answer lost"
    LATE = "cut, carried out seconds later"
    SWALLOW = "never answered, not carried out"


Weather = Callable[[str, str], Trouble | None]
"""Given verb (PUT, GET, HEAD, LIST, DELETE) and object name: the trouble of the next such request."""


def calm(_verb: str, _name: str) -> None:
    """Every request is carried out and answered."""


ROUGH = {
    Trouble.DELAY: 0.10,
    Trouble.STALL: 0.005,
    Trouble.REFUSE_500: 0.015,
    Trouble.REFUSE_503: 0.015,
    Trouble.ANSWER_500: 0.015,
    Trouble.ANSWER_503: 0.015,
    Trouble.CUT: 0.015,
    Trouble.LOSE: 0.015,
    Trouble.LATE: 0.03,
}
"""A store on a bad day: one request in ten is troubled, not counting delays."""


_OVERWRITTEN = {"workers", "progress", "README.md", "report.html"}
OUTAGE = 0.0007
"""Chance of a request to be the first of an outage: then nothing is carried out for some seconds."""
_OUTAGE_SECONDS = (4.0, 10.0)


def stormy(
    seed: int, chances: Mapping[Trouble, float] = ROUGH, *, outage: float = OUTAGE
) -> Weather:
    """Trouble at random, each kind with its chance, and outages.

    Only puts of what is written once come late. An overwritten object that lands after its successor
    hides it: no harm to the dataset, but an old heartbeat knows of fewer tokens than were committed.
    """
    random = Random(seed)  # noqa: S311 - no secret
    troubles = list(chances)
    bounds = [sum(list(chances.values())[: place + 1]) for place in range(len(troubles))]
    back_at = 0.0

    def next_trouble(verb: str, name: str) -> Trouble | None:
        nonlocal back_at
        if random.random() < outage:
            back_at = time.monotonic() + random.uniform(*_OUTAGE_SECONDS)
        if time.monotonic() < back_at:
            return random.choice((Trouble.CUT, Trouble.REFUSE_503))
        drawn = random.random()
        found = next((t for t, bound in zip(troubles, bounds, strict=True) if drawn < bound), None)
        once = verb == "PUT" and kind_of(name) not in _OVERWRITTEN
        return Trouble.LOSE if found is Trouble.LATE and not once else found

    return next_trouble


def swallowing(*verbs: str) -> Weather:
    """Requests of these verbs are never answered."""
    return lambda verb, _name: Trouble.SWALLOW if verb in verbs else None


class FaultyProxy:
    """The proxy. Its weather may be changed at any time.

    Args:
        upstream: URL of the real server.
        weather: what happens to requests.
        seed: of the lengths of delays.
    """

    def __init__(self, upstream: str, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.endpoint = ""
        self.requests: Counter[tuple[str, str]] = Counter()
        """By verb and kind of object."""
        self.troubles: Counter[Trouble] = Counter()
        self._upstream = upstream
        self._random = Random(seed)  # noqa: S311 - no secret
        self._late: set[asyncio.Task[None]] = set()
        self._session: ClientSession | None = None

    def count(self, verb: str, kind: str | None = None) -> int:
        """Requests of this verb, for this kind of object or all."""
        return sum(n for (v, k), n in self.requests.items() if v == verb and kind in (None, k))

    def by_verb(self) -> dict[str, int]:
        """Requests by verb."""
        found: Counter[str] = Counter()
        for (verb, _), number in self.requests.items():
            found[verb] += number
        return dict(sorted(found.items()))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, or do to it what the weather says."""
        verb = "LIST" if "list-type" in request.query else request.method
        verb = "DELETE" if "delete" in request.query else verb  # a POST with names in its body
        name = request.query.get("prefix", "") if verb == "LIST" else request.path
        self.requests[verb, kind_of(name)] += 1
        body = await request.read()
        trouble = self.weather(verb, name)
        if trouble is not None:
            self.troubles[trouble] += 1
        match trouble:
            case None:
                return await self._pass_on(request, body)
            case Trouble.DELAY:
                await asyncio.sleep(self._random.uniform(0.02, 0.5))
                return await self._pass_on(request, body)
            case Trouble.STALL:
                answer = await self._pass_on(request, body)
                await asyncio.sleep(self._random.uniform(2, 12))
                return answer
            case Trouble.REFUSE_500 | Trouble.REFUSE_503:
                return _error(trouble)
            case Trouble.ANSWER_500 | Trouble.ANSWER_503:
                await self._pass_on(request, body)
                return _error(trouble)
            case Trouble.CUT:
                return _cut(request)
            case Trouble.LOSE:
                await self._pass_on(request, body)
                return _cut(request)
            case Trouble.LATE:
                self._later(self._pass_on(request, body), self._random.uniform(0.5, 8))
                return _cut(request)
            case Trouble.SWALLOW:
                await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        if self._session is None:
            raise AssertionError("not open")
        headers = CIMultiDict(
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in _HOP_BY_HOP
        )
        url = URL(self._upstream + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                data = await answer.read()
                kept = CIMultiDict(
                    (name, value)
                    for name, value in answer.headers.items()
                    if name.lower() not in _HOP_BY_HOP
                )
                return web.Response(status=answer.status, headers=kept, body=data)
        except ClientError as error:
            return web.Response(status=502, text=str(error))

    def _later(self, doing: Coroutine[Any, Any, web.Response], seconds: float) -> None:
        async def do() -> None:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                doing.close()
                raise
            await doing

        task = asyncio.create_task(do())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def all_landed(self) -> None:
        """Wait until nothing is on its way any more that will be carried out late."""
        await asyncio.gather(*self._late)

    async def __aenter__(self) -> "FaultyProxy":
        self._session = ClientSession(
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=_OWN_HEADERS,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._late):
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


def _error(trouble: Trouble) -> web.Response:
    status = 503 if trouble in (Trouble.REFUSE_503, Trouble.ANSWER_503) else 500
    code = "SlowDown" if status == 503 else "InternalError"
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)  # reaches nobody


@asynccontextmanager
async def faulty_proxy(
    upstream: str, weather: Weather = calm, *, seed: int = 0
) -> AsyncIterator[FaultyProxy]:
    """Serve on a free port of the loopback interface, in front of the server at `upstream`."""
    async with FaultyProxy(upstream, weather, seed) as proxy:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            with suppress(asyncio.CancelledError):
                await runner.cleanup()
