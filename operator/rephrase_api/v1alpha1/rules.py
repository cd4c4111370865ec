"""The rules that need more than one field: CEL for the API server and Python for files, side by
side.

A rule stands on the class of the smallest object that holds all it looks at. That a field is
immutable is no rule of this list: `rephrase_api.crd` makes those from the table in
`rephrase_api.semantic`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from rephrase_api.v1alpha1.base import Model, camel
from rephrase_api.v1alpha1.engine_arguments import OWNED, OWNED_PATTERN, owned_flag
from rephrase_api.v1alpha1.fields import DNS_LABEL
from rephrase_api.v1alpha1.generation import MAX_TEMPLATE_CHARACTERS, PLACEHOLDER, Prompt
from rephrase_api.v1alpha1.model import Engine, EngineType, LanguageModel
from rephrase_api.v1alpha1.overlays import protected_fields
from rephrase_api.v1alpha1.policy import Durability
from rephrase_api.v1alpha1.rule import Finding, Rule
from rephrase_api.v1alpha1.run import MAX_NAME_CHARACTERS, Metadata
from rephrase_api.v1alpha1.source import RESERVED_COLUMNS, Columns, Filter, Operator
from rephrase_api.v1alpha1.spec import RephraseRunSpec
from rephrase_api.v1alpha1.workers import Placement, Pool, PoolEngine, Workers


def _set_fields(model: Model, *names: str) -> str:
    found = [camel(name) for name in names if getattr(model, name) is not None]
    return " and ".join(found) or "none of them"


def _inside(uri: str, folder: str) -> bool:
    """Whether `uri` is `folder` or lies in it, by the text alone: the API server knows no more."""
    return f"{uri.removesuffix('/')}/".startswith(f"{folder.removesuffix('/')}/")


def _template_characters(spec: RephraseRunSpec) -> int:
    return sum(len(prompt.template or "") for prompt in spec.prompts)


def _longest_answer(spec: RephraseRunSpec) -> int:
    return max(spec.sampling.for_prompt(prompt).max_tokens for prompt in spec.prompts)


def _owned_arguments(engine: Engine | PoolEngine) -> Iterator[Finding]:
    for index, argument in enumerate(engine.args):
        flag = owned_flag(argument)
        if flag is not None:
            sentence = f"must not set {flag}, got {json.dumps(argument)}; {OWNED[flag]}"
            yield Finding(f".args[{index}]", sentence)


def _protected(placement: Placement) -> Iterator[Finding]:
    for field in protected_fields(placement.pod_template):
        yield Finding(f".podTemplate{field}", "must not be set here; leave it out")


def _values_fit(row_filter: Filter) -> bool:
    match row_filter.operator:
        case Operator.IN | Operator.NOT_IN:
            return len(row_filter.values) >= 1
        case Operator.EXISTS | Operator.DOES_NOT_EXIST:
            return not row_filter.values
        case _:
            return len(row_filter.values) == 1


_OWNED_CEL = f"!has(self.args) || !self.args.exists(a, a.matches('{OWNED_PATTERN}'))"
_OWNED_MESSAGE = f"args must not set what the spec sets elsewhere: {' '.join(OWNED)}"

RULES: tuple[Rule[Any], ...] = (
    Rule(
        on=Metadata,
        cel=f"size(self.metadata.name) <= {MAX_NAME_CHARACTERS}",
        holds=lambda metadata: len(metadata.name) <= MAX_NAME_CHARACTERS,
        message=f"must be at most {MAX_NAME_CHARACTERS} characters",
        field=".name",
        got=lambda metadata: f"{len(metadata.name)} characters",
        remedy="names of Jobs and pods are made from it",
    ),
    Rule(
        on=Metadata,
        # whatever else a DNS label asks for, the API server asks of every object's name
        cel="!self.metadata.name.contains('.')",
        holds=lambda metadata: re.fullmatch(DNS_LABEL, metadata.name) is not None,
        message="must be lower-case letters, digits and '-', no '-' at either end",
        field=".name",
        got=lambda metadata: json.dumps(metadata.name),
        remedy="names of Jobs and pods are made from it",
    ),
    Rule(
        on=RephraseRunSpec,
        cel=(
            "!(self.output.uri + (self.output.uri.endsWith('/') ? '' : '/'))"
            ".startsWith(self.source.uri + (self.source.uri.endsWith('/') ? '' : '/'))"
        ),
        holds=lambda spec: not _inside(spec.output.uri, spec.source.uri),
        message="must not be the source or lie inside it",
        field=".output.uri",
        got=lambda spec: json.dumps(spec.output.uri),
        remedy="a later reading of the source would take the output for documents",
    ),
    Rule(
        on=RephraseRunSpec,
        cel=(
            "self.prompts.map(p, has(p.template) ? size(p.template) : 0).sum()"
            f" <= {MAX_TEMPLATE_CHARACTERS}"
        ),
        holds=lambda spec: _template_characters(spec) <= MAX_TEMPLATE_CHARACTERS,
        message=f"templates must have at most {MAX_TEMPLATE_CHARACTERS} characters together",
        field=".prompts",
        got=lambda spec: str(_template_characters(spec)),
        remedy="keep long ones in a ConfigMap and use templateFrom",
    ),
    Rule(
        on=RephraseRunSpec,
        cel=(
            "!has(self.model.maxModelLength)"
            " || (self.sampling.maxTokens < self.model.maxModelLength"
            " && self.prompts.all(p, !has(p.sampling) || !has(p.sampling.maxTokens)"
            " || p.sampling.maxTokens < self.model.maxModelLength))"
        ),
        holds=lambda spec: (
            spec.model.max_model_length is None
            or max(spec.sampling.max_tokens, _longest_answer(spec)) < spec.model.max_model_length
        ),
        message="must leave room for the document in model.maxModelLength",
        field=".sampling.maxTokens",
        got=lambda spec: f"{_longest_answer(spec)} of {spec.model.max_model_length} tokens",
        remedy="lower maxTokens or raise maxModelLength",
    ),
    Rule(
        on=Columns,
        cel=(
            "!has(self.keep) || !self.keep.exists(c, c in ["
            + ", ".join(f"'{name}'" for name in RESERVED_COLUMNS)
            + "])"
        ),
        holds=lambda columns: not set(columns.keep) & set(RESERVED_COLUMNS),
        message=f"must not name columns that the output has itself ({', '.join(RESERVED_COLUMNS)})",
        field=".keep",
        got=lambda columns: ", ".join(
            json.dumps(name) for name in columns.keep if name in RESERVED_COLUMNS
        ),
        remedy="leave them out",
    ),
    Rule(
        on=Filter,
        cel=(
            "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) >= 1"
            " : self.operator in ['Exists', 'DoesNotExist'] ?"
            " !has(self.values) || size(self.values) == 0"
            " : has(self.values) && size(self.values) == 1"
        ),
        holds=_values_fit,
        message="must hold one value; for In and NotIn one or more, for Exists, DoesNotExist none",
        field=".values",
        got=lambda found: f"{len(found.values)} for {found.operator}",
    ),
    Rule(
        on=Prompt,
        cel="[has(self.builtIn), has(self.template), has(self.templateFrom)].exists_one(x, x)",
        holds=lambda prompt: (
            [prompt.built_in, prompt.template, prompt.template_from].count(None) == 2
        ),
        message="must have exactly one of builtIn, template and templateFrom",
        got=lambda prompt: _set_fields(prompt, "built_in", "template", "template_from"),
    ),
    Rule(
        on=Prompt,
        cel=(
            f"!has(self.template) || (self.template.contains('{PLACEHOLDER}')"
            f" && self.template.indexOf('{PLACEHOLDER}')"
            f" == self.template.lastIndexOf('{PLACEHOLDER}'))"
        ),
        holds=lambda prompt: prompt.template is None or prompt.template.count(PLACEHOLDER) == 1,
        message=f"must contain {PLACEHOLDER} exactly once",
        field=".template",
        got=lambda prompt: str((prompt.template or "").count(PLACEHOLDER)),
        remedy="the document goes there",
    ),
    Rule(
        on=LanguageModel,
        cel="has(self.name) != has(self.uri)",
        holds=lambda model: (model.name is None) != (model.uri is None),
        message="must have exactly one of name and uri",
        got=lambda model: _set_fields(model, "name", "uri"),
    ),
    Rule(
        on=LanguageModel,
        cel="!has(self.revision) || has(self.name)",
        holds=lambda model: model.revision is None or model.name is not None,
        message="must be set with name only",
        field=".revision",
        got=lambda model: json.dumps(model.revision),
        remedy="a folder has no revisions, so leave it out",
    ),
    Rule(
        on=LanguageModel,
        cel="self.engine.type != 'OpenAI' || has(self.name)",
        holds=lambda model: model.engine.type is not EngineType.OPENAI or model.name is not None,
        message="must be set for engine OpenAI",
        field=".name",
        remedy="it is the name the endpoint knows the model by",
    ),
    Rule(
        on=LanguageModel,
        cel="self.engine.type != 'OpenAI' || has(self.maxModelLength)",
        holds=lambda model: (
            model.engine.type is not EngineType.OPENAI or model.max_model_length is not None
        ),
        message="must be set for engine OpenAI",
        field=".maxModelLength",
        remedy="an endpoint does not say how long its context is",
    ),
    Rule(
        on=Engine,
        cel="(self.type == 'OpenAI') == has(self.openAI)",
        holds=lambda engine: (engine.type is EngineType.OPENAI) == (engine.open_ai is not None),
        message="must be set if type is OpenAI, and only then",
        field=".openAI",
        got=lambda engine: f"type {engine.type} {'with' if engine.open_ai else 'without'} openAI",
    ),
    Rule(
        on=Engine,
        cel=_OWNED_CEL,
        holds=lambda engine: not any(map(owned_flag, engine.args)),
        message=_OWNED_MESSAGE,
        field=".args",
        findings=_owned_arguments,
    ),
    Rule(
        on=PoolEngine,
        cel=_OWNED_CEL,
        holds=lambda engine: not any(map(owned_flag, engine.args)),
        message=_OWNED_MESSAGE,
        field=".args",
        findings=_owned_arguments,
    ),
    Rule(
        on=Workers,
        cel="self.min <= self.max",
        holds=lambda workers: workers.min <= workers.max,
        message="must not be above max",
        field=".min",
        got=lambda workers: f"{workers.min} with max {workers.max}",
    ),
    Rule(
        on=Workers,
        cel="!has(self.pools) || self.pools.map(p, p.min).sum() <= self.max",
        holds=lambda workers: sum(pool.min for pool in workers.pools) <= workers.max,
        message="min of all pools together must not be above workers.max",
        field=".pools",
        got=lambda workers: f"{sum(pool.min for pool in workers.pools)} with max {workers.max}",
    ),
    Rule(
        on=Pool,
        cel="!has(self.max) || self.min <= self.max",
        holds=lambda pool: pool.max is None or pool.min <= pool.max,
        message="must not be above max",
        field=".min",
        got=lambda pool: f"{pool.min} with max {pool.max}",
    ),
    Rule(
        on=Placement,
        cel=None,  # the API server sees nothing below an overlay
        holds=lambda placement: not any(protected_fields(placement.pod_template)),
        message="must not set what keeps pods safe and owned",
        field=".podTemplate",
        findings=_protected,
    ),
    Rule(
        on=Durability,
        cel="self.leaseSeconds >= 3 * self.heartbeatSeconds",
        holds=lambda durability: durability.lease_seconds >= 3 * durability.heartbeat_seconds,
        message="must be at least three times heartbeatSeconds",
        field=".leaseSeconds",
        got=lambda durability: (
            f"{durability.lease_seconds} with heartbeatSeconds {durability.heartbeat_seconds}"
        ),
        remedy="or a worker that is only slow would lose its unit",
    ),
)
"""All of them. Each is a sentence about one class; see `Rule`."""
