"""`spec.prompts`, `spec.sampling`, `spec.quality`: what is asked of the model, and how it
answers."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rephrase_api.presets import presets
from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import (
    CLUSTER_ONLY,
    MAX_INTEGER,
    DataKey,
    Matches,
    ObjectName,
)

PLACEHOLDER = "[[DOCUMENT]]"
"""Stands for the document in a template, exactly once."""
MAX_TEMPLATE_CHARACTERS = 65_536
"""Of one template, and of all inline templates of a run together: an object must fit into etcd."""


class PromptLayout(StrEnum):
    """Which comes first in a built-in prompt."""

    INSTRUCTION_FIRST = "InstructionFirst"
    DOCUMENT_FIRST = "DocumentFirst"


class OnTruncated(StrEnum):
    """What becomes of a rewrite that ran into `maxTokens`."""

    KEEP = "Keep"
    DROP = "Drop"
    TRIM = "Trim"


def _known_preset(name: str) -> str:
    if name not in presets():
        raise PydanticCustomError(
            "preset", "must be one of {names}", {"names": ", ".join(presets())}
        )
    return name


def _preset_names(schema: dict[str, Any]) -> None:
    schema["enum"] = list(presets())


PresetName = Annotated[str, AfterValidator(_known_preset), Field(json_schema_extra=_preset_names)]
PromptName = Annotated[
    str,
    Field(max_length=63),
    Matches(
        r"^[a-z0-9]([-a-z0-9_]*[a-z0-9])?$",
        "must be lower-case letters, digits, '-' and '_', since it names the folder data/<name>/",
    ),
]
MaxTokens = Annotated[int, Field(ge=1, le=1_048_576)]
StopStrings = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=16)
]
Template = Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE_CHARACTERS)]


class SamplingParameters(Model):
    """What the run and a single prompt may set alike. Names and meaning as in vLLM."""

    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    """0 always takes the likeliest token, higher is more varied. Absent: the model's own
    (generation_config.json), else 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Samples among the likeliest tokens that together have this probability. Absent: the model's
    own, else 1 (off)."""
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Samples among this many likeliest tokens; 0 is off. Absent: the model's own, else off."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Samples among tokens at least this likely, relative to the likeliest; 0 is off. Absent: the
    model's own, else off."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    """Above 1 makes tokens of prompt and output less likely to come again. Absent: the model's own,
    else 1 (off)."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Above 0 makes tokens of the output less likely to come again. Absent: 0 (off)."""


class SamplingOverrides(SamplingParameters):
    """Sampling parameters of one prompt; each one that is set replaces the run's."""

    max_tokens: MaxTokens | None = None
    """Longest answer, in tokens. Absent: the run's."""
    stop: StopStrings | None = None
    """The answer ends before any of these strings. Absent: the run's."""


class Sampling(SamplingParameters):
    """How the model's next token is chosen, for every prompt of the run."""

    max_tokens: MaxTokens = 2048
    """Longest answer, in tokens; prompt, document and answer share the model's context. Default:
    2048."""
    stop: StopStrings = ()
    """The answer ends before any of these strings. Default: none but the model's own end of
    text."""
    seed: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """Makes every sample repeatable: each gets a seed of its own from this, its document, prompt
    and rollout. Absent: no seeds, which is faster."""

    def for_prompt(self, prompt: "Prompt") -> "Sampling":
        """What `prompt` is sampled with: the run's parameters, replaced by those the prompt
        sets."""
        if prompt.sampling is None:
            return self
        return self.model_copy(update=prompt.sampling.model_dump(exclude_none=True))


class ConfigMapKeyRef(Model):
    """One key of a ConfigMap of the run's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key in the ConfigMap whose value is the template."""


class TemplateFrom(Model):
    """Where a template is kept outside the run. It is mounted; the operator never reads it."""

    config_map_key_ref: ConfigMapKeyRef
    """Key of a ConfigMap that holds the template. It is read once: the run keeps the text it began
    with."""


class Prompt(Model):
    """One kind of rewrite. Exactly one of `builtIn`, `template` and `templateFrom` is set."""

    name: PromptName
    """Names the output folder `data/<name>/` and the dataset's configuration."""
    built_in: PresetName | None = None
    """A prompt that ships with the operator: faq, math, table or tutorial, the formats of
    FinePhrase. Absent: the prompt is your own."""
    template: Template | None = None
    """Your own prompt, with `[[DOCUMENT]]` exactly once where the document goes; sent as written,
    so `promptLayout` does not touch it. Absent: see the other two."""
    template_from: Annotated[TemplateFrom | None, CLUSTER_ONLY] = None
    """Your own prompt, kept in a ConfigMap. Absent: see the other two."""
    rollouts: Annotated[int, Field(ge=1, le=64)] = 1
    """Rewrites of each document with this prompt. Default: 1."""
    sampling: SamplingOverrides | None = None
    """Sampling parameters of this prompt alone. Absent: `spec.sampling`."""


class Quality(Model):
    """What becomes of rewrites that have a fault. Checks flag; nothing is dropped unless asked for
    here."""

    on_truncated: OnTruncated = OnTruncated.KEEP
    """For a rewrite that ran into `maxTokens`: Keep it with a flag, Drop it, or Trim it to its last
    whole line. Default: Keep."""
    checks: bool | None = None
    """Compare each rewrite with its document and with the form its prompt asks for: for the flags
    copy, repetition and script, and for the report. Takes about a tenth of a millisecond of a CPU
    beside generation. Absent: true."""
    strip_preamble: bool = False
    """Remove a lead-in such as "Here is the FAQ:" from the rewrite. Default: false, which only
    flags it."""
