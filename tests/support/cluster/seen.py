"""What befalls the Jobs and workers of a run, seen by watches of the test's own, beside any operator."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import combinations
from typing import Self

import urllib3

from support.cluster.builders import condition
from support.cluster.client import Client
from support.cluster.resources import path_of
from support.cluster.wire import Object, Refused, Unreachable

_WATCH_SECONDS = 300.0
_TOLERATED_SECONDS = 5
"""For which an old one may go on beside its successor: deleting it may be refused a few times."""


class Seen:
    """Follows the Jobs and pods of a namespace; a context manager.

    Args:
        namespace: a client within it.
        run: whose they are.
    """

    def __init__(self, namespace: Client, run: str = "test") -> None:
        self.jobs: dict[str, str] = {}
        """Names of all Jobs ever, by uid."""
        self._namespace = namespace
        self._run = run
        self._pods: dict[str, Object] = {}
        self._streams: dict[str, urllib3.BaseHTTPResponse] = {}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(resource, note), daemon=True)
            for resource, note in (("jobs", self._note_job), ("pods", self._note_pod))
        ]

    @property
    def workers(self) -> list[Object]:
        """Pods of workers, each as it was last."""
        return [pod for pod in list(self._pods.values()) if _role(pod) == "worker"]

    @property
    def doubles(self) -> list[tuple[str, str]]:
        """Names of pods that worked beside each other in one slot, or as drivers, none told to end."""
        found = []
        for one, other in combinations(sorted(self._pods.values(), key=_started), 2):
            beside = (_stopped(one) - _started(other)).total_seconds()
            if _slot(one) == _slot(other) and beside > _TOLERATED_SECONDS:
                found.append((one["metadata"]["name"], other["metadata"]["name"]))
        return found

    @property
    def story(self) -> str:
        """Of each pod a line: when it got its node, was told to end, ended, and how."""
        return "\n".join(
            f"{pod['metadata']['name']} of {_owner(pod)}: {condition(pod, 'PodScheduled')}, told to end "
            f"{pod['metadata'].get('deletionTimestamp')}, {pod['status'].get('containerStatuses')}"
            for pod in sorted(self._pods.values(), key=_started)
        )

    @property
    def seconds(self) -> float:
        """From getting a node to the end of the container, over all pods of workers."""
        return sum(held_seconds(pod) for pod in self.workers)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for stream in list(self._streams.values()):
            with suppress(Exception):
                stream.shutdown()
        for thread in self._threads:
            thread.join(timeout=10)

    def _follow(self, resource: str, note: Callable[[str, Object], None]) -> None:
        path = path_of(resource, self._namespace.namespace)
        wire = self._namespace.wire
        while not self._ended.is_set():
            with suppress(Refused, ValueError, *Unreachable):  # the end cuts a line
                found = wire.request("GET", path)
                for item in found["items"]:
                    note("ADDED", item)
                since = found["metadata"]["resourceVersion"]
                for kind, item in wire.watch(
                    path,
                    since,
                    seconds=_WATCH_SECONDS,
                    opened=lambda stream: self._streams.update({resource: stream}),
                ):
                    note(kind, item)

    def _note_job(self, _kind: str, job: Object) -> None:
        meta = job["metadata"]
        if meta.get("labels", {}).get("rephrase.io/run") == self._run:
            self.jobs[meta["uid"]] = meta["name"]

    def _note_pod(self, _kind: str, pod: Object) -> None:
        if pod["metadata"].get("labels", {}).get("rephrase.io/run") == self._run:
            self._pods[pod["metadata"]["uid"]] = pod


def held_seconds(pod: Object) -> float:
    """From getting a node to the end of the container."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") != "True":
        return 0
    return (
        _finished(pod) - datetime.fromisoformat(scheduled["lastTransitionTime"])
    ).total_seconds()


def _finished(pod: Object) -> datetime:
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    return datetime.fromisoformat(ended)


def _started(pod: Object) -> datetime:
    return datetime.fromisoformat(condition(pod, "PodScheduled")["lastTransitionTime"])


def _stopped(pod: Object) -> datetime:
    """When it ended or was told to end."""
    meta = pod["metadata"]
    if "deletionTimestamp" not in meta:
        return _finished(pod)
    grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds", 0))
    return datetime.fromisoformat(meta["deletionTimestamp"]) - grace


def _owner(found: Object) -> str:
    return str(found["metadata"]["ownerReferences"][0]["uid"])


def _role(found: Object) -> str:
    return str(found["metadata"]["labels"].get("rephrase.io/role", ""))


def _slot(pod: Object) -> tuple[str, str]:
    return _role(pod), str(pod["metadata"]["labels"].get("rephrase.io/slot", ""))
