"""What `rephrase run` shows: a live panel to people, plain lines to logs, JSON lines to machines."""

import itertools
import json
import signal
import subprocess
import sys
from typing import Any

from support.laptop import Laptop
from support.manifests import echo
from support.runs import small_run
from support.screen import Screen
from support.waiting import wait_until

SLOW = {"model": echo(concurrency=64, latency=0.3)}
"""Long enough to be looked at."""


def test_json_is_one_object_a_line_and_progress_only_grows(laptop: Laptop) -> None:
    small_run(laptop, **SLOW)

    ended = laptop.run("--workers", "2", "--json")

    assert ended.code == 0, ended.said
    assert ended.err == ""
    objects: list[dict[str, Any]] = [json.loads(line) for line in ended.out.splitlines()]
    assert {key for found in objects for key in found} == {
        "progress",
        "note",
        "exit",
        "reason",
        "error",
    }
    progress = [found["progress"] for found in objects if "progress" in found]
    counts = [(one["units"]["committed"], one["samples"]["finished"]) for one in progress]
    assert all(before <= after for before, after in itertools.pairwise(counts)), counts
    assert len({committed for committed, _ in counts}) > 2
    assert progress[-1]["finished"] is True
    assert progress[-1]["samples"]["finished"] == 2400
    assert objects[-1] == {"exit": 0, "reason": "Complete", "error": ""}


def test_json_tells_machines_why_a_run_did_not_begin(laptop: Laptop) -> None:
    small_run(laptop, source={"columns": {"text": "txt"}})

    ended = laptop.run("--json")

    last = json.loads(ended.out.splitlines()[-1])
    assert ended.code == 64, ended.said
    assert (last["exit"], last["reason"]) == (64, "InvalidSpec")
    assert 'no column "txt"' in last["error"]


def test_a_file_gets_plain_lines(undisturbed: Laptop) -> None:
    lines = (undisturbed.folder / "out-1.txt").read_text().splitlines()

    assert not [line for line in lines if "\x1b" in line]
    assert "worker-0: model loaded in " in "\n".join(lines)
    assert lines[-3].startswith("complete: 2,346 samples written, 54 skipped, 0 failed; ")
    assert lines[-2:] == ["output:   output", "report:   output/report.html"]
    assert (undisturbed.folder / "err-1.txt").read_text() == ""


def on_a_screen(laptop: Laptop) -> Screen:
    command = [sys.executable, "-m", "rephrase_runner", "run", "--workers", "2", "run.yaml"]
    return Screen(command, folder=laptop.folder, environment=laptop.environment())


def test_a_terminal_shows_a_live_panel_and_in_the_end_only_the_summary(laptop: Laptop) -> None:
    small_run(laptop, **SLOW)

    screen = on_a_screen(laptop)
    seen = wait_until(lambda: full_panel(screen), "both workers generate", within=120)
    code = screen.ended(within=120)

    assert code == 0, screen.lines
    labels = [line.split()[0] for line in seen]
    assert [label for label in labels if label in PANEL] == PANEL, seen
    assert sorted(line.split(":")[0] for line in screen.lines) == [
        "complete",
        "output",
        "report",
        "worker-0",
        "worker-1",
    ], screen.lines
    assert screen.lines[-2:] == ["output:   output", "report:   output/report.html"]


PANEL = ["run", "state", "samples", "documents", "tokens", "failures", "time"]


def full_panel(screen: Screen) -> list[str] | None:
    """The screen once it shows two workers at work and samples that are finished."""
    lines = screen.lines
    words = [line.split() for line in lines]
    working = {tuple(two) for two in (found[:2] for found in words) if two[-1] == "generating"}
    counted = [found for found in words if found[0] == "samples" and found[1] != "0"]
    return lines if working == {("0", "generating"), ("1", "generating")} and counted else None


def test_ctrl_c_on_a_terminal_leaves_a_clean_screen(laptop: Laptop) -> None:
    small_run(laptop, **SLOW)
    screen = on_a_screen(laptop)
    laptop.wait_for_commits(2)

    screen.process.send_signal(signal.SIGINT)
    code = screen.ended(within=20)

    assert code == 75, screen.lines
    assert screen.lines[-1] == "to continue: rephrase run run.yaml", screen.lines
    assert not set(PANEL) & {line.split()[0] for line in screen.lines}, screen.lines
    assert screen.received.count("\x1b[?25l") == screen.received.count("\x1b[?25h")  # the cursor
    assert laptop.processes() == []


def test_a_reader_that_goes_away_ends_the_run_and_all_its_processes(laptop: Laptop) -> None:
    small_run(laptop, **SLOW)
    command = f"{sys.executable} -m rephrase_runner run --json run.yaml | head -n 3"

    read = subprocess.run(
        ["bash", "-c", command],
        cwd=laptop.folder,
        env=laptop.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert len(read.stdout.splitlines()) == 3
    assert "Traceback" not in read.stderr
    assert laptop.processes() == []
