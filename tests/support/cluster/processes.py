"""Processes of this machine, as a test sees them from outside."""

from pathlib import Path


def alive(mark: str) -> bool:
    """Whether a process has this in its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:  # it has just ended
            continue
        if mark.encode() in words:
            return True
    return False
