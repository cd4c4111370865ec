"""A release of the chart as Helm itself makes it, changes it and takes it away; and an older chart."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rephrase_api.crd import FILE
from support.cluster.binary import source_of
from support.cluster.client import Client
from support.cluster.installed import SYSTEM
from support.cluster.resources import CLUSTER_WIDE
from support.cluster.wire import Object
from support.helm import CHART, RELEASE, helm, run

_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_MONITORING = ("podmonitors", "prometheusrules", "servicemonitors")
KINDS = (
    *("clusterroles", "clusterrolebindings", "priorityclasses", "roles", "rolebindings"),
    *("configmaps", "deployments", "networkpolicies", "serviceaccounts", "services"),
    *_MONITORING,
)
"""What a release may be made of, beside the definition of RephraseRun."""


class Release:
    """A release in a cluster that no other test uses.

    Args:
        client: may do everything.
        kubeconfig: of the same.
    """

    def __init__(self, client: Client, kubeconfig: Path) -> None:
        self._client = client
        self._kubeconfig = kubeconfig

    def install(self, values: Mapping[str, Any], chart: Path = CHART) -> None:
        """Make it."""
        self._helm("install", RELEASE, str(chart), values=values)

    def upgrade(self, values: Mapping[str, Any], chart: Path = CHART) -> None:
        """Change it to these values, and to this chart."""
        self._helm("upgrade", RELEASE, str(chart), values=values)

    def uninstall(self) -> None:
        """Take it away."""
        self._helm("uninstall", RELEASE)

    def test(self) -> subprocess.CompletedProcess[str]:
        """What `helm test` says."""
        return run("test", RELEASE, *self._where(), "--timeout", "180s", "--logs")

    def objects(self) -> list[str]:
        """All that is there of it: kind, namespace and name."""
        found = []
        everywhere = self._client.in_namespace(None)
        for kind in filter(everywhere.serves, KINDS):
            for one in everywhere.list(kind, labels=f"app.kubernetes.io/instance={RELEASE}"):
                meta = one["metadata"]
                place = "" if kind in CLUSTER_WIDE else f"{meta['namespace']}/"
                found.append(f"{kind} {place}{meta['name']}")
        return sorted(found)

    def _helm(self, *arguments: str, values: Mapping[str, Any] | None = None) -> None:
        done = run(*arguments, *self._where(), values=values)
        assert done.returncode == 0, done.stderr

    def _where(self) -> list[str]:
        return ["--namespace", SYSTEM, "--kubeconfig", str(self._kubeconfig)]


def packaged(folder: Path, chart: Path = CHART) -> Path:
    """The chart as the one file that is published."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [helm(), "package", chart, "--destination", folder], check=True, capture_output=True
    )
    (archive,) = folder.glob("*.tgz")
    return archive


def older(folder: Path, *, without: str) -> Path:
    """The chart as it may have been at version 0.0.1: other images, and one field of the spec fewer.

    Args:
        folder: for it.
        without: a field that stands at the top of the spec.
    """
    chart = folder / CHART.name
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(
        yaml.safe_dump(about | {"version": "0.0.1", "appVersion": "0.0.1"})
    )
    crd = yaml.safe_load((chart / "files" / FILE).read_text())
    (version,) = crd["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][without]
    (chart / "files" / FILE).write_text(yaml.safe_dump(crd))
    return packaged(folder / "package", chart)


def prometheus_operator_crds() -> list[Object]:
    """Definitions of the monitors and rules that the chart may have."""
    folder = source_of(_PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
    return [
        yaml.safe_load((folder / f"monitoring.coreos.com_{kind}.yaml").read_text())
        for kind in _MONITORING
    ]
