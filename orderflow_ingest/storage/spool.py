"""The file spool: where a message is safe before anything else is tried with it.

An entry is one file, see `spool_entry`: the envelope's header lines, then the raw bytes as they came.

    tmp/NAME    arriving: not yet ours; leftovers older than a day are deleted by clean()
    new/NAME    spooled: ours, to be delivered by the process that wrote it, or by the drain if that died
    dead/NAME   a dead letter, for an operator; dead/NAME.why lists the failures, one line each
    failures/K  unexpected failures of one content for one recipient, one line each

Commit instant: the return of the sync of new/, after the synced file was renamed into it. From then
on the message survives a crash at any line. All four directories lie on one file system, so that a
rename moves an entry whole. The process that works on an entry holds an flock on it, which the
kernel releases for a killed process. So a drain skips entries that are being delivered and finds those that were left.

This module knows nothing of what is in an envelope or a message.
"""

import os
import re
import time
from collections.abc import Callable, Iterator

from orderflow_ingest.domain.errors import OrderflowError

from .fsync import sync_directory, sync_file
from .spool_entry import (
    BLOCK,
    DIGITS,
    MAGIC,
    MessageTooBigError,
    MessageTruncatedError,
    SpoolWriteError,
    lock_entry,
    write_entry,
)

__all__ = [
    "Entry",
    "EntryDamagedError",
    "MessageTooBigError",
    "MessageTruncatedError",
    "Spool",
    "SpoolWriteError",
    "last_line",
]

_STATES = ("tmp", "new", "dead", "failures")
_NO_REASON = "no reason was noted"
_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)


class EntryDamagedError(OrderflowError):
    """A spool entry that is not whole: damaged by what lies below us."""


