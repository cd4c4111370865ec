"""Processes that die exactly before or after a chosen request to the store.

Run as a program this is a nursery: it imports everything once and forks a driver or worker per order, which
takes milliseconds instead of a second. In the child, the functions of obstore that `rephrase_runner.store`
calls are wrapped: they write down each request, and at the chosen one the process ends with `os._exit`, as
if the power had failed. `Nursery` is the other side.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from support.objects import kind_of
from support.waiting import wait_until

DIED = 113
"""Exit status of a process that has come to its point."""
TIMES = {"poll_seconds": 0.2, "skew_seconds": 0.2}
"""Instead of the runner's own, which fit real stores; they decide nothing but how long one waits."""
_OFTEN = 4
"""Points at so many requests of a verb and kind, where the clock repeats them: the others are alike."""
_BY_THE_CLOCK = {"progress", "workers", "groups", "shares", "source"}
_VERBS = {
    "put_async": "PUT",
    "get_async": "GET",
    "head_async": "HEAD",
    "delete_async": "DELETE",
}


@dataclass(frozen=True, slots=True)
class Point:
    """A moment in a process's life: before or after its nth request of a verb for a kind of object."""

    when: str
    verb: str
    kind: str
    nth: int

    @property
    def writes(self) -> bool:
        """Whether the request changes the store."""
        return self.verb in ("PUT", "DELETE")

    @property
    def name(self) -> str:
        """For people: "after PUT commits 2"."""
        return f"{self.when} {self.verb} {self.kind} {self.nth}"


def points_of(trace: Path) -> list[Point]:
    """The points of a life that was written down, in its order."""
    seen: Counter[tuple[str, str]] = Counter()
    points = []
    for line in trace.read_text().splitlines():
        verb, _, kind = line.partition(" ")
        seen[verb, kind] += 1
        if kind not in _BY_THE_CLOCK or seen[verb, kind] <= _OFTEN:
            points += [Point(when, verb, kind, seen[verb, kind]) for when in ("before", "after")]
    return points


# -- in the process that is to die ------------------------------------------------------------------


class Fate:
    """Counts requests and ends the process at its point.

    Args:
        point: None to live on.
        trace: file that each request is written to.
    """

    def __init__(self, point: Point | None, trace: Path) -> None:
        self._point = point
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._seen: Counter[tuple[str, str]] = Counter()

    def begin(self, verb: str, name: str) -> Callable[[], None]:
        """A request is about to be made; returns what to call when it has been."""
        kind = "source" if verb == "READ" else kind_of(name)
        self._seen[verb, kind] += 1
        os.write(self._trace, f"{verb} {kind}\n".encode())
        point = self._point
        if point is None or (verb, kind, self._seen[verb, kind]) != (
            point.verb,
            point.kind,
            point.nth,
        ):
            return _live_on
        if point.when == "before":
            _die()
        return _die


def _live_on() -> None:
    pass


def _die() -> NoReturn:
    os._exit(DIED)


