"""The figures of a report: commits, heartbeats and prices to what `page.py` shows. Pure.

One pass over the commits, in memory that does not grow with them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from rephrase_api import cost
from rephrase_api.prices import PoolPrices, PriceList, prices_of
from rephrase_api.v1alpha1.workers import CapacityType, Gpu, Pool
from rephrase_runner import openings
from rephrase_runner.account import Account
from rephrase_runner.records import (
    Collapse,
    Counts,
    Noticed,
    PaidPool,
    Paying,
    SpecRecord,
    Tokens,
)

_MOST_BINS = 240
WARN_LENGTH = 0.05
WARN_LOST = 0.01
WARN_DISCARDED = 0.1


class Speed:
    """Tokens per second over time, in at most 240 equal steps whatever the times are.

    A unit's tokens count as generated evenly from its claim to its commit.
    """

    def __init__(self) -> None:
        self.seconds = 1.0
        """Length of a step."""
        self._bins: dict[int, float] = {}

    def add(self, end: float, seconds: float, tokens: int) -> None:
        """One unit: when it was committed (seconds since 1970), how long it took, its tokens."""
        start = end - max(seconds, 1e-3)
        self._make_room(start, end)
        first, last = int(start // self.seconds), int(end // self.seconds)
        for step in range(first, last + 1):
            inside = min(end, (step + 1) * self.seconds) - max(start, step * self.seconds)
            share = tokens * max(0.0, inside) / (end - start)
            self._bins[step] = self._bins.get(step, 0.0) + share

    def _make_room(self, start: float, end: float) -> None:
        def steps(at: float) -> int:
            return int(at // self.seconds)

        low, high = steps(start), steps(end)
        if self._bins:
            low, high = min(low, min(self._bins)), max(high, max(self._bins))
        while high - low >= _MOST_BINS:
            self.seconds *= 2
            halved: dict[int, float] = {}
            for step, tokens in self._bins.items():
                halved[step // 2] = halved.get(step // 2, 0.0) + tokens
            self._bins = halved
            low, high = low // 2, high // 2

    def points(self) -> list[tuple[float, float]]:
        """Start of each step (seconds since 1970) and its tokens per second, gaps as zeros."""
        if not self._bins:
            return []
        steps = range(min(self._bins), max(self._bins) + 1)
        return [(step * self.seconds, self._bins.get(step, 0.0) / self.seconds) for step in steps]


@dataclass(frozen=True, slots=True)
class PoolMoney:
    """What a pool has used; `gpus` of a worker, as its workers told.

    `amount` is None where nobody knows its price; `basis` says whence the price is, or why there is none.
    """

    name: str
    gpus: int
    seconds: float
    price: Decimal | None
    amount: Decimal | None
    basis: str


@dataclass(frozen=True, slots=True)
class Money:
    """What a run has cost so far: None is unknown, never nothing.

    `at_least` is what the pools with a price cost, if others have none.
    """

    currency: str
    pools: tuple[PoolMoney, ...]
    total: Decimal | None
    at_least: Decimal
    per_million: Decimal | None
    discarded: Decimal | None


def money(
    seconds: Mapping[str, float],
    gpus: Mapping[str, int],
    paying: Paying | None,
    prices: PriceList | None,
    *,
    committed: int,
    discarded: int | None,
) -> Money:
    """What GPU seconds cost.

    Args:
        seconds: by pool, GPU seconds (worker seconds in a pool without GPUs).
        gpus: of a worker, by pool, as workers told.
        paying: the pools as the driver knew them; None if it was of a version that did not tell.
        prices: a price list, for pools without a price.
        committed: completion tokens of all commits.
        discarded: those that were generated and are in none; None if that is not known yet.
    """
    found = (
        prices_of(map(_pool, paying.pools), paying.currency, prices)
        if paying is not None
        else PoolPrices(prices.currency if prices is not None else "USD")
    )
    used = {name: value for name, value in seconds.items() if value > 0}
    total = cost.amount(used, found.known) if used else None
    wasted = None
    if total is not None and discarded is not None and committed + discarded:
        wasted = total * discarded / (committed + discarded)
    return Money(
        currency=found.currency,
        pools=tuple(
            PoolMoney(
                name=name,
                gpus=gpus.get(name, 0),
                seconds=value,
                price=found.known.get(name),
                amount=cost.amount({name: value}, found.known),
                basis=found.sources.get(name) or found.unknown.get(name) or _UNTOLD,
            )
            for name, value in sorted(used.items())
        ),
        total=total,
        at_least=cost.at_least(used, found.known),
        per_million=cost.per_million(total, committed) if total is not None else None,
        discarded=wasted,
    )


_UNTOLD = "the pool is not in the spec that the driver had last"


def _pool(pool: PaidPool) -> Pool:
    return Pool(
        name=pool.name,
        capacity_type=CapacityType(pool.capacity_type),
        gpu=Gpu(count=pool.gpus, name=pool.gpu),
        price_per_gpu_hour=pool.price,
    )


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """One prompt: its account and what was noticed. `noticed` is None if its run did not note it."""

    name: str
    counts: Counts
    noticed: Noticed | None
    collapse: Collapse | None

    @property
    def answered(self) -> int:
        """Samples that the engine answered."""
        return sum(self.noticed.finish.values()) if self.noticed is not None else 0

    @property
    def ran_out(self) -> float:
        """Share of the answers that ran into `maxTokens`."""
        if self.noticed is None or not self.answered:
            return 0.0
        return self.noticed.finish.get("length", 0) / self.answered

    @property
    def lost(self) -> float:
        """Share of the samples that have no rewrite."""
        counts = self.counts
        return (counts.in_ - counts.written) / counts.in_ if counts.in_ else 0.0

    @property
    def mean_tokens(self) -> float | None:
        """Tokens of an answer."""
        return self.counts.tokens / self.answered if self.answered else None


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite to look at."""

    prompt: str
    rollout: int
    text: str
    tokens: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A document with its rewrites. `source` is None unless it was asked for."""

    source_id: str
    source_file: str
    source_row: int
    rewrites: tuple[Rewrite, ...]
    source: str | None = None


@dataclass(frozen=True, slots=True)
class DeadReason:
    """Samples without a rewrite, by reason. `outcome` and `message` are of one that was looked at, if any."""

    reason: str
    by_prompt: Mapping[str, int]
    outcome: str = ""
    message: str = ""

    @property
    def samples(self) -> int:
        """Of all prompts."""
        return sum(self.by_prompt.values())


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that a report shows.

    Attributes:
        complete: the manifest is there.
        discarded: tokens that were generated and are in no commit; None while workers live.
        began, ended: first claim and last commit, by the store's clock.
    """

    spec: SpecRecord
    version: str
    complete: bool
    units: int
    committed: int
    rows: int
    planned_rows: int
    filtered: int
    prompts: tuple[PromptFigures, ...]
    tokens: Tokens
    truncated: int
    discarded: int | None
    began: datetime | None
    ended: datetime | None
    speed: Sequence[tuple[float, float]]
    speed_seconds: float
    money: Money
    dead: tuple[DeadReason, ...]
    skipped_files: tuple[str, ...]
    shown: tuple[Shown, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def samples(self) -> Counts:
        """Sum over the prompts."""
        total = Counts()
        for prompt in self.prompts:
            total = total.plus(prompt.counts)
        return total

    @property
    def busy_rate(self) -> float | None:
        """Completion tokens per second from the first claim to the last commit."""
        if self.began is None or self.ended is None or self.ended <= self.began:
            return None
        return self.tokens.completion / (self.ended - self.began).total_seconds()


def prompt_figures(account: Account, prompts: Iterable[str]) -> tuple[PromptFigures, ...]:
    """Of these prompts, in their order."""
    collapsed = account.openings.collapse()
    return tuple(
        PromptFigures(
            name, account.counts.get(name, Counts()), account.noticed.get(name), collapsed.get(name)
        )
        for name in prompts
    )


def dead_reasons(
    prompts: Iterable[PromptFigures], examples: Mapping[str, tuple[str, str]]
) -> tuple[DeadReason, ...]:
    """Samples without a rewrite by reason, the most frequent first.

    Args:
        prompts: with what was noticed.
        examples: outcome and message of one sample, by reason.
    """
    found: dict[str, dict[str, int]] = {}
    for prompt in prompts:
        for reason, count in (prompt.noticed.reasons if prompt.noticed is not None else {}).items():
            found.setdefault(reason, {})[prompt.name] = count
    listed = [
        DeadReason(reason, counts, *examples.get(reason, ("", "")))
        for reason, counts in found.items()
    ]
    return tuple(sorted(listed, key=lambda one: (-one.samples, one.reason)))


def warnings(figures: Figures) -> list[str]:
    """What deserves a look, in sentences; a warning is no verdict."""
    found = []
    ran_out = {one.name: one.ran_out for one in figures.prompts if one.ran_out > WARN_LENGTH}
    if ran_out:
        found.append(
            f"Answers that ran into maxTokens: {_listed(ran_out)}. Raise it, or trim or drop them with "
            "spec.quality.onTruncated."
        )
    lost = {one.name: one.lost for one in figures.prompts if one.lost > WARN_LOST}
    if lost:
        found.append(f"Samples without a rewrite: {_listed(lost)}. Dead letters say why.")
    alike = openings.warnings({one.name: one.collapse for one in figures.prompts if one.collapse})
    if alike:
        found.append(
            f"Rewrites that begin alike, by their first {openings.WARN_AT} characters: {_listed(alike)}. "
            "Table and faq often do; for other prompts compare another model on the same documents."
        )
    discarded = figures.discarded or 0
    generated = figures.tokens.completion + discarded
    if generated and discarded / generated > WARN_DISCARDED:
        found.append(
            f"{discarded / generated:.0%} of the generated tokens were discarded: workers were killed "
            "between checkpoints; see spec.durability.checkpointSeconds."
        )
    if figures.money.pools and figures.money.total is None:
        unknown = [pool.name for pool in figures.money.pools if pool.price is None]
        found.append(f"The cost is unknown: no price for pool {', '.join(unknown)}.")
    return found


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
