"""A plan's items to Kubernetes Jobs: one for the driver, one for each worker. Pure.

Why every field is as it is stands in `docs/operator.md`; the traps are Kubernetes' (Job controller 1.30 to
1.37): a preempted pod must not count (`DisruptionTarget` first), exit 64 must end the run and not be tried
again, exit 75 is a drain. What may change between attempts of a slot (start, attempt, the canary's units) is
outside the template hash.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from rephrase_api import names
from rephrase_api.errors import ExitCode, InvalidSpec
from rephrase_api.launch import DriverLaunch, WorkerLaunch, engine_arguments
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import Pool, RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.workers import Gpu, Placement
from rephrase_operator.settings import Settings

_USER = 65532
_LEAVE_TAINTS = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
_LEAVE_SECONDS = 30
_SECRETS = "/var/run/rephrase"
_API_KEY = "api-key"
_ABOUT_POD = "/var/run/rephrase/pod"
_CACHE = "/cache"
_MODELS = "/models"


def worker_job(
    run: RephraseRun,
    pool: Pool,
    *,
    slot: int,
    attempt: int,
    start: int,
    settings: Settings,
    avoid: Sequence[str] = (),
    stop_at: datetime | None = None,
    units: int = 0,
) -> dict[str, Any]:
    """The Job of one worker.

    Args:
        run: its run, as the API server has it (uid set).
        pool: where it runs; one of `run.spec.pools()`.
        slot: place among the run's workers.
        attempt: number of the Job in that slot, from 1.
        start: unit to begin at.
        settings: the operator's.
        avoid: names of nodes to take last.
        stop_at: when it drains by itself unless that is put off; None = never.
        units: only the first so many are its to do; 0 = all.
    """
    spec = run.spec
    model = names.label_value(spec.model.name or spec.model.uri or "")
    labels = _labels(run, names.WORKER) | {names.POOL_LABEL: pool.name, names.MODEL_LABEL: model}
    gpus = pool.gpu.count if pool.gpu is not None else 0
    endpoint = spec.model.engine.open_ai
    api_key = endpoint.api_key_secret_ref if endpoint is not None else None
    launch = WorkerLaunch(
        run=run.metadata.name,
        namespace=run.metadata.namespace or "",
        log_level=spec.observability.log_level.value,
        output_uri=spec.output.uri,
        output_storage=spec.output.storage,
        output_credentials=_credentials("output") if spec.output.secret_ref else "",
        source_storage=spec.source.storage,
        source_credentials=_credentials("source") if spec.source.secret_ref else "",
        spec_hash=spec_hash(declared(spec)),
        pool=pool.name,
        gpus=gpus,
        engine_args=engine_arguments(spec.model.engine, pool.engine),
        endpoint=endpoint.base_url if endpoint is not None else "",
        api_key_file=f"{_credentials('endpoint')}/{_API_KEY}" if api_key is not None else "",
        heartbeat_seconds=spec.durability.heartbeat_seconds,
        lease_seconds=spec.durability.lease_seconds,
        checkpoint_seconds=spec.durability.checkpoint_seconds,
        request_attempts=spec.retries.request_attempts,
        engine_kills=spec.retries.document_engine_kills,
        engine_rebuilds=spec.retries.engine_rebuilds,
        port=spec.observability.metrics_port,
    )
    container = _container(
        names.WORKER,
        spec.image.runner or settings.runner_image,
        launch.to_environment(),
        port=launch.port,
        requests=pool.resources.requests,
        limits={
            **pool.resources.limits,
            **({pool.gpu.resource: str(gpus)} if pool.gpu is not None and gpus else {}),
        },
    )
    pod = _pod(spec, container, pool, grace=spec.workers.termination_grace_period_seconds)
    if pool.priority_class_name is not None:
        pod["priorityClassName"] = pool.priority_class_name
    if pool.model_cache is not None:  # models only: what vLLM and Triton compile stays with the pod
        claim = pool.model_cache.persistent_volume_claim.claim_name
        _set_volume(pod, "models", {"persistentVolumeClaim": {"claimName": claim}})
        container["volumeMounts"].append({"name": "models", "mountPath": _MODELS})
        container["env"] = [one for one in container["env"] if one["name"] != "HF_HOME"]
        container["env"].append({"name": "HF_HOME", "value": _MODELS})
    _mount_secrets(pod, container, spec)
    if api_key is not None:
        items = [{"key": api_key.key, "path": _API_KEY}]
        _mount_secret(pod, container, "endpoint", {"secretName": api_key.name, "items": items})
    template = _overlaid({"metadata": {"labels": labels}, "spec": pod}, pool.pod_template)
    job = _job(
        run,
        names.worker_job_name(run.metadata.name, slot, attempt),
        labels | ({names.QUEUE_LABEL: pool.queue_name} if pool.queue_name is not None else {}),
        template,
        origin=[
            launch.model_dump(mode="json", exclude_defaults=True),
            _said(pool.model_copy(update={"gpu": _unnamed(pool)}), but=_NOT_A_WORKERS),
            spec.image.runner,
            spec.workers.termination_grace_period_seconds,
            *_of_any_pod(spec),
            *([api_key.name, api_key.key] if api_key is not None else []),
        ],
        backoff_limit=spec.retries.worker_backoff_limit,
    )
    # what differs between slots and attempts is no part of the hash
    job["metadata"]["labels"] |= {names.SLOT_LABEL: str(slot), names.ATTEMPT_LABEL: str(attempt)}
    template["metadata"]["labels"][names.SLOT_LABEL] = str(slot)
    _ours(template, names.WORKER)["env"] += [
        {"name": "REPHRASE_SLOT", "value": str(slot)},
        {"name": "REPHRASE_START", "value": str(start)},
        {"name": "REPHRASE_STOP_AT_FILE", "value": f"{_ABOUT_POD}/stop-at"},
    ]
    _mount_stop_time(template, stop_at)
    if units:
        job["metadata"]["annotations"][names.UNITS_ANNOTATION] = str(units)
        _ours(template, names.WORKER)["env"].append({"name": "REPHRASE_UNITS", "value": str(units)})
    if avoid:
        _put_last(template["spec"], avoid)
    return job


def _mount_stop_time(template: dict[str, Any], stop_at: datetime | None) -> None:
    """An annotation as a file: the kubelet keeps it up to date, where a variable would be frozen."""
    if stop_at is not None:
        annotations = template["metadata"].setdefault("annotations", {})
        annotations[names.STOP_AT_ANNOTATION] = stop_at.isoformat()
    field = _field(f"metadata.annotations['{names.STOP_AT_ANNOTATION}']")
    source = {"downwardAPI": {"items": [{"path": "stop-at", **field}]}}
    _set_volume(template["spec"], "about-pod", source)
    _ours(template, names.WORKER)["volumeMounts"].append(
        {"name": "about-pod", "mountPath": _ABOUT_POD, "readOnly": True}
    )


def _put_last(pod: dict[str, Any], nodes: Sequence[str]) -> None:
    """Prefer any other node, beside what the user's overlay prefers."""
    elsewhere = {"key": "metadata.name", "operator": "NotIn"}
    terms = [{"matchFields": [elsewhere | {"values": [node]}]} for node in nodes]
    affinity = pod.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", []).extend(
        {"weight": 100, "preference": term} for term in terms
    )


