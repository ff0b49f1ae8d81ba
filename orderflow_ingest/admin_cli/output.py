"""A file that an operator wants something written to: his own, never written over unasked, never a terminal.

It is opened while the program is still who called it: as the owner of the state directory it could not write to the
caller's directory.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from ..durable import write_all

Write = Callable[[bytes], None]


@contextmanager
def output(path: str, overwrite: bool) -> Iterator[Write]:
    """Open a file, or standard output for `-`; what is made here is removed again if nothing is written to it."""
    if path == "-":
        if sys.stdout.isatty():
            raise click.ClickException("this is not for a terminal: name a file, or pipe it into a program")
        yield lambda data: write_all(sys.stdout.fileno(), data)
        return
    is_new = not os.path.exists(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if overwrite else os.O_EXCL)
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise click.ClickException(f"{path} is there already; --force writes over it") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from None
    written = []

    def write(data: bytes) -> None:
        os.ftruncate(fd, 0)
        write_all(fd, data)
        written.append(True)

    try:
        yield write
    finally:
        os.close(fd)
        if is_new and not written:
            with suppress(OSError):
                os.unlink(path)
