"""The status of a `RephraseRun`: what the operator observed. Written by the operator only.

Its size does not grow with the corpus or with the number of workers. Everything but `settled`,
`settling`, `inheritedGPUSeconds`, `scaling` and `stop` can be rebuilt from Jobs, pods and the ledger. All
fields are optional, and strings that later versions may extend are no enumerations, so that an older operator
can read a newer status.
"""

from typing import Annotated

from pydantic import AwareDatetime, Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.conditions import ConditionStatus
from rephrase_api.v1alpha1.fields import MAX_INTEGER, Unique

Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Rate = Annotated[float, Field(ge=0, le=1e15)]
Word = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(max_length=253)]
Text = Annotated[str, Field(max_length=4096)]
Uri = Annotated[str, Field(max_length=2048)]
Amount = Annotated[str, Field(max_length=32)]
"""Money or another decimal, as a string."""


class Condition(Model):
    """One thing that is said of the run; see `rephrase_api.v1alpha1.conditions`."""

    type: Word
    """What is said: Accepted, Planned, WorkersAvailable ..."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """Why, in one CamelCase word that scripts may rely on."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, for people. Default: empty."""
    observed_generation: Count | None = None
    """Generation of the spec this was found for. Absent: unknown."""
    last_transition_time: AwareDatetime
    """When `status` last changed."""


class UnitCounts(Model):
    """Units of the plan."""

    planned: Count | None = None
    """Units of the whole run. Absent: not planned yet."""
    claimed: Count | None = None
    """Units that workers hold now."""
    committed: Count | None = None
    """Units that are finished."""


class DocumentCounts(Model):
    """Documents of the source."""

    total: Count | None = None
    """Documents of the whole run. Absent: not planned yet."""
    done: Count | None = None
    """Documents of committed units."""


class SampleCounts(Model):
    """Samples of committed units: one per document, prompt and rollout."""

    written: Count | None = None
    """Rewrites."""
    skipped: Count | None = None
    """Samples with nothing to rewrite, or nothing to show for it."""
    failed: Count | None = None
    """Samples that broke; each stands in the dead letters with its reason."""


class ProgressStatus(Model):
    """How far the run is."""

    display: Word | None = None
    """Committed and planned units, as in `4211/10000`."""
    units: UnitCounts | None = None
    """Units of the plan."""
    documents: DocumentCounts | None = None
    """Documents of the source."""
    samples: SampleCounts | None = None
    """Samples of committed units."""
    last_commit_time: AwareDatetime | None = None
    """When a unit was last committed. Absent: none yet."""


class TokenCounts(Model):
    """Tokens of the model."""

    prompt: Count | None = None
    """Tokens read, in committed units."""
    completion: Count | None = None
    """Tokens generated, in committed units."""
    discarded: Count | None = None
    """Tokens generated and lost, by preemption or because another worker was first."""


class Throughput(Model):
    """Speed of the run, over the last minutes."""

    completion_tokens_per_second: Rate | None = None
    """Tokens generated per second, over all workers."""
    documents_per_second: Rate | None = None
    """Documents finished per second, over all workers."""


class PoolStatus(Model):
    """Workers of one pool."""

    name: Word
    """Name of the pool."""
    desired: Count | None = None
    """Workers there should be."""
    active: Count | None = None
    """Workers that have a Job."""
    ready: Count | None = None
    """Workers with their model loaded."""
    pending: Count | None = None
    """Workers that wait for a node."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why workers are not ready. Absent: they are, or there are none."""
    stockouts: Count | None = None
    """How often in a row it had no node within `fallbackAfterSeconds`. Absent: it gives nodes."""
    stockout_until: AwareDatetime | None = None
    """New workers go to other pools until then. Absent: it gives nodes."""


