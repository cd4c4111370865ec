"""What a worker tells about itself in its heartbeats: phase, counters, rate, seconds by phase."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

from rephrase_runner.durations import UNIT_SECONDS, Durations
from rephrase_runner.recent_openings import RecentOpenings
from rephrase_runner.records import Commit

_REMEMBERED_COMMITS = 32
_RATE_BEATS = 6


class Vitals:
    """Counters of one process; plain numbers, changed from the event loop only.

    Args:
        now: the loop's clock, seconds.
    """

    def __init__(self, now: float) -> None:
        self.phase = "loading"
        self.units_committed = 0
        self.samples = 0
        self.samples_checkpointed = 0
        self.failed = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.tokens: Counter[tuple[str, str]] = Counter()
        """By kind (prompt, completion) and outcome (committed, discarded)."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Committed samples by prompt and outcome."""
        self.openings: defaultdict[str, RecentOpenings] = defaultdict(RecentOpenings)
        """Of the last rewrites, by prompt."""
        self.unit_durations = Durations(UNIT_SECONDS)
        self.leases_expired = 0
        """Units taken over from workers that fell silent."""
        self.requests: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """How many the engine has now, and how many wait for their next attempt."""
        self.saved_at = now
        self._commits: deque[int] = deque(maxlen=_REMEMBERED_COMMITS)
        self._seconds: dict[str, float] = {}
        self.started = now
        self._since = now
        self._marks: deque[tuple[float, int]] = deque([(now, 0)], maxlen=_RATE_BEATS)

    def enter(self, phase: str, now: float) -> None:
        """The process is in this phase from now on."""
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._since
        self._since = now
        self.phase = phase

    def sample(self, prompt_tokens: int, completion_tokens: int, *, failed: bool) -> None:
        """One more key has its outcome."""
        self.samples += 1
        self.failed += failed
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += completion_tokens

    def saved(self, now: float) -> None:
        """Finished samples are durable."""
        self.saved_at = now

    def committed(self, commit: Commit) -> None:
        """One more unit has our commit."""
        self.units_committed += 1
        self._commits.append(commit.unit)
        self.tokens["prompt", "committed"] += commit.tokens.prompt
        self.tokens["completion", "committed"] += commit.tokens.completion
        self.unit_durations.observe(commit.seconds)
        for prompt, count in commit.counts.items():
            for outcome in ("written", "skipped", "failed"):
                self.outcomes[prompt, outcome] += getattr(count, outcome)

    def discarded(self, commit: Commit) -> None:
        """Another's commit was first: what we generated is thrown away."""
        self.tokens["completion", "discarded"] += commit.tokens.completion

    def seconds(self, now: float) -> Mapping[str, float]:
        """Time spent in each phase."""
        self.enter(self.phase, now)
        return dict(self._seconds)

    def found_commit(self, unit: int) -> None:
        """Another's commit was met with; the driver may not know of it."""
        if unit not in self._commits:
            self._commits.append(unit)

    def describe(self, now: float) -> dict[str, Any]:
        """The changing fields of a heartbeat; call once per beat, since the rate is taken between beats."""
        self.enter(self.phase, now)
        self._marks.append((now, self.generated_tokens))
        first, tokens = self._marks[0]
        elapsed = now - first
        running, waiting = self.requests()
        state = self.phase if self.phase in {"draining", "gone"} else "live"
        return {
            "state": state,
            "phase": self.phase,
            "committed": tuple(self._commits),
            "units_committed": self.units_committed,
            "samples": self.samples,
            "samples_checkpointed": self.samples_checkpointed,
            "failed": self.failed,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "running": running,
            "waiting": waiting,
            "tokens_per_second": (self.generated_tokens - tokens) / elapsed if elapsed else 0.0,
            "seconds": {name: round(value, 3) for name, value in self._seconds.items()},
        }
