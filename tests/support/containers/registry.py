"""A registry of images on this machine: CNCF Distribution, over plain HTTP."""

import urllib.request
from pathlib import Path
from typing import Self

import yaml

from support.cluster.binary import REGISTRY
from support.cluster.control_plane import Program
from support.s3 import free_ports
from support.waiting import wait_until


class Registry:
    """The registry; a context manager.

    Args:
        folder: for images and log.
        address: that it listens on.
    """

    def __init__(self, folder: Path, address: str) -> None:
        (port,) = free_ports(1)
        self.host = f"{address}:{port}"
        folder.mkdir(parents=True)
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
            "http": {"addr": self.host},
        }
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [str(REGISTRY.binary()), "serve", str(file)]
        quiet = {"OTEL_TRACES_EXPORTER": "none"}
        self._program = Program("registry", command, folder / "registry.log", quiet)

    def __enter__(self) -> Self:
        self._program.start()
        try:
            wait_until(self._answers, "the registry answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()

    def _answers(self) -> bool:
        self._program.check()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.host}/v2/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
