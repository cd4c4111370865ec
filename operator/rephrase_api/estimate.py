"""What a run will take: documents, prompts, model, GPU and prices to tokens, GPU hours, money and time. Pure.

Shared by the operator and `rephrase plan`. Every figure is a range and says what it rests on. What nobody
measured has no figure: it is unknown until a canary or the run itself has measured it. Nothing is scaled
from one GPU or model to another, and a price that is missing is never taken for 0.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from rephrase_api import cost
from rephrase_api.benchmarks import (
    DOCUMENT_TOKENS,
    INSTRUCTION_TOKENS,
    MEAN_OUTPUT_TOKENS,
    SOURCE,
    Benchmark,
    Measurement,
    benchmark_of,
    missing_arguments,
)
from rephrase_api.launch import engine_arguments
from rephrase_api.v1alpha1 import EngineType, PromptLayout, RephraseRunSpec
from rephrase_api.v1alpha1.model import DType
from rephrase_api.v1alpha1.workers import Pool

N = TypeVar("N", float, Decimal)
EFFICIENCY = (0.4, 0.5, 1.0)
"""Of a run against the table: bad, likely, good. Eight runs of the authors had 0.40 in the middle."""
START_SECONDS = (30.0, 64.0, 180.0)
"""From a worker's start to its first token, of small models: compile cache shared, none, slow."""
RUN_A_CANARY = "run a canary"
_TENSOR_PARALLEL = re.compile(r"--tensor-parallel-size=(\d+)")


class Basis(StrEnum):
    """What a figure rests on."""

    COUNTED = "counted"
    SPEC = "spec"
    PRICE_LIST = "price list"
    RUN = "measured on this run"
    CANARY = "measured by a canary"
    TABLE = "table"
    ASSUMPTION = "assumption"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Figure(Generic[N]):
    """A number between a good and a bad case. One that is unknown has no number, and says what to do.

    Attributes:
        least: the lowest it may be.
        likely: what is to be expected.
        most: the highest it may be.
        basis: the weakest of what it was made from.
        source: that in words.
    """

    least: N | None
    likely: N | None
    most: N | None
    basis: Basis
    source: str

    @classmethod
    def exactly(cls, value: N, basis: Basis, source: str) -> "Figure[N]":
        """A figure without a range."""
        return cls(value, value, value, basis, source)

    @classmethod
    def unknown(cls, source: str) -> "Figure[N]":
        """No figure, and why."""
        return cls(None, None, None, Basis.UNKNOWN, source)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a canary, or the run so far, has shown.

    Attributes:
        basis: RUN or CANARY.
        documents: how many were looked at.
        output_tokens: mean of a sample, by prompt; "" = of all prompts together.
        prompt_tokens: mean of a sample; None if not known.
        failed_share: of the samples.
        tokens_per_second: of one worker, start and idle time included; None if not known.
        gpu: what one worker had, by name; empty = unknown.
        gpus: how many of them; 0 = it ran on the CPU.
    """

    basis: Basis
    documents: int
    output_tokens: Mapping[str, float]
    prompt_tokens: float | None = None
    failed_share: float = 0.0
    tokens_per_second: float | None = None
    gpu: str = ""
    gpus: int = 0

    @property
    def source(self) -> str:
        """In words."""
        return f"over {self.documents:,} documents"


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a run is the same in every pool.

    Attributes:
        spec: of the run.
        documents: still to be done.
        units: they are cut into.
    """

    spec: RephraseRunSpec
    documents: Figure[float]
    units: int


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompt tokens of one document that have to be computed, in both layouts of the built-in prompts."""

    instruction_first: float
    document_first: float
    basis: Basis
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine settings that were fastest for a model and GPU, and what of them the manifest lacks."""

    arguments: tuple[str, ...]
    gpus: int
    missing: tuple[str, ...]
    source: str
    caution: str