class AvoidedNode(Model):
    """A node that workers keep away from for a while."""

    name: Name
    """Name of the node."""
    until: AwareDatetime
    """When it may be used again."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """What happened there."""


class WorkersStatus(Model):
    """Workers of the run."""

    display: Word | None = None
    """Ready and desired workers, as in `61/64`."""
    desired: Count | None = None
    """Workers there should be."""
    active: Count | None = None
    """Workers that have a Job; what `kubectl get --subresource=scale` shows as replicas."""
    ready: Count | None = None
    """Workers with their model loaded."""
    draining: Count | None = None
    """Workers that are being stopped."""
    selector: Text | None = None
    """Label selector of the workers."""
    pools: Annotated[tuple[PoolStatus, ...], Field(max_length=64), Unique("name")] = ()
    """Workers by pool."""
    avoid_nodes: Annotated[tuple[AvoidedNode, ...], Field(max_length=20), Unique("name")] = ()
    """Nodes that workers keep away from for a while."""


class ScalingStatus(Model):
    """How many workers were decided on, and why."""

    target: Count | None = None
    """Workers that were decided on; fewer units, pools or nodes may allow fewer."""
    changed_time: AwareDatetime | None = None
    """When the target last changed. Absent: it never did."""
    direction: Word | None = None
    """Up or Down: how it changed then. Absent: it never did."""
    reason: Word | None = None
    """What decided: Maximum, Deadline, Measuring, StartUp, Minimum or Canary."""
    message: Text = ""
    """Why, for people. Default: empty."""
    seconds_per_sample: Rate | None = None
    """Of one worker, on the careful side, as last measured. Absent: it was not measured yet."""
    start_seconds: Rate | None = None
    """From a node to a loaded model, as last measured. Absent: it was not measured yet."""


class PoolCost(Model):
    """What one pool cost."""

    name: Word
    """Name of the pool."""
    amount: Amount | None = None
    """Money spent. Absent: no price is known."""
    gpu_hours: Amount | None = None
    """GPU hours used."""


class Cost(Model):
    """What the run cost so far."""

    currency: Annotated[str, Field(max_length=3)] | None = None
    """Currency of all amounts."""
    total: Amount | None = None
    """Money spent. Absent: a price is missing."""
    discarded: Amount | None = None
    """The part of it that went into discarded tokens."""
    projected: Amount | None = None
    """Money the whole run will have cost at this rate."""
    per_million_tokens: Amount | None = None
    """All money spent for a million committed tokens."""
    by_pool: Annotated[tuple[PoolCost, ...], Field(max_length=64), Unique("name")] = ()
    """Cost by pool."""
    basis: Word | None = None
    """Where the prices come from, as in Static or OpenCost."""
    observed_time: AwareDatetime | None = None
    """When this was computed."""


class NamedCount(Model):
    """How many samples something was noticed of."""

    name: Word
    """A reason or a flag."""
    samples: Count = 0
    """Number of samples. Default: 0."""


class CanaryPrompt(Model):
    """What the canary showed of one prompt."""

    name: Word
    """Name of the prompt."""
    mean_completion_tokens: Rate
    """Mean length of an answer, in tokens."""
    alike: Rate | None = None
    """Share of its rewrites that begin with the most frequent first ten characters; above 0.5 the model may
    have collapsed to a template. Absent: not known."""


class CanaryStatus(Model):
    """What the canary has shown: the account of the first units of the run."""

    requested: Count | None = None
    """The `spec.canary.documents` it was counted for."""
    units: Count | None = None
    """Its units: the first ones of the plan."""
    committed: Count | None = None
    """Units of it that are finished; what follows is of these."""
    documents: Count | None = None
    """Documents in them."""
    filtered: Count | None = None
    """Rows in them that filters or the sample left out."""
    failed_documents: Count | None = None
    """Documents with a failed sample."""
    samples: SampleCounts | None = None
    """Samples of these documents."""
    tokens: TokenCounts | None = None
    """Tokens of these samples."""
    completion_tokens_per_second: Rate | None = None
    """Tokens per second of one worker while it generates, its start left out. Absent: not measured
    yet."""
    pool: Word | None = None
    """Pool of the worker. Absent: not measured yet."""
    gpus: Count | None = None
    """GPUs of the worker. Absent: not measured yet."""
    prompts: Annotated[tuple[CanaryPrompt, ...], Field(max_length=32), Unique("name")] = ()
    """Length of the answers by prompt."""
    reasons: Annotated[tuple[NamedCount, ...], Field(max_length=32), Unique("name")] = ()
    """Why samples were skipped or failed, the most frequent first."""
    flags: Annotated[tuple[NamedCount, ...], Field(max_length=32), Unique("name")] = ()
    """What was noticed of rewrites, the most frequent first."""


class Range(Model):
    """From a good case to a bad one."""

    low: Amount | None = None
    """The good case."""
    high: Amount | None = None
    """The bad case."""


class Estimate(Model):
    """What the whole run is expected to take, as if all of it were done in one pool."""

    gpu_hours: Range | None = None
    """GPU hours."""
    cost: Range | None = None
    """Money, in the budget's currency. Absent: a price is missing."""
    time: Range | None = None
    """Time with all the workers that the pool may have, as in `4h12m`."""
    workers: Count | None = None
    """Workers that meet the deadline, counted from the run's start; without one, all that the pool
    may have."""
    completion_tokens: Count | None = None
    """Tokens to be generated."""
    basis: Text | None = None
    """What it rests on, as in the canary's speed or a table's."""


