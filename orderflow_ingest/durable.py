"""What it takes for a file to survive a crash of this machine: all of it written, synced, and its name synced.

A file's content is durable after fsync of the file, its name only after fsync of the directory (fsync(2)).
Why the system refused is said by `os_reason` everywhere, in logs as in errors; docs/operating.md explains each errno.
It is on the path of a program that is started per message, hence `posix`, see `entry`.
"""

import errno
import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike


def os_reason(error: BaseException) -> str:
    """Return why the system refused, by errno's name: `EROFS (Read-only file system)`; no path, and no text of others.

    Any other error is said by its class. So is one of a library's own class: ssl.SSLError and socket.gaierror number
    differently.
    """
    number = (error.errno or 0) if isinstance(error, OSError) and type(error).__module__ == "builtins" else 0
    return f"{errno.errorcode[number]} ({os.strerror(number)})" if number in errno.errorcode else type(error).__name__


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: write(2) may take fewer. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_file(path: "str | PathLike[str]") -> None:
    """Make the content of a file durable. Raises OSError."""
    _sync(path, 0)


def sync_directory(path: "str | PathLike[str]") -> None:
    """Make the names in a directory durable. Raises OSError."""
    _sync(path, os.O_DIRECTORY)


def _sync(path: "str | PathLike[str]", flag: int) -> None:
    fd = os.open(path, os.O_RDONLY | flag | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
