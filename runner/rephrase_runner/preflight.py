"""Everything that can be wrong with a run, found before anything is written and any model is loaded."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rephrase_api.errors import InvalidSpec
from rephrase_api.launch import engine_arguments
from rephrase_api.v1alpha1 import EngineType, RephraseRunSpec
from rephrase_api.v1alpha1.generation import Prompt
from rephrase_runner import engines, hub
from rephrase_runner.prompts import resolve_prompts
from rephrase_runner.records import SPEC, Resolved, ResolvedPrompt
from rephrase_runner.schema import check_kept
from rephrase_runner.source import Scan, ScanProgress, scan
from rephrase_runner.store import StorageOptions, Store, is_local, local_path, probe

logger = logging.getLogger(__name__)

NEUTRAL = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
}
"""Sampling where neither the spec nor the model's generation_config.json says anything."""
_FOLDERS = ("data", "dead_letter")
_FILES = ("README.md", "report.html")


@dataclass(frozen=True, slots=True)
class Mounted:
    """What a pod finds in files that Kubernetes mounted; a laptop has none of it.

    Attributes:
        source_credentials: folder with the credentials of the source; empty = the environment.
        output_credentials: the same of the output.
        templates: texts of prompts with `templateFrom`, by name of the prompt.
    """

    source_credentials: str = ""
    output_credentials: str = ""
    templates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found: the source as it is now, and all that has to be frozen."""

    scan: Scan
    resolved: Resolved


async def check(
    spec: RephraseRunSpec,
    *,
    engine_here: bool,
    mounted: Mounted,
    progress: Callable[[ScanProgress], None] | None = None,
) -> Preflight:
    """Look at prompts, model, engine arguments and source, cheapest first; write nothing.

    Args:
        spec: the whole spec.
        engine_here: whether workers have the same packages as this process; a driver's image has no
            engine.
        mounted: templates and credentials.
        progress: called while the source is read.

    Raises:
        InvalidSpec, InvalidModel: what is wrong, where, and what to do.
        AccessRefused: source, model hub or output refuse us.
    """
    _check_places(spec)
    check_kept(list(spec.source.columns.keep))
    resolved = await resolve(spec, engine_here=engine_here, mounted=mounted)
    storage = StorageOptions.of(spec.source.storage, mounted.source_credentials)
    found = await scan(spec.source, storage=storage, progress=progress)
    return Preflight(found, resolved)


async def resolve(spec: RephraseRunSpec, *, engine_here: bool, mounted: Mounted) -> Resolved:
    """What has to be frozen: texts of prompts, commit of the model, every sampling field.

    Raises:
        InvalidSpec, InvalidModel, AccessRefused: as `check`.
    """
    texts = resolve_prompts(spec.prompts, spec.prompt_layout, mounted.templates)
    model = await _model(spec)
    context = spec.model.max_model_length or model.context_tokens
    for prompt in spec.prompts:
        _check_context(prompt, spec, context)
    if engine_here:
        await _check_engine(
            spec, engine_settings(spec, revision=model.revision, max_model_length=context, gpus=0)
        )
    prompts = tuple(
        ResolvedPrompt(
            name=prompt.name,
            text=texts[prompt.name],
            rollouts=prompt.rollouts,
            sampling=resolve_sampling(prompt, spec, model.generation),
        )
        for prompt in sorted(spec.prompts, key=lambda prompt: prompt.name)
    )
    return Resolved(
        prompts=prompts,
        system_message=spec.system_message,
        model_revision=model.revision,
        max_model_length=context,
    )


async def check_output(store: Store, *, token: str) -> None:
    """Prove that the output is free, can be written, and has put-if-absent; leaves nothing.

    Raises:
        InvalidSpec: there are files of the names that a run writes, or put-if-absent is missing.
        AccessRefused, StorageFull, Unclear: it cannot be written at all.
    """
    taken = [name for name in _FILES if await store.head(name) is not None]
    taken += [meta.name for folder in _FOLDERS for meta in (await store.list(folder))[:1]]
    # looked for last: a driver beside us may have begun the run, and published, in the meantime
    if taken and await store.head(SPEC) is None:
        raise InvalidSpec(
            f"files that no run here has written would be in the way: {', '.join(taken)}",
            where=f"spec.output.uri {store.uri}",
            remedy="Name an empty folder, or move them away.",
        )
    await probe(store, token=token)


def _check_places(spec: RephraseRunSpec) -> None:
    """The rule of the manifest, for folders by whatever name: the output is not in the source."""
    if is_local(spec.source.uri) and is_local(spec.output.uri):
        source, output = (local_path(uri).resolve() for uri in (spec.source.uri, spec.output.uri))
        if output.is_relative_to(source):
            raise InvalidSpec(
                f"must not be the source or lie inside it: {output} is in {source}",
                where=f"spec.output.uri {spec.output.uri}",
                remedy="Name another folder: a later reading would take the output for documents.",
            )


def resolve_sampling(
    prompt: Prompt, spec: RephraseRunSpec, generation: dict[str, Any]
) -> dict[str, Any]:
    """Every sampling field of a prompt: as declared, else the model's own, else neutral."""
    wanted = spec.sampling.for_prompt(prompt)
    values: dict[str, Any] = {}
    for name, neutral in NEUTRAL.items():
        declared = getattr(wanted, name)
        values[name] = declared if declared is not None else generation.get(name, neutral)
    return values | {"max_tokens": wanted.max_tokens, "stop": list(wanted.stop)}


def engine_settings(
    spec: RephraseRunSpec,
    *,
    revision: str | None,
    max_model_length: int | None,
    gpus: int,
    uses_min_p: bool = False,
) -> engines.EngineSettings:
    """How the spec's model is to be built."""
    model = spec.model
    return engines.EngineSettings(
        type=model.engine.type.value,
        model=model.uri or model.name or "",
        revision=revision,
        tokenizer=model.tokenizer,
        dtype=model.dtype.value,
        quantization=model.quantization,
        chat_template=model.chat_template,
        max_model_length=max_model_length,
        gpu_count=gpus,
        args=tuple(model.engine.args),
        uses_seeds=spec.sampling.seed is not None,
        uses_min_p=uses_min_p,
        base_url=model.engine.open_ai.base_url if model.engine.open_ai is not None else "",
    )


async def _check_engine(spec: RephraseRunSpec, settings: engines.EngineSettings) -> None:
    for arguments in {engine_arguments(spec.model.engine, pool.engine) for pool in spec.pools()}:
        # Importing vLLM takes 15 s and more. The first worker does so anyway, and refuses wrong arguments
        # before it loads a model; what is written by then is continued with the right ones.
        if settings.type != EngineType.VLLM or not engines.installed(settings.type):
            await asyncio.to_thread(engines.check, settings.with_args(arguments))


async def _model(spec: RephraseRunSpec) -> hub.ModelInfo:
    if spec.model.engine.type is not EngineType.VLLM:
        return hub.ModelInfo()
    if spec.model.uri is not None:
        return await hub.folder(spec.model.uri)
    name = spec.model.name or ""
    return await asyncio.to_thread(hub.repository, name, spec.model.revision)


def _check_context(prompt: Prompt, spec: RephraseRunSpec, context: int | None) -> None:
    longest = spec.sampling.for_prompt(prompt).max_tokens
    if context is not None and longest >= context:
        raise InvalidSpec(
            f"maxTokens {longest} leaves no room for a document in a context of {context} tokens",
            where=f"spec.prompts[{prompt.name}]",
            remedy="Lower sampling.maxTokens, or raise model.maxModelLength if the model allows it.",
        )
