"""What the spec asks for, as Kubernetes Jobs."""

import getpass
import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from rephrase_api.errors import InvalidSpec
from rephrase_api.launch import DriverLaunch, WorkerLaunch
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_operator.jobs import driver_job, template_hash, worker_job
from support.looks import NOW, RUN_UID, SETTINGS, a_run, two_pools

SPOT = {
    "capacityType": "Spot",
    "gpu": {"count": 1, "name": "L4"},
    "nodeSelector": {"cloud.google.com/gke-spot": "true"},
    "tolerations": [{"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}],
    "resources": {"requests": {"cpu": "6", "memory": "24Gi"}, "limits": {"memory": "24Gi"}},
}
Object = dict[str, Any]


def a_worker(
    run: RephraseRun,
    *,
    pool: str = "",
    slot: int = 3,
    attempt: int = 1,
    start: int = 5,
    stop_at: datetime | None = None,
) -> Object:
    found = next(one for one in run.spec.pools() if one.name == pool or not pool)
    return worker_job(
        run, found, slot=slot, attempt=attempt, start=start, stop_at=stop_at, settings=SETTINGS
    )


def a_driver(run: RephraseRun) -> Object:
    return driver_job(run, settings=SETTINGS)


def pod_of(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]
    return found


def container_of(job: Object) -> Object:
    found: Object = pod_of(job)["containers"][0]
    return found


def environment_of(job: Object) -> dict[str, str]:
    """As the kubelet would make it; references to the pod's own fields are left out."""
    return {one["name"]: one["value"] for one in container_of(job)["env"] if "value" in one}


def test_a_disruption_is_not_counted_a_wrong_spec_ends_the_job_and_a_drain_is_tried_again() -> None:
    for role, job in (("worker", a_worker(a_run())), ("driver", a_driver(a_run()))):
        (disruption, *codes), spec = job["spec"]["podFailurePolicy"]["rules"], job["spec"]

        assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert [(one["action"], one["onExitCodes"]["values"]) for one in codes] == [
            *(("FailJob", [64]), ("Ignore", [75]))
        ]
        assert {one["onExitCodes"]["containerName"] for one in codes} == {role}
        assert container_of(job)["name"] == role
        # indexed: the live pod carries durable counts; no deadline, nothing deleted behind our back
        assert (spec["completionMode"], spec["backoffLimitPerIndex"]) == ("Indexed", 3)
        assert not spec.keys() & {
            "backoffLimit",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
        }


def test_a_pod_runs_under_the_restricted_standard_and_writes_to_volumes_only() -> None:
    for job in (a_worker(a_run()), a_driver(a_run())):
        pod, container = pod_of(job), container_of(job)

        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["volumes"]}
        assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)


# -- the worker --


def test_a_worker_leaves_a_silent_node_soon_unless_the_spec_says_otherwise() -> None:
    tolerations = pod_of(a_worker(a_run(**two_pools(SPOT, {})), pool="spot"))["tolerations"]
    leaves = {one["key"]: one.get("tolerationSeconds") for one in tolerations}
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 600}
    kept = pod_of(a_worker(a_run(**two_pools({"tolerations": [own]}, {})), pool="spot"))[
        "tolerations"
    ]

    assert leaves == {
        "cloud.google.com/gke-spot": None,
        "node.kubernetes.io/unreachable": 30,
        "node.kubernetes.io/not-ready": 30,
    }
    assert all("key" in one for one in tolerations)  # never a toleration of everything
    assert [one["tolerationSeconds"] for one in kept] == [600, 30]


