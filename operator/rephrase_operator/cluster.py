"""DOOR to Kubernetes: what the operator writes, and the few things it reads beside kopf's watches.

Dicts in, dicts out. Creating what is there already and deleting what is gone are fine. Writes are bounded:
at most `MOST_AT_ONCE` requests are in flight, and none while the API server has asked to wait.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from rephrase_api import names

logger = logging.getLogger(__name__)
MOST_AT_ONCE = 10
_REQUEST_SECONDS = 15
_LONGEST_WAIT_SECONDS = 60
_WRITE_TRIES = 3
_JSON, _MERGE = "application/json", "application/merge-patch+json"
_NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_RUNS = f"/apis/{names.API_VERSION}/namespaces/{{namespace}}/{names.PLURAL}"
_EVENTS = "/api/v1/namespaces/{namespace}/events"


class Refused(Exception):
    """The API server answered with an error.

    Attributes:
        code: HTTP status; 0 if there was no answer.
        message: its own sentence.
        namespace_ends: nothing new can be made in that namespace, since it is being deleted.
    """

    def __init__(self, code: int, message: str, *, namespace_ends: bool = False) -> None:
        self.code = code
        self.message = message
        self.namespace_ends = namespace_ends
        super().__init__(f"{code}: {message}" if code else message)

    @property
    def for_good(self) -> bool:
        """Whether the same request would be refused again."""
        return self.code in {400, 403, 413, 422} and not self.namespace_ends


class Outdated(Exception):
    """A run has changed since it was read.

    Attributes:
        latest: as it is now.
    """

    def __init__(self, latest: Mapping[str, Any]) -> None:
        self.latest = latest
        super().__init__("the run has changed since it was read")


class Gone(Exception):
    """There is no such run any more, though no watch has told so."""


class NameTaken(Exception):
    """Another's object has the name; the message names it."""


class ComingAndGoing(Exception):
    """An object of that name is being deleted: create it later."""


