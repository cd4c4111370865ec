"""The process tier: `rephrase` as real processes on the engine Echo, against a folder or an S3 server."""

import logging
from collections.abc import Iterator

import pytest

from support.laptop import Laptop
from support.runs import small_run


@pytest.fixture
def own_logging() -> Iterator[None]:
    """For a worker or driver that runs in the test's own process: it sends all logging to its own output."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """A run of 800 documents that nothing happened to: to read and to copy, not to change."""
    machine = Laptop(tmp_path_factory.mktemp("undisturbed"))
    small_run(machine)
    ended = machine.run("--workers", "2")
    assert ended.code == 0, ended.said
    return machine
