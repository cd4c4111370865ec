"""The runner's own decisions, called with what the model's objects say."""

from datetime import UTC, datetime
from functools import cache

from model.objects import Beat, Claim, Made, Samples
from rephrase_runner import account, parts, records, rows
from rephrase_runner.claims import Seen, judge
from rephrase_runner.records import Heartbeat, Hold, Names, Tokens
from rephrase_runner.rows import Status

PROMPT = "p"
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_LEASE_SECONDS = 60


@cache
def verdict(unit: int, epoch: int, claim: Claim, beat: Beat | None) -> str | None:
    """What `claims.judge` makes of a claim at first sight: released, abandoned, or None."""
    holder = None
    if beat is not None:
        heartbeat = Heartbeat(
            run="r",
            worker=claim.worker,
            beat=beat.number,
            state=beat.state,
            phase="generating",
            holds=tuple(Hold(unit=held, epoch=at) for held, at in beat.holds),
        )
        holder = Seen(heartbeat, _SOME_TIME)
    return judge(
        unit,
        epoch,
        records.Claim(run="r", worker=claim.worker, beat=claim.beat, why="free"),
        holder,
        own=None,
        earlier=None,
        monotonic=0,
        lease_seconds=_LEASE_SECONDS,
    ).why


@cache
def merged(checkpoints: tuple[tuple[str, Samples], ...]) -> Samples:
    """What `parts.merge` keeps of several checkpoints, by their real names."""
    real = [(name, [_sample(one) for one in samples]) for name, samples in checkpoints]
    return tuple(_made(sample) for _, sample in sorted(parts.merge(real).items()))


def checkpoint_name(unit: int, epoch: int, worker: str, number: int) -> str:
    """The name of a holder's checkpoint."""
    return Names("r").checkpoint(unit, epoch, worker, number)


def shared_name(unit: int, slice_: int, worker: str, number: int) -> str:
    """The name of a helper's checkpoint."""
    return Names("r").shared(unit, slice_, worker, number)


@cache
def commit_record(unit: int, samples: Samples, counted_rows: int) -> records.Commit:
    """The commit that a worker writes for these samples."""
    tally = account.tally([_sample(one) for one in samples], [PROMPT], part_bytes=len(samples))
    return records.Commit(
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


@cache
def imbalances(unit: int, samples: Samples, counted_rows: int, planned_rows: int) -> str:
    """What `account.imbalances` finds in a unit; empty if it balances."""
    commit = commit_record(unit, samples, counted_rows)
    return "; ".join(account.imbalances(commit, rows=planned_rows, rollouts={PROMPT: 1}))


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