def wrap_obstore(fate: Fate) -> None:
    """Put `fate` between the runner and its stores."""
    import obstore

    def wrapped(verb: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(store: object, name: str, *args: object, **options: object) -> Any:  # noqa: ANN401
            done = fate.begin(verb, name)
            try:
                return await real(store, name, *args, **options)
            finally:
                done()

        return call

    def listing(
        real: Callable[..., Any], store: object, prefix: str | None, **options: object
    ) -> Any:  # noqa: ANN401
        async def chunks() -> AsyncIterator[Any]:
            done = fate.begin("LIST", prefix or "")
            try:
                async for chunk in real(store, prefix, **options):
                    yield chunk
            finally:
                done()

        return chunks()

    def reading(real: Callable[..., Any], store: object, name: str, **options: object) -> Any:  # noqa: ANN401
        done = fate.begin("READ", name)
        try:
            return real(store, name, **options)
        finally:
            done()

    for function, verb in _VERBS.items():
        setattr(obstore, function, wrapped(verb, getattr(obstore, function)))
    obstore.list = partial(listing, obstore.list)
    obstore.get = partial(reading, obstore.get)


def live(order: Mapping[str, Any]) -> NoReturn:
    """Be the driver or worker that was ordered; never returns."""
    from rephrase_runner import claims, processes

    os.setsid()
    os.chdir(order["folder"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((0, nothing), (1, log), (2, log)):
        os.dup2(target, number)
    os.environ.clear()
    os.environ.update(order["environment"])
    processes.LOCAL_POLL_SECONDS = order["times"]["poll_seconds"]
    claims.SKEW_SECONDS = order["times"]["skew_seconds"]
    wrap_obstore(Fate(Point(**order["point"]) if order["point"] else None, Path(order["trace"])))
    code = 99
    try:
        main = {"driver": processes.driver_main, "worker": processes.worker_main}[order["kind"]]
        code = main(order["environment"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# -- the nursery ------------------------------------------------------------------------------------


def keep_nursery() -> None:
    """Fork what is ordered on standard input, one JSON object a line; answer each line with one."""
    for module in ("processes", "engines.echo"):
        import_module(f"rephrase_runner.{module}")
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    codes: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "code_of" in order:
            pid = order["code_of"]
            if pid not in codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            answer: dict[str, int | None] = {"code": codes.get(pid)}
        else:
            pid = os.fork()
            if not pid:
                live(order)
            codes.pop(pid, None)  # of an earlier child that had the same number
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


@dataclass(slots=True)
class Child:
    """A driver or worker from the nursery."""

    nursery: "Nursery"
    pid: int
    log: Path
    trace: Path

    def code(self) -> int | None:
        """Its exit status; None while it lives, negative for a signal."""
        code: int | None = self.nursery.ask({"code_of": self.pid})["code"]
        return code

    def ended(self, *, within: float = 60) -> int:
        """Wait for its end."""
        try:
            (code,) = wait_until(
                lambda: None if (code := self.code()) is None else (code,),
                f"process {self.pid} ends",
                within=within,
            )
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.last_lines}") from None
        return code

    @property
    def last_lines(self) -> str:
        """What it said last."""
        return "\n".join(self.log.read_text().splitlines()[-20:])


class Nursery:
    """Starts drivers and workers in milliseconds; they may be told when to die."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> "Nursery":
        """Import everything."""
        tests = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.crashing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": f"{tests}:{tests}/support/lean"},
            text=True,
        )
        self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill all that live."""
        self.kill_all()
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def start(
        self,
        kind: str,
        environment: Mapping[str, str],
        *,
        folder: Path,
        name: str,
        point: Point | None = None,
    ) -> Child:
        """Start a driver or worker with this environment.

        Args:
            kind: driver or worker.
            environment: all of it.
            folder: its working folder.
            name: of its log and trace there.
            point: where it dies.
        """
        log, trace = folder / f"{name}.log", folder / f"{name}.trace"
        trace.unlink(missing_ok=True)
        order = {
            "kind": kind,
            "environment": dict(environment),
            "folder": str(folder),
            "log": str(log),
            "trace": str(trace),
            "times": TIMES,
            "point": asdict(point) if point is not None else None,
        }
        child = Child(self, self.ask(order)["pid"], log, trace)
        self._children.append(child)
        return child

    def kill_all(self) -> None:
        """Kill what lives and forget all."""
        for child in self._living():
            os.kill(child.pid, 9)
            child.ended()
        self._children.clear()

    def _living(self) -> Iterator[Child]:
        return (child for child in self._children if child.code() is None)

    def ask(self, order: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Give an order; returns the answer."""
        if self._process.stdin is None:
            raise AssertionError("not open")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:  # noqa: ANN401 - JSON
        if self._process.stdout is None:
            raise AssertionError("not open")
        return json.loads(self._process.stdout.readline())


if __name__ == "__main__":
    keep_nursery()
