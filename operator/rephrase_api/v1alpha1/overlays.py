"""What a `podTemplate` overlay may not set.

The API server checks nothing below an overlay, and the operator has rights the user may lack, so
this is where an overlay is kept from weakening the security of our pods, from changing whose they
are, and from hiding them from the operator. Whatever makes a pod stricter is allowed.
"""

from collections.abc import Callable, Iterator
from typing import Any

OUR_PREFIX = "rephrase.io/"

_Check = Callable[[Any], bool]


def _set(_: object) -> bool:
    return True


def _ours(key: str) -> bool:
    return key.startswith(OUR_PREFIX)


def _present(value: object) -> bool:
    return bool(value)


def _unconfined(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") == "Unconfined"


_METADATA: dict[str, _Check] = {"name": _set, "namespace": _set, "ownerReferences": _set}
_POD: dict[str, _Check] = {
    "serviceAccount": _set,
    "serviceAccountName": _set,
    "automountServiceAccountToken": _present,
    "hostNetwork": _present,
    "hostPID": _present,
    "hostIPC": _present,
    "ephemeralContainers": _set,
    "restartPolicy": lambda policy: policy != "Never",
}
_SECURITY: dict[str, _Check] = {
    "privileged": _present,
    "allowPrivilegeEscalation": _present,
    "runAsNonRoot": lambda required: required is not True,
    "runAsUser": lambda user: user == 0,
    "readOnlyRootFilesystem": lambda required: required is not True,
    "procMount": lambda mount: mount != "Default",
    "seccompProfile": _unconfined,
    "appArmorProfile": _unconfined,
    "sysctls": _present,
    "windowsOptions": _set,
}


def protected_fields(overlay: object) -> Iterator[str]:
    """Paths below a pod template that `overlay` sets and may not, as in ``.spec.hostNetwork``."""
    metadata, spec = _mapping(overlay, "metadata"), _mapping(overlay, "spec")
    yield from _refused(metadata, _METADATA, ".metadata")
    for kind in ("labels", "annotations"):
        yield from (
            f'.metadata.{kind}["{key}"]' for key in _mapping(metadata, kind) if _ours(str(key))
        )
    yield from _refused(spec, _POD, ".spec")
    yield from _refused_security(spec, ".spec.securityContext")
    for index, volume in enumerate(_items(spec, "volumes")):
        if "hostPath" in volume:
            yield f".spec.volumes[{index}].hostPath"
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(_items(spec, kind)):
            yield from _refused_security(container, f".spec.{kind}[{index}].securityContext")


def _refused_security(owner: dict[str, Any], path: str) -> Iterator[str]:
    context = _mapping(owner, "securityContext")
    yield from _refused(context, _SECURITY, path)
    if _mapping(context, "capabilities").get("add"):
        yield f"{path}.capabilities.add"


def _refused(found: dict[str, Any], checks: dict[str, _Check], path: str) -> Iterator[str]:
    for key, refuse in checks.items():
        if key in found and refuse(found[key]):
            yield f"{path}.{key}"


def _mapping(owner: object, key: str) -> dict[str, Any]:
    value = owner.get(key) if isinstance(owner, dict) else None
    return value if isinstance(value, dict) else {}


def _items(owner: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = owner.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
