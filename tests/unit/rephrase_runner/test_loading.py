"""Engines are loaded again after a death: what is left of the old one must go."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from rephrase_runner.engines import EngineSettings
from rephrase_runner.processes import load


@pytest.fixture
def collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
def test_an_engine_that_died_is_gone_when_the_next_one_is_loaded() -> None:
    dead = asyncio.run(load(EngineSettings("Echo")))
    vars(dead)["in_a_cycle"] = dead  # as the callbacks of engines are
    seen = weakref.ref(dead)
    del dead
    gc.collect()
    assert seen() is not None, "frozen: nothing else finds it"

    asyncio.run(load(EngineSettings("Echo")))

    assert seen() is None
