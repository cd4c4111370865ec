"""`python -m rephrase_runner` and the `rephrase` command.

Kubernetes may ask a process to end while it is still importing: process 1 of a container ignores SIGTERM
until it has a handler. So this comes first; what is imported later replaces it by a drain.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

DRAINED = 75
"""`rephrase_api.errors.ExitCode.DRAINED`, which is not imported yet."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(DRAINED)


def main() -> NoReturn:
    """Run the command."""
    signal.signal(signal.SIGTERM, _leave)
    from rephrase_runner import cli

    cli.main()


if __name__ == "__main__":
    main()
