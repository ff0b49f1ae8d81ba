"""Open a ZIP archive (PKWARE APPNOTE 6.3): its files in the order of its directory, named as their writer meant.

Reasons: damaged · directory too large · encrypted · multi-part · no members · overlapping members · ratio too high ·
too large when unpacked · too many members · too much to read · unsupported compression

Guarantees: nothing but ContainerError leaves. What is wrong with the directory, encryption and compression methods are
reported before any member is given. A bad checksum only when its member is reached. Nothing that the directory claims
is trusted: its entries are counted before zipfile makes objects of them, and bytes are counted as they are unpacked.
Directories and the litter of file managers are not given. Two members of one name both are.

zipfile of the standard library does it. bzip2 and LZMA it would unpack without bound, a GB out of 4 kB, and no
program that people use writes them, so that only stored and deflated members are opened. A program that carries an
archive at its end (a self-extracting one) would open too: whoever calls this decides by the first bytes.

A name is UTF-8 by its flag, or by the Unicode Path field of Info-ZIP. Else `names` finds out what its bytes are.
A directory over 8 MB, an entry with over 4 kB of extra fields, and more steps than the mail has left keep the archive
whole: zipfile copies the rest of the extra fields for each of them.
"""

import zlib
from collections.abc import Iterator
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from . import ContainerError, Member, UnpackBudget
from .guards import BLOCK, UnpackLimit, reading
from .names import Names, cut_text, is_litter

_END, _END_SIZE = b"PK\x05\x06", 22
_LOCATOR_ZIP64 = b"PK\x06\x07"
_ENTRY_SIZE, _LOCAL_SIZE = 46, 30
_MOST_ENTRIES, _LARGEST_DIRECTORY, _LARGEST_EXTRA = 20_000, 8 << 20, 4096
# What zipfile takes for an entry, in steps of the budget, and for 4 bytes of extra fields.
_ENTRY_STEPS, _EXTRA_STEP = 15, 4
_ENCRYPTED, _IS_UTF8 = 0x0001, 0x0800
_UNICODE_PATH = 0x7075


def open_zip(data: bytes, budget: UnpackBudget, hint: str = "") -> Iterator[Member]:
    """Yield the files of an archive. Hint names a charset used elsewhere in the mail. Raise ContainerError."""
    with reading("damaged"):
        _check_directory(data, budget)
        archive = ZipFile(BytesIO(data))
        entries = [entry for entry in archive.infolist() if not _is_skipped(entry)]
        _check_entries(entries, archive.start_dir)
    limit, names = UnpackLimit(len(data), budget), Names(budget, hint)
    for entry in entries:
        with reading("damaged"):
            budget.take_member()
            name, defects = _read_name(entry, names)
            member = Member(name=name, data=_unpack(archive, entry, limit), defects=defects)
        yield member


def read_one(data: bytes, name: str, most: int, budget: UnpackBudget) -> bytes:
    """Return the first bytes of the member of this name, empty if there is none. Raise ContainerError."""
    with reading("damaged"):
        _check_directory(data, budget)
        archive = ZipFile(BytesIO(data))
        if name not in archive.NameToInfo or archive.NameToInfo[name].compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            return b""
        with archive.open(name) as source:
            return source.read(most)


def _check_directory(data: bytes, budget: UnpackBudget) -> None:
    """Count the directory's entries, and look for the other disks. Raise ContainerError."""
    # zipfile looks at the very end first, where a comment would stand otherwise.
    end = len(data) - _END_SIZE if data[-_END_SIZE:].startswith(_END) and data.endswith(b"\0\0") else data.rfind(_END)
    if end < 0:
        raise ContainerError("damaged")
    if data[end + 4 : end + 8] not in (bytes(4), b"\xff\xff\xff\xff"):
        raise ContainerError("multi-part")
    size = int.from_bytes(data[end + 12 : end + 16], "little")
    if data.startswith(_LOCATOR_ZIP64, end - 20) and end >= 76:
        size = int.from_bytes(data[end - 36 : end - 28], "little")
        end -= 76
    entry, count = end - size, 0
    if entry < 0:
        raise ContainerError("damaged")
    while entry < end:
        if (count := count + 1) > _MOST_ENTRIES:
            raise ContainerError("too many members")
        name, extra, comment = (int.from_bytes(data[entry + at : entry + at + 2], "little") for at in (28, 30, 32))
        if extra > _LARGEST_EXTRA:
            raise ContainerError("directory too large")
        budget.step(_ENTRY_STEPS + extra // _EXTRA_STEP)
        entry += _ENTRY_SIZE + name + extra + comment
    if size > _LARGEST_DIRECTORY:
        raise ContainerError("directory too large")


def _is_skipped(entry: ZipInfo) -> bool:
    return entry.filename.endswith(("/", "\\")) or is_litter(entry.filename)


def _check_entries(entries: list[ZipInfo], end: int) -> None:
    """Raise ContainerError for an archive that cannot be opened as a whole."""
    if not entries:
        raise ContainerError("no members")
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ContainerError("encrypted")
    if any(entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for entry in entries):
        raise ContainerError("unsupported compression")
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        if entry.header_offset + _LOCAL_SIZE + entry.compress_size > end:
            raise ContainerError("overlapping members")
        end = entry.header_offset


def _unpack(archive: ZipFile, entry: ZipInfo, limit: UnpackLimit) -> bytes:
    blocks: list[bytes] = []
    with archive.open(entry) as source:
        while block := source.read(BLOCK):
            limit.take(len(block))
            blocks.append(block)
    return b"".join(blocks)


def _read_name(entry: ZipInfo, names: Names) -> tuple[str, tuple[str, ...]]:
    """Return a member's name, and the defects of it."""
    name, defects = cut_text(entry.orig_filename)
    if not entry.flag_bits & _IS_UTF8:
        raw = entry.orig_filename.encode("cp437", "replace")
        written = _unicode_path(entry.extra, raw)
        name, defects = names.read(raw) if written is None else names.read(written)
    return name.replace("\\", "/"), defects


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the name in the extra field 0x7075, if it belongs to the name as it stands now and is UTF-8."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = (int.from_bytes(extra[at : at + 2], "little") for at in (position, position + 2))
        position += 4 + size
        if kind != _UNICODE_PATH:
            continue
        field = extra[position - size : position]
        if field[:1] == b"\x01" and field[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            return field[5:].decode("utf-8", "replace").encode()
    return None
