"""The tiers themselves: a missing peer is told, and never passes for a test that ran."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiers import ROOT, TIERS, tier_of

WITHOUT = """
from support.tiers import PEERS
PEERS["s3"] = lambda: "not installed: weed"
PEERS["engine"] = lambda: "not installed: vllm"
"""


def pytest_on_the_store_suite(plugins: Path, require: str) -> subprocess.CompletedProcess[str]:
    """Runs one test of it, which has three stores, and the engine tier, on a machine without peers."""
    (plugins / "without.py").write_text(WITHOUT)
    paths = [str(plugins), str(ROOT / "tests")]
    options = ["-p", "without", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "probe"]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "tests/process/test_store_suite.py",
            "tests/engine",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "REPHRASE_REQUIRE": require},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_peer_skips_its_tests_loudly_with_a_count(tmp_path: Path) -> None:
    done = pytest_on_the_store_suite(tmp_path, require="")

    assert done.returncode == 0, done.stdout
    assert "SKIPPED tier process: 2 tests (s3: not installed: weed)" in done.stdout
    assert re.search(r"SKIPPED tier engine: \d+ files \(engine: not installed: vllm\)", done.stdout)
    assert "1 passed, 2 skipped" in done.stdout.splitlines()[-1]


def test_a_missing_peer_that_is_required_is_a_failure(tmp_path: Path) -> None:
    done = pytest_on_the_store_suite(tmp_path, require="s3")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "REPHRASE_REQUIRE asks for what is missing: s3: not installed: weed" in done.stderr


def test_a_peer_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    done = pytest_on_the_store_suite(tmp_path, require="s4")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no peer s4" in done.stderr


def test_a_test_outside_the_tiers_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="must lie in one of unit"):
        tier_of(ROOT / "tests" / "test_somewhere.py")


def test_every_folder_with_tests_is_a_tier() -> None:
    folders = {
        path.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/test_*.py")
    }

    assert folders <= TIERS.keys()