@dataclass(frozen=True, slots=True)
class PoolEstimate:
    """What a run takes if all of it is done in one pool.

    Attributes:
        pool: its name.
        gpu: name of its GPUs; empty = unknown.
        gpus: of one worker.
        workers: as many as the spec allows there, and as there are units.
        rate: output tokens per second of one GPU (of a worker without GPUs).
        gpu_hours: GPU hours (worker hours), starts of workers included.
        money: in the currency of the prices.
        seconds: from the first worker's start to the last one's end, if all get a node at once.
        settings: of the engine; None if none were measured.
    """

    pool: str
    gpu: str
    gpus: int
    workers: int
    rate: Figure[float]
    gpu_hours: Figure[float]
    money: Figure[Decimal]
    seconds: Figure[float]
    settings: Settings | None


@dataclass(frozen=True, slots=True)
class Price:
    """Of one GPU (of one worker, if it has none) for one hour; `source` says where it stands, or why not."""

    value: Decimal | None
    source: str
    basis: Basis = Basis.SPEC


def gpu_hours(tokens: float, rate: float) -> float:
    """GPU hours for output tokens at a rate, per second and GPU."""
    return tokens / rate / 3600


def samples(shape: Shape) -> Figure[float]:
    """Rewrites still to be made."""
    keys = sum(prompt.rollouts for prompt in shape.spec.prompts)
    found = shape.documents
    return _scaled(found, keys, found.basis, f"documents x {keys} rewrites of each")


def mean_output_tokens(
    spec: RephraseRunSpec, measured: Measured | None = None
) -> dict[str, Figure[float]]:
    """Tokens of an answer, by prompt."""
    found: dict[str, Figure[float]] = {}
    for prompt in spec.prompts:
        longest = spec.sampling.for_prompt(prompt).max_tokens
        table = MEAN_OUTPUT_TOKENS.get(prompt.built_in or "")
        seen = measured.output_tokens if measured is not None else {}
        mean = seen.get(prompt.name, seen.get(""))
        if measured is not None and mean is not None:
            found[prompt.name] = Figure.exactly(mean, measured.basis, measured.source)
        elif table is None:
            why = f"nobody measured how long answers to {prompt.name} are: {RUN_A_CANARY}"
            found[prompt.name] = Figure.unknown(why)
        elif longest < table:
            found[prompt.name] = Figure.exactly(
                float(longest), Basis.ASSUMPTION, f"maxTokens; the paper's mean is {table}"
            )
        else:
            found[prompt.name] = Figure.exactly(float(table), Basis.TABLE, "FinePhrase paper")
    return found


def output_tokens(shape: Shape, measured: Measured | None = None) -> Figure[float]:
    """Tokens still to be generated."""
    means = mean_output_tokens(shape.spec, measured)
    missing = [mean.source for mean in means.values() if mean.likely is None]
    if missing:
        return Figure.unknown("; ".join(missing))
    rollouts = {prompt.name: prompt.rollouts for prompt in shape.spec.prompts}
    each = sum((mean.likely or 0) * rollouts[name] for name, mean in means.items())
    basis = _weakest(shape.documents.basis, *(mean.basis for mean in means.values()))
    sources = "; ".join(dict.fromkeys(mean.source for mean in means.values()))
    return _scaled(shape.documents, each, basis, f"{each:,.0f} a document: {sources}")


def rate(spec: RephraseRunSpec, pool: Pool, measured: Measured | None = None) -> Figure[float]:
    """Output tokens per second of one GPU of a pool, or of one worker where it has none."""
    gpu, gpus = gpu_of(pool)
    shown = measured if measured and (measured.gpu, measured.gpus) == (gpu, gpus) else None
    if shown is not None and shown.tokens_per_second:
        return Figure.exactly(shown.tokens_per_second / max(1, gpus), shown.basis, shown.source)
    benchmark, why = _benchmark(spec, pool)
    if benchmark is None:
        return Figure.unknown(f"{why}: {RUN_A_CANARY}")
    parallel = _parallel(spec, pool)
    run = _as_measured(benchmark, parallel, _arguments(spec, pool))
    if run is None or gpus != parallel:
        return Figure.unknown(_other_size(benchmark, gpus, parallel))
    settings = "its fastest settings" if run is benchmark.tuned else "vLLM's default settings"
    low, likely, high = (run.rate * share for share in EFFICIENCY)
    shares = f"{EFFICIENCY[1]} of it ({EFFICIENCY[0]} to {EFFICIENCY[2]})"
    source = f"{SOURCE}: {run.rate:,} with {settings}; a run reaches {shares}"
    return Figure(low, likely, high, Basis.TABLE, source)


