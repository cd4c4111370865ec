"""The process kubelet keeps the promises of a real one, on a genuine control plane: how pods run and end."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.cluster.builders import a_container, a_job, a_pod, condition, holds
from support.cluster.client import Client
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Node
from support.cluster.processes import alive
from support.cluster.wire import Object, Refused
from support.manifests import a_manifest
from support.waiting import wait_until

SHM = "/dev/shm"  # noqa: S108 - of a pod
AddNode = Callable[..., Node]
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]

ENDS_ON_SIGTERM = """
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
threading.Event().wait()
"""
IGNORES_SIGTERM = ENDS_ON_SIGTERM.replace("lambda *_: sys.exit(75)", "signal.SIG_IGN")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def shell(code: str) -> list[str]:
    return ["/bin/sh", "-c", code]


def terminated(pod: Object) -> Object:
    """How the only container of a pod ended; empty if it has not."""
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    found: Object = statuses[0]["state"].get("terminated") or {}
    return found


def waiting(pod: Object) -> str:
    """Why the only container of a pod does not run."""
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    return str((statuses[0]["state"].get("waiting") or {}).get("reason"))


def ended(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def ready(pod: Object) -> bool:
    return holds(pod, "Ready")


def run(namespace: Client, pod: Object) -> Object:
    """Create a pod and wait for its end."""
    namespace.create(pod)
    return namespace.wait_for("pods", pod["metadata"]["name"], ended, "it ends")


def said(kubelet: Kubelet, namespace: Client, pod: str) -> str:
    return kubelet.log_of(str(namespace.namespace), pod)


def start(kubelet: Kubelet, namespace: Client, pod: Object) -> Object:
    """Create a pod and wait until it has said that it is ready."""
    namespace.create(pod)
    name = pod["metadata"]["name"]
    found = namespace.wait_for("pods", name, ready, "it is ready")
    wait_until(lambda: "ready" in said(kubelet, namespace, name), "it says so")
    return found


# -- running --------------------------------------------------------------------------------------


def test_a_job_runs_to_completion(namespace: Client, add_node: AddNode, kubelet: Kubelet) -> None:
    add_node()

    namespace.create(a_job("hello", a_container(python("print('hello from a pod')"))))

    job = namespace.wait_for("jobs", "hello", lambda job: holds(job, "Complete"), "it completes")
    (pod,) = namespace.list("pods", labels="job-name=hello")
    assert job["status"]["succeeded"] == 1
    assert pod["status"]["phase"] == "Succeeded"
    assert said(kubelet, namespace, pod["metadata"]["name"]) == "hello from a pod\n"


def test_exit_code_and_termination_message_are_seen(namespace: Client, add_node: AddNode) -> None:
    add_node()
    code = "open('/dev/termination-log', 'w').write('spec refused'); raise SystemExit(64)"

    pod = run(namespace, a_pod("refuses", a_container(python(code))))

    assert pod["status"]["phase"] == "Failed"
    assert terminated(pod)["exitCode"] == 64
    assert terminated(pod)["reason"] == "Error"
    assert terminated(pod)["message"] == "spec refused"


def test_without_a_message_the_end_of_the_log_is_taken_where_asked_for(
    namespace: Client, add_node: AddNode
) -> None:
    add_node()
    talks = shell("i=0; while [ $i -lt 90 ]; do i=$((i+1)); echo line $i; done; exit 3")
    falls_back = {"terminationMessagePolicy": "FallbackToLogsOnError"}

    pod = run(namespace, a_pod("talks", a_container(talks, **falls_back)))
    silent = run(namespace, a_pod("silent", a_container(talks)))

    lines = terminated(pod)["message"].splitlines()
    assert (len(lines), lines[-1]) == (80, "line 90")
    assert "message" not in terminated(silent)


def test_a_pod_knows_about_itself(namespace: Client, add_node: AddNode, kubelet: Kubelet) -> None:
    node = add_node()
    paths = {
        "NAME": "metadata.name",
        "UID": "metadata.uid",
        "NODE": "spec.nodeName",
        "IP": "status.podIP",
        "SLOT": "metadata.labels['slot']",
    }
    env = [{"name": k, "valueFrom": {"fieldRef": {"fieldPath": v}}} for k, v in paths.items()]
    memory = {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"}
    env += [
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": memory}},
        {"name": "ABOUT", "value": "$(NAME) on $(NODE), $$(NAME)"},
    ]
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    code = (
        "import json, os, socket\n"
        f"about = {{name: os.environ[name] for name in {[*paths, 'MEMORY', 'ABOUT']!r}}}\n"
        "about['labels'] = open('/about/labels').read()\n"
        "about['host'] = socket.gethostname(), socket.gethostbyname(socket.gethostname())\n"
        "print(json.dumps(about))\n"
    )
    container = a_container(
        python(code),
        env=env,
        resources={"limits": {"memory": "1Gi"}},
        volumeMounts=[{"name": "about", "mountPath": "/about"}],
    )
    manifest = a_pod(
        "knows", container, volumes=[{"name": "about", "downwardAPI": {"items": items}}]
    )
    manifest["metadata"]["labels"] = {"slot": "7", "pool": "spot"}

    pod = run(namespace, manifest)

    about = json.loads(said(kubelet, namespace, "knows"))
    address = pod["status"]["podIP"]
    assert address.startswith("127.")
    assert about == {
        "NAME": "knows",
        "UID": pod["metadata"]["uid"],
        "NODE": node.name,
        "IP": address,
        "SLOT": "7",
        "MEMORY": "1024",
        "ABOUT": f"knows on {node.name}, $(NAME)",
        "labels": 'pool="spot"\nslot="7"',
        "host": ["knows", address],
    }


def test_secrets_and_config_maps_are_environment_and_files(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cloud"}}
    namespace.create(secret | {"stringData": {"key": "k1", "token": "t1"}})
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prompts"}}
    namespace.create(config | {"data": {"faq": "Ask.", "math": "Count."}})
    one_key = {"secretName": "cloud", "items": [{"key": "token", "path": "deep/token"}]}
    volumes = [
        {"name": "cloud", "secret": one_key},
        {"name": "prompts", "configMap": {"name": "prompts"}},
    ]
    key = {"secretKeyRef": {"name": "cloud", "key": "key"}}
    none = {"secretKeyRef": {"name": "cloud", "key": "none", "optional": True}}
    container = a_container(
        shell(
            "echo $KEY ${NONE-unset} $P_faq; cat /var/run/cloud/deep/token /prompts/math; ls /var/run/cloud"
        ),
        env=[{"name": "KEY", "valueFrom": key}, {"name": "NONE", "valueFrom": none}],
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "prompts"}}],
        volumeMounts=[
            {"name": "cloud", "mountPath": "/var/run/cloud", "readOnly": True},
            {"name": "prompts", "mountPath": "/prompts"},
        ],
    )

    run(namespace, a_pod("reads", container, volumes=volumes))

    assert said(kubelet, namespace, "reads") == "k1 unset Ask.\nt1Count.deep\n"


def test_a_pod_waits_for_its_secret(namespace: Client, add_node: AddNode) -> None:
    add_node()
    container = a_container(
        shell("cat /cloud/key"), volumeMounts=[{"name": "cloud", "mountPath": "/cloud"}]
    )
    volumes = [{"name": "cloud", "secret": {"secretName": "late"}}]

    namespace.create(a_pod("waits", container, volumes=volumes))
    namespace.wait_for("pods", "waits", lambda pod: waiting(pod) == "ContainerCreating", "it waits")
    wait_until(
        lambda: [e for e in namespace.list("events") if e["reason"] == "FailedMount"],
        "an event says why",
    )
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}}
    namespace.create(secret | {"stringData": {"key": "k1"}})

    namespace.wait_for("pods", "waits", ended, "it ends")


def test_a_container_is_who_and_where_its_spec_says(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    code = (
        "id -u; id -G; echo a > /work/a && stat -c '%g' /work/a; cat /proc/1/comm;"
        f" echo b > /b || echo read-only; ls -d /root {SHM}; echo c > {SHM}/c"
    )
    mounts = [{"name": "work", "mountPath": "/work"}, {"name": "shm", "mountPath": SHM}]
    volumes = [
        {"name": "work", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
    ]
    container = a_container(shell(code), volumeMounts=mounts)

    pod = run(namespace, a_pod("who", container, volumes=volumes))

    said_lines = said(kubelet, namespace, "who").splitlines()
    assert pod["status"]["phase"] == "Succeeded", said_lines
    assert said_lines[:4] == ["65532", "65532", "65532", "sh"]
    assert said_lines[-3:] == ["read-only", SHM, "/root"]


def test_pods_reach_each_other_by_their_addresses(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    address = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    serves = [sys.executable, "-m", "http.server", "--bind", "$(IP)", "--directory", "/etc", "8080"]
    probe = {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1}
    namespace.create(a_pod("serves", a_container(serves, env=[address], readinessProbe=probe)))
    server = namespace.wait_for("pods", "serves", ready, "its probe passes")
    code = f"""
