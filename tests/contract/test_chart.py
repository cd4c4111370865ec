"""The chart as Helm renders it: what it installs, what the operator may do, and which values it refuses."""

import json
import shutil
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest

from rephrase_api import names
from rephrase_api.crd import FILE
from rephrase_api.prices import parse_prices
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionStatus
from rephrase_api.v1alpha1.status import Condition, RephraseRunStatus
from rephrase_operator.metrics import Metrics
from rephrase_operator.settings import PREFIX, Settings
from support.chart_values import CASES, DIGEST, MONITORING, NAMESPACE
from support.helm import CHART, RELEASE, ChartRefused, render, run
from support.looks import NOW
from support.tools import run_tool

pytestmark = pytest.mark.needs("helm")
ROOT = Path(__file__).parents[2]
POD_IP = "10.0.0.7"
LOG_LEVEL = f"{PREFIX}LOG_LEVEL"
"""Read before the settings are."""
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
RULES = CHART / "files" / "rules.yaml"

SYSTEM = f"{NAMESPACE}/{RELEASE}"
AGGREGATE = [f"ClusterRole {RELEASE}-edit", f"ClusterRole {RELEASE}-view"]
CRD = f"CustomResourceDefinition {names.CRD_NAME}"
TESTS = [f"Pod {SYSTEM}-test-health"]
INSTALLED = {
    "default": [
        f"ClusterRole {RELEASE}",
        *AGGREGATE,
        f"ClusterRoleBinding {RELEASE}",
        CRD,
        f"Deployment {SYSTEM}",
        f"Service {SYSTEM}",
        f"ServiceAccount {SYSTEM}",
        *TESTS,
    ],
    "namespaced": [
        *AGGREGATE,
        CRD,
        f"Deployment {SYSTEM}",
        f"Role team-a/{RELEASE}",
        f"Role team-b/{RELEASE}",
        f"RoleBinding team-a/{RELEASE}",
        f"RoleBinding team-b/{RELEASE}",
        f"Service {SYSTEM}",
        f"ServiceAccount {SYSTEM}",
        *TESTS,
    ],
    "bare": [
        f"Deployment {SYSTEM}",
        f"Role team-a/{RELEASE}",
        f"RoleBinding team-a/{RELEASE}",
        f"Service {SYSTEM}",
        *TESTS,
    ],
}
INSTALLED["digest"] = INSTALLED["elsewhere"] = INSTALLED["default"]
INSTALLED["priced"] = [*INSTALLED["default"], f"ConfigMap {SYSTEM}-prices"]
INSTALLED["cluster"] = [
    *INSTALLED["default"],
    f"NetworkPolicy {SYSTEM}",
    f"PodMonitor {SYSTEM}-runs",
    f"ServiceAccount {NAMESPACE}/rephrase-runner",
]
INSTALLED["tested"] = [
    *(one for one in INSTALLED["namespaced"] if "team-b" not in one),
    f"NetworkPolicy {SYSTEM}",
    f"Pod {SYSTEM}-test-run",
    f"RephraseRun team-a/{RELEASE}-test",
]
INSTALLED["everything"] = [
    *INSTALLED["namespaced"],
    *(f"ConfigMap grafana/{RELEASE}-dashboard-{path.stem}" for path in DASHBOARDS),
    f"NetworkPolicy {SYSTEM}",
    f"NetworkPolicy team-a/{RELEASE}-runs",
    f"NetworkPolicy team-b/{RELEASE}-runs",
    f"PodMonitor {SYSTEM}-runs",
    "PriorityClass batch-low",
    "PriorityClass rephrase-driver",
    f"PrometheusRule {SYSTEM}",
    "ServiceAccount team-a/rephrase-runner",
    "ServiceAccount team-b/rephrase-runner",
    f"ServiceMonitor {SYSTEM}",
]

