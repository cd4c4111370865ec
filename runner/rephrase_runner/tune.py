"""`rephrase tune`: tries engine settings on a run's own documents and prompts; reads, and writes nothing.

What is tried, and what wins, is decided in `tuning`; each attempt is a process of its own (`trial`).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rephrase_api.benchmarks import benchmark_of
from rephrase_api.errors import EngineFailed, InvalidSpec
from rephrase_api.launch import SPECULATION, engine_arguments
from rephrase_api.v1alpha1 import RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1.source import SourceFormat
from rephrase_runner import preflight, tuning
from rephrase_runner.documents import Tally
from rephrase_runner.local import gpu_devices
from rephrase_runner.preflight import Mounted, Preflight, engine_settings
from rephrase_runner.source import Reader
from rephrase_runner.store import StorageOptions
from rephrase_runner.trial import Order
from rephrase_runner.tuning import Args, Attempt, Trial
from rephrase_runner.units import plan_units

DOCUMENTS = 256
_TAIL_BYTES = 20_000
_OUT_OF_MEMORY = (
    "out of memory",
    "OutOfMemoryError",
    "want of memory",
    "No available memory for the cache blocks",
    "larger than the available KV cache memory",
)
"""How torch, vLLM and we call it; vLLM has no class for it that reaches us."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it all.

    Attributes:
        patch: a merge patch of the run with the winner's settings; empty if the run's own stand.
        best: tokens per second.
        before: the same of the run's own settings; None if they did not work.
    """

    patch: dict[str, Any]
    best: float
    before: float | None
    trials: Sequence[Trial]


async def tune(
    run: RephraseRun, *, seconds: float, window_seconds: float, told: Callable[[Trial], None]
) -> Tuned:
    """Try settings until the time is over.

    Args:
        run: the manifest; its output is not touched.
        seconds: for everything.
        window_seconds: of the shortest measurement, without the engine's start.
        told: called with each trial as it ends.

    Raises:
        InvalidSpec: something is wrong with the run, or its source has no documents.
        EngineFailed: no settings worked.
    """
    spec, clock = run.spec, asyncio.get_running_loop().time
    end = clock() + seconds
    checked = await preflight.check(spec, engine_here=False, mounted=Mounted())
    texts = await asyncio.to_thread(some_documents, spec, checked)
    pool = spec.pools()[0]
    gpus = pool.gpu.count if pool.gpu is not None and gpu_devices() else 0
    base = engine_arguments(spec.model.engine, pool.engine)
    order = Order(
        settings=engine_settings(
            spec,
            revision=checked.resolved.model_revision,
            max_model_length=checked.resolved.max_model_length,
            gpus=gpus,
        ),
        resolved=checked.resolved,
        texts=texts,
        max_document_tokens=spec.source.max_document_tokens,
        seed=spec.sampling.seed,
        window_seconds=window_seconds,
    )
    search = tuning.search(
        base,
        tuning.tiers(
            spec.model.engine.type.value,
            gpus=gpus,
            base=base,
            known=_known(spec),
            fixed=_fixed(spec, checked),
        ),
        seconds=end - clock(),
        window_seconds=window_seconds,
    )
    trials: list[Trial] = []
    try:
        attempt = next(search)
        while True:
            trial = await attempted(order, attempt)
            trials.append(trial)
            told(trial)
            attempt = search.send(trial)
    except StopIteration as stop:
        verdict: tuning.Verdict = stop.value
    if verdict.best is None or verdict.rate is None:
        last = trials[-1].reason if trials else "there was no time"
        raise EngineFailed(
            f"no settings worked; the last ones: {last}",
            where="spec.model.engine",
            remedy="Run `rephrase run` to see the engine's own log.",
        )
    found = tuning.patch(spec.model.engine.args, base, verdict.best)
    return Tuned(found if verdict.best != base else {}, verdict.rate, verdict.before, trials)


def _known(spec: RephraseRunSpec) -> Args:
    """The fastest settings of the paper's table, if it has this model on this GPU."""
    gpu = spec.pools()[0].gpu
    row = benchmark_of(spec.model.name or "", gpu.name or "") if gpu is not None else None
    return row.tuned.arguments if row is not None else ()