def test_a_worker_reads_from_its_environment_what_the_operator_meant() -> None:
    run = a_run(
        model={"engine": {"args": ["--max-num-seqs=256", "--enforce-eager"]}},
        durability={"heartbeatSeconds": 7, "leaseSeconds": 70, "checkpointSeconds": 17},
        retries={"requestAttempts": 5, "documentEngineKills": 4, "engineRebuilds": 6},
        source={"storage": {"endpoint": "http://127.0.0.1:9000", "allowHTTP": True}},
        observability={"logLevel": "Debug", "metricsPort": 9000},
        **two_pools({"gpu": {"count": 2}, "engine": {"args": ["--max-num-seqs=64"]}}, {}),
    )

    launch = WorkerLaunch.from_environment(environment_of(a_worker(run, pool="spot")))

    assert (launch.run, launch.namespace, launch.pool) == ("run", "team", "spot")
    assert (launch.slot, launch.start, launch.gpus, launch.port) == (3, 5, 2, 9000)
    assert launch.engine_args == ("--enforce-eager", "--max-num-seqs=64")
    assert (launch.heartbeat_seconds, launch.lease_seconds) == (7, 70)
    assert launch.checkpoint_seconds == 17
    assert (launch.request_attempts, launch.engine_kills, launch.engine_rebuilds) == (5, 4, 6)
    assert launch.source_storage == run.spec.source.storage
    assert launch.output_uri == "s3://synthetic/run/"
    assert launch.spec_hash == spec_hash(declared(run.spec))
    assert launch.log_level == "Debug"
    assert launch.source_credentials == launch.output_credentials == ""


