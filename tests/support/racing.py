"""Many processes that create the same objects of one store at the same moment. Run as a program.

All are forked from one that has everything imported, wait for the same pipe to close, and then put every name
in the same order, several at once. Each writes down which names it was told are its own.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rephrase_runner.store import Outcome, StorageOptions, Store

_AT_ONCE = 4


def body_of(racer: int) -> bytes:
    """What a racer puts under every name."""
    return f"racer {racer}".encode()


def name_of(number: int) -> str:
    """The names that are raced for, as those of claims."""
    return f"claims/{number:08d}/0001.json"


def race(
    folder: Path,
    uri: str,
    options: StorageOptions,
    environment: Mapping[str, str],
    *,
    racers: int,
    names: int,
    within: float,
) -> list[set[int]]:
    """Let so many processes race; returns which names each was told are its own.

    Args:
        folder: for notes.
        uri: of the store.
        options: of the store.
        environment: of all racers, for the store's credentials.
        racers: processes.
        names: how many names each tries.
        within: seconds, after which they are killed.
    """
    tests = str(Path(__file__).parents[1])
    order = {
        "folder": str(folder),
        "uri": uri,
        "options": [options.endpoint, options.region, options.allow_http],
        "racers": racers,
        "names": names,
    }
    subprocess.run(
        [sys.executable, "-m", "support.racing", json.dumps(order)],
        env=os.environ | dict(environment) | {"PYTHONPATH": f"{tests}:{tests}/support/lean"},
        check=True,
        timeout=within,
    )
    return [set(json.loads((folder / f"{n}.json").read_bytes())) for n in range(racers)]


def hold_race(order: Mapping[str, Any]) -> int:
    """Fork the racers, start them all at once, wait for them; 0 if all came to the end."""
    waiting, starting = os.pipe()
    children = []
    for racer in range(order["racers"]):
        pid = os.fork()
        if not pid:
            os.close(starting)
            os.read(waiting, 1)
            run(racer, order)
        children.append(pid)
    os.close(waiting)
    os.close(starting)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


def run(racer: int, order: Mapping[str, Any]) -> NoReturn:
    """Be one of the racers."""
    code = 1
    try:
        mine = asyncio.run(put_all(racer, order))
        (Path(order["folder"]) / f"{racer}.json").write_text(json.dumps(sorted(mine)))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


async def put_all(racer: int, order: Mapping[str, Any]) -> set[int]:
    """Numbers of the names that are this racer's own."""
    store = Store(order["uri"], StorageOptions(*order["options"]), create=True)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def put(number: int) -> bool:
        async with gate:
            outcome = await store.put_new(name_of(number), body_of(racer), deadline_seconds=None)
        return outcome is Outcome.MINE

    told = await asyncio.gather(*(put(number) for number in range(order["names"])))
    return {number for number, mine in enumerate(told) if mine}


if __name__ == "__main__":
    sys.exit(hold_race(json.loads(sys.argv[1])))
