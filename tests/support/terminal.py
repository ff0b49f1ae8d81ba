"""A program on a terminal of a given width."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_terminal(command: Sequence[str | Path], env: Mapping[str, str], columns: int = 80) -> list[str]:
    """Run a program with a terminal as its standard output, and return the lines that it writes there."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # Its standard error is none: a progress bar is no line.
    child = subprocess.Popen(
        command, env=dict(env), stdin=subprocess.DEVNULL, stdout=its, stderr=subprocess.PIPE, cwd="/"
    )
    os.close(its)
    written = b""
    while block := _read(ours):
        written += block
    os.close(ours)
    _, errors = child.communicate()
    assert b"Traceback" not in errors, errors
    return written.decode().splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program has ended
        return b""
