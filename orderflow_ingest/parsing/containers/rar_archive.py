"""Why a RAR archive (4 and 5) stays whole: it is encrypted, or nothing here opens it.

Reasons: encrypted · archive not opened

Guarantees: nothing but ContainerError leaves. The blocks of the archive are walked to learn of a password, the names in
it being encrypted or its files. Nothing is unpacked.

RAR is not opened, since there is no reader that may be let near hostile bytes. rarfile starts the program unrar, which
is not free and was the way into mail servers (CVE-2022-30333). libarchive (libarchive-c) is C that has had faults of
memory in its RAR readers year after year (CVE-2024-26256, CVE-2024-48957, CVE-2025-5914), and the worker holds the keys
of all tenants: what breaks out of it reads them all. The method has no other description than the sources of unrar,
whose license forbids to make an archiver of them.
"""

from collections.abc import Iterator

from . import ContainerError, Member, UnpackBudget
from .guards import RAR, UNREAD_ARCHIVE

# What one block takes, in steps of the budget.
_BLOCK_STEPS = 10
_MOST_BLOCKS = 20_000
_FOURTH, _FIFTH = RAR + b"\0", RAR + b"\1\0"


def open_rar(data: bytes, budget: UnpackBudget) -> Iterator[Member]:
    """Raise ContainerError with the reason why an archive stays whole."""
    try:
        encrypted = _is_encrypted_5(data, budget) if data.startswith(_FIFTH) else _is_encrypted_4(data, budget)
    except (IndexError, ValueError):
        encrypted = False
    yield from ()
    raise ContainerError("encrypted" if encrypted else UNREAD_ARCHIVE)


def _is_encrypted_4(data: bytes, budget: UnpackBudget) -> bool:
    """Return whether the main block says that names are encrypted (0x80), or a file's block that the file is (0x04)."""
    position = len(_FOURTH)
    for _ in range(_MOST_BLOCKS):
        budget.step(_BLOCK_STEPS)
        kind = data[position + 2]
        flags, size = (int.from_bytes(data[position + at : position + at + 2], "little") for at in (3, 5))
        if kind == 0x7B or size < 7:
            return False
        if (kind == 0x73 and flags & 0x80) or (kind == 0x74 and flags & 0x04):
            return True
        if flags & 0x8000:
            size += int.from_bytes(data[position + 7 : position + 11], "little")
        if kind == 0x74 and flags & 0x100:
            size += int.from_bytes(data[position + 32 : position + 36], "little") << 32
        position += size
    return False


def _is_encrypted_5(data: bytes, budget: UnpackBudget) -> bool:
    """Return whether there is a block of encryption (4), or a file (2, 3) with a record of it (1) in its extra area."""
    position = len(_FIFTH)
    for _ in range(_MOST_BLOCKS):
        budget.step(_BLOCK_STEPS)
        size, begin = _number(data, position + 4)
        end = begin + size
        kind, at = _number(data, begin)
        flags, at = _number(data, at)
        extra, at = _number(data, at) if flags & 1 else (0, at)
        content, at = _number(data, at) if flags & 2 else (0, at)
        if kind == 4:
            return True
        if kind == 5 or end > len(data):
            return False
        at = end - extra
        while kind in (2, 3) and begin < at < end:
            budget.step()
            length, at = _number(data, at)
            record, _ = _number(data, at)
            if record == 1:
                return True
            at += max(length, 1)
        position = end + content
    return False


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and where it ends. Raise ValueError, IndexError."""
    value = 0
    for place in range(10):
        byte = data[position + place]
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, position + place + 1
    raise ValueError("number too long")