def driver_job(run: RephraseRun, *, settings: Settings) -> dict[str, Any]:
    """The Job of a run's driver: CPU only, never on spot nodes unless its tolerations say so."""
    spec = run.spec
    templates = {
        prompt.name: prompt.template_from.config_map_key_ref
        for prompt in spec.prompts
        if prompt.template_from is not None
    }
    launch = DriverLaunch(
        run=run.metadata.name,
        namespace=run.metadata.namespace or "",
        log_level=spec.observability.log_level.value,
        # one variable holds 128 KiB on Linux, and escapes would take them up
        manifest=json.dumps(_manifest(run), sort_keys=True, ensure_ascii=False),
        source_credentials=_credentials("source") if spec.source.secret_ref else "",
        output_credentials=_credentials("output") if spec.output.secret_ref else "",
        templates=f"{_SECRETS}/templates" if templates else "",
        port=spec.observability.metrics_port,
    )
    container = _container(
        names.DRIVER,
        spec.image.driver or settings.driver_image,
        launch.to_environment(),
        port=launch.port,
        requests=spec.driver.resources.requests,
        limits=spec.driver.resources.limits,
    )
    pod = _pod(spec, container, spec.driver, grace=30)
    _mount_secrets(pod, container, spec)
    if templates:
        sources = [
            {"configMap": {"name": ref.name, "items": [{"key": ref.key, "path": name}]}}
            for name, ref in sorted(templates.items())
        ]
        _set_volume(pod, "templates", {"projected": {"sources": sources}})
        container["volumeMounts"].append(
            {"name": "templates", "mountPath": f"{_SECRETS}/templates", "readOnly": True}
        )
    labels = _labels(run, names.DRIVER)
    template = _overlaid({"metadata": {"labels": labels}, "spec": pod}, spec.driver.pod_template)
    return _job(
        run,
        names.driver_job_name(run.metadata.name),
        labels,
        template,
        origin=[
            _manifest(run)["spec"],
            _said(spec.driver, but=set()),
            spec.image.driver,
            spec.observability.log_level,
            spec.observability.metrics_port,
            *_of_any_pod(spec),
        ],
        backoff_limit=spec.retries.worker_backoff_limit,
    )


