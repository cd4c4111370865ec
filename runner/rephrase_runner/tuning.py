"""Which engine settings to try, for how long, and which of them is the fastest. Pure.

Two tiers, since a full grid would take days: first how much one step of the engine takes in, then single
changes (memory, speculation, compiling) to the best of these; often none of the second tier helps. Within
a tier by halves: all are measured for a short time, the better half of them for twice as long, until one
is left. If there is time, the winner is measured against the run's own settings once more, both for the
same time. It has to be better by MARGIN: who wins among many has been lucky too.

What ran out of memory is a result: nothing that needs as much is tried after it.
"""

import json
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rephrase_api.launch import SPECULATION

Args = tuple[str, ...]
Change = Mapping[str, str | None]
"""Flag → value with its "=", "" for a flag without one, None for a flag that is to go."""

MARGIN = 1.03
"""Two measurements of the same settings differ by a percent or two."""
LEAST_ANSWERS = 10
"""Fewer tell nothing."""
_SEQUENCES, _BATCH, _MEMORY, _EAGER = (
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--gpu-memory-utilization",
    "--enforce-eager",
)
_HUNGRY = (_SEQUENCES, _BATCH, _MEMORY)
"""Flags whose larger values need more memory."""
_GUESSES = (("ngram", 6), ("ngram", 8), ("suffix", 32))
_METHODS = {"ngram": "NGram", "suffix": "Suffix"}


# -- what there is to try --


def tiers(
    engine: str, *, gpus: int, base: Args, known: Args = (), fixed: Collection[str] = ()
) -> tuple[tuple[Change, ...], ...]:
    """Changes to try, tier by tier, the most promising ones first.

    Args:
        engine: VLLM or Echo; another has no settings.
        gpus: of one worker, 0 = it runs on the CPU.
        base: arguments of the run.
        known: the fastest ones that somebody else found for this model and GPU.
        fixed: flags that are not to be touched.
    """
    if engine == "Echo":
        found: list[list[Change]] = [[{"--concurrency": f"={n}"} for n in (64, 1024, 256, 16)]]
    elif engine == "VLLM":
        sizes, batches = (
            ((512, 1024, 256, 2048, 4096), (32768, 16384, 8192))
            if gpus
            else ((64, 128, 32, 256, 16), (4096, 8192, 2048))
        )
        steps: list[Change] = [_values(known)] if known else []
        steps += [{_SEQUENCES: f"={n}", _BATCH: f"={m}"} for m in batches for n in sizes]
        found = [steps, [*_extras(gpus, base)]]
    else:
        found = []
    return tuple(tuple(change for change in tier if not set(change) & set(fixed)) for tier in found)


def _extras(gpus: int, base: Args) -> Iterator[Change]:
    for method, tokens in _GUESSES[: None if gpus else 1]:
        guess = {"method": method, "num_speculative_tokens": tokens}
        yield {SPECULATION: f"={json.dumps(guess, separators=(',', ':'))}"}
    if gpus:
        yield {_MEMORY: "=0.95"}
    yield {_EAGER: None if _EAGER in base else ""}


def changed(args: Args, change: Change) -> Args:
    """Arguments with a change made to them."""
    kept = (argument for argument in args if argument.partition("=")[0] not in change)
    return (*kept, *(f"{flag}{value}" for flag, value in change.items() if value is not None))


def _values(args: Iterable[str]) -> dict[str, str | None]:
    return {flag: f"{sign}{value}" for flag, sign, value in (one.partition("=") for one in args)}


# -- what was measured --


@dataclass(frozen=True, slots=True)
class Attempt:
    """Settings to be tried.

    Attributes:
        window_seconds: how long to measure once the engine is full.
        limit_seconds: what all of it may take, start included.
    """

    args: Args
    window_seconds: float
    limit_seconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of an attempt.

    Attributes:
        rate: tokens per second over a steady window; None if there was none, and `reason` says why.
        start_seconds: until the engine had answered for the first time.
        seconds: all of it.
    """

    args: Args
    rate: float | None
    start_seconds: float
    seconds: float
    reason: str = ""
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a search.

    Attributes:
        best: settings to use; those of the run if nothing was clearly better, None if none worked.
        rate: of `best`, tokens per second.
        before: rate of the run's own settings, None if they did not work.
    """

    best: Args | None
    rate: float | None
    before: float | None


