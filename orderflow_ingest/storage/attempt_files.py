"""What each worker process of this host is working on, in a file below `in_hand/` in the state directory.

    PID.xxxxxxxx    one line: kind, organization, row, mark of the attempt, part that is being read (- for none)
    identity        the name of this directory in marks; random, made once, and synced

A working thread holds an flock on its file, which the kernel releases for a process that is gone, however it ended. So
lost_attempts() finds the attempts of this host whose process is gone, and the part that each was reading, without a
look at process ids. A line is written by one pwrite and is never synced: it has to outlive the process, not the
machine. A crash of the machine may leave an old line, an empty file or none.

The mark of an attempt on its row names this directory and the file too, so is_gone() finds out from the mark alone
whether the process is gone: the file exists and is locked as long as it lives, since before the row was claimed. No
process id, start time or clock is compared, so none that is used again or set back can mislead; /proc may be hidden. A
container of the same host name has a directory of its own, or shares this one and its locks. A machine that was cloned
with its disk has the same file `identity`, so a mark holds a digest of it, its inode and the machine's id.

A process that is killed between the claim of a row and its first line leaves an empty file. lost_attempts() reports how
the marks of that process begin.

Guarantees: raises no error of the disk. A directory that cannot be written costs this knowledge alone: leases end.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from uuid import UUID

from . import fsync

MESSAGE, DOCUMENT = "message", "document"
_NOTHING = b"\n"
_NONE = "-"
_LARGEST = 4096
_DAY = 86400.0
_IDENTITY = "identity"
_LENGTH = 16


@dataclass(frozen=True)
class LostAttempt:
    """An attempt whose process is gone. `part` is the path of the part that it was reading, None for none."""

    kind: str
    org_id: int
    id: UUID
    worker: str
    part: str | None


class AttemptFile:
    """The file of one attempt, which says what the attempt is working on."""

    def __init__(self, file: FileIO | None, row: str) -> None:
        self._file = file
        self._row = row

    def set_part(self, part: str | None) -> None:
        """Write the path of the part that is being read, None for none."""
        self._write(f"{self._row} {_NONE if part is None else f'/{part}'}\n".encode())

    def clear(self) -> None:
        """Write that the thread is at no attempt."""
        self._write(_NOTHING)

    def _write(self, line: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file.fileno(), line, 0)


class _Own(threading.local):
    """The file of this thread, with the process id and directory it was made for: a forked child needs another."""

    file: FileIO | None = None
    mark: str = ""
    of: tuple[int, Path] | None = None


_own = _Own()


@contextmanager
def attempt(directory: Path, kind: str, org_id: int, id: UUID, worker: str) -> Iterator[AttemptFile]:
    """Keep an attempt at a row in this thread's file for as long as the block runs."""
    file = AttemptFile(_file(directory), f"{kind} {org_id} {id} {worker}")
    file.set_part(None)
    try:
        yield file
    finally:
        file.clear()


def count_active(directory: Path) -> int:
    """Return how many living processes of this host are at an attempt."""
    return sum(_is_active(path) for path in directory.glob("[0-9]*"))


def _is_active(path: Path) -> bool:
    with suppress(OSError), FileIO(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(file.read(_LARGEST)) is not None
    return False


def mark(directory: Path) -> str:
    """Return the suffix that names this thread's file in the mark of its attempts, or "" if it has no file."""
    return _own.mark if _file(directory) is not None else ""


def is_gone(directory: Path, worker: str) -> bool:
    """Return whether the process that put this mark on a row is gone, or False if this directory cannot say."""
    identity, dot, name = worker.partition("@")[2].partition("/")[0].partition(".")
    if not dot or not name.isalnum() or identity != _identity(directory):
        return False
    with suppress(OSError):
        found = [path for path in os.listdir(directory) if path[:1].isdigit() and path.endswith(f".{name}")]
        for path in found:  # listdir raises where glob finds nothing: in a directory that may not be read
            with FileIO(directory / path, "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def lost_attempts(directory: Path, on_empty_file: Callable[[str], object] = lambda _: None) -> Iterator[LostAttempt]:
    """Yield the attempts whose processes are gone. The file of each is deleted when the caller asks for the next one.

    For a process that is gone and has written nothing, `on_empty_file` is called with the process id and the mark that
    its rows would have.
    """
    for path in sorted(directory.glob("[0-9]*")):
        with suppress(OSError), FileIO(path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _read(file.read(_LARGEST))
            if found is not None:
                yield found
            else:
                process, _, name = path.name.partition(".")
                on_empty_file(f"{process}@{_identity(directory)}.{name}")
            path.unlink(missing_ok=True)
    for path in directory.glob(".[0-9]*"):  # of a process that was killed before it had locked its file
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY:
                path.unlink(missing_ok=True)


def _file(directory: Path) -> FileIO | None:
    """Return this thread's file, made and locked before other processes can see it, or None if that fails."""
    if _own.of != (os.getpid(), directory):
        if _own.file is not None:
            _own.file.close()  # of a fork's parent, this leaves the parent's lock
        _own.file, _own.mark, _own.of = None, "", (os.getpid(), directory)
        name = f"{os.getpid()}.{os.urandom(4).hex()}"
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            file = FileIO(directory / f".{name}", "x")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(directory / f".{name}", directory / name)
            _own.file = file
            if identity := _identity(directory) or _new_identity(directory):
                _own.mark = f"@{identity}.{name.partition('.')[2]}"
    return _own.file


def _identity(directory: Path) -> str:
    """Return the name of this directory, or "" if it has none yet, or a crash has left a part of one."""
    with suppress(OSError), FileIO(directory / _IDENTITY) as file:
        name = file.read(_LARGEST)
        if len(name) == _LENGTH and name.isalnum():
            of_here = f"{os.fstat(file.fileno()).st_ino} {_machine_id()}"
            return hashlib.sha256(name + of_here.encode()).hexdigest()[:_LENGTH]
    return ""


@cache
def _machine_id() -> str:
    """Return the machine's id, machine-id(5), or "" if it has none, as in many containers."""
    with suppress(OSError):
        return Path("/etc/machine-id").read_text("ascii", "replace").strip()
    return ""


def _new_identity(directory: Path) -> str:
    """Name this directory, synced before any row holds the name. Of two processes at it, one decides the name."""
    own, path = directory / f".{os.getpid()}.{os.urandom(4).hex()}", directory / _IDENTITY
    with suppress(OSError):
        own.write_text(os.urandom(_LENGTH // 2).hex())
        fsync.sync_file(own)
        try:
            os.link(own, path)
        except FileExistsError:
            if not _identity(directory):
                own.replace(path)
        own.unlink(missing_ok=True)
        fsync.sync_directory(directory)
    return _identity(directory)


def _read(line: bytes) -> LostAttempt | None:
    """Return the attempt in a line, or None if it holds none, or a crash of the machine has left a part of it."""
    try:
        kind, org_id, id, worker, part = line.partition(b"\n")[0].decode("ascii").split(" ")
        return LostAttempt(kind, int(org_id), UUID(id), worker, None if part == _NONE else part.removeprefix("/"))
    except ValueError:
        return None
