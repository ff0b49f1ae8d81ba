"""A file that an operator has something written to. It is never overwritten without --force, and never a terminal.

It is opened while the program still runs as the user who called it: as the owner of the state directory it could not
write to the caller's directory. It could not remove a file there either, so a child process that keeps the caller's
identity does that.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.storage.fsync import write_all

Write = Callable[[bytes], None]


@contextmanager
def output(path: str, *, overwrite: bool) -> Iterator[Write]:
    """Open a file, or standard output for `-`. What is made here is removed again if nothing is written to it."""
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
        raise _refused(path, error) from None
    try:
        with _removed_unless_kept(path) if is_new else _kept() as keep:

            def write(data: bytes) -> None:
                try:
                    os.ftruncate(fd, 0)
                    write_all(fd, data)
                except OSError as error:
                    raise _refused(path, error) from None
                keep()

            yield write
    finally:
        os.close(fd)


@contextmanager
def _kept() -> Iterator[Callable[[], object]]:
    yield lambda: None


@contextmanager
def _removed_unless_kept(path: str) -> Iterator[Callable[[], object]]:
    """Have a child remove a file if this process ends, in whatever way, before it says that the file is to be kept."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.close(write_end)
            if not os.fdopen(read_end, "rb").read():
                os.unlink(path)
        os._exit(0)
    os.close(read_end)
    try:
        yield lambda: os.write(write_end, b"k")
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


def _refused(path: str, error: OSError) -> click.ClickException:
    return click.ClickException(f"{path} cannot be written: {os_reason(error)}")
