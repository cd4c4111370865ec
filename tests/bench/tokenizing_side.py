"""One side of the second measurement of `tests/bench/data_path.py`: a worker that tokenizes each document.

    python tests/bench/tokenizing_side.py own|fast MODEL MANIFEST RESULT

A real driver process and, in this one, the worker's own main function with the engine Echo, whose tokenizer
has the model's tokenize each document too: without tokie (`own`) or with it (`fast`). Echo goes on with its
own tokens, of which it makes answers of the right size. Manifest and result are JSON files; the worker's log
goes to standard output.
"""

import asyncio
import hashlib
import json
import os
import resource
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from typing_extensions import override

from bench.engine_sides import plan
from rephrase_runner import engines
from rephrase_runner.engines import EngineSettings
from rephrase_runner.engines.base import Engine, Tokenizer
from rephrase_runner.engines.echo import EchoTokenizer
from rephrase_runner.engines.hf_tokenizer import HFTokenizer
from rephrase_runner.processes import run_worker


def main() -> None:
    """Load the tokenizer, measure it alone, then the run."""
    kind, model, manifest, result = sys.argv[1:]
    if kind == "own":
        sys.modules["tokie"] = None  # type: ignore[assignment]  # as if it were not installed
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in a worker with vLLM
    from transformers import AutoTokenizer

    spec = json.loads(Path(manifest).read_text())
    transformers_tokenizer = AutoTokenizer.from_pretrained(model)
    started = time.perf_counter()
    tokenizer = HFTokenizer(transformers_tokenizer)
    loading = time.perf_counter() - started
    table = pq.read_table(Path(spec["spec"]["source"]["uri"]) / "a.parquet")
    texts = table["text"].to_pylist()
    started = time.thread_time()
    ids = [tokenizer.encode(text) for text in texts]
    alone = time.thread_time() - started
    digest = hashlib.sha256()
    for document in ids:
        digest.update(array("I", document))
    exact = Exact(tokenizer)
    cpu = asyncio.run(cpu_seconds_of(spec, exact))
    found = {
        "loading": loading,
        "alone": alone,
        "tokens": sum(map(len, ids)),
        "tokens_in_run": exact.tokens,
        "digest": digest.hexdigest(),
        "cpu": cpu,
    }
    Path(result).write_text(json.dumps(found))


class Exact(EchoTokenizer):
    """Echo's, which has a document tokenized by the model's first."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = 0

    @override
    def encode(self, text: str) -> Sequence[int]:
        self.tokens += len(self._tokenizer.encode(text))
        return super().encode(text)

    @override
    def encode_template(self, text: str) -> Sequence[int]:
        return EchoTokenizer().encode_template(text)


async def cpu_seconds_of(manifest: dict[str, Any], tokenizer: Tokenizer) -> float:
    """CPU seconds of the worker of a run, all its threads."""

    async def loaded(settings: EngineSettings) -> Engine:
        engine: Engine = engines.build(settings)
        engine.tokenizer = tokenizer
        return engine

    driver, launch = await asyncio.to_thread(plan, manifest)
    before = resource.getrusage(resource.RUSAGE_SELF)
    await run_worker(launch, asyncio.Event(), loaded)
    after = resource.getrusage(resource.RUSAGE_SELF)
    if await asyncio.to_thread(driver.wait):
        raise SystemExit(f"the driver failed, see the log beside {launch.output_uri}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
