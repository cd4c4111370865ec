"""Pods, Jobs and namespaces for tests: complete, admitted under enforced Pod Security `restricted`."""

from collections.abc import Mapping, Sequence
from typing import Any

from support.cluster.wire import Object
from support.manifests import merged

IMAGE = "registry.invalid/tests:1"


def a_namespace(name: str, *, security: str = "restricted") -> Object:
    """A namespace that enforces a Pod Security level."""
    labels = {"pod-security.kubernetes.io/enforce": security}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }


def a_container(command: Sequence[str], **more: Any) -> Object:  # noqa: ANN401 - fields of a container
    """A container that may do nothing special."""
    base: Object = {
        "name": "main",
        "image": IMAGE,
        "command": list(command),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    return merged(base, more)


def a_pod_spec(container: Mapping[str, Any], **more: Any) -> Object:  # noqa: ANN401 - fields of a pod's spec
    """The spec of a pod with one container that ends when it ends."""
    base: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [dict(container)],
    }
    return merged(base, more)


def a_pod(name: str, container: Mapping[str, Any], **spec: Any) -> Object:  # noqa: ANN401
    """A pod with one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": a_pod_spec(container, **spec),
    }


def a_job(
    name: str,
    container: Mapping[str, Any],
    pod: Mapping[str, Any] | None = None,
    **spec: Any,  # noqa: ANN401
) -> Object:
    """A Job of one pod, by default without a second try.

    Args:
        name: of the Job.
        container: of its pod.
        pod: more of the pod's spec.
        spec: more of the Job's.
    """
    base: Object = {
        "backoffLimit": 0,
        "template": {"spec": a_pod_spec(container, **dict(pod or {}))},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": merged(base, spec),
    }


def condition(found: Mapping[str, Any], kind: str) -> Object:
    """A condition of an object; empty if it has none of that type."""
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((dict(one) for one in conditions if one["type"] == kind), {})


def holds(found: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of an object is True."""
    return condition(found, kind).get("status") == "True"
