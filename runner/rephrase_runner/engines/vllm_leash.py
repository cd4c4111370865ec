"""Ends vLLM's processes with the process that built the engine, however that one ends.

vLLM 0.32 on its own leaves them behind: after `kill -9` of the parent, EngineCore and its workers were
seen to live on, idle or computing, for as long as one looked; on a GPU they would keep its memory, and
the worker's next attempt could not load the model.

vLLM imports this module in each of its worker processes (`--worker-extension-cls`), before the model is
loaded. There a thread waits for the end of the owner, whose process id is in the environment. This is
not done with PR_SET_PDEATHSIG, which fires already when the *thread* ends that built the engine.
"""

import multiprocessing
import os
import select
import signal
import threading

OWNER = "REPHRASE_ENGINE_OWNER"
"""Environment variable: id of the process that built the engine."""


class Leash:
    """What `--worker-extension-cls` names; vLLM mixes it into its worker class. It adds nothing."""


def _hold() -> None:
    owner = int(os.environ.get(OWNER, 0))
    if owner and owner != os.getpid():
        threading.Thread(target=_end_with, args=(owner,), name="leash", daemon=True).start()


def _end_with(owner: int) -> None:
    try:
        end = select.poll()
        end.register(os.pidfd_open(owner), select.POLLIN)
        end.poll()
    except ProcessLookupError:
        pass  # it is gone already
    # Nobody is left to answer to. On a CPU or several GPUs the parent is EngineCore, else we are in it.
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid not in (owner, None) and parent.is_alive():
        os.kill(parent.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


_hold()
