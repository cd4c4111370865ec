"""The body of the driver's `GET /progress`: the driver writes it, operator and `rephrase run` read it. Pure.

At most 4 MiB; the same body without workers goes into the driver's termination message (at most 4,096
bytes). Money is not in it: the driver reports GPU seconds, whoever shows them knows the prices.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Count = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
Number = Annotated[float, Field(ge=0, le=1e15)]


class _Body(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        alias_generator=to_camel,
        populate_by_name=True,
    )


class Units(_Body):
    """Units of the plan; `claimed` are held by a worker now."""

    planned: Count = 0
    claimed: Count = 0
    committed: Count = 0


class Documents(_Body):
    """Source rows. `total` is planned rows, `done` those of committed units, `filtered` did not pass."""

    total: Count = 0
    total_is_estimate: bool = False
    done: Count = 0
    filtered: Count = 0


class Samples(_Body):
    """Committed samples; `finished` also counts those that live workers have not committed yet."""

    expected: Count = 0
    written: Count = 0
    skipped: Count = 0
    failed: Count = 0
    finished: Count = 0


class TokenCounts(_Body):
    """Committed tokens; `discarded` were generated and thrown away."""

    prompt: Count = 0
    completion: Count = 0
    discarded: Count = 0


class Rates(_Body):
    """Rates over the last minutes, all workers together."""

    completion_tokens_per_second: Number = 0.0
    documents_per_second: Number = 0.0


class Gone(_Body):
    """Workers that ended and hold nothing, folded together."""

    gpu_seconds: Number = 0.0
    tokens: Count = 0


class WorkerProgress(_Body):
    """One worker that is alive, or was lately; `samples` and `completion_tokens` are all it finished."""

    uid: str
    slot: Count = 0
    phase: str = ""
    tokens_per_second: Number = 0.0
    samples: Count = 0
    completion_tokens: Count = 0
    loading_seconds: Number = 0.0
    generating_seconds: Number = 0.0
    running: Count = 0
    waiting: Count = 0
    gpu_seconds: Number = 0.0
    units_committed: Count = 0
    samples_checkpointed: Count = 0
    heartbeat_age_seconds: Number = 0.0


class CanaryProgress(_Body):
    """The first units of the plan, enough to hold the documents of `spec.canary`; counts of those committed.

    `asked` is the spec's number. `output_tokens` is the mean of a sample by prompt; `tokens_per_second` is of
    one worker while it generates, with its `pool` and `gpus`: 0 before it was measured. `alike` is the
    share of a prompt's rewrites that begin with the most frequent first ten characters.
    """

    asked: Count = 0
    units: Count = 0
    committed: Count = 0
    documents: Count = 0
    filtered: Count = 0
    failed_documents: Count = 0
    samples: Samples = Samples()
    tokens: TokenCounts = TokenCounts()
    output_tokens: dict[str, Number] = {}
    reasons: dict[str, Count] = {}
    flags: dict[str, Count] = {}
    alike: dict[str, Number] = {}
    tokens_per_second: Number = 0.0
    pool: str = ""
    gpus: Count = 0

    @property
    def done(self) -> bool:
        """Whether all its units are committed."""
        return self.committed >= self.units


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
    last_progress_time: AwareDatetime | None = None
    canary: CanaryProgress | None = None
    gone: Gone = Gone()
    workers: tuple[WorkerProgress, ...] = ()
