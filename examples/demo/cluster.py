"""`make cluster-demo`: the demo's run by the operator on a genuine Kubernetes, with no cluster at hand.

etcd, API server, controllers and scheduler are built from source (once, some ten minutes); a kubelet
of the tests runs pods as processes of this machine, which needs root on Linux. Source and output are in
an S3 server.

    PYTHONPATH=tests python examples/demo/cluster.py [--engine VLLM|Echo] [--keep]
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from rich.console import Console

from support.cluster.binary import CONTROL_PLANE, NotBuilt
from support.cluster.builders import a_namespace, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.installed import installed
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Shape
from support.helm import kubectl as find_kubectl
from support.s3 import BUCKET, S3, SeaweedFS
from support.waiting import wait_until

HERE = Path(__file__).parent
NAMESPACE = "demo"
RUN = "quickstart"
console = Console()


def main() -> int:
    """Run the demo; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="VLLM", choices=("VLLM", "Echo"))
    parser.add_argument("--keep", action="store_true", help="leave the cluster up until Ctrl-C")
    options = parser.parse_args()
    if os.geteuid() or sys.platform != "linux":
        sys.stderr.write("pods run as processes here, which needs root on Linux\n")
        return 69
    try:
        if not CONTROL_PLANE.is_built:
            step("building Kubernetes from source: about ten minutes, this once")
        CONTROL_PLANE.binary()
    except NotBuilt as reason:
        sys.stderr.write(f"{reason}\n")
        return 69
    step("source: help topics of the Python manual")
    source = Path("demo/source")
    python(HERE / "source.py", source)
    model = ""
    if options.engine == "VLLM":
        step("model: SmolLM2-135M-Instruct")
        model = python(HERE / "model.py")
    with cluster() as (client, kubeconfig, s3):
        for path in source.glob("*.parquet"):
            key = f"{s3.prefix}/source/{path.name}"
            s3.client().upload_file(Filename=str(path), Bucket=s3.bucket, Key=key)
        return show(client, kubeconfig, s3, model=model, keep=options.keep)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Client, Path, S3]]:
    """A control plane, nodes, an S3 server, and the operator installed by its chart."""
    folder = Path(tempfile.mkdtemp(prefix="rephrase-cluster-demo-"))
    with contextlib.ExitStack() as stack:
        step("S3 server: seaweedfs")
        (folder / "s3").mkdir()
        server = stack.enter_context(SeaweedFS(folder / "s3"))
        step("control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler")
        plane = stack.enter_context(ControlPlane(folder / "control-plane"))
        client = plane.client()
        kubelet = stack.enter_context(Kubelet(client, folder / "kubelet"))
        step("chart: helm/rephrase-operator")
        stack.enter_context(installed(client, kubelet))
        kubelet.add_node("node-1", Shape(cpu="4"))
        client.wait_for(
            "customresourcedefinitions",
            "rephraseruns.rephrase.io",
            lambda crd: holds(crd, "Established"),
            "it is established",
        )
        client.create(a_namespace(NAMESPACE))
        yield client.in_namespace(NAMESPACE), plane.kubeconfig, S3(server.endpoint, BUCKET, "demo")


def show(client: Client, kubeconfig: Path, s3: S3, *, model: str, keep: bool) -> int:
    """Apply the run, show it change until it is over, then what it wrote."""
    manifest = Path("demo/cluster-run.yaml")
    manifest.write_text(yaml.safe_dump_all(manifests(s3, model), sort_keys=False))
    kubectl = [str(find_kubectl()), "--kubeconfig", str(kubeconfig), "-n", NAMESPACE]
    step(f"kubectl apply -f {manifest}")
    subprocess.run([*kubectl, "apply", "-f", str(manifest)], check=True)
    step("kubectl get rephraseruns --watch")
    watching = subprocess.Popen([*kubectl, "get", "rephraseruns", "--watch"])
    try:
        run = client.wait_for(
            "rephraseruns",
            RUN,
            lambda run: holds(run, "Complete") or holds(run, "Failed"),
            "it is over",
            within=1800,
        )
        wait_until(lambda: not client.list("jobs"), "its Jobs are removed")
    finally:
        watching.terminate()
        watching.wait()
    step(f"kubectl describe rephraserun {RUN} (events)")
    subprocess.run([*kubectl, "events", "--for", f"rephraserun/{RUN}"], check=False)
    if not holds(run, "Complete"):
        subprocess.run([*kubectl, "get", "rephraseruns", RUN, "-o", "yaml"], check=False)
        return 1
    place = ["--endpoint", s3.endpoint, "--region", "us-east-1", "--allow-http"]
    step("rephrase verify")
    verified = subprocess.run(
        [sys.executable, "-m", "rephrase_runner", "verify", s3.uri("output"), *place],
        env=os.environ | s3.env,
        check=False,
    )
    show_output(s3)
    if keep:
        console.print(
            f"export KUBECONFIG={kubeconfig}   (Ctrl-C ends the cluster)", highlight=False
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)  # noqa: TID251 - until Ctrl-C
    return verified.returncode


def manifests(s3: S3, model: str) -> list[dict[str, Any]]:
    """A Secret and examples/quickstart.yaml, its places those of this cluster."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "store"},
        "stringData": {
            name: s3.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        },
    }
    run: dict[str, Any] = yaml.safe_load((HERE.parent / "quickstart.yaml").read_text())
    spec = run["spec"]
    place = {"storage": s3.storage, "secretRef": {"name": "store"}}
    spec["source"] |= {"uri": s3.uri("source"), **place}
    spec["output"] |= {"uri": s3.uri("output"), **place}
    if model:
        spec["model"]["uri"] = model
    else:
        spec["model"] = {"name": "echo", "engine": {"type": "Echo"}}
    small = {"requests": {"cpu": "100m", "memory": "128Mi"}}
    spec["driver"] = {"resources": small}
    pool = {"name": "cpu", "gpu": {"count": 0}, "pricePerGPUHour": "0.10", "resources": small}
    spec["workers"] = {"max": 1, "pools": [pool]}
    spec["observability"] = {"statusIntervalSeconds": 5}
    spec["durability"] = {"heartbeatSeconds": 2, "leaseSeconds": 10, "checkpointSeconds": 10}
    return [secret, run]


def show_output(s3: S3) -> None:
    """What lies in the output, and one rewrite of each prompt."""
    client = s3.client()
    listed = client.list_objects_v2(Bucket=s3.bucket, Prefix=f"{s3.prefix}/output/")["Contents"]
    for item in listed:
        name = item["Key"].removeprefix(f"{s3.prefix}/output/")
        if "_run/" in name and not name.endswith("manifest.json"):
            continue
        console.print(f"{item['Size']:>9,}  {name}", highlight=False)
        if name.startswith("data/"):
            body = client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
            with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                file.write(body)
                file.flush()
                text = pq.read_table(file.name).to_pylist()[0]["text"]
            console.print(f"           {text[:200]!r}", highlight=False, markup=False)


def step(text: str) -> None:
    """Say what comes next."""
    console.print(f"[bold cyan]==>[/] {text}", highlight=False)


def python(script: Path, *arguments: object) -> str:
    """Run a script of the demo; returns the last line it prints."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
