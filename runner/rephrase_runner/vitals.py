"""What a worker tells about itself in its heartbeats: phase, counters, rate, seconds by phase."""

from collections import deque
from typing import Any

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

    def committed(self, unit: int) -> None:
        """One more unit has our commit."""
        self.units_committed += 1
        self._commits.append(unit)

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
            "tokens_per_second": (self.generated_tokens - tokens) / elapsed if elapsed else 0.0,
            "seconds": {name: round(value, 3) for name, value in self._seconds.items()},
        }
