"""A real Prometheus server for tests: scrapes what its configuration names, and answers queries."""

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from support.s3 import free_ports
from support.waiting import wait_until

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """A series over time.

    Attributes:
        labels: without its name.
        points: (seconds since 1970, value), in order.
    """

    labels: Labels
    points: list[tuple[float, float]]


class Prometheus:
    """A server; a context manager.

    Args:
        folder: for its configuration, its data and its log.
        jobs: scrape configurations.
        rules: groups of rules.
        interval: of scrapes and rules.
    """

    def __init__(
        self,
        folder: Path,
        jobs: Sequence[Mapping[str, Any]],
        *,
        rules: Sequence[Mapping[str, Any]] = (),
        interval: str = "1s",
    ) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": list(rules)}))
        config = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yaml"],
            "scrape_configs": list(jobs),
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--web.enable-lifecycle",
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: self._is_ready() or self._has_ended(), "Prometheus is ready")
        assert not self._has_ended(), (self._folder / "prometheus.log").read_text()
        return self

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return bool(self._get("/-/ready"))
        except OSError:
            return False

    def metrics(self) -> dict[str, float]:
        """Of the server itself: its values without labels."""
        lines = [line.split() for line in self._get("/metrics").splitlines()]
        return {line[0]: float(line[1]) for line in lines if line[0] != "#" and "{" not in line[0]}

    def ask(self, query: str) -> list[tuple[Labels, float]]:
        """What a query gives now."""
        found = self._ask("query", query=query)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, query: str) -> float | None:
        """The one value that a query gives now; None if it gives none."""
        found = self.ask(query)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def over_time(self, query: str, start: float, end: float, step: float) -> list[Line]:
        """What a query gives from one time to another."""
        found = self._ask("query_range", query=query, start=start, end=end, step=step)
        return [
            Line(one["metric"], [(float(time), float(value)) for time, value in one["values"]])
            for one in found["result"]
        ]

    def _ask(self, what: str, **parameters: object) -> dict[str, Any]:
        answer = json.loads(self._get(f"/api/v1/{what}", **parameters))
        found: dict[str, Any] = answer["data"]
        return found

    def _get(self, path: str, **parameters: object) -> str:
        """Without a proxy. An error's body is the message."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        query = urllib.parse.urlencode(parameters)
        try:
            with opener.open(f"http://127.0.0.1:{self._port}{path}?{query}", timeout=30) as answer:
                body: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise OSError(f"{query}: {error.read().decode()}") from error
        return body.decode()
