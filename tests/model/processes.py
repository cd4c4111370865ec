"""A worker process as a value: where it stands, and what is in its hands."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from model.objects import Beat, Claim, Samples
from model.rules import ALL, Rules
from model.search import Move
from model.world import Name, Put, World


class At(StrEnum):
    """Where a worker stands: what its next request is."""

    WAITING = "waits for its run"
    START = "first heartbeat"
    IDLE = "looks for a unit"
    JUDGE = "reads the holder's heartbeat"
    CLAIM = "claims"
    CHECK = "looks for a commit after its claim"
    LIST = "lists what earlier holders left"
    READ = "reads what earlier holders left"
    RECHECK = "looks for a commit since something listed is gone"
    SOURCE = "reads the source"
    HELD = "generates"
    LIST_AGAIN = "lists what helpers did"
    READ_AGAIN = "reads what helpers did"
    PART = "puts the part"
    COMMIT = "puts the commit"
    DISCARD = "deletes its part"
    LIST_SWEEP = "lists what is to be swept"
    SWEEP = "sweeps"
    SHARE = "puts a share"
    HELP_LIST = "lists before helping"
    HELP_READ = "reads before helping"
    HELP_PART = "puts a helper's part"
    HELP_COMMIT = "puts a helper's commit"
    LEAVE = "last heartbeat"
    OUT = "has ended"
    DEAD = "is gone for good"


GONE = frozenset({At.OUT, At.DEAD})


class Worker(NamedTuple):
    """A worker process.

    Attributes:
        process: tells its samples from those of all others.
        name: its id in the ledger.
        run: whose it is.
        at: what it does next.
        beat: number of the last heartbeat it composed.
        told: what that said.
        flight: a heartbeat composed and not yet in the store.
        promised: every heartbeat from this number on lists what is held: one must still be sent.
        hold: unit and epoch that its heartbeats list; `leaked`: what they list for ever, by mistake.
        looked: unit and epoch (or slice) that it looks at without holding them; `holder`: its claim.
        put: a `put_new` not yet ended.
        samples: of the unit held; `saved`: those in checkpoints.
        rows: how many the source seems to have.
        checkpoints: how many it wrote.
        found: what a listing gave.
        known: units it believes committed; `reports`: those its heartbeats tell of.
    """

    process: int
    name: str
    run: int = 0
    at: At = At.START
    beat: int = 0
    told: Hashable = None
    flight: Beat | None = None
    promised: int = 0
    hold: tuple[int, int] | None = None
    leaked: tuple[int, int] | None = None
    looked: tuple[int, int] | None = None
    holder: Claim | None = None
    put: Put | None = None
    samples: Samples = ()
    saved: Samples = ()
    rows: int = 0
    checkpoints: int = 0
    found: tuple[Name, ...] = ()
    known: tuple[int, ...] = ()
    reports: tuple[int, ...] = ()

    @property
    def held(self) -> tuple[int, int]:
        """Unit and epoch of the claim in hand."""
        if self.hold is None:
            raise AssertionError(f"{self.name} holds nothing while it {self.at}")
        return self.hold

    @property
    def seen(self) -> tuple[int, int]:
        """Unit and epoch (or slice) that it looks at."""
        if self.looked is None:
            raise AssertionError(f"{self.name} looks at nothing while it {self.at}")
        return self.looked

    @property
    def missing(self) -> list[int]:
        """Rows without a sample."""
        done = {one.key for one in self.samples}
        return [key for key in range(self.rows) if key not in done]


@dataclass(frozen=True)
class Work:
    """What is to be done, and what may happen meanwhile.

    Attributes:
        workers, units, keys: how many; `keys` per unit.
        faults: puts that may go wrong.
        crashes: processes that may die; `successors`: another takes the place of the dead, or not.
        drains: a crash may also be a drain with a last word.
        engine_deaths: a crash may also be an engine's; the worker lives on and lets its unit go.
        suspicions: how often a living holder may be called stale.
        spare_beats: heartbeats travel (composed, then in the store), and this many may say nothing new.
        collectors: how often gc runs.
        helpers: idle workers help.
        recreation: the user may delete the output and use it again, with the last worker in the new run.
        replacement: the user may replace the source by one with one row fewer.
        driver: a driver learns of commits from heartbeats alone.
        failures: an engine may fail a sample.
        makers: samples of two processes differ.
        rules: those that hold.
    """

    workers: int = 2
    units: int = 1
    keys: int = 2
    faults: int = 0
    crashes: int = 0
    successors: tuple[bool, ...] = (True, False)
    drains: bool = False
    engine_deaths: bool = False
    suspicions: int = 2
    spare_beats: int = 0
    collectors: int = 0
    helpers: bool = False
    recreation: bool = False
    replacement: bool = False
    driver: bool = False
    failures: bool = False
    makers: bool = False
    rules: Rules = ALL


Moves = Iterator[Move[World, Worker]]
