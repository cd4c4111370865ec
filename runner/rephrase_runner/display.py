"""What `rephrase run` shows: a live panel on a terminal, plain lines elsewhere, JSON lines for machines."""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rephrase_api.progress import Progress
from rephrase_api.words import duration

_PLAIN_SECONDS = 10


class Display(Protocol):
    """What is shown while a run goes on."""

    def show(self, progress: Progress) -> None:
        """The state as it is now; called about twice a second."""

    def note(self, message: str) -> None:
        """Something worth a line: a start, a restart, a warning."""

    def close(self) -> None:
        """Nothing more will be shown."""


def eta(progress: Progress) -> str:
    """Time left at the present rate, as ``1h05m``; empty while there is no rate."""
    keys = progress.samples.expected / max(
        1, progress.documents.total - progress.documents.filtered
    )
    left = progress.samples.expected - progress.samples.finished
    rate = progress.rates.documents_per_second * keys
    return "" if rate <= 0 or left <= 0 else duration(left / rate)


def line(progress: Progress) -> str:
    """One line that says it all."""
    samples, units = progress.samples, progress.units
    if not units.planned:
        return f"{progress.phase.lower()} {progress.message}".rstrip()
    words = [
        f"{progress.phase.lower()}: {samples.finished:,}/{samples.expected:,} samples",
        f"{units.committed:,}/{units.planned:,} units committed",
        f"{progress.rates.completion_tokens_per_second:,.0f} tokens/s",
    ]
    if samples.failed or samples.skipped:
        words.append(f"{samples.failed:,} failed, {samples.skipped:,} skipped")
    if left := eta(progress):
        words.append(f"{left} left")
    return ", ".join(words)


class PlainDisplay:
    """Lines for logs and pipes: one when something changes, at most every ten seconds.

    Args:
        console: where to.
        clock: seconds, monotonic.
    """

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._last = ""
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        """Print a line if it says something new."""
        text = line(progress)
        if text != self._last and self._clock() >= self._next:
            self._last, self._next = text, self._clock() + _PLAIN_SECONDS
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to clear away."""


class JsonDisplay:
    """One JSON object a line: `{"progress": ...}` and `{"note": ...}`."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._last = ""
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        """Print the body of `/progress` if it changed, at most once a second; the last one always."""
        body = progress.model_dump_json(by_alias=True)
        if body != self._last and (progress.finished or self._clock() >= self._next):
            self._last, self._next = body, self._clock() + 1
            self._print({"progress": json.loads(body)})

    def note(self, message: str) -> None:
        """Print a note."""
        self._print({"note": message})

    def close(self) -> None:
        """Nothing to clear away."""

    def _print(self, value: object) -> None:
        self._console.print(
            json.dumps(value, ensure_ascii=False), markup=False, highlight=False, soft_wrap=True
        )


class LiveDisplay:
    """A panel that is drawn anew in place, with notes above it."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def show(self, progress: Progress) -> None:
        """Draw the panel."""
        self._live.update(Group(self._head(progress), *self._workers(progress)))

    def note(self, message: str) -> None:
        """Print a line above the panel."""
        self._console.print(message, markup=False, highlight=False)

    def close(self) -> None:
        """Clear the panel away."""
        self._live.stop()

    def _head(self, progress: Progress) -> Table:
        samples = progress.samples
        grid = Table.grid(padding=(0, 2))
        grid.add_column(justify="right", style="dim")
        grid.add_column()
        state = Text(progress.phase, style="bold cyan")
        if progress.message:
            state.append(f"  {progress.message}", style="not bold dim")
        grid.add_row("run", Text(self._title, style="bold"))
        grid.add_row("state", state)
        if progress.units.planned:
            bar = ProgressBar(total=max(1, samples.expected), completed=samples.finished, width=40)
            grid.add_row("", bar)
            grid.add_row("samples", f"{samples.finished:,} of {samples.expected:,}")
            grid.add_row(
                "documents",
                f"{progress.documents.done:,} of {progress.documents.total:,} committed, "
                f"{progress.rates.documents_per_second:,.1f}/s",
            )
            grid.add_row(
                "tokens",
                f"{progress.tokens.completion:,} committed, "
                f"{progress.rates.completion_tokens_per_second:,.0f}/s",
            )
            grid.add_row("failures", f"{samples.failed:,} failed, {samples.skipped:,} skipped")
            grid.add_row("time left", eta(progress) or "-")
        return grid

    def _workers(self, progress: Progress) -> Sequence[Table]:
        if not progress.workers:
            return ()
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("worker", "phase", "tokens/s", "in flight", "units"):
            table.add_column(column, justify="left" if column in {"worker", "phase"} else "right")
        for worker in sorted(progress.workers, key=lambda worker: worker.slot):
            if worker.phase != "gone":
                table.add_row(
                    str(worker.slot),
                    worker.phase,
                    f"{worker.tokens_per_second:,.0f}",
                    str(worker.running),
                    str(worker.units_committed),
                )
        return (table,)
