"""A thousand workers, twenty drivers, an operator with their runs: Prometheus' series and memory of them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from rephrase_runner.engines.vllm_metrics import PASSED_ON
from support.exposed import a_driver, a_worker, an_operator
from support.live_prometheus import Prometheus
from support.loopback import in_thread
from support.tiers import ROOT
from support.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.needs("promtool")]
RUNS, WORKERS = 20, 1000
MOST_MEGABYTES = 400


def growing(text: str) -> Iterator[bytes]:
    """A page of metrics whose values are others at each scrape."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    for number in count():
        yield "".join(f"{name} {float(value) + number}\n" for name, value in lines).encode()


@contextmanager
def served(pages: dict[str, Iterator[bytes]]) -> Iterator[str]:
    """Serve pages by path; yields host and port."""
    lock = threading.Lock()

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                body = next(pages[self.path])
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), Page)
    with in_thread(server) as address:
        yield address


def test_a_thousand_workers_cost_prometheus_what_is_documented(tmp_path: Path) -> None:
    own = a_worker(tmp_path / "store").render().decode()
    vllm = "".join(f'{name}{{engine="0",model_name="m"}} 1\n' for name in PASSED_ON)
    pages: dict[str, Iterator[bytes]] = {}
    jobs: list[dict[str, Any]] = []
    for kind, number, text in (
        ("worker", WORKERS, own + vllm),
        ("driver", RUNS, a_driver(tmp_path / "store").render().decode()),
        ("operator", 1, generate_latest(an_operator(RUNS).registry).decode()),
    ):
        kept = "\n".join(line for line in text.splitlines() if "_created" not in line)
        pages |= {f"/{kind}/{place}": growing(kept) for place in range(number)}
        labels = [
            {"__metrics_path__": f"/{kind}/{place}", "pod": f"{place}"} for place in range(number)
        ]
        jobs.append({"job_name": kind, "static_configs": labels})
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with served(pages) as address:
        for job in jobs:
            job["static_configs"] = [
                {"targets": [address], "labels": labels} for labels in job["static_configs"]
            ]
        with Prometheus(folder, jobs, interval="15s") as server:
            targets = WORKERS + RUNS + 1
            wait_until(lambda: server.value("sum(up)") == targets, "all are scraped", within=60)
            scraped = "min(count_over_time(up[10m])) >= 4"
            wait_until(lambda: server.ask(scraped), "four times each", within=120)
            series = int(server.metrics()["prometheus_tsdb_head_series"])
            megabytes = server.metrics()["process_resident_memory_bytes"] / 1e6

    sys.stdout.write(f"{series:,} series, {megabytes:.0f} MB\n")
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert series <= 75_000
    assert f"about {round(series, -3):,} series" in page
    assert megabytes < MOST_MEGABYTES
    assert f"less than {MOST_MEGABYTES} MB" in page