IN_A_NAMESPACE = {
    ("rephrase.io", "rephraseruns"): {"get", "list", "watch", "patch", "delete"},
    ("rephrase.io", "rephraseruns/status"): {"patch"},
    ("rephrase.io", "rephraseruns/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"list", "watch", "patch"},
    ("", "events"): {"create", "list"},
}
IN_THE_CLUSTER = IN_A_NAMESPACE | {
    ("", "namespaces"): {"list", "watch"},
    ("apiextensions.k8s.io", "customresourcedefinitions"): {"list", "watch"},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "replicas": ({"replicas": 2}, "additional properties 'replicas' not allowed"),
    "a misspelled key": ({"rbac": {"readEvent": True}}, "at '/rbac': additional properties"),
    "a number as tag": ({"images": {"runner": {"tag": 1.0}}}, "got number, want string"),
    "half a digest": ({"images": {"runner": {"digest": "sha256:12"}}}, "/images/runner/digest"),
    "a tag in a repository": ({"images": {"driver": {"repository": "a:1"}}}, "/repository"),
    "no namespace": ({"watchNamespaces": ["Team_A"]}, "at '/watchNamespaces/0'"),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces'"),
    "an unknown level": ({"logLevel": "info"}, "'Debug', 'Info', 'Warning', 'Error'"),
    "a limit below none": ({"limits": {"maxWorkersPerRun": -1}}, "minimum: got -1, want 0"),
    "a privileged port": ({"ports": {"health": 80}}, "at '/ports/health'"),
    "a setting as variable": ({"extraEnv": [{"name": LOG_LEVEL}]}, "at '/extraEnv/0/name'"),
    "prices of an unknown kind": (
        {"prices": {"date": "2026-11-01", "pricePerGPUHour": {"H100/spot": "2"}}},
        "'H100/spot' does not match pattern",
    ),
    "a price that is none": (
        {"prices": {"date": "2026-11-01", "pricePerGPUHour": {"H100/Spot": "cheap"}}},
        "at '/prices/pricePerGPUHour/H100~1Spot'",
    ),
    "prices of no date": ({"prices": {"pricePerGPUHour": {"H100/Spot": 2}}}, "at '/prices/date'"),
    "prices here and elsewhere": (
        {
            "prices": {
                "date": "2026-11-01",
                "pricePerGPUHour": {"H100/Spot": 2},
                "configMap": "rephrase-prices",
            }
        },
        "at '/prices/configMap'",
    ),
    "a monitor without its API": (
        {"podMonitor": {"enabled": True}},
        "podMonitor.enabled: the cluster has no monitoring.coreos.com/v1/PodMonitor",
    ),
    "rules without their API": (
        {"prometheusRule": {"enabled": True}},
        "prometheusRule.enabled: the cluster has no monitoring.coreos.com/v1/PrometheusRule",
    ),
    "a policy for runs nobody knows where": (
        {"runNetworkPolicy": {"enabled": True}},
        "name those of the runs in runNetworkPolicy.namespaces or watchNamespaces",
    ),
    "a test run without source and output": (
        {"tests": {"echoRun": {"enabled": True}}},
        "at '/tests/echoRun/spec': missing properties 'source', 'output'",
    ),
    "a priority that only the system has": (
        {"priorityClasses": {"worker": {"value": 2000000000}}},
        "at '/priorityClasses/worker/value'",
    ),
}
ALLOWED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
    *("persistentVolumeClaim", "projected", "secret"),
}
"""By the Pod Security standard `restricted`."""


@pytest.mark.parametrize("case", CASES)
def test_helm_lints_the_chart_without_a_warning(case: str) -> None:
    done = run("lint", "--strict", str(CHART), values=CASES[case])

    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("case", CASES)
def test_it_installs_these_objects_and_no_others(case: str) -> None:
    assert sorted(map(identity, rendered(case))) == sorted(INSTALLED[case])


