"""The body of the driver's `GET /progress`: the driver writes it, operator and `rephrase run` read it. Pure.

At most 1 MiB; the same body without workers goes into the driver's termination message (at most 4,096
bytes). Money is not in it: the driver reports GPU seconds, whoever shows them knows the prices.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class _Body(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class Units(_Body):
    """Units of the plan; `claimed` are held by a worker now."""

    planned: int = 0
    claimed: int = 0
    committed: int = 0


class Documents(_Body):
    """Source rows. `total` is planned rows, `done` those of committed units, `filtered` did not pass."""

    total: int = 0
    total_is_estimate: bool = False
    done: int = 0
    filtered: int = 0


class Samples(_Body):
    """Committed samples; `finished` also counts those that live workers have not committed yet."""

    expected: int = 0
    written: int = 0
    skipped: int = 0
    failed: int = 0
    finished: int = 0


class TokenCounts(_Body):
    """Committed tokens; `discarded` were generated and thrown away."""

    prompt: int = 0
    completion: int = 0
    discarded: int = 0


class Rates(_Body):
    """Rates over the last minutes, all workers together."""

    completion_tokens_per_second: float = 0.0
    documents_per_second: float = 0.0


class Gone(_Body):
    """Workers that ended and hold nothing, folded together."""

    gpu_seconds: float = 0.0
    tokens: int = 0


class WorkerProgress(_Body):
    """One worker that is alive, or was lately."""

    uid: str
    slot: int = 0
    phase: str = ""
    tokens_per_second: float = 0.0
    running: int = 0
    waiting: int = 0
    gpu_seconds: float = 0.0
    units_committed: int = 0
    samples_checkpointed: int = 0
    heartbeat_age_seconds: float = 0.0


class Progress(_Body):
    """Everything the driver knows about a run."""

    schema_version: Literal[1] = 1
    spec_hash: str = ""
    phase: Literal["Preflight", "Planning", "Running", "Publishing", "Complete", "Failed"] = (
        "Preflight"
    )
    reason: str = ""
    message: str = ""
    finished: bool = False
    units: Units = Units()
    documents: Documents = Documents()
    samples: Samples = Samples()
    tokens: TokenCounts = TokenCounts()
    rates: Rates = Rates()
    last_progress_time: datetime | None = None
    gone: Gone = Gone()
    workers: tuple[WorkerProgress, ...] = ()
