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


class _Notes:
    """What is noticed about one prompt's samples, while it is counted."""

    def __init__(self) -> None:
        self.truncated = 0
        self.finish: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.inputs: Counter[int] = Counter()
        self.longest = self.longest_input = 0
        self.openings: list[Opening] = []

    def add(self, sample: Sample, *, below: int) -> None:
        self.truncated += sample.truncated
        self.flags.update(sample.flags)
        self.notes.update(sample.notes)
        if sample.reason:
            self.reasons[sample.reason] += 1
        if sample.finish_reason:
            self.finish[sample.finish_reason] += 1
            self.inputs[step(sample.prompt_tokens)] += 1
            self.longest_input = max(self.longest_input, sample.prompt_tokens)
        if sample.status is Status.WRITTEN:
            self.lengths[step(sample.completion_tokens)] += 1
            self.longest = max(self.longest, sample.completion_tokens)
            place = sample_order(sample.source_id, sample.key.prompt, sample.key.rollout)
            if place < below:
                self.openings.append((place, beginning(sample.text)))

    def noticed(self) -> Noticed:
        return Noticed(
            truncated=self.truncated,
            finish=dict(sorted(self.finish.items())),
            flags=dict(sorted(self.flags.items())),
            reasons=dict(sorted(self.reasons.items())),
            notes=dict(sorted(self.notes.items())),
            lengths=dict(sorted(self.lengths.items())),
            longest=self.longest,
            inputs=dict(sorted(self.inputs.items())),
            longest_input=self.longest_input,
        )


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
    outcomes: Counter[tuple[str, Status]] = Counter()
    length: Counter[str] = Counter()
    generated: Counter[str] = Counter()
    notes = {name: _Notes() for name in sorted(prompts)}
    below = openings_below or {}
    prompt_tokens = 0
    for sample in samples:
        name = sample.key.prompt
        outcomes[name, sample.status] += 1
        length[name] += len(sample.text)
        prompt_tokens += sample.prompt_tokens
        generated[name] += sample.completion_tokens
        notes[name].add(sample, below=below.get(name, 0))
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
        for name in notes
    }
    return Tally(
        counts,
        reasons=_summed(one.reasons for one in notes.values()),
        flags=_summed(one.flags for one in notes.values()),
        tokens=Tokens(prompt=prompt_tokens, completion=generated.total()),
        truncated=sum(one.truncated for one in notes.values()),
        noticed={name: one.noticed() for name, one in notes.items()},
        openings={name: tuple(sorted(one.openings)) for name, one in notes.items() if one.openings},
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


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