def in_pool(
    shape: Shape, pool: Pool, price: Price, measured: Measured | None = None
) -> PoolEstimate:
    """What the run takes if all that is left of it is done in one pool.

    Args:
        shape: what is to be done.
        pool: where, as `spec.pools()` has it.
        price: of a GPU hour there.
        measured: what is known from doing it.
    """
    spec = shape.spec
    gpu, gpus = gpu_of(pool)
    most = spec.workers.max if pool.max is None else min(pool.max, spec.workers.max)
    workers = min(most, shape.units)
    tokens, speed = output_tokens(shape, measured), rate(spec, pool, measured)
    each = max(1, gpus)

    def hours(tokens: float, speed: float, start: float) -> float:
        return gpu_hours(tokens, speed) + each * workers * start / 3600

    def seconds(tokens: float, speed: float, start: float) -> float:
        tail = tokens / shape.units / (speed * each)
        return start + tokens / (speed * each * workers) + tail

    if workers == 0 and shape.units:
        why = f"pool {pool.name} may have no workers"
        took: Figure[float] = Figure.unknown(why)
        lasts: Figure[float] = Figure.unknown(why)
    elif not shape.units:
        took = lasts = Figure.exactly(0.0, Basis.COUNTED, "nothing is left to do")
    else:
        starts = f"{workers} starts of {START_SECONDS[1]:.0f} s"
        took = _combined(tokens, speed, hours, f"output tokens / rate, and {starts}")
        together = f"{workers} workers at once, and a last unit alone"
        lasts = _combined(tokens, speed, seconds, together)
    settings = _settings(spec, pool)
    return PoolEstimate(
        pool.name, gpu, gpus, workers, speed, took, _money(took, price), lasts, settings
    )


def prefill(spec: RephraseRunSpec, measured: Measured | None = None) -> Prefill | None:
    """What DocumentFirst would save, or saves: prompts of a document then share its computation.

    None if fewer than two prompts are built-in: the layout does not touch others.
    """
    prompts = [prompt for prompt in spec.prompts if prompt.built_in is not None]
    if len(prompts) < 2:
        return None
    if measured is not None and measured.prompt_tokens is not None:
        document = max(0.0, measured.prompt_tokens - INSTRUCTION_TOKENS)
        basis = measured.basis
        source = f"prompts have {measured.prompt_tokens:,.0f} tokens {measured.source}"
    else:
        document, basis = float(DOCUMENT_TOKENS), Basis.ASSUMPTION
        source = f"a document has {DOCUMENT_TOKENS:,} tokens, as in FineWeb-Edu (FinePhrase paper)"
    longest = spec.source.max_document_tokens
    if longest is not None and longest < document:
        document, basis = float(longest), Basis.ASSUMPTION
        source = f"a document has maxDocumentTokens, {longest:,}"
    each = f"{source}, an instruction with its template about {INSTRUCTION_TOKENS}"
    one = document + INSTRUCTION_TOKENS
    together = document + len(prompts) * INSTRUCTION_TOKENS
    return Prefill(len(prompts) * one, together, basis, each)


def is_document_first(spec: RephraseRunSpec) -> bool:
    """Whether the built-in prompts of a run share their document already."""
    return spec.prompt_layout is PromptLayout.DOCUMENT_FIRST


def gpu_of(pool: Pool) -> tuple[str, int]:
    """Name and number of the GPUs of one worker."""
    return ("", 0) if pool.gpu is None else (pool.gpu.name or "", pool.gpu.count)


def _arguments(spec: RephraseRunSpec, pool: Pool) -> tuple[str, ...]:
    return engine_arguments(spec.model.engine, pool.engine)


def _parallel(spec: RephraseRunSpec, pool: Pool) -> int:
    """GPUs that one copy of the model is spread over."""
    told = (_TENSOR_PARALLEL.fullmatch(argument) for argument in _arguments(spec, pool))
    return next((int(found[1]) for found in told if found), gpu_of(pool)[1])


