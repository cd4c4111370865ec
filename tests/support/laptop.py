"""A machine with `rephrase` on it: real processes in a folder of their own.

Every process is known by the state folder in its environment, so that it is found again wherever it
went: into a session of its own, or to init when its parent was killed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from support.manifests import write_manifest
from support.waiting import wait_until

T = TypeVar("T")
_LEAN = Path(__file__).parent / "lean"
KEY = ("source_file", "source_row", "prompt", "rollout")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> str:
        """All of it, for messages of assertions."""
        return f"exit {self.code} after {self.seconds:.1f} s\n{self.out}{self.err}"


@dataclass(frozen=True, slots=True)
class Process:
    """A living process of the machine. `kind`: run, driver, worker, verify ..."""

    pid: int
    kind: str
    slot: int

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; fine if it has just ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Command:
    """A `rephrase` command that is going on, in a session of its own.

    Args:
        process: the command.
        out: file that its standard output goes to.
        err: the same for standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out, self._err = out, err
        self._started = time.monotonic()

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def ended(self, *, within: float = 120) -> Ended:
        """Wait for its end."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {within:g} s\n{self.out}{self.err}"
            ) from None
        return Ended(code, self.out, self.err, time.monotonic() - self._started)


class Laptop:
    """A folder with a source, a manifest, an output and the logs of all that ran.

    Args:
        folder: its working folder; `source/`, `run.yaml`, `output/` and `state/` lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "run.yaml"
        self.source = folder / "source"
        self.output = folder / "output"
        self.state = folder / "state"
        self._commands: list[Command] = []

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Make this the manifest of `run`."""
        write_manifest(self.manifest, manifest)

    # -- commands ---------------------------------------------------------------------------------

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What commands are started with: nothing of the tester's own clouds and runs."""
        foreign = ("REPHRASE_", "AWS_", "HF_", "XDG_", "PYTEST_", "FORCE_COLOR", "NO_COLOR")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = [str(_LEAN), *filter(None, [os.environ.get("PYTHONPATH")])]
        mine = {
            "PYTHONPATH": os.pathsep.join(path),
            "XDG_STATE_HOME": str(self.state),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hub"),
        }
        return kept | mine | dict(more or {})

    def start(self, *args: str, environment: Mapping[str, str] | None = None) -> Command:
        """Start `rephrase` with these arguments."""
        number = len(self._commands) + 1
        out, err = (self.folder / f"{end}-{number}.txt" for end in ("out", "err"))
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [sys.executable, "-m", "rephrase_runner", *args],
                cwd=self.folder,
                env=self.environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,
            )
        self._commands.append(Command(process, out, err))
        return self._commands[-1]

    def rephrase(
        self, *args: str, environment: Mapping[str, str] | None = None, within: float = 120
    ) -> Ended:
        """Run `rephrase` with these arguments to its end."""
        return self.start(*args, environment=environment).ended(within=within)

    def start_run(self, *args: str, environment: Mapping[str, str] | None = None) -> Command:
        """Start `rephrase run` of the manifest."""
        return self.start("run", *args, self.manifest.name, environment=environment)

    def run(
        self, *args: str, environment: Mapping[str, str] | None = None, within: float = 120
    ) -> Ended:
        """`rephrase run` to its end; no process of it is left then."""
        ended = self.start_run(*args, environment=environment).ended(within=within)
        assert self.processes() == [], ended.said
        return ended

    # -- processes --------------------------------------------------------------------------------

    def processes(self, *kinds: str) -> list[Process]:
        """Its living processes, of these kinds or of all, by pid."""
        mark = f"XDG_STATE_HOME={self.state}".encode()
        found = []
        for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:  # it has just ended
                continue
            if mark in variables and "rephrase_runner" in words:
                kind = words[words.index("rephrase_runner") + 1]
                slots = [v for v in variables if v.startswith(b"REPHRASE_SLOT=")]
                slot = int(slots[0].partition(b"=")[2]) if slots else 0
                found.append(Process(int(entry.name), kind, slot))
        return [process for process in found if not kinds or process.kind in kinds]

    def lose_power(self) -> None:
        """Kill everything with -9, those that start others first."""
        for process in sorted(self.processes(), key=lambda process: process.kind != "run"):
            process.signal(signal.SIGKILL)
        wait_until(lambda: not self.processes(), "all processes are gone", within=60)
        for command in self._commands:
            command.process.wait()

    # -- what was written -------------------------------------------------------------------------

    def ledger(self, folder: str = "") -> list[Path]:
        """Objects of the run's ledger below this folder of it, sorted by name."""
        found = self.output.glob(f"_run/*/{folder}/**/*" if folder else "_run/**/*")
        return sorted(path for path in found if path.is_file() and "#" not in path.name)

    def committed(self) -> list[int]:
        """Units that have a commit."""
        return [int(path.stem) for path in self.ledger("commits")]

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers are at work: each has sent a heartbeat."""
        wait_until(
            lambda: len(self.ledger("workers")) >= count, f"{count} workers beat", within=120
        )

    def wait_for_commits(self, count: int) -> None:
        """Wait until so many units are committed."""
        wait_until(
            lambda: len(self.committed()) >= count, f"{count} units are committed", within=120
        )

    def samples(self, *prompts: str) -> pa.Table:
        """The published data, in order of the key."""
        folders = prompts or [path.name for path in self.output.glob("data/*")]
        tables = [ds.dataset(self.output / "data" / name).to_table() for name in folders]
        return pa.concat_tables(tables).sort_by([(name, "ascending") for name in KEY])

    def dead_letters(self) -> list[dict[str, Any]]:
        """The dead letters, in order of the key."""
        table = ds.dataset(self.output / "dead_letter").to_table()
        found: list[dict[str, Any]] = table.sort_by([(n, "ascending") for n in KEY]).to_pylist()
        return found

    def keys(self) -> list[tuple[str, int, str, int]]:
        """Keys of all published samples and dead letters, in order."""
        tables = [
            ds.dataset(self.output / name).to_table(list(KEY))
            for name in ("data", "dead_letter")
            if (self.output / name).is_dir()
        ]
        columns = [pa.concat_tables(tables)[name].to_pylist() for name in KEY]
        return sorted(zip(*columns, strict=True))

    def record(self, name: str) -> dict[str, Any]:
        """A JSON object of the output, `_run/manifest.json` for example."""
        found: dict[str, Any] = json.loads((self.output / name).read_bytes())
        return found

    def log(self, pattern: str, message: str) -> Iterator[dict[str, Any]]:
        """Entries with this message in the logs of all runs whose file name fits."""
        for path in sorted(self.state.glob(f"rephrase/*/*/{pattern}.log")):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if entry["message"] == message:
                        yield entry


def side_by_side(jobs: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Results of jobs that mostly wait for a process to start, four at a time."""
    with ThreadPoolExecutor(4) as pool:
        going = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: future.result() for name, future in going.items()}


def tree(folder: Path, *, but: Iterable[str] = ()) -> dict[str, bytes]:
    """Every file below a folder with its bytes, so that "nothing changed" is one comparison."""
    left_out = tuple(but)
    return {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(folder))).startswith(left_out)
    }


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    """A machine with nothing on it yet; whatever still runs at the end is killed."""
    machine = Laptop(tmp_path)
    yield machine
    machine.lose_power()
