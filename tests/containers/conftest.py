"""Images as a user builds them, and a cluster with a genuine node that runs them.

There is no source of images here: bases are made of Debian's packages, and a registry on this machine holds
what is pushed. Everything that is started ends with these tests, and leaves nothing behind but caches.
"""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.cluster.binary import CONTROL_PLANE, DNS, NODE, PAUSE, REGISTRY
from support.containers.images import Builder

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Build programs before the first test, when no time limit runs yet."""
    if _HERE in item.path.parents and item.get_closest_marker("skip") is None:
        for program in (CONTROL_PLANE, NODE, DNS, PAUSE, REGISTRY):
            program.binary()
    return (yield)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Builds images; has the bases."""
    own = _ROOT / ".tools" / "uv" / "bin" / "uv"
    uv = own if own.exists() else Path(str(shutil.which("uv")))
    with Builder(tmp_path_factory.mktemp("images") / "images", uv.resolve()) as builder:
        builder.make_bases()
        yield builder
