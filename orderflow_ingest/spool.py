"""The file spool: where a message is safe before anything else is tried with it.

An entry is one file: `orderflow-spool 1 LENGTH`, the envelope's header lines, a blank line, then the
raw bytes as they came. LENGTH is the raw bytes' number in 12 digits, so that a short file is noticed.

    tmp/NAME    arriving: not yet ours; leftovers older than a day are deleted by clean()
    new/NAME    spooled: ours, to be delivered by who wrote it, or by the drain if that died
    dead/NAME   set aside for an operator; dead/NAME.why tells the failures, one line each
    failures/K  unexpected failures of one content for one recipient, one line each

Commit instant: the return of the sync of new/, after the synced file was renamed into it. From then
on the message survives a crash at any line. All four directories lie on one file system, so that a
rename moves an entry whole. Who works on an entry holds an flock on it, which the kernel takes back
from a killed process; so a drain passes over what is being delivered and finds what was left.

This module knows nothing of what is in an envelope or a message, and imports next to nothing: it is
on the path of a program that is started per message.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from .durable import sync_directory, write_all

_MAGIC = b"orderflow-spool 1 "
_DIGITS = 12
_BLOCK = 65536
_STATES = ("tmp", "new", "dead", "failures")


class SpoolFull(Exception):
    """The spool cannot be written: no space, no inodes, read-only, no permission, missing."""


class InputTooBig(Exception):
    """The message goes on past the limit; all of it was read and nothing of it was kept."""


class InputTruncated(Exception):
    """The message is not whole: its writer died in the middle of it."""


class EntryDamaged(Exception):
    """A spool entry that is not whole: damaged by what lies below us."""


class Entry:
    """A spool entry that this process holds the lock of."""

    def __init__(self, name: str, fd: int):
        self.name = name
        self._fd = fd

    def read(self) -> tuple[bytes, bytes]:
        """Give the envelope's header and the raw message. Raises EntryDamaged."""
        with open(os.dup(self._fd), "rb") as file:
            file.seek(0)
            first = file.readline(_BLOCK)
            header = b""
            while (line := file.readline()) not in (b"\n", b""):
                header += line
            raw = file.read()
        if first != _MAGIC + _length(len(raw)) + b"\n":
            raise EntryDamaged(f"spool entry {self.name} is not whole")
        return header, raw

    def release(self) -> None:
        """Let go of the lock; the entry stays where it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Spool:
    """The spool below one directory."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = os.fspath(directory)

    def prepare(self) -> None:
        """Create the directories, for this user alone; safe to repeat."""
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
        """Store one message durably and give its locked entry.

        `read(n)` gives up to n bytes, b"" at the end; it is called for blocks of 64 KiB, so memory does
        not grow with the message. `limit` is in bytes. `is_whole` is asked when all is on disk, with the
        last block. Raises SpoolFull, InputTooBig, InputTruncated, and what `read` raises; none leaves a file.
        """
        name = f"{time.time_ns():020d}.{os.getpid()}.{os.urandom(4).hex()}"
        temporary, final = self._path("tmp", name), self._path("new", name)
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolFull(_reason(error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            last = _copy(fd, header, read, limit)
            if not is_whole(last):
                raise InputTruncated("the message has no end")
            _commit(temporary, final, self._path("new"))
        except BaseException:
            os.close(fd)
            _discard(temporary)
            _discard(final)
            raise
        return Entry(name, fd)

    def claim(self, name: str) -> Entry | None:
        """Lock the entry `name` of new/; None if it is gone or another process is at it."""
        try:
            fd = os.open(self._path("new", name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if not _is_at(self._path("new", name), fd):  # finished or set aside before we had the lock
            os.close(fd)
            return None
        return Entry(name, fd)

    def entries(self) -> list[str]:
        """List the names in new/, the oldest first; a host without a spool has none."""
        return sorted(self._names("new"))

    def finish(self, entry: Entry) -> None:
        """Remove an entry that is safe elsewhere, or that Postfix keeps. A crash before brings it back."""
        _unlink(self._path("new", entry.name))
        entry.release()

    def note_failure(self, key: str, line: str) -> int:
        """Note an unexpected failure of the content `key`; give how many there are by now."""
        fd = os.open(self._path("failures", key), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "a+", encoding="utf-8", errors="backslashreplace") as file:
            file.write(" ".join(line.splitlines()) + "\n")
            file.flush()
            file.seek(0)
            return sum(1 for _ in file)

    def forget_failures(self, key: str) -> None:
        """Drop the notes of a content that was delivered after all."""
        _unlink(self._path("failures", key))

    def set_aside(self, entry: Entry, key: str, why: str) -> None:
        """Move an entry to dead/ with the notes of its failures and `why`; durable on return."""
        self.note_failure(key, why)
        os.replace(self._path("failures", key), self._path("dead", entry.name + ".why"))
        os.replace(self._path("new", entry.name), self._path("dead", entry.name))
        sync_directory(self._path("dead"))
        sync_directory(self._path("new"))
        entry.release()

    def dead(self) -> list[tuple[str, str]]:
        """List what was set aside, the oldest first: its name and why."""
        names = sorted(name for name in self._names("dead") if not name.endswith(".why"))
        return [(name, self._why(name)) for name in names]

    def read_dead(self, name: str) -> tuple[bytes, bytes]:
        """Give header and raw message of a dead letter. Raises FileNotFoundError, EntryDamaged."""
        entry = Entry(name, os.open(self._path("dead", os.path.basename(name)), os.O_RDONLY | os.O_CLOEXEC))
        try:
            return entry.read()
        finally:
            entry.release()

    def revive(self, name: str) -> None:
        """Move a dead letter back to new/ for another delivery. Raises FileNotFoundError."""
        name = os.path.basename(name)
        os.replace(self._path("dead", name), self._path("new", name))
        sync_directory(self._path("new"))
        _unlink(self._path("dead", name + ".why"))

    def clean(self, older_than: float = 86400.0) -> int:
        """Delete what arriving messages left in tmp/, and old failure notes; give their number.

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
        """Tell whether a rename can move an entry between all states."""
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
                return file.read().strip()
        except FileNotFoundError:
            return "no reason was noted"

    def _path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)


def _copy(fd: int, header: bytes, read: Callable[[int], bytes], limit: int) -> bytes:
    """Write header and message, and sync; give the last block. Past the limit the rest is read and dropped."""
    length, last = 0, b""
    _write(fd, _MAGIC + _length(0) + b"\n" + header.rstrip(b"\n") + b"\n\n")
    while block := read(_BLOCK):
        length, last = length + len(block), block
        if length <= limit:
            _write(fd, block)
    if length > limit:
        raise InputTooBig(f"{length} bytes, {limit} are allowed")
    try:
        os.pwrite(fd, _length(length), len(_MAGIC))
        os.fsync(fd)
    except OSError as error:
        raise SpoolFull(_reason(error)) from error
    return last


def _commit(temporary: str, final: str, directory: str) -> None:
    try:
        os.rename(temporary, final)
        sync_directory(directory)  # the commit instant is its return
    except OSError as error:
        raise SpoolFull(_reason(error)) from error


def _write(fd: int, data: bytes) -> None:
    try:
        write_all(fd, data)
    except OSError as error:
        raise SpoolFull(_reason(error)) from error


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # removed before: the wish is fulfilled


def _discard(path: str) -> None:
    """Remove a file that is not wanted, where that can be done: why it is not wanted matters more."""
    try:
        os.unlink(path)
    except OSError:
        return  # clean() finds it in tmp/; in new/ it is delivered twice, and its identity is known


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _length(number: int) -> bytes:
    return b"%0*d" % (_DIGITS, number)


def _reason(error: OSError) -> str:
    return f"spool: {errno.errorcode.get(error.errno or 0, 'unknown error')}"
