"""A stand-in for a worker with vLLM in it: this process starts a core, which starts a worker, which holds
the leash. Prints the ids of both, then waits to be killed. `test_vllm_leash.py` runs it as a program."""

import multiprocessing
import os
import sys
import threading


def core(ids: "multiprocessing.SimpleQueue[int]") -> None:
    multiprocessing.get_context("spawn").Process(target=worker, args=(ids,)).start()
    ids.put(os.getpid())
    threading.Event().wait()


def worker(ids: "multiprocessing.SimpleQueue[int]") -> None:
    from rephrase_runner.engines import vllm_leash  # only here, as vLLM does it

    assert vllm_leash.OWNER in os.environ
    ids.put(os.getpid())
    threading.Event().wait()


if __name__ == "__main__":
    os.environ["REPHRASE_ENGINE_OWNER"] = str(os.getpid())
    spawn = multiprocessing.get_context("spawn")
    started = spawn.SimpleQueue()
    # from a thread that ends, as engines are built
    starter = threading.Thread(target=spawn.Process(target=core, args=(started,)).start)
    starter.start()
    starter.join()
    sys.stdout.write(f"{started.get()} {started.get()}\n")
    sys.stdout.flush()
    threading.Event().wait()
