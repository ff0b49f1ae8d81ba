"""Find the documents that are encrypted: PDF, Office in its new and its old form, OpenDocument.

Guarantees: never raises but for this machine's faults, and takes linear time. Only the few places are read where a
format says that it is encrypted, so that damage elsewhere changes nothing. A place that cannot be found says no.

Encrypted is not locked: a PDF that only forbids printing or changes, and a workbook that only forbids changes, are
encrypted with a password that every program knows, and open without being asked for one. Nothing is tried here.

PDF            /Encrypt in the last trailer or cross-reference stream (ISO 32000-1, 7.5.5 and 7.6.1)
Office         the streams EncryptionInfo and EncryptedPackage in an OLE file ([MS-OFFCRYPTO] 2.3)
.doc .xls .ppt the flag fEncrypted of the FIB, the record FILEPASS, the stream EncryptedSummary
OpenDocument   encryption-data in META-INF/manifest.xml (ODF 1.3 part 2, 4.8.4)
"""

import re

from . import ContainerError, UnpackBudget
from .guards import OLE

_STARTXREF = re.compile(rb"startxref[\0\t\n\f\r ]{1,10}([0-9]{1,10})")
_OBJECT = re.compile(rb"[\0\t\n\f\r ]{0,10}[0-9]{1,10}[\0\t\n\f\r ]{1,10}[0-9]{1,5}[\0\t\n\f\r ]{1,10}obj")
_ENCRYPT = re.compile(
    rb"/Encrypt[\0\t\n\f\r ]{0,10}(?:<<|[0-9]{1,10}[\0\t\n\f\r ]{1,10}[0-9]{1,5}[\0\t\n\f\r ]{1,10}R)"
)
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_XREF_TYPE = re.compile(rb"/Type[\0\t\n\f\r ]{0,10}/XRef")
# A dictionary is short but for the numbers of a cross-reference stream.
_DICTIONARY = 65536
_HEADER_WITHIN, _END_WITHIN = 1024, 65536
_ODF = "application/vnd.oasis.opendocument."
_MANIFEST, _MOST_MANIFEST = "META-INF/manifest.xml", 1 << 20
_ENTRY, _SECTOR = 128, 512
_FIB, _FIB_ENCRYPTED = (b"\xec\xa5", b"\xdc\xa5"), 0x0100
_BOF, _FILEPASS = (0x0009, 0x0209, 0x0409, 0x0809), 0x002F


def is_encrypted(data: bytes, detected_type: str | None, budget: UnpackBudget) -> bool:
    """Return whether a document says that it is encrypted."""
    if detected_type == "application/pdf":
        return _is_encrypted_pdf(data)
    if data.startswith(OLE):
        return _is_encrypted_office(data)
    if data.startswith(b"PK\x03\x04"):
        return bool(data[6:7] and data[6] & 1) or _is_encrypted_odf(data, detected_type or "", budget)
    return False


def _is_encrypted_pdf(data: bytes) -> bool:
    """Return whether the last trailer says so: where one is encrypted, those after it have to say so too."""
    trailer = _last_trailer(data)
    if b"#" in trailer:
        trailer = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), trailer)
    return _ENCRYPT.search(trailer) is not None


def _last_trailer(data: bytes) -> bytes:
    """Return the dictionary to which the end of a file points, or the last in it where that leads nowhere."""
    header = max(data.find(b"%PDF-", 0, _HEADER_WITHIN), 0)
    end = data.rfind(b"startxref", max(0, len(data) - _END_WITHIN))
    found = _STARTXREF.match(data, end) if end >= 0 else None
    for shift in (header, 0) if found else ():
        at = shift + int(found[1]) if found else 0
        if data[at : at + 16].strip(b"\0\t\n\f\r ").startswith(b"xref"):
            at = data.find(b"trailer", at)
            if at >= 0:
                return _until(data, at, b"startxref")
        elif _OBJECT.match(data, at):
            return _until(data, at, b"stream")
    trailer = data.rfind(b"trailer")
    # Patterns take ten times as long as looking for a word, and that is done from the end, where it stands.
    streams = _XREF_TYPE.finditer(data) if data.rfind(b"/XRef") >= 0 else ()
    stream = max((match.start() for match in streams), default=-1)
    if stream > trailer:
        return _until(data, max(0, data.rfind(b"obj", max(0, stream - _DICTIONARY), stream)), b"stream")
    return _until(data, trailer, b"startxref") if trailer >= 0 else b""


def _until(data: bytes, start: int, mark: bytes) -> bytes:
    end = data.find(mark, start, start + _DICTIONARY)
    return data[start : end if end >= 0 else start + _DICTIONARY]


def _is_encrypted_office(data: bytes) -> bool:
    if any(_find_entry(data, name) is not None for name in ("EncryptedPackage", "EncryptedSummary")):
        return True
    document = _first_sector(data, "WordDocument")
    if document[:2] in _FIB:
        return bool(int.from_bytes(document[10:12], "little") & _FIB_ENCRYPTED)
    return any(_has_file_pass(_first_sector(data, name)) for name in ("Workbook", "Book"))


def _find_entry(data: bytes, name: str) -> int | None:
    """Return where the directory entry of a stream lies in an OLE file."""
    wanted = name.encode("utf-16-le") + b"\0\0"
    at = data.find(wanted, _SECTOR)
    while at >= 0:
        if not at % _ENTRY and data[at + 64 : at + 67] == len(wanted).to_bytes(2, "little") + b"\x02":
            return at
        at = data.find(wanted, at + 2)
    return None


def _first_sector(data: bytes, name: str) -> bytes:
    """Return the beginning of a stream that has sectors of its own, as every document of Office has."""
    at = _find_entry(data, name)
    if at is None:
        return b""
    shift = 12 if data[30:32] == b"\x0c\0" else 9
    start = int.from_bytes(data[at + 116 : at + 120], "little") + 1 << shift
    return data[start : start + _SECTOR]


def _has_file_pass(stream: bytes) -> bool:
    """Return whether FILEPASS is among the first records, where it stands before all that is encrypted."""
    if int.from_bytes(stream[:2], "little") not in _BOF:
        return False
    at = 0
    while at + 4 <= len(stream):
        if int.from_bytes(stream[at : at + 2], "little") == _FILEPASS:
            return True
        at += 4 + int.from_bytes(stream[at + 2 : at + 4], "little")
    return False


def _is_encrypted_odf(data: bytes, detected_type: str, budget: UnpackBudget) -> bool:
    if not detected_type.startswith(_ODF):
        return False
    from .zip_archive import read_one

    try:
        return b"encryption-data" in read_one(data, _MANIFEST, _MOST_MANIFEST, budget)
    except ContainerError:
        return False
