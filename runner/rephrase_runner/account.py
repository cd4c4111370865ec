"""The account: what a unit, a group and a run add up to, and whether it balances. Pure.

For every unit and prompt: in = written + skipped + failed, and in = (planned rows - filtered) x
rollouts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rephrase_runner.records import Commit, Counts, Tokens
from rephrase_runner.rows import Sample, Status


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of some samples."""

    counts: dict[str, Counts]
    reasons: dict[str, int]
    flags: dict[str, int]
    tokens: Tokens
    truncated: int


def tally(samples: Iterable[Sample], prompts: Iterable[str], *, part_bytes: int = 0) -> Tally:
    """Count samples by prompt and outcome.

    Args:
        samples: what is in a part.
        prompts: all prompts of the run; one without samples is there with zeros.
        part_bytes: size of the part; each prompt's `bytes` is its share of it by length of text.
    """
    outcomes: Counter[tuple[str, Status]] = Counter()
    length: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    generated: Counter[str] = Counter()
    prompt_tokens = truncated = 0
    for sample in samples:
        name = sample.key.prompt
        outcomes[name, sample.status] += 1
        length[name] += len(sample.text)
        if sample.reason:
            reasons[sample.reason] += 1
        flags.update(sample.flags)
        prompt_tokens += sample.prompt_tokens
        generated[name] += sample.completion_tokens
        truncated += sample.truncated
    total = max(1, length.total())
    counts = {
        name: Counts(
            in_=sum(outcomes[name, status] for status in Status),
            written=outcomes[name, Status.WRITTEN],
            skipped=outcomes[name, Status.SKIPPED],
            failed=outcomes[name, Status.FAILED],
            bytes=part_bytes * length[name] // total,
            tokens=generated[name],
        )
        for name in sorted(prompts)
    }
    tokens = Tokens(prompt=prompt_tokens, completion=generated.total())
    return Tally(
        counts, dict(sorted(reasons.items())), dict(sorted(flags.items())), tokens, truncated
    )


def imbalances(commit: Commit, *, rows: int, rollouts: Mapping[str, int]) -> list[str]:
    """What is wrong with the account of one unit; empty if it balances (ledger, invariant 2).

    Args:
        commit: the unit's commit.
        rows: rows of the unit in the plan.
        rollouts: per prompt of the run.
    """
    faults = []
    if commit.rows != rows:
        faults.append(f"unit {commit.unit}: {commit.rows} rows committed, {rows} planned")
    if set(commit.counts) != set(rollouts):
        faults.append(
            f"unit {commit.unit}: prompts {sorted(commit.counts)}, expected {sorted(rollouts)}"
        )
    for name, counts in commit.counts.items():
        outcome = counts.written + counts.skipped + counts.failed
        if counts.in_ != outcome:
            faults.append(
                f"unit {commit.unit}, prompt {name}: {counts.in_} in, {outcome} accounted for"
            )
        expected = (commit.rows - commit.filtered) * rollouts.get(name, 0)
        if counts.in_ != expected:
            faults.append(
                f"unit {commit.unit}, prompt {name}: {counts.in_} in, {expected} expected"
            )
    return faults


@dataclass(slots=True)
class Account:
    """Running sum over commits."""

    units: int = 0
    rows: int = 0
    filtered: int = 0
    counts: dict[str, Counts] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    tokens: Tokens = field(default_factory=Tokens)
    truncated: int = 0

    def add(self, commit: Commit) -> None:
        """Add one unit; the caller adds each once."""
        self.units += 1
        self.rows += commit.rows
        self.filtered += commit.filtered
        for name, counts in commit.counts.items():
            self.counts[name] = self.counts.get(name, Counts()).plus(counts)
        self.reasons.update(commit.reasons)
        self.flags.update(commit.flags)
        self.tokens = self.tokens.plus(commit.tokens)
        self.truncated += commit.truncated

    @property
    def samples(self) -> Counts:
        """Sum over the prompts."""
        total = Counts()
        for counts in self.counts.values():
            total = total.plus(counts)
        return total

    def failed_documents(self, rollouts: Mapping[str, int]) -> int:
        """Documents that failed, at least: those that the worst prompt needs for its failed samples."""
        counts = self.counts.items()
        return max((-(-count.failed // rollouts[prompt]) for prompt, count in counts), default=0)


def group_end(
    commits: Mapping[int, Commit], *, first: int, units: int, target_bytes: int
) -> int | None:
    """Where the group that starts at `first` ends, or None if it cannot be closed yet.

    A group closes when all its units are committed and its largest prompt has reached
    `target_bytes`, or when the run's units end.
    """
    size: Counter[str] = Counter()
    unit = first
    while unit < units:
        commit = commits.get(unit)
        if commit is None:
            return None
        for name, counts in commit.counts.items():
            size[name] += counts.bytes
        unit += 1
        if max(size.values(), default=0) >= target_bytes:
            return unit
    return unit if unit > first else None


def group_digest(commits: Sequence[Commit]) -> str:
    """Identity of what a group publishes: hash of its parts' checksums, in order of units."""
    import hashlib

    lines = "".join(f"{commit.unit} {commit.sha256}\n" for commit in commits)
    return hashlib.sha256(lines.encode()).hexdigest()
