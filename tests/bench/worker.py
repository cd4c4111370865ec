"""`make bench`: what a sample costs a worker beside its engine, in microseconds of CPU, by what it is for.

A worker of the engine Echo in this process, its driver in another; the time of each thread is counted by
what it was asked to do. The checks are off (tests/bench/checks.py has them), nothing is tokenized.

    python tests/bench/worker.py [--documents 25000]
"""

import argparse
import asyncio
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import thread
from pathlib import Path
from typing import Any

from bench.data_path import PROMPTS, a_manifest, check_written, write_source
from bench.engine_sides import plan
from rephrase_runner.engines.echo import EchoEngine
from rephrase_runner.processes import run_worker

Spent = defaultdict[str, float]
"""Seconds of CPU by what they were for."""
ROWS = {
    "Shift._ahead": "read, prepare prompts (a thread ahead)",
    "Scribe._encode": "encode part and checkpoints",
    "Scribe._commit": "count and hash for the commit",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=25_000)
    documents = parser.parse_args().documents
    spent: Spent = defaultdict(float)
    count_threads(spent)
    count_engine(spent)
    with tempfile.TemporaryDirectory(prefix="rephrase-bench-") as name:
        folder = Path(name)
        write_source(folder / "source", documents)
        manifest = a_manifest()
        manifest["spec"]["source"]["uri"] = str(folder / "source")
        manifest["spec"]["output"]["uri"] = str(folder / "output")
        driver, launch = plan(manifest)
        logging.disable()
        loop, everything = time.thread_time(), time.process_time()
        asyncio.run(run_worker(launch, asyncio.Event()))
        loop, everything = time.thread_time() - loop, time.process_time() - everything
        if driver.wait():
            raise SystemExit("the driver failed")
        check_written(folder / "output", documents)
    samples = documents * len(PROMPTS)
    rows = {text: spent[name] for name, text in ROWS.items()}
    rows["libraries' own threads"] = everything - loop - sum(rows.values())
    rows["submit, answer, make samples (event loop)"] = loop - spent["engine"]
    rows["the engine Echo"] = spent["engine"]
    print(f"worker: {samples:,} samples, {everything / samples * 1e6:,.1f} us of CPU a sample")
    for text, seconds in rows.items():
        print(f"  {text:45} {seconds / samples * 1e6:6.1f} us")


def count_threads(spent: Spent) -> None:
    """Add up the CPU seconds of what is handed to threads, by the function's name."""
    run = thread._WorkItem.run

    def counted(item: Any) -> None:  # noqa: ANN401
        name = name_of(item)
        began = time.thread_time()
        run(item)
        spent[name] += time.thread_time() - began

    thread._WorkItem.run = counted  # type: ignore[assignment, method-assign]


def name_of(item: Any) -> str:  # noqa: ANN401
    """Of the function that a thread is to call; `asyncio.to_thread` wraps it."""
    function: Callable[..., Any] = item.fn
    while hasattr(function, "args") and function.args:
        function = function.args[0]
    return getattr(function, "__qualname__", "").split(".<locals>")[0]


def count_engine(spent: Spent) -> None:
    """Add up the CPU seconds of the engine's own work."""
    answer = EchoEngine._answer

    def counted(engine: EchoEngine, request: Any) -> Any:  # noqa: ANN401
        began = time.thread_time()
        outcome = answer(engine, request)
        spent["engine"] += time.thread_time() - began
        return outcome

    EchoEngine._answer = counted  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    main()