def steady_rate(answers: Sequence[tuple[float, int]], *, ramp: int) -> float | None:
    """Tokens per second of an engine that is kept full, from (time, tokens) of its answers in order.

    The window begins with the answer number `ramp`: as many as run at once have then been replaced. What
    is answered up to that moment is not counted, so a window may begin with any of many at once.

    Returns:
        None if too few answers came to tell.
    """
    start = min(ramp, len(answers) // 2)
    if not answers[start:]:
        return None
    begun, end = answers[start][0], answers[-1][0]
    counted = [tokens for at, tokens in answers if at > begun]
    return sum(counted) / (end - begun) if len(counted) >= LEAST_ANSWERS else None


def needs_as_much(args: Args, failed: Args) -> bool:
    """Whether settings need as much memory as others at least, and differ in nothing else."""
    mine, theirs = _values(args), _values(failed)
    for flag in {*mine, *theirs}:
        if flag not in _HUNGRY:
            if mine.get(flag, ...) != theirs.get(flag, ...):
                return False
        elif flag not in mine or flag not in theirs or _number(mine[flag]) < _number(theirs[flag]):
            return False
    return True


def _number(value: str | None) -> float:
    try:
        return float((value or "").removeprefix("="))
    except ValueError:
        return 0.0


# -- the search --

Search = Generator[Attempt, Trial, Verdict]
_Part = Generator[Attempt, Trial, Args]


class _Book:
    """What has been tried, and the time that is left."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.rates: dict[Args, float] = {}
        """Of each settings, over the longest window."""
        self._windows: dict[Args, float] = {}
        self._failed: list[Args] = []
        self.beyond_seconds = 0.0
        """What an attempt takes beside its window, at most: start, ramp, end. At first nothing is known."""

    def duel_seconds(self, window_seconds: float) -> float:
        """What it takes to measure two settings at the end."""
        return 2 * (self.beyond_seconds + 2 * window_seconds)

    def measure(self, args: Args, window: float) -> Generator[Attempt, Trial, None]:
        """Try settings unless that is known already, hopeless, or too late."""
        known = self._windows.get(args, 0.0) >= window or args in self._failed
        late = self.left < self.beyond_seconds + window
        if known or late or any(needs_as_much(args, one) for one in self._failed):
            return
        yield from self.measure_again(args, window)

    def measure_again(self, args: Args, window: float) -> Generator[Attempt, Trial, None]:
        """Try settings."""
        trial = yield Attempt(args, window, self.left)
        self.left -= trial.seconds
        if trial.rate is not None:
            self.beyond_seconds = max(self.beyond_seconds, trial.seconds - window)
            self.rates[args], self._windows[args] = trial.rate, window
        elif trial.out_of_memory:
            self._failed.append(args)
            self.rates.pop(args, None)
        else:
            self._windows[args] = float("inf")  # it would be no better a second time

    def best(self, among: Iterable[Args]) -> list[Args]:
        """Those that work, the fastest first."""
        working = [args for args in dict.fromkeys(among) if args in self.rates]
        return sorted(working, key=lambda args: self.rates[args], reverse=True)


def search(
    base: Args, tiers: Sequence[Sequence[Change]], *, seconds: float, window_seconds: float
) -> Search:
    """Ask for attempts and be sent their trials, until the verdict is returned.

    Args:
        base: arguments of the run.
        tiers: changes to try, see `tiers`.
        seconds: for everything.
        window_seconds: of the first round of a tier; an attempt takes a start and a ramp more.
    """
    book = _Book(seconds)
    yield from book.measure(base, window_seconds)
    best = base
    for number, tier in enumerate(tiers):
        kept = min(book.duel_seconds(window_seconds), book.left / 3)
        share = (book.left - kept) / (len(tiers) - number)
        contenders = [best, *(changed(best, change) for change in tier)]
        best = yield from _by_halves(book, contenders, share, window_seconds)
    dueling = best != base and base in book.rates
    if dueling and book.left >= book.duel_seconds(window_seconds):
        for args in (base, best):
            yield from book.measure_again(args, 2 * window_seconds)
    return _verdict(book, base, best)


def _verdict(book: _Book, base: Args, best: Args) -> Verdict:
    before, after = book.rates.get(base), book.rates.get(best)
    if after is None or (before is not None and after < before * MARGIN):
        return Verdict(base if before is not None else None, before, before)
    return Verdict(best, after, before)


def _by_halves(book: _Book, contenders: Sequence[Args], seconds: float, window: float) -> _Part:
    """The fastest of some settings, the first one if none works; as many of them as there is time for.

    One beside the first is tried in any case, unless it is too late for anything.
    """
    first = contenders[0]
    alive = list(dict.fromkeys(contenders))
    while len(alive) > 2 and rounds_seconds(len(alive), book.beyond_seconds, window) > seconds:
        alive.pop()
    while len(alive) > 1:
        for args in alive:
            yield from book.measure(args, window)
        working = book.best(alive)
        alive = working[: (len(working) + 1) // 2]
        window *= 2
    return alive[0] if alive else first


def rounds_seconds(count: int, beyond_seconds: float, window_seconds: float) -> float:
    """What halving takes with so many settings to begin with, the first of them measured already."""
    total = -(beyond_seconds + window_seconds)
    while count > 1:
        total += count * (beyond_seconds + window_seconds)
        count, window_seconds = (count + 1) // 2, window_seconds * 2
    return total


# -- the end --


def patch(own: Args, base: Args, best: Args) -> dict[str, Any]:
    """A merge patch of a RephraseRun that makes `best` its engine settings.

    Args:
        own: `spec.model.engine.args` of the manifest.
        base: what its engine is started with: `own`, speculation, and the pool's arguments.
        best: the same of the winner.
    """
    before, after = _values(base), _values(best)
    change = {
        flag: after.get(flag)
        for flag in [*after, *before]
        if after.get(flag, ...) != before.get(flag, ...)
    }
    engine: dict[str, Any] = {}
    if SPECULATION in change:
        guess = json.loads((change[SPECULATION] or "").removeprefix("=") or "null")
        engine["speculation"] = guess and {
            "method": _METHODS[guess["method"]],
            "tokens": guess["num_speculative_tokens"],
        }
        change[SPECULATION] = None
    return {"spec": {"model": {"engine": {"args": list(changed(own, change)), **engine}}}}
