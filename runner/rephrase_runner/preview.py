"""`rephrase preview`: a few documents, every prompt, one model or several; nothing is written to the output.

What is sent and what is made of the answers is what a worker would send and make: the same preflight,
prompts, cuts, seeds and checks.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rephrase_api.errors import EngineFailed, InvalidSpec
from rephrase_api.launch import merged_arguments
from rephrase_api.manifest import parse_run
from rephrase_api.v1alpha1 import EngineType, RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1.source import Limit, Source
from rephrase_runner import engines
from rephrase_runner.checking import checked, checks_of
from rephrase_runner.documents import Tally
from rephrase_runner.engines.base import Completion, Engine, EngineDead, RequestFailed
from rephrase_runner.local import gpu_devices
from rephrase_runner.preflight import Mounted, engine_settings, resolve
from rephrase_runner.prepare import Asked, Prepared, Preparer
from rephrase_runner.preview_page import COLUMNS, ModelPreview, Preview, rows, said, speed
from rephrase_runner.prompts import compile_prompts
from rephrase_runner.records import Resolved
from rephrase_runner.rows import Document, Key, Problem, Sample, Status
from rephrase_runner.schema import check_kept
from rephrase_runner.source import Reader, scan
from rephrase_runner.store import StorageOptions
from rephrase_runner.units import plan_units

_FIRST_ROWS = 256
_MORE_ROWS = 16
"""So many times as many rows are looked at where too few fit filters and sample."""


def with_model(run: RephraseRun, model: str) -> RephraseRun:
    """The run with another model: a folder that is there, or a name on the hub (or of the endpoint).

    Raises:
        Problems: it cannot be one.
    """
    is_folder = Path(model).expanduser().is_dir() or "://" in model
    spec = run.spec.model_copy(
        update={
            "model": run.spec.model.model_copy(
                update={
                    "name": None if is_folder else model,
                    "uri": model if is_folder else None,
                    "revision": None,
                    "chat_template": None,
                    # an endpoint's models are seldom named as on the hub: one that is about right
                    "tokenizer": (
                        run.spec.model.tokenizer
                        if run.spec.model.engine.type is EngineType.OPENAI
                        else None
                    ),
                }
            )
        }
    )
    other = run.model_copy(update={"spec": spec})
    return parse_run(json.dumps(other.to_api()), where=f"--model {model}")


def model_name(spec: RephraseRunSpec) -> str:
    """What the spec calls its model."""
    return spec.model.name or spec.model.uri or ""


async def preview(
    runs: Sequence[RephraseRun], *, documents: int, note: Callable[[str], None]
) -> Preview:
    """Rewrite the first documents with every prompt of the runs, which differ in their models alone.

    Args:
        runs: one for each model; models are loaded one after the other.
        documents: how many.
        note: told what goes on.

    Raises:
        RephraseError: as a run would end.
    """
    source = runs[0].spec.source
    check_kept(list(source.columns.keep))
    resolved = [
        await resolve(run.spec, engine_here=True, mounted=Mounted()) for run in runs
    ]  # what is wrong with the last model is told before the first one is loaded
    found = await _first_documents(source, documents)
    models = []
    for run, frozen in zip(runs, resolved, strict=True):
        note(f"loading {model_name(run.spec)}")
        models.append(await _with_model(run.spec, frozen, found))
        note(f"{model_name(run.spec)}: {speed(models[-1])}")
    prompts = [prompt.name for prompt in runs[0].spec.prompts]
    return Preview(found, prompts, models)


async def _first_documents(source: Source, count: int) -> list[Document]:
    """The first documents that can be rewritten: those that fit filters and sample, and hold text."""
    rows, limit = _FIRST_ROWS, source.limit.documents
    while True:
        wanted = rows if limit is None else min(rows, limit)
        part = source.model_copy(update={"limit": Limit(documents=wanted)})
        found, total = await _documents(part, count)
        if len(found) == count or total < wanted or wanted == limit:
            break
        rows *= _MORE_ROWS
    if not found:
        raise InvalidSpec(
            "no document of it can be rewritten: none fits filters and sample, or all are empty",
            where="spec.source",
            remedy="Look at spec.source.columns.text, filters and sample.",
        )
    return found


async def _documents(source: Source, count: int) -> tuple[list[Document], int]:
    """Up to `count` documents of a source, and how many rows it has up to its limit."""
    storage = StorageOptions.of(source.storage)
    found = await scan(source, storage=storage)
    limit = source.limit.documents
    units = list(plan_units(found.files, target_documents=_FIRST_ROWS, limit=limit))

    def read() -> list[Document]:
        good: list[Document] = []
        with Reader(
            source, found.files, format=found.format, kept=found.kept, storage=storage
        ) as reader:
            for unit in units:
                with closing(reader.read_unit(unit, Tally())) as batches:
                    for batch in batches:
                        good += [one for one in batch if one.problem is None]
                        if len(good) >= count:
                            return good[:count]
        return good

    return await asyncio.to_thread(read), sum(unit.rows for unit in units)


async def _with_model(
    spec: RephraseRunSpec, resolved: Resolved, documents: Sequence[Document]
) -> ModelPreview:
    clock = asyncio.get_running_loop().time
    pool = spec.pools()[0]
    gpus = pool.gpu.count if pool.gpu is not None and gpu_devices() else 0
    settings = engine_settings(
        spec,
        revision=resolved.model_revision,
        max_model_length=resolved.max_model_length,
        gpus=gpus,
    ).with_args(merged_arguments(spec.model.engine.args, pool.engine.args))
    begun = clock()
    with ThreadPoolExecutor(1, thread_name_prefix="engine") as thread:
        engine = await asyncio.get_running_loop().run_in_executor(thread, engines.build, settings)
    ready = clock()
    try:
        samples = await _samples(engine, spec, resolved, documents)
    except EngineDead as error:
        raise EngineFailed(f"{model_name(spec)}: {error}", remedy="See its log above.") from error
    finally:
        await asyncio.to_thread(engine.close)
    return ModelPreview(model_name(spec), ready - begun, clock() - ready, samples)


async def _samples(
    engine: Engine, spec: RephraseRunSpec, resolved: Resolved, documents: Sequence[Document]
) -> dict[tuple[int, str], Sample]:
    compiled = compile_prompts(
        resolved.prompts, engine.tokenizer, system_message=resolved.system_message
    )
    preparer = Preparer(
        compiled,
        engine.tokenizer,
        context_tokens=engine.context_tokens,
        max_document_tokens=spec.source.max_document_tokens,
        seed=spec.sampling.seed,
        quality=spec.quality,
    )
    found: dict[tuple[int, str], Sample] = {}
    waiting: list[tuple[int, Prepared, Asked]] = []
    for index, document in enumerate(documents):
        keys = [Key(document.file, document.row, prompt.name, 0) for prompt in compiled]
        prepared = preparer.prepare(document, keys)
        for key, problem in prepared.problems:
            found[index, key.prompt] = _without(document, key, problem)
        waiting += [(index, prepared, asked) for asked in prepared.requests]
    attempts = spec.retries.request_attempts
    for attempt in range(1, attempts + 1):
        again = []
        outcomes = await _answers(engine, [asked for _, _, asked in waiting])
        for number, (index, prepared, asked) in enumerate(waiting):
            outcome, document = outcomes[number], prepared.document
            if isinstance(outcome, Completion):
                sample = preparer.sample(
                    document, asked, outcome, attempts=attempt, source_text=None
                )
            elif outcome.retryable and attempt < attempts:
                again.append(waiting[number])
                continue
            else:
                problem = Problem(Status.FAILED, outcome.reason, outcome.message)
                sample = _without(document, asked.key, problem)._replace(attempts=attempt)
            found[index, asked.key.prompt] = sample
        waiting = again
    built_in = checks_of(spec)
    if built_in is not None:
        for (index, prompt), sample in list(found.items()):
            if sample.status is Status.WRITTEN:
                (found[index, prompt],) = checked(documents[index], [sample], built_in)
    return found


async def _answers(
    engine: Engine, requests: Sequence[Asked]
) -> Mapping[int, Completion | RequestFailed]:
    found: dict[int, Completion | RequestFailed] = {}
    await engine.generate([asked.request for asked in requests], found.__setitem__)
    return found


def _without(document: Document, key: Key, problem: Problem) -> Sample:
    return Sample(
        key, document.source_id, problem.status, reason=problem.reason, message=problem.message
    )


# -- for people --


def shown(found: Preview, *, characters: int) -> RenderableType:
    """A preview for a terminal: of each document its beginning, then each prompt with a column per model.

    Args:
        found: what was made.
        characters: of each text; the rest is left out, and said to be.
    """
    parts: list[RenderableType] = []
    for index, document in enumerate(found.documents):
        parts += [
            Rule(Text(f"document {index + 1}: {document.source_id}")),
            Text(_head(document.text, characters // 3), style="dim"),
        ]
        for prompt in found.prompts:
            parts.append(Text(f"\n{prompt}", style="bold"))
            columns = Table.grid(expand=True, padding=(0, 1))
            for _ in found.models:
                columns.add_column(ratio=1)
            samples = [model.samples[index, prompt] for model in found.models]
            columns.add_row(
                *(
                    Panel(
                        Text(_head(sample.text, characters)),
                        title=Text(model.name),
                        subtitle=Text(said(sample)),
                    )
                    for model, sample in zip(found.models, samples, strict=True)
                )
            )
            parts.append(columns)
    table = Table(box=None, header_style="dim", title="prompts and models", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for row in rows(found):
        table.add_row(*(Text(cell) for cell in row))
    return Group(*parts, Rule(), table)


def _head(text: str, characters: int) -> str:
    """The beginning of a text, without what a terminal would act on."""
    plain = "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text
    )
    left = len(plain) - characters
    return plain if left <= 0 else f"{plain[:characters]} [{left:,} more characters]"


# -- for machines --


def plain(found: Preview) -> dict[str, object]:
    """A preview as JSON values."""
    return {
        "documents": [{"id": one.source_id, "text": one.text} for one in found.documents],
        "models": [
            {
                "model": model.name,
                "loadingSeconds": round(model.loading, 1),
                "generatingSeconds": round(model.generating, 1),
                "samples": [
                    {
                        "document": index,
                        "prompt": prompt,
                        "status": sample.status.value,
                        "text": sample.text,
                        "finishReason": sample.finish_reason,
                        "promptTokens": sample.prompt_tokens,
                        "completionTokens": sample.completion_tokens,
                        "truncated": sample.truncated,
                        "flags": list(sample.flags),
                        "form": bool(sample.notes.get("formed"))
                        if "form" in sample.notes
                        else None,
                        "reason": sample.reason,
                        "message": sample.message,
                    }
                    for (index, prompt), sample in sorted(model.samples.items())
                ],
            }
            for model in found.models
        ],
    }
