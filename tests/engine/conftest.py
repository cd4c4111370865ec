"""The engine tier: a real vLLM and a real model on a CPU. Loading takes a minute, so once for all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiers import ROOT

# vLLM reads them when it is imported, and its processes inherit them
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")


@pytest.fixture(scope="session")
def model() -> Path:
    """Folder of SmolLM2-135M-Instruct, as the demo makes it."""
    made = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo" / "model.py"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(made.stdout.strip())