def template_hash(job: Mapping[str, Any]) -> str:
    """The hash a Job carries of what it was made from; another one in a slot is an outdated worker."""
    return str(job["metadata"].get("annotations", {}).get(names.TEMPLATE_HASH_ANNOTATION, ""))


def _job(
    run: RephraseRun,
    name: str,
    labels: dict[str, str],
    template: dict[str, Any],
    *,
    origin: Sequence[Any],
    backoff_limit: int,
) -> dict[str, Any]:
    container = labels[names.ROLE_LABEL]
    # of what the spec says, not of what this version makes of it: an upgrade of the operator, or of its
    # default images, must not restart the workers of a run
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": run.metadata.namespace,
            "labels": dict(labels),
            "annotations": {names.TEMPLATE_HASH_ANNOTATION: digest},
            "ownerReferences": [_owner(run)],
        },
        "spec": {
            # Indexed: the last failed pod then stays until another is there, so its end is never missed
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimitPerIndex": backoff_limit,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    _on_exit("FailJob", container, ExitCode.INVALID),
                    _on_exit("Ignore", container, ExitCode.DRAINED),
                ]
            },
            "template": template,
        },
    }


def _on_exit(action: str, container: str, code: ExitCode) -> dict[str, Any]:
    codes = {"containerName": container, "operator": "In", "values": [int(code)]}
    return {"action": action, "onExitCodes": codes}


def _owner(run: RephraseRun) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": run.metadata.name,
        "uid": run.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _labels(run: RephraseRun, role: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "rephrase",
        "app.kubernetes.io/instance": run.metadata.name,
        "app.kubernetes.io/component": role,
        names.RUN_LABEL: run.metadata.name,
        names.RUN_UID_LABEL: run.metadata.uid or "",
        names.ROLE_LABEL: role,
    }


