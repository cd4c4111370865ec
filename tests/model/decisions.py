"""The runner's own decisions, called with what the model's objects say."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from rephrase_runner import account, parts, rows
from rephrase_runner.claims import Seen, judge
from rephrase_runner.records import Claim, Commit, Heartbeat, Hold, Names, Tokens
from rephrase_runner.rows import Status

PROMPT = "p"
_EPOCH_OF_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_LEASE_SECONDS = 60


class Made(NamedTuple):
    """A sample: row `key` of a unit, made by a process for a run. Two makers make two texts."""

    run: int
    key: int
    maker: int
    status: str = "written"


Samples = tuple[Made, ...]


class Beat(NamedTuple):
    """A heartbeat. `holds`: (unit, epoch); `committed`: units."""

    number: int
    state: str = "live"
    holds: tuple[tuple[int, int], ...] = ()
    committed: tuple[int, ...] = ()


@lru_cache(maxsize=None)
def verdict(unit: int, epoch: int, worker: str, claimed_at: int, beat: Beat | None) -> str | None:
    """What `claims.judge` makes of a claim at first sight: released, abandoned, or None."""
    claim = Claim(run="r", worker=worker, beat=claimed_at, why="free")
    holder = None
    if beat is not None:
        heartbeat = Heartbeat(
            run="r",
            worker=worker,
            beat=beat.number,
            state=beat.state,
            phase="generating",
            holds=tuple(Hold(unit=held, epoch=at) for held, at in beat.holds),
        )
        holder = Seen(heartbeat, _EPOCH_OF_TIME)
    return judge(
        unit,
        epoch,
        claim,
        holder,
        own=None,
        earlier=None,
        monotonic=0,
        lease_seconds=_LEASE_SECONDS,
    ).why


def checkpoint_name(unit: int, epoch: int, worker: str, number: int, *, slice_: bool) -> str:
    """The real name of a checkpoint: which of two equals is kept depends on its order."""
    name = Names("r").checkpoint(unit, epoch, worker, number)
    folder, file = name.rsplit("/", 1)
    return f"{folder}/s{file[1:]}" if slice_ else name


@lru_cache(maxsize=None)
def merged(checkpoints: tuple[tuple[str, Samples], ...]) -> Samples:
    """What `parts.merge` keeps of several checkpoints."""
    real = [(name, [_sample(one) for one in samples]) for name, samples in checkpoints]
    return tuple(_made(sample) for _, sample in sorted(parts.merge(real).items()))


def _sample(made: Made) -> rows.Sample:
    return rows.Sample(
        key=rows.Key(0, made.key, PROMPT, 0),
        source_id="",
        status=Status(made.status),
        text=f"{made.run} {made.maker}",
    )


def _made(sample: rows.Sample) -> Made:
    run, maker = sample.text.split()
    return Made(int(run), sample.key.row, int(maker), sample.status.value)


@lru_cache(maxsize=None)
def commit_record(unit: int, samples: Samples, counted_rows: int) -> Commit:
    """The commit that `worker.py` would write for these samples."""
    tally = account.tally([_sample(one) for one in samples], [PROMPT], part_bytes=len(samples))
    return Commit(
        run="r",
        unit=unit,
        epoch=1,
        worker="w",
        beat=1,
        part="",
        sha256=repr(samples),
        bytes=len(samples),
        rows=counted_rows,
        filtered=0,
        counts=tally.counts,
        reasons=tally.reasons,
        tokens=Tokens(),
    )


@lru_cache(maxsize=None)
def imbalances(unit: int, samples: Samples, counted_rows: int, planned_rows: int) -> str:
    """What `account.imbalances` finds in a unit; empty if it balances."""
    commit = commit_record(unit, samples, counted_rows)
    return "; ".join(account.imbalances(commit, rows=planned_rows, rollouts={PROMPT: 1}))


def by_key(samples: Iterable[Made]) -> Samples:
    """Samples in the order of a part."""
    return tuple(sorted(samples))