@pytest.mark.parametrize(
    ("engine", "arguments"),
    [
        (
            {},
            (
                '--speculative-config={"method":"ngram","num_speculative_tokens":8}',
                "--enforce-eager",
            ),
        ),
        ({"args": ["--speculative-config=own"]}, ("--speculative-config=own", "--enforce-eager")),
        ({"type": "Echo"}, ("--enforce-eager",)),
    ],
    ids=["as vLLM is told", "an argument goes before it", "another engine knows none"],
)
def test_speculation_is_an_argument_of_vllm(
    engine: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    speculation = {"method": "NGram", "tokens": 8}
    run = a_run(
        model={"engine": {"speculation": speculation, **engine}},
        **two_pools({"engine": {"args": ["--enforce-eager"]}}, {}),
    )

    launch = WorkerLaunch.from_environment(environment_of(a_worker(run, pool="spot")))

    assert launch.engine_args == arguments


@pytest.mark.parametrize("role", ["worker", "driver"])
def test_a_pod_knows_itself_its_run_and_its_port(role: str) -> None:
    run = a_run(observability={"metricsPort": 9000})
    job = a_worker(run) if role == "worker" else a_driver(run)
    env = container_of(job)["env"]
    fields = {
        one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in env if "valueFrom" in one
    }
    (owner,) = job["metadata"]["ownerReferences"]

    assert fields == {
        "REPHRASE_POD_UID": "metadata.uid",
        "REPHRASE_NODE": "spec.nodeName",
        "REPHRASE_HOST": "status.podIP",
    }
    assert len({one["name"] for one in env}) == len(env)
    assert container_of(job)["ports"] == [{"name": "metrics", "containerPort": 9000}]
    assert container_of(job)["command"] == ["rephrase", role]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("RephraseRun", RUN_UID, True)
    assert job["metadata"]["namespace"] == "team"


def test_a_queue_is_named_on_the_job_and_never_on_its_pods() -> None:
    job = a_worker(a_run(**two_pools({"queueName": "team-a"}, {})))

    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue.x-k8s.io/queue-name" not in job["spec"]["template"]["metadata"]["labels"]


# -- secrets --


def test_secrets_are_files_and_never_variables() -> None:
    run = a_run(
        source={"secretRef": {"name": "corpus-read"}},
        output={"secretRef": {"name": "synthetic-write"}},
        model={"secretRef": {"name": "hub-token"}},
    )
    for job in (a_worker(run), a_driver(run)):
        volumes = {one["name"]: one for one in pod_of(job)["volumes"]}
        mounts = {one["name"]: one for one in container_of(job)["volumeMounts"]}
        for kind, secret in (
            ("source", "corpus-read"),
            ("output", "synthetic-write"),
            ("model", "hub-token"),
        ):
            assert volumes[f"{kind}-secret"]["secret"] == {
                "secretName": secret,
                "defaultMode": 0o440,
            }
            assert mounts[f"{kind}-secret"]["readOnly"] is True
        assert len({one["mountPath"] for one in mounts.values()}) == len(mounts)
        assert "secretKeyRef" not in json.dumps(job)
        assert "envFrom" not in json.dumps(job)
        environment = environment_of(job)
        assert environment["REPHRASE_SOURCE_CREDENTIALS"] == mounts["source-secret"]["mountPath"]
        assert environment["REPHRASE_OUTPUT_CREDENTIALS"] == mounts["output-secret"]["mountPath"]
        assert environment["HF_TOKEN_PATH"] == f"{mounts['model-secret']['mountPath']}/token"


def an_endpoint(**fields: Any) -> RephraseRun:  # noqa: ANN401
    engine = {"type": "OpenAI", "openAI": {"baseURL": "https://one/v1", **fields}}
    return a_run(model={"name": "m", "maxModelLength": 4096, "engine": engine})


def test_the_key_of_an_endpoint_is_a_file_of_the_workers_alone() -> None:
    run = an_endpoint(apiKeySecretRef={"name": "endpoint", "key": "token"})

    job = a_worker(run)

    volumes = {one["name"]: one for one in pod_of(job)["volumes"]}
    mounts = {one["name"]: one for one in container_of(job)["volumeMounts"]}
    launch = WorkerLaunch.from_environment(environment_of(job))
    assert volumes["endpoint-secret"]["secret"] == {
        "secretName": "endpoint",
        "items": [{"key": "token", "path": "api-key"}],
        "defaultMode": 0o440,
    }
    assert launch.api_key_file == f"{mounts['endpoint-secret']['mountPath']}/api-key"
    assert launch.endpoint == "https://one/v1"
    assert "secretKeyRef" not in json.dumps(job)
    assert "endpoint-secret" not in json.dumps(a_driver(run))


def test_another_endpoint_or_key_restarts_workers() -> None:
    hashes = [
        worker_hash(an_endpoint(**fields))
        for fields in (
            {},
            {"baseURL": "https://two/v1"},
            {"apiKeySecretRef": {"name": "one"}},
            {"apiKeySecretRef": {"name": "two"}},
            {"apiKeySecretRef": {"name": "two", "key": "token"}},
        )
    ]

    assert len(set(hashes)) == len(hashes)


def test_a_claim_that_many_read_holds_models_and_nothing_that_a_worker_writes() -> None:
    cache = {"persistentVolumeClaim": {"claimName": "models-rox"}}
    job = a_worker(a_run(**two_pools({"modelCache": cache}, {})))
    environment, mounts = environment_of(job), container_of(job)["volumeMounts"]

    assert {"name": "models", **cache} in pod_of(job)["volumes"]
    assert {"name": "models", "mountPath": "/models"} in mounts
    assert environment["HF_HOME"] == "/models"
    for key in ("HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        assert environment[key].startswith("/cache")


def test_the_user_has_a_name_in_any_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("USER", environment_of(a_worker(a_run()))["USER"])

    assert getpass.getuser() == "rephrase"


# -- the driver --


def test_the_driver_reads_the_run_back_from_its_environment() -> None:
    run = a_run(
        systemMessage="Grüße",
        workers={"pools": [{"name": "spot", "gpu": {"count": 2}, "engine": {"args": ["--a=1"]}}]},
        retries={"maxFailedDocuments": {"share": "2%"}},
    )

    launch = DriverLaunch.from_environment(environment_of(a_driver(run)))
    read = RephraseRun.from_api(json.loads(launch.manifest))

    assert spec_hash(declared(read.spec)) == spec_hash(declared(run.spec))
    assert read.spec.retries == run.spec.retries
    assert read.spec.durability == run.spec.durability
    assert [pool.engine for pool in read.spec.pools()] == [pool.engine for pool in run.spec.pools()]
    assert launch.run == "run"


def test_templates_of_config_maps_are_files_named_like_their_prompts() -> None:
    reference = {"configMapKeyRef": {"name": "prompts", "key": "legal.txt"}}
    run = a_run(
        prompts=[{"name": "faq", "builtIn": "faq"}, {"name": "legal", "templateFrom": reference}]
    )

    job = a_driver(run)

    (volume,) = (one for one in pod_of(job)["volumes"] if one["name"] == "templates")
    (mount,) = (one for one in container_of(job)["volumeMounts"] if one["name"] == "templates")
    items = [{"key": "legal.txt", "path": "legal"}]
    assert volume["projected"]["sources"] == [{"configMap": {"name": "prompts", "items": items}}]
    assert environment_of(job)["REPHRASE_TEMPLATES"] == mount["mountPath"]
    assert environment_of(a_driver(a_run()))["REPHRASE_TEMPLATES"] == ""


def test_a_worker_reads_when_to_stop_from_a_file_that_follows_its_annotation() -> None:
    until = NOW + timedelta(hours=2)
    jobs = a_worker(a_run(), stop_at=until), a_worker(a_run())

    for job in jobs:
        (volume,) = (one for one in pod_of(job)["volumes"] if one["name"] == "about-pod")
        (mount,) = (one for one in container_of(job)["volumeMounts"] if one["name"] == "about-pod")
        (item,) = volume["downwardAPI"]["items"]
        assert item["fieldRef"]["fieldPath"] == "metadata.annotations['rephrase.io/stop-at']"
        file = f"{mount['mountPath']}/{item['path']}"
        assert environment_of(job)["REPHRASE_STOP_AT_FILE"] == file
    told = [job["spec"]["template"]["metadata"].get("annotations") for job in jobs]
    assert told == [{"rephrase.io/stop-at": until.isoformat()}, None]
    assert template_hash(jobs[0]) == template_hash(jobs[1])


# -- the hash --


def worker_hash(run: RephraseRun, **where: Any) -> str:  # noqa: ANN401
    return template_hash(a_worker(run, **where))


def test_a_worker_of_any_slot_attempt_and_start_has_the_same_hash() -> None:
    run = a_run()
    found = {
        worker_hash(run, slot=slot, attempt=attempt, start=start)
        for slot, attempt, start in ((0, 1, 0), (1, 1, 50), (63, 9, 7))
    }

    assert len(found) == 1
    assert found != {""}


WORKERS, DRIVER, BOTH, NOBODY = ["worker"], ["driver"], ["worker", "driver"], list[str]()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"suspend": True}, NOBODY),
        ({"scaling": {"budget": {"amount": "5"}, "deadline": "2026-12-01T00:00:00Z"}}, NOBODY),
        ({"ttlSecondsAfterFinished": 5}, NOBODY),
        ({"observability": {"statusIntervalSeconds": 60}}, NOBODY),
        ({"workers": {"max": 40, "min": 2}}, NOBODY),
        (
            {"durability": {"leaseSeconds": 60}, "retries": {"engineRebuilds": 3}},
            NOBODY,
        ),  # defaults
        ({"image": {"runner": "other:1"}}, WORKERS),
        ({"workers": {"terminationGracePeriodSeconds": 15}}, WORKERS),
        ({"image": {"driver": "other:1"}}, DRIVER),
        ({"driver": {"resources": {"requests": {"cpu": "4"}}}}, DRIVER),
        ({"driver": {"podTemplate": {"spec": {"priorityClassName": "high"}}}}, DRIVER),
        ({"retries": {"maxFailedDocuments": {"share": "5%"}}}, DRIVER),
        ({"output": {"targetFileBytes": 1 << 20}}, DRIVER),
        ({"source": {"unit": {"targetDocuments": 100}}}, DRIVER),
        ({"source": {"secretRef": {"name": "x"}}}, BOTH),
        ({"source": {"storage": {"region": "eu-west-1"}}}, BOTH),
        ({"output": {"secretRef": {"name": "x"}}}, BOTH),
        ({"model": {"engine": {"args": ["--enforce-eager"]}}}, BOTH),
        ({"durability": {"leaseSeconds": 90}}, BOTH),
        ({"retries": {"engineRebuilds": 9}}, BOTH),
        ({"serviceAccountName": "x"}, BOTH),
        ({"observability": {"logLevel": "Debug"}}, BOTH),
    ],
    ids=str,
)
def test_a_change_of_the_spec_restarts_those_that_are_made_from_it(
    change: Object, expected: list[str]
) -> None:
    before, after = a_run(), a_run(**change)
    changed = [
        *(["worker"] if worker_hash(before) != worker_hash(after) else []),
        *(["driver"] if template_hash(a_driver(before)) != template_hash(a_driver(after)) else []),
    ]

    assert changed == expected


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"priority": 3, "min": 1, "max": 3, "pricePerGPUHour": "2"}, False),
        ({"gpu": {"count": 1, "name": "L4"}}, False),  # a name is for prices
        ({"gpu": {"count": 2}}, True),
        ({"resources": {"limits": {"memory": "9Gi"}}}, True),
        ({"nodeSelector": {"a": "b"}}, True),
        ({"queueName": "q"}, True),
        ({"engine": {"args": ["--a=1"]}}, True),
        ({"podTemplate": {"metadata": {"labels": {"a": "b"}}}}, True),
    ],
    ids=str,
)
def test_a_change_of_a_pool_restarts_its_own_workers_only(
    change: Object, *, restarts: bool
) -> None:
    before = a_run(workers={"pools": [{"name": "a"}, {"name": "b"}]})
    after = a_run(workers={"pools": [{"name": "a", **change}, {"name": "b"}]})

    assert (worker_hash(before, pool="a") != worker_hash(after, pool="a")) == restarts
    assert worker_hash(before, pool="b") == worker_hash(after, pool="b")


