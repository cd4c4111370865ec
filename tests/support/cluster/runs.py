"""Runs on a test cluster: source and output in an S3 server, credentials in a Secret, workers on Echo."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rephrase_api.v1alpha1.conditions import ConditionType
from support import corpora
from support.cluster.builders import condition
from support.cluster.client import Client
from support.cluster.resources import path_of
from support.cluster.wire import Object
from support.manifests import a_manifest, echo, merged
from support.s3 import S3

SLOW = echo(concurrency=4, latency=0.5)
"""Slow enough to meddle with: some eight samples per second and worker."""
QUICK: dict[str, Any] = {"spec": {"model": {"engine": {"args": []}}}}
"""A patch that has workers get done at once what is left."""
SECRET = "store"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Runs:
    """Makes runs in one namespace and looks at them.

    Args:
        namespace: a client within it.
        s3: where source and output are.
        folder: for files on their way.
        documents: of the source.
    """

    def __init__(self, namespace: Client, s3: S3, folder: Path, *, documents: int = 200) -> None:
        self.namespace = namespace
        self._s3 = s3
        source = folder / "docs.parquet"
        corpora.write_parquet(source, corpora.rows(documents))
        key = f"{s3.prefix}/source/docs.parquet"
        s3.client().upload_file(Filename=str(source), Bucket=s3.bucket, Key=key)
        self.put_secret(SECRET, s3.env["AWS_ACCESS_KEY_ID"], s3.env["AWS_SECRET_ACCESS_KEY"])

    def put_secret(self, name: str, key: str, secret: str) -> None:
        """Credentials of the store, good or bad."""
        data = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        metadata = {"name": name}
        self.namespace.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        )

    def manifest(self, name: str = "test", **spec: Any) -> dict[str, Any]:  # noqa: ANN401
        """A run of 200 documents in units of 20, on CPU workers."""
        place = {"storage": self._s3.storage, "secretRef": {"name": SECRET}}
        base = {
            "source": {"uri": self._s3.uri("source"), "unit": {"targetDocuments": 20}, **place},
            "output": {"uri": self._s3.uri(f"output-{name}"), **place},
            "workers": {
                "max": 2,
                "terminationGracePeriodSeconds": 10,
                "pools": [
                    {"name": "cpu", "gpu": {"count": 0}, "pricePerGPUHour": "1.50",
                     "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}},
                ],
            },
            "driver": {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}},
            "observability": {"statusIntervalSeconds": 5},
        }  # fmt: skip
        return a_manifest(name, **merged(base, spec))

    def apply(self, name: str = "test", **spec: Any) -> Object:  # noqa: ANN401
        """Apply such a run."""
        return self.namespace.apply(self.manifest(name, **spec))

    def get(self, name: str = "test") -> Object:
        """The run as it is now."""
        return self.namespace.get("rephraseruns", name)

    def row(self, name: str = "test") -> tuple[Object, Object]:
        """What `kubectl get rr -o wide` prints of it, by column, and the run that this was printed of."""
        table = self.namespace.wire.request(
            "GET", path_of("rephraseruns", self.namespace.namespace, name),
            query={"includeObject": "Object"}, accept=_TABLE,
        )  # fmt: skip
        (row,) = table["rows"]
        columns = [column["name"] for column in table["columnDefinitions"]]
        return dict(zip(columns, row["cells"], strict=True)), row["object"]

    def jobs(self, role: str = "", run: str = "test") -> list[Object]:
        """Its Jobs that are not being deleted."""
        labels = f"rephrase.io/run={run}" + (f",rephrase.io/role={role}" if role else "")
        found = self.namespace.list("jobs", labels=labels)
        return [job for job in found if "deletionTimestamp" not in job["metadata"]]

    def pods(self, role: str = "", run: str = "test") -> list[Object]:
        """Its pods that have not ended."""
        labels = f"rephrase.io/run={run}" + (f",rephrase.io/role={role}" if role else "")
        found = self.namespace.list("pods", labels=labels)
        return [pod for pod in found if pod["status"]["phase"] in {"Pending", "Running"}]

    def wait(
        self,
        kind: ConditionType,
        status: str = "True",
        *reasons: str,
        name: str = "test",
        within: float = 60,
    ) -> Object:
        """Wait until a condition has a status and, if given, one of these reasons."""

        def there(run: Object) -> bool:
            found = condition(run, kind)
            fits = not reasons or found.get("reason") in reasons
            return found.get("status") == status and fits

        what = f"{kind}={status} {' or '.join(reasons)}"
        return self.namespace.wait_for("rephraseruns", name, there, what, within=within)

    def wait_committed(self, units: int, *, name: str = "test", within: float = 60) -> Object:
        """Wait until so many units are committed, as far as the status says."""

        def there(run: Object) -> bool:
            progress = (run.get("status") or {}).get("progress") or {}
            return bool((progress.get("units") or {}).get("committed", 0) >= units)

        what = f"{units} units are committed"
        return self.namespace.wait_for("rephraseruns", name, there, what, within=within)

    def complete(self, name: str = "test", *, within: float = 120) -> Object:
        """Wait until it is complete."""
        return self.wait(ConditionType.COMPLETE, name=name, within=within)

    def verify(self, name: str = "test") -> subprocess.CompletedProcess[str]:
        """What `rephrase verify` says of its output."""
        rephrase = str(Path(sys.executable).with_name("rephrase"))
        place = ["--endpoint", self._s3.endpoint, "--region", "us-east-1", "--allow-http"]
        return subprocess.run(
            [rephrase, "verify", self._s3.uri(f"output-{name}"), *place],
            env=os.environ | self._s3.env,
            capture_output=True,
            text=True,
            check=False,
        )
