"""What a run asks of every worker, and at what pace a worker goes about it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from rephrase_runner.records import Plan
from rephrase_runner.units import Unit


@dataclass(frozen=True, slots=True)
class Pace:
    """A worker's clocks, in seconds; none of them changes what is written.

    Attributes:
        heartbeat: between two beats.
        lease: how long a silent holder is waited for.
        checkpoint: between two checkpoints of a unit.
        poll: between two looks for work where there is none.
        retry: before a failed request is sent again; doubled each time.
        hang: an engine without any progress for so long is dead.
    """

    heartbeat: float = 10
    lease: float = 60
    checkpoint: float = 60
    poll: float = 5
    retry: float = 0.5
    hang: float = 180


@dataclass(frozen=True, slots=True)
class Job:
    """What the run asks, read from the ledger.

    Attributes:
        units: of the plan, in order.
        rollouts: per prompt.
        kept: types of the kept columns.
        openings_below: by prompt, the hash below which a commit keeps an opening.
        request_attempts: engine calls per sample before it fails.
        engine_kills: recorded engine deaths, alone in flight, that condemn a document.
        engine_rebuilds: rebuilds in a row without a new sample before the worker gives up.
    """

    plan: Plan
    units: Sequence[Unit]
    rollouts: dict[str, int]
    kept: pa.Schema
    include_source_text: bool
    openings_below: dict[str, int]
    request_attempts: int = 3
    engine_kills: int = 2
    engine_rebuilds: int = 3

    def etag(self, unit: Unit) -> str:
        """Version of the file a unit is in, as planned."""
        return self.plan.files[unit.file].etag

    @property
    def keys_per_row(self) -> int:
        """Samples of one document."""
        return sum(self.rollouts.values())