def _manifest(run: RephraseRun) -> dict[str, Any]:
    """What a driver needs of the run, and no more: what is not in it may change without a new driver."""
    whole: dict[str, Any] = run.to_api()
    spec = {key: value for key, value in whole["spec"].items() if key not in _NOT_THE_DRIVERS}
    pools = spec.get("workers", {}).get("pools", [])
    kept = [{key: pool[key] for key in ("name", "gpu", "engine") if key in pool} for pool in pools]
    # their engine arguments are checked before any GPU is asked for
    spec["workers"] = {"pools": kept}
    if run.spec.canary.documents:
        spec["canary"] = {"documents": run.spec.canary.documents}
    return whole | {"metadata": {"name": run.metadata.name}, "spec": spec}


def _said(model: Model, *, but: AbstractSet[str]) -> dict[str, Any]:
    """What was written, by key; a default counts as not written, so that a new field changes nothing."""
    found = model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return {key: value for key, value in found.items() if key not in but}


def _unnamed(pool: Pool) -> Gpu | None:
    """Its GPUs without their name, which is for prices only."""
    return pool.gpu.model_copy(update={"name": None}) if pool.gpu is not None else None


def _of_any_pod(spec: RephraseRunSpec) -> list[Any]:
    """What the pods of driver and workers have in common."""
    secrets = (spec.source.secret_ref, spec.output.secret_ref, spec.model.secret_ref)
    return [
        spec.service_account_name,
        [secret.name for secret in spec.image_pull_secrets],
        [secret.name if secret is not None else None for secret in secrets],
    ]


_NOT_A_WORKERS = {
    "capacityType",
    "priority",
    "min",
    "max",
    "fallbackAfterSeconds",
    "pricePerGPUHour",
}
"""Of a pool: what decides how many workers there are, and not how each is made."""
_NOT_THE_DRIVERS = {
    "suspend",
    "managedBy",
    "serviceAccountName",
    "image",
    "imagePullSecrets",
    "driver",
    "scaling",
    "canary",
    "ttlSecondsAfterFinished",
    "observability",
}


def _container(
    name: str,
    image: str,
    environment: Mapping[str, str],
    *,
    port: int,
    requests: Mapping[str, str],
    limits: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "command": ["rephrase", name],
        "env": [
            *(
                {"name": key, "value": value}
                for key, value in sorted(environment.items())
                if key not in _FROM_THE_POD | _OF_THE_SLOT
            ),
            {"name": "REPHRASE_POD_UID", "valueFrom": _field("metadata.uid")},
            {"name": "REPHRASE_NODE", "valueFrom": _field("spec.nodeName")},
            {"name": "REPHRASE_HOST", "valueFrom": _field("status.podIP")},
            *({"name": key, "value": value} for key, value in _CACHES.items()),
        ],
        "ports": [{"name": names.METRICS_PORT, "containerPort": port}],
        "resources": {"requests": dict(requests), "limits": dict(limits)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the pod
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a path in the pod
            {"name": "cache", "mountPath": _CACHE},
        ],
    }


_FROM_THE_POD = {"REPHRASE_POD_UID", "REPHRASE_NODE", "REPHRASE_HOST"}
_OF_THE_SLOT = {"REPHRASE_SLOT", "REPHRASE_START", "REPHRASE_STOP_AT_FILE", "REPHRASE_UNITS"}
_CACHES = {
    "HOME": _CACHE,
    "USER": "rephrase",
    "HF_HOME": f"{_CACHE}/huggingface",
    "VLLM_CACHE_ROOT": f"{_CACHE}/vllm",
    "TRITON_CACHE_DIR": f"{_CACHE}/triton",
    "XDG_CACHE_HOME": _CACHE,
}
"""Everything that wants to write goes to the one volume that may be large: the root is read-only.

With a name for the user: torch asks for it, and an image that is not ours may have none for this one."""


def _field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}


