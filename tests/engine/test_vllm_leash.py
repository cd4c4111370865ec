import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.waiting import wait_until

BUILD = """
import sys, threading
from rephrase_runner.engines import EngineSettings, build

if __name__ == "__main__":
    args = ("--enforce-eager", "--max-num-seqs=4")
    engine = build(EngineSettings("VLLM", model=sys.argv[1], max_model_length=512, args=args))
    print("loaded", flush=True)
    threading.Event().wait()
"""


@pytest.mark.full
@pytest.mark.parametrize("when", ["while the model is loaded", "when it is loaded"])
def test_a_worker_that_is_killed_leaves_no_process_of_vllm_behind(
    model: Path, tmp_path: Path, when: str
) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    with subprocess.Popen(
        [sys.executable, script, model], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None

        def started() -> list[psutil.Process]:
            children = psutil.Process(owner.pid).children(recursive=True)
            found = [child for child in children if child.name().startswith("VLLM")]
            return found if len(found) >= 2 else []

        if when == "when it is loaded":
            assert "loaded" in owner.stdout.readline()
        processes = wait_until(started, "EngineCore and its worker start", within=300)

        os.kill(owner.pid, signal.SIGKILL)

        # what is being imported or loaded is not interrupted, so the leash may be put on late
        psutil.wait_procs(processes, timeout=120)
        assert not [process for process in processes if process.is_running()]