class Cluster:
    """A connection to the API server.

    Args:
        answered: told method and HTTP status of each request; 0 = no answer.
    """

    def __init__(self, answered: Callable[[str, int], None] = lambda _method, _code: None) -> None:
        self.answered = answered
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._api: client.ApiClient | None = None
        self._not_before = 0.0
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

    async def create_job(
        self, job: Mapping[str, Any], *, dry_run: bool = False
    ) -> Mapping[str, Any]:
        """Create a Job; one of the same owner and template that is there already is as good.

        Returns:
            The Job as it is there.

        Raises:
            Refused: the API server will not have it.
            NameTaken: another's Job has the name.
            ComingAndGoing: the last one of that name is not gone yet.
        """
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        try:
            path = _JOBS.format(namespace=namespace)
            return _object(await self._request("POST", path, job, query=query))
        except Refused as refused:
            if refused.code != 409:
                raise
            return await self._check_ours(namespace, name, job, dry_run=dry_run)

    async def _check_ours(
        self, namespace: str, name: str, job: Mapping[str, Any], *, dry_run: bool
    ) -> Mapping[str, Any]:
        path = f"{_JOBS.format(namespace=namespace)}/{name}"
        found = _object(await self._request("GET", path))
        meta = found["metadata"]
        owners = {owner["uid"] for owner in meta.get("ownerReferences", [])}
        ours = {owner["uid"] for owner in job["metadata"]["ownerReferences"]}
        if "deletionTimestamp" in meta and not dry_run:
            raise ComingAndGoing(name)
        if not owners & ours and "deletionTimestamp" not in meta:
            raise NameTaken(f"Job {namespace}/{name} belongs to somebody else")
        return found

    async def get_jobs(
        self, namespace: str, run: str, wanted: Mapping[str, str]
    ) -> dict[str, Mapping[str, Any] | None]:
        """Jobs of a run as they are now, by uid; None for those that are gone.

        One request each, or one list where they are many, as when a zone's spot nodes go at once.

        Args:
            namespace: of the run.
            run: its name.
            wanted: names of the Jobs, by uid.

        Raises:
            Refused: the API server does not say.
        """
        if len(wanted) <= MOST_AT_ONCE:
            path = _JOBS.format(namespace=namespace)
            asked = (self._find(f"{path}/{name}", uid) for uid, name in wanted.items())
            return dict(zip(wanted, await asyncio.gather(*asked), strict=True))
        query = {"labelSelector": names.run_selector(run)}
        found = await self._request("GET", _JOBS.format(namespace=namespace), query=query)
        there = {one["metadata"]["uid"]: _object(one) for one in found["items"] or ()}
        return {uid: there.get(uid) for uid in wanted}

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

    async def patch_status(
        self, run: Mapping[str, Any], status: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Write changes of a run's status (JSON merge patch), unless it is another than it was.

        Args:
            run: as it was read; its status is what the changes are changes of.
            status: the changes.

        Returns:
            The run as it is then.

        Raises:
            Outdated: its status or its spec is another by now, and nothing is written.
            Gone: it is no longer there.
            Refused: the API server will not.
        """
        meta, expected = run["metadata"], run
        path = f"{_RUNS.format(namespace=meta['namespace'])}/{meta['name']}/status"
        for _ in range(_WRITE_TRIES):
            known = {key: expected["metadata"][key] for key in ("uid", "resourceVersion")}
            body = {"metadata": known, "status": status}
            try:
                return _object(await self._request("PATCH", path, body, content_type=_MERGE))
            except Refused as refused:
                if refused.code == 404:
                    raise Gone from None
                if refused.code != 409:
                    raise
            expected = await self.get_run(meta["namespace"], meta["name"], meta["uid"])
            generation = expected["metadata"]["generation"]
            if generation != meta["generation"] or expected.get("status") != run.get("status"):
                break
        raise Outdated(expected)

    async def get_run(self, namespace: str, name: str, uid: str) -> Mapping[str, Any]:
        """A run as it is now.

        Raises:
            Gone: it is no longer there.
            Refused: the API server does not say.
        """
        found = await self._find(f"{_RUNS.format(namespace=namespace)}/{name}", uid)
        if found is None:
            raise Gone
        return found

    async def _find(self, path: str, uid: str) -> Mapping[str, Any] | None:
        """An object as it is now; None if it, or whoever has its name, is another."""
        try:
            found = await self._request("GET", path)
        except Refused as refused:
            if refused.code != 404:
                raise
            return None
        return _object(found) if found["metadata"]["uid"] == uid else None

    async def uids_of_children(self, namespace: str, run: str) -> set[str]:
        """Uids of all Jobs and pods of a run; an empty list of names only has null for its items.

        Raises:
            Refused: the API server does not say.
        """
        query = {"labelSelector": names.run_selector(run)}
        lists = [
            await self._request(
                "GET", path.format(namespace=namespace), query=query, accept=_NAMES_ONLY
            )
            for path in (_JOBS, _PODS)
        ]
        return {one["metadata"]["uid"] for found in lists for one in found["items"] or ()}

    async def is_ending(self, namespace: str, job: Mapping[str, Any]) -> bool:
        """Whether a namespace is being deleted, told by what it says to a Job in a dry run.

        Raises:
            Refused: the API server does not say.
        """
        query = {"dryRun": "All"}
        try:
            await self._request("POST", _JOBS.format(namespace=namespace), job, query=query)
        except Refused as refused:
            if refused.code not in {400, 403, 409, 413, 422}:
                raise
            return refused.namespace_ends
        return False

    async def tell(
        self, about: Mapping[str, Any], *, type: str, reason: str, message: str, now: datetime
    ) -> None:
        """Post an Event about a run; one that cannot be posted is logged, and not missed otherwise."""
        meta, time = about["metadata"], now.isoformat()
        who = "rephrase-operator"
        event = {
            "metadata": {"namespace": meta["namespace"], "generateName": f"{meta['name']}."},
            "involvedObject": {
                **{key: about[key] for key in ("apiVersion", "kind")},
                **{key: meta[key] for key in ("namespace", "name", "uid")},
            },
            **{"type": type, "reason": reason, "message": message[:1024]},
            **{"source": {"component": who}, "reportingComponent": who},
            **{"firstTimestamp": time, "lastTimestamp": time, "count": 1},
        }
        try:
            await self._request("POST", _EVENTS.format(namespace=meta["namespace"]), event)
        except Refused as refused:
            level = logging.DEBUG if refused.namespace_ends else logging.WARNING
            extra = {"run": meta["name"], "event": reason, "error": str(refused)}
            logger.log(level, "event not posted", extra=extra)

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

    async def warnings_of(self, namespace: str, uid: str) -> list[tuple[str, str]]:
        """Reason and message of the Warnings about an object, oldest first; none where they are not told."""
        if not self.may_read_events:
            return []
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": "20"}
        try:
            found = await self._request("GET", _EVENTS.format(namespace=namespace), query=query)
        except Refused as refused:
            self.may_read_events = refused.code != 403
            return []
        events = sorted(found["items"], key=_when)
        return [(str(one.get("reason", "")), str(one.get("message", ""))) for one in events]

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> Any:  # noqa: ANN401 - JSON
        if self._api is None:
            raise RuntimeError("not connected")
        clock = asyncio.get_running_loop().time
        serialized = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        async with self._slots:
            # asked here: it may have been said while this request waited for its turn
            if (wait := self._not_before - clock()) > 0:
                raise Refused(429, f"the API server has asked to wait for {wait:.1f} s more")
            try:
                response = await self._api.call_api(*serialized, _request_timeout=_REQUEST_SECONDS)
                data = await response.read()  # type: ignore[no-untyped-call]
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.answered(method, 0)
                raise Refused(0, f"the API server does not answer: {error!r}") from error
            if response.status in {429, 503}:
                self._not_before = clock() + _seconds(response.headers.get("Retry-After"))
        self.answered(method, response.status)
        try:
            found = json.loads(data) if data else {}
        except ValueError as error:  # a load balancer's own words
            raise Refused(response.status, f"no JSON: {data[:200]!r}") from error
        if response.status >= 400:
            causes = (found.get("details") or {}).get("causes") or []
            ends = any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
            message = str(found.get("message", response.reason))
            raise Refused(response.status, message, namespace_ends=ends)
        return found


def _object(found: Any) -> Mapping[str, Any]:  # noqa: ANN401 - JSON
    return dict(found)


def _seconds(retry_after: str | None) -> float:
    """What Retry-After asks for; dates, which no API server sends, are taken for nothing."""
    wait = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return min(wait, _LONGEST_WAIT_SECONDS)


def _when(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
