"""Follows all objects of a kind: a list, then what happens to them, again and again until it is stopped."""

import asyncio
import logging
import threading
from collections.abc import Callable

import urllib3

from support.cluster.client import Client
from support.cluster.resources import path_of
from support.cluster.wire import Object, Refused, Unreachable

_AGAIN_SECONDS = 0.3


class Watching:
    """A thread that tells an event loop of all objects of a kind.

    Args:
        client: that may list and watch them.
        resource: plural name.
        log: gets what goes wrong.
        loop: that the following are called in.
        listed: is given all there are, first and after each interruption.
        seen: is given one that is new or has changed.
        gone: is given one that was deleted, as it was last.
        fields: selector.
    """

    def __init__(
        self, client: Client, resource: str, log: logging.Logger,
        loop: asyncio.AbstractEventLoop, *,
        listed: Callable[[list[Object]], None],
        seen: Callable[[Object], None],
        gone: Callable[[Object], None],
        fields: str = "",
    ) -> None:  # fmt: skip
        self._wire, self._path, self._fields = client.wire, path_of(resource, None), fields
        self._log, self._loop = log, loop
        self._listed, self._seen, self._gone = listed, seen, gone
        self._closing = threading.Event()
        self._answer: urllib3.BaseHTTPResponse | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; nothing is told any more when this returns."""
        self._closing.set()
        if self._answer is not None:
            self._answer.shutdown()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                query = {"fieldSelector": self._fields}
                found = self._wire.request("GET", self._path, query=query)
                self._loop.call_soon_threadsafe(self._listed, found["items"])
                since = found["metadata"]["resourceVersion"]
                for kind, one in self._wire.watch(
                    self._path, since, fields=self._fields, seconds=300, opened=self._opened
                ):
                    react = self._gone if kind == "DELETED" else self._seen
                    self._loop.call_soon_threadsafe(react, one)
            except (Refused, *Unreachable) as trouble:
                self._log.warning("watch of %s: %s", self._path, trouble)
            self._closing.wait(_AGAIN_SECONDS)

    def _opened(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer
        if self._closing.is_set():
            answer.shutdown()
