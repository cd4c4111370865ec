"""What a real kubelet does and this one does not: pods that need it are refused, not run otherwise. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

REASON = "UnsupportedByProcessKubelet"
_VOLUMES = frozenset(
    [
        "configMap",
        "downwardAPI",
        "emptyDir",
        "hostPath",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def unsupported(spec: Mapping[str, Any]) -> list[str]:
    """What a pod's spec asks for in vain, as field paths."""
    return list(_unsupported(spec))


def _unsupported(spec: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        name for name in ("activeDeadlineSeconds", "shareProcessNamespace") if spec.get(name)
    )
    for volume in spec.get("volumes") or []:
        yield from (f"volumes.{kind}" for kind in volume.keys() - {"name"} - _VOLUMES)
    for container in spec.get("initContainers") or []:
        if "restartPolicy" in container:
            yield "initContainers.restartPolicy"
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        for name in ("lifecycle", "stdin", "volumeDevices"):
            if container.get(name):
                yield f"containers.{name}"
        for name in _PROBES:
            if not (container.get(name) or {"httpGet": {}}).keys() & {"httpGet", "tcpSocket"}:
                yield f"containers.{name}"
        for mount in container.get("volumeMounts") or []:
            if "subPathExpr" in mount:
                yield "containers.volumeMounts.subPathExpr"
