"""What pages and examples print for a cluster, run as printed by a user of a genuine one."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from rephrase_api import names
from rephrase_api.v1alpha1.conditions import ConditionType
from support import spot_example
from support.cluster.builders import condition, holds
from support.cluster.client import Client
from support.cluster.installed import SYSTEM, Operator
from support.cluster.kubelet.clock import now, stamp
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.namespaces import new_namespace
from support.cluster.runs import SLOW, Runs
from support.cluster.seen import Seen
from support.cluster.wire import Object
from support.corpora import rows, write_corpus, write_parquet
from support.laptop import Laptop
from support.manifests import a_manifest, echo, merged
from support.pages import commands, put_example, yaml_documents
from support.s3 import S3, SeaweedFS
from support.shell import Shell
from support.tiers import ROOT
from support.waiting import wait_until

pytestmark = pytest.mark.needs("kubectl", "helm")
AddNode = Callable[..., Node]
NAMESPACE, ACCOUNT = "rephrase", "rephrase-runner"
"""As all that is printed calls them."""
GPU_TAINT = "nvidia.com/gpu=present:NoSchedule"
SPOT, ACCELERATOR = "cloud.google.com/gke-spot", "cloud.google.com/gke-accelerator"
DONE = "Succeeded"


@pytest.fixture
def namespace(cluster_client: Client) -> Iterator[Client]:
    """The namespace that is printed, with the ServiceAccount of its runs."""
    with new_namespace(cluster_client, NAMESPACE) as namespace:
        namespace.create(named("ServiceAccount", ACCOUNT))
        yield namespace
    cluster_client.wait_gone("namespaces", NAMESPACE, within=120)


def named(kind: str, name: str, **fields: Any) -> Object:  # noqa: ANN401 - fields of an object
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


def shell_in(namespace: Client, folder: Path, more: Mapping[str, str]) -> Shell:
    """One whose kubectl means this namespace where a command names none."""
    config = namespace.wire.access.write_kubeconfig(
        folder / "kubeconfig", namespace=str(namespace.namespace)
    )
    return Shell.of_cluster(folder / "shell", config, more)


def with_store(command: str, s3: S3) -> str:
    """A command of ours is told where the store is that is not of AWS."""
    return f"{command} {s3.options}" if command.startswith("rephrase ") else command


# -- examples -------------------------------------------------------------------------------------


@pytest.fixture
def named_by_the_example(namespace: Client, tmp_path: Path) -> Iterator[str]:
    """All that examples/s3-spot-gpu.yaml names; gives the endpoint of its buckets."""
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(0o777)
    claim = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "resources": {"requests": {"storage": "10Gi"}},
    }
    volume = {
        "accessModes": ["ReadWriteMany"],
        "capacity": {"storage": "10Gi"},
        "hostPath": {"path": str(models)},
        "claimRef": {"namespace": NAMESPACE, "name": "models"},
    }
    low = named("PriorityClass", "batch-low", value=-10) | {"apiVersion": "scheduling.k8s.io/v1"}
    namespace.create(low)
    namespace.create(named("PersistentVolume", "models", spec=volume))
    namespace.create(named("PersistentVolumeClaim", "models", spec=claim))
    (tmp_path / "server").mkdir()
    with SeaweedFS(tmp_path / "server") as server:
        env = spot_example.in_bucket(server.endpoint, spot_example.SOURCE).env
        keys = {name: env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        for name, data in (
            ("corpus-read", keys), ("synthetic-write", keys), ("hub-token", {"token": "hf_none"}),
        ):  # fmt: skip
            namespace.create(named("Secret", name, stringData=data))
        yield server.endpoint
    namespace.delete("persistentvolumes", "models")
    namespace.delete("priorityclasses", "batch-low")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_example_on_spot_gpus_does_a_canary_and_then_all_on_spot_nodes_within_its_budget(
    operator: Operator,
    namespace: Client,
    named_by_the_example: str,
    add_node: AddNode,
    tmp_path: Path,
) -> None:
    """On nodes as GKE labels and taints those with an L4; the workers are slow enough to need others."""
    endpoint = named_by_the_example
    fit = spot_example.fill(endpoint, tmp_path / "files", documents=10_000)
    add_node("cpu")
    l4 = {ACCELERATOR: "nvidia-l4"}
    add_node("on-demand", gpus=1, labels=l4, taints=[GPU_TAINT])
    spot = [
        add_node(
            f"spot-{number}",
            gpus=1, labels=l4 | {SPOT: "true"}, taints=[GPU_TAINT, f"{SPOT}=true:NoSchedule"],
        )
        for number in range(5)
    ]  # fmt: skip
    output = spot_example.in_bucket(endpoint, spot_example.OUTPUT)
    shell = shell_in(namespace, tmp_path, output.env)
    soon = stamp(now() + timedelta(minutes=2))
    changes = {
        # the day that is printed passes; one so near needs all workers that it can have
        "2026-12-01T00:00:00Z": soon,
        **spot_example.changes(endpoint, "--concurrency=64", "--latency-seconds=0.4"),
    }
    put_example(shell.folder, spot_example.NAME, changes)

    apply, watch, wait = commands("examples/s3-spot-gpu.yaml")
    with Seen(namespace, "faq-math") as seen:
        shell.run(apply)
        shell.watch(watch, DONE, within=600)
        shell.run(wait)
        wait_until(lambda: not namespace.list("pods"), "the pods are gone", within=120)
    run = namespace.get("rephraseruns", "faq-math")
    verified = shell.run(f"rephrase verify s3://synthetic/faq-math {output.options}")

    _, *others = sorted(seen.workers, key=lambda pod: pod["metadata"]["creationTimestamp"])
    passed = condition(run, ConditionType.CANARY_PASSED)
    assert (passed["status"], passed["reason"]) == ("True", "WithinLimits")
    assert run["status"]["canary"]["documents"] >= 800
    assert len(others) >= 2
    began = [pod["metadata"]["creationTimestamp"] for pod in others]
    assert all(when >= passed["lastTransitionTime"] for when in began), (began, passed)
    for pod in seen.workers:
        is_as_the_example_says(pod)
    assert {pod["spec"]["nodeName"] for pod in seen.workers} <= {node.name for node in spot}
    cost = run["status"]["cost"]
    assert Decimal(0) < Decimal(cost["total"]) < Decimal(500)
    assert [one["name"] for one in cost["byPool"]] == ["spot"]
    assert run["status"]["progress"]["samples"]["written"] == 3 * len(fit)
    assert "s3://synthetic/faq-math: sound" in verified


def is_as_the_example_says(pod: Object) -> None:
    spec = pod["spec"]
    (container,) = spec["containers"]
    volumes = {one["name"]: one for one in spec["volumes"]}
    mounted = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
    claims = {
        path: one["persistentVolumeClaim"]["claimName"]
        for path, one in mounted.items()
        if "persistentVolumeClaim" in one
    }
    secrets = {one["secret"]["secretName"] for one in mounted.values() if "secret" in one}
    (home,) = [one["value"] for one in container["env"] if one["name"] == "HF_HOME"]
    tolerated = {"key": SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert pod["metadata"]["labels"][names.POOL_LABEL] == "spot"
    assert spec["nodeSelector"] == {SPOT: "true", ACCELERATOR: "nvidia-l4"}
    assert tolerated in [{"operator": "Equal"} | one for one in spec["tolerations"]]
    assert spec["priorityClassName"] == "batch-low"
    assert spec["serviceAccountName"] == ACCOUNT
    assert spec["terminationGracePeriodSeconds"] == 60
    assert claims == {home: "models"}
    assert secrets == {"corpus-read", "synthetic-write", "hub-token"}
    assert container["resources"]["limits"] == {"memory": "24Gi", "nvidia.com/gpu": "1"}


def test_the_quickstart_on_a_cluster_becomes_a_dataset(
    operator: Operator, namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path
) -> None:
    add_node("cpu")
    runs = Runs(namespace, s3, tmp_path, documents=60)
    shell = shell_in(namespace, tmp_path, s3.env)
    changes = {
        "http://s3.storage.svc.cluster.local:8333": s3.endpoint,  # no Services here
        "s3://rephrase-quickstart/source": s3.uri("source"),
        "s3://rephrase-quickstart/output": s3.uri("output-quickstart"),
    }
    put_example(shell.folder, "quickstart-cluster.yaml", changes)

    apply, watch = commands("examples/quickstart-cluster.yaml")
    shell.run(apply)
    watched = shell.watch(watch, DONE)

    assert watched.splitlines()[0].split()[:2] == ["NAME", "PHASE"]
    assert runs.verify("quickstart").returncode == 0


def test_the_other_examples_are_taken_with_the_commands_that_they_print(
    operator: Operator, namespace: Client, cluster_client: Client, tmp_path: Path
) -> None:
    shell = shell_in(namespace, tmp_path, {})
    # there is no hub here
    put_example(shell.folder, "finephrase.yaml", {"spec:\n": "spec:\n  suspend: true\n"})
    put_example(shell.folder, "prices.yaml", {})

    for command in commands("examples/finephrase.yaml", "", "kubectl"):
        shell.run(command)
    for command in commands("examples/prices.yaml", "", "kubectl"):
        shell.run(command)

    system = cluster_client.in_namespace(SYSTEM)
    prices = system.get("configmaps", "rephrase-prices")
    system.delete("configmaps", "rephrase-prices")
    assert yaml.safe_load(prices["data"]["prices.yaml"])["currency"] == "USD"
    namespace.wait_for(
        "rephraseruns", "finephrase", lambda run: holds(run, ConditionType.ACCEPTED), "it is taken"
    )


# -- pages ----------------------------------------------------------------------------------------


def test_the_commands_of_the_install_page_lead_to_a_first_run_and_through_a_canary(
    operator: Operator, namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path
) -> None:
    add_node("cpu")
    runs = Runs(namespace, s3, tmp_path)
    shell = shell_in(namespace, tmp_path, s3.env)
    path = write_parquet(tmp_path / "web.parquet", rows(120))
    key = f"{s3.prefix}/documents/web.parquet"
    s3.client().upload_file(Filename=str(path), Bucket=s3.bucket, Key=key)
    bucket = f"{s3.bucket}/{s3.prefix}"
    place = {
        "storage": s3.storage,
        "secretRef": {"name": "corpus"},
    }  # nothing here gives identities
    shown = yaml_documents(ROOT / "docs" / "install.md")
    (first,) = [one for one in shown if (one.get("metadata") or {}).get("name") == "first"]
    first = merged(first, {"spec": {"source": place, "output": place}})
    (shell.folder / "first.yaml").write_text(yaml.safe_dump(first).replace("BUCKET", bucket))
    (canary,) = [one for one in shown if "canary" in one]
    runs.apply("second", **merged(canary, {"canary": {"documents": 30}}))

    for command in commands("docs/install.md", "The operator"):
        shell.run(command)
    for command in commands("docs/install.md", "Buckets"):
        shell.run(
            re.sub(r"(AWS\w+)=\.\.\.", lambda found: f"{found[1]}={s3.env[found[1]]}", command)
        )
    for command in commands("docs/install.md", "AKS"):
        shell.run(command)
    said = {}
    for command in commands("docs/install.md", "First run"):
        if "NAME" in command:
            runs.wait(ConditionType.SUSPENDED, "True", "AwaitingApproval", name="second")
        here = with_store(command.replace("BUCKET", bucket).replace("NAME", "second"), s3)
        said[command] = shell.watch(here, DONE) if "--watch" in command else shell.run(here)

    runs.complete("second")
    (estimate,) = [json.loads(text) for command, text in said.items() if "estimate" in command]
    (verified,) = [text for command, text in said.items() if "verify" in command]
    assert float(estimate["cost"]["high"]) > 0
    assert f"s3://{bucket}/first: sound" in verified
    account = namespace.get("serviceaccounts", ACCOUNT)["metadata"]
    assert account["annotations"] == {"azure.workload.identity/client-id": "CLIENT_ID"}


def test_the_commands_for_trouble_show_what_their_page_says(
    operator: Operator,
    namespace: Client,
    kubelet: Kubelet,
    add_node: AddNode,
    s3: S3,
    tmp_path: Path,
) -> None:
    add_node("cpu")
    runs = Runs(namespace, s3, tmp_path)
    shell = shell_in(namespace, tmp_path, s3.env)
    runs.apply(model=SLOW)
    runs.wait_committed(1)
    victim = runs.pods("worker")[0]["metadata"]["name"]
    kubelet.run_out_of_memory(NAMESPACE, victim, "worker")
    namespace.wait_for(
        "rephraseruns", "test", lambda run: run["status"]["workerFailures"], "it is counted"
    )
    runs.wait(ConditionType.WORKERS_AVAILABLE)

    said = []
    for command in commands("docs/troubleshooting.md", "Where to look"):
        output = command.replace("s3://bucket/output", s3.uri("output-test"))
        said.append(shell.run(with_store(output.replace("NAME", "test"), s3)))

    shown, described, listed, driver, workers, failures, operators, status = said
    assert shown.split()[:2] == ["NAME", "PHASE"]
    assert "WorkersAvailable" in described
    assert "WorkerFailed" in described, "Events"
    assert {"job.batch/test-driver", "job.batch/test-w000-1"} <= set(listed.split())
    assert "run planned" in {json.loads(line)["message"] for line in driver.splitlines()}
    assert {line.split("/")[1][:9] for line in workers.splitlines()} >= {"test-w000", "test-w001"}
    assert [one["reason"] for one in json.loads(failures)] == ["OOMKilled"]
    assert "looked" in {json.loads(line)["message"] for line in operators.splitlines()}
    assert "units" in status


@pytest.mark.usefixtures("crd")
def test_the_fastest_settings_are_patched_into_a_run_and_into_its_file(
    namespace: Client, laptop: Laptop, tmp_path: Path
) -> None:
    shell = shell_in(namespace, tmp_path, {})
    manifest = a_manifest(model=echo(concurrency=2, latency=0.1))
    write_corpus(laptop.source, files=1, rows_per_file=30, row_group_rows=30)
    laptop.write(manifest)
    namespace.create(manifest)

    tune, *patches = commands("docs/performance.md", "The fastest settings: `rephrase tune`")
    tuned = laptop.rephrase(*tune.split()[1:], "--minutes=0.5", "--window=1")
    for name in (laptop.manifest.name, "tune.patch.yaml"):
        (shell.folder / name).symlink_to(laptop.folder / name)
    said = [shell.run(command.replace("NAME", "test")) for command in patches]

    assert tuned.code == 0, tuned.said
    patch = yaml.safe_load((laptop.folder / "tune.patch.yaml").read_text())
    args = patch["spec"]["model"]["engine"]["args"]
    assert args != manifest["spec"]["model"]["engine"]["args"]
    assert namespace.get("rephraseruns", "test")["spec"]["model"]["engine"]["args"] == args
    assert yaml.safe_load(said[-1]) == merged(manifest, patch)
