"""Tools that only tests run, each in an environment of its own, which uvx makes and keeps."""

import os
import shutil
import subprocess
from pathlib import Path


def uvx() -> str | None:
    """The program: what `make` says, else the one on PATH."""
    return os.environ.get("UVX") or shutil.which("uvx")


def run_tool(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, whatever that is.

    Args:
        tool: name and version on PyPI, as `checkov==3.3.30`; the program has the same name.
        arguments: of the program.
    """
    command = [str(uvx()), "--quiet", "--from", tool, tool.partition("==")[0], *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def put_tool(folder: Path, tool: str, program: str) -> None:
    """Put a program of a tool into a folder, for a search path.

    Args:
        folder: to put it into.
        tool: name and version on PyPI, as `awscli==1.45.11`.
        program: of it.
    """
    folder.mkdir(exist_ok=True)
    script = folder / program
    script.write_text(f'#!/bin/sh\nexec {uvx()} --quiet --from {tool} {program} "$@"\n')
    script.chmod(0o755)
