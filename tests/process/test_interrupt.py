"""Stopping a run loses nothing: it ends at once, says how to go on, and goes on from there."""

import json
import signal

import pytest

from support.laptop import Command, Laptop
from support.manifests import echo
from support.runs import small_keys, small_run
from support.waiting import wait_until

SLOW = {"model": echo(concurrency=32, latency=0.5)}
"""A unit takes about two seconds; what is written is the same as at full speed."""


def start(laptop: Laptop) -> Command:
    """A run whose two workers are in the middle of units."""
    command = laptop.start_run("--workers", "2")
    laptop.wait_for_workers(2)
    laptop.wait_for_commits(3)
    return command


def open_checkpoints(laptop: Laptop) -> set[int]:
    """Units with checkpoints that are not committed yet."""
    return {int(path.parent.name) for path in laptop.ledger("checkpoints")} - set(
        laptop.committed()
    )


def assert_goes_on(laptop: Laptop, undisturbed: Laptop, reason: str = "released") -> None:
    """Run again, at full speed: what was saved is used, and the dataset is the undisturbed one."""
    small_run(laptop)
    ended = laptop.run("--workers", "2")

    assert ended.code == 0, ended.said
    taken_over = list(laptop.log("worker-*", "unit taken over"))
    assert sum(entry["reused"] for entry in taken_over) > 0
    assert {entry["reason"] for entry in taken_over} == {reason}
    assert laptop.keys() == small_keys()
    assert laptop.samples().equals(undisturbed.samples())
    assert laptop.rephrase("verify", "output").code == 0


def test_an_interrupted_run_saves_what_is_finished_and_goes_on_from_there_at_once(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    # no checkpoint but those of the drain, and a lease that nobody could wait for
    small_run(
        laptop,
        **SLOW,
        durability={"leaseSeconds": 600, "checkpointSeconds": 600},
    )
    command = start(laptop)

    command.signal(signal.SIGINT)
    ended = command.ended(within=15)

    assert ended.code == 75, ended.said
    assert "stopping: finished samples are being saved" in ended.out
    assert ended.err.splitlines()[-1] == "to continue: rephrase run run.yaml"
    assert laptop.processes() == []
    beats = [json.loads(path.read_bytes()) for path in laptop.ledger("workers")]
    assert [(beat["state"], beat["holds"]) for beat in beats] == [("gone", []), ("gone", [])]
    assert laptop.ledger("checkpoints")
    assert_goes_on(laptop, undisturbed)


def test_a_second_interrupt_ends_it_at_once_and_nothing_committed_is_lost(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    small_run(laptop, **SLOW)
    command = start(laptop)
    wait_until(lambda: open_checkpoints(laptop), "a unit that is not done has a checkpoint")
    for worker in laptop.processes("worker"):
        worker.signal(signal.SIGSTOP)  # they cannot drain now

    command.signal(signal.SIGINT)
    wait_until(lambda: "stopping" in command.out, "it says that it stops")
    command.signal(signal.SIGINT)
    ended = command.ended(within=5)

    assert ended.code == 75, ended.said
    assert laptop.processes() == []
    assert_goes_on(laptop, undisturbed, "stale")


def test_a_worker_that_is_told_to_stop_drains_and_is_started_again(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    small_run(laptop, model=echo(concurrency=64, latency=0.2))
    command = start(laptop)

    laptop.processes("worker")[0].signal(signal.SIGTERM)
    ended = command.ended()

    assert ended.code == 0, ended.said
    assert "worker 0 ended (Drained: stopped on request. " in ended.out
    assert laptop.keys() == small_keys()
    assert laptop.samples().equals(undisturbed.samples())


def test_an_interrupt_while_the_model_loads_ends_at_once(laptop: Laptop) -> None:
    small_run(laptop, model=echo("--start-seconds=100"))
    command = laptop.start_run("--workers", "1")
    wait_until(lambda: laptop.processes("worker"), "a worker is started")

    command.signal(signal.SIGINT)
    ended = command.ended(within=15)

    assert ended.code == 75, ended.said
    assert laptop.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_before_anything_is_planned_ends_at_once(
    laptop: Laptop, number: signal.Signals
) -> None:
    small_run(laptop)
    command = laptop.start_run()
    wait_until(lambda: laptop.processes("driver"), "the driver is started")

    command.signal(number)
    ended = command.ended(within=15)

    assert ended.code == 75, ended.said
    assert "to continue: rephrase run run.yaml" in ended.err
    assert laptop.processes() == []
