"""`rephrase status`: what a run's objects say, without its driver."""

import asyncio
from collections.abc import Callable

from rich.table import Table

from rephrase_api import progress as api
from rephrase_api.errors import InvalidSpec
from rephrase_api.words import duration
from rephrase_runner.display import eta
from rephrase_runner.ledger import Ledger, read_spec
from rephrase_runner.store import Store
from rephrase_runner.watch import Watch, final_progress

_ASSUMED_LEASE_SECONDS = 60
"""The lease is a setting of the workers and not in the ledger; this is its default."""


async def status(store: Store, *, canary_documents: int = 0) -> api.Progress:
    """Look at the run in `store`.

    Args:
        store: its output.
        canary_documents: of its canary, which the ledger does not know; 0 = none is asked about.

    Raises:
        InvalidSpec: there is no run in this output.
        AccessRefused: it cannot be read.
    """
    spec = await read_spec(store)
    if spec is None:
        raise InvalidSpec(
            "no run here: _run/spec.json is missing",
            where=store.uri,
            remedy="Name the output of a run, the folder that holds _run/.",
        )
    book = Ledger(store, spec.run)
    manifest = await book.manifest()
    if manifest is not None:
        return final_progress(manifest)
    plan = await book.plan()
    if plan is None:
        return api.Progress(spec_hash=spec.hash, phase="Planning")
    rollouts = {prompt.name: prompt.rollouts for prompt in spec.resolved.prompts}
    units = await book.units(plan)
    watch = Watch(
        book,
        plan,
        units,
        rollouts,
        lease_seconds=_ASSUMED_LEASE_SECONDS,
        canary_documents=canary_documents,
    )
    await watch.look(asyncio.get_running_loop().time(), everything=True)
    cache = await book.progress()
    if cache is not None:  # the youngest object there is: what heartbeats are compared with
        watch.fold.store_time = max(filter(None, (watch.fold.store_time, cache[1].modified)))
    return watch.progress(api.Progress(spec_hash=spec.hash, phase="Running"))


async def follow(
    store: Store, show: Callable[[api.Progress], None], *, seconds: float
) -> api.Progress:
    """Look again and again until the run is complete; returns the last look.

    Args:
        store: its output.
        show: told each look.
        seconds: between two looks.

    Raises:
        InvalidSpec, AccessRefused: as `status`.
    """
    while True:
        progress = await status(store)
        show(progress)
        if progress.finished:
            return progress
        await asyncio.sleep(seconds)


def table(progress: api.Progress) -> Table:
    """A run on one screen."""
    samples, tokens = progress.samples, progress.tokens
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    grid.add_row("state", progress.phase)
    grid.add_row("units", f"{progress.units.committed:,} of {progress.units.planned:,} committed")
    grid.add_row("samples", f"{samples.finished:,} of {samples.expected:,} finished")
    grid.add_row(
        "account",
        f"{samples.written:,} written, {samples.skipped:,} skipped, {samples.failed:,} failed",
    )
    grid.add_row("tokens", f"{tokens.completion:,} committed, {tokens.discarded:,} discarded")
    grid.add_row("rate", f"{progress.rates.completion_tokens_per_second:,.0f} tokens/s")
    grid.add_row("time left", eta(progress) or "-")
    for worker in sorted(progress.workers, key=lambda worker: (worker.slot, worker.uid)):
        grid.add_row(
            f"worker {worker.slot}",
            f"{worker.uid}  {worker.phase}, last beat {duration(worker.heartbeat_age_seconds)} "
            f"before the newest, {worker.tokens_per_second:,.0f} tokens/s, "
            f"{worker.units_committed:,} units",
        )
    return grid
