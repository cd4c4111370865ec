"""`make bench`: what the data path costs without a model. Prints figures; fails only on wrong results.

- A whole `rephrase run` of DOCUMENTS documents in four prompts with the engine Echo, which answers at once,
  all of it on one core (on Linux, with one worker), then `rephrase verify`;
- such a run of a driver and one worker that tokenizes each document as SmolLM2-135M does, by the model's own
  tokenizer and by the faster one (only where the demo's model was made before: `make demo`);
- encoding one part, and compaction of parts to the files of a group, in this process.

    make bench ARGS='--documents 50000 --workers 2'
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import pydoc_data.topics
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rephrase_runner import parts
from rephrase_runner.publish import GroupWriter
from rephrase_runner.records import Group, GroupFile, data_file
from rephrase_runner.rows import Key, Sample, Status
from rephrase_runner.schema import output_schema

PROMPTS = ("faq", "math", "table", "tutorial")
DOCUMENT_BYTES = 4_000
"""About 1,000 tokens, as in FineWeb-Edu."""
ANSWER_TOKENS = 360
"""The mean of FinePhrase's four prompts."""
ANSWER_BYTES = ANSWER_TOKENS * 4
TOKENIZED_CHARACTERS = 1_500
"""Of the Python manual, about 366 tokens of SmolLM2."""
MOST_TOKENIZED = 20_000
"""Documents: the model's own tokenizer takes its time."""
MODEL = Path("rephrase/models/SmolLM2-135M-Instruct")
"""In the user's cache folder, see `examples/demo/model.py`."""
PARTS = 24
"""Of a group."""
PART_SAMPLES = 8_000
"""Of a unit of 2,000 documents in four prompts."""
COMPACTIONS = 5


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    print(
        f"rephrase {version('rephrase')}, Python {platform.python_version()}, pyarrow "
        f"{version('pyarrow')}, {os.cpu_count()} cores, {platform.machine()}"
    )
    measure_encoding()
    with tempfile.TemporaryDirectory(prefix="rephrase-bench-") as folder:
        measure_publishing(Path(folder))  # before what takes more memory
    with tempfile.TemporaryDirectory(prefix="rephrase-bench-") as folder:
        measure_run(Path(folder), options.documents, options.workers)
    model = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / MODEL
    if (model / "tokenizer.json").is_file():
        with tempfile.TemporaryDirectory(prefix="rephrase-bench-") as folder:
            measure_tokenizing(Path(folder), min(options.documents, MOST_TOKENIZED), model)
    else:
        print(f"with exact tokenizing: not measured, {model} is not there (make demo)")


def measure_run(folder: Path, documents: int, workers: int) -> None:
    """A run from its start to its manifest, and its verification."""
    size = write_source(folder / "source", documents)
    manifest = folder / "run.yaml"
    manifest.write_text(yaml.safe_dump(a_manifest()), encoding="utf-8")
    with one_core() if workers == 1 else contextlib.nullcontext():
        seconds = rephrase(folder, "run", "run.yaml", "--workers", str(workers))
    checking = rephrase(folder, "verify", "output")
    check_written(folder / "output", documents)
    working = working_seconds(folder / "output")
    publishing = (folder / "output/_run/manifest.json").stat().st_mtime
    published = publishing - first_claim(folder / "output")
    print(
        f"run: {documents:,} documents ({size / 1e6:,.0f} MB) x {len(PROMPTS)} prompts, "
        f"{workers} worker(s) and driver{' on one core' if workers == 1 else ''}"
    )
    print(f"  first to last unit       {working:8.1f} s   {rate(documents, working)}")
    print(f"  and published            {published:8.1f} s   {rate(documents, published)}")
    print(f"  with start and end       {seconds:8.1f} s   {rate(documents, seconds)}")
    print(f"  rephrase verify          {checking:8.1f} s   {rate(documents, checking)}")


def check_written(output: Path, documents: int) -> None:
    """All samples must be there."""
    found = json.loads((output / "_run/manifest.json").read_bytes())
    written = sum(counts["written"] for counts in found["counts"].values())
    if written != documents * len(PROMPTS):
        raise SystemExit(f"{written} samples of {documents * len(PROMPTS)} were written")


