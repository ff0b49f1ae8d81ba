"""Find the mails of the files and directories that an operator names, in order.

    a file                    an mbox file if it begins with a From line, else one mail
    a directory with cur/     a Maildir: new/ and cur/, and the same of its folders; tmp/ is left alone
    and new/
    another directory         its .eml and .mbox files, also in directories below, and every Maildir; other files count
                              as skipped

Somebody else may have filled the directories. So a symbolic link below them is not followed, and only plain files are
opened. A file that cannot be read is reported by name, and the rest goes on. Memory holds the names of a directory and
one mail.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from orderflow_ingest.domain.os_errors import os_reason

from .mbox import is_mbox, read_mbox

_SUFFIXES = (".eml", ".mbox", ".mbx")
_HEAD = 4096


@dataclass(frozen=True)
class FileMail:
    """A mail in a file: where it stands, and its bytes, or why there are none. `is_other`: nobody says it is mail."""

    name: str
    size: int
    written_at: datetime | None = None
    sender: str = ""
    raw: bytes | None = None
    reason: str = ""
    is_not_mail: bool = False


def read_paths(paths: list[Path], limit: int) -> Iterator[FileMail]:
    """Yield the mails of these files and directories, none of which is more than `limit` bytes long."""
    for path in paths:
        # What was named may be a link; what is found below it may not.
        yield from _read(path.resolve(), limit, is_named=True)


def count_bytes(paths: list[Path]) -> int:
    """Add up what read_paths() will go through."""
    return sum(_size(file) for path in paths for file in _files(path.resolve(), is_named=True))


def _read(path: Path, limit: int, *, is_named: bool) -> Iterator[FileMail]:
    for file in _files(path, is_named=is_named):
        if isinstance(file, FileMail):
            yield file
        else:
            yield from _read_file(file, limit)


def _files(path: Path, *, is_named: bool) -> Iterator[Path | FileMail]:
    """Yield the files that may hold mail, and what is skipped."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name)) if path.is_dir() else None
    except OSError as error:
        yield FileMail(str(path), 0, reason=_reason(error))
        return
    if entries is None:
        yield path
        return
    is_maildir = {"cur", "new"} <= {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    for entry in entries:
        found = Path(entry.path)
        if entry.is_symlink():
            yield FileMail(entry.path, 0, reason="a symbolic link, which is not followed")
        elif entry.is_dir():
            if is_maildir and entry.name in ("cur", "new"):
                yield from _files_of_folder(found)
            elif not (is_maildir and entry.name == "tmp"):
                yield from _files(found, is_named=False)
        elif entry.name.lower().endswith(_SUFFIXES):
            yield found
        elif not is_maildir:
            yield FileMail(entry.path, 0, reason="neither .eml nor .mbox", is_not_mail=True)


def _files_of_folder(path: Path) -> Iterator[Path | FileMail]:
    """Yield cur/ or new/ of a Maildir, where every file is a mail."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield FileMail(str(path), 0, reason=_reason(error))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            yield FileMail(entry.path, 0, reason="a symbolic link, which is not followed")
        elif not entry.is_dir():
            yield Path(entry.path)


def _read_file(path: Path, limit: int) -> Iterator[FileMail]:
    try:
        # Neither a link nor a pipe that somebody has put there meanwhile.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                yield FileMail(str(path), 0, reason="no plain file")
                return
            yield from _mails(file, path, about, limit)
    except OSError as error:
        yield FileMail(str(path), _size(path), reason=_reason(error))


def _mails(file: BinaryIO, path: Path, about: os.stat_result, limit: int) -> Iterator[FileMail]:
    written_at = datetime.fromtimestamp(about.st_mtime, UTC)
    head = file.read(_HEAD)
    file.seek(0)
    if not is_mbox(head):
        raw = file.read(limit + 1)
        is_whole = len(raw) <= limit
        yield FileMail(str(path), about.st_size, written_at, "", raw if is_whole else None, "" if is_whole else _BIG)
        return
    last: FileMail | None = None
    for mail in read_mbox(file, limit):
        if last:
            yield last
        name, size = f"{path} at byte {mail.offset}", len(mail.raw or b"")
        last = FileMail(name, size, written_at, mail.sender, mail.raw, "" if mail.raw is not None else _BIG)
    if last:
        yield last


_BIG = "over ORDERFLOW_MAX_MESSAGE_SIZE"


def _size(file: Path | FileMail) -> int:
    if isinstance(file, Path):
        with suppress(OSError):
            return file.lstat().st_size
    return 0


def _reason(error: OSError) -> str:
    return os_reason(error)
