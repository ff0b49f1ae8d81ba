"""A spool entry, one file: how it is written, locked and withdrawn. See `spool` for its life.

    orderflow-spool 1 LENGTH     LENGTH is the raw bytes' number in 12 digits, so that a short file is noticed
    NAME: VALUE                  the envelope, see `envelope_header`; %, CR and LF are escaped: no value ends its line
                                 a blank line
    ...                          the raw bytes as they came

This is on the path of a program that is started per message, so it imports built-in modules alone:
`posix` and not `os`, which costs a millisecond of CPU, a tenth of that program.
"""

import fcntl
import posix as os
import time

from .fsync import sync_directory, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"orderflow-spool 1 "
GREETING = b"orderflow 1 "  # of a service that takes entries by their names, see `service.pipe_protocol`
DIGITS = 12
BLOCK = 65536


class SpoolWriteError(Exception):
    """The spool cannot be written: no space, no inodes, read-only, no permission, missing."""


class MessageTooBigError(Exception):
    """The message goes on past the limit. All of it was read and nothing of it was kept."""


class MessageTruncatedError(Exception):
    """The message is not whole: its writer died in the middle of it."""


def encode_header(values: dict[str, str]) -> bytes:
    """Write header lines, without the blank line that ends them. Bytes that are no UTF-8 come as surrogates."""
    lines = [f"{name}: {_escape(value)}\n" for name, value in values.items()]
    return "".join(lines).encode("utf-8", "surrogateescape")


def write_entry(
    directory: str,
    header: bytes,
    read: "Callable[[int], bytes]",
    limit: int,
    is_whole: "Callable[[bytes], bool]" = lambda last: True,
) -> tuple[str, int]:
    """Store one message durably below a spool's directory. Return its name and the descriptor that holds its lock.

    `read(n)` gives up to n bytes, b"" at the end. It is called for blocks of 64 KiB, so memory does not grow with the
    message. `limit` is in bytes. `is_whole` is asked when all is on disk, with the last block. Raise SpoolWriteError,
    MessageTooBigError, MessageTruncatedError, and what `read` raises. None leaves a file.

    Not by `replace_file`: the entry is locked and checked before it gets its name, and no name is ever replaced.
    """
    name = f"{time.time_ns():020d}.{os.getpid()}.{os.urandom(4).hex()}"
    temporary, final = f"{directory}/tmp/{name}", f"{directory}/new/{name}"  # noqa: S108
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolWriteError(_reason(error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        last = _copy(fd, header, read, limit)
        if not is_whole(last):
            raise MessageTruncatedError("the message has no end")
        _commit(temporary, final, f"{directory}/new")
    except BaseException:
        os.close(fd)
        _discard(temporary)
        _discard(final)
        raise
    return name, fd


def lock_entry(path: str) -> int | None:
    """Lock an entry, or None if it is gone or another process holds it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    if not _is_at(path, fd):  # finished, or a dead letter, before we had the lock
        os.close(fd)
        return None
    return fd


def withdraw_entry(directory: str, name: str) -> bool:
    """Remove an entry that is not locked. Return False if it is gone or locked."""
    path = f"{directory}/new/{name}"
    fd = lock_entry(path)
    if fd is None:
        return False
    _discard(path)
    os.close(fd)
    return True


def _copy(fd: int, header: bytes, read: "Callable[[int], bytes]", limit: int) -> bytes:
    """Write header and message, and sync. Return the last block. Past the limit the rest is read and dropped."""
    length, last = 0, b""
    _write(fd, MAGIC + _length(0) + b"\n" + header.rstrip(b"\n") + b"\n\n")
    while block := read(BLOCK):
        length, last = length + len(block), block
        if length <= limit:
            _write(fd, block)
    if length > limit:
        raise MessageTooBigError(f"{length} bytes, {limit} are allowed")
    try:
        os.pwrite(fd, _length(length), len(MAGIC))
        os.fsync(fd)
    except OSError as error:
        raise SpoolWriteError(_reason(error)) from error
    return last


def _commit(temporary: str, final: str, directory: str) -> None:
    try:
        os.rename(temporary, final)
        sync_directory(directory)  # the commit instant is its return
    except OSError as error:
        raise SpoolWriteError(_reason(error)) from error


def _write(fd: int, data: bytes) -> None:
    try:
        write_all(fd, data)
    except OSError as error:
        raise SpoolWriteError(_reason(error)) from error


def _discard(path: str) -> None:
    """Remove a file that is not wanted, where that can be done: why it is not wanted matters more."""
    try:
        os.unlink(path)
    except OSError:
        return  # clean() finds it in tmp/; in new/ it is delivered twice, and its identity is known


def _is_at(path: str, fd: int) -> bool:
    try:
        there, ours = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _length(number: int) -> bytes:
    return b"%0*d" % (DIGITS, number)


def _reason(error: OSError) -> str:
    from orderflow_ingest.domain.os_errors import os_reason

    return f"spool: {os_reason(error)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")