from urllib.request import urlopen
print(urlopen("http://{server["status"]["podIP"]}:8080/hosts").read().decode())
"""

    run(namespace, a_pod("asks", a_container(python(code))))

    assert "serves" in said(kubelet, namespace, "asks")


def test_a_pod_with_a_service_account_speaks_to_the_api_server(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    code = """
import os, ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
namespace, token = (open(f"{folder}/{name}").read() for name in ("namespace", "token"))
url = f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods"
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=f"{folder}/ca.crt"))
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""

    run(namespace, a_pod("asks", a_container(python(code)), automountServiceAccountToken=True))

    told = said(kubelet, namespace, "asks")
    account = f"system:serviceaccount:{namespace.namespace}:default"
    assert told.startswith("403")
    assert f'\\"{account}\\" cannot list resource \\"pods\\"' in told


def test_our_own_commands_run_in_a_pod(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "in"}}
    namespace.create(config | {"data": {"run.yaml": json.dumps(a_manifest("in-a-pod"))}})
    container = a_container(
        ["rephrase", "validate", "/in/run.yaml"], volumeMounts=[{"name": "in", "mountPath": "/in"}]
    )

    pod = run(
        namespace,
        a_pod("validates", container, volumes=[{"name": "in", "configMap": {"name": "in"}}]),
    )

    assert pod["status"]["phase"] == "Succeeded", said(kubelet, namespace, "validates")


