"""The operator as a process beside the tests, with the rights of its own ServiceAccount and nothing else."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from support.cluster.access import Access

_TESTS = Path(__file__).parents[2]


def environment(kubeconfig: Path) -> dict[str, str]:
    """Of an operator that looks often, and serves nothing."""
    return {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}},
        "PYTHONPATH": str(_TESTS),
        "KUBECONFIG": str(kubeconfig),
        "REPHRASE_OPERATOR_RUNNER_IMAGE": "rephrase/runner:1",
        "REPHRASE_OPERATOR_DRIVER_IMAGE": "rephrase/driver:1",
        "REPHRASE_OPERATOR_RECONCILE_SECONDS": "0.3",
        "REPHRASE_OPERATOR_HEALTH_PORT": "0",
        "REPHRASE_OPERATOR_METRICS_PORT": "0",
    }


class LocalOperator:
    """An operator; a context manager.

    Args:
        access: to the API server, or to what stands before it.
        folder: for its kubeconfig and its log.
        name: of its files.
    """

    def __init__(self, access: Access, folder: Path, name: str = "operator") -> None:
        config = access.write_kubeconfig(folder / f"{name}.kubeconfig")
        self._environment = environment(config)
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def log(self) -> str:
        """All it has said."""
        return self._log.read_text(errors="replace")

    def keep_alive(self) -> int:
        """Start it again if it has ended, as a kubelet would; how often it has been started."""
        if self._process is not None and self._process.poll() is None:
            return self.starts
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rephrase_operator"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        return self.starts

    def __enter__(self) -> Self:
        self.keep_alive()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        sys.stdout.write(f"--- {self._log.name}\n{self.log}")  # shown of a test that failed
