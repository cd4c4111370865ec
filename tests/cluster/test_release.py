"""The chart by Helm's own hands on a genuine control plane: installed, changed, tested and taken away."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from rephrase_api.names import CRD_NAME
from rephrase_api.v1alpha1.conditions import ConditionType
from support.chart_values import CASES, MONITORING
from support.cluster.builders import a_namespace, condition
from support.cluster.client import Client
from support.cluster.control_plane import ControlPlane
from support.cluster.installed import QUICK, SYSTEM, Operator, prepared
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.release import Release, older, prometheus_operator_crds
from support.cluster.resources import CLUSTER_WIDE, resource_of
from support.cluster.runs import SLOW, Runs
from support.cluster.seen import Seen
from support.cluster.wire import Object, Refused
from support.helm import CHART, render
from support.manifests import a_manifest, merged
from support.pages import commands
from support.s3 import BUCKET, S3
from support.shell import Shell
from support.waiting import wait_until

pytestmark = pytest.mark.needs("helm")


@pytest.fixture
def release(own_plane: ControlPlane) -> Release:
    return Release(own_plane.client(), own_plane.kubeconfig)


@dataclass(frozen=True, slots=True)
class Stage:
    """A cluster for one release, whose operator runs, and a namespace `mine` for runs.

    Attributes:
        release: of the chart.
        operator: once that is installed.
        runs: in the namespace.
    """

    release: Release
    operator: Operator
    runs: Runs


@pytest.fixture
def stage(
    own_plane: ControlPlane,
    release: Release,
    seaweedfs: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Stage]:
    client = own_plane.client()
    client.create(a_namespace("mine"))
    client.in_namespace("mine").wait_for("serviceaccounts", "default", bool, "it is there")
    s3 = S3(seaweedfs, BUCKET, request.node.name)
    with Kubelet(client, tmp_path / "kubelet") as kubelet:
        operator = Operator(client, kubelet, prepared(client, kubelet))
        kubelet.add_node("cpu")
        yield Stage(release, operator, Runs(client.in_namespace("mine"), s3, tmp_path))
        assert kubelet.errors == [], "the kubelet itself made a mistake"


def named(manifest: Object) -> str:
    kind, meta = resource_of(manifest), manifest["metadata"]
    return f"{kind} {'' if kind in CLUSTER_WIDE else meta['namespace'] + '/'}{meta['name']}"


def test_values_may_change_to_any_others_and_what_is_not_wanted_any_more_goes(
    own_plane: ControlPlane, release: Release
) -> None:
    client = own_plane.client()
    for namespace in (SYSTEM, "team-a", "team-b", "grafana"):
        client.create(a_namespace(namespace))
    for crd in prometheus_operator_crds():
        client.apply(crd)
        plural = crd["spec"]["names"]["plural"]
        wait_until(partial(client.serves, plural), f"{plural} are served")

    there: dict[str, list[str]] = {}
    for case in CASES:
        change = release.upgrade if there else release.install
        change(CASES[case])
        there[case] = release.objects()

    for case, values in CASES.items():
        wanted = [named(one) for one in render(SYSTEM, values, api_versions=MONITORING)]
        assert there[case] == sorted(one for one in wanted if CRD_NAME not in one), case


def test_uninstalling_leaves_runs_and_their_definition_and_a_new_release_takes_them_over(
    own_plane: ControlPlane, release: Release
) -> None:
    client = own_plane.client()
    client.create(a_namespace(SYSTEM))
    release.install({})
    runs = client.in_namespace("default")
    wait_until(lambda: runs.serves("rephraseruns"), "RephraseRuns are served")
    uid = runs.create(a_manifest("stays"))["metadata"]["uid"]

    release.uninstall()
    left = release.objects()
    release.install(CASES["namespaced"] | {"watchNamespaces": ["default"]})

    assert left == []
    assert runs.get("rephraseruns", "stays")["metadata"]["uid"] == uid
    assert release.objects() != []


@pytest.mark.full
def test_a_run_in_flight_does_not_notice_an_upgrade(
    stage: Stage, own_plane: ControlPlane, tmp_path: Path
) -> None:
    field = "ttlSecondsAfterFinished"
    runs, namespace = stage.runs, stage.runs.namespace
    before = merged(QUICK, {"images": {"operator": {"repository": "rephrase/operator-as-it-was"}}})
    stage.release.install(before, older(tmp_path / "older", without=field))
    stage.operator.wait_ready()
    with Seen(namespace) as seen:
        runs.apply(model=SLOW)
        runs.wait(ConditionType.WORKERS_AVAILABLE)
        runs.wait_committed(1)
        old = stage.operator.pod
        jobs = dict(seen.jobs)
        pods = {pod["metadata"]["uid"] for pod in runs.pods()}
        with pytest.raises(Refused, match=field):
            namespace.patch("rephraseruns", "test", {"spec": {field: 86400}})

        shell = Shell.of_cluster(tmp_path / "shell", own_plane.kubeconfig, {})
        (shell.folder / "helm").symlink_to(CHART.parent)
        (shell.folder / "your-values.yaml").write_text(yaml.safe_dump(dict(QUICK)))
        for command in commands("docs/operations.md", "Upgrade"):
            shell.run(command)
        namespace.in_namespace(SYSTEM).wait_gone("pods", old["metadata"]["name"], within=60)
        stage.operator.wait_ready()
        wait_until(
            lambda: "OperatorStarted" in told(namespace), "the new operator has looked", within=60
        )
        after = {pod["metadata"]["uid"] for pod in runs.pods()}
        at = runs.get()["status"]["progress"]["display"]
        namespace.patch("rephraseruns", "test", {"spec": {field: 86400}})
        run = runs.complete()

    assert image(old) == "rephrase/operator-as-it-was:0.0.1"
    assert image(stage.operator.pod) == f"rephrase/operator:{version()}"
    assert run["spec"][field] == 86400
    assert after == pods, f"the test came too late: {at}"
    assert seen.jobs == jobs, "a Job was renewed"
    assert {pod["metadata"]["uid"] for pod in seen.workers} <= pods
    assert {one["failures"] + one["disruptions"] for one in run["status"]["settled"]} == {0}
    assert runs.verify().returncode == 0


def image(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def version() -> str:
    (line,) = (
        one
        for one in (CHART / "Chart.yaml").read_text().splitlines()
        if one.startswith("appVersion")
    )
    return line.split()[1]


def told(namespace: Client) -> list[str]:
    found = namespace.list("events", fields="involvedObject.kind=RephraseRun")
    return [event["reason"] for event in found]


@pytest.mark.full
def test_a_limit_that_comes_later_lets_a_run_go_on_with_fewer_workers_and_others_wait(
    stage: Stage,
) -> None:
    runs = stage.runs
    stage.release.install(QUICK)
    stage.operator.wait_ready()
    runs.apply(model=SLOW)
    runs.wait(ConditionType.WORKERS_AVAILABLE)
    wait_until(lambda: len(runs.pods("worker")) == 2, "both workers are there")

    limits = {"maxWorkersPerRun": 1, "maxRunsPerNamespace": 1, "allowPodTemplate": False}
    stage.release.upgrade(merged(QUICK, {"limits": limits}))
    limited = runs.wait(ConditionType.ACCEPTED, "True", "WorkersLimited", within=120)
    runs.apply("greedy")
    greedy = runs.wait(ConditionType.ACCEPTED, "False", "NotAllowed", name="greedy")
    runs.apply("next", workers={"max": 1})
    waiting = runs.wait(ConditionType.ACCEPTED, "False", "TooManyRuns", name="next")
    wait_until(lambda: len(runs.pods("worker")) == 1, "one worker has ended", within=60)
    assert runs.jobs(run="greedy") == runs.jobs(run="next") == []
    first = runs.complete()
    runs.complete("next")

    assert "limits.maxWorkersPerRun is 1" in condition(limited, "Accepted")["message"]
    assert "spec.workers.max is 2" in condition(greedy, "Accepted")["message"]
    assert "1 of the runs in namespace mine (test)" in condition(waiting, "Accepted")["message"]
    assert {one["failures"] for one in first["status"]["settled"]} == {0}
    assert runs.verify().returncode == runs.verify("next").returncode == 0


@pytest.mark.full
def test_helm_test_has_a_run_come_to_its_end(stage: Stage) -> None:
    spec = stage.runs.manifest("release")["spec"]
    tests = {"echoRun": {"enabled": True, "spec": {key: spec[key] for key in ("source", "output")}}}
    stage.release.install(merged(QUICK, {"watchNamespaces": ["mine"], "tests": tests}))
    stage.operator.wait_ready()

    done = stage.release.test()

    assert done.returncode == 0, done.stdout + done.stderr
    assert stage.runs.get("rephrase-operator-test")["status"]["phase"] == "Succeeded"


@pytest.mark.full
def test_helm_test_fails_with_a_sentence_where_the_operator_does_not_answer(stage: Stage) -> None:
    stage.release.install(QUICK)
    stage.operator.wait_ready()
    answered = stage.release.test()
    stage.operator.stop()

    silent = stage.release.test()

    assert answered.returncode == 0, answered.stdout + answered.stderr
    assert silent.returncode != 0
    assert "/healthz does not say looks; its last answer: " in silent.stdout + silent.stderr
