"""Tells a reader of a test's output what happened when, with the events that came meanwhile."""

import sys
import time

from support.cluster.client import Client
from support.cluster.wire import Object


class Diary:
    """The story of one test; its clock starts now.

    Args:
        namespace: a client within the test's.
        test: its name.
    """

    def __init__(self, namespace: Client, test: str) -> None:
        self._namespace = namespace
        self._began = time.monotonic()
        self._told: set[str] = set()
        _write(f"\n{test}")

    @property
    def seconds(self) -> float:
        """Since it started."""
        return time.monotonic() - self._began

    def note(self, what: str) -> None:
        """Write a line, after one for each event since the last."""
        for event in sorted(self._namespace.list("events"), key=_since):
            if event["metadata"]["uid"] not in self._told:
                self._told.add(event["metadata"]["uid"])
                _write(f"            {_line(event)}")
        _write(f"{self.seconds:8.1f} s  {what}")


def _since(event: Object) -> str:
    return str(event["metadata"]["creationTimestamp"])


def _line(event: Object) -> str:
    about = event["involvedObject"]
    who = event.get("reportingComponent") or (event.get("source") or {}).get("component", "")
    what = f"{about['kind']}/{about.get('name')}: {event['reason']}"
    return f"{what} ({who}) {event['message'].strip()[:160]}"


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
