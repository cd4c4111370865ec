"""What the operator looks at, for tests: runs, Jobs, pods, the driver's word; and API objects."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from rephrase_api import names
from rephrase_api.progress import Progress
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.look import Look
from rephrase_operator.observed import JobSeen, Observed, PodSeen
from rephrase_operator.plan import Plan
from rephrase_operator.settings import Settings
from rephrase_operator.settle import settle
from rephrase_operator.verdict import Verdict
from support.manifests import merged

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = Settings(runner_image="registry.test/runner:1", driver_image="registry.test/driver:1")
RUN_UID = "11111111-2222-3333-4444-555555555555"


def ago(seconds: float, now: datetime = NOW) -> datetime:
    """So many seconds before now."""
    return now - timedelta(seconds=seconds)


def a_run(name: str = "run", *, generation: int = 1, **spec: Any) -> RephraseRun:  # noqa: ANN401
    """A run as the API server has it; `spec` is merged over the least that is allowed."""
    base = {
        "source": {"uri": "s3://corpus/web/"},
        "prompts": [{"name": "faq", "builtIn": "faq"}],
        "model": {"name": "some/model"},
        "output": {"uri": "s3://synthetic/run/"},
        "workers": {"max": 4},
    }
    meta = {"name": name, "namespace": "team", "uid": RUN_UID, "generation": generation}
    return RephraseRun.from_api(
        {
            "apiVersion": "rephrase.io/v1alpha1",
            "kind": "RephraseRun",
            "metadata": {**meta, "creationTimestamp": "2026-11-23T08:00:00Z"},
            "spec": merged(base, spec),
        }
    )


def two_pools(spot: Mapping[str, Any], od: Mapping[str, Any], **workers: Any) -> dict[str, Any]:  # noqa: ANN401
    """`workers` with the pools `spot`, which is tried first, and `od`."""
    first = {"name": "spot", "priority": 10, **spot}
    return {"workers": {**workers, "pools": [first, {"name": "od", **od}]}}


def a_job(slot: int = 0, attempt: int = 1, **more: Any) -> JobSeen:  # noqa: ANN401
    """The Job of a worker, with the template of now."""
    name = names.worker_job_name("run", slot, attempt)
    base = JobSeen(
        name=name,
        uid=f"uid-{name}",
        owner=RUN_UID,
        role=names.WORKER,
        pool="default",
        slot=slot,
        attempt=attempt,
        template_hash="now",
        created=ago(3600),
        deleting=False,
        suspended=False,
        complete=False,
        failure="",
        message="",
        ended=None,
    )
    return replace(base, **more)


def a_driver_job(**more: Any) -> JobSeen:  # noqa: ANN401
    """The Job of the driver, with the template of now."""
    fields = {"name": "run-driver", "uid": "uid-run-driver", "role": names.DRIVER, "pool": ""}
    return a_job(-1, **{**fields, **more})


def a_pod(job: JobSeen | None = None, number: int = 0, **more: Any) -> PodSeen:  # noqa: ANN401
    """A running pod of a Job; the higher its number the younger it is."""
    job = job or a_job()
    name = f"{job.name}-0-{number:05d}"
    created = ago(3000 - 60 * number)
    base = PodSeen(
        name=name,
        uid=f"uid-{name}",
        run="run-uid",
        job=job.name,
        owner=job.uid,
        role=job.role,
        pool=job.pool,
        slot=job.slot,
        phase="Running",
        node="node-1",
        ip="10.0.0.7",
        created=created,
        scheduled=created,
        finished=None,
        deletion=None,
        disruption="",
        exit_code=None,
        reason="",
        message="",
        gpus=1 if job.role == names.WORKER else 0,
        port=8000,
    )
    return replace(base, **more)


def an_ended_pod(
    job: JobSeen | None = None,
    number: int = 0,
    code: int = 1,
    **more: Any,  # noqa: ANN401
) -> PodSeen:
    """A pod that ran for ten minutes and ended by itself."""
    pod = a_pod(job, number)
    ended = {
        "phase": "Failed" if code else "Succeeded",
        "finished": pod.created + timedelta(seconds=600),
        "exit_code": code,
        "reason": "Error" if code else "Completed",
    }
    return replace(pod, **{**ended, **more})


def a_preempted_pod(job: JobSeen | None = None, number: int = 0, **more: Any) -> PodSeen:  # noqa: ANN401
    """A pod that was evicted through the API."""
    return an_ended_pod(job, number, 75, **{"disruption": "EvictionByEvictionAPI", **more})


def a_pending_pod(job: JobSeen | None = None, number: int = 0, **more: Any) -> PodSeen:  # noqa: ANN401
    """A pod for which there is no node."""
    fields = {
        "phase": "Pending",
        "node": "",
        "ip": "",
        "scheduled": None,
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    return a_pod(job, number, **{**fields, **more})


def a_progress(planned: int = 100, committed: int = 0, **more: Any) -> Progress:  # noqa: ANN401
    """The word of a driver; `more` in the contract's own keys, merged over it."""
    base = {
        "phase": "Running" if planned else "Preflight",
        "units": {"planned": planned, "committed": committed},
        "documents": {"total": planned * 2000, "done": committed * 2000},
        "samples": {
            "expected": planned * 2000,
            "written": committed * 2000,
            "finished": committed * 2000,
        },
        "tokens": {"prompt": 7 * committed, "completion": 11 * committed, "discarded": committed},
    }
    return Progress.model_validate_json(json.dumps(merged(base, more)))


