"""What a pod may know about itself: `fieldRef` and `resourceFieldRef` of environment and files. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from support.cluster.kubelet.quantities import divided
from support.cluster.wire import Object


class BadReference(Exception):
    """A reference to what is not there; says what."""


def field(pod: Object, path: str) -> str:
    """The field of a pod that a `fieldPath` names.

    Args:
        pod: with the addresses that this kubelet gave it in its status.
        path: as in `fieldRef`.

    Raises:
        BadReference: there is no such field for this purpose.
    """
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    if found := re.fullmatch(r"metadata\.(labels|annotations)", path):
        pairs = pod["metadata"].get(found[1]) or {}
        return "\n".join(f'{name}="{_escaped(value)}"' for name, value in sorted(pairs.items()))
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    values: dict[str, Any] = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec["nodeName"],
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": status["podIP"],
        "status.podIPs": status["podIP"],
        "status.hostIP": status["hostIP"],
        "status.hostIPs": status["hostIP"],
    }
    if path not in values:
        raise BadReference(f"fieldPath {path} is not known here")
    return str(values[path])


def resource_field(
    container: Object, reference: Mapping[str, Any], allocatable: Mapping[str, str]
) -> str:
    """The request or limit that a `resourceFieldRef` names.

    Args:
        container: that the reference is about.
        reference: the `resourceFieldRef`.
        allocatable: of the node: what limits are where the container names none.

    Raises:
        BadReference: a node has no such resource.
    """
    kind, _, resource = reference["resource"].partition(".")
    given = (container.get("resources") or {}).get(kind) or {}
    quantity = given.get(resource, allocatable.get(resource) if kind == "limits" else "0")
    if quantity is None:
        raise BadReference(f"resource {reference['resource']} is not known here")
    return divided(quantity, str(reference.get("divisor", "1")))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
