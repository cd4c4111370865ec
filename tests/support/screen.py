"""A terminal as far as `rephrase` uses one: what a person sees, not the bytes that made it."""

import os
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_COLUMNS, _LINES = 100, 30
_CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[^\[]|[\r\n]|[^\x1b\r\n]+")


class Screen:
    """A command on a pseudo-terminal.

    Args:
        command: program and arguments.
        folder: where it runs.
        environment: all of it.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> None:
        import pty
        import termios

        self._received = bytearray()
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (_LINES, _COLUMNS))
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._ours = ours
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65_536):
                self._received += data
        except OSError:  # the other end is closed: the command has ended
            pass

    @property
    def received(self) -> str:
        """Everything that was written, control sequences included."""
        return self._received.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What the screen shows now, without blank lines."""
        return [line.rstrip() for line in shown(self.received) if line.strip()]

    def ended(self, *, within: float) -> int:
        """Wait for the end of the command; returns its exit status."""
        code = self.process.wait(within)
        self._reading.join(within)
        os.close(self._ours)
        return code


def shown(received: str) -> list[str]:
    """The lines of a terminal after these bytes: text, cursor movements and erasing are obeyed."""
    lines = [""]
    row = column = 0
    for match in _CONTROL.finditer(received):
        piece, number, action = match[0], match[1], match[2]
        count = int(number) if number and number.isdigit() else 1
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif action == "A":
            row = max(0, row - count)
        elif action == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif not piece.startswith("\x1b"):
            lines[row] = (
                lines[row].ljust(column)[:column] + piece + lines[row][column + len(piece) :]
            )
            column += len(piece)
    return lines
