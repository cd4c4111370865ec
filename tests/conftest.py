"""Options, tiers and fixtures of all tests."""

import os

import pytest
from hypothesis import settings

pytest_plugins = ["support.tiers", "support.laptop", "support.s3", "support.azure"]

# The same examples on every machine and in every run: what fails in CI fails here.
settings.register_profile("same-everywhere", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("same-everywhere")

# No test may depend on what the internet says today; a local folder is all a model is loaded from.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what is found into tests/golden"
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
