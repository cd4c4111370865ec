"""A worker's memory does not grow with what it has done."""

from pathlib import Path

import pytest

from support.corpora import write_corpus
from support.laptop import Laptop, Process
from support.manifests import BUILT_IN, a_manifest
from support.waiting import wait_until

UNIT = 500
EARLY, LATE = 10_000, 200_000


def peak_bytes(worker: Process) -> int:
    """The most memory that a process has had so far."""
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_workers_memory_is_flat_from_ten_thousand_to_two_hundred_thousand_documents(
    laptop: Laptop,
) -> None:
    write_corpus(laptop.source, files=4, rows_per_file=LATE // 4 + UNIT, row_group_rows=UNIT)
    laptop.write(
        a_manifest(
            source={"unit": {"targetDocuments": UNIT}},
            prompts=BUILT_IN,
            durability={"heartbeatSeconds": 1, "leaseSeconds": 60, "checkpointSeconds": 5},
        )
    )
    running = laptop.start_run("--workers", "1")

    def peak_after(documents: int) -> int:
        wait_until(
            lambda: len(laptop.ledger("commits")) >= documents // UNIT,
            f"{documents:,} documents are committed",
            within=1500,
        )
        (worker,) = laptop.processes("worker")
        return peak_bytes(worker)

    early, late = peak_after(EARLY), peak_after(LATE)

    laptop.lose_power()
    running.ended()
    print(f"peak at {EARLY:,}: {early / 1e6:.0f} MB, at {LATE:,}: {late / 1e6:.0f} MB")  # noqa: T201 - the figure
    assert late <= 1.1 * early
