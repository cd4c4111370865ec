"""A shell, for commands that pages print: they run as a reader would run them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.helm import helm, kubectl
from support.tiers import ROOT
from support.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Shell:
    """Where commands are run.

    Attributes:
        folder: the working folder.
        environment: beside that of the tests, whose `rephrase` is found.
    """

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def of_cluster(cls, folder: Path, kubeconfig: Path, more: Mapping[str, str]) -> Self:
        """One with the cluster's programs, in a folder that it puts them into.

        Args:
            folder: empty or not there.
            kubeconfig: of the cluster.
            more: of the environment.
        """
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, program in (("helm", helm()), ("kubectl", kubectl())):
            (programs / name).symlink_to(str(program))
        environment = {"KUBECONFIG": str(kubeconfig), "PATH": path_with(programs)}
        return cls(folder, environment | dict(more))

    def run(self, command: str, *, within: float = 600) -> str:
        """What a command says.

        Raises:
            AssertionError: it fails.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder, env=os.environ | dict(self.environment), timeout=within,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def watch(self, command: str, until: str, *, within: float = 120) -> str:
        """What a command that does not end by itself says; it is interrupted once it has said this."""
        told = self.folder / "watched.txt"
        with told.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder, env=os.environ | dict(self.environment),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        try:
            wait_until(lambda: until in told.read_text(), f"{command}: {until}", within=within)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
        return told.read_text()


def path_with(*folders: Path) -> str:
    """The search path with these folders, and that of our own programs, before all others."""
    first = [*map(str, folders), str(Path(sys.executable).parent)]
    return os.pathsep.join([*first, os.environ["PATH"]])


def checkout(folder: Path) -> Path:
    """The checkout as a folder in which commands may leave what they make, and `make` installs nothing."""
    folder.mkdir()
    environment = folder / ".venv"
    environment.mkdir()
    for path in ROOT.iterdir():
        if path.name not in {"demo", environment.name}:
            (folder / path.name).symlink_to(path)
    for path in Path(sys.prefix).iterdir():
        (environment / path.name).symlink_to(path)
    # what is older than its pyproject.toml would be installed anew, into what these tests run in
    stamp = environment / ".synced-vllm-cpu"
    stamp.unlink(missing_ok=True)
    stamp.touch()
    return folder