@pytest.mark.parametrize("release", ["1.30", "1.37"])
@pytest.mark.parametrize("case", CASES)
def test_every_field_is_one_that_kubernetes_knows(case: str, release: str) -> None:
    for manifest in rendered(case):
        try:
            kubernetes_validate.validate(manifest, release, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            group = manifest["apiVersion"].partition("/")[0]
            assert group in {"monitoring.coreos.com", names.GROUP}, identity(manifest)


CHECKOV = "checkov==3.3.30"
ACCEPTED: dict[tuple[str, str], str] = {
    ("CKV_K8S_9", "Deployment"): "readiness: nobody is sent to it by a Service",
    ("CKV_K8S_11", "Deployment"): "a CPU limit throttles looks; `resources` can have one",
    ("CKV_K8S_15", "Deployment"): "pulling always: `imagePullPolicy`; a release's tag never moves",
    ("CKV_K8S_38", "Deployment"): "a token: it is the one pod that speaks with the API server",
    ("CKV_K8S_43", "Deployment"): "a digest: `images.*.digest`, which no chart can know before",
    ("CKV_K8S_8", "Pod"): "liveness: a test ends by itself",
    ("CKV_K8S_9", "Pod"): "readiness: nobody is sent to a test",
    ("CKV_K8S_11", "Pod"): "a CPU limit: it sleeps",
    ("CKV_K8S_15", "Pod"): "as the operator's image, which it is",
    ("CKV_K8S_43", "Pod"): "as the operator's image, which it is",
}
"""What checkov finds and why it stays: by check and kind."""


@pytest.mark.full
@pytest.mark.needs("uvx")
@pytest.mark.timeout(600)
def test_checkov_finds_nothing_but_what_is_meant(tmp_path: Path) -> None:
    for case in CASES.keys() - {"bare"}:  # which takes the resources away
        (tmp_path / f"{case}.yaml").write_text(yaml.safe_dump_all(rendered(case)))

    done = run_tool(
        CHECKOV,
        *("--framework", "kubernetes", "--directory", str(tmp_path), "--output", "json"),
        *("--quiet", "--compact", "--skip-download"),
    )

    report = json.loads(done.stdout)
    found = {
        (check["check_id"], check["resource"].partition(".")[0])
        for check in report["results"]["failed_checks"]
    }
    assert report["summary"]["parsing_errors"] == 0
    assert found == set(ACCEPTED), done.stdout[-3000:]


@pytest.mark.parametrize("case", CASES)
def test_every_object_of_a_release_is_labeled(case: str) -> None:
    for manifest in rendered(case):
        if manifest["kind"] != "CustomResourceDefinition":
            labels = manifest["metadata"]["labels"]
            assert labels["app.kubernetes.io/instance"] == RELEASE, identity(manifest)
            assert labels["app.kubernetes.io/managed-by"] == "Helm", identity(manifest)


def test_the_operator_of_a_cluster_may_do_this_and_no_more() -> None:
    assert rights(the("ClusterRole", "default", RELEASE)) == IN_THE_CLUSTER


def test_the_operator_of_some_namespaces_may_do_this_in_each_and_no_more() -> None:
    roles = kind("Role", "namespaced")

    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert [rights(role) for role in roles] == [IN_A_NAMESPACE, IN_A_NAMESPACE]


def test_events_are_read_only_where_that_is_wanted() -> None:
    (role,) = kind("Role", "bare")

    assert rights(role) == IN_A_NAMESPACE | {("", "events"): {"create"}}


@pytest.mark.parametrize("case", CASES)
def test_no_role_holds_a_wildcard(case: str) -> None:
    for role in [*kind("Role", case), *kind("ClusterRole", case)]:
        assert "*" not in json.dumps(role["rules"]), identity(role)


@pytest.mark.parametrize("case", CASES)
def test_rights_are_given_to_the_operator_s_service_account_alone(case: str) -> None:
    account = deployment(case)["spec"]["template"]["spec"]["serviceAccountName"]
    bindings = [*kind("RoleBinding", case), *kind("ClusterRoleBinding", case)]

    given = [(binding["roleRef"]["name"], binding["subjects"]) for binding in bindings]

    subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    assert given == [(RELEASE, [subject])] * len(bindings)
    assert account == ("its-own" if case == "bare" else RELEASE)


def test_users_may_see_or_edit_runs_but_not_write_their_status() -> None:
    view, edit = (the("ClusterRole", "default", f"{RELEASE}-{name}") for name in ("view", "edit"))

    assert aggregated_to(view) == {"view", "edit", "admin"}
    assert aggregated_to(edit) == {"edit", "admin"}
    reading = {"get", "list", "watch"}
    assert rights(view) == {
        ("rephrase.io", f"rephraseruns{part}"): reading for part in ("", "/status", "/scale")
    }
    assert rights(edit) == {
        ("rephrase.io", "rephraseruns"): {
            *("create", "update", "patch", "delete", "deletecollection")
        },
        ("rephrase.io", "rephraseruns/scale"): {"update", "patch"},
    }


def test_the_crd_is_the_generated_one_and_outlives_the_release() -> None:
    crd = the("CustomResourceDefinition", "default", names.CRD_NAME)

    metadata = dict(crd["metadata"])
    assert metadata.pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd | {"metadata": metadata} == yaml.safe_load((ROOT / "crds" / FILE).read_text())


def test_a_packaged_chart_holds_the_crd_itself(tmp_path: Path) -> None:
    done = run("package", str(CHART), "--destination", str(tmp_path))

    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as package:
        crd = package.extractfile(f"{CHART.name}/files/{FILE}")
        assert crd is not None
        assert crd.read() == (ROOT / "crds" / FILE).read_bytes()


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_are_refused_with_a_message(case: str) -> None:
    values, message = REFUSED[case]

    with pytest.raises(ChartRefused) as refused:
        render(NAMESPACE, values)

    assert message in str(refused.value)


def test_the_chart_can_be_a_part_of_another() -> None:
    """Helm hands `global` of the parent down, asked or not."""
    ours = render(NAMESPACE, {"global": {"registry": "registry.example"}}, tests=True)

    assert ours == rendered("default")


def test_every_value_is_described_and_has_a_default_and_no_others_are_allowed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    for path, node in nodes(schema, schema):
        assert node["description"], path
        assert "properties" not in node or node["additionalProperties"] is False, path
        assert path == ("global",) or default(defaults, path) is not None, path


def test_package_chart_and_images_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert images("default") == {
        "operator": f"rephrase/operator:{version}",
        "driver": f"rephrase/driver:{version}",
        "runner": f"rephrase/runner:{version}",
    }


def test_a_digest_wins_over_a_tag() -> None:
    assert images("digest") == {
        "operator": f"registry.example:5000/rephrase/operator@{DIGEST}",
        "driver": f"rephrase/driver@{DIGEST}",
        "runner": "rephrase/runner:1.0",
    }


@pytest.mark.parametrize("case", CASES)
def test_there_is_never_more_than_one_operator(case: str) -> None:
    spec = deployment(case)["spec"]

    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("case", CASES)
def test_the_operator_s_pod_is_one_that_restricted_pod_security_admits(case: str) -> None:
    pod = deployment(case)["spec"]["template"]["spec"]

    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "sysctls" not in pod["securityContext"]
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= ALLOWED_VOLUMES
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [port for port in container["ports"] if "hostPort" in port]


def test_the_root_file_system_is_read_only_and_tmp_is_not() -> None:
    pod = deployment("default")["spec"]["template"]["spec"]

    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - a path in the pod
    assert pod["containers"][0]["volumeMounts"] == mounts


def test_the_price_list_is_a_file_that_the_operator_can_read() -> None:
    data = the("ConfigMap", "priced", f"{RELEASE}-prices")["data"]

    found = parse_prices(data["prices.yaml"], where="prices.yaml")

    assert found.currency == "USD"
    assert {"/".join(key): str(price) for key, price in found.prices.items()} == {
        "H100/Spot": "2.10",
        "H100/OnDemand": "3",
        "L4/Spot": "0.25",
    }


@pytest.mark.parametrize(
    ("case", "name"), [("priced", f"{RELEASE}-prices"), ("elsewhere", "rephrase-prices")]
)
def test_the_price_list_is_mounted_as_a_folder_so_that_it_is_updated_in_place(
    case: str, name: str
) -> None:
    pod = deployment(case)["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}

    assert pod["volumes"][1] == {"name": "prices", "configMap": {"name": name}}
    assert "subPath" not in mounts["prices"]
    assert environment(case)[f"{PREFIX}PRICES"] == f"{mounts['prices']['mountPath']}/prices.yaml"
    assert environment("default")[f"{PREFIX}PRICES"] == ""


@pytest.mark.parametrize("case", CASES)
def test_only_the_operator_s_pod_gets_a_token(case: str) -> None:
    accounts = kind("ServiceAccount", case)

    assert [account["automountServiceAccountToken"] for account in accounts] == [
        False for _ in accounts
    ]
    assert deployment(case)["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


@pytest.mark.parametrize("case", CASES)
def test_the_operator_accepts_its_environment_and_reads_all_of_it(case: str) -> None:
    given = environment(case)
    ours = Watched({name: value for name, value in given.items() if name.startswith(PREFIX)})

    settings = Settings.from_environment(ours)

    assert set(ours) == ours.asked
    assert settings.namespaces == tuple(CASES[case].get("watchNamespaces", ()))
    assert settings.host == POD_IP


def test_the_chart_s_defaults_are_the_operator_s_own() -> None:
    settings = Settings.from_environment(environment("default"))

    wanted = images("default")
    assert settings == Settings(
        runner_image=wanted["runner"], driver_image=wanted["driver"], host=POD_IP
    )


def test_values_reach_the_operator() -> None:
    settings = Settings.from_environment(environment("everything"))

    values = CASES["everything"]
    assert settings.reconcile_seconds == values["reconcileSeconds"]
    assert settings.crash_loop_failures == values["crashLoopFailures"]
    assert settings.max_workers_per_run == values["limits"]["maxWorkersPerRun"]
    assert settings.max_runs_per_namespace == values["limits"]["maxRunsPerNamespace"]
    assert settings.allow_pod_template is values["limits"]["allowPodTemplate"]
    assert settings.health_port == values["ports"]["health"]
    assert settings.metrics_port == values["ports"]["metrics"]
    assert environment("everything")["HTTPS_PROXY"] == "http://proxy.example:3128"


@pytest.mark.parametrize("case", CASES)
def test_ports_are_those_that_the_operator_listens_on(case: str) -> None:
    (container,) = deployment(case)["spec"]["template"]["spec"]["containers"]
    settings = Settings.from_environment(environment(case))

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert ports == {"health": settings.health_port, "metrics": settings.metrics_port}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "health"}


def test_what_selects_the_operator_s_pod_finds_it() -> None:
    operator = deployment("everything")["spec"]
    labels = operator["template"]["metadata"]["labels"]
    service = the("Service", "everything", RELEASE)
    policy = the("NetworkPolicy", "everything", RELEASE)
    monitor = the("ServiceMonitor", "everything", RELEASE)

    assert labels["team"] == "data"
    assert labels["app.kubernetes.io/name"] == RELEASE
    for selector in (
        operator["selector"]["matchLabels"],
        service["spec"]["selector"],
        policy["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    found = monitor["spec"]["selector"]["matchLabels"]
    assert found.items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_pods_of_runs_are_scraped_where_runs_are_watched() -> None:
    cluster, spec = (
        the("PodMonitor", case, f"{RELEASE}-runs")["spec"] for case in ("cluster", "everything")
    )

    assert cluster["namespaceSelector"] == {"any": True}
    assert spec["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}
    (expression,) = spec["selector"]["matchExpressions"]
    assert expression["key"] == names.ROLE_LABEL
    assert set(expression["values"]) == {names.DRIVER, names.WORKER}
    assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == [names.METRICS_PORT]
    assert spec["podTargetLabels"] == [
        names.RUN_LABEL,
        names.ROLE_LABEL,
        names.POOL_LABEL,
        names.SLOT_LABEL,
    ]


@pytest.mark.parametrize(
    ("release", "service"),
    [("rephrase", "rephrase-rephrase-operator"), ("2026.faq", "r2026-faq-rephrase-operator")],
)
def test_the_service_has_a_name_that_a_service_may_have_whatever_the_release_is_called(
    release: str, service: str
) -> None:
    echo = {"enabled": True, "spec": {"source": {"uri": "s3://a/b"}, "output": {"uri": "s3://a/c"}}}
    found = render(NAMESPACE, {"tests": {"echoRun": echo}}, release=release, tests=True)
    (made,) = (one for one in found if one["kind"] == "Service")
    asked = [
        argument.split("//")[1].split(".")[0]
        for one in found
        if one["kind"] == "Pod"
        for argument in one["spec"]["containers"][0]["command"]
        if argument.startswith("http://")
    ]

    assert made["metadata"]["name"] == service
    assert asked == [service, service]
    for run_of_test in (one for one in found if one["kind"] == names.KIND):
        RephraseRun.from_api(run_of_test)


def test_alerts_and_dashboards_are_as_they_stand_in_their_files(tmp_path: Path) -> None:
    chart = tmp_path / CHART.name
    shutil.copytree(CHART, chart)
    shutil.rmtree(chart / "files" / "dashboards", ignore_errors=True)
    (chart / "files" / "dashboards").mkdir()
    alert = {
        "alert": "Stalled",
        "expr": "rephrase_run_units > 0",
        "annotations": {"summary": "{{ $labels.run }} of {{ $labels.namespace }} stands"},
    }
    rules = {"groups": [{"name": "rephrase", "rules": [alert]}]}
    (chart / "files" / "rules.yaml").write_text(yaml.safe_dump(rules))
    board = {"title": "A run", "templating": {"list": []}, "legend": "{{run}}"}
    (chart / "files" / "dashboards" / "One_run.json").write_text(json.dumps(board, indent=2))

    found = render(NAMESPACE, CASES["everything"], api_versions=MONITORING, chart=chart)

    (rule,) = (one for one in found if one["kind"] == "PrometheusRule")
    (shown,) = (one for one in found if "dashboard" in one["metadata"]["name"])
    assert rule["spec"] == rules
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert identity(shown) == f"ConfigMap grafana/{RELEASE}-dashboard-one-run"
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert shown["metadata"]["annotations"] == {"grafana_folder": "Rephrase"}
    assert json.loads(shown["data"]["One_run.json"]) == board


def test_the_chart_s_own_alerts_and_dashboards_are_installed_unchanged() -> None:
    (rule,) = kind("PrometheusRule", "everything")
    boards = {
        name: json.loads(text)
        for one in kind("ConfigMap", "everything")
        for name, text in one["data"].items()
    }

    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert boards == {path.name: json.loads(path.read_text()) for path in DASHBOARDS}


def test_without_files_there_are_no_alerts_and_no_dashboards(tmp_path: Path) -> None:
    chart = tmp_path / CHART.name
    shutil.copytree(CHART, chart)
    shutil.rmtree(chart / "files" / "dashboards", ignore_errors=True)
    (chart / "files" / "rules.yaml").unlink(missing_ok=True)

    found = render(NAMESPACE, CASES["everything"], api_versions=MONITORING, chart=chart)

    kinds = {one["kind"] for one in found}
    assert not kinds & {"PrometheusRule", "ConfigMap"}


def test_a_class_of_low_priority_turns_nobody_out_and_still_gets_nodes() -> None:
    driver, worker = kind("PriorityClass", "everything")

    assert worker["metadata"]["name"] == "batch-low"
    assert -10 <= worker["value"] < driver["value"]
    for one in (driver, worker):
        assert one["preemptionPolicy"] == "Never"
        assert one["globalDefault"] is False


def test_drivers_and_workers_reach_stores_dns_and_their_machine_s_cloud_only() -> None:
    policies = [
        one
        for one in kind("NetworkPolicy", "everything")
        if one["metadata"]["namespace"] != NAMESPACE
    ]

    assert len(policies) == 2
    for policy in policies:
        spec = policy["spec"]
        (selected,) = spec["podSelector"]["matchExpressions"]
        assert selected == {
            "key": names.ROLE_LABEL,
            "operator": "In",
            "values": [names.DRIVER, names.WORKER],
        }
        dns, stores, cloud, own = spec["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        assert {port["port"] for port in stores["ports"]} == {443, 9000}
        assert cloud["to"] == [{"ipBlock": {"cidr": "169.254.0.0/16"}}]
        assert own["ports"] == [{"port": 8000}]
        operator, prometheus = spec["ingress"]
        assert operator["ports"] == prometheus["ports"] == [{"port": names.METRICS_PORT}]
        assert prometheus["from"] == [{"namespaceSelector": {}}]
        (asking,) = operator["from"]
        labels = deployment("everything")["spec"]["template"]["metadata"]["labels"]
        assert list(asking["namespaceSelector"]["matchLabels"].values()) == [NAMESPACE]
        assert asking["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_operator_reaches_dns_the_api_server_and_drivers_only() -> None:
    policy = the("NetworkPolicy", "everything", RELEASE)["spec"]
    cluster = the("NetworkPolicy", "cluster", RELEASE)["spec"]

    dns, api_server, drivers = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert {port["port"] for port in api_server["ports"]} == {443, 6443}
    (driver,) = drivers["to"]
    assert driver["podSelector"] == {"matchLabels": {names.ROLE_LABEL: names.DRIVER}}
    (watched,) = driver["namespaceSelector"]["matchExpressions"]
    assert watched["values"] == ["team-a", "team-b"]
    assert cluster["egress"][2]["to"] == [driver | {"namespaceSelector": {}}]
    scrapes, tests = policy["ingress"]
    assert scrapes == {"ports": [{"port": "metrics"}], "from": [{"namespaceSelector": {}}]}
    assert {port["port"] for port in tests["ports"]} == {"health", "metrics"}
    (testing,) = tests["from"]
    (pod,) = kind("Pod", "everything")
    assert testing["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("case", CASES)
def test_what_tests_a_release_has_no_rights_and_nothing_else_selects_it(case: str) -> None:
    selector = deployment(case)["spec"]["selector"]["matchLabels"]
    operator = deployment(case)["spec"]["template"]["spec"]

    for pod in kind("Pod", case):
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert not selector.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"] == operator["securityContext"]
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"] == operator["containers"][0]["securityContext"]
        assert container["image"] == images(case)["operator"]


def test_a_test_run_is_one_of_the_smallest_and_waited_for_by_its_metrics() -> None:
    (run,) = kind("RephraseRun", "tested")
    spec = run["spec"]
    (pod,) = (one for one in kind("Pod", "tested") if one["metadata"]["name"].endswith("run"))
    url, wanted, seconds = pod["spec"]["containers"][0]["command"][3:]

    RephraseRun.from_api(run)
    assert spec["source"] == {"uri": "s3://in/a/", "limit": {"documents": 20}}
    assert spec["model"]["engine"] == {"type": "Echo"}
    assert url == f"http://{RELEASE}.{NAMESPACE}.svc:8081/metrics"
    assert wanted == metric_of(names_of(run), "Complete")
    assert float(seconds) == 600


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("default", ["the RephraseRuns of all namespaces", "--all-namespaces --watch"]),
        ("default", [f"helm test {RELEASE} --namespace {NAMESPACE}", "/proxy/metrics"]),
        ("priced", ["Delete all runs before you uninstall"]),
        ("namespaced", ["the namespaces team-a, team-b", "--namespace team-a --watch"]),
        ("bare", ["crds.install is false", "There is no price list"]),
    ],
)
def test_the_notes_say_what_is_next(case: str, words: list[str]) -> None:
    arguments = ("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client")

    done = run(*arguments, values=CASES[case])

    _, found, notes = done.stdout.partition("\nNOTES:\n")
    assert found, done.stderr
    assert [word for word in words if word not in notes] == [], notes


def names_of(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def metric_of(run: tuple[str, str], condition: str) -> str:
    """The line of the operator's metrics that says that a condition of a run is True."""
    metrics = Metrics()
    said = Condition(
        type=condition,
        status=ConditionStatus.TRUE,
        reason="x",
        message="",
        last_transition_time=NOW,
    )
    status = RephraseRunStatus(conditions=(said,))
    metrics.record(*run, status, budget=None, deadline=None, expected_rate=None, fresh=True)
    lines = generate_latest(metrics.registry).decode().splitlines()
    (line,) = (one for one in lines if 'status="True"' in one)
    return line


class Watched(Mapping[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@cache
def rendered(case: str) -> list[dict[str, Any]]:
    return render(NAMESPACE, CASES[case], api_versions=MONITORING, tests=True)


def identity(manifest: Mapping[str, Any]) -> str:
    metadata = manifest["metadata"]
    place = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{manifest['kind']} {place}{metadata['name']}"


def kind(wanted: str, case: str) -> list[dict[str, Any]]:
    return [manifest for manifest in rendered(case) if manifest["kind"] == wanted]


def the(wanted: str, case: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in kind(wanted, case) if one["metadata"]["name"] == name)
    return found


def deployment(case: str) -> dict[str, Any]:
    return the("Deployment", case, RELEASE)


def environment(case: str) -> dict[str, str]:
    """What the operator's process sees of it."""
    (container,) = deployment(case)["spec"]["template"]["spec"]["containers"]
    fields = {"status.podIP": POD_IP}
    found = {
        one["name"]: fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        if "valueFrom" in one
        else one["value"]
        for one in container["env"]
    }
    assert len(found) == len(container["env"]), "a variable stands there twice"
    return found


def images(case: str) -> dict[str, str]:
    (container,) = deployment(case)["spec"]["template"]["spec"]["containers"]
    given = environment(case)
    return {
        "operator": container["image"],
        "driver": given[f"{PREFIX}DRIVER_IMAGE"],
        "runner": given[f"{PREFIX}RUNNER_IMAGE"],
    }


def rights(role: Mapping[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert rule.keys() == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def aggregated_to(role: Mapping[str, Any]) -> set[str]:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    labels = role["metadata"]["labels"]
    return {name.removeprefix(prefix) for name in labels if name.startswith(prefix)}


def nodes(
    node: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """All values a schema speaks of, with their paths; not what is in lists."""
    target = schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    whole = {**target, **node}
    yield path, whole
    for key, below in whole.get("properties", {}).items():
        yield from nodes(below, schema, (*path, key))


def default(values: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - YAML
    for key in path:
        values = values[key]
    return values
