"""Read the mails of an mbox file one after the other. Memory holds one mail.

There is no standard. RFC 4155 describes what is usual. A mail begins at a line `From SENDER DATE`, at the beginning of
the file or after an empty line. That empty line belongs to the file and not to the mail before it. A From line without
a time and a year is unquoted text. Quoted lines, `>From ` and `>>From `, lose one > (mboxrd). Content-Length is
ignored. Line ends stay as they are, LF or CRLF.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BEGIN = re.compile(rb"From [^\r\n]{0,400}\d:\d\d[^\r\n]{0,60}\d{4}[^\r\n]{0,60}\r?\n?")
_QUOTED = re.compile(rb">+From ")
_LINE = 1 << 16


@dataclass(frozen=True)
class MboxMail:
    """A mail of an mbox file: where it begins, its From line's sender, and its bytes, or None if it is too large."""

    offset: int
    sender: str
    raw: bytes | None


def read_mbox(file: BinaryIO, limit: int) -> Iterator[MboxMail]:
    """Yield the mails of an mbox file, none of which is more than `limit` bytes long."""
    begin, sender, size = 0, "", 0
    lines: list[bytes] | None = None
    offset, is_after_empty, is_whole_line = 0, True, True
    while line := file.readline(_LINE):
        starts_line, is_whole_line = is_whole_line, line.endswith(b"\n")
        if starts_line and is_after_empty and _BEGIN.fullmatch(line):
            if lines is not None:
                yield _mail(begin, sender, lines, size, limit)
            begin, sender, lines, size = offset, _sender(line), [], 0
        elif lines is not None:
            own = line[1:] if starts_line and _QUOTED.match(line) else line
            size += len(own)
            if size <= limit + 2:  # the empty line at its end is not counted
                lines.append(own)
        offset += len(line)
        is_after_empty = starts_line and line in (b"\n", b"\r\n")
    if lines is not None:
        yield _mail(begin, sender, lines, size, limit)


def is_mbox(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is an mbox file."""
    return _BEGIN.match(head) is not None


def _mail(begin: int, sender: str, lines: list[bytes], size: int, limit: int) -> MboxMail:
    end = lines[-1] if lines and lines[-1] in (b"\n", b"\r\n") else b""
    if size - len(end) > limit:
        return MboxMail(begin, sender, None)
    return MboxMail(begin, sender, b"".join(lines[: len(lines) - bool(end)]))


def _sender(line: bytes) -> str:
    word = line.split()[1].decode("utf-8", "replace")
    return word if "@" in word else ""
