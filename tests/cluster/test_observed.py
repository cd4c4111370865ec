"""Seen by a real Prometheus: what runs do and cost, every query of dashboards and alerts, alerts that fire.

Its scrape configuration is what the chart's monitors say. The rules are the shipped ones, but each `for` is
sixty times shorter. `REPHRASE_PICTURE=FILE` has what the page *Runs* shows drawn by docs/picture.py.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.installed import SYSTEM, Operator
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.runs import QUICK, Runs
from support.cluster.wire import Object
from support.live_prometheus import Line, Prometheus
from support.manifests import echo
from support.monitors import discovery, jobs
from support.queries import FILES, ROOT, alerts, panels
from support.s3 import S3
from support.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(900), pytest.mark.needs("promtool")]
AddNode = Callable[..., Node]
PRICE = 3600
"""A dollar a second: a cent is then less than what a look may miss."""
MOST_AT_ONCE, STALE_SECONDS = 4, 5
"""Workers that are paid: three, and one that takes another's place. How old a look may be that is scraped."""
CORRECTION_SECONDS = 2
"""A pod is paid until a look finds that it has ended, and its end was a moment before."""
NO_ENGINE = "the workers' engine is Echo: an engine test asks a real vLLM for each series"
NO_DATA = {
    "GPU activity": "NVIDIA's DCGM exporter is not ours, and there is no GPU",
    "Batch": NO_ENGINE,
    "KV cache in use": NO_ENGINE,
    "Requests put back": NO_ENGINE,
    "Prompt tokens found in the cache": NO_ENGINE,
    "Tokens a step": NO_ENGINE,
    "Time in the queue and to the first token": NO_ENGINE,
    "Drafted tokens kept": f"speculative decoding is off where nobody asks for it; and {NO_ENGINE}",
}
"""Panels without data in this test, and why."""


