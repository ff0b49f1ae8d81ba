"""What it takes for a file to survive a crash of this machine: all of it written, synced, and its name synced.

A file's content is durable after fsync of the file, its name only after fsync of the directory (fsync(2)).
It is on the path of a program that is started per message, hence `posix`, see `spool_entry`.
"""

import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: write(2) may take fewer. Raise OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_file(path: "str | PathLike[str]") -> None:
    """Make the content of a file durable. Raise OSError."""
    _sync(path, 0)


def sync_directory(path: "str | PathLike[str]") -> None:
    """Make the names in a directory durable. Raise OSError."""
    _sync(path, os.O_DIRECTORY)


def _sync(path: "str | PathLike[str]", flag: int) -> None:
    fd = os.open(path, os.O_RDONLY | flag | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
