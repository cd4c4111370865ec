"""Values of the chart that its tests go through: each of them once alone, and all of them together."""

from typing import Any

NAMESPACE = "rephrase-system"
DIGEST = f"sha256:{'5' * 64}"
MONITORING = [
    f"monitoring.coreos.com/v1/{kind}"
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
]
"""Kinds of the Prometheus Operator that they need."""

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "namespaced": {"watchNamespaces": ["team-a", "team-b"]},
    "bare": {
        "watchNamespaces": ["team-a"],
        "crds": {"install": False},
        "rbac": {"aggregateRoles": False, "readEvents": False},
        "serviceAccount": {"create": False, "name": "its-own"},
        "resources": None,
    },
    "digest": {
        "images": {
            "operator": {"repository": "registry.example:5000/rephrase/operator", "digest": DIGEST},
            "driver": {"tag": "1.0", "digest": DIGEST},
            "runner": {"tag": "1.0"},
        }
    },
    "cluster": {
        "runner": {"serviceAccount": {"create": True}},
        "podMonitor": {"enabled": True},
        "networkPolicy": {"enabled": True},
    },
    "priced": {
        "prices": {
            "date": "2026-11-01",
            "pricePerGPUHour": {"H100/Spot": "2.10", "H100/OnDemand": 3, "L4/Spot": 0.25},
        }
    },
    "elsewhere": {"prices": {"configMap": "rephrase-prices"}},
    "tested": {
        "watchNamespaces": ["team-a"],
        "networkPolicy": {"enabled": True},
        "tests": {
            "echoRun": {
                "enabled": True,
                "spec": {"source": {"uri": "s3://in/a/"}, "output": {"uri": "s3://out/a/"}},
            }
        },
    },
    "everything": {
        "watchNamespaces": ["team-a", "team-b"],
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry.example"}],
        "reconcileSeconds": 0.5,
        "crashLoopFailures": 10,
        "logLevel": "Debug",
        "limits": {"maxWorkersPerRun": 64, "maxRunsPerNamespace": 2, "allowPodTemplate": False},
        "ports": {"health": 18080, "metrics": 18081},
        "serviceAccount": {"annotations": {"cloud.example/role": "operator"}},
        "runner": {
            "serviceAccount": {"create": True, "annotations": {"cloud.example/role": "runner"}}
        },
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"team": "data"},
        "podLabels": {"team": "data", "app.kubernetes.io/name": "ours-stays"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True, "namespace": "grafana"},
        "priorityClasses": {"create": True, "worker": {"name": "batch-low"}},
        "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}]},
        "runNetworkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {}}],
            "egressPorts": [443, 9000],
            "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": 8000}]}],
        },
    },
}