class OutputStatus(Model):
    """Where to find what the run wrote."""

    manifest: Uri | None = None
    """The manifest; it is written last, so its presence means that the dataset is complete."""
    dead_letters: Uri | None = None
    """Folder with the documents that were skipped or failed, and why."""
    report: Uri | None = None
    """The report for people."""


class RecentFailure(Model):
    """A worker that failed."""

    time: AwareDatetime
    """When."""
    worker: Name
    """Name of its Job."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, for people. Default: empty."""
    node: Name | None = None
    """Where. Absent: it had none."""


class SettledPool(Model):
    """What the finished pods of one pool used."""

    name: Word
    """Name of the pool."""
    gpu_seconds: Rate = 0
    """Seconds for which GPUs were held, times their number."""
    disruptions: Count = 0
    """Pods lost to preemption and eviction."""
    preempted: Count = 0
    """Of these, pods whose place the scheduler gave to a pod of higher priority."""
    lost: Count = 0
    """Of these, pods that ended unseen: their node or they went without notice, or the kubelet did not
    take them. The others were told to go and had time to save."""
    failures: Count = 0
    """Pods that failed by themselves."""
    price: Amount | None = None
    """Last price that was known of a GPU hour. Absent: none ever was."""


class ImageStatus(Model):
    """Images that new pods are made from."""

    runner: Annotated[str, Field(max_length=512)] | None = None
    """Image of the workers."""
    driver: Annotated[str, Field(max_length=512)] | None = None
    """Image of the driver."""


class StopStatus(Model):
    """Why the run must have no workers."""

    reason: Annotated[str, Field(max_length=128)]
    """Why, in one CamelCase word; the reason of condition Suspended."""
    message: Text = ""
    """Why, for people. Default: empty."""
    generation: Count | None = None
    """Generation of the spec it was found under; one that no field shows ends with the next one."""
    budget: Amount | None = None
    """Budget it was found under; a larger one ends it. Absent: it is no matter of money."""


class RephraseRunStatus(Model):
    """What was observed of the run."""

    observed_generation: Count | None = None
    """Generation of the spec that has been fully acted upon."""
    phase: Word | None = None
    """The run in one word, for display only: use the conditions to decide anything."""
    spec_hash: Word | None = None
    """Identity of the run: a hash of what it generates from what. Same output and same hash
    continues."""
    start_time: AwareDatetime | None = None
    """When the run was first acted upon."""
    completion_time: AwareDatetime | None = None
    """When it was Complete or Failed."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), Unique("type")] = ()
    """What is said of the run."""
    progress: ProgressStatus | None = None
    """How far the run is."""
    tokens: TokenCounts | None = None
    """Tokens of the model."""
    throughput: Throughput | None = None
    """Speed of the run."""
    workers: WorkersStatus | None = None
    """Workers of the run."""
    scaling: ScalingStatus | None = None
    """How many workers were decided on, and why."""
    disruptions: Count | None = None
    """Pods lost to preemption and eviction; they use up no retries."""
    worker_failures: Count | None = None
    """Pods that failed by themselves."""
    cost: Cost | None = None
    """What the run cost so far."""
    canary: CanaryStatus | None = None
    """What the canary has shown. Absent: none was asked for, or nothing is known of it yet."""
    estimate: Estimate | None = None
    """What it is expected to take."""
    eta: Word | None = None
    """Time left, as in `4h12m`. Absent: no throughput yet."""
    estimated_completion_time: AwareDatetime | None = None
    """When it will be complete at this rate. Absent: no throughput yet."""
    output: OutputStatus | None = None
    """Where to find what the run wrote."""
    image: ImageStatus | None = None
    """Images that new pods are made from."""
    recent_failures: Annotated[tuple[RecentFailure, ...], Field(max_length=10)] = ()
    """The last workers that failed."""
    stop: StopStatus | None = None
    """Why the run must have no workers. Absent: it may have some."""
    settled: Annotated[tuple[SettledPool, ...], Field(max_length=64), Unique("name")] = ()
    """What the pods used that are gone: the one thing here that cannot be observed again."""
    inherited_gpu_seconds: Rate | None = None
    """GPU seconds that the ledger held before the first worker of this object: those of earlier ones
    with the same output, which this one does not pay for. Absent: unknown."""
    settling: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=1024), Unique()
    ] = ()
    """Uids of pods that `settled` counts already and whose Jobs are still there."""