def measure_tokenizing(folder: Path, documents: int, model: Path) -> None:
    """The same run with documents tokenized exactly: by the model's own tokenizer, and by the faster one."""
    manual = " ".join(pydoc_data.topics.topics.values())
    starts = [number * 61 % (len(manual) - TOKENIZED_CHARACTERS) for number in range(documents)]
    write_texts(folder / "source", [manual[at : at + TOKENIZED_CHARACTERS] for at in starts])
    digests = set()
    for kind, name in (("own", "tokenizers"), ("fast", "tokie")):
        output = folder / kind / "output"
        output.parent.mkdir()
        manifest = a_manifest()
        manifest["spec"]["source"]["uri"] = str(folder / "source")
        manifest["spec"]["output"]["uri"] = str(output)
        found = tokenizing_side(kind, model, manifest, output.parent)
        check_written(output, documents)
        digests.add(found["digest"])
        if found["tokens_in_run"] < found["tokens"] or len(digests) > 1:
            raise SystemExit(f"{name}: other tokens")
        working = working_seconds(output)
        if kind == "own":
            mean = found["tokens"] / documents
            print(
                f"with exact tokenizing: {documents:,} documents of {mean:.0f} tokens, one worker"
            )
        print(f"  {name} alone, one core{documents / found['alone']:16,.0f} documents/s")
        print(f"  first to last unit       {working:8.1f} s   {rate(documents, working)}")
        cpu = found["cpu"] / documents / len(PROMPTS) * 1e6
        print(
            f"  CPU of the worker        {cpu:8.0f} us a sample; ready in {found['loading']:.1f} s"
        )


