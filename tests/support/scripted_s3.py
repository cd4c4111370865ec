"""A small S3 server that misbehaves on request: stores and answers wrongly, answers and does not store.

Only what we need: PUT (also If-None-Match), GET (also Range), HEAD, DELETE and ListObjectsV2 of one bucket in
memory. No signatures are checked. Faults are a script: each names how many of the next requests of a
method it hits, and what happens to them.
"""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from xml.sax.saxutils import escape

from aiohttp import web

from support.loopback import served

Answer = Literal["500", "503", "409", "403", "cut", "hang"]


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of `method` whose key contains `key`.

    `effect`: whether the request is carried out before it is answered wrongly.
    """

    method: str
    answer: Answer
    effect: bool
    times: int = 1
    key: str = ""


@dataclass(slots=True)
class ScriptedS3:
    """The server's bucket, script and log of requests."""

    endpoint: str = ""
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies that were read, by key."""
    ignore_conditions: bool = False

    def count(self, method: str, key: str = "") -> int:
        """How many requests of `method` were made for keys that contain `key`."""
        return sum(1 for made, name in self.requests if made == method and key in name)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Carry out a request, or what the script says."""
        key = request.match_info["key"].removeprefix("/")
        method = request.method
        self.requests.append((method, key))
        body = await request.read()
        fault = self._fault(method, key)
        if fault is None:
            return self._carry_out(request, key, body)
        if fault.effect:
            self._carry_out(request, key, body)
        if fault.answer == "cut":
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        if fault.answer == "hang":
            await asyncio.sleep(3600)
        code = {"409": "ConditionalRequestConflict", "403": "AccessDenied"}.get(
            fault.answer, "InternalError"
        )
        return web.Response(status=int(fault.answer), text=f"<Error><Code>{code}</Code></Error>")

    def _fault(self, method: str, key: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.key in key and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _carry_out(self, request: web.Request, key: str, body: bytes) -> web.Response:
        match request.method:
            case "PUT":
                conditional = request.headers.get("If-None-Match") == "*"
                if conditional and key in self.objects and not self.ignore_conditions:
                    return web.Response(status=412)
                self.objects[key] = (body, datetime.now(UTC))  # noqa: TID251 - the server's clock
                return web.Response(headers={"ETag": _etag(body)})
            case "DELETE":
                self.objects.pop(key, None)
                return web.Response(status=204)
            case "POST":  # DeleteObjects, which obstore uses for a single one too
                keys = re.findall(rb"<Key>(.*?)</Key>", body)
                for found in keys:
                    self.objects.pop(found.decode(), None)
                items = "".join(f"<Deleted><Key>{found.decode()}</Key></Deleted>" for found in keys)
                return web.Response(text=f"<DeleteResult>{items}</DeleteResult>")
            case _ if not key:
                return self._list(request)
            case _:
                return self._get(request, key)

    def _get(self, request: web.Request, key: str) -> web.Response:
        if key not in self.objects:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        data, modified = self.objects[key]
        headers = {
            "ETag": _etag(data),
            "Last-Modified": modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }
        status = 200
        if "Range" in request.headers:
            start, stop, _ = request.http_range.indices(len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(data))
            return web.Response(headers=headers)
        self.sent[key] += len(data)
        return web.Response(status=status, body=data, headers=headers)

    def _list(self, request: web.Request) -> web.Response:
        prefix = request.query.get("prefix", "")
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{_etag(data)}</ETag>"
            f"<LastModified>{modified.isoformat()}</LastModified></Contents>"
            for key, (data, modified) in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        return web.Response(text=text, content_type="application/xml")


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


@asynccontextmanager
async def scripted_s3() -> AsyncIterator[ScriptedS3]:
    """Serve on a free port of the loopback interface."""
    server = ScriptedS3()
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{bucket}{key:(/.*)?}", server.handle)
    async with served(app) as (host, port):
        server.endpoint = f"http://{host}:{port}"
        yield server
