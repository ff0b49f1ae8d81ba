"""Metric files: the counts of one process each, which the next process continues.

    DIRECTORY/slot-1    key number number ...     a line for each key; numbers have a fixed width
    DIRECTORY/slot-2    ...

A process takes the first file that no other process has locked (flock. The kernel releases it when a process is
killed). So there are as many files as there ever were processes at a time, and counts outlive their processes. A file
that was last written before this machine started begins at zero: what a power failure left of it may be older than what
was shown before, and a count that falls by a little looks like a restarted one.

Numbers are written by pwrite(2) into space that is allocated before, not by mmap as in prometheus_client: a store
into a page for which a full disk has no block is SIGBUS, the end of the process and of its delivery. A number lies
within one page, so that a kill leaves the old or the new one. An incomplete line is ignored.

The directory belongs to one user: no other user could continue root's files in it, so root is refused.
"""

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

_MAX_FILES = 512
_ALLOCATION = 16384
_PAGE = 4096
_WIDTH = 24
_PREFIX = "slot-"

Key = tuple[str, int]  # the words of a line, and how many numbers follow


class ProcessFile:
    """The metric file of this process. All methods raise OSError."""

    def __init__(self, directory: Path):
        _prepare_directory(directory)
        self._fd = _lock_free_file(directory)
        try:
            if _is_from_before_boot(os.fstat(self._fd)):
                os.ftruncate(self._fd, 0)
            self._lines, self._end = _parse(_read_all(self._fd))
            self._allocated = 0
            self._allocate(self._end)
        except BaseException:
            self.close()
            raise

    def add(self, key: str, size: int, changes: Iterable[tuple[int, float]]) -> None:
        """Add to some of the `size` numbers of a key."""
        known = self._lines.get((key, size))
        offset, numbers = known or self._append(key, size)
        for index, amount in changes:
            numbers[index] += amount
        os.pwrite(self._fd, _format_numbers(numbers), offset)

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, key: str, size: int) -> tuple[int, list[float]]:
        numbers = [0.0] * size
        head, tail = f"{key} ".encode(), _format_numbers(numbers)
        offset = self._end + len(head)
        if offset // _PAGE != (offset + len(tail) - 1) // _PAGE:
            head += b" " * (-offset % _PAGE)
        line = head + tail + b"\n"
        self._allocate(self._end + len(line))
        os.pwrite(self._fd, line, self._end)
        offset = self._end + len(head)
        self._end += len(line)
        self._lines[key, size] = offset, numbers
        return offset, numbers

    def _allocate(self, size: int) -> None:
        """Allocate space for so many bytes and more: the disk may be full when a new key is counted."""
        if size > self._allocated:
            wanted = -(-(size + 1) // _ALLOCATION) * _ALLOCATION
            os.posix_fallocate(self._fd, 0, wanted)
            self._allocated = wanted


def read_counts(directory: Path) -> dict[Key, list[float]]:
    """Return the sums over all files. None where nothing was counted yet. Raise OSError."""
    sums: dict[Key, list[float]] = {}
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    for name in names:
        if not name.startswith(_PREFIX):
            continue
        fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            content = b"" if _is_from_before_boot(os.fstat(fd)) else _read_all(fd)
        finally:
            os.close(fd)
        for key, (_, numbers) in _parse(content)[0].items():
            others = sums.get(key)
            sums[key] = [a + b for a, b in zip(others, numbers, strict=True)] if others else numbers
    return sums


def _prepare_directory(directory: Path) -> None:
    """Create the directory if needed. Refuse one that belongs to another user."""
    is_there = directory.is_dir()
    if (directory if is_there else directory.parent).stat().st_uid != os.geteuid():
        raise PermissionError(1, "the metrics belong to another user")
    if not is_there:
        directory.mkdir(mode=0o700, exist_ok=True)


def _lock_free_file(directory: Path) -> int:
    for number in range(1, _MAX_FILES + 1):
        fd = os.open(
            directory / f"{_PREFIX}{number}",
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
            0o600,
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
        else:
            return fd
    raise BlockingIOError(11, "every metric file is in use")


def _is_from_before_boot(about: os.stat_result) -> bool:
    return about.st_mtime < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _read_all(fd: int) -> bytes:
    content = b""
    while block := os.pread(fd, 1 << 20, len(content)):
        content += block
    return content


def _parse(content: bytes) -> tuple[dict[Key, tuple[int, list[float]]], int]:
    """Return the lines with the offsets of their numbers, and the end of the last one."""
    lines: dict[Key, tuple[int, list[float]]] = {}
    end = content.rfind(b"\n", 0, (content + b"\0").index(b"\0")) + 1
    at = 0
    for line in content[:end].splitlines(keepends=True):
        words = line.decode("utf-8", "replace").split()
        size = sum(len(word) == _WIDTH and word.replace(".", "").isdigit() for word in words)
        try:
            numbers = [float(word) for word in words[len(words) - size :]]
        except ValueError:
            size, numbers = 0, []
        if size:
            lines[" ".join(words[:-size]), size] = at + len(line) - 1 - len(_format_numbers(numbers)), numbers
        at += len(line)
    return lines, end


def _format_numbers(numbers: list[float]) -> bytes:
    return " ".join([f"{number:0{_WIDTH}.6f}" for number in numbers]).encode()
