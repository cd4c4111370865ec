"""Environment and arguments of a container: given, from fields, Secrets and ConfigMaps, with `$(NAME)`."""

import base64
import re
from collections.abc import Mapping

from support.cluster.client import Client
from support.cluster.kubelet.fields import BadReference, field, resource_field
from support.cluster.wire import Object


def environment_of(
    container: Object,
    pod: Object,
    client: Client,
    *,
    image: Mapping[str, str],
    allocatable: Mapping[str, str],
) -> dict[str, str]:
    """Environment variables of a container.

    Args:
        container: of the pod's spec.
        pod: with addresses in its status.
        client: within the pod's namespace.
        image: what all containers are given.
        allocatable: resources of the node.

    Raises:
        BadReference: a Secret, a ConfigMap or a key in it is not there, and not optional.
    """
    values = dict(image)
    for source in container.get("envFrom") or []:
        for kind, resource in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if reference := source.get(kind):
                found = data_of(client, resource, reference)
                values |= {source.get("prefix", "") + k: v.decode() for k, v in found.items()}
    for variable in container.get("env") or []:
        origin = variable.get("valueFrom") or {}
        value: str | None = expanded(variable.get("value") or "", values)
        if reference := origin.get("fieldRef"):
            value = field(pod, reference["fieldPath"])
        elif reference := origin.get("resourceFieldRef"):
            value = resource_field(_named(pod, container, reference), reference, allocatable)
        elif reference := origin.get("secretKeyRef"):
            value = _key_of(client, "secrets", reference)
        elif reference := origin.get("configMapKeyRef"):
            value = _key_of(client, "configmaps", reference)
        if value is not None:
            values[variable["name"]] = value
    return values


def arguments_of(container: Object, environment: Mapping[str, str]) -> list[str]:
    """Command and arguments of a container.

    Raises:
        BadReference: it names no command; what an image would run is not known here.
    """
    if not container.get("command"):
        raise BadReference(
            f"container {container['name']} has no command, and images are not real here"
        )
    words = [*container["command"], *(container.get("args") or [])]
    return [expanded(word, environment) for word in words]


def expanded(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced by its value; unknown names stay as they are, ``$$`` is a dollar."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return values.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)", replaced, text)


def data_of(client: Client, resource: str, reference: Mapping[str, object]) -> dict[str, bytes]:
    """All keys of a Secret or ConfigMap; none if it is optional and not there.

    Raises:
        BadReference: it is not there.
    """
    name = str(reference.get("name") or reference.get("secretName"))
    found = client.find(resource, name)
    if found is None:
        if reference.get("optional"):
            return {}
        raise BadReference(f'{resource.removesuffix("s")} "{name}" not found')
    encoded = found.get("data") or {}
    if resource == "secrets":
        return {key: base64.b64decode(value) for key, value in encoded.items()}
    binary = {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}
    return {key: value.encode() for key, value in encoded.items()} | binary


def _key_of(client: Client, resource: str, reference: Mapping[str, object]) -> str | None:
    found = data_of(client, resource, reference)
    key = str(reference["key"])
    if key in found:
        return found[key].decode()
    if reference.get("optional"):
        return None
    kind = "Secret" if resource == "secrets" else "ConfigMap"
    namespace = client.namespace
    raise BadReference(f"couldn't find key {key} in {kind} {namespace}/{reference['name']}")


def _named(pod: Object, container: Object, reference: Mapping[str, str]) -> Object:
    name = reference.get("containerName", container["name"])
    every = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    return next(one for one in every if one["name"] == name)