# -- the overlay --


def overlaid(overlay: Object) -> Object:
    before = json.dumps(overlay)
    run = a_run(**two_pools({"podTemplate": overlay}, {}))
    first, second = a_worker(run), a_worker(run)
    assert (first, before) == (second, json.dumps(overlay)), "the overlay was changed by its use"
    return first


def test_an_overlay_adds_labels_fields_containers_and_variables() -> None:
    job = overlaid(
        {
            "metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}},
            "spec": {
                "runtimeClassName": "nvidia",
                "containers": [
                    {"name": "worker", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
                    {"name": "agent", "image": "agent:1"},
                ],
                "volumes": [
                    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "9Gi"}},
                    {"name": "cache", "hostPath": {"path": "/nvme"}},  # not an emptyDir any more
                ],
            },
        }
    )
    meta, pod = job["spec"]["template"]["metadata"], pod_of(job)

    assert meta["labels"]["team"] == "a"
    assert meta["labels"]["rephrase.io/role"] == "worker"
    assert meta["annotations"] == {"b": "c"}
    assert pod["runtimeClassName"] == "nvidia"
    assert [one["name"] for one in pod["containers"]] == ["worker", "agent"]
    assert environment_of(job)["NCCL_DEBUG"] == "INFO"
    assert environment_of(job)["REPHRASE_RUN"] == "run"
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["shm"]["emptyDir"]["sizeLimit"] == "9Gi"
    assert volumes["cache"] == {"name": "cache", "hostPath": {"path": "/nvme"}}
    assert "tmp" in volumes
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_an_overlay_may_mount_one_volume_at_two_places_and_stand_more_taints() -> None:
    mounts = [
        {"name": "cache", "mountPath": "/var/models", "subPath": "models"},
        {"name": "extra", "mountPath": "/extra/a", "subPath": "a"},
        {"name": "extra", "mountPath": "/extra/b", "subPath": "b"},
        {"name": "mine", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    taint = {"key": "gpu", "operator": "Exists"}

    job = overlaid(
        {
            "spec": {
                "tolerations": [taint],
                "containers": [{"name": "worker", "volumeMounts": mounts}],
            }
        }
    )

    found = {one["mountPath"]: one["name"] for one in container_of(job)["volumeMounts"]}
    assert {"/tmp", "/cache", "/var/models", "/extra/a", "/extra/b"} <= found.keys()  # noqa: S108
    assert found["/dev/shm"] == "mine"  # noqa: S108
    assert taint in pod_of(job)["tolerations"]
    assert len(pod_of(job)["tolerations"]) == 3


@pytest.mark.parametrize(
    ("overlay", "place"),
    [
        ({"spec": "x"}, "podTemplate.spec"),
        ({"metadata": None}, "podTemplate.metadata"),
        ({"spec": {"containers": {"worker": {}}}}, "podTemplate.spec.containers"),
        ({"spec": {"containers": [{"image": "x"}]}}, "podTemplate.spec.containers"),
        ({"spec": {"containers": [{"name": ["x"]}]}}, "podTemplate.spec.containers"),
        ({"spec": {"containers": ["worker"]}}, "podTemplate.spec.containers"),
        (
            {"spec": {"containers": [{"name": "worker", "env": None}]}},
            "podTemplate.spec.containers.env",
        ),
        (
            {"spec": {"containers": [{"name": "worker", "volumeMounts": [{"name": "x"}]}]}},
            "podTemplate.spec.containers.volumeMounts",
        ),
    ],
    ids=str,
)
def test_an_overlay_that_is_no_pod_template_is_refused_with_its_place(
    overlay: Object, place: str
) -> None:
    with pytest.raises(InvalidSpec, match=f"^{re.escape(place)}: "):
        overlaid(overlay)