class Entry:
    """A spool entry that this process holds the lock of."""

    def __init__(self, name: str, fd: int):
        self.name = name
        self._fd = fd

    @property
    def size(self) -> int:
        """Return the number of bytes of the file."""
        return os.fstat(self._fd).st_size

    def read(self) -> tuple[bytes, bytes]:
        """Return the envelope's header and the raw message, in memory once. Raise EntryDamagedError."""
        head, end = b"", -1
        while end < 0 and (block := os.pread(self._fd, BLOCK, len(head))):
            head += block
            end = head.find(b"\n\n")
        first, _, header = head[: end + 1].partition(b"\n")
        length = first.removeprefix(MAGIC)
        whole = first.startswith(MAGIC) and len(length) == DIGITS and length.isdigit()
        raw = os.pread(self._fd, int(length), end + 2) if whole and end >= 0 else b""
        if not whole or end < 0 or not len(raw) == int(length) == self.size - end - 2:
            raise EntryDamagedError(f"spool entry {self.name} is not whole")
        return header, raw

    def peek(self, size: int) -> bytes:
        """Return the first bytes of the message, as many as asked for or all. B"" of an entry that is not whole."""
        head = os.pread(self._fd, BLOCK, 0)
        end = head.find(b"\n\n")
        return os.pread(self._fd, size, end + 2) if end >= 0 else b""

    def release(self) -> None:
        """Let go of the lock. The entry stays where it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Spool:
    """The spool below one directory."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = os.fspath(directory)

    def prepare(self) -> None:
        """Create the directories, for this user alone. Safe to repeat."""
        for path in (self.directory, *(self._path(state) for state in _STATES)):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o700)

    def write(
        self,
        header: bytes,
        read: Callable[[int], bytes],
        limit: int,
        is_whole: Callable[[bytes], bool] = lambda last: True,
    ) -> Entry:
        """Store one message durably and return its locked entry. See `entry.write_entry`."""
        return Entry(*write_entry(self.directory, header, read, limit, is_whole))

    def claim(self, name: str) -> Entry | None:
        """Lock the entry `name` of new/, or None if it is gone or another process holds it."""
        fd = lock_entry(self._path("new", name)) if _NAME.fullmatch(name) else None
        return Entry(name, fd) if fd is not None else None

    def entries(self) -> list[str]:
        """Return the names in new/, the oldest first. None on a host without a spool."""
        return sorted(self._names("new"))

    def finish(self, entry: Entry) -> None:
        """Remove an entry that is safe elsewhere, or that Postfix keeps. A crash before brings it back."""
        _unlink(self._path("new", entry.name))
        entry.release()

    def record_failure(self, key: str, line: str) -> int:
        """Record an unexpected failure of the content `key`. Return how many there are by now."""
        fd = os.open(self._path("failures", key), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "a+", encoding="utf-8", errors="backslashreplace") as file:
            file.write(" ".join(line.splitlines()) + "\n")
            file.flush()
            file.seek(0)
            return sum(1 for _ in file)

    def forget_failures(self, key: str) -> None:
        """Drop the notes of a content that was delivered after all."""
        _unlink(self._path("failures", key))

    def move_to_dead(self, entry: Entry, key: str, why: str) -> None:
        """Move an entry to dead/ with the notes of its failures and `why`. Durable on return."""
        self.record_failure(key, why)
        sync_file(self._path("failures", key))
        os.replace(self._path("failures", key), self._path("dead", entry.name + ".why"))
        os.replace(self._path("new", entry.name), self._path("dead", entry.name))
        sync_directory(self._path("dead"))
        sync_directory(self._path("new"))
        entry.release()

    def dead(self) -> list[tuple[str, str]]:
        """Return the name and the failures of each dead letter, the oldest first."""
        names = sorted(name for name in self._names("dead") if not name.endswith(".why"))
        return [(name, self._why(name)) for name in names]

    def count_dead(self) -> int:
        """Return the number of dead letters."""
        return sum(not name.endswith(".why") for name in self._names("dead"))

    def read_dead(self, name: str) -> tuple[bytes, bytes]:
        """Return header and raw message of a dead letter. Raise FileNotFoundError, EntryDamagedError."""
        return self.read(name, is_dead=True)

    def read(self, name: str, *, is_dead: bool = False) -> tuple[bytes, bytes]:
        """Return header and raw message of an entry or a dead letter, locked or not.

        Raise FileNotFoundError, EntryDamagedError.
        """
        path = self._path("dead" if is_dead else "new", os.path.basename(name))
        entry = Entry(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            return entry.read()
        finally:
            entry.release()

    def restore_dead(self, name: str) -> None:
        """Move a dead letter back to new/ for another delivery. Raise FileNotFoundError."""
        name = os.path.basename(name)
        os.replace(self._path("dead", name), self._path("new", name))
        sync_directory(self._path("new"))
        _unlink(self._path("dead", name + ".why"))

    def delete_dead(self, name: str) -> None:
        """Delete a dead letter, and then why it is one. One that is gone is deleted."""
        name = os.path.basename(name)
        _unlink(self._path("dead", name))
        _unlink(self._path("dead", name + ".why"))
        sync_directory(self._path("dead"))

    def clean(self, older_than: float = 86400.0) -> int:
        """Delete what arriving messages left in tmp/, and old failure notes. Return their number.

        A failure note lives 30 times as long: longer than any Postfix keeps a message in its queue.
        """
        now, count = time.time(), 0
        for state, limit in (("tmp", older_than), ("failures", 30 * older_than)):
            for path in self._files(state):
                try:
                    if now - os.stat(path).st_mtime > limit:
                        os.unlink(path)
                        count += 1
                except FileNotFoundError:
                    continue  # its owner was quicker
        return count

    def is_on_one_file_system(self) -> bool:
        """Return whether a rename can move an entry between all states."""
        return len({os.stat(self._path(state)).st_dev for state in _STATES}) == 1

    def _files(self, state: str) -> Iterator[str]:
        return (self._path(state, name) for name in self._names(state))

    def _names(self, state: str) -> list[str]:
        try:
            return os.listdir(self._path(state))
        except FileNotFoundError:
            return []

    def _why(self, name: str) -> str:
        try:
            with open(self._path("dead", name + ".why"), encoding="utf-8", errors="replace") as file:
                return file.read().strip() or _NO_REASON
        except FileNotFoundError:
            return _NO_REASON

    def _path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)


def last_line(why: str) -> str:
    """Return the failure that made an entry a dead letter: the last line of those that dead() returns."""
    return why.splitlines()[-1]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # removed before: the wish is fulfilled
