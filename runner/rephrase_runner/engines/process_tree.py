"""The processes of an engine: that they end, and whether the kernel ended one for want of memory."""

import os
import select
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_OOM_COUNTERS = (
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
    "/proc/vmstat",
)
"""Where the kernel counts processes it killed for want of memory: of this container (cgroups v2, v1), or
of the machine where we are in none."""


def oom_kills() -> int:
    """Processes that the kernel killed for want of memory, in this container if it is one, so far."""
    for counter in _OOM_COUNTERS:
        with suppress(OSError, ValueError):
            lines = Path(counter).read_text().splitlines()
            for name, value in (line.split() for line in lines):
                if name == "oom_kill":
                    return int(value)
    return 0


class ProcessTree:
    """Processes and all they had started when this was made, remembered to be ended.

    A child whose parent has died belongs to nobody and cannot be found any more, so they are looked up
    while all is well. Pids that were given to other processes since are left alone.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        import psutil  # a dependency of vLLM, so it is there where an engine has processes

        self._processes: list[Any] = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                self._processes += [*process.children(recursive=True), process]

    def kill(self, *, timeout_seconds: float) -> None:
        """End those that still run, whatever they are doing, and wait until they have given back what
        they held: the memory of a GPU is needed to load the model again."""
        import psutil

        ends = select.poll()
        waiting: set[int] = set()
        for process in self._processes:
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                process.kill()  # looks first whether the pid is still the same process's
                handle = os.pidfd_open(process.pid)
                ends.register(handle, select.POLLIN)
                waiting.add(handle)
        give_up = time.monotonic() + timeout_seconds
        while waiting and (left := give_up - time.monotonic()) > 0:
            for handle, _ in ends.poll(left * 1000):
                ends.unregister(handle)
                waiting.discard(handle)
                os.close(handle)
        for handle in waiting:
            os.close(handle)
