"""What a driver or a worker is started with: one model each, to environment variables and back. Pure.

The operator and `rephrase run` write them, `rephrase driver` and `rephrase worker` read them. Only the
driver gets the whole spec; a worker reads everything that decides *what* is written from the ledger.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.model import Engine, EngineType, Speculation
from rephrase_api.v1alpha1.shared import Storage
from rephrase_api.v1alpha1.workers import PoolEngine

PREFIX = "REPHRASE_"
SPECULATION = "--speculative-config"
"""vLLM's flag for `spec.model.engine.speculation`."""
_CREDENTIALS = (
    "Folder with credentials of the store, a file each, named like the variables of the cloud's client; "
    "empty = the environment."
)


class Launch(BaseModel):
    """Base: a field `output_uri` is the variable REPHRASE_OUTPUT_URI; anything but text is JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(description="Name of the RephraseRun.")
    namespace: str = Field("", description="Its namespace; empty for a local run.")
    pod_uid: str = Field("", description="UID of the pod; empty outside a cluster.")
    node: str = Field("", description="Node or host the process runs on.")
    host: str = Field("127.0.0.1", description="Address that its HTTP listens on.")
    port: int = Field(
        0, ge=0, le=65535, description="Port of its HTTP; 0 = any free one, told in the log."
    )
    log_level: str = Field("Info", description="Debug, Info, Warning or Error.")
    watch_stdin: bool = Field(
        default=False, description="Drain when standard input closes: the local supervisor is gone."
    )

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads."""
        values = self.model_dump(mode="json")
        return {
            PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; others are ignored.

        Raises:
            InvalidSpec: a variable is missing or malformed; names it.
        """
        values: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            raw = environment.get(PREFIX + name.upper())
            if raw is None:
                continue
            try:
                values[name] = raw if _is_text(field.annotation) else json.loads(raw)
            except json.JSONDecodeError as error:
                raise InvalidSpec(
                    f"not JSON: {error}",
                    where=PREFIX + name.upper(),
                    remedy="Set it; `rephrase run` does so by itself.",
                ) from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            variable = PREFIX + str(first["loc"][0]).upper()
            raise InvalidSpec(
                first["msg"], where=variable, remedy="Set it; `rephrase run` does so by itself."
            ) from error


def _is_text(annotation: Any) -> bool:  # noqa: ANN401 - whatever a field is declared as
    """Whether a field's values are written as they are; the literals here are all text."""
    return annotation is str or get_origin(annotation) is Literal


class DriverLaunch(Launch):
    """Environment of a driver."""

    manifest: str = Field(description="The whole RephraseRun as JSON.")
    source_credentials: str = Field("", description=_CREDENTIALS)
    output_credentials: str = Field("", description=_CREDENTIALS)
    templates: str = Field(
        "", description="Folder with the templates of prompts with templateFrom, by prompt name."
    )


class WorkerLaunch(Launch):
    """Environment of a worker."""

    output_uri: str = Field(description="Where the ledger is.")
    output_storage: Storage = Storage()
    source_storage: Storage = Storage()
    source_credentials: str = Field("", description=_CREDENTIALS)
    output_credentials: str = Field("", description=_CREDENTIALS)
    spec_hash: str = Field("", description="Expected hash of the semantic spec; empty = any.")
    slot: int = Field(0, ge=0, description="Number of the worker among the run's workers.")
    start: int = Field(0, ge=0, description="Unit to begin at.")
    units: int = Field(
        0, ge=0, description="Only units below this one are done, those of the canary; 0 = all."
    )
    pool: str = Field("", description="Name of the worker pool.")
    gpus: int = Field(0, ge=0, description="GPUs of this worker.")
    engine_args: tuple[str, ...] = ()
    endpoint: str = Field("", description="Base URL of the endpoint, for the engine OpenAI.")
    api_key_file: str = Field(
        "", description="File with its API key; empty = OPENAI_API_KEY of the environment."
    )
    heartbeat_seconds: float = Field(10, gt=0)
    lease_seconds: float = Field(60, gt=0)
    checkpoint_seconds: float = Field(60, gt=0)
    spot_notice: Literal["", "AWS", "GCP", "Azure"] = Field(
        "", description="Cloud whose notice of a spot machine's end is watched for; empty = none."
    )
    spot_notice_address: str = Field("", description="Its metadata service; empty = the usual one.")
    stop_at_file: str = Field(
        "",
        description="File with the time at which the worker drains; empty, or an empty file = never.",
    )
    hang_seconds: float = Field(180, gt=0, description="An engine silent for so long is dead.")
    request_attempts: int = Field(3, ge=1)
    engine_kills: int = Field(2, ge=1)
    engine_rebuilds: int = Field(3, ge=0)


def bit_reversed_start(slot: int, units: int) -> int:
    """The unit at which the worker of `slot` begins: 0, 1/2, 1/4, 3/4, 1/8 ... of the plan.

    Any number of slots is spread almost evenly and none moves when others come or go. It says
    where a worker begins, never where it must stop.

    Args:
        slot: number of the worker, from 0.
        units: units in the plan; 0 gives 0.
    """
    bits = slot.bit_length()
    reversed_slot = int(f"{slot:b}"[::-1], 2)
    return (reversed_slot * units) >> bits


def engine_arguments(engine: Engine, pool: PoolEngine) -> tuple[str, ...]:
    """What an engine of this pool is started with: speculation, then the run's arguments, then the pool's."""
    guess: tuple[str, ...] = ()
    if engine.speculation is not None and engine.type is EngineType.VLLM:
        guess = (speculation_argument(engine.speculation),)
    return merged_arguments(merged_arguments(guess, engine.args), pool.args)


def speculation_argument(speculation: Speculation) -> str:
    """As vLLM is told."""
    value = {
        "method": speculation.method.value.lower(),
        "num_speculative_tokens": speculation.tokens,
    }
    return f"{SPECULATION}={json.dumps(value, separators=(',', ':'))}"


def merged_arguments(base: Iterable[str], own: Iterable[str]) -> tuple[str, ...]:
    """Engine arguments of a pool: those of the run, replaced and extended by the pool's own, flag by flag."""
    theirs = tuple(own)
    flags = {argument.partition("=")[0] for argument in theirs}
    kept = (argument for argument in base if argument.partition("=")[0] not in flags)
    return (*kept, *theirs)
