"""`spec.durability`, `canary`, `scaling`, `retries`, `observability`: how a run is carried out.

Nothing here is part of the run's identity; all of it may change while the run goes on.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import (
    CLUSTER_ONLY,
    MAX_INTEGER,
    Matches,
    Money,
    Percentage,
    Port,
)


class Approval(StrEnum):
    """Who lets a run go on after its canary."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class OnBudgetExhausted(StrEnum):
    """What becomes of a run that has spent its budget."""

    SUSPEND = "Suspend"
    FAIL = "Fail"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "Debug"
    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


class Durability(Model):
    """How much work a lost worker may cost, and how soon others take over."""

    heartbeat_seconds: Annotated[int, Field(ge=1, le=600)] = 10
    """A worker says that it lives this often, in seconds. Default: 10."""
    lease_seconds: Annotated[int, Field(ge=3, le=3600)] = 60
    """A worker silent for so long, in seconds, has lost its unit to the others. At least three
    heartbeats. Default: 60."""
    checkpoint_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Finished samples are saved this often, in seconds; a lost worker loses no more than that.
    Default: 60."""


class Canary(Model):
    """The first documents of the run, done by one worker before there are others: they show whether the
    settings are sane, and what the whole run will take."""

    documents: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Documents of the canary, rounded up to whole units. Default: 0, no canary."""
    approval: Annotated[Approval, CLUSTER_ONLY] = Approval.AUTOMATIC
    """Automatic goes on when the canary keeps within the limits of failures, Manual waits for
    `approved`. Default: Automatic."""
    approved: Annotated[bool, CLUSTER_ONLY] = False
    """With approval Manual: set to true to go on. Default: false."""


class Budget(Model):
    """What a run may cost."""

    amount: Money
    """Amount of money; workers are drained when it is spent. Needs a price for every pool."""
    currency: Annotated[
        str,
        Field(max_length=3),
        Matches(r"^[A-Z]{3}$", "must be an ISO 4217 code, as in 'USD'"),
    ] = "USD"
    """Currency of the amount and of all prices of the run; nothing is converted. Default: USD."""


class Scaling(Model):
    """What the number of workers is decided by, below `workers.max`."""

    deadline: Annotated[AwareDatetime | None, CLUSTER_ONLY] = None
    """When the run should be finished, as in `2026-12-01T00:00:00Z`; more and dearer workers are
    used to meet it. Absent: none."""
    budget: Annotated[Budget | None, CLUSTER_ONLY] = None
    """What the run may cost. Absent: no limit."""
    on_budget_exhausted: Annotated[OnBudgetExhausted, CLUSTER_ONLY] = OnBudgetExhausted.SUSPEND
    """Suspend stops until the budget is raised, Fail ends the run. Both let workers save their
    samples first. Default: Suspend."""


FEW_FAILURES = 2
"""So many failed documents stop no canary, unless it has no others."""


class MaxFailedDocuments(Model):
    """The run stops when more documents failed than both limits allow; after the canary the share alone
    counts, from the third failure on."""

    share: Percentage = "1%"
    """Share of the documents done, as a percentage. Default: `1%`."""
    count: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 100
    """Number of documents. Default: 100."""

    def exceeded_by(self, failed: int, done: int) -> bool:
        """Whether `failed` of `done` documents are more than both limits allow."""
        allowed = Decimal(self.share.removesuffix("%")) * done / 100
        return failed > self.count and failed > allowed

    def exceeded_by_canary(self, failed: int, done: int) -> bool:
        """Whether a canary of `done` documents failed: by its share alone, if it is no matter of one or two.

        `count` is meant for a whole run: few canaries have so many documents.
        """
        allowed = Decimal(self.share.removesuffix("%")) * done / 100
        return failed > allowed and (failed > min(self.count, FEW_FAILURES) or failed == done)


class Retries(Model):
    """How often things are tried again. Preemptions use up none of these."""

    worker_backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures of a worker before it is replaced by a fresh one. Default: 3."""
    request_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Attempts to get one sample from the engine. Default: 3."""
    document_engine_kills: Annotated[int, Field(ge=1, le=10)] = 2
    """A document that took the engine down this often is given up, by name. Default: 2."""
    engine_rebuilds: Annotated[int, Field(ge=0, le=100)] = 3
    """Rebuilds of the engine in one worker without a newly finished sample in between. Default:
    3."""
    max_failed_documents: MaxFailedDocuments = MaxFailedDocuments()
    """The run stops when more documents failed than this allows."""


class Observability(Model):
    """Logs, status and metrics."""

    log_level: LogLevel = LogLevel.INFO
    """Debug, Info, Warning or Error, for driver and workers. Default: Info."""
    status_interval_seconds: Annotated[int, Field(ge=5, le=3600), CLUSTER_ONLY] = 30
    """Progress in the status is at most this old, in seconds; conditions are told at once. Default:
    30."""
    metrics_port: Port = 8000
    """Port of a worker's metrics. Default: 8000."""
