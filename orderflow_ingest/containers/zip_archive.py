"""Open a ZIP archive (PKWARE APPNOTE 6.3): its files in the order of its directory, named as their writer meant.

Reasons: damaged · encrypted · multi-part · no members · overlapping members · ratio too high · too large when
unpacked · too many members · unsupported compression

Guarantees: nothing but NotOpened leaves. What is wrong with the directory, encryption and compression methods are
told before any member is given; a bad checksum only when its member is reached. Nothing that the directory claims is
trusted: its entries are counted before zipfile makes objects of them, and bytes are counted as they are unpacked.
Directories and the litter of file managers are not given; two members of one name both are.

zipfile of the standard library does it. bzip2 and LZMA it would unpack without bound, a GB out of 4 kB, and no
program that people use writes them, so that only stored and deflated members are opened. A program that carries an
archive at its end (a self-extracting one) would open too: whoever calls this decides by the first bytes.

A name is UTF-8 by its flag, or by the Unicode Path field of Info-ZIP; else nothing says what its bytes are. Windows
writes its OEM code page (850 in the West, 866 in Russia, 932 and 936 in Asia), other programs the ANSI one or UTF-8.
The choice falls on the reading that looks most like a name: see _oddity.
"""

import unicodedata
import zlib
from collections.abc import Iterator
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from ..mime.charsets import codec_name, decode_bytes, decode_undeclared
from . import Budget, Member, NotOpened
from .guards import BLOCK, Outflow, reading

_END, _END_SIZE = b"PK\x05\x06", 22
_LOCATOR_ZIP64 = b"PK\x06\x07"
_ENTRY_SIZE, _LOCAL_SIZE = 46, 30
_MOST_ENTRIES = 20_000
_ENCRYPTED, _IS_UTF8 = 0x0001, 0x0800
_UNICODE_PATH = 0x7075
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
_SIGNS = "°§№ー、。「」【】・\u2013\u2019\uff08\uff09"
# The OEM code page of a Windows whose ANSI code page is the first.
_OEM = {
    "cp1250": "cp852", "iso8859-2": "cp852", "cp1251": "cp866", "koi8-r": "cp866", "koi8-u": "cp866",
    "iso8859-5": "cp866", "cp1252": "cp850", "iso8859-15": "cp850", "cp1253": "cp737", "iso8859-7": "cp737",
    "cp1254": "cp857", "cp1255": "cp862", "cp1256": "cp720", "cp1257": "cp775", "cp1258": "cp1258",
}  # fmt: skip


def open_zip(data: bytes, budget: Budget, hint: str = "") -> Iterator[Member]:
    """Yield the files of an archive; hint names a charset used elsewhere in the mail. Raises NotOpened."""
    with reading("damaged"):
        _check_directory(data)
        archive = ZipFile(BytesIO(data))
        entries = [entry for entry in archive.infolist() if not _is_passed_over(entry)]
        _check_entries(entries, archive.start_dir)
    outflow = Outflow(len(data), budget)
    for entry in entries:
        with reading("damaged"):
            budget.take_member()
            member = Member(name=_read_name(entry, hint), data=_unpack(archive, entry, outflow))
        yield member


def _check_directory(data: bytes) -> None:
    """Count the directory's entries, and look for the other disks. Raises NotOpened."""
    # zipfile looks at the very end first, where a comment would stand otherwise.
    end = len(data) - _END_SIZE if data[-_END_SIZE:].startswith(_END) and data.endswith(b"\0\0") else data.rfind(_END)
    if end < 0:
        raise NotOpened("damaged")
    if data[end + 4 : end + 8] not in (bytes(4), b"\xff\xff\xff\xff"):
        raise NotOpened("multi-part")
    size = int.from_bytes(data[end + 12 : end + 16], "little")
    if data.startswith(_LOCATOR_ZIP64, end - 20) and end >= 76:
        size = int.from_bytes(data[end - 36 : end - 28], "little")
        end -= 76
    entry, count = end - size, 0
    if entry < 0:
        raise NotOpened("damaged")
    while entry < end:
        if (count := count + 1) > _MOST_ENTRIES:
            raise NotOpened("too many members")
        entry += _ENTRY_SIZE + sum(int.from_bytes(data[entry + at : entry + at + 2], "little") for at in (28, 30, 32))


def _is_passed_over(entry: ZipInfo) -> bool:
    name = entry.filename
    return (
        name.endswith(("/", "\\"))
        or name.startswith("__MACOSX/")
        or name.rsplit("/", 1)[-1].startswith("._")
        or name.rsplit("/", 1)[-1] in _LITTER
    )


def _check_entries(entries: list[ZipInfo], end: int) -> None:
    """Raise NotOpened for an archive that cannot be opened as a whole."""
    if not entries:
        raise NotOpened("no members")
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise NotOpened("encrypted")
    if any(entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for entry in entries):
        raise NotOpened("unsupported compression")
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        if entry.header_offset + _LOCAL_SIZE + entry.compress_size > end:
            raise NotOpened("overlapping members")
        end = entry.header_offset


def _unpack(archive: ZipFile, entry: ZipInfo, outflow: Outflow) -> bytes:
    blocks: list[bytes] = []
    with archive.open(entry) as source:
        while block := source.read(BLOCK):
            outflow.take(len(block))
            blocks.append(block)
    return b"".join(blocks)


def _read_name(entry: ZipInfo, hint: str) -> str:
    written = entry.orig_filename
    if not entry.flag_bits & _IS_UTF8:
        raw = written.encode("cp437", "replace")
        written = _unicode_path(entry.extra, raw) or decode_name(raw, hint)
    return written.replace("\\", "/")


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in the extra field 0x7075, if it belongs to the name as it stands now."""
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:1] == b"\x01" and field[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            return field[5:].decode("utf-8", "replace")
    return None


def decode_name(raw: bytes, hint: str = "") -> str:
    """Decode a member's name of which nothing says what its bytes are."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    readings = [decode_undeclared(raw, hint)]
    if page := _OEM.get(codec_name(hint) or ""):
        readings.append(raw.decode(page, "replace"))
    readings.append(decode_undeclared(raw))
    readings.extend(decode_bytes(raw, page) for page in ("cp1252", "cp1251", "cp850", "cp866"))
    return min(readings, key=_oddity)


def _oddity(name: str) -> int:
    """Return how little a text looks like a name: odd signs, and letters that do not stand beside each other."""
    odd, last, last_script = 0, "", ""
    for char in name:
        script = ""
        if char > "\x7f":
            if not char.isalpha():
                odd += 0 if char in _SIGNS else 3
            elif "HALFWIDTH" in unicodedata.name(char, ""):
                odd += 2
            odd += 2 if char.isupper() and last.islower() else 0
        if char.isalpha():
            script = unicodedata.name(char, "").split(" ")[0]
            odd += 1 if last_script and script != last_script else 0
        last, last_script = char, script
    return odd
