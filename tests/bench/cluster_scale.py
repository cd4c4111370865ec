"""`make bench-operator`: what the operator takes at 1,000 workers, on a genuine control plane and fake nodes.

RUNS runs of WORKERS workers each, on nodes and pods that kwok keeps as objects; drivers that only answer
`GET /progress`; the operator with the rights of its chart. Measured are the start, SECONDS in which nothing
changes but numbers, and PREEMPTED workers that are taken and come back. Fails if the results are wrong, never
because they are slow.

    make bench-operator ARGS='--runs 20 --workers 50 --seconds 120'
"""

import argparse
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from rephrase_api import names
from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.binary import CONTROL_PLANE, FAKE_NODES, NotBuilt, kubernetes_version
from support.cluster.builders import a_namespace, holds
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane, Program
from support.cluster.fake_drivers import FakeDrivers
from support.cluster.installed import SYSTEM, get
from support.cluster.kwok import ADDRESS, Kwok
from support.cluster.local_operator import environment
from support.cluster.wire import Object
from support.helm import RELEASE, NoHelm, render
from support.s3 import free_ports
from support.waiting import wait_until

NAMESPACE = "scale"
NODE_GPUS = 8
LEAST_UNITS, MOST_UNITS = 1_000, 10_000_000
CPU_GOAL, MEMORY_GOAL = 1.0, 300
"""Seconds of CPU for a look at a run; MB."""
PATIENCE = 600.0
_WRITES = {"create", "update", "patch", "delete", "deletecollection"}
_CRDS = Path(__file__).parents[2] / "crds"
_LOOKS = "rephrase_operator_reconcile_duration_seconds_count"
_ERRORS = "rephrase_operator_reconcile_errors_total"
_DIGITS = 200
"""Bytes that two statuses may differ by: numbers of more digits, names of more letters."""
_UNAVAILABLE = 69


@dataclass(frozen=True, slots=True)
class Reading:
    """What the operator has taken so far.

    Attributes:
        time: of a clock.
        cpu: seconds.
        looks: at a run.
        errors: looks that ended with one.
        requests: to the API server, by verb and resource.
    """

    time: float
    cpu: float
    looks: float
    errors: float
    requests: Counter[str]

    def since(self, before: "Reading") -> "Reading":
        """What it took from then to now."""
        return Reading(
            self.time - before.time,
            self.cpu - before.cpu,
            self.looks - before.looks,
            self.errors - before.errors,
            self.requests - before.requests,
        )

    @property
    def writes(self) -> int:
        """Requests that change something."""
        return sum(n for what, n in self.requests.items() if what.split()[0] in _WRITES)


