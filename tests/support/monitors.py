"""The chart's monitors as the Prometheus Operator reads them: scrape configurations for a server of tests.

Debian's Prometheus finds no pods by itself: it is told them here over HTTP, by the labels that it would find.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.cluster.client import Client
from support.cluster.wire import Object
from support.helm import render
from support.loopback import in_thread

MONITORS = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PodMonitor")
_META = "__meta_kubernetes_pod"


@contextmanager
def discovery(client: Client) -> Iterator[str]:
    """Tell the pods of a cluster, all containers' ports, at the URL that is yielded."""

    class Targets(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps([one for pod in client.list("pods") for one in _targets(pod)])
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Targets)
    with in_thread(server) as address:
        yield f"http://{address}/"


def _targets(pod: Object) -> Iterator[dict[str, Any]]:
    meta, status = pod["metadata"], pod["status"]
    if "podIP" not in status:
        return
    of_pod = {
        "__meta_kubernetes_namespace": meta["namespace"],
        f"{_META}_name": meta["name"],
        f"{_META}_phase": status["phase"],
        **{_label(name): value for name, value in meta.get("labels", {}).items()},
    }
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            of_port = {f"{_META}_container_port_name": port.get("name", "")}
            address = f"{status['podIP']}:{port['containerPort']}"
            yield {"targets": [address], "labels": of_pod | of_port}


def jobs(system: str, pods: str) -> list[dict[str, Any]]:
    """A job for each monitor of the chart.

    Endpoints of the ServiceMonitor's Service are the operator's pods: they are found as pods here, since the
    tests' pods have loopback addresses, which endpoints may not have.

    Args:
        system: namespace of the release.
        pods: URL of a `discovery`.
    """
    on = {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}
    found = []
    for one in render(system, on, api_versions=MONITORS):
        if one["kind"] == "ServiceMonitor":
            (endpoint,) = one["spec"]["endpoints"]
            labels = one["spec"]["selector"]["matchLabels"]
            keep = [_keep(_label(key), re.escape(value)) for key, value in labels.items()]
            honor = bool(endpoint.get("honorLabels"))
            found.append(_job("operator", pods, endpoint["port"], keep, honor=honor))
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
            found.append(_job("runs", pods, endpoint["port"], keep + taken, honor=False))
    return found


def _job(
    name: str, pods: str, port: str, rules: list[dict[str, Any]], *, honor: bool
) -> dict[str, Any]:
    ended = {"source_labels": [f"{_META}_phase"], "regex": "Failed|Succeeded", "action": "drop"}
    return {
        "job_name": name,
        "honor_labels": honor,
        "http_sd_configs": [{"url": pods, "refresh_interval": "1s"}],
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