def tokenizing_side(
    kind: str, model: Path, manifest: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """What a process of `tokenizing_side.py` found."""
    written, result = folder / "manifest.json", folder / "result.json"
    written.write_text(json.dumps(manifest))
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "tokenizing_side.py", kind, model, written, result],
        env=os.environ | {"PYTHONPATH": str(here.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the side {kind} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(result.read_bytes())
    return found


def rate(documents: int, seconds: float) -> str:
    """Documents and samples per second."""
    per_second = documents / seconds
    return f"{per_second:8,.0f} documents/s {per_second * len(PROMPTS):8,.0f} samples/s"


def write_source(folder: Path, documents: int) -> int:
    """A Parquet file of documents; returns the bytes of their text."""
    return write_texts(folder, [a_text(number, DOCUMENT_BYTES) for number in range(documents)])


def write_texts(folder: Path, texts: Sequence[str]) -> int:
    """A Parquet file of documents with these texts; returns their characters."""
    folder.mkdir()
    ids = [f"document-{number}" for number in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "a.parquet", row_group_size=1000)
    return sum(map(len, texts))


WORDS = [hashlib.sha256(b"%d" % number).hexdigest()[: 2 + number % 9] for number in range(4096)]


def a_text(number: int, size: int) -> str:
    """Text of about `size` bytes that no other number has, made of 4,096 words."""
    first, step = number * 31, 1 + number % 61 * 2
    chosen = [WORDS[(first + step * place) % len(WORDS)] for place in range(size // 7)]
    return f"Document {number}. {' '.join(chosen)}"


def a_manifest() -> dict[str, Any]:
    """The run that is measured."""
    engine = {"type": "Echo", "args": [f"--output-tokens={ANSWER_TOKENS}"]}
    return {
        "apiVersion": "rephrase.io/v1alpha1",
        "kind": "RephraseRun",
        "metadata": {"name": "bench"},
        "spec": {
            "source": {"uri": "source", "columns": {"id": "id"}},
            "prompts": [{"name": name, "builtIn": name} for name in PROMPTS],
            "model": {"name": "echo", "engine": engine},
            "output": {"uri": "output"},
            "quality": {"checks": False},  # their cost is told apart: tests/bench/checks.py
        },
    }


def rephrase(folder: Path, *arguments: str) -> float:
    """Run the command in `folder`; returns its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rephrase_runner", *arguments],
        cwd=folder,
        env=os.environ | {"XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"rephrase {arguments[0]} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Whatever is started meanwhile shares one core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def working_seconds(output: Path) -> float:
    """From the first claim to the last commit, without start and publishing."""
    commits = [path.stat().st_mtime for path in output.glob("_run/*/commits/*.json")]
    return max(commits) - first_claim(output)


def first_claim(output: Path) -> float:
    """When the first unit was claimed, seconds since the epoch."""
    return min(path.stat().st_mtime for path in output.glob("_run/*/claims/*/*.json"))


def measure_encoding() -> None:
    """One part to bytes and back."""
    samples = some_samples(0)
    encoded(0, samples)  # Arrow loads what it needs, once
    started = time.process_time()
    data = encoded(0, samples)
    encoding = time.process_time() - started
    started = time.process_time()
    decoded = parts.decode(data)[1]
    decoding = time.process_time() - started
    if decoded != samples:
        raise SystemExit("a part does not hold the samples it was made of")
    size = sum(len(sample.text) for sample in samples) / 1e6
    print(
        f"part: {len(samples):,} samples, {size:,.1f} MB of text, {len(data) / 1e6:,.1f} MB encoded"
    )
    print(f"  encode                   {encoding:8.2f} s   {size / encoding:8,.0f} MB/s of text")
    print(f"  decode                   {decoding:8.2f} s   {size / decoding:8,.0f} MB/s of text")


def measure_publishing(folder: Path) -> None:
    """Compaction: parts to the files of a group, in this process and without a store."""
    rows = PARTS * PART_SAMPLES // len(PROMPTS)
    files = [GroupFile(path=data_file(name, 0), prompt=name, rows=rows) for name in PROMPTS]
    for number in range(PARTS):
        (folder / f"{number}.part").write_bytes(encoded(number, some_samples(number)))
    compact(folder, files)  # Arrow loads and starts what it needs, once
    seconds = []
    for _ in range(COMPACTIONS):
        started = time.process_time()
        writer = compact(folder, files)
        seconds.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    tables = [pq.read_table(writer.path(file)) for file in files]
    if [table.num_rows for table in tables] != [rows] * len(files):
        raise SystemExit("rows are missing in the files of a group")
    size = sum(table.nbytes for table in tables) / 1e6
    rates = " / ".join(
        f"{size / one:,.0f}" for one in sorted(seconds, reverse=True)[:: COMPACTIONS // 2]
    )
    print(f"publishing: {PARTS} parts, {rows * len(files):,} samples, {size:,.0f} MB of Arrow")
    print(
        f"  compaction, minimum / median / maximum of {COMPACTIONS}: {rates} MB of Arrow/s of CPU"
    )
    print(f"  peak memory of all this  {peak:8,} MiB")


def compact(folder: Path, files: Sequence[GroupFile]) -> GroupWriter:
    """Publish the parts in a folder, once more."""
    kept = pa.schema([])
    writer = GroupWriter(
        folder,
        Group(run="bench", first=0, end=PARTS, files=tuple(files), digest="0" * 64),
        run="bench",
        schema=output_schema(kept, include_source_text=False),
        kept=kept,
        compression="zstd",
    )
    for number in range(PARTS):
        writer.add((folder / f"{number}.part").read_bytes())
    writer.close()
    return writer


def encoded(number: int, samples: list[Sample]) -> bytes:
    """The part of a unit."""
    origin = parts.Origin(run="bench", unit=number, plan="", etag="", filtered=0)
    return parts.encode(samples, origin=origin, kept=pa.schema([]), source_files=["a.parquet"])


def some_samples(number: int) -> list[Sample]:
    """Of a unit."""
    documents = PART_SAMPLES // len(PROMPTS)
    return [
        Sample(
            key=Key(0, row, prompt, 0),
            source_id=f"document-{row}",
            status=Status.WRITTEN,
            text=a_text(row * len(PROMPTS) + place, ANSWER_BYTES),
            finish_reason="stop",
            prompt_tokens=1100,
            completion_tokens=ANSWER_TOKENS,
        )
        for row in range(number * documents, (number + 1) * documents)
        for place, prompt in enumerate(PROMPTS)
    ]


if __name__ == "__main__":
    main()
