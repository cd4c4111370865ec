"""The semantic spec: the part of a spec that decides *what* is generated from *what*. Pure.

It identifies a run: the ledger freezes it in `_run/spec.json`, the same output is continued only by
the same semantic spec, and the API server refuses to change it. Everything else (speed, placement,
budget, credentials) may change while a run goes on.

The table below names every leaf field of the spec; a test fails until a new field is in it.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from rephrase_api.v1alpha1.spec import RephraseRunSpec

SEMANTIC = frozenset(
    {
        "source.uri",
        "source.format",
        "source.include",
        "source.columns.text",
        "source.columns.id",
        "source.columns.keep",
        "source.filters[].column",
        "source.filters[].operator",
        "source.filters[].values",
        "source.limit.documents",
        "source.sample.fraction",
        "source.sample.seed",
        "source.onUnreadableFile",
        "source.maxDocumentTokens",
        "promptLayout",
        "systemMessage",
        "prompts[].name",
        "prompts[].builtIn",
        "prompts[].template",
        "prompts[].templateFrom.configMapKeyRef.name",
        "prompts[].templateFrom.configMapKeyRef.key",
        "prompts[].rollouts",
        "prompts[].sampling.temperature",
        "prompts[].sampling.topP",
        "prompts[].sampling.topK",
        "prompts[].sampling.minP",
        "prompts[].sampling.repetitionPenalty",
        "prompts[].sampling.presencePenalty",
        "prompts[].sampling.maxTokens",
        "prompts[].sampling.stop",
        "model.name",
        "model.uri",
        "model.revision",
        "model.maxModelLength",
        "model.dtype",
        "model.quantization",
        "model.tokenizer",
        "model.chatTemplate",
        "model.engine.type",
        "sampling.temperature",
        "sampling.topP",
        "sampling.topK",
        "sampling.minP",
        "sampling.repetitionPenalty",
        "sampling.presencePenalty",
        "sampling.maxTokens",
        "sampling.stop",
        "sampling.seed",
        "output.uri",
        "output.includeSourceText",
        "quality.onTruncated",
        "quality.stripPreamble",
        "quality.checks",
    }
)
"""Leaf fields that identify a run."""

MUTABLE = frozenset(
    {
        "suspend",
        "managedBy",
        "serviceAccountName",
        "image.runner",
        "image.driver",
        "imagePullSecrets[].name",
        "source.unit.targetDocuments",  # read once: the plan is frozen in the ledger
        "source.storage.endpoint",
        "source.storage.region",
        "source.storage.allowHTTP",
        "source.secretRef.name",
        "model.secretRef.name",
        "model.engine.args",
        "model.engine.speculation.method",
        "model.engine.speculation.tokens",
        "model.engine.openAI.baseURL",
        "model.engine.openAI.apiKeySecretRef.name",
        "model.engine.openAI.apiKeySecretRef.key",
        "output.storage.endpoint",
        "output.storage.region",
        "output.storage.allowHTTP",
        "output.secretRef.name",
        "output.targetFileBytes",
        "output.compression",
        "durability.heartbeatSeconds",
        "durability.leaseSeconds",
        "durability.checkpointSeconds",
        "canary.documents",
        "canary.approval",
        "canary.approved",
        "workers.min",
        "workers.max",
        "workers.terminationGracePeriodSeconds",
        "workers.pools[].name",
        "workers.pools[].capacityType",
        "workers.pools[].priority",
        "workers.pools[].min",
        "workers.pools[].max",
        "workers.pools[].fallbackAfterSeconds",
        "workers.pools[].gpu.resource",
        "workers.pools[].gpu.count",
        "workers.pools[].gpu.name",
        "workers.pools[].pricePerGPUHour",
        "workers.pools[].nodeSelector",
        "workers.pools[].tolerations[].key",
        "workers.pools[].tolerations[].operator",
        "workers.pools[].tolerations[].value",
        "workers.pools[].tolerations[].effect",
        "workers.pools[].tolerations[].tolerationSeconds",
        "workers.pools[].resources.requests",
        "workers.pools[].resources.limits",
        "workers.pools[].priorityClassName",
        "workers.pools[].queueName",
        "workers.pools[].modelCache.persistentVolumeClaim.claimName",
        "workers.pools[].engine.args",
        "workers.pools[].podTemplate",
        "driver.nodeSelector",
        "driver.tolerations[].key",
        "driver.tolerations[].operator",
        "driver.tolerations[].value",
        "driver.tolerations[].effect",
        "driver.tolerations[].tolerationSeconds",
        "driver.resources.requests",
        "driver.resources.limits",
        "driver.podTemplate",
        "scaling.deadline",
        "scaling.budget.amount",
        "scaling.budget.currency",
        "scaling.onBudgetExhausted",
        "retries.workerBackoffLimit",
        "retries.requestAttempts",
        "retries.documentEngineKills",
        "retries.engineRebuilds",
        "retries.maxFailedDocuments.share",
        "retries.maxFailedDocuments.count",
        "ttlSecondsAfterFinished",
        "observability.logLevel",
        "observability.statusIntervalSeconds",
        "observability.metricsPort",
    }
)
"""Leaf fields that may change while a run goes on."""

HASH_CHARACTERS = 16
_SHOWN_CHARACTERS = 80
_MISSING = object()


def declared(spec: RephraseRunSpec) -> dict[str, Any]:
    """The semantic part of `spec` in canonical form: JSON values under their camelCase keys.

    Defaults are written out, so that writing one in the manifest changes nothing; what has no
    default and is absent is left out. Prompts are sorted by name, locations written without
    ``file://`` and trailing slash, decimals without trailing zeros.

    A field that is added to the API later must default to absence if it is semantic, or every run
    begun before would be another run after the upgrade.
    """
    picked: dict[str, Any] = _picked(spec.to_api(), "")
    picked["source"]["uri"] = canonical_uri(spec.source.uri)
    picked["source"]["sample"]["fraction"] = _canonical_decimal(spec.source.sample.fraction)
    picked["output"]["uri"] = canonical_uri(spec.output.uri)
    if spec.model.uri is not None:
        picked["model"]["uri"] = canonical_uri(spec.model.uri)
    picked["prompts"].sort(key=lambda prompt: prompt["name"])
    return picked


def spec_hash(declared_spec: Mapping[str, Any]) -> str:
    """Identity of a semantic spec: the first 16 hex digits of the SHA-256 of its canonical JSON.

    64 bits are plenty, since a hash is only ever compared with the one in the same output; the
    digits fit a label and a screen.
    """
    text = json.dumps(declared_spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed from one semantic spec to another, one field a line; empty if nothing did.

    For example ``sampling.temperature: 0.7 -> 1.0`` or
    ``prompts[faq].template: changed at line 3: "Answer briefly." -> "Answer at length."``.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    gone, come = _prompt_names(old) - _prompt_names(new), _prompt_names(new) - _prompt_names(old)
    lines = [f"prompts[{name}]: removed" for name in sorted(gone)]
    lines += [f"prompts[{name}]: added" for name in sorted(come)]
    told = tuple(f"prompts[{name}]." for name in gone | come)
    for path in dict.fromkeys([*before, *after]):
        was, is_now = before.get(path, _MISSING), after.get(path, _MISSING)
        if was != is_now and not path.startswith(told):
            lines.append(f"{path}: {_change(was, is_now)}")
    return lines


def _picked(value: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """The semantic leaves below `value`, without the containers that held none."""
    if isinstance(value, list):
        items = [_picked(item, f"{path}[]") for item in value]
        return items if any(items) else []
    found = {}
    for key, below in value.items():
        here = f"{path}.{key}".removeprefix(".")
        if here in SEMANTIC:
            found[key] = below
        elif here not in MUTABLE and (inner := _picked(below, here)):
            found[key] = inner
    return found


def canonical_uri(uri: str) -> str:
    """A location as it identifies a run: without ``file://`` and trailing slash."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        return uri.rstrip("/")
    return posixpath.normpath(rest if separator else uri)


def _canonical_decimal(text: str) -> str:
    return format(Decimal(text).normalize(), "f")


def _prompt_names(declared_spec: Mapping[str, Any]) -> set[str]:
    return {prompt["name"] for prompt in declared_spec.get("prompts", [])}


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by path; prompts go by their names, other lists are leaves."""
    for key, below in value.items():
        here = f"{path}.{key}".removeprefix(".")
        if here == "prompts":
            for prompt in below:
                yield from _flat(prompt, f"prompts[{prompt['name']}]")
        elif isinstance(below, Mapping):
            yield from _flat(below, here)
        else:
            yield here, below


def _change(was: Any, is_now: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(was, str) and isinstance(is_now, str) and "\n" in was + is_now:
        old, new = was.split("\n"), is_now.split("\n")
        same = 0
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        return f"changed at line {same + 1}: {_line(old, same)} -> {_line(new, same)}"
    return f"{_shown(was)} -> {_shown(is_now)}"


def _line(lines: list[str], index: int) -> str:
    return _shown(lines[index]) if index < len(lines) else "end of text"


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    if value is _MISSING:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[: _SHOWN_CHARACTERS - 4]}...{text[-1]}"
    return text
