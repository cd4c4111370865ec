"""`spec.workers`, `spec.driver`, `spec.image`: the processes of a run and where they are placed."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import (
    CLUSTER_ONLY,
    INT32,
    DnsLabel,
    ImageName,
    Labels,
    LabelValue,
    Matches,
    Money,
    ObjectName,
    Overlay,
    Quantities,
    Unique,
)
from rephrase_api.v1alpha1.model import EngineArgument

MAX_WORKERS = 4096


class CapacityType(StrEnum):
    """How the nodes of a pool are paid for."""

    SPOT = "Spot"
    ON_DEMAND = "OnDemand"
    RESERVED = "Reserved"


class TolerationOperator(StrEnum):
    """How a toleration's value is compared."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class TaintEffect(StrEnum):
    """What a taint does to pods without a toleration."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Image(Model):
    """Container images of the run."""

    runner: ImageName | None = None
    """Image of the workers, with vLLM. Absent: the one the operator was installed with."""
    driver: ImageName | None = None
    """Image of the driver. Absent: the one the operator was installed with."""


class ImagePullSecret(Model):
    """A Secret to pull images with."""

    name: ObjectName
    """Name of the Secret."""


class Toleration(Model):
    """A taint that pods may stand. The key is required: a toleration of everything would also
    tolerate the taints by which a node asks its pods to leave."""

    key: Annotated[str, Field(min_length=1, max_length=316)]
    """Key of the taint."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal compares the value, Exists does not. Default: Equal."""
    value: LabelValue | None = None
    """Value of the taint. Absent: empty."""
    effect: TaintEffect | None = None
    """NoSchedule, PreferNoSchedule or NoExecute. Absent: all three."""
    toleration_seconds: Annotated[int, Field(ge=0, le=INT32)] | None = None
    """How long a NoExecute taint is stood, in seconds. Absent: for ever."""


class Resources(Model):
    """CPU and memory of a container; GPUs are asked for by `gpu`."""

    requests: Quantities = Field(default={})
    """What the scheduler sets aside, as in `{cpu: "6", memory: 24Gi}`. Default: nothing."""
    limits: Quantities = Field(default={})
    """What the container may not exceed, as in `{memory: 24Gi}`. Default: nothing."""


class Placement(Model):
    """Where pods are placed and what they are given."""

    node_selector: Annotated[Labels, CLUSTER_ONLY] = Field(default={})
    """Labels a node must have. Default: none."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32), CLUSTER_ONLY] = ()
    """Taints the pods stand, beside those the operator adds. Default: none."""
    resources: Annotated[Resources, CLUSTER_ONLY] = Resources()
    """CPU and memory. Default: nothing is set aside."""
    pod_template: Annotated[Overlay | None, CLUSTER_ONLY] = None
    """Overlay on the pod template, merged last, for what has no field of its own. It may not set
    service account, host namespaces, security contexts, owners or `rephrase.io/` labels. Absent:
    none."""


class Gpu(Model):
    """The GPUs of one worker. A worker runs one engine over all of them."""

    resource: Annotated[
        str,
        Field(max_length=253),
        Matches(
            r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            "must be a resource of a device plugin, as in 'nvidia.com/gpu'",
        ),
    ] = "nvidia.com/gpu"
    """Name of the resource in the cluster. Default: `nvidia.com/gpu`."""
    count: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of a worker, and the tensor-parallel size unless the engine's args say otherwise; 0 is a
    CPU worker. Default: 1."""
    name: LabelValue | None = None
    """Model of the GPU, as in `L4` or `H100`, for prices and expected rates. Absent: unknown."""


class VolumeClaim(Model):
    """A PersistentVolumeClaim of the run's namespace."""

    claim_name: ObjectName
    """Name of the claim."""


class ModelCache(Model):
    """A volume that holds models across workers."""

    persistent_volume_claim: VolumeClaim
    """Claim to mount; read-only-many lets all workers of a pool share it."""


class PoolEngine(Model):
    """Engine settings of one pool."""

    # fewer than of a run: the API server counts the cost of checking them once for each pool
    args: Annotated[tuple[EngineArgument, ...], Field(max_length=32)] = ()
    """Added to `spec.model.engine.args`; a flag that is in both takes the pool's value. Default:
    none."""


class Pool(Placement):
    """A kind of node that workers run on."""

    name: DnsLabel
    """Name of the pool, in labels, metrics and status."""
    capacity_type: Annotated[CapacityType, CLUSTER_ONLY] = CapacityType.ON_DEMAND
    """Spot, OnDemand or Reserved: for prices, metrics and defaults. Placement is by `nodeSelector`
    and `tolerations`. Default: OnDemand."""
    priority: Annotated[int, Field(ge=-1000, le=1000), CLUSTER_ONLY] = 0
    """Pools of higher priority are tried first; equal ones in their order here. Default: 0."""
    min: Annotated[int, Field(ge=0, le=MAX_WORKERS), CLUSTER_ONLY] = 0
    """Workers kept in this pool as long as there is work. Default: 0."""
    max: Annotated[Annotated[int, Field(ge=0, le=MAX_WORKERS)] | None, CLUSTER_ONLY] = None
    """Most workers in this pool. Absent: `spec.workers.max`."""
    fallback_after_seconds: Annotated[int, Field(ge=0, le=INT32), CLUSTER_ONLY] = 900
    """A worker that is pending for so long, in seconds, is started in the next pool instead.
    Default: 900."""
    gpu: Gpu | None = None
    """GPUs of one worker. Absent: one NVIDIA GPU for engine VLLM, none for OpenAI and Echo."""
    price_per_gpu_hour: Money | None = None
    """Price of one GPU (of one worker, if it has none) for one hour, in the budget's currency.
    Absent: the operator's price list; without an entry there the cost is unknown."""
    priority_class_name: Annotated[ObjectName | None, CLUSTER_ONLY] = None
    """PriorityClass of the pods. Absent: the cluster's default."""
    queue_name: Annotated[LabelValue | None, CLUSTER_ONLY] = None
    """Kueue LocalQueue that admits the workers. Absent: Kueue is not used."""
    model_cache: Annotated[ModelCache | None, CLUSTER_ONLY] = None
    """Volume with the model. Absent: each worker downloads it to its node's disk."""
    engine: PoolEngine = PoolEngine()
    """Engine settings of this pool. Default: none of its own."""


class Workers(Model):
    """How many workers there may be, and on which nodes."""

    min: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0
    """Workers kept over all pools as long as there is work. Default: 0; one is always tried."""
    max: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    """Most workers over all pools; the operator decides how many to run below it. This is what
    `kubectl scale` sets. Default: 1."""
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """Time a worker gets to save its finished samples when it is stopped, in seconds. Many spot
    nodes give 15. Default: 60."""
    pools: Annotated[tuple[Pool, ...], Field(max_length=8), Unique("name")] = ()
    """Kinds of nodes to run workers on. Default: none, which is one pool `default` of any node that
    has what the engine needs: one NVIDIA GPU for VLLM, a CPU for OpenAI and Echo."""


class Driver(Placement):
    """The one CPU pod that plans the run, watches it and publishes the dataset. Never on spot nodes
    unless its tolerations say so."""

    resources: Annotated[Resources, CLUSTER_ONLY] = Resources(
        requests={"cpu": "2", "memory": "4Gi"}
    )
    """CPU and memory. Default: requests of two CPUs and 4Gi."""
