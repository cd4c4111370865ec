"""A small client of the API server for tests: the verbs, and waiting for what an object becomes."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from support.cluster.access import Access
from support.cluster.resources import path_of, resource_of
from support.cluster.wire import AGENT, APPLY, MERGE, YAML, Object, Refused, Wire

_STRICT = {"fieldValidation": "Strict"}
_DRY = {"dryRun": "All"}


class Client:
    """Speaks to the API server with one identity, within one namespace.

    Args:
        access: server and credentials.
        namespace: of all that lies in one; None: of all of them together.
    """

    def __init__(self, access: Access, namespace: str | None = None) -> None:
        self.wire = Wire(access)
        self.namespace = namespace

    def in_namespace(self, namespace: str | None) -> "Client":
        """The same identity in another namespace."""
        other = object.__new__(Client)
        other.wire, other.namespace = self.wire, namespace
        return other

    # -- verbs ------------------------------------------------------------------------------------

    def get(self, resource: str, name: str, subresource: str = "") -> Object:
        """An object.

        Raises:
            Refused: it is not there (404), or must not be read.
        """
        return self.wire.request("GET", path_of(resource, self.namespace, name, subresource))

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
        items: list[Object] = self.wire.request(
            "GET", path_of(resource, self.namespace), query=query
        )["items"]
        return items

    def serves(self, resource: str) -> bool:
        """Whether there is such a resource: one that is established just now is refused for a moment."""
        try:
            self.list(resource)
        except Refused as refused:
            if refused.code not in (404, 429):
                raise
            return False
        return True

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create what the manifest says; it comes back as it is stored."""
        path = path_of(resource_of(manifest), self.namespace)
        query = _STRICT | (_DRY if dry_run else {})
        return self.wire.request("POST", path, manifest, query=query)

    def try_yaml(self, resource: str, text: str) -> Object:
        """What the API server would make of a text, which it reads itself; nothing is created."""
        path = path_of(resource, self.namespace)
        return self.wire.request("POST", path, text, query=_STRICT | _DRY, content_type=YAML)

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create or change, by server-side apply."""
        path = path_of(resource_of(manifest), self.namespace, manifest["metadata"]["name"])
        query = {"fieldManager": AGENT, "force": "true"} | _STRICT | (_DRY if dry_run else {})
        return self.wire.request("PATCH", path, manifest, query=query, content_type=APPLY)

    def patch(
        self, resource: str, name: str, patch: Mapping[str, Any], subresource: str = "",
        *, how: str = MERGE, dry_run: bool = False,
    ) -> Object:  # fmt: skip
        """Change an object by a patch, a JSON merge patch unless `how` says otherwise."""
        path = path_of(resource, self.namespace, name, subresource)
        query = _STRICT | (_DRY if dry_run else {})
        return self.wire.request("PATCH", path, patch, query=query, content_type=how)

    def replace(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Replace an object by what the manifest says."""
        path = path_of(resource_of(manifest), self.namespace, manifest["metadata"]["name"])
        query = _STRICT | (_DRY if dry_run else {})
        return self.wire.request("PUT", path, manifest, query=query)

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
            self.wire.request("DELETE", path_of(resource, self.namespace, name), options)
        except Refused as refused:
            if refused.code != 404:
                raise

    def evict(self, pod: str) -> None:
        """Evict a pod through the API, as `kubectl drain` and Karpenter do."""
        metadata = {"name": pod, "namespace": self.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        self.wire.request("POST", path_of("pods", self.namespace, pod, "eviction"), eviction)

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
        return str(self.wire.request("POST", path, request)["status"]["token"])

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
            found = self.wire.request("GET", path, query={"fieldSelector": fields})
            yield found["items"][0] if found["items"] else None
            since = found["metadata"]["resourceVersion"]
            with suppress(Refused):  # 410: the watch is too old; look anew
                for kind, state in self.wire.watch(path, since, fields=fields, seconds=left):
                    yield None if kind == "DELETED" else state
