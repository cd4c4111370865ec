"""Whatever is killed, and whenever: run again, and the dataset is the one of an undisturbed run."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from support.laptop import Laptop, Process
from support.manifests import echo
from support.runs import Keys, large_keys, large_run, small_keys, small_run
from support.waiting import wait_until

SLOW = {"model": echo(concurrency=64, latency=0.2)}
"""Slow enough to be killed in the middle of units; what is written is the same."""


@pytest.fixture(scope="module")
def undisturbed_large(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    machine = Laptop(tmp_path_factory.mktemp("undisturbed-large"))
    large_run(machine)
    ended = machine.run("--workers", "4")
    assert ended.code == 0, ended.said
    return machine


def assert_same(laptop: Laptop, undisturbed: Laptop, keys: Keys) -> None:
    """Every key once, every sample as in the undisturbed run, no unit begun after its commit."""
    assert laptop.keys() == keys
    assert laptop.samples().equals(undisturbed.samples())
    assert laptop.dead_letters() == undisturbed.dead_letters()
    assert list(claims_after_the_commit(laptop)) == []
    verified = laptop.rephrase("verify", "output")
    assert verified.code == 0, verified.said


def claims_after_the_commit(laptop: Laptop) -> Iterator[str]:
    """Takeovers of units that had their commit already: somebody generated them anew.

    A claim alone may come after the commit: who has put one looks for a commit once more, and lets go.
    """
    taken = {(one["unit"], one["epoch"]) for one in laptop.log("worker-*", "unit taken over")}
    # its name is set after its bytes are written, and changes the file's own times
    committed = {int(path.stem): path.stat().st_ctime for path in laptop.ledger("commits")}
    for claim in laptop.ledger("claims"):
        unit, epoch = int(claim.parent.name), int(claim.stem)
        if (unit, epoch) in taken and claim.stat().st_mtime > committed[unit]:
            yield f"{claim.parent.name}/{claim.stem}"


def claims_of(laptop: Laptop, units: list[int]) -> list[str]:
    folders = {f"{unit:08d}" for unit in units}
    return [str(path) for path in laptop.ledger("claims") if path.parent.name in folders]


def reused(laptop: Laptop) -> int:
    """Samples that a worker took over from checkpoints."""
    return sum(entry["reused"] for entry in laptop.log("worker-*", "unit taken over"))


def runs_a_loop(process: Process) -> bool:
    """Whether its imports are done: an event loop has an epoll."""
    files = os.listdir(f"/proc/{process.pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # closed in between
        return any("eventpoll" in os.readlink(f"/proc/{process.pid}/fd/{file}") for file in files)
    return False


def unreported_commits(laptop: Laptop) -> set[int]:
    """Commits that no heartbeat tells of."""
    beats = [json.loads(path.read_bytes()) for path in laptop.ledger("workers")]
    return set(laptop.committed()) - {unit for beat in beats for unit in beat["committed"]}


def test_a_run_that_loses_power_twice_ends_with_the_same_dataset(
    laptop: Laptop, undisturbed_large: Laptop
) -> None:
    large_run(laptop, model=echo(concurrency=128, latency=0.15))

    for commits in (8, 22):
        laptop.start_run("--workers", "4")
        laptop.wait_for_commits(commits)
        laptop.lose_power()
        done = laptop.committed()
        claims = claims_of(laptop, done)
        published = {path: path.read_bytes() for path in laptop.output.glob("data/*/*.parquet")}
    assert published, "a group was published before the second kill"
    ended = laptop.run("--workers", "4")

    assert ended.code == 0, ended.said
    assert_same(laptop, undisturbed_large, large_keys())
    assert reused(laptop) > 0
    assert claims_of(laptop, done) == claims, "no unit was claimed that had a commit"
    assert {path: path.read_bytes() for path in published} == published


@pytest.mark.parametrize("kind", ["worker", "driver"])
def test_a_killed_process_is_replaced_and_the_run_ends_as_if_nothing_had_happened(
    laptop: Laptop, undisturbed: Laptop, kind: str
) -> None:
    small_run(laptop, **SLOW)
    command = laptop.start_run("--workers", "2")
    laptop.wait_for_commits(4)

    victim = laptop.processes(kind)[0]
    victim.signal(signal.SIGKILL)
    ended = command.ended()

    assert ended.code == 0, ended.said
    assert f"{kind} " in ended.out
    assert "starting it again" in ended.out
    assert_same(laptop, undisturbed, small_keys())


def test_a_commit_that_its_worker_had_no_time_to_report_is_published_too(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    small_run(laptop, **SLOW)
    command = laptop.start_run("--workers", "2")
    laptop.wait_for_commits(4)

    unreported: set[int] = set()
    while not unreported:  # stop both between commit and heartbeat, if need be at another commit
        wait_until(lambda: unreported_commits(laptop), "a unit is committed")
        workers = laptop.processes("worker")
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        unreported = unreported_commits(laptop)
        for worker in workers:
            worker.signal(signal.SIGKILL if unreported else signal.SIGCONT)
    ended = command.ended(within=60)

    assert ended.code == 0, ended.said
    assert_same(laptop, undisturbed, small_keys())


def test_workers_and_driver_end_by_themselves_when_rephrase_run_is_killed(laptop: Laptop) -> None:
    small_run(laptop, **SLOW)
    laptop.start_run("--workers", "2")
    laptop.wait_for_workers(2)
    laptop.wait_for_commits(2)

    laptop.processes("run")[0].signal(signal.SIGKILL)

    wait_until(lambda: not laptop.processes(), "all children have ended", within=10)
    beats = [json.loads(path.read_bytes()) for path in laptop.ledger("workers")]
    assert {beat["state"] for beat in beats} == {"gone"}
    assert [beat["holds"] for beat in beats] == [[], []]


def test_a_worker_that_still_loads_its_model_ends_when_rephrase_run_is_killed(
    laptop: Laptop,
) -> None:
    small_run(laptop, model=echo("--start-seconds=60"))
    laptop.start_run("--workers", "1")
    wait_until(lambda: laptop.processes("worker"), "a worker was started")
    wait_until(lambda: runs_a_loop(laptop.processes("worker")[0]), "it gets to work")

    laptop.processes("run")[0].signal(signal.SIGKILL)

    wait_until(lambda: not laptop.processes(), "all children have ended", within=10)


def test_two_runs_of_one_manifest_at_once_share_the_work(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    small_run(laptop, **SLOW)

    commands = [laptop.start_run("--workers", "1") for _ in range(2)]
    ended = [command.ended() for command in commands]

    assert [one.code for one in ended] == [0, 0], [one.said for one in ended]
    assert_same(laptop, undisturbed, small_keys())
    workers = {json.loads(path.read_bytes())["worker"] for path in laptop.ledger("commits")}
    assert len(workers) == 2


@pytest.mark.full
def test_a_full_disk_stops_the_run_and_with_space_it_goes_on(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    laptop.output.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", laptop.output]
    ).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        small_run(laptop, **SLOW)

        full = laptop.run("--workers", "2")
        subprocess.run(["mount", "-o", "remount,size=20m", laptop.output], check=True)
        ended = laptop.run("--workers", "2")

        assert full.code == 69, full.said
        assert "StorageFull: " in full.err
        assert "no space left on device. Free space and run again." in full.err
        assert ended.code == 0, ended.said
        assert_same(laptop, undisturbed, small_keys())
    finally:
        laptop.lose_power()
        subprocess.run(["umount", laptop.output], check=True)
