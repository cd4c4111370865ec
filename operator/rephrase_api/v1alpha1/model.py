"""`spec.model`: the language model that rewrites, and the engine that runs it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import CLUSTER_ONLY, Matches, ModelUri
from rephrase_api.v1alpha1.shared import SecretKeyRef, SecretRef


class EngineType(StrEnum):
    """What runs the model."""

    VLLM = "VLLM"
    OPENAI = "OpenAI"
    ECHO = "Echo"


class DType(StrEnum):
    """Type of the model's weights and activations, as vLLM names them."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


EngineArgument = Annotated[
    str,
    Field(max_length=512),
    Matches(
        r"^--[a-z0-9][-a-z0-9]*(\.[-A-Za-z0-9_.]+)?(=[^\x00-\x1f]*)?$",
        "must be one --flag=value or --flag, as in '--max-num-seqs=256'",
    ),
]
EngineArguments = Annotated[tuple[EngineArgument, ...], Field(max_length=64)]
HubName = Annotated[
    str,
    Field(max_length=256),
    Matches(
        r"^[A-Za-z0-9][-A-Za-z0-9._:]*(/[A-Za-z0-9][-A-Za-z0-9._:]*)*$",
        "must be a model's name, as in 'HuggingFaceTB/SmolLM2-1.7B-Instruct'",
    ),
]


class OpenAI(Model):
    """An endpoint that speaks the OpenAI API. Not part of the run's identity."""

    base_url: Annotated[
        str,
        Field(max_length=1024),
        Matches(r"^https?://[^\s@]+$", "must be an http:// or https:// URL"),
    ]
    """URL before `/chat/completions`, as in `https://api.example.com/v1`."""
    api_key_secret_ref: Annotated[SecretKeyRef | None, CLUSTER_ONLY] = None
    """Secret with the API key. Absent: no key is sent; on a laptop: OPENAI_API_KEY of the
    environment."""


class SpeculationMethod(StrEnum):
    """Where guessed tokens come from, without a second model."""

    NGRAM = "NGram"
    SUFFIX = "Suffix"


class Speculation(Model):
    """Guess some tokens and let the model check them in one step."""

    method: SpeculationMethod
    """NGram guesses from the prompt, Suffix from earlier answers too (vLLM needs the package
    arctic-inference for it)."""
    tokens: Annotated[int, Field(ge=1, le=64)] = 6
    """Tokens guessed at once, at most. Default: 6."""


class Engine(Model):
    """What runs the model, and its settings for speed."""

    type: EngineType = EngineType.VLLM
    """VLLM runs the model in the worker, OpenAI asks an endpoint, Echo returns the document (for
    dry runs and tests). Default: VLLM."""
    args: EngineArguments = ()
    """Settings for speed, one `--flag=value` each, as in `--max-num-seqs=256`; may change while the
    run goes on. What the spec says elsewhere (model, context, seed ...) is refused here. Default:
    none."""
    speculation: Speculation | None = None
    """Speculative decoding, for VLLM: a setting for speed that helps some models and slows others
    down, so measure it (`rephrase tune`). Left aside, with a warning in the log, where the worker's
    vLLM lacks the method or a prompt has `minP`. `--speculative-config` in `args` goes before it.
    Absent: none."""
    open_ai: OpenAI | None = None
    """The endpoint. Set if and only if `type` is OpenAI."""


class LanguageModel(Model):
    """The model that rewrites. Exactly one of `name` and `uri` is set."""

    name: HubName | None = None
    """Name on the Hugging Face hub, or the name the endpoint knows it by. Absent: `uri` says
    where."""
    uri: ModelUri | None = None
    """Folder with the model's files: `s3://`, `gs://`, `az://`, or a local path (`file:///` or a
    plain path) that every worker can read. Absent: `name` says which."""
    revision: (
        Annotated[
            str,
            Field(max_length=128),
            Matches(r"^[A-Za-z0-9][-A-Za-z0-9._/]*$", "must be a commit, tag or branch"),
        ]
        | None
    ) = None
    """Commit of the hub's repository. Absent: the newest, which is resolved once and then kept."""
    max_model_length: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    """Context in tokens that prompt, document and answer share. Absent: the model's own."""
    dtype: DType = DType.AUTO
    """auto, bfloat16, float16 or float32. Default: auto, the type of the model's files."""
    quantization: (
        Annotated[
            str,
            Field(max_length=64),
            Matches(r"^[a-z0-9][-a-z0-9_]*$", "must be a method of vLLM, as in 'fp8'"),
        ]
        | None
    ) = None
    """How weights are quantized, as vLLM names it (fp8, awq ...). Absent: as in the model's
    files."""
    tokenizer: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Name on the hub or folder of the tokenizer. Absent: the model's own."""
    chat_template: Annotated[str, Field(min_length=1, max_length=16_384)] | None = None
    """Jinja text of the chat template. Absent: the model's own; a model without one is refused."""
    secret_ref: Annotated[SecretRef | None, CLUSTER_ONLY] = None
    """Secret with the key `token` for gated models, or with credentials for `uri`. Absent: none; on
    a laptop: the environment."""
    engine: Engine = Engine()
    """What runs the model, and its settings for speed. Default: vLLM with its own settings."""
