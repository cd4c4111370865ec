"""The chart's monitors as the Prometheus Operator reads them: scrape configurations for a server of tests."""

import re
from pathlib import Path
from typing import Any

from support.helm import render

MONITORS = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PodMonitor")
_META = "__meta_kubernetes_pod"


def jobs(system: str, kubeconfig: Path) -> list[dict[str, Any]]:
    """A job for each monitor of the chart, on the pods of a cluster.

    Endpoints of the ServiceMonitor's Service are the operator's pods: they are found as pods here, since the
    tests' pods have loopback addresses, which endpoints may not have.

    Args:
        system: namespace of the release.
        kubeconfig: of the cluster.
    """
    on = {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}
    found = []
    for one in render(system, on, api_versions=MONITORS):
        if one["kind"] == "ServiceMonitor":
            (endpoint,) = one["spec"]["endpoints"]
            labels = one["spec"]["selector"]["matchLabels"]
            keep = [_keep(_label(key), re.escape(value)) for key, value in labels.items()]
            honor = bool(endpoint.get("honorLabels"))
            found.append(_job("operator", kubeconfig, endpoint["port"], keep, honor=honor))
        elif one["kind"] == "PodMonitor":
            (endpoint,) = one["spec"]["podMetricsEndpoints"]
            keep = [
                _keep(_label(rule["key"]), "|".join(rule["values"]))
                for rule in one["spec"]["selector"]["matchExpressions"]
            ]
            taken = [
                {"source_labels": [_label(label)], "target_label": _plain(label)}
                for label in one["spec"]["podTargetLabels"]
            ]
            found.append(_job("runs", kubeconfig, endpoint["port"], keep + taken, honor=False))
    return found


def _job(
    name: str, kubeconfig: Path, port: str, rules: list[dict[str, Any]], *, honor: bool
) -> dict[str, Any]:
    ended = {"source_labels": [f"{_META}_phase"], "regex": "Failed|Succeeded", "action": "drop"}
    return {
        "job_name": name,
        "honor_labels": honor,
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
        "relabel_configs": [
            ended,
            _keep(f"{_META}_container_port_name", port),
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": [f"{_META}_name"], "target_label": "pod"},
            *rules,
        ],
    }


def _keep(label: str, values: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": values, "action": "keep"}


def _label(name: str) -> str:
    return f"{_META}_label_{_plain(name)}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)
