"""Where the API server keeps things: paths of resources, by their plural name or by a manifest. Pure."""

from collections.abc import Mapping
from typing import Any

GROUPS = {
    "": ("v1", "configmaps events namespaces nodes persistentvolumeclaims persistentvolumes pods"
         " resourcequotas secrets serviceaccounts services"),
    "apiextensions.k8s.io": ("v1", "customresourcedefinitions"),
    "apps": ("v1", "deployments replicasets statefulsets"),
    "authorization.k8s.io": ("v1", "selfsubjectaccessreviews selfsubjectrulesreviews subjectaccessreviews"),
    "batch": ("v1", "cronjobs jobs"),
    "coordination.k8s.io": ("v1", "leases"),
    "discovery.k8s.io": ("v1", "endpointslices"),
    "karpenter.kwok.sh": ("v1alpha1", "kwoknodeclasses"),
    "karpenter.sh": ("v1", "nodeclaims nodepools"),
    "monitoring.coreos.com": ("v1", "podmonitors prometheusrules servicemonitors"),
    "networking.k8s.io": ("v1", "networkpolicies"),
    "policy": ("v1", "poddisruptionbudgets"),
    "rbac.authorization.k8s.io": ("v1", "clusterrolebindings clusterroles rolebindings roles"),
    "rephrase.io": ("v1alpha1", "rephraseruns"),
    "scheduling.k8s.io": ("v1", "priorityclasses"),
}  # fmt: skip
"""Group -> version, plural names."""
CLUSTER_WIDE = frozenset(
    [
        "clusterrolebindings",
        "clusterroles",
        "customresourcedefinitions",
        "kwoknodeclasses",
        "namespaces",
        "nodeclaims",
        "nodepools",
        "nodes",
        "persistentvolumes",
        "priorityclasses",
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
        "subjectaccessreviews",
    ]
)
_BASES = {
    plural: f"/apis/{group}/{version}" if group else f"/api/{version}"
    for group, (version, plurals) in GROUPS.items()
    for plural in plurals.split()
}


def path_of(resource: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """Path of an object, or of all objects without a name.

    Args:
        resource: plural name, such as ``jobs``; it must stand in `GROUPS`.
        namespace: ignored for what lies in none; None: of all namespaces.
        name: of the object.
        subresource: of the object, such as ``status``.
    """
    inside = "" if namespace is None or resource in CLUSTER_WIDE else f"/namespaces/{namespace}"
    parts = "".join(f"/{part}" for part in (name, subresource) if part)
    return f"{_BASES[resource]}{inside}/{resource}{parts}"


def resource_of(manifest: Mapping[str, Any]) -> str:
    """Plural name of a manifest's kind.

    Raises:
        LookupError: it stands not in `GROUPS`.
    """
    kind = manifest["kind"].lower()
    endings = ("s", "es") if not kind.endswith("y") else ("ies",)
    stem = kind.removesuffix("y")
    for ending in endings:
        if stem + ending in _BASES:
            return str(stem + ending)
    raise LookupError(f"kind {manifest['kind']}: its plural is not in support.cluster.resources")
