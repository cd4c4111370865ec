"""Conditions of a run: their types, and all the reasons they may have. Pure.

A reason is an API that alerts, tests and people's scripts rely on; the message beside it is prose.
All types are present from the first reconcile on. `Complete` and `Failed` exclude each other and
never go back.
"""

from collections.abc import Mapping
from enum import StrEnum


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """What is said of a run."""

    ACCEPTED = "Accepted"
    """The spec and the Jobs made from it passed the API server's dry-run, for this generation."""
    PLANNED = "Planned"
    """The plan of units exists."""
    WORKERS_AVAILABLE = "WorkersAvailable"
    """At least max(1, min) workers have their model loaded."""
    PROGRESSING = "Progressing"
    """There was a commit, or a checkpoint with new samples, within the window."""
    CANARY_PASSED = "CanaryPassed"
    """The canary kept within its limits and was approved, or none was asked for."""
    BUDGET_EXHAUSTED = "BudgetExhausted"
    """The budget is spent."""
    DEADLINE_AT_RISK = "DeadlineAtRisk"
    """The run would not finish in time, even with as many workers as it may have."""
    SUSPENDED = "Suspended"
    """No worker pod is left, and none will be made."""
    COMPLETE = "Complete"
    """The dataset is verified and published."""
    FAILED = "Failed"
    """Only a new object can cure it."""


class Reason(StrEnum):
    """Why a condition is as it is."""

    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    INVALID_MODEL = "InvalidModel"
    SPEC_MISMATCH = "SpecMismatch"
    POD_TEMPLATE_REJECTED = "PodTemplateRejected"
    NAME_CONFLICT = "NameConflict"
    OUTPUT_IN_USE = "OutputInUse"
    PRICE_MISSING = "PriceMissing"
    NOT_ALLOWED = "NotAllowed"
    TOO_MANY_RUNS = "TooManyRuns"
    WORKERS_LIMITED = "WorkersLimited"
    NOT_CHECKED = "NotChecked"

    PLANNED = "Planned"
    PLANNING = "Planning"
    DRIVER_FAILED = "DriverFailed"
    DRIVER_UNREACHABLE = "DriverUnreachable"

    MINIMUM_REACHED = "MinimumReached"
    SUSPENDED = "Suspended"
    QUOTA_PENDING = "QuotaPending"
    UNSCHEDULABLE = "Unschedulable"
    CAPACITY_STOCKOUT = "CapacityStockout"
    POD_CREATION_BLOCKED = "PodCreationBlocked"
    IMAGE_PULL = "ImagePull"
    VOLUME_MOUNT = "VolumeMount"
    MODEL_LOADING = "ModelLoading"
    CRASH_LOOP = "CrashLoop"
    BACKING_OFF = "BackingOff"
    ACCESS_REFUSED = "AccessRefused"
    STORAGE_FULL = "StorageFull"
    NO_WORK_LEFT = "NoWorkLeft"
    NOT_READABLE = "NotReadable"

    COMMITTING = "Committing"
    STARTING = "Starting"
    STALLED = "Stalled"
    FINISHED = "Finished"

    WITHIN_LIMITS = "WithinLimits"
    NOT_REQUESTED = "NotRequested"
    RUNNING = "Running"
    AWAITING_APPROVAL = "AwaitingApproval"
    LIMIT_EXCEEDED = "LimitExceeded"

    BUDGET_EXHAUSTED = "BudgetExhausted"
    BUDGET_NEARLY_EXHAUSTED = "BudgetNearlyExhausted"
    BELOW_BUDGET = "BelowBudget"
    NO_BUDGET = "NoBudget"
    COST_UNKNOWN = "CostUnknown"

    BEHIND_DEADLINE = "BehindDeadline"
    ON_TRACK = "OnTrack"
    NO_DEADLINE = "NoDeadline"
    NO_THROUGHPUT = "NoThroughput"

    REQUESTED = "Requested"
    FAILURE_LIMIT = "FailureLimit"
    WORKERS_NEVER_READY = "WorkersNeverReady"
    NOT_SUSPENDED = "NotSuspended"
    DRAINING = "Draining"

    PUBLISHED = "Published"
    IN_PROGRESS = "InProgress"