def _benchmark(spec: RephraseRunSpec, pool: Pool) -> tuple[Benchmark | None, str]:
    """The row of the table for a pool, or why there is none."""
    model, (gpu, gpus) = spec.model, gpu_of(pool)
    if model.engine.type is not EngineType.VLLM:
        return None, f"nobody measured how fast engine {model.engine.type} is here"
    if not gpus:
        return None, "nobody measured the model on a CPU"
    if not gpu:
        return None, f"pool {pool.name} does not name its GPU (gpu.name)"
    if model.name is None:
        return None, f"a folder does not tell which model it holds ({model.uri})"
    if model.quantization or model.dtype not in (DType.AUTO, DType.BFLOAT16):
        how = model.quantization or model.dtype
        return None, f"nobody measured {model.name} as {how}"
    row = benchmark_of(model.name, gpu)
    return row, "" if row is not None else f"nobody measured {model.name} on {gpu}"


def _as_measured(
    benchmark: Benchmark, parallel: int, arguments: tuple[str, ...]
) -> Measurement | None:
    """The measurement whose settings the manifest has; the default one if it has others."""
    tuned = benchmark.tuned
    if parallel == tuned.gpus and not missing_arguments(tuned.arguments, arguments):
        return tuned
    return benchmark.default if parallel == benchmark.default.gpus else None


def _other_size(benchmark: Benchmark, gpus: int, parallel: int) -> str:
    """Why a benchmark says nothing about workers of this size."""
    model, default, tuned = benchmark.model, benchmark.default, benchmark.tuned
    if gpus == parallel == tuned.gpus:
        arguments = " ".join(tuned.arguments)
        return (
            f"{model} was measured on {gpus} GPUs a worker only with {arguments}: set these, or "
            f"{RUN_A_CANARY}"
        )
    sizes = " or ".join(map(str, sorted({default.gpus, tuned.gpus})))
    return (
        f"{model} was measured with workers of {sizes} GPUs, not of {gpus} with tensor-parallel "
        f"size {parallel}: {RUN_A_CANARY}"
    )


def _settings(spec: RephraseRunSpec, pool: Pool) -> Settings | None:
    benchmark, _ = _benchmark(spec, pool)
    if benchmark is None:
        return None
    tuned = benchmark.tuned
    missing = missing_arguments(tuned.arguments, _arguments(spec, pool))
    return Settings(tuned.arguments, tuned.gpus, missing, SOURCE, benchmark.caution)


def _money(hours: Figure[float], price: Price) -> Figure[Decimal]:
    if price.value is None:
        return Figure.unknown(price.source)
    value = price.value
    if hours.least is None or hours.likely is None or hours.most is None:
        return Figure.unknown(hours.source)
    least, likely, most = (
        cost.amount({"": hour * 3600}, {"": value}) or Decimal(0)
        for hour in (hours.least, hours.likely, hours.most)
    )
    source = f"{value} a GPU hour: {price.source}"
    return Figure(least, likely, most, _weakest(hours.basis, price.basis), source)


def _combined(
    tokens: Figure[float],
    speed: Figure[float],
    take: Callable[[float, float, float], float],
    source: str,
) -> Figure[float]:
    """From tokens, rate and start of a worker: the good case of all three, the likely and the bad one."""
    if tokens.least is None or tokens.likely is None or tokens.most is None:
        return Figure.unknown(tokens.source)
    if speed.least is None or speed.likely is None or speed.most is None:
        return Figure.unknown(speed.source)
    quick, usual, slow = START_SECONDS
    return Figure(
        take(tokens.least, speed.most, quick),
        take(tokens.likely, speed.likely, usual),
        take(tokens.most, speed.least, slow),
        _weakest(tokens.basis, speed.basis),
        source,
    )


def _scaled(figure: Figure[float], by: float, basis: Basis, source: str) -> Figure[float]:
    if figure.least is None or figure.likely is None or figure.most is None:
        return Figure.unknown(figure.source)
    return Figure(figure.least * by, figure.likely * by, figure.most * by, basis, source)


def _weakest(*found: Basis) -> Basis:
    """The basis that a figure made of several has."""
    return max(found, key=list(Basis).index)
