"""The bodies of the ledger's objects, as far as the protocol depends on them."""

from typing import NamedTuple

from model.world import Name


class Made(NamedTuple):
    """A sample: row `key` of a unit, made by a process for a run. Two makers make two texts."""

    run: int
    key: int
    maker: int
    status: str = "written"


Samples = tuple[Made, ...]
"""In the order of their keys."""


class Claim(NamedTuple):
    """`claims/U/E`. `beat`: the first heartbeat that lists it."""

    worker: str
    beat: int


class Beat(NamedTuple):
    """`workers/W`. `holds`: (unit, epoch); `committed`: units that it tells the driver of."""

    number: int
    state: str = "live"
    holds: tuple[tuple[int, int], ...] = ()
    committed: tuple[int, ...] = ()


class Checkpoint(NamedTuple):
    """`checkpoints/U/...`."""

    run: int
    samples: Samples


class Commit(NamedTuple):
    """`commits/U`. `samples` stand for the checksum of the part; `rows` for the account."""

    epoch: int | str
    worker: str
    part: Name
    samples: Samples
    rows: int


class File(NamedTuple):
    """A published file: its footer (run, group, kind), its keys (units), and who wrote the bytes."""

    run: int
    digest: str
    kind: str
    keys: tuple[int, ...]
    maker: int

    @property
    def footer(self) -> tuple[int, str, str]:
        """What tells whose rows these are."""
        return self.run, self.digest, self.kind


class Group(NamedTuple):
    """`groups/K`: units [first, end), and the hash of their commits."""

    first: int
    end: int
    digest: str


class Manifest(NamedTuple):
    """`manifest.json`."""

    run: int
    files: tuple[File, ...]


class Plan(NamedTuple):
    """`plan.json`: the table it names, and what its driver saw of the source."""

    table: Name
    saw: int