class Operator:
    """The operator as a process of this machine, with the token of its ServiceAccount; a context manager.

    Args:
        plane: that it works on; its audit log tells the operator's requests.
        folder: for its files.
    """

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._metrics, *_ = free_ports(1)
        self._audit = audit_log(folder)
        token = plane.client().in_namespace(SYSTEM).token(RELEASE, seconds=7200)
        config = plane.access.with_token(token).write_kubeconfig(folder / "operator.kubeconfig")
        self._program = Program(
            "operator",
            [sys.executable, "-m", "rephrase_operator"],
            folder / "operator.log",
            environment(config)
            | {
                "REPHRASE_OPERATOR_RECONCILE_SECONDS": "5",
                "REPHRASE_OPERATOR_HOST": "127.0.0.1",
                "REPHRASE_OPERATOR_METRICS_PORT": str(self._metrics),
            },
        )

    def __enter__(self) -> "Operator":
        self._program.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()

    def check(self) -> None:
        """See that it lives."""
        self._program.check()

    def read(self) -> Reading:
        """What it has taken so far."""
        told = get(f"http://127.0.0.1:{self._metrics}/metrics")
        fields = Path(f"/proc/{self._program.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime and stime
        return Reading(
            time.monotonic(),
            ticks / os.sysconf("SC_CLK_TCK"),
            _value(told, _LOOKS),
            _value(told, _ERRORS),
            self._requests(),
        )

    def complaints(self) -> Counter[str]:
        """Warnings and errors in its log, by their first words."""
        lines = self._program.log.read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return Counter(
            f"{one['severity']}: {one['message']} {one.get('error', '')}"[:100]
            for one in records
            if one["severity"] not in {"debug", "info"}
        )

    def memory(self, what: str) -> int:
        """MB that it holds (VmRSS), or held at most (VmHWM)."""
        status = Path(f"/proc/{self._program.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) // 1000

    def _requests(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for line in self._audit.read_text().splitlines():
            event = json.loads(line)
            about = event.get("objectRef", {})
            kind = "/".join(filter(None, (about.get("resource"), about.get("subresource"))))
            dry = " (dry run)" if "dryRun=All" in event["requestURI"] else ""
            verb = "try" if dry else event["verb"]
            found[f"{verb} {kind or 'discovery'}"] += 1
        return found


class Scene:
    """The runs and what becomes of them.

    Args:
        namespace: a client within theirs.
        units: planned, by run.
        workers: of each.
    """

    def __init__(self, namespace: Client, units: dict[str, int], workers: int) -> None:
        self.namespace, self.units, self.workers = namespace, units, workers

    def apply(self, drivers: FakeDrivers) -> None:
        """Make the runs."""
        for run in self.units:
            self.namespace.apply(a_run(run, self.workers, drivers.address(run)))

    def runs(self) -> list[Object]:
        """As they are now."""
        return self.namespace.list("rephraseruns")

    def all_ready(self) -> bool:
        """Whether every worker of every run is, by the word of the operator."""
        return all(
            holds(run, ConditionType.WORKERS_AVAILABLE) and ready(run) == self.workers
            for run in self.runs()
        )

    def preempt(self, count: int) -> list[str]:
        """Evict workers, evenly over the runs; their names."""
        pods = self.namespace.list("pods", labels=f"{names.ROLE_LABEL}={names.WORKER}")
        pods.sort(key=lambda pod: int(pod["metadata"]["labels"][names.SLOT_LABEL]))
        taken = [str(pod["metadata"]["name"]) for pod in pods[:count]]
        for name in taken:
            self.namespace.evict(name)
        return taken

    def are_back(self, taken: list[str]) -> bool:
        """Whether others run instead of these, counted as interrupted."""
        return self.all_ready() and disruptions(self.runs()) == len(taken)

    def problems(self, preempted: int) -> Iterator[str]:
        """What is wrong in the end."""
        runs = self.runs()
        if (found := disruptions(runs)) != preempted:
            yield f"{found} disruptions are counted, {preempted} workers were preempted"
        if failures := sum(int(pool.get("failures", 0)) for run in runs for pool in settled(run)):
            yield f"{failures} failures are counted, and none failed"
        jobs = self.namespace.list("jobs")
        if len(jobs) != len(self.units) * (1 + self.workers):
            yield f"{len(jobs)} Jobs for {len(self.units)} runs of {self.workers} workers and a driver"
        if (spread := max(sizes := self.sizes()) - min(sizes)) > _DIGITS:
            yield f"sizes of statuses are {spread} bytes apart"

    def sizes(self) -> list[int]:
        """Bytes of the statuses."""
        return [len(json.dumps(run["status"])) for run in self.runs()]


def main() -> int:
    """Measure, check, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=50, help="of each run")
    parser.add_argument("--seconds", type=int, default=120, help="of the steady state")
    parser.add_argument("--preempted", type=int, default=100, help="workers that are taken")
    parser.add_argument("--folder", type=Path, help="for all logs, which are kept then")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if sys.platform != "linux":
        print("no figures: what the operator takes is read from /proc, on Linux", file=sys.stderr)
        return _UNAVAILABLE
    try:
        for program in (CONTROL_PLANE, FAKE_NODES):
            if not program.is_built:
                tell(f"building {program.what}, about {program.minutes} minutes, this once ...")
            program.binary()
        manifests = render(SYSTEM)
    except (NotBuilt, NoHelm) as reason:
        print(f"no cluster, no figures: {reason}", file=sys.stderr)
        return _UNAVAILABLE
    tell(
        f"rephrase {version('rephrase')}, kopf {version('kopf')}, Python {platform.python_version()}, "
        f"Kubernetes {kubernetes_version()}, kwok {FAKE_NODES.release_of('sigs.k8s.io/kwok')}; "
        f"{os.cpu_count()} cores, {platform.machine()}, {memory_of_machine()} GB"
    )
    with tempfile.TemporaryDirectory(prefix="rephrase-scale-") as temporary:
        folder: Path = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with cluster(folder, options.runs * options.workers) as plane:
            install(plane.client(), manifests)
            return measure(plane, folder, options)


def measure(plane: ControlPlane, folder: Path, options: argparse.Namespace) -> int:
    """The three parts; returns the exit code."""
    namespace = plane.client().in_namespace(NAMESPACE)
    scene = Scene(namespace, planned_units(options.runs), options.workers)
    with (
        FakeDrivers(namespace, scene.units) as drivers,
        Operator(plane, folder) as operator,
    ):
        wait_until(lambda: answers(operator), "the operator answers", within=60)
        before = operator.read()
        scene.apply(drivers)
        wait_until(scene.all_ready, "all workers are ready", within=PATIENCE)
        start = operator.read().since(before)
        show("start", start, f"{options.runs * options.workers} workers are ready")

        before = operator.read()
        end: float = before.time + options.seconds

        def over() -> bool:
            operator.check()
            return time.monotonic() > end

        wait_until(over, "the steady state is over", within=options.seconds + 60)
        steady = operator.read().since(before)
        show("steady", steady, "nothing changes but numbers")

        before = operator.read()
        taken = scene.preempt(options.preempted)
        wait_until(lambda: scene.are_back(taken), "the workers are back", within=PATIENCE)
        disturbed = operator.read().since(before)
        show("preempted", disturbed, f"{len(taken)} workers, all are back")

        cpu = steady.cpu / steady.looks
        memory = operator.memory("VmRSS")
        tell(
            f"CPU of a look at a run: {cpu * 1000:.1f} ms ({met(cpu < CPU_GOAL)}: below {CPU_GOAL:g} s)"
        )
        tell(
            f"memory: {memory} MB, {operator.memory('VmHWM')} MB at most "
            f"({met(memory < MEMORY_GOAL)}: below {MEMORY_GOAL} MB)"
        )
        sizes = scene.sizes()
        tell(
            f"status: {min(sizes):,} to {max(sizes):,} bytes, for {min(scene.units.values()):,} to "
            f"{max(scene.units.values()):,} units"
        )
        tell(f"looks that ended early: {operator.read().errors:g}")
        for line, count in operator.complaints().most_common():
            tell(f"    {count:6d}  {line}")
        problems = [*scene.problems(options.preempted)]
    for problem in problems:
        tell(f"WRONG: {problem}")
    return 1 if problems else 0


# -- the cluster --


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[ControlPlane]:
    """A control plane that is told to be quick, with nodes for so many workers."""
    policy = folder / "audit-policy.yaml"
    user = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
    policy.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "omitStages": ["RequestReceived", "ResponseStarted"],
                "rules": [{"level": "Metadata", "users": [user]}, {"level": "None"}],
            }
        )
    )
    flags: dict[str, dict[str, object]] = {
        "kube-apiserver": {
            "audit-policy-file": policy,
            "audit-log-path": audit_log(folder),
            "audit-log-maxsize": 1000,
        },
        "kube-controller-manager": {"concurrent-job-syncs": 50},
    }
    plane = ControlPlane(folder / "plane", node_grace_seconds=50, flags=flags)
    with plane, Kwok(plane.client(), folder / "kwok") as kwok:
        kwok.add_nodes(-(-workers // NODE_GPUS), gpus=NODE_GPUS)
        yield plane


def audit_log(folder: Path) -> Path:
    """Where the API server tells the operator's requests."""
    return folder / "audit.log"


def install(client: Client, manifests: list[dict[str, Any]]) -> None:
    """All of the chart but the operator's pod, and a namespace for the runs."""
    for path in _CRDS.glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        client.apply(definition)
        name = definition["metadata"]["name"]
        client.wait_for(
            "customresourcedefinitions", name, lambda crd: holds(crd, "Established"), "established"
        )
    for name in (SYSTEM, NAMESPACE):
        client.create(a_namespace(name))
    for manifest in manifests:
        if manifest["kind"] not in {"Deployment", "CustomResourceDefinition"}:
            client.in_namespace(manifest["metadata"].get("namespace")).apply(manifest)


def a_run(name: str, workers: int, address: str) -> Object:
    """A run on the engine VLLM, whose driver is found at an address."""
    annotated = {"metadata": {"annotations": {ADDRESS: address}}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": "s3://corpus/web/"},
            "prompts": [{"name": one, "builtIn": one} for one in ("faq", "math", "table")],
            "model": {"name": "HuggingFaceTB/SmolLM2-1.7B-Instruct"},
            "output": {"uri": f"s3://synthetic/{name}/"},
            "workers": {"max": workers, "pools": [{"name": "spot", "capacityType": "Spot"}]},
            "driver": {"podTemplate": annotated},
        },
    }


def planned_units(runs: int) -> dict[str, int]:
    """From a thousand units to ten million, each run more than the last."""
    ratio = (MOST_UNITS / LEAST_UNITS) ** (1 / max(1, runs - 1))
    return {f"run-{number:02d}": round(LEAST_UNITS * ratio**number) for number in range(runs)}


# -- what statuses say --


def ready(run: Object) -> int:
    """Workers that are, by the status."""
    return int((run.get("status", {}).get("workers") or {}).get("ready") or 0)


def settled(run: Object) -> list[Object]:
    """The account of ended pods, by pool."""
    found: list[Object] = run.get("status", {}).get("settled", [])
    return found


def disruptions(runs: list[Object]) -> int:
    """That are counted, in all runs."""
    return sum(int(pool.get("disruptions", 0)) for run in runs for pool in settled(run))


# -- what is printed --


def show(what: str, took: Reading, text: str) -> None:
    """One part."""
    tell(
        f"{what}: {took.time:.0f} s, {text}; {took.looks:.0f} looks, {took.cpu:.1f} s of CPU "
        f"({took.cpu / took.time:.0%} of a core), {sum(took.requests.values())} requests, "
        f"{took.writes} of them writes"
    )
    for name, count in took.requests.most_common():
        tell(f"    {count:6d}  {name}")


def answers(operator: Operator) -> bool:
    """Whether it serves its metrics."""
    operator.check()
    try:
        operator.read()
    except OSError:
        return False
    return True


def met(goal: bool) -> str:  # noqa: FBT001 - a word for it
    """A word for it."""
    return "met" if goal else "MISSED"


def memory_of_machine() -> int:
    """GB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**9


def _value(exposition: str, name: str) -> float:
    """Of all series of this name together."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", exposition, re.MULTILINE)
    return sum(map(float, found))


def tell(line: str) -> None:
    """Print it at once."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
