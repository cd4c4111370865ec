"""The conversation with an API server: requests, watches, errors. Objects are dicts; nothing is retried.

What the server says is what a test sees, so 409, 422 and 429 come through as they are.
"""

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3

from support.cluster.access import Access

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON reads."""
JSON, YAML, MERGE = "application/json", "application/yaml", "application/merge-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
AGENT = "rephrase-tests"
"""Who asks, and who applies."""


class Refused(Exception):
    """The API server answered with an error.

    Args:
        status: the object it answered with.
    """

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.code = int(status.get("code", 0))
        self.reason = str(status.get("reason", ""))
        self.message = str(status.get("message", ""))
        self.causes = [dict(cause) for cause in (status.get("details") or {}).get("causes") or []]
        super().__init__(f"{self.code} {self.reason}: {self.message}")


Unreachable = (urllib3.exceptions.HTTPError, OSError)
"""What is raised when there is no answer."""


class Wire:
    """Speaks to the API server with one identity.

    Args:
        access: server and credentials.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._pool = _pool(access)

    def watch(
        self, path: str, since: str, *, fields: str = "", seconds: float = 60,
        opened: Callable[[urllib3.BaseHTTPResponse], None] = lambda _: None,
    ) -> Iterator[tuple[str, Object]]:  # fmt: skip
        """What happens to the objects of a path after a resource version: ADDED, MODIFIED, DELETED.

        Args:
            path: of a list.
            since: its resource version.
            fields: selector.
            seconds: when the server is to end it.
            opened: is given the answer, by which another thread can end it.

        Raises:
            Refused: the server cannot go on, 410 for example.
        """
        query = {"watch": "true", "resourceVersion": since, "fieldSelector": fields}
        query["timeoutSeconds"] = str(max(1, round(seconds)))
        response = self._send("GET", path, query=query, timeout=seconds + 10)
        opened(response)
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(event["object"])
                yield event["type"], event["object"]
        finally:
            response.close()

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | str | None = None, *,
        query: Mapping[str, str] | None = None, content_type: str = JSON, accept: str = JSON,
    ) -> Object:  # fmt: skip
        """Send a request and return the object that is answered.

        Raises:
            Refused: an error is answered.
        """
        response = self._send(
            method, path, body, query=query, content_type=content_type, accept=accept
        )
        answer: Object = json.loads(_data(response))
        return answer

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """What is answered to a GET, logs for example, as text."""
        response = self._send("GET", path, query=query)
        return _data(response).decode()

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | str | None = None, *,
        query: Mapping[str, str] | None = None, content_type: str = JSON, accept: str = JSON,
        timeout: float = 30,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        headers = {"Content-Type": content_type, "Accept": accept, "User-Agent": AGENT}
        if self.access.token:
            headers["Authorization"] = f"Bearer {self.access.token}"
        response = self._pool.urlopen(
            method,
            f"{self.access.server}{path}{_query(query)}",
            body=(body if isinstance(body, str) else json.dumps(body)).encode() if body else None,
            headers=headers,
            timeout=timeout,
            retries=False,
            preload_content=False,
        )
        if response.status >= 400:
            raise Refused(_status(response))
        return response


def _pool(access: Access) -> urllib3.PoolManager:
    context = ssl.create_default_context(cafile=str(access.authority))
    if access.certificate:
        context.load_cert_chain(access.certificate, access.key)
    return urllib3.PoolManager(ssl_context=context, maxsize=32)


def _query(query: Mapping[str, str] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value}
    return f"?{urlencode(given)}" if given else ""


def _data(response: urllib3.BaseHTTPResponse) -> bytes:
    """The whole body; of a connection that breaks on the way nothing is left open."""
    try:
        return response.data
    except BaseException:
        response.close()
        raise
    finally:
        response.release_conn()


def _status(response: urllib3.BaseHTTPResponse) -> Object:
    data = _data(response)
    try:
        status: Object = json.loads(data)
    except ValueError:
        return {"code": response.status, "message": data.decode(errors="replace")}
    return {"code": response.status} | status


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Lines as they arrive; what the server cut off in the middle is left out."""
    rest = b""
    try:
        for data in response.stream(None, decode_content=True):
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return
