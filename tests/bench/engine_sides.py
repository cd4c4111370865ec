"""The two sides of `tests/bench/engine.py`, each a process that keeps its model loaded.

    python tests/bench/engine_sides.py bare|worker SETTINGS
    python tests/bench/engine_sides.py first-token SETTINGS

`bare` is what people write: vLLM's `LLM.chat` with all messages in one call. `worker` is the product: a
real driver process and, in this one, the worker's own main function, to which an engine is handed that is
loaded already. `first-token` loads as `bare` does, and says so after its first token. Settings and commands
are JSON; a command is a line on standard input, its answer a line on what was standard output.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from rephrase_api.launch import DriverLaunch, WorkerLaunch
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_runner import engines
from rephrase_runner.engines import EngineSettings
from rephrase_runner.engines.base import Engine

JSON = dict[str, Any]


def main() -> None:
    """Load, say so, then answer one command after the other."""
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed here must not be taken for an answer
    if kind == "worker":
        asyncio.run(work(settings, answers))
        return
    run = bare(settings)
    if kind == "first-token":
        run({"messages": ["Hello."], "max_tokens": 1})
    print("{}", file=answers)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers)


def bare(settings: JSON) -> Callable[[JSON], JSON]:
    """`LLM.chat`: seconds, samples and tokens of one call with all messages."""
    os.environ |= {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    from vllm import LLM, SamplingParams

    model = LLM(
        settings["model"],
        max_model_len=settings["context"],
        max_num_seqs=settings["sequences"],
        kv_cache_memory_bytes=settings["cache"],
        enforce_eager=True,
    )

    def run(command: JSON) -> JSON:
        model.reset_prefix_cache()
        messages = [[{"role": "user", "content": text}] for text in command["messages"]]
        sampling = SamplingParams(temperature=0, max_tokens=command["max_tokens"])
        started = time.perf_counter()
        answers = model.chat(messages, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "samples": len(answers),
            "prompt_tokens": sum(len(answer.prompt_token_ids or ()) for answer in answers),
            "tokens": sum(len(answer.outputs[0].token_ids) for answer in answers),
        }

    return run


async def work(settings: JSON, answers: TextIO) -> None:
    """Runs of the product, with an engine that is built once."""
    engine = await asyncio.to_thread(
        engines.build,
        EngineSettings(
            "VLLM",
            model=settings["model"],
            max_model_length=settings["context"],
            args=(
                "--enforce-eager",
                f"--max-num-seqs={settings['sequences']}",
                f"--kv-cache-memory-bytes={settings['cache']}",
                *settings["args"],
            ),
        ),
    )
    engine.close = lambda: None  # type: ignore[method-assign]  # it stays loaded from run to run
    print("{}", file=answers)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await engine._engine.reset_prefix_cache()  # type: ignore[attr-defined]
        before = counted()
        answer = await run_one(json.loads(line), engine)
        answer |= {name: value - before.get(name, 0) for name, value in counted().items()}
        print(json.dumps(answer), file=answers)


def counted() -> dict[str, float]:
    """What vLLM counts: tokens looked up and found in its prefix cache, sequences that had to make room."""
    from rephrase_runner.engines.vllm_metrics import passed_on

    names = {
        "vllm:prefix_cache_queries_total": "looked_up",
        "vllm:prefix_cache_hits_total": "found",
        "vllm:num_preemptions_total": "preempted",
    }
    samples = [sample for family in passed_on() for sample in family.samples]
    return {names[one.name]: one.value for one in samples if one.name in names}


async def run_one(command: JSON, engine: Engine) -> JSON:
    """One run: from the plan to the manifest, which is written when all is published."""
    from rephrase_runner.processes import run_worker

    async def loaded(_settings: EngineSettings) -> Engine:
        return engine

    driver, launch = await asyncio.to_thread(plan, command["manifest"])
    started = time.time()  # noqa: TID251 - compared with a file's time
    await run_worker(launch, asyncio.Event(), loaded)
    if await asyncio.to_thread(driver.wait):
        raise SystemExit(f"the driver failed, see the log beside {launch.output_uri}")
    return account(Path(launch.output_uri), started)


def plan(manifest: JSON) -> "tuple[subprocess.Popen[bytes], WorkerLaunch]":
    """Start the driver and wait for its plan; what a worker is started with."""
    run = RephraseRun.from_api(manifest)
    output, durability = Path(run.spec.output.uri), run.spec.durability
    launch = DriverLaunch(run="bench", manifest=json.dumps(manifest))
    with (output.parent / "driver.log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "rephrase_runner", "driver"],
            env=os.environ | launch.to_environment(),
            stdout=log,
        )
    while not list(output.glob("_run/*/plan.json")):
        if driver.poll() is not None:
            raise SystemExit(f"the driver ended: {(output.parent / 'driver.log').read_text()}")
        time.sleep(0.05)  # noqa: TID251 - a measurement looks at its own pace
    return driver, WorkerLaunch(
        run="bench",
        output_uri=run.spec.output.uri,
        engine_args=tuple(run.spec.model.engine.args),
        heartbeat_seconds=durability.heartbeat_seconds,
        lease_seconds=durability.lease_seconds,
        checkpoint_seconds=durability.checkpoint_seconds,
    )


def account(output: Path, started: float) -> JSON:
    """What the manifest says, and the seconds until it was there."""
    manifest = output / "_run" / "manifest.json"
    found = json.loads(manifest.read_bytes())
    return {
        "seconds": manifest.stat().st_mtime - started,
        "samples": sum(counts["in"] for counts in found["counts"].values()),
        "prompt_tokens": found["tokens"]["prompt"],
        "tokens": found["tokens"]["completion"],
    }


if __name__ == "__main__":
    main()