def _pod(
    spec: RephraseRunSpec, container: dict[str, Any], placement: Placement, *, grace: int
) -> dict[str, Any]:
    tolerations = [one.to_api() for one in placement.tolerations]
    named = {one.get("key") for one in tolerations}
    tolerations += [
        {
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _LEAVE_SECONDS,
        }
        for key in _LEAVE_TAINTS
        if key not in named
    ]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": dict(placement.node_selector),
        "tolerations": tolerations,
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            {"name": "cache", "emptyDir": {}},
        ],
    }
    if spec.service_account_name is not None:
        pod["serviceAccountName"] = spec.service_account_name
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image_pull_secrets]
    return pod


def _credentials(kind: str) -> str:
    return f"{_SECRETS}/{kind}"


def _mount_secrets(pod: dict[str, Any], container: dict[str, Any], spec: RephraseRunSpec) -> None:
    """Secrets as read-only files, each in a folder of its own: two may hold the same names."""
    wanted = {
        "source": spec.source.secret_ref,
        "output": spec.output.secret_ref,
        "model": spec.model.secret_ref,
    }
    for kind, reference in wanted.items():
        if reference is not None:
            _mount_secret(pod, container, kind, {"secretName": reference.name})
    if spec.model.secret_ref is not None:
        token = f"{_credentials('model')}/token"
        container["env"].append({"name": "HF_TOKEN_PATH", "value": token})


def _mount_secret(
    pod: dict[str, Any], container: dict[str, Any], kind: str, secret: Mapping[str, Any]
) -> None:
    _set_volume(pod, f"{kind}-secret", {"secret": {**secret, "defaultMode": 0o440}})
    container["volumeMounts"].append(
        {"name": f"{kind}-secret", "mountPath": _credentials(kind), "readOnly": True}
    )


def _set_volume(pod: dict[str, Any], name: str, source: dict[str, Any]) -> None:
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != name]
    pod["volumes"].append({"name": name, **source})


def _ours(template: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Our own container of a pod."""
    found: dict[str, Any] = next(
        one for one in template["spec"]["containers"] if one["name"] == name
    )
    return found


def _overlaid(template: dict[str, Any], overlay: Mapping[str, Any] | None) -> dict[str, Any]:
    """The template with a user's overlay merged last: mappings by key, lists of named things by name.

    Raises:
        InvalidSpec: the overlay is not of the shape of a pod template; names the place.
    """
    merged: dict[str, Any] = _merge(copy.deepcopy(template), overlay or {}, "podTemplate")
    return merged


_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort"}
"""Lists whose items are told apart by something else than their names."""

_WHOLE = {"volumes", "env"}
"""Lists whose items have one source each, so one of another kind takes its place."""


def _merge(base: Any, overlay: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    if isinstance(base, dict):
        if not isinstance(overlay, Mapping):
            raise InvalidSpec(f"must be a mapping, got {overlay!r}", where=path)
        added = {key: copy.deepcopy(value) for key, value in overlay.items() if key not in base}
        return {
            key: _merge(value, overlay[key], f"{path}.{key}") if key in overlay else value
            for key, value in base.items()
        } | added
    if isinstance(base, list):
        if not isinstance(overlay, list):
            raise InvalidSpec(f"must be a list, got {overlay!r}", where=path)
        return _merged_lists(base, overlay, path)
    return copy.deepcopy(overlay)


def _merged_lists(base: list[Any], overlay: list[Any], path: str) -> list[Any]:
    field = path.rpartition(".")[2]
    if field == "tolerations":  # more taints may be stood, but silent nodes are left all the same
        return [*copy.deepcopy(overlay), *base]
    if not all(isinstance(item, dict) for item in base):  # drop: [ALL] and the like
        return copy.deepcopy(overlay)
    key = _KEYS.get(field, "name")
    found = {item[key]: item for item in base}
    for item in overlay:
        if not isinstance(item, Mapping) or not isinstance(item.get(key), str | int):
            raise InvalidSpec(f"each item must have a {key}, got {item!r}", where=path)
        before = {} if field in _WHOLE else found.get(item[key], {})
        found[item[key]] = _merge(before, item, path)
    return list(found.values())