def at_work(*pods: PodSeen, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Workers for `a_progress` that run in these pods."""
    fields = {"phase": "generating", "heartbeatAgeSeconds": 1, **more}
    return [{"uid": f"{pod.uid}.a1", "slot": pod.slot, **fields} for pod in pods]


def observed(
    jobs: Iterable[JobSeen] = (),
    pods: Iterable[PodSeen] = (),
    progress: Progress | None = None,
    warnings: Mapping[str, str] | None = None,
) -> Observed:
    """What is there; without a driver unless it is among them."""
    return Observed(list(jobs), list(pods), progress, dict(warnings or {}))


def with_driver(
    jobs: Iterable[JobSeen] = (), pods: Iterable[PodSeen] = (), progress: Progress | None = None
) -> Observed:
    """What is there beside a driver that runs and has planned a hundred units."""
    driver = a_driver_job()
    return observed([driver, *jobs], [a_pod(driver), *pods], progress or a_progress())


def a_look(**more: Any) -> Look:  # noqa: ANN401
    """A look at a run that has only begun; the settlement is that of what is observed."""
    base: dict[str, Any] = {
        "run": a_run(),
        "before": RephraseRunStatus(),
        "observed": observed(),
        "verdict": Verdict(),
        "plan": Plan((), {}),
        "prices": {},
        "settings": SETTINGS,
        "now": NOW,
    } | more
    if "settlement" not in base:
        base["settlement"] = settle(base["before"], base["observed"], now=base["now"])
    return Look(**base)


def prices(**by_pool: str) -> dict[str, Decimal]:
    """Prices of a GPU hour, by pool."""
    return {pool: Decimal(price) for pool, price in by_pool.items()}


# -- objects of the API server --


def a_job_body(
    *,
    conditions: Sequence[Mapping[str, Any]] = (),
    meta: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A worker's Job as the API server answers."""
    labels = {"role": "worker", "pool": "spot", "slot": "3", "attempt": "2"}
    base = {
        "name": "faq-w003-2",
        "uid": "job-uid",
        "creationTimestamp": "2026-11-23T08:00:00Z",
        "labels": {f"rephrase.io/{key}": value for key, value in labels.items()},
        "annotations": {"rephrase.io/template-hash": "0123456789abcdef"},
        "ownerReferences": [{"kind": "RephraseRun", "uid": RUN_UID, "controller": True}],
    }
    return {
        "metadata": merged(base, meta or {}),
        "spec": {"completionMode": "Indexed", "suspend": False, **(spec or {})},
        "status": {"active": 1, **({"conditions": list(conditions)} if conditions else {})},
    }


def a_condition(
    kind: str, reason: str = "", status: str = "True", message: str = ""
) -> dict[str, Any]:
    """A condition of a Job or a pod."""
    return {
        "type": kind,
        "status": status,
        "lastTransitionTime": "2026-11-23T09:00:00Z",
        **({"reason": reason} if reason else {}),
        **({"message": message} if message else {}),
    }


def a_pod_body(
    *,
    status: Mapping[str, Any] | None = None,
    conditions: Sequence[Mapping[str, Any]] = (),
    states: Mapping[str, Mapping[str, Any]] | None = None,
    meta: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A worker's pod as the API server answers; `conditions` are beside PodScheduled."""
    labels = {"role": "worker", "pool": "spot", "slot": "3"}
    job = "batch.kubernetes.io"
    base = {
        "name": "faq-w003-2-0-abcde",
        "uid": "pod-uid",
        "creationTimestamp": "2026-11-23T08:00:01Z",
        "labels": {
            f"{job}/job-name": "faq-w003-2",
            **{f"rephrase.io/{key}": value for key, value in labels.items()},
        },
        "annotations": {
            f"{job}/job-index-failure-count": "1",
            f"{job}/job-index-ignored-failure-count": "2",
        },
        "ownerReferences": [{"kind": "Job", "uid": "job-uid", "controller": True}],
    }
    container = {
        "name": "worker",
        "env": [
            {"name": "REPHRASE_GPUS", "value": "2"},
            {"name": "REPHRASE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
        "ports": [{"name": "metrics", "containerPort": 8000}],
    }
    # the kubelet writes them sorted by name
    statuses = [{"name": name, "state": state} for name, state in sorted((states or {}).items())]
    scheduled = a_condition("PodScheduled") | {"lastTransitionTime": "2026-11-23T08:00:02Z"}
    told = {one["type"] for one in conditions}
    found = {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "conditions": [*([] if "PodScheduled" in told else [scheduled]), *conditions],
        **({"containerStatuses": statuses} if statuses else {}),
    }
    return {
        "metadata": merged(base, meta or {}),
        "spec": {"nodeName": "node-1", "containers": [container], **(spec or {})},
        "status": merged(found, status or {}),
    }


def terminated(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """The state of a container that has ended."""
    end = {"exitCode": code, "reason": reason, "finishedAt": "2026-11-23T08:11:00Z"}
    return {"terminated": {**end, **({"message": message} if message else {})}}
