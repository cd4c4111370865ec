"""`make bench`: what it costs to plan a large source. Prints figures; fails on a wrong plan or 1 GiB.

FILES Parquet files of 680,000 rows each (500 make the 340 million rows of FinePhrase's source), row groups of
1,000 rows, one file copied under many names: planning reads nothing but their footers. The driver is a real
process; its progress and its memory are looked at while it plans.

    python tests/bench/planning.py --files 500
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pyarrow as pa
import pyarrow.parquet as pq

from rephrase_api.launch import DriverLaunch

ROWS = 680_000
GROUP_ROWS = 1_000
UNIT = 2_000
MOST_BYTES = 1 << 30


def main() -> int:
    """Measure, check, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rephrase-bench-") as folder:
        source = Path(folder) / "source"
        write_source(source, options.files)
        seconds, peak, told = plan(Path(folder), source)
    units = options.files * -(-ROWS // UNIT)
    rows = options.files * ROWS
    print(
        f"planning: {options.files} files, {rows:,} rows, {units:,} units in {seconds:.1f} s; "
        f"peak memory {peak >> 20} MiB; progress told {told['steps']} times"
    )
    sound = (told["planned"], told["rows"]) == (units, rows)
    if not sound:
        print(f"wrong plan: {told}, expected {units} units and {rows} rows")
    if peak >= MOST_BYTES:
        print("more than 1 GiB")
    return 0 if sound and peak < MOST_BYTES else 1


def write_source(folder: Path, files: int) -> None:
    """One file with honest footers, and links to it: a footer is read as often as it is named."""
    folder.mkdir()
    first = folder / "part-00000.parquet"
    texts = pa.array(["The harbor of district 7 repairs maps."] * GROUP_ROWS)
    with pq.ParquetWriter(first, pa.schema([("text", pa.string()), ("id", pa.string())])) as writer:
        for start in range(0, ROWS, GROUP_ROWS):
            ids = pa.array([f"doc-{start // GROUP_ROWS}"] * GROUP_ROWS)
            writer.write_table(pa.table({"text": texts, "id": ids}), row_group_size=GROUP_ROWS)
    for number in range(1, files):
        os.link(first, folder / f"part-{number:05d}.parquet")
    size = first.stat().st_size
    print(
        f"source: {files} names of a file of {size / 1e6:.1f} MB in {ROWS // GROUP_ROWS} row groups"
    )


def plan(folder: Path, source: Path) -> tuple[float, int, dict[str, Any]]:
    """Run a driver until it has planned; seconds, peak memory in bytes, what `/progress` told."""
    manifest = {
        "apiVersion": "rephrase.io/v1alpha1",
        "kind": "RephraseRun",
        "metadata": {"name": "planning"},
        "spec": {
            "source": {"uri": str(source), "unit": {"targetDocuments": UNIT}},
            "prompts": [{"name": "brief", "template": "Shorten.\n\n[[DOCUMENT]]"}],
            "model": {"name": "echo", "engine": {"type": "Echo"}},
            "output": {"uri": str(folder / "output")},
        },
    }
    launch = DriverLaunch(run="planning", manifest=json.dumps(manifest))
    log = folder / "driver.log"
    rephrase = shutil.which("rephrase", path=str(Path(sys.executable).parent)) or "rephrase"
    began = time.perf_counter()
    with log.open("wb") as out:
        driver = subprocess.Popen(
            [rephrase, "driver"], env=os.environ | launch.to_environment(), stdout=out
        )
    try:
        told, peak = watch(driver.pid, log)
    finally:
        driver.send_signal(signal.SIGTERM)
        driver.wait()
    return time.perf_counter() - began, peak, told


def watch(pid: int, log: Path) -> tuple[dict[str, Any], int]:
    """Follow `/progress` until the plan is there; what it said, and the process' peak memory."""
    opener = build_opener(ProxyHandler({}))
    messages: set[str] = set()
    while True:
        time.sleep(0.1)  # noqa: TID251 - a measurement looks at its own pace
        peak = (
            int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) << 10
        )
        port = re.search(r'"listening".*"port": (\d+)', log.read_text())
        if port is None:
            continue
        with opener.open(f"http://127.0.0.1:{port[1]}/progress", timeout=30) as answer:
            found = json.load(answer)
        if found["message"]:
            messages.add(found["message"])
        if found["units"]["planned"]:
            planned, rows = found["units"]["planned"], found["documents"]["total"]
            return {"planned": planned, "rows": rows, "steps": len(messages)}, peak


if __name__ == "__main__":
    sys.exit(main())
