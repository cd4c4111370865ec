"""A small client of the API server for tests: objects are dicts, errors are `Refused`, nothing is retried.

What the server says is what a test sees, so 409, 422 and 429 come through as they are.
"""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import urllib3

from support.cluster.access import Access
from support.cluster.resources import path_of, resource_of

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON reads."""
JSON, MERGE = "application/json", "application/merge-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
_MANAGER = "rephrase-tests"


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


class Client:
    """Speaks to the API server with one identity, within one namespace.

    Args:
        access: server and credentials.
        namespace: of all that lies in one; None: of all of them together.
    """

    def __init__(self, access: Access, namespace: str | None = None) -> None:
        self.access = access
        self.namespace = namespace
        self._pool = _pool(access)

    def in_namespace(self, namespace: str | None) -> "Client":
        """The same identity in another namespace."""
        other = object.__new__(Client)
        other.access, other.namespace, other._pool = self.access, namespace, self._pool
        return other

    # -- verbs ------------------------------------------------------------------------------------

    def get(self, resource: str, name: str, subresource: str = "") -> Object:
        """An object.

        Raises:
            Refused: it is not there (404), or must not be read.
        """
        return self.request("GET", path_of(resource, self.namespace, name, subresource))

    def find(self, resource: str, name: str) -> Object | None:
        """An object, None if there is none of that name."""
        try:
            return self.get(resource, name)
        except Refused as refused:
            if refused.code != 404:
                raise
            return None

    def list(self, resource: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """All objects that these selectors match."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        items: list[Object] = self.request("GET", path_of(resource, self.namespace), query=query)[
            "items"
        ]
        return items

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create what the manifest says; it comes back as it is stored."""
        path = path_of(resource_of(manifest), self.namespace)
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self.request("POST", path, manifest, query=query)

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create or change, by server-side apply."""
        path = path_of(resource_of(manifest), self.namespace, manifest["metadata"]["name"])
        query = {"fieldManager": _MANAGER, "force": "true", "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        return self.request("PATCH", path, manifest, query=query, content_type=APPLY)

    def patch(
        self, resource: str, name: str, patch: Mapping[str, Any], subresource: str = "",
        *, how: str = MERGE,
    ) -> Object:  # fmt: skip
        """Change an object by a patch, a JSON merge patch unless `how` says otherwise."""
        path = path_of(resource, self.namespace, name, subresource)
        return self.request("PATCH", path, patch, content_type=how)

    def delete(
        self, resource: str, name: str, *, grace_seconds: int | None = None, uid: str = "",
        propagation: str = "Background",
    ) -> None:  # fmt: skip
        """Delete an object; fine if there is none of that name."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options["propagationPolicy"] = propagation
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self.request("DELETE", path_of(resource, self.namespace, name), options)
        except Refused as refused:
            if refused.code != 404:
                raise

    def evict(self, pod: str) -> None:
        """Evict a pod through the API, as `kubectl drain` and Karpenter do."""
        metadata = {"name": pod, "namespace": self.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        self.request("POST", path_of("pods", self.namespace, pod, "eviction"), eviction)

    def token(
        self, service_account: str, *, seconds: int = 3600, bound_to: Object | None = None
    ) -> str:
        """A token for a ServiceAccount, bound to a pod on request."""
        spec: Object = {"expirationSeconds": seconds}
        if bound_to is not None:
            metadata = bound_to["metadata"]
            spec["boundObjectRef"] = {
                "kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]
            }  # fmt: skip
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = path_of("serviceaccounts", self.namespace, service_account, "token")
        return str(self.request("POST", path, request)["status"]["token"])

    # -- waiting ----------------------------------------------------------------------------------

    def wait_for(
        self, resource: str, name: str, condition: Callable[[Object], object], what: str,
        *, within: float = 30,
    ) -> Object:  # fmt: skip
        """Watch an object until the condition holds of it, and return it as it was then.

        Args:
            resource: plural name.
            name: of the object, which need not be there yet.
            condition: of the object.
            what: is waited for, for the message.
            within: seconds; be generous.

        Raises:
            AssertionError: the condition did not hold in time.
        """
        last: Object | None = None
        for last in self._states(resource, name, within):
            if last is not None and condition(last):
                return last
        seen = json.dumps((last or {}).get("status"), indent=1) if last else "it is not there"
        raise AssertionError(f"not within {within:g} s: {resource}/{name}: {what}; last: {seen}")

    def wait_gone(self, resource: str, name: str, *, within: float = 30) -> None:
        """Watch an object until it is no longer there.

        Raises:
            AssertionError: it still was when the time was over.
        """
        last: Object | None = None
        for last in self._states(resource, name, within):
            if last is None:
                return
        metadata = json.dumps((last or {}).get("metadata"), indent=1)
        raise AssertionError(
            f"not within {within:g} s: {resource}/{name} is gone; last: {metadata}"
        )

    def _states(self, resource: str, name: str, within: float) -> Iterator[Object | None]:
        give_up = time.monotonic() + within
        path, fields = path_of(resource, self.namespace), f"metadata.name={name}"
        while (left := give_up - time.monotonic()) > 0:
            found = self.request("GET", path, query={"fieldSelector": fields})
            yield found["items"][0] if found["items"] else None
            since = found["metadata"]["resourceVersion"]
            with suppress(Refused):  # 410: the watch is too old; look anew
                for kind, state in self.watch(path, since, fields=fields, seconds=left):
                    yield None if kind == "DELETED" else state

    # -- the wire ---------------------------------------------------------------------------------

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
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *,
        query: Mapping[str, str] | None = None, content_type: str = JSON, accept: str = JSON,
    ) -> Object:  # fmt: skip
        """Send a request and return the object that is answered.

        Raises:
            Refused: an error is answered.
        """
        response = self._send(
            method, path, body, query=query, content_type=content_type, accept=accept
        )
        answer: Object = json.loads(response.data)
        response.release_conn()
        return answer

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """What is answered to a GET, logs for example, as text."""
        response = self._send("GET", path, query=query)
        return response.data.decode()

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *,
        query: Mapping[str, str] | None = None, content_type: str = JSON, accept: str = JSON,
        timeout: float = 30,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        headers = {"Content-Type": content_type, "Accept": accept, "User-Agent": _MANAGER}
        if self.access.token:
            headers["Authorization"] = f"Bearer {self.access.token}"
        response = self._pool.urlopen(
            method,
            f"{self.access.server}{path}{_query(query)}",
            body=None if body is None else json.dumps(body).encode(),
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


def _status(response: urllib3.BaseHTTPResponse) -> Object:
    data = response.data
    response.release_conn()
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
