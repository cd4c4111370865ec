"""An operator that is stopping ends, whatever kopf still waits for."""

import subprocess
import sys

HANGS = """
import threading
from rephrase_operator.__main__ import end_in_time
end_in_time(seconds=0.1)
threading.Event().wait()
"""


def test_an_operator_that_stops_for_too_long_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], timeout=50, capture_output=True, check=False
    )

    assert done.returncode == 1
    assert b"stopping takes too long" in done.stderr
