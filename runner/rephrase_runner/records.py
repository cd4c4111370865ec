"""The ledger's objects as models, and their names. Pure; `docs/ledger.md` says what each is for.

Bodies are small JSON with sorted keys, so that the same record is always the same bytes: `put_new`
tells a put of ours that was answered wrongly from somebody else's by comparing them.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

SPEC = "_run/spec.json"
MANIFEST = "_run/manifest.json"


class Part(BaseModel):
    """A value inside a record."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Record(Part):
    """A ledger object. `run` is the random id of the run it belongs to (ledger hole 10)."""

    schema_: Literal[1] = Field(1, alias="schema")
    run: str

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def to_bytes(self) -> bytes:
        """Canonical JSON, UTF-8."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse; raises pydantic.ValidationError on anything that is not such a record."""
        return cls.model_validate_json(data)


def canonical(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """JSON with sorted keys and no spare blanks, UTF-8: equal values are equal bytes."""
    import json

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class ResolvedPrompt(Part):
    """A prompt as it is sent: text with the placeholder, rollouts, and every sampling field."""

    name: str
    text: str
    rollouts: int
    sampling: dict[str, Any]


class Resolved(Part):
    """What the first driver looked up; every later process adopts it instead of looking again."""

    prompts: tuple[ResolvedPrompt, ...]
    system_message: str | None = None
    model_revision: str | None = None
    max_model_length: int | None = None


class SpecRecord(Record):
    """`_run/spec.json`: what the run means. `hash` is the hash of `declared` alone (ledger hole 19)."""

    declared: dict[str, Any]
    hash: str
    resolved: Resolved


class PlannedFile(Part):
    """A source file as it was when planned; reads are conditional on `etag`."""

    uri: str
    name: str
    size: int
    etag: str
    rows: int


class Plan(Record):
    """`plan.json`: names the unit table by its hash; only that table counts (ledger hole 11)."""

    plan: str
    sha256: str
    units: int
    rows: int
    slice_rows: int
    files: tuple[PlannedFile, ...]
    format: str
    kept_schema: str
    skipped_files: tuple[str, ...] = ()


class Claim(Record):
    """`claims/U/E`: this worker took unit U at epoch E. `beat`: its first heartbeat that lists it."""

    worker: str
    beat: int
    why: Literal["free", "released", "abandoned", "stale"]
    prev: str | None = None


class Hold(Part):
    """A unit that a worker holds. `next`: first row not finished; `left`: keys without a result."""

    unit: int
    epoch: int
    next: int = 0
    left: int = 0


class Heartbeat(Record):
    """`workers/W`: overwritten by its process alone; readers keep the highest `beat`."""

    worker: str
    beat: int
    state: Literal["live", "draining", "gone"]
    phase: Literal["loading", "generating", "idle", "draining", "gone"]
    pod: str = ""
    node: str = ""
    slot: int = 0
    pool: str = ""
    holds: tuple[Hold, ...] = ()
    committed: tuple[int, ...] = ()
    units_committed: int = 0
    samples: int = 0
    samples_checkpointed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    tokens_per_second: float = 0.0
    running: int = 0
    waiting: int = 0
    gpus: int = 0
    seconds: dict[str, float] = {}


class Counts(Part):
    """The account of one prompt: in = written + skipped + failed.

    `bytes`: estimated size when published; `tokens`: generated for its samples.
    """

    in_: int = Field(0, alias="in")
    written: int = 0
    skipped: int = 0
    failed: int = 0
    bytes: int = 0
    tokens: int = 0

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def plus(self, other: "Counts") -> "Counts":
        """Sum, field by field."""
        return Counts(
            in_=self.in_ + other.in_,
            written=self.written + other.written,
            skipped=self.skipped + other.skipped,
            failed=self.failed + other.failed,
            bytes=self.bytes + other.bytes,
            tokens=self.tokens + other.tokens,
        )


class Tokens(Part):
    """Tokens of written and failed samples as the engine counted them."""

    prompt: int = 0
    completion: int = 0

    def plus(self, other: "Tokens") -> "Tokens":
        """Sum, field by field."""
        return Tokens(
            prompt=self.prompt + other.prompt, completion=self.completion + other.completion
        )


class Noticed(Part):
    """What was noticed about the samples of one prompt; all of it adds up over units.

    `lengths` counts written samples by tokens of the answer, `inputs` all that the engine answered by
    tokens of the prompt, both in the steps of `histogram.step`; `finish` by what ended the answer;
    `notes` are those of the checks (`scrutiny.py`); `longest` answer and `longest_input`, in tokens.
    """

    truncated: int = 0
    finish: dict[str, int] = {}
    flags: dict[str, int] = {}
    reasons: dict[str, int] = {}
    notes: dict[str, int] = {}
    lengths: dict[int, int] = {}
    longest: int = 0
    inputs: dict[int, int] = {}
    longest_input: int = 0


Opening = tuple[int, str]
"""The hash that chooses a rewrite for the sample of its prompt, and how it begins."""
Openings = dict[str, tuple[Opening, ...]]


class Collapse(Part):
    """How much alike the rewrites of one prompt begin (`openings.py`), by length of the beginning."""

    samples: int
    top: dict[int, int]
    beginning: dict[int, str]
    distinct: dict[int, int]
    effective: dict[int, float]

    def share(self, length: int) -> float:
        """Of the rewrites that begin like the most."""
        return self.top[length] / self.samples


class Commit(Record):
    """`commits/U`: the first one is what the unit is. Of `rows` source rows `filtered` do not count.

    `openings`: of the rewrites that can be in the sample of the run (`openings.py`).
    """

    unit: int
    epoch: int
    worker: str
    beat: int
    part: str
    sha256: str
    bytes: int
    rows: int
    filtered: int
    counts: dict[str, Counts]
    reasons: dict[str, int]
    flags: dict[str, int] = {}
    tokens: Tokens
    truncated: int = 0
    noticed: dict[str, Noticed] = {}
    openings: Openings = {}
    seconds: float = 0.0
    reused: int = 0
    etag: str = ""

    def bare(self) -> Self:
        """What parts and publishing need of it; a large run has too many commits to hold the rest."""
        return self.model_copy(update={"noticed": {}, "openings": {}})


class GroupFile(Part):
    """A file of a group before it is written: its name and how many rows it will have."""

    path: str
    prompt: str
    rows: int


class Group(Record):
    """`groups/K`: units [first, end) are published together; digest = hash of their commits' checksums."""

    first: int
    end: int
    files: tuple[GroupFile, ...]
    digest: str


class DataFile(Part):
    """A published file and its checksum. `prompt` is empty for dead letters."""

    path: str
    prompt: str
    rows: int
    bytes: int
    sha256: str


class GroupDone(Record):
    """`groups/K.done`: all files of the group are there, with these checksums."""

    files: tuple[DataFile, ...]


class Stop(Part):
    """Why the driver asks all workers to drain."""

    reason: str
    message: str


class Open(Part):
    """A unit that is held at the tail of a run. `rate`: completion tokens per second of its holder."""

    unit: int
    epoch: int
    next: int
    left: int
    rate: float


class PaidPool(Part):
    """What the price of a pool's GPU hour is, or is found by in a price list."""

    name: str
    capacity_type: str
    gpu: str | None = None
    gpus: int = 0
    price: str | None = None


class Paying(Part):
    """The pools as the driver's spec has them: they are no part of the frozen spec. For `report.html`."""

    currency: str
    pools: tuple[PaidPool, ...]


class Progress(Record):
    """`progress.json`: the driver's cache. `committed` are facts, `claimed` hints; ranges [first, end).

    `tail` is empty until no unit is free; then it says who may be helped.
    """

    counter: int
    committed: tuple[tuple[int, int], ...]
    claimed: tuple[int, ...] = ()
    tail: tuple[Open, ...] = ()
    stop: Stop | None = None
    paying: Paying | None = None


class Manifest(Record):
    """`_run/manifest.json`: the run is complete, and this is its account. Its presence means Succeeded."""

    hash: str
    units: int
    rows: int
    filtered: int
    documents: int
    counts: dict[str, Counts]
    reasons: dict[str, int]
    tokens: Tokens
    discarded_tokens: int
    truncated: int
    noticed: dict[str, Noticed] = {}
    collapse: dict[str, Collapse] = {}
    gpu_seconds: float
    files: tuple[DataFile, ...]
    source: tuple[PlannedFile, ...]
    skipped_files: tuple[str, ...]
    declared: dict[str, Any]
    resolved: Resolved
    version: str


class PartsRemoved(Record):
    """`parts-removed.json`: somebody removed the parts of the finished run; they are not missing."""


class Death(Record):
    """`deaths/U/E`: the engine of a living worker died with these rows of the unit in flight."""

    worker: str
    node: str
    cause: Literal["exit", "hang", "oom"]
    in_flight: tuple[tuple[int, int], ...]
    message: str


class Window(Record):
    """`windows/U/E-N`: these rows are about to be tried with nothing else in flight."""

    rows: tuple[tuple[int, int], ...]


class Share(Record):
    """`shares/U/S`: a helper does this slice of the unit."""

    worker: str


class Names:
    """Names of one run's objects; numbers are padded so that names sort like numbers."""

    def __init__(self, run: str) -> None:
        self.folder = f"_run/{run}"

    def plan_table(self, sha256: str) -> str:
        """The unit table whose checksum begins so."""
        return f"{self.folder}/plan-{sha256[:12]}.parquet"

    @property
    def plan(self) -> str:
        """The record that names the table which counts."""
        return f"{self.folder}/plan.json"

    @property
    def progress(self) -> str:
        """The driver's cache."""
        return f"{self.folder}/progress.json"

    @property
    def workers(self) -> str:
        """Folder of all heartbeats."""
        return f"{self.folder}/workers"

    def worker(self, worker: str) -> str:
        """The heartbeat of one process."""
        return f"{self.workers}/{worker}.json"

    def claims(self, unit: int | None = None) -> str:
        """Folder of the claims of one unit, or of all."""
        return f"{self.folder}/claims" + ("" if unit is None else f"/{unit:08d}")

    def claim(self, unit: int, epoch: int) -> str:
        """One claim."""
        return f"{self.claims(unit)}/{epoch:04d}.json"

    def checkpoints(self, unit: int) -> str:
        """Folder of a unit's checkpoints."""
        return f"{self.folder}/checkpoints/{unit:08d}"

    def checkpoint(self, unit: int, epoch: int, worker: str, number: int) -> str:
        """One checkpoint of the holder at `epoch`."""
        return f"{self.checkpoints(unit)}/e{epoch:04d}-{worker}-{number:04d}.parquet"

    def shared(self, unit: int, slice_: int, worker: str, number: int) -> str:
        """One checkpoint of a helper who does this slice."""
        return f"{self.checkpoints(unit)}/s{slice_:04d}-{worker}-{number:04d}.parquet"

    def shares(self, unit: int) -> str:
        """Folder of a unit's shares."""
        return f"{self.folder}/shares/{unit:08d}"

    def share(self, unit: int, slice_: int) -> str:
        """The share of one slice."""
        return f"{self.shares(unit)}/{slice_:04d}.json"

    def deaths(self, unit: int) -> str:
        """Folder of a unit's recorded engine deaths."""
        return f"{self.folder}/deaths/{unit:08d}"

    def death(self, unit: int, epoch: int) -> str:
        """The engine death at one epoch."""
        return f"{self.deaths(unit)}/{epoch:04d}.json"

    def windows(self, unit: int) -> str:
        """Folder of a unit's windows."""
        return f"{self.folder}/windows/{unit:08d}"

    def window(self, unit: int, epoch: int, number: int) -> str:
        """One window of the holder at `epoch`."""
        return f"{self.windows(unit)}/{epoch:04d}-{number:04d}.json"

    @property
    def parts_removed(self) -> str:
        """Says that the parts of a finished run were removed on purpose."""
        return f"{self.folder}/parts-removed.json"

    @property
    def parts(self) -> str:
        """Folder of all parts."""
        return f"{self.folder}/parts"

    def part(self, unit: int, epoch: int, worker: str) -> str:
        """The part of a unit as this claim made it."""
        return f"{self.parts}/{unit:08d}-{epoch:04d}-{worker}.parquet"

    @property
    def commits(self) -> str:
        """Folder of all commits."""
        return f"{self.folder}/commits"

    def commit(self, unit: int) -> str:
        """The commit of a unit."""
        return f"{self.commits}/{unit:08d}.json"

    @property
    def folds(self) -> str:
        """Folder of the driver's snapshots of commits."""
        return f"{self.folder}/folds"

    def fold(self, commits: int) -> str:
        """The snapshot that was written when so many commits were known."""
        return f"{self.folds}/{commits:08d}.parquet"

    @property
    def groups(self) -> str:
        """Folder of the group records."""
        return f"{self.folder}/groups"

    def group(self, number: int) -> str:
        """The bounds of a group."""
        return f"{self.groups}/{number:05d}.json"

    def group_done(self, number: int) -> str:
        """The checksums of a group's files."""
        return f"{self.groups}/{number:05d}.done.json"


def unit_of(name: str) -> int:
    """The unit an object belongs to: `.../commits/U.json`, `.../parts/U-...` or `.../<kind>/U/...`."""
    folder, tail = name.rsplit("/", 2)[1:]
    return int(folder if folder.isdigit() else tail[:8])


def data_file(prompt: str, group: int) -> str:
    """Name of a published file."""
    return f"data/{prompt}/part-{group:05d}.parquet"


def dead_letter_file(group: int) -> str:
    """Name of a published file of skipped and failed samples."""
    return f"dead_letter/part-{group:05d}.parquet"
