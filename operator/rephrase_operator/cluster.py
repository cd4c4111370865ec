"""DOOR to Kubernetes: what the operator writes, and the few things it reads beside kopf's watches.

Dicts in, dicts out. Creating what is there already and deleting what is gone are fine. Writes are bounded:
at most `MOST_AT_ONCE` requests are in flight.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from rephrase_api import names

MOST_AT_ONCE = 10
_REQUEST_SECONDS = 15
_MERGE = "application/merge-patch+json"
_JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
_RUNS = f"/apis/{names.API_VERSION}/namespaces/{{namespace}}/{names.PLURAL}"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_EVENTS = "/api/v1/namespaces/{namespace}/events"


class Refused(Exception):
    """The API server answered with an error.

    Attributes:
        code: HTTP status; 0 if there was no answer.
        message: its own sentence.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}" if code else message)

    @property
    def for_good(self) -> bool:
        """Whether the same request would be refused again."""
        return self.code in {400, 403, 413, 422}


class NameTaken(Exception):
    """Another's object has the name; the message names it."""


class ComingAndGoing(Exception):
    """An object of that name is being deleted: create it later."""


class Cluster:
    """A connection to the API server; use as an async context manager."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._api: client.ApiClient | None = None
        self.may_read_events = True
        """Permission to list events is optional."""

    async def open(self) -> None:
        """Connect as the pod's ServiceAccount, or as KUBECONFIG says."""
        found = client.Configuration()
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=os.environ.get("KUBECONFIG") or None, client_configuration=found
            )
        self._api = client.ApiClient(found)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._api is not None:
            await self._api.close()  # type: ignore[no-untyped-call]

    async def create_job(self, job: Mapping[str, Any], *, dry_run: bool = False) -> None:
        """Create a Job; one of the same owner and template that is there already is as good.

        Raises:
            Refused: the API server will not have it.
            NameTaken: another's Job has the name.
            ComingAndGoing: the last one of that name is not gone yet.
        """
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        try:
            await self._request("POST", _JOBS.format(namespace=namespace), job, query=query)
        except Refused as refused:
            if refused.code != 409:
                raise
            await self._check_ours(namespace, name, job, dry_run=dry_run)

    async def _check_ours(
        self, namespace: str, name: str, job: Mapping[str, Any], *, dry_run: bool
    ) -> None:
        path = f"{_JOBS.format(namespace=namespace)}/{name}"
        found = (await self._request("GET", path))["metadata"]
        owners = {owner["uid"] for owner in found.get("ownerReferences", [])}
        ours = {owner["uid"] for owner in job["metadata"]["ownerReferences"]}
        if "deletionTimestamp" in found and not dry_run:
            raise ComingAndGoing(name)
        if not owners & ours and "deletionTimestamp" not in found:
            raise NameTaken(f"Job {namespace}/{name} belongs to somebody else")

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete this very Job and, in the background, its pods, which get their grace.

        Raises:
            Refused: the API server will not.
        """
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",  # the default orphans the pods
            "preconditions": {"uid": uid},
        }
        try:
            path = f"{_JOBS.format(namespace=namespace)}/{name}"
            await self._request("DELETE", path, options)
        except Refused as refused:
            if refused.code not in {404, 409}:  # gone, or another of that name by now
                raise

    async def delete_run(self, namespace: str, name: str, uid: str) -> None:
        """Delete a run object.

        Raises:
            Refused: the API server will not.
        """
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", f"{_RUNS.format(namespace=namespace)}/{name}", options)
        except Refused as refused:
            if refused.code not in {404, 409}:
                raise

    async def patch_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Write changes of a run's status (JSON merge patch); fine if the run is gone.

        Raises:
            Refused: the API server will not.
        """
        path = f"{_RUNS.format(namespace=namespace)}/{name}/status"
        try:
            await self._request("PATCH", path, {"status": status}, content_type=_MERGE)
        except Refused as refused:
            if refused.code != 404:
                raise

    async def annotate_pod(
        self, namespace: str, name: str, uid: str, annotations: Mapping[str, str | None]
    ) -> None:
        """Set annotations of this very pod, or remove those that are None; fine if it is gone.

        Raises:
            Refused: the API server will not.
        """
        body = {"metadata": {"uid": uid, "annotations": annotations}}  # another uid is a conflict
        path = f"{_PODS.format(namespace=namespace)}/{name}"
        try:
            await self._request("PATCH", path, body, content_type=_MERGE)
        except Refused as refused:
            if refused.code not in {404, 409}:
                raise

    async def warning_of(self, namespace: str, uid: str) -> str:
        """The message of the last Warning about an object; empty if there is none or it is not told."""
        if not self.may_read_events:
            return ""
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": "20"}
        try:
            found = await self._request("GET", _EVENTS.format(namespace=namespace), query=query)
        except Refused as refused:
            self.may_read_events = refused.code != 403
            return ""
        last = max(found["items"], key=_when, default=None)
        return str(last.get("message", "")) if last is not None else ""

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:  # noqa: ANN401 - JSON
        if self._api is None:
            raise RuntimeError("not connected")
        serialized = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        async with self._slots:
            try:
                response = await self._api.call_api(*serialized, _request_timeout=_REQUEST_SECONDS)
                data = await response.read()  # type: ignore[no-untyped-call]
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise Refused(0, f"the API server does not answer: {error!r}") from error
        try:
            found = json.loads(data) if data else {}
        except ValueError as error:  # a load balancer's own words
            raise Refused(response.status, f"no JSON: {data[:200]!r}") from error
        if response.status >= 400:
            raise Refused(response.status, str(found.get("message", response.reason)))
        return found


def _when(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