class Phase(StrEnum):
    """The run in one word, for display only; nothing may branch on it. First match wins."""

    FAILED = "Failed"
    SUCCEEDED = "Succeeded"
    TERMINATING = "Terminating"
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    PENDING = "Pending"
    PLANNING = "Planning"
    PUBLISHING = "Publishing"
    RUNNING = "Running"
    WAITING = "Waiting"


_C, _S, _R = ConditionType, ConditionStatus, Reason

REASONS: Mapping[ConditionType, Mapping[ConditionStatus, tuple[Reason, ...]]] = {
    _C.ACCEPTED: {
        _S.TRUE: (_R.ACCEPTED, _R.WORKERS_LIMITED),
        _S.FALSE: (
            _R.INVALID_SPEC,
            _R.POD_TEMPLATE_REJECTED,
            _R.NAME_CONFLICT,
            _R.OUTPUT_IN_USE,
            _R.PRICE_MISSING,
            _R.NOT_ALLOWED,
            _R.TOO_MANY_RUNS,
        ),
        _S.UNKNOWN: (_R.NOT_CHECKED,),
    },
    _C.PLANNED: {
        _S.TRUE: (_R.PLANNED,),
        _S.FALSE: (_R.PLANNING, _R.DRIVER_FAILED),
        _S.UNKNOWN: (_R.DRIVER_UNREACHABLE,),
    },
    _C.WORKERS_AVAILABLE: {
        _S.TRUE: (_R.MINIMUM_REACHED,),
        _S.FALSE: (
            _R.SUSPENDED,
            _R.QUOTA_PENDING,
            _R.UNSCHEDULABLE,
            _R.CAPACITY_STOCKOUT,
            _R.POD_CREATION_BLOCKED,
            _R.IMAGE_PULL,
            _R.VOLUME_MOUNT,
            _R.MODEL_LOADING,
            _R.CRASH_LOOP,
            _R.BACKING_OFF,
            _R.ACCESS_REFUSED,
            _R.STORAGE_FULL,
            _R.NO_WORK_LEFT,
        ),
        _S.UNKNOWN: (_R.NOT_READABLE,),
    },
    _C.PROGRESSING: {
        _S.TRUE: (_R.COMMITTING,),
        _S.FALSE: (_R.SUSPENDED, _R.STALLED, _R.BUDGET_EXHAUSTED, _R.FINISHED),
        _S.UNKNOWN: (_R.DRIVER_UNREACHABLE, _R.STARTING),
    },
    _C.CANARY_PASSED: {
        _S.TRUE: (_R.WITHIN_LIMITS, _R.NOT_REQUESTED),
        _S.FALSE: (_R.RUNNING, _R.AWAITING_APPROVAL, _R.LIMIT_EXCEEDED),
    },
    _C.BUDGET_EXHAUSTED: {
        _S.TRUE: (_R.BUDGET_EXHAUSTED,),
        _S.FALSE: (_R.BELOW_BUDGET, _R.BUDGET_NEARLY_EXHAUSTED, _R.NO_BUDGET),
        _S.UNKNOWN: (_R.COST_UNKNOWN,),
    },
    _C.DEADLINE_AT_RISK: {
        _S.TRUE: (_R.BEHIND_DEADLINE,),
        _S.FALSE: (_R.ON_TRACK, _R.NO_DEADLINE),
        _S.UNKNOWN: (_R.NO_THROUGHPUT,),
    },
    _C.SUSPENDED: {
        _S.TRUE: (
            _R.REQUESTED,
            _R.BUDGET_EXHAUSTED,
            _R.FAILURE_LIMIT,
            _R.WORKERS_NEVER_READY,
            _R.AWAITING_APPROVAL,
        ),
        _S.FALSE: (_R.NOT_SUSPENDED, _R.DRAINING),
    },
    _C.COMPLETE: {
        _S.TRUE: (_R.PUBLISHED,),
        _S.FALSE: (_R.IN_PROGRESS,),
    },
    _C.FAILED: {
        _S.TRUE: (_R.INVALID_SPEC, _R.INVALID_MODEL, _R.SPEC_MISMATCH, _R.BUDGET_EXHAUSTED),
        _S.FALSE: (_R.IN_PROGRESS,),
    },
}
"""Every reason a condition may have, by type and status."""
