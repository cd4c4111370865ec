"""What the pages show is taken by a genuine API server, with the pods that the operator makes of it."""

from pathlib import Path
from typing import Any

import pytest

from rephrase_api.v1alpha1 import RephraseRun
from rephrase_operator.jobs import driver_job, worker_job
from rephrase_operator.settings import Settings
from support.cluster.client import Client
from support.cluster.resources import CLUSTER_WIDE, resource_of
from support.pages import PAGES, runs_of, yaml_documents

OURS = {"v1", "networking.k8s.io/v1"}
"""Groups of Kubernetes' own that the pages use; those of Karpenter and Kueue are not served here."""
SETTINGS = Settings(runner_image="runner", driver_image="driver")

pytestmark = pytest.mark.usefixtures("crd")


def showing(what: Any) -> list[Path]:  # noqa: ANN401 - a function of a page
    return [page for page in PAGES if what(page)]


def objects_of(page: Path) -> list[dict[str, Any]]:
    return [one for one in yaml_documents(page) if one.get("apiVersion") in OURS]


def here(manifest: dict[str, Any], namespace: Client) -> dict[str, Any]:
    """The same in the test's namespace."""
    if resource_of(manifest) in CLUSTER_WIDE:
        return manifest
    return manifest | {"metadata": manifest["metadata"] | {"namespace": namespace.namespace}}


@pytest.mark.parametrize("page", showing(objects_of), ids=lambda page: page.name)
def test_every_object_that_a_page_shows_is_taken(page: Path, namespace: Client) -> None:
    for manifest in objects_of(page):
        namespace.create(here(manifest, namespace), dry_run=True)


@pytest.mark.parametrize("page", showing(runs_of), ids=lambda page: page.name)
def test_every_run_that_a_page_shows_is_taken_with_its_pods(page: Path, namespace: Client) -> None:
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "rephrase-runner"},
    }
    namespace.create(account)
    for manifest in runs_of(page):
        stored = namespace.create(here(manifest, namespace), dry_run=True)
        run = RephraseRun.from_api(stored)
        workers = [
            worker_job(run, pool, slot=0, attempt=1, start=0, settings=SETTINGS)
            for pool in run.spec.pools()
        ]
        for job in [driver_job(run, settings=SETTINGS), *workers]:
            namespace.create(job, dry_run=True)
            pod = job["spec"]["template"]  # Pod Security `restricted` looks at pods
            pod = pod | {"metadata": pod["metadata"] | {"name": job["metadata"]["name"]}}
            namespace.create({"apiVersion": "v1", "kind": "Pod", **pod}, dry_run=True)
