"""Open a tar archive (POSIX.1-2017 ustar and pax, GNU, the old form): its files in the order in which they stand.

Reasons: damaged · headers too large · multi-part · no members · sparse files · too large when unpacked · too many
members · too much to read

Guarantees: nothing but ContainerError leaves, and time is linear. Nothing touches a file system: a member is its name
and its bytes. Links, devices and pipes are given as members LINK, without data, and are not followed. Of sparse files
the holes are not filled: they are left out, and the archive is kept whole for them after its other members.
Directories, labels and the litter of file managers are not given. A header whose checksum is wrong ends the reading.
Several archives, one after another, are read as one.

Own, since tarfile of the standard library was measured: one pax header of 80 kB of digits takes that of Python 3.11.7
9.5 s, the square of its length, in a pattern that nothing can end (CVE-2024-6232, mended in 3.11.10, and this runs on
any 3.11). It also calls itself for each of the headers that stand before a file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import ContainerError, Member, Role, UnpackBudget
from .guards import LINK_NOT_FOLLOWED, reading
from .names import Names, is_litter

_BLOCK = 512
_USTAR, _POSIX = 257, b"ustar\0"
_ASCII = bytes(range(128))
_LONGEST_HEADER = 1 << 20
# What one header takes, in steps of the budget.
_HEADER_STEPS = 15
_NULS = re.compile(rb"\0*+")
# Types of members, besides files.
_LONG_NAME, _PAX, _SPARSE, _CONTINUED = b"L", (b"x", b"X"), b"S", b"M"
_LINKS = (b"1", b"2", b"3", b"4", b"6")
_WITHOUT_CONTENT = (*_LINKS, b"5")
# A header for all members, link names and old long names hold nothing that is needed here.
_EXTENDED_TYPES = (_LONG_NAME, *_PAX, b"g", b"K", b"N")
_PASSED = (b"5", b"D", b"V")


@dataclass(frozen=True)
class _Header:
    """One block that describes a member."""

    name: bytes
    size: int
    type: bytes


@dataclass
class _Overrides:
    """What the extended headers before that of a member say of it."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


def begins_tar(data: bytes) -> bool:
    """Return whether a block that describes a member stands at the beginning."""
    try:
        _read_header(data, 0)
    except ValueError:
        return False
    return True


def open_tar(data: bytes, budget: UnpackBudget, hint: str = "") -> Iterator[Member]:
    """Yield the files of an archive. Hint names a charset used elsewhere in the mail. Raise ContainerError."""
    names, overrides = Names(budget, hint), _Overrides()
    position, given, left_out = 0, 0, False
    with reading("damaged"):
        while (at := _find_header(data, position)) is not None:
            header = _read_header(data, at)
            begin, size = _find_content(data, at, header, overrides, budget)
            position = begin + (size + _BLOCK - 1) // _BLOCK * _BLOCK
            if header.type in _EXTENDED_TYPES:
                _read_overrides(header.type, data, begin, begin + size, overrides, budget)
                continue
            if header.type == _CONTINUED:
                raise ContainerError("multi-part")
            name, defects = names.read(header.name if overrides.name is None else overrides.name)
            is_sparse = overrides.sparse or header.type == _SPARSE
            overrides, left_out = _Overrides(), left_out or is_sparse
            if is_sparse or header.type in _PASSED or name.endswith("/") or is_litter(name):
                continue
            budget.take_member()
            budget.take(size)
            given += 1
            if header.type in _LINKS:
                yield Member(name, b"", role=Role.LINK, defects=(*defects, LINK_NOT_FOLLOWED))
            else:
                yield Member(name, data[begin : begin + size], defects=defects)
    if left_out:
        raise ContainerError("sparse files")
    if not given:
        raise ContainerError("no members")


def _find_header(data: bytes, position: int) -> int | None:
    """Return where the next header stands, past the end mark of an archive before it. None at the end."""
    end = _NULS.match(data, position)
    at = position + (end.end() - position) // _BLOCK * _BLOCK if end else position
    if at >= len(data) or not data[at : at + _BLOCK].strip(b"\0"):
        return None
    if at > position and not begins_tar(data[at : at + _BLOCK]):
        return None
    return at


def _read_header(data: bytes, at: int) -> _Header:
    """Return the header at a position. Raise ValueError."""
    block = data[at : at + _BLOCK]
    if len(block) < _BLOCK:
        raise ValueError("ends early")
    checksum = _number(block[148:156])
    blanked = block[:148] + b" " * 8 + block[156:]
    total = sum(blanked)
    # Old programs added the bytes as signed ones.
    if checksum not in (total, total - 256 * len(blanked.translate(None, _ASCII))):
        raise ValueError("wrong checksum")
    name, prefix = (field.split(b"\0", 1)[0] for field in (block[:100], block[345:500]))
    if block[_USTAR : _USTAR + 6] == _POSIX and prefix:
        name = prefix + b"/" + name
    return _Header(name, _number(block[124:136]), block[156:157])


def _number(field: bytes) -> int:
    """Return a number in octal digits, or in base 256 by its first bit. Raise ValueError."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0").split(b" ", 1)[0].split(b"\0", 1)[0]
    if digits.strip(b"01234567"):
        raise ValueError("no number")
    return int(digits or b"0", 8)


def _find_content(
    data: bytes, at: int, header: _Header, overrides: _Overrides, budget: UnpackBudget
) -> tuple[int, int]:
    """Return where a member's bytes begin, and their number. Raise ContainerError."""
    budget.step(_HEADER_STEPS)
    begin = at + _BLOCK
    size = header.size if overrides.size is None or header.type in _EXTENDED_TYPES else overrides.size
    if header.type in _WITHOUT_CONTENT:
        size = 0
    if header.type == _SPARSE:
        # The map of a file with many holes goes on in blocks of its own.
        goes_on = data[at + 482 : at + 483]
        while goes_on.strip(b"\0"):
            budget.step()
            goes_on, begin = data[begin + 504 : begin + 505], begin + _BLOCK
    if begin + size > len(data):
        raise ContainerError("damaged")
    return begin, size


def _read_overrides(
    kind: bytes, data: bytes, begin: int, end: int, overrides: _Overrides, budget: UnpackBudget
) -> None:
    """Read what the content of an extended header says of the next member. Raise ContainerError, ValueError."""
    if end - begin > _LONGEST_HEADER:
        raise ContainerError("headers too large")
    if kind == _LONG_NAME:
        overrides.name = data[begin:end].split(b"\0", 1)[0]
    if kind not in _PAX:
        return
    while begin < end:
        budget.step()
        blank = data.index(b" ", begin, min(begin + 10, end))
        length = int(data[begin:blank])
        if length < blank + 2 - begin or begin + length > end:
            raise ValueError("wrong record")
        key, _, value = data[blank + 1 : begin + length - 1].partition(b"=")
        begin += length
        if key == b"path":
            overrides.name = value
        elif key == b"size":
            overrides.size = int(value[:20])
            if overrides.size < 0:
                raise ValueError("no size")
        elif key.startswith(b"GNU.sparse."):
            overrides.sparse = True
