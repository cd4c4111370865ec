"""The clock of the process kubelet: real time, as the control plane keeps it too."""

from datetime import UTC, datetime


def now() -> datetime:
    """The time it is."""
    return datetime.now(UTC)  # noqa: TID251 - a node shares the control plane's clock


def stamp(when: datetime) -> str:
    """As Kubernetes writes times: whole seconds."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(when: datetime) -> str:
    """As it writes them in leases."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parsed(text: str) -> datetime:
    """A time that the API server wrote."""
    return datetime.fromisoformat(text)