def _fixed(spec: RephraseRunSpec, checked: Preflight) -> set[str]:
    """What a patch of the run cannot change, or the engine would leave aside."""
    flags = {argument.partition("=")[0] for argument in spec.pools()[0].engine.args}
    if any(prompt.sampling.get("min_p") for prompt in checked.resolved.prompts):
        flags.add(SPECULATION)
    return flags


def some_documents(spec: RephraseRunSpec, checked: Preflight) -> tuple[str, ...]:
    """The first documents of a source that can be rewritten.

    Raises:
        InvalidSpec: there are none.
    """
    scan = checked.scan
    reader = Reader(
        spec.source,
        scan.files,
        format=SourceFormat(scan.format),
        kept=scan.kept,
        storage=StorageOptions.of(spec.source.storage),
    )
    texts: list[str] = []
    for unit in plan_units(
        scan.files, target_documents=DOCUMENTS, limit=spec.source.limit.documents
    ):
        for batch in reader.read_unit(unit, Tally()):
            texts += [document.text for document in batch if document.problem is None]
        if len(texts) >= DOCUMENTS:
            break
    reader.close()
    if not texts:
        raise InvalidSpec("has no document to try anything with", where="spec.source")
    return tuple(texts[:DOCUMENTS])


async def attempted(order: Order, attempt: Attempt) -> Trial:
    """Start a process with these settings and hear what it says; killed when its time is over."""
    clock = asyncio.get_running_loop().time
    started = clock()
    asked = order.model_copy(
        update={
            "settings": order.settings.with_args(attempt.args),
            "window_seconds": attempt.window_seconds,
        }
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rephrase_runner",
        "trial",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said = b""
    late = False
    try:
        async with asyncio.timeout(attempt.limit_seconds):
            said, _ = await process.communicate(asked.model_dump_json().encode())
    except TimeoutError:
        late = True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what an engine may have left as well
        await process.wait()
    return judged(attempt, said.decode(errors="replace"), clock() - started, late=late)


def judged(attempt: Attempt, said: str, seconds: float, *, late: bool) -> Trial:
    """What a process' words mean."""
    entries = [entry for line in said.splitlines() if (entry := _entry(line))]
    for entry in entries:
        if entry.get("message") == "measured":
            rate = entry["rate"]
            reason = "" if rate is not None else "too few answers to tell"
            return Trial(attempt.args, rate, entry["start_seconds"], seconds, reason)
    if late:
        return Trial(attempt.args, None, 0, seconds, "not done in time")
    if any(words in said[-_TAIL_BYTES:] for words in _OUT_OF_MEMORY):
        return Trial(attempt.args, None, 0, seconds, "out of memory", out_of_memory=True)
    errors = [str(entry.get("error")) for entry in entries if entry.get("message") == "exit"]
    return Trial(attempt.args, None, 0, seconds, errors[-1] if errors else "ended without a word")


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def patch_text(run: RephraseRun, tuned: Tuned, name: str) -> str:
    """The patch as a file, with what it is and how it is applied."""
    import yaml

    before = (
        f"instead of {tuned.before:,.0f}" if tuned.before else "where the run's own do not work"
    )
    return (
        f"# rephrase tune: {tuned.best:,.0f} tokens/s with these engine settings, {before}, on the machine "
        "it ran on.\n"
        f"#   kubectl patch rephraserun {run.metadata.name} --type merge --patch-file {name}\n"
        f"#   kubectl patch --local -f run.yaml --type merge --patch-file {name} -o yaml\n"
        "# They decide how fast, not what: a run that has begun goes on with them.\n"
        f"{yaml.safe_dump(tuned.patch, sort_keys=False)}"
    )


def line(trial: Trial) -> str:
    """A trial as it is shown."""
    result = f"{trial.rate:,.0f} tokens/s" if trial.rate is not None else trial.reason
    return (
        f"{result:>16}  start {trial.start_seconds:4.0f} s  {' '.join(trial.args) or '(defaults)'}"
    )


def plain(tuned: Tuned) -> dict[str, Any]:
    """For machines."""
    return {
        "patch": tuned.patch,
        "tokensPerSecond": tuned.best,
        "before": tuned.before,
        "trials": [
            {
                "args": list(trial.args),
                "tokensPerSecond": trial.rate,
                "startSeconds": trial.start_seconds,
                "seconds": round(trial.seconds, 1),
                "reason": trial.reason,
            }
            for trial in tuned.trials
        ],
    }