def quicker(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rules whose minutes of waiting are seconds."""
    for group in groups:
        for rule in group["rules"]:
            rule["for"] = rule.get("for", "0m").replace("m", "s")
    return groups


@pytest.fixture
def prometheus(cluster: Any, tmp_path: Path) -> Iterator[Prometheus]:  # noqa: ANN401
    """A server that scrapes all that the chart's monitors select."""
    groups = yaml.safe_load((FILES / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with (
        discovery(cluster.client()) as pods,
        Prometheus(folder, jobs(SYSTEM, pods), rules=quicker(groups)) as server,
    ):
        yield server


@pytest.fixture
def runs(operator: Operator, namespace: Any, add_node: AddNode, s3: S3, tmp_path: Path) -> Runs:  # noqa: ANN401
    """A namespace with nodes and a source, looked after by the operator."""
    for name in ("one", "two", "three"):
        add_node(name, cpu="8")
    return Runs(namespace, s3, tmp_path, documents=1000)


def pool(price: int = PRICE, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    requests = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    return [
        {"name": "cpu", "gpu": {"count": 0}, "pricePerGPUHour": str(price), "resources": requests}
        | more
    ]


def substituted(query: str) -> str:
    """A query of a dashboard, for all namespaces and runs."""
    return query.replace("$namespace", ".*").replace("$run", ".*")


def firing(prometheus: Prometheus, alert: str, run: str) -> bool:
    found = prometheus.ask(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')
    return any(run in (labels.get("run"), labels.get("rephrase_io_run"), "") for labels, _ in found)


def test_a_prometheus_sees_what_a_run_does_and_costs_and_what_is_wrong(
    runs: Runs,
    operator: Operator,
    kubelet: Kubelet,
    prometheus: Prometheus,
    s3: S3,
) -> None:
    began = time.time()  # noqa: TID251 - Prometheus' clock is this one
    slow = echo(concurrency=2, latency=0.4)
    workers = {"min": 3, "max": 3, "terminationGracePeriodSeconds": 5}
    deadline = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began + 7200))
    money = {"deadline": deadline, "budget": {"amount": "100000"}}
    runs.apply(model=slow, workers=workers | {"pools": pool()}, scaling=money,
               canary={"documents": 20})  # fmt: skip
    poor = {"budget": {"amount": "150"}}  # four fifths of it are spent after two minutes
    one = {"max": 1, "terminationGracePeriodSeconds": 5, "pools": pool()}
    runs.apply("poor", model=slow, workers=one, scaling=poor)
    command = {"name": "worker", "command": ["sh", "-c", "exit 1"]}
    fails = pool(podTemplate={"spec": {"containers": [command]}})
    runs.apply("broken", model=slow, workers={"max": 3, "pools": fails})

    # a preemption, a failure, and an operator that is killed, while all is going on
    runs.wait(ConditionType.CANARY_PASSED, "True", "WithinLimits", within=120)
    wait_until(lambda: len(running(runs)) == 3, "three workers run", within=120)
    runs.wait_committed(6, within=180)
    before_restart = time.time()  # noqa: TID251
    runs.namespace.evict(running(runs)[0]["metadata"]["name"])
    victim = running(runs)[-1]["metadata"]["name"]
    place = str(runs.namespace.namespace)
    wait_until(lambda: kubelet.run_out_of_memory(place, victim, "worker"), "it is killed")
    runs.namespace.wait_for(
        "rephraseruns", "test", lambda run: counts(run) == (1, 1), "both are counted", within=120
    )
    operator.kill()
    after_restart = time.time()  # noqa: TID251

    # alerts, end to end
    for name, run in (
        ("RephraseWorkersCrashLooping", "broken"),
        ("RephraseWorkersNeverReady", "broken"),
        ("RephraseBudgetNearlySpent", "poor"),
        ("RephraseBudgetSpent", "poor"),
    ):
        fired = (
            f'count_over_time(ALERTS{{alertname="{name}", alertstate="firing", run="{run}"}}[10m])'
        )
        wait_until(partial(prometheus.ask, fired), f"{name} fires", within=180)

    # the end: what Prometheus says is what ledger and status say
    wait_until(lambda: time.time() > began + 130, "some minutes are seen", within=180)  # noqa: TID251
    hurried = time.time()  # noqa: TID251
    runs.namespace.patch("rephraseruns", "test", QUICK)
    runs.complete(within=180)
    assert runs.verify().returncode == 0
    manifest = json.loads(
        s3.client()
        .get_object(Bucket=s3.bucket, Key=f"{s3.prefix}/output-test/_run/manifest.json")["Body"]
        .read()
    )
    wait_until(lambda: agrees(prometheus, runs.get(), manifest), "all say the same", within=30)
    ended = time.time()  # noqa: TID251

    # no total of the run goes back, no cost jumps, whoever tells it
    of_test = '{namespace!="", run="test"}'
    spent = f"sum(max without (instance, pod) (rephrase_run_cost{of_test}))"
    held = f"sum(max without (instance, pod) (rephrase_run_gpu_seconds{of_test}))"
    backwards = {}
    for total, allowed in (
        (spent, CORRECTION_SECONDS * PRICE / 3600),
        (held, CORRECTION_SECONDS + 3.6),  # the status has thousandths of hours
        ("max(rephrase_run_tokens{run='test', kind='prompt', outcome='committed'})", 0),
        ("max(rephrase_run_tokens{run='test', kind='completion', outcome='committed'})", 0),
        ("max(rephrase_run_units{run='test', state='committed'})", 0),
        ("sum(max without (instance, pod) (rephrase_run_disruptions{run='test'}))", 0),
    ):
        (line,) = prometheus.over_time(total, began, ended, 1)
        if steps(line) < -allowed:
            backwards[total] = steps(line)
    (line,) = prometheus.over_time(spent, began, ended, 1)
    jumps = [
        (then, round(after - before, 2))
        for (now, before), (then, after) in pairwise(line.points)
        if after - before > MOST_AT_ONCE * (then - now + STALE_SECONDS)
    ]

    # every query of dashboards and alerts
    empty = [
        f"{board} / {panel['title']}: {target['expr']}"
        for board, panel in panels()
        for target in panel["targets"]
        if panel["title"] not in NO_DATA
        and not prometheus.over_time(substituted(target["expr"]), began, ended, 2)
    ]
    for panel in (panel for _, panel in panels() if panel["title"] in NO_DATA):
        for target in panel["targets"]:
            prometheus.ask(substituted(target["expr"]))  # valid all the same
    for alert in alerts():
        prometheus.ask(alert["expr"])
        empty += [
            f"{alert['alert']}: {selector}"
            for selector in selectors(alert["expr"])
            if not prometheus.over_time(selector, began, ended, 2)
        ]
    assert (backwards, jumps, empty) == ({}, [], []), (before_restart, after_restart)
    draw(prometheus, began, hurried)  # later rates would dwarf all others
    lines = [json.loads(line) for line in operator.log.splitlines()]
    looked = [line for line in lines if line["message"] == "looked"]
    assert {"test", "poor", "broken"} <= {line["run"] for line in looked}

    operator.stop()
    try:
        wait_until(
            lambda: firing(prometheus, "RephraseOperatorDown", ""), "it is missed", within=60
        )
    finally:
        operator.start()
    wait_until(lambda: not firing(prometheus, "RephraseOperatorDown", ""), "it is back", within=60)


def running(runs: Runs) -> list[Object]:
    return [
        pod
        for pod in runs.pods("worker")
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def counts(run: Object) -> tuple[int, int]:
    status = run.get("status") or {}
    return status.get("disruptions", 0), status.get("workerFailures", 0)


def agrees(prometheus: Prometheus, run: Object, manifest: dict[str, Any]) -> bool:
    """Whether Prometheus, the ledger and the status say the same of the finished run."""

    def told(metric: str, by: str = "", **labels: str) -> float | None:
        matchers = ", ".join(
            f'{name}="{value}"' for name, value in {"run": "test", **labels}.items()
        )
        return prometheus.value(
            f"sum(max by (pool, useful, reason) (rephrase_run_{metric}{{{matchers}}}))"
        )

    tokens, cost = manifest["tokens"], run["status"]["cost"]
    return (
        told("tokens", kind="prompt") == tokens["prompt"]
        and told("tokens", kind="completion", outcome="committed") == tokens["completion"]
        and told("tokens", outcome="discarded") == manifest["discarded_tokens"]
        and told("units", state="committed") == manifest["units"]
        and abs((told("cost") or 0) - float(cost["total"])) < 0.02
        and abs((told("cost", useful="false") or 0) - float(cost["discarded"])) < 0.02
        and told("cost_per_million_tokens") == float(cost["perMillionTokens"])
        and told("cost_projected") == float(cost["projected"])
        and told("disruptions") == run["status"]["disruptions"]
        and told("worker_failures") == run["status"]["workerFailures"]
    )


def steps(line: Line) -> float:
    """The least step from one point to the next."""
    return min((after - before for (_, before), (_, after) in pairwise(line.points)), default=0.0)


def selectors(expression: str) -> list[str]:
    """The series that an alert's expression asks for."""
    return re.findall(
        r"\brephrase_(?!io_)\w+(?:\{[^}]*\})?", re.sub(r"by \([^)]*\)", "", expression)
    )


def draw(prometheus: Prometheus, began: float, ended: float) -> None:
    """Have the page *Runs* drawn from what it asked, if that is wanted."""
    wanted = os.environ.get("REPHRASE_PICTURE")
    if not wanted:
        return
    told = {
        panel["title"]: [
            {"legend": target["legendFormat"], "labels": line.labels, "points": line.points}
            for target in panel["targets"]
            for line in prometheus.over_time(substituted(target["expr"]), began, ended, 1)
        ]
        for board, panel in panels()
        if board == "runs" and panel["type"] == "timeseries"
    }
    command = [sys.executable, str(ROOT / "docs" / "picture.py"), wanted]
    subprocess.run(command, input=json.dumps(told), text=True, check=True)
