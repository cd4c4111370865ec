"""What a run asks of its store: requests grow with units and time, never with documents (section 11)."""

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.corpora import rows, write_parquet
from support.faulty_proxy import faulty_proxy
from support.fleet import Fleet, look_at
from support.laptop import Laptop
from support.manifests import BRIEF, a_manifest, echo
from support.scripted_s3 import scripted_s3

UNIT_DOCUMENTS = 40
CLOCKS = {"heartbeat_seconds": 2, "lease_seconds": 60, "checkpoint_seconds": 600}
FOR_TROUBLE = ("checkpoints", "deaths", "windows")
"""Kinds of objects that a unit without trouble does not need."""
FEW_LISTINGS = 15
"""At the start of a run and at its end, however large it is."""
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}


@dataclass(frozen=True, slots=True)
class Bill:
    """What a run asked for."""

    units: int
    seconds: float
    requests: Counter[tuple[str, str]]

    @property
    def beats(self) -> int:
        """Heartbeats that the clock made."""
        return math.ceil(self.seconds / CLOCKS["heartbeat_seconds"])

    def of(self, verb: str, *kinds: str) -> int:
        """Requests of this verb, for these kinds of objects or all."""
        return sum(
            n for (v, k), n in self.requests.items() if v == verb and (not kinds or k in kinds)
        )


async def bill_of(folder: Path, *, units: int, unit: int = UNIT_DOCUMENTS) -> Bill:
    """A run of one worker, undisturbed."""
    laptop = Laptop(folder)
    write_parquet(laptop.source / "part-0.parquet", rows(units * unit), row_group_rows=units * unit)
    async with scripted_s3() as server, faulty_proxy(server.endpoint) as proxy:
        storage = {"endpoint": proxy.endpoint, "region": "us-east-1", "allowHTTP": True}
        uri = "s3://bucket/run"
        laptop.write(
            a_manifest(
                source={"unit": {"targetDocuments": unit}},
                prompts=[BRIEF],
                model=echo(concurrency=16, latency=0.1),
                output={"uri": uri, "storage": storage},
            )
        )
        store = look_at(uri, storage | {"endpoint": server.endpoint})
        started = time.monotonic()
        async with Fleet(laptop, clocks=CLOCKS, store=store, environment=ENVIRONMENT) as fleet:
            assert await fleet.end(within=120) == 0
        return Bill(units, time.monotonic() - started, proxy.requests)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


async def test_a_unit_without_trouble_costs_three_puts_and_beats_and_no_listing(
    tmp_path: Path,
) -> None:
    few, many, large = await asyncio.gather(
        bill_of(tmp_path / "few", units=6),
        bill_of(tmp_path / "many", units=24),
        bill_of(tmp_path / "large", units=6, unit=4 * UNIT_DOCUMENTS),
    )

    for bill in (few, many, large):
        for kind in ("claims", "parts", "commits"):
            assert bill.of("PUT", kind) == bill.units, bill
        # one beat before each part, so that tokens are told before they count
        assert bill.of("PUT", "workers") <= bill.units + bill.beats + 3, bill
        assert bill.of("PUT", *FOR_TROUBLE) == bill.of("LIST", *FOR_TROUBLE) == 0, bill
        assert bill.of("LIST") - bill.of("LIST", "workers") <= FEW_LISTINGS, bill
        assert bill.of("HEAD", "claims") == 0, bill
        assert bill.of("GET", "commits") <= 2 * bill.units, "read when seen, and when published"
        # once to publish it; the report has a look at three
        assert bill.of("GET", "parts") <= bill.units + 3, bill
        assert bill.of("DELETE") <= 1, "the probe"
    assert once_a_run(few) == once_a_run(many) == once_a_run(large)


def once_a_run(bill: Bill) -> Counter[tuple[str, str]]:
    """What was put that has nothing to do with units or time."""
    per_unit_or_tick = ("claims", "parts", "commits", "workers", "progress")
    puts = {key: n for key, n in bill.requests.items() if key[0] == "PUT"}
    return Counter({key: n for key, n in puts.items() if key[1] not in per_unit_or_tick})
