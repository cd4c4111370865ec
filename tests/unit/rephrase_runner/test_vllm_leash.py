import os
import signal
import subprocess
import sys
from pathlib import Path

from support.waiting import wait_until

LEASHED = Path(__file__).parents[2] / "support" / "leashed.py"


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for has ended all the same."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_the_engines_processes_end_with_a_worker_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, LEASHED], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))

        os.kill(owner.pid, signal.SIGKILL)

        wait_until(lambda: not any(map(is_running, pids)), "core and worker end", within=10)
