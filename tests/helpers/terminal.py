"""Commands in a pseudo-terminal, and what is on its screen in the end."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(
    command: Sequence[str], folder: Path, environment: dict[str, str], columns: int = 120
) -> tuple[int, str]:
    """Run a command in a terminal; returns its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:
            pass  # Linux reports an error, not the end, when the last writer has gone
    os.close(ours)
    return process.returncode, written.decode()


def screen(written: str) -> list[str]:
    """The lines on the screen, without colors and spaces at the end."""
    lines = []
    for line in ESCAPE_SEQUENCE.sub("", written).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines
