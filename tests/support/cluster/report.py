"""What stands in a namespace, for the report of a test that failed: objects, events, ends of logs."""

from pathlib import Path

from support.cluster.client import Client
from support.cluster.wire import Object, Refused, Unreachable

_LOG_LINES = 30


def report(namespace: Client, logs: Path) -> str:
    """Runs, Jobs, pods and events of a namespace, and the end of each container's log.

    Args:
        namespace: a client within it.
        logs: folder of the kubelet's logs.
    """
    lines: list[str] = []
    for resource in ("rephraseruns", "jobs", "pods", "events"):
        try:
            lines += [_line(resource, found) for found in namespace.list(resource)]
        except (Refused, *Unreachable) as trouble:
            lines.append(f"({resource} cannot be read: {trouble})")
    for file in sorted((logs / str(namespace.namespace)).glob("*/*.log")):
        lines.append(f"--- {file}")
        lines += file.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join(lines)


def _line(resource: str, found: Object) -> str:
    if resource == "events":
        about = found["involvedObject"]
        return f"event {about['kind']}/{about.get('name')}: {found['reason']}: {found['message']}"
    return f"{resource}/{found['metadata']['name']}: {_status(found)}"


def _status(found: Object) -> str:
    status = found.get("status") or {}
    words = [str(status.get("phase", "")), str(status.get("reason", ""))]
    words += [
        f"{one['type']}={one['status']}" + (f" ({one['reason']})" if one.get("reason") else "")
        for one in status.get("conditions") or []
    ]
    words += [f"{one['name']}: {one['state']}" for one in status.get("containerStatuses") or []]
    if "deletionTimestamp" in found["metadata"]:
        words.append("to be deleted")
    return ", ".join(filter(None, words))
