"""Mail in files: what an operator names, walked through in order, mail by mail.

    a file                    an mbox file if it begins with a From line, else one mail
    a directory with cur/     a Maildir: new/ and cur/, and the same of its folders; tmp/ is left alone
    and new/
    another directory         the .eml and .mbox files in it and below it, and every Maildir; other files are counted

Somebody else may have filled the directories: nothing in them is followed that is a symbolic link, and nothing opened
that is no plain file. What cannot be read is told, with its name, and the rest goes on. Memory holds a directory's
names and one mail.
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
class OfFile:
    """A mail in a file: where it stands, and its bytes, or why there are none; `is_other`: nobody says it is mail."""

    name: str
    size: int
    written_at: datetime | None = None
    sender: str = ""
    raw: bytes | None = None
    why: str = ""
    is_other: bool = False


def read_paths(paths: list[Path], limit: int) -> Iterator[OfFile]:
    """Go through the mails of these files and directories, none of which is more than `limit` bytes long."""
    for path in paths:
        # What was named may be a link; what is found below it may not.
        yield from _read(path.resolve(), limit, is_named=True)


def count_bytes(paths: list[Path]) -> int:
    """Add up what read_paths() will go through."""
    return sum(_size(file) for path in paths for file in _files(path.resolve(), is_named=True))


def _read(path: Path, limit: int, is_named: bool) -> Iterator[OfFile]:
    for file in _files(path, is_named):
        if isinstance(file, OfFile):
            yield file
        else:
            yield from _read_file(file, limit)


def _files(path: Path, is_named: bool) -> Iterator[Path | OfFile]:
    """Go through the files that may hold mail, and tell of what is passed over."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name)) if path.is_dir() else None
    except OSError as error:
        yield OfFile(str(path), 0, why=_reason(error))
        return
    if entries is None:
        yield path
        return
    is_maildir = {"cur", "new"} <= {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    for entry in entries:
        found = Path(entry.path)
        if entry.is_symlink():
            yield OfFile(entry.path, 0, why="a symbolic link, which is not followed")
        elif entry.is_dir():
            if is_maildir and entry.name in ("cur", "new"):
                yield from _files_of_folder(found)
            elif not (is_maildir and entry.name == "tmp"):
                yield from _files(found, is_named=False)
        elif entry.name.lower().endswith(_SUFFIXES):
            yield found
        elif not is_maildir:
            yield OfFile(entry.path, 0, why="neither .eml nor .mbox", is_other=True)


def _files_of_folder(path: Path) -> Iterator[Path | OfFile]:
    """Go through cur/ or new/ of a Maildir, where every file is a mail."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield OfFile(str(path), 0, why=_reason(error))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            yield OfFile(entry.path, 0, why="a symbolic link, which is not followed")
        elif not entry.is_dir():
            yield Path(entry.path)


def _read_file(path: Path, limit: int) -> Iterator[OfFile]:
    try:
        # Neither a link nor a pipe that somebody has put there meanwhile.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                yield OfFile(str(path), 0, why="no plain file")
                return
            yield from _mails(file, path, about, limit)
    except OSError as error:
        yield OfFile(str(path), _size(path), why=_reason(error))


def _mails(file: BinaryIO, path: Path, about: os.stat_result, limit: int) -> Iterator[OfFile]:
    written_at = datetime.fromtimestamp(about.st_mtime, UTC)
    head = file.read(_HEAD)
    file.seek(0)
    if not is_mbox(head):
        raw = file.read(limit + 1)
        is_whole = len(raw) <= limit
        yield OfFile(str(path), about.st_size, written_at, "", raw if is_whole else None, "" if is_whole else _BIG)
        return
    last: OfFile | None = None
    for mail in read_mbox(file, limit):
        if last:
            yield last
        name, size = f"{path} at byte {mail.offset}", len(mail.raw or b"")
        last = OfFile(name, size, written_at, mail.sender, mail.raw, "" if mail.raw is not None else _BIG)
    if last:
        yield last


_BIG = "over ORDERFLOW_MAX_MESSAGE_SIZE"


def _size(file: Path | OfFile) -> int:
    if isinstance(file, Path):
        with suppress(OSError):
            return file.lstat().st_size
    return 0


def _reason(error: OSError) -> str:
    return os_reason(error)
