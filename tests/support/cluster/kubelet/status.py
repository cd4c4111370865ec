"""The status of a pod, as a kubelet reports it: from what its containers do to phase and conditions. Pure."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from support.cluster.kubelet.clock import stamp
from support.cluster.wire import Object

UNKNOWN = "ContainerStatusUnknown"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    code: int
    reason: str
    message: str
    started: datetime | None
    finished: datetime | None

    @classmethod
    def lost(cls, message: str) -> Self:
        """Nobody knows how."""
        return cls(137, UNKNOWN, message, None, None)


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a container.

    Attributes:
        name: of the container.
        image: as its spec names it.
        waiting: reason why it does not run (yet).
        waiting_message: more about that.
        started: since when it runs; None if it does not.
        ended: how it ended, if it will not be started again or waits to be.
        last: how it ended the time before.
        starts: how often it was started again.
        ready: whether it takes requests.
    """

    name: str
    image: str
    waiting: str = "ContainerCreating"
    waiting_message: str = ""
    started: datetime | None = None
    ended: Ended | None = None
    last: Ended | None = None
    starts: int = 0
    ready: bool = False

    def now(self, **changes: Any) -> "View":  # noqa: ANN401 - as its attributes
        """The same container in another state; what is not named is over."""
        fresh: dict[str, Any] = {
            "waiting": "",
            "waiting_message": "",
            "started": None,
            "ended": None,
            "ready": False,
        }
        return replace(self, **(fresh | changes))

    def as_status(self) -> Object:
        """As an entry of `containerStatuses`."""
        state: Object
        if self.ended:
            state = {"terminated": _terminated(self.ended)}
        elif self.started:
            state = {"running": {"startedAt": stamp(self.started)}}
        else:
            state = {"waiting": {"reason": self.waiting}}
            if self.waiting_message:
                state["waiting"]["message"] = self.waiting_message
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "" if self.waiting and not self.last else self.image,
            "ready": self.ready,
            "started": self.started is not None,
            "restartCount": self.starts,
            "state": state,
            "lastState": {"terminated": _terminated(self.last)} if self.last else {},
        }


@dataclass(slots=True)
class PodView:
    """What is known of a pod.

    Attributes:
        address: its own.
        node_address: its node's.
        started: when this kubelet first saw it.
        containers: as its spec names them.
        init: the same of those that run before.
        initialized: whether the latter have all succeeded.
        final: whether nothing of it will run any more.
        failed: it failed, whatever its containers say.
        reason: of the pod as a whole, ``Evicted`` for example.
        message: more about that.
        disrupted: message of the condition `DisruptionTarget` that the kubelet sets; empty: it sets none.
    """

    address: str
    node_address: str
    started: datetime
    containers: list[View] = field(default_factory=list)
    init: list[View] = field(default_factory=list)
    initialized: bool = False
    final: bool = False
    failed: bool = False
    reason: str = ""
    message: str = ""
    disrupted: str = ""
    _since: dict[str, tuple[bool, datetime]] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """Its phase."""
        if self.final:
            bad = self.failed or any(v.ended is None or v.ended.code for v in self.containers)
            return "Failed" if bad else "Succeeded"
        if any(view.started or view.ended or view.last for view in self.containers):
            return "Running"
        return "Pending"

    def as_status(self, now: datetime) -> Object:
        """As a strategic merge patch of `status`: conditions of others stay."""
        ready = not self.final and all(view.ready for view in self.containers)
        unready = "PodCompleted" if self.phase == "Succeeded" else "PodFailed"
        why = "" if ready else unready if self.final else "ContainersNotReady"
        initialized = self.initialized or not self.init
        held = {
            "Initialized": (initialized, "" if initialized else "ContainersNotInitialized"),
            "PodReadyToStartContainers": (not self.final, ""),
            "ContainersReady": (ready, why),
            "Ready": (ready, why),
        }
        if self.disrupted:
            held["DisruptionTarget"] = (True, "TerminationByKubelet")
        conditions = [
            self._condition(kind, holds=holds, reason=reason, now=now)
            for kind, (holds, reason) in held.items()
        ]
        if self.disrupted:
            conditions[-1]["message"] = self.disrupted
        status: Object = {
            "phase": self.phase,
            "hostIP": self.node_address,
            "hostIPs": [{"ip": self.node_address}],
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": stamp(self.started),
            "conditions": conditions,
            "containerStatuses": [view.as_status() for view in self.containers],
        }
        if self.init:
            status["initContainerStatuses"] = [view.as_status() for view in self.init]
        if self.reason:
            status |= {"reason": self.reason, "message": self.message}
        return status

    def _condition(self, kind: str, *, holds: bool, reason: str, now: datetime) -> Object:
        held, since = self._since.get(kind, (not holds, now))
        self._since[kind] = (holds, since if held == holds else now)
        return {
            "type": kind,
            "status": "True" if holds else "False",
            "lastTransitionTime": stamp(self._since[kind][1]),
            "reason": reason or None,  # null takes away what stood there
        }


def _terminated(ended: Ended) -> Object:
    state: Object = {"exitCode": ended.code, "reason": ended.reason}
    if ended.message:
        state["message"] = ended.message
    if ended.started and ended.finished:
        state |= {"startedAt": stamp(ended.started), "finishedAt": stamp(ended.finished)}
    return state
