"""Which documents of a unit may have killed the engine, in what order to try them, and who is guilty. Pure.

A unit's history is a list of ends of its holders, oldest first. A *recorded* end is an engine death that a
living worker wrote down with the rows in flight; a *silent* end is a holder that stopped beating (all that
is known is the write-ahead window he was in, if any). A released unit has no end: a drain is no evidence.

Invariants (ledger protocol, section 6): a row that was ever named stays suspect until it has its results,
whatever other rows did meanwhile (two killers hide behind each other otherwise); a group is only ever
split; nobody is condemned who was not alone in flight, and never for preemptions alone below one more than
`documentEngineKills`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Death:
    """An engine death recorded at an epoch, with the rows of the unit that were in flight.

    Attributes:
        name: of the record.
        company: rows of other units may have been in flight beside them: it was not in a window.
    """

    epoch: int
    rows: frozenset[int]
    name: str = ""
    company: bool = False

    @property
    def alone(self) -> bool:
        """Whether one row was in flight in the whole process."""
        return len(self.rows) == 1 and not self.company


@dataclass(frozen=True, slots=True)
class Silence:
    """A holder that went silent. `rows`: of his last window; empty outside windows."""

    epoch: int
    rows: frozenset[int] = frozenset()
    name: str = ""

    @property
    def alone(self) -> bool:
        """Whether one row was in flight: a window has nothing beside it."""
        return len(self.rows) == 1


End = Death | Silence


@dataclass(frozen=True, slots=True)
class Guilty:
    """A row that is given up, and the records that say why."""

    row: int
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a unit's history says.

    Attributes:
        groups: rows to be tried apart from all others, smallest group first.
        guilty: rows to be failed without another try.
        fruitless: recorded deaths since the last row was found guilty.
    """

    groups: tuple[frozenset[int], ...]
    guilty: tuple[Guilty, ...]
    fruitless: int = 0

    @property
    def rows(self) -> frozenset[int]:
        """All rows that must not be in flight beside others."""
        named = frozenset(row for group in self.groups for row in group)
        return named | {guilty.row for guilty in self.guilty}


def suspect(ends: Iterable[End], open_rows: Collection[int], *, kills: int) -> Suspicion:
    """Fold a unit's history.

    Args:
        ends: of its holders, oldest first.
        open_rows: rows that lack results now.
        kills: `documentEngineKills`: recorded deaths alone in flight that condemn; one more if any were
            silent.
    """
    open_ = frozenset(open_rows)
    groups: list[frozenset[int]] = []
    alone: dict[int, list[End]] = {}
    lost_nodes = 0
    for end in ends:
        named = end.rows
        if not named and isinstance(end, Silence):
            lost_nodes += 1  # the first may be a lost node; the second makes all open rows suspect
            named = open_.difference(*groups) if lost_nodes > 1 else frozenset()
        if end.alone:
            alone.setdefault(next(iter(end.rows)), []).append(end)
        groups = _split(groups, named)
    verdicts = [ends_[-1].epoch for ends_ in alone.values() if _condemned(ends_, kills)]
    deaths = [end.epoch for end in ends if isinstance(end, Death)]
    fruitless = sum(epoch > max(verdicts, default=0) for epoch in deaths)
    guilty = tuple(
        Guilty(row, tuple(end.name for end in ends_))
        for row, ends_ in sorted(alone.items())
        if row in open_ and _condemned(ends_, kills)
    )
    condemned = {one.row for one in guilty}
    left = [group & open_ - condemned for group in groups]
    ordered = sorted((group for group in left if group), key=lambda group: (len(group), min(group)))
    return Suspicion(tuple(ordered), guilty, fruitless)


def deaths_allowed(unit_rows: int) -> int:
    """Engine deaths over a unit without a verdict after which no verdict is to be expected.

    Halving a unit takes log2 of its rows, being alone twice two more; three times that leaves room for
    several killers that hide behind each other (ledger protocol, section 6).
    """
    return 3 * (2 + (unit_rows - 1).bit_length())


def next_window(groups: Sequence[frozenset[int]]) -> frozenset[int]:
    """The rows to try next, alone in the process: the first half of the smallest group."""
    smallest = min(groups, key=lambda group: (len(group), min(group)))
    return frozenset(sorted(smallest)[: (len(smallest) + 1) // 2])


def _split(groups: list[frozenset[int]], named: frozenset[int]) -> list[frozenset[int]]:
    """Cut every group that `named` cuts in two; rows that were in none make a new one."""
    parts: list[frozenset[int]] = []
    for group in groups:
        parts += [part for part in (group & named, group - named) if part]
    fresh = named.difference(*groups)
    return [*parts, fresh] if fresh else parts


def _condemned(ends: Sequence[End], kills: int) -> bool:
    recorded = sum(isinstance(end, Death) for end in ends)
    return recorded >= kills or len(ends) > kills
