"""kwok: nodes and pods that are objects only, for what is too large to run as processes.

    with Kwok(plane.client(), folder) as kwok:
        kwok.add_nodes(125, gpus=8)

A pod on such a node runs at once and for ever. It ends when it is deleted, or with the code that its
annotation `EXIT_CODE` names, and has its terminal phase before it goes, as a kubelet does it.
"""

import json
from pathlib import Path
from typing import Any, Self

from support.cluster.binary import FAKE_NODES
from support.cluster.builders import holds
from support.cluster.client import Client
from support.cluster.control_plane import Program, flags_of
from support.waiting import wait_until

EXIT_CODE = "tests.rephrase.io/exit-code"
"""Annotation of a pod: it ends now, with this code; a pod that is deleted without one ends as if drained."""
ADDRESS = "tests.rephrase.io/pod-ip"
"""Annotation of a pod: its address, where somebody listens for it; otherwise it gets one of its own."""
_MANAGED = "kwok.x-k8s.io/node"
_DRAINED = 75
_START_SECONDS = 120.0

_NODE_READY = """
conditions:
{{ range NodeConditions }}
- {type: {{ .type }}, status: {{ .status | Quote }}, reason: {{ .reason }}, lastHeartbeatTime: {{ Now }}}
{{ end }}
"""
_POD_RUNS = """
{{ $known := or .metadata.annotations dict }}
{{ $address := index $known "ADDRESS" }}
{{ if not $address }}
{{ $address = index (PodIPsWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace) 0 }}
{{ end }}
phase: Running
startTime: {{ Now }}
podIP: {{ $address | Quote }}
podIPs: [{ip: {{ $address | Quote }}}]
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ Now }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ Now }}}
- {type: Ready, status: "True", lastTransitionTime: {{ Now }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ Now }}}}
{{ end }}
""".replace("ADDRESS", ADDRESS)
_POD_ENDS = """
{{ $known := or .metadata.annotations dict }}
{{ $code := or (index $known "EXIT_CODE") "DRAINED" }}
phase: {{ if eq $code "0" }}Succeeded{{ else }}Failed{{ end }}
conditions:
- {type: ContainersReady, status: "False", lastTransitionTime: {{ Now }}}
- {type: Ready, status: "False", lastTransitionTime: {{ Now }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: {{ $code }}
      reason: {{ if eq $code "0" }}Completed{{ else }}Error{{ end }}
      finishedAt: {{ Now }}
{{ end }}
""".replace("EXIT_CODE", EXIT_CODE).replace("DRAINED", str(_DRAINED))


class Kwok:
    """Keeps fake nodes and their pods; a context manager.

    Args:
        client: that may do everything.
        folder: for its files and its log.
    """

    def __init__(self, client: Client, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._client = client
        stages = folder / "stages.yaml"
        stages.write_text("\n---\n".join(json.dumps(stage) for stage in _stages()))
        flags = flags_of({
            "kubeconfig": client.wire.access.write_kubeconfig(folder / "kubeconfig"),
            "config": stages,
            "manage-nodes-with-annotation-selector": f"{_MANAGED}=fake",
            "node-lease-duration-seconds": 40,
            "cidr": "10.128.0.0/14",
        })  # fmt: skip
        command = [str(FAKE_NODES.binary()), *flags]
        self._program = Program("kwok", command, folder / "kwok.log")

    def __enter__(self) -> Self:
        self._program.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()

    def add_nodes(self, count: int, *, gpus: int) -> None:
        """Add nodes with GPUs of NVIDIA, and wait until all are ready."""
        capacity = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
        for number in range(count):
            name = f"fake-{number:04d}"
            metadata = {
                "name": name,
                "annotations": {_MANAGED: "fake"},
                "labels": {"kubernetes.io/hostname": name},
            }
            status = {"capacity": capacity, "allocatable": capacity}
            self._client.create(
                {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}
            )

        def ready() -> bool:
            self._program.check()
            return all(
                holds(node, "Ready") and not node["spec"].get("taints")
                for node in self._client.list("nodes")
            )

        wait_until(ready, f"{count} nodes are ready", within=_START_SECONDS)


def _stages() -> list[dict[str, Any]]:
    going, staying = _has(".metadata.deletionTimestamp"), _lacks(".metadata.deletionTimestamp")
    alive = _is(".status.phase", "Pending", "Running")
    told = _has(f'.metadata.annotations["{EXIT_CODE}"]')
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    not_ready = {"key": ready, "operator": "NotIn", "values": ["True"]}
    pending, ended = _is(".status.phase", "Pending"), _is(".status.phase", "Succeeded", "Failed")
    running = _is(".status.phase", "Running")
    return [
        _stage("node-ready", "Node", [not_ready], {"statusTemplate": _NODE_READY}),
        _stage("pod-runs", "Pod", [staying, pending], {"statusTemplate": _POD_RUNS}),
        _stage("pod-ends", "Pod", [staying, running, told], {"statusTemplate": _POD_ENDS}),
        _stage("pod-is-ended", "Pod", [going, alive], {"statusTemplate": _POD_ENDS}),
        _stage("pod-goes", "Pod", [going, ended], {"delete": True}),
    ]


def _stage(
    name: str, kind: str, expressions: list[dict[str, Any]], then: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            "next": then,
        },
    }


def _has(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "Exists"}


def _lacks(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "DoesNotExist"}


def _is(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}