def test_kubectl_shows_logs(namespace: Client, add_node: AddNode, kubectl: Kubectl) -> None:
    add_node()
    run(namespace, a_pod("talks", a_container(shell("echo one; echo two; echo three"))))

    assert kubectl("logs", "talks").stdout == "one\ntwo\nthree\n"
    assert kubectl("logs", "talks", "--tail=1", "--follow").stdout == "three\n"


# -- not running ----------------------------------------------------------------------------------


def test_an_image_that_cannot_be_pulled_keeps_the_pod_pending(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    kubelet.host.missing_images.add("registry.invalid/typo:1")
    container = a_container(shell("echo at last"), image="registry.invalid/typo:1")

    namespace.create(a_pod("typo", container))
    pod = namespace.wait_for(
        "pods", "typo", lambda pod: waiting(pod) == "ImagePullBackOff", "it backs off"
    )
    phase = pod["status"]["phase"]
    kubelet.host.missing_images.clear()

    assert phase == "Pending"
    namespace.wait_for("pods", "typo", ended, "it runs once the image is there")


def test_an_image_may_take_its_time(
    namespace: Client, add_node: AddNode, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_node()
    monkeypatch.setattr(kubelet.host, "pull_seconds", 1.5)

    pod = run(namespace, a_pod("slow", a_container(shell("true"))))

    (status,) = pod["status"]["containerStatuses"]
    started = datetime.fromisoformat(status["state"]["terminated"]["startedAt"])
    assert started - datetime.fromisoformat(pod["status"]["startTime"]) >= timedelta(seconds=1)


def test_a_program_that_is_not_there_is_a_start_error(namespace: Client, add_node: AddNode) -> None:
    add_node()

    pod = run(namespace, a_pod("typo", a_container(["/usr/bin/rephrrase"])))

    assert terminated(pod)["exitCode"] == 128
    assert terminated(pod)["reason"] == "StartError"
    assert "No such file" in terminated(pod)["message"]


def test_a_container_is_not_run_as_root_against_its_will(
    namespace: Client, add_node: AddNode
) -> None:
    add_node()
    manifest = a_pod("root", a_container(shell("id")))
    del manifest["spec"]["securityContext"]["runAsUser"]

    namespace.create(manifest)

    bad = "CreateContainerConfigError"
    namespace.wait_for("pods", "root", lambda pod: waiting(pod) == bad, "it is refused")


def test_a_gpu_belongs_to_one_pod_at_a_time(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    node = add_node(gpus=1, taints=["nvidia.com/gpu=present:NoSchedule"])
    tolerates = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    keeps, ends = a_container(python(ENDS_ON_SIGTERM), **gpu), a_container(shell("true"), **gpu)

    first = start(kubelet, namespace, a_pod("first", keeps, tolerations=tolerates))
    namespace.create(a_pod("second", ends, tolerations=tolerates))
    unschedulable = {"status": "False", "reason": "Unschedulable"}
    second = namespace.wait_for(
        "pods",
        "second",
        lambda pod: condition(pod, "PodScheduled").items() >= unschedulable.items(),
        "it finds no node",
    )
    namespace.delete("pods", "first")

    assert first["spec"]["nodeName"] == node.name
    assert "Insufficient nvidia.com/gpu" in condition(second, "PodScheduled")["message"]
    namespace.wait_for("pods", "second", ended, "it runs when the GPU is free")


def test_what_this_kubelet_cannot_do_is_refused(namespace: Client, add_node: AddNode) -> None:
    add_node()
    hook = {"preStop": {"exec": {"command": ["true"]}}}

    pod = run(namespace, a_pod("hooked", a_container(shell("true"), lifecycle=hook)))

    assert pod["status"]["reason"] == "UnsupportedByProcessKubelet"
    assert pod["status"]["message"] == "not supported: containers.lifecycle"


def test_pod_security_is_enforced(namespace: Client) -> None:
    manifest = a_pod("root", a_container(shell("id")))
    manifest["spec"]["securityContext"]["runAsNonRoot"] = False

    try:
        namespace.create(manifest)
    except Refused as refused:
        message = refused.message
    else:
        message = ""

    assert 'violates PodSecurity "restricted:latest": runAsNonRoot != true' in message


# -- ending ---------------------------------------------------------------------------------------


def test_sigterm_comes_first_and_the_code_is_seen_before_the_pod_goes(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    start(kubelet, namespace, a_pod("drains", a_container(python(ENDS_ON_SIGTERM))))

    namespace.patch("pods", "drains", {"metadata": {"finalizers": ["rephrase.io/looks"]}})
    namespace.delete("pods", "drains")
    pod = namespace.wait_for("pods", "drains", ended, "it ends")
    namespace.patch("pods", "drains", {"metadata": {"finalizers": None}})

    assert terminated(pod)["exitCode"] == 75
    namespace.wait_gone("pods", "drains")


def test_sigkill_comes_when_the_grace_is_over(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    stubborn = a_container(python(IGNORES_SIGTERM))
    start(kubelet, namespace, a_pod("stays", stubborn, terminationGracePeriodSeconds=1))

    namespace.patch("pods", "stays", {"metadata": {"finalizers": ["rephrase.io/looks"]}})
    namespace.delete("pods", "stays")
    pod = namespace.wait_for("pods", "stays", ended, "it ends")
    namespace.patch("pods", "stays", {"metadata": {"finalizers": None}})

    assert terminated(pod)["exitCode"] == 137


def test_nothing_of_a_container_outlives_its_first_process(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    mark = f"outlives-{namespace.namespace}"
    code = f"import subprocess; subprocess.Popen(['sh', '-c', 'read line; true', '{mark}'])"

    run(namespace, a_pod("parent", a_container(python(code))))

    assert not alive(mark)


def test_a_container_that_exceeds_its_memory_is_oom_killed(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    start(kubelet, namespace, a_pod("grows", a_container(python(ENDS_ON_SIGTERM))))

    kubelet.run_out_of_memory(str(namespace.namespace), "grows", "main")

    pod = namespace.wait_for("pods", "grows", ended, "it ends")
    assert (terminated(pod)["exitCode"], terminated(pod)["reason"]) == (137, "OOMKilled")


def test_a_container_is_started_again_where_its_pod_says_so(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    once = shell("[ -e /work/a ] || { touch /work/a; exit 1; }")
    container = a_container(once, volumeMounts=[{"name": "work", "mountPath": "/work"}])
    volumes = [{"name": "work", "emptyDir": {}}]

    pod = run(namespace, a_pod("again", container, restartPolicy="OnFailure", volumes=volumes))

    (status,) = pod["status"]["containerStatuses"]
    assert pod["status"]["phase"] == "Succeeded"
    assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 1)


def test_a_forced_deletion_kills_at_once(
    namespace: Client, add_node: AddNode, kubelet: Kubelet
) -> None:
    add_node()
    start(kubelet, namespace, a_pod("stays", a_container(python(IGNORES_SIGTERM))))
    (life,) = kubelet.pod(str(namespace.namespace), "stays").running
    running = life.running
    assert running is not None

    namespace.delete("pods", "stays", grace_seconds=0)

    wait_until(lambda: running.has_ended, "its processes are gone", within=5)


# -- nodes that somebody else makes ---------------------------------------------------------------


@pytest.fixture
def adopted(
    cluster_client: Client, namespace: Client, tmp_path: Path
) -> Iterator[tuple[Kubelet, str]]:
    """A kubelet that is the machine of what carries an annotation of its own, and such a Node."""
    name = f"{namespace.namespace}-machine"
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {f"tests/{name}": "yes"},
            "labels": {"kubernetes.io/hostname": name},
        },
        "status": {
            "allocatable": {"cpu": "3900m", "memory": "8Gi", "pods": "20", "nvidia.com/gpu": "2"}
        },
    }
    with Kubelet(cluster_client, tmp_path / "kubelet") as kubelet:
        kubelet.adopt(f"tests/{name}")
        cluster_client.create(node)
        yield kubelet, name
        cluster_client.delete("nodes", name)
        assert kubelet.errors == []


def on(node: str, **more: Any) -> Object:  # noqa: ANN401 - fields of a container
    return a_pod(
        "pod",
        a_container(python(f"{ENDS_ON_SIGTERM}# mark-{node}"), **more),
        nodeSelector={"kubernetes.io/hostname": node},
    )


def test_a_node_that_somebody_else_made_gets_a_machine_that_runs_pods(
    cluster_client: Client, namespace: Client, adopted: tuple[Kubelet, str]
) -> None:
    kubelet, name = adopted
    cluster_client.wait_for("nodes", name, ready, "it is ready")
    gpus = {"limits": {"nvidia.com/gpu": "2"}}

    pod = start(kubelet, namespace, on(name, resources=gpus))

    assert pod["spec"]["nodeName"] == name
    found = cluster_client.get("nodes", name)
    assert found["status"]["allocatable"]["cpu"] == "3900m"


def test_a_node_that_somebody_else_removes_takes_its_processes_with_it_at_once(
    cluster_client: Client, namespace: Client, adopted: tuple[Kubelet, str]
) -> None:
    kubelet, name = adopted
    cluster_client.wait_for("nodes", name, ready, "it is ready")
    start(kubelet, namespace, on(name))
    ran = alive(f"mark-{name}")

    cluster_client.delete("nodes", name)

    wait_until(lambda: not alive(f"mark-{name}"), "its process is gone")
    assert ran
    assert namespace.get("pods", "pod")["status"]["phase"] == "Running"  # as far as anybody knows
