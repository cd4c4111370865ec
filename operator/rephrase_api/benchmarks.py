"""What the authors of FinePhrase (arXiv 2604.13977) measured: speed of 18 models, lengths of answers. Pure.

Output tokens per second of one H100-80GB; 10,000 documents of FineWeb-Edu, tutorial prompt, temperature 0.
No other GPU and no other model was measured, and nothing here scales one to another.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

SOURCE = "FinePhrase paper, H100-80GB, vLLM 0.15"
MEAN_OUTPUT_TOKENS = {"faq": 432, "math": 271, "table": 266, "tutorial": 429}
"""Of an answer, by built-in prompt."""
DOCUMENT_TOKENS = 1048
"""Mean of a document of FineWeb-Edu."""
INSTRUCTION_TOKENS = 100
"""Roughly, of an instruction with its chat template."""
_H100 = {"h100", "h100-80gb", "nvidia-h100-80gb", "h100-80gb-hbm3", "nvidia-h100-80gb-hbm3"}
"""Names by which clouds and labels of nodes know the GPU that was measured; NVL and PCIe are others."""
_VARIANT = re.compile(r"(-instruct|-it|-instruct-2507)$")
"""Of one architecture, hence of one speed."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A model's speed with some settings.

    Attributes:
        rate: output tokens per second of one GPU.
        gpus: tensor-parallel size.
        arguments: of vLLM; none = its defaults.
    """

    rate: int
    gpus: int
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A row of the table. `tuned`: the fastest of some 23 settings. `caution`: what befell the authors."""

    model: str
    default: Measurement
    tuned: Measurement
    caution: str = ""


def benchmark_of(model: str, gpu: str) -> Benchmark | None:
    """The row of a model on the hub and a GPU, or None: not measured.

    Args:
        model: its name on the hub, owner included: others' files may be quantized.
        gpu: as a pool names it.
    """
    if gpu.lower() not in _H100:
        return None
    plain = _VARIANT.sub("", model.lower())
    return next((row for row in BENCHMARKS if row.model.lower() == plain), None)


def missing_arguments(wanted: Iterable[str], given: Sequence[str]) -> tuple[str, ...]:
    """Those of the `wanted` engine arguments that the `given` ones do not set to the same value."""
    values = {flag: value for flag, _, value in (one.partition("=") for one in given)}
    return tuple(
        argument
        for argument in wanted
        for flag, _, value in [argument.partition("=")]
        if flag not in values or not _same(value, values[flag])
    )


def _same(wanted: str, given: str) -> bool:
    if wanted.startswith("{"):
        try:
            value = json.loads(given)
        except ValueError:
            return False
        return isinstance(value, dict) and json.loads(wanted).items() <= value.items()
    try:
        return Decimal(wanted) == Decimal(given)
    except InvalidOperation:
        return wanted == given


def _seqs(number: int) -> str:
    return f"--max-num-seqs={number}"


def _memory(share: str) -> str:
    return f"--gpu-memory-utilization={share}"


def _guess(method: str, tokens: int) -> str:
    return f'--speculative-config={{"method":"{method}","num_speculative_tokens":{tokens}}}'


_BATCH_16K, _BATCH_32K = (f"--max-num-batched-tokens={number}" for number in (16384, 32768))
_OUT_OF_MEMORY = (
    "in the authors' production run 32768 and 0.95 ran out of memory; it used 16384 and 0.90"
)


def _row(
    model: str, default: tuple[int, int], tuned: tuple[int, int], *arguments: str, caution: str = ""
) -> Benchmark:
    return Benchmark(model, Measurement(*default), Measurement(*tuned, arguments), caution)


BENCHMARKS = (
    _row(
        "HuggingFaceTB/SmolLM2-135M",
        (28391, 1), (45540, 1), _seqs(512), _BATCH_32K, _guess("ngram", 6),
    ),
    _row("HuggingFaceTB/SmolLM2-360M", (17887, 1), (23996, 1), _seqs(512), _guess("ngram", 6)),
    _row(
        "HuggingFaceTB/SmolLM2-1.7B",
        (5255, 1), (9220, 1), _seqs(2048), _BATCH_32K, _memory("0.95"), _guess("suffix", 32),
        caution=_OUT_OF_MEMORY,
    ),
    _row("google/gemma-3-270m", (22996, 1), (23585, 1), _BATCH_32K),
    _row(
        "google/gemma-3-1b",
        (14838, 1), (16762, 1), _seqs(4096), _BATCH_32K,
        caution="with any speculation it does not start",
    ),
    _row("google/gemma-3-4b", (8501, 1), (9253, 1), _seqs(1024), _BATCH_32K),
    _row("google/gemma-3-12b", (2999, 1), (3046, 1), _memory("0.95")),
    _row("google/gemma-3-27b", (1724, 2), (1724, 2)),
    _row("Qwen/Qwen3-0.6B", (13527, 1), (14069, 1), _seqs(512)),
    _row("Qwen/Qwen3-1.7B", (11710, 1), (12313, 1), _BATCH_32K),
    _row("Qwen/Qwen3-4B", (7919, 1), (8086, 1), _BATCH_32K),
    _row("Qwen/Qwen3-8B", (6338, 1), (6443, 1), _memory("0.95")),
    _row("Qwen/Qwen3-14B", (4414, 1), (4549, 2)),
    _row("Qwen/Qwen3-32B", (1987, 4), (2078, 4), _seqs(512), _BATCH_16K, _memory("0.95")),
    _row("Qwen/Qwen3-30B-A3B", (2977, 1), (5310, 2), _seqs(512), _BATCH_32K),
    _row("Qwen/Qwen3-Next-80B-A3B", (2034, 4), (2678, 4), _seqs(512)),
    _row("openai/gpt-oss-20b", (12432, 1), (14671, 1), _seqs(512), _BATCH_16K),
    _row("openai/gpt-oss-120b", (3138, 1), (6117, 2), _seqs(1024), _BATCH_32K),
)  # fmt: skip
