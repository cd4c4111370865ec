"""The account: what a unit, a group and a run add up to, and whether it balances. Pure.

For every unit and prompt: in = written + skipped + failed, and in = (planned rows - filtered) x
rollouts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rephrase_runner.histogram import added, step
from rephrase_runner.openings import Gathered, beginning
from rephrase_runner.records import Commit, Counts, Noticed, Opening, Openings, Tokens
from rephrase_runner.rows import Sample, Status
from rephrase_runner.seeds import sample_order


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of some samples."""

    counts: dict[str, Counts]
    reasons: dict[str, int]
    flags: dict[str, int]
    tokens: Tokens
    truncated: int
    noticed: dict[str, Noticed]
    openings: Openings


def tally(
    samples: Iterable[Sample],
    prompts: Iterable[str],
    *,
    part_bytes: int = 0,
    openings_below: Mapping[str, int] | None = None,
) -> Tally:
    """Count samples by prompt and outcome.

    Args:
        samples: what is in a part.
        prompts: all prompts of the run; one without samples is there with zeros.
        part_bytes: size of the part; each prompt's `bytes` is its share of it by length of text.
        openings_below: by prompt, the hash below which an opening is kept (`openings.bound`).
    """
    by_prompt: dict[str, list[Sample]] = {name: [] for name in sorted(prompts)}
    for sample in samples:
        by_prompt[sample.key.prompt].append(sample)
    below = openings_below or {}
    length = {name: sum(len(one.text) for one in found) for name, found in by_prompt.items()}
    total = max(1, sum(length.values()))
    counts = {
        name: _counts(found, part_bytes=part_bytes * length[name] // total)
        for name, found in by_prompt.items()
    }
    noticed = {name: _noticed(found) for name, found in by_prompt.items()}
    openings = {name: _openings(found, below.get(name, 0)) for name, found in by_prompt.items()}
    return Tally(
        counts,
        reasons=_summed(one.reasons for one in noticed.values()),
        flags=_summed(one.flags for one in noticed.values()),
        tokens=Tokens(
            prompt=sum(one.prompt_tokens for found in by_prompt.values() for one in found),
            completion=sum(one.tokens for one in counts.values()),
        ),
        truncated=sum(one.truncated for one in noticed.values()),
        noticed=noticed,
        openings={name: found for name, found in openings.items() if found},
    )


def _counts(samples: Sequence[Sample], *, part_bytes: int) -> Counts:
    """Of one prompt."""
    outcomes = Counter(sample.status for sample in samples)
    return Counts(
        in_=len(samples),
        written=outcomes[Status.WRITTEN],
        skipped=outcomes[Status.SKIPPED],
        failed=outcomes[Status.FAILED],
        bytes=part_bytes,
        tokens=sum(sample.completion_tokens for sample in samples),
    )


def _noticed(samples: Sequence[Sample]) -> Noticed:
    """Of one prompt. Counted column by column: a part has thousands of samples."""
    answered = [sample for sample in samples if sample.finish_reason]
    lengths = Counter(
        sample.completion_tokens for sample in samples if sample.status is Status.WRITTEN
    )
    inputs = Counter(sample.prompt_tokens for sample in answered)
    return Noticed(
        truncated=sum(sample.truncated for sample in samples),
        finish=_sorted(Counter(sample.finish_reason for sample in answered)),
        flags=_sorted(Counter(flag for sample in samples for flag in sample.flags)),
        reasons=_sorted(Counter(sample.reason for sample in samples if sample.reason)),
        notes=_summed(sample.notes for sample in samples if sample.notes),
        lengths=_stepped(lengths),
        longest=max(lengths, default=0),
        inputs=_stepped(inputs),
        longest_input=max(inputs, default=0),
    )


def _stepped(counts: Mapping[int, int]) -> dict[int, int]:
    """As the histogram has it."""
    steps: Counter[int] = Counter()
    for value, count in counts.items():
        steps[step(value)] += count
    return dict(sorted(steps.items()))


def _openings(samples: Iterable[Sample], below: int) -> tuple[Opening, ...]:
    """Of the rewrites of one prompt whose place is below this."""
    return tuple(
        sorted(
            (place, beginning(sample.text))
            for sample in samples
            if sample.status is Status.WRITTEN
            if (place := sample_order(sample.source_id, sample.key.prompt, sample.key.rollout))
            < below
        )
    )


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return _sorted(total)


def _together(one: Noticed, other: Noticed) -> Noticed:
    return Noticed(
        truncated=one.truncated + other.truncated,
        finish=_summed((one.finish, other.finish)),
        flags=_summed((one.flags, other.flags)),
        reasons=_summed((one.reasons, other.reasons)),
        notes=_summed((one.notes, other.notes)),
        lengths=added(one.lengths, other.lengths),
        longest=max(one.longest, other.longest),
        inputs=added(one.inputs, other.inputs),
        longest_input=max(one.longest_input, other.longest_input),
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
    noticed: dict[str, Noticed] = field(default_factory=dict)
    openings: Gathered = field(default_factory=Gathered)

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
        for name, noticed in commit.noticed.items():
            known = self.noticed.get(name)
            self.noticed[name] = noticed if known is None else _together(known, noticed)
        self.openings.add(commit.openings)

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
