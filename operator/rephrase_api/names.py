"""Names that the operator, the runner, the chart and users share. Pure.

Object names are functions of the run's name, so that creating an object twice meets the first one,
and a restarted operator finds what it made.
"""

GROUP = "rephrase.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "RephraseRun"
LIST_KIND = "RephraseRunList"
SINGULAR = "rephraserun"
PLURAL = "rephraseruns"
SHORT_NAME = "rr"
CATEGORY = "rephrase"
"""`kubectl get rephrase` lists runs. Not `all`, since `kubectl delete all --all` would take them
along."""
CRD_NAME = f"{PLURAL}.{GROUP}"

RUN_LABEL = f"{GROUP}/run"
"""Name of the run; on all its Jobs and pods."""
RUN_UID_LABEL = f"{GROUP}/run-uid"
"""Uid of the run object; on all its Jobs and pods. Pods of an earlier run of the same name may still end."""
ROLE_LABEL = f"{GROUP}/role"
"""`driver` or `worker`; on all Jobs and pods of a run."""
POOL_LABEL = f"{GROUP}/pool"
"""Name of the pool; on workers."""
SLOT_LABEL = f"{GROUP}/slot"
"""Number of the slot; on workers. Bounded by `spec.workers.max`, so good as a metric's label."""
ATTEMPT_LABEL = f"{GROUP}/attempt"
"""Number of the Job in its slot, from 1; on workers."""
TEMPLATE_HASH_ANNOTATION = f"{GROUP}/template-hash"
STOP_AT_ANNOTATION = f"{GROUP}/stop-at"
"""On a worker's pod: when it stops by itself unless the operator puts it off; a time of RFC 3339."""
"""Hash of what a Job was made from; another hash in the same slot is an outdated worker."""
UNITS_ANNOTATION = f"{GROUP}/units"
"""On a worker's Job: it does only the first so many units, those of the canary."""
FINALIZER = f"{GROUP}/drain"
"""Holds a deleted run until its workers have stopped."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's: the queue that admits a Job. On the Job, never on its pods."""

METRICS_PORT = "metrics"
"""Name of the port of driver and workers that serves `/metrics`, `/healthz` and a driver's `/progress`."""

MODEL_LABEL = "llm-d.ai/model"
"""OpenCost's: the model a worker serves, by which it joins cost and tokens (OpenCost 1.121)."""

DRIVER = "driver"
WORKER = "worker"

MAX_JOB_NAME_CHARACTERS = 61
"""The pod of an Indexed Job is named `<job>-0`, which must be a DNS label of at most 63
characters."""


def driver_job_name(run: str) -> str:
    """Name of the driver's Job; there is one per run."""
    return f"{run}-driver"


def worker_job_name(run: str, slot: int, attempt: int) -> str:
    """Name of the Job of a worker, as in ``faq-math-1b-w003-2``.

    Args:
        run: name of the run, at most 45 characters.
        slot: place among the run's workers, from 0.
        attempt: number of the Job in that slot, from 1.
    """
    return f"{run}-w{slot:03d}-{attempt}"


def label_value(text: str) -> str:
    """A text as a label's value: at most 63 letters, digits, `-`, `_` and `.`, the last ones of it."""
    safe = "".join(
        one if one.isascii() and (one.isalnum() or one in "-_.") else "-" for one in text
    )
    return safe[-63:].strip("-_.")


def run_selector(run: str) -> str:
    """Label selector of all Jobs and pods of a run."""
    return f"{RUN_LABEL}={run}"


def worker_selector(run: str) -> str:
    """Label selector of a run's workers, as in `status.workers.selector`."""
    return f"{RUN_LABEL}={run},{ROLE_LABEL}={WORKER}"
