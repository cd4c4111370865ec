"""Drivers of runs that do not happen: each answers `GET /progress` as one would whose workers all generate.

with FakeDrivers(namespace, {"run-00": 1_000}) as drivers:
    drivers.address("run-00")  # of the driver's pod, by the annotation that kwok takes it from
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Self

from aiohttp import web

from rephrase_api import names
from rephrase_api.progress import (
    Documents,
    Progress,
    Rates,
    Samples,
    TokenCounts,
    Units,
    WorkerProgress,
)
from support.cluster.client import Client
from support.cluster.kubelet.watching import Watching
from support.cluster.wire import Object

PORT = 8000
_NETWORK = "127.77"
_DOCUMENTS = 2_000
"""Of a unit."""
_SHARE_PER_SECOND = 1e-5
"""Of all units is done, so that no run ends while it is looked at."""
_TOKENS_PER_SECOND = 3_000.0
"""Of a worker."""
_SECONDS = 30.0


class FakeDrivers:
    """Drivers, in a thread; a context manager.

    Args:
        namespace: a client within that of the runs.
        units: planned, by name of the run.
    """

    def __init__(self, namespace: Client, units: Mapping[str, int]) -> None:
        self._namespace, self._units = namespace, units
        self._runs = list(units)
        self._slots: dict[str, dict[str, int]] = {run: {} for run in units}
        self._began = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="drivers", daemon=True)
        self.answered = 0
        """Questions, so far."""

    def address(self, run: str) -> str:
        """Where the driver of a run listens."""
        high, low = divmod(self._runs.index(run) + 1, 250)
        return f"{_NETWORK}.{high}.{low}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(_SECONDS)
        self._watching = Watching(
            self._namespace, "pods", logging.getLogger(__name__), self._loop,
            listed=self._see_all, seen=self._see, gone=self._miss,
        )  # fmt: skip
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.stop()
        asyncio.run_coroutine_threadsafe(self._server.cleanup(), self._loop).result(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> web.AppRunner:
        server = web.AppRunner(web.Application(), access_log=None)
        server.app.router.add_get("/progress", self._answer)
        await server.setup()
        for run in self._runs:
            await web.TCPSite(server, self.address(run), PORT).start()
        return server

    async def _answer(self, request: web.Request) -> web.Response:
        self.answered += 1
        run = next(one for one in self._runs if request.host.startswith(f"{self.address(one)}:"))
        progress = a_progress(
            self._units[run], time.monotonic() - self._began, slots=self._slots[run]
        )
        return web.Response(
            text=progress.model_dump_json(by_alias=True), content_type="application/json"
        )

    def _see_all(self, pods: list[Object]) -> None:
        for slots in self._slots.values():
            slots.clear()
        for pod in pods:
            self._see(pod)

    def _see(self, pod: Object) -> None:
        labels, uid = pod["metadata"].get("labels", {}), pod["metadata"]["uid"]
        slots = self._slots.get(labels.get(names.RUN_LABEL, ""))
        if slots is None or labels.get(names.ROLE_LABEL) != names.WORKER:
            return
        if pod["status"]["phase"] == "Running":
            slots[uid] = int(labels[names.SLOT_LABEL])
        else:
            slots.pop(uid, None)

    def _miss(self, pod: Object) -> None:
        for slots in self._slots.values():
            slots.pop(pod["metadata"]["uid"], None)


def a_progress(units: int, seconds: float, *, slots: Mapping[str, int]) -> Progress:
    """What a driver says when its workers have generated for a while.

    Args:
        units: planned.
        seconds: since the workers began.
        slots: of the workers, by uid of their pods.
    """
    documents = units * _DOCUMENTS
    committed = int(units * seconds * _SHARE_PER_SECOND)
    done = committed * _DOCUMENTS
    tokens = int(_TOKENS_PER_SECOND * seconds)
    return Progress(
        phase="Running",
        units=Units(planned=units, claimed=len(slots), committed=committed),
        documents=Documents(total=documents, done=done),
        samples=Samples(
            expected=documents, written=done, finished=int(documents * seconds * _SHARE_PER_SECOND)
        ),
        tokens=TokenCounts(prompt=3 * tokens * len(slots), completion=tokens * len(slots)),
        rates=Rates(
            completion_tokens_per_second=_TOKENS_PER_SECOND * len(slots),
            documents_per_second=documents * _SHARE_PER_SECOND,
        ),
        workers=tuple(
            WorkerProgress(
                uid=f"{uid}.a1",
                slot=slot,
                phase="generating",
                tokens_per_second=_TOKENS_PER_SECOND + slot,
                samples=int(seconds),
                completion_tokens=tokens,
                loading_seconds=61.5,
                generating_seconds=seconds,
                running=256,
                gpu_seconds=61.5 + seconds,
                heartbeat_age_seconds=seconds % 10,
            )
            for uid, slot in slots.items()
        ),
    )
