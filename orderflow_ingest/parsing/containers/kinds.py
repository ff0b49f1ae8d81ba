"""Which attachments are containers, and how each kind is opened.

Guarantees: container_kind never raises, and reads names and first bytes, and of an OLE file the whole. open_container
opens lazily, and raises as the opener does, which is imported when the first member is asked for.

The bytes decide before the declared type and the name. Files that are containers to a machine only, and documents to
people, stay whole: office documents, programs, maps, e-books, comics, compressed pictures. A ZIP is distinguished from
them by the names of its members, see `mime.sniff`, and where these say nothing by its own name or declared type. A
program that carries an archive at its end does not begin as one, and stays whole. What is MIME text is a message,
although its name or its type says S/MIME: Outlook keeps a clear-signed mail in this way, and senders name one
smime.p7m.
"""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice

from orderflow_ingest.parsing.mime.fields import iterate_fields, looks_like_header, skip_leading_blanks, split_header
from orderflow_ingest.parsing.mime.filenames import extension

from . import ContainerError, Member, UnpackBudget
from .guards import BZIP2, GZIP, OLE, RAR, SEVEN_ZIP, TNEF, UNREAD_ARCHIVE, XZ

__all__ = ["UNREAD_ARCHIVE", "container_kind", "is_mime_text", "open_container"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK00PK\x03\x04", b"PK\x07\x08PK\x03\x04")
_MESSAGE_STREAM = "__properties_version1.0".encode("utf-16-le")
_OUTLOOK_TYPE = "application/vnd.ms-outlook"
_TNEF_TYPES = ("application/ms-tnef", "application/vnd.ms-tnef")
_SMIME_TYPES = (
    "application/pkcs7-mime",
    "application/x-pkcs7-mime",
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
    "application/cms",
)
_UNKNOWN_TYPES = ("", "application/octet-stream", "application/binary", "application/x-download", "text/plain")
_ZIP_TYPES = (
    *_UNKNOWN_TYPES,
    "application/zip",
    "application/x-zip",
    "application/x-zip-compressed",
    "application/zip-compressed",
    "application/x-compressed",
    "application/x-compress",
    "multipart/x-zip",
)
# Files in ZIP and gzip that are opened by their own programs only.
_WHOLE_ZIPS = """
docx docm dotx dotm xlsx xlsm xlsb xltx xltm xlam pptx pptm potx potm ppsx ppsm ppam vsdx vsdm vstx sldx thmx
odt ods odp odg odf odb odm ott ots otp otg sxw sxc sxi pages numbers key xps oxps epub jar war ear apk aab ipa
xpi crx vsix whl egg nupkg kmz 3mf 3dxml sketch fig idml indd mscz sb3 pbix twbx one mmap xmind drawio mpp cbz
usdz step ifczip dwfx asice asics bdoc appx msix
"""
# A block, and the end of a file without any.
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
_USTAR = 257
_TAR_CHECKSUM = re.compile(rb"[ 0-7]{6,7}[ \0]")
_TAR_TYPES = ("application/x-tar", "application/tar", "application/x-gtar")
# Comics: files of one program.
_WHOLE_ARCHIVES = ("cbr", "cb7", "cbt")
_MIME_FIELDS = ("content-type", "mime-version")
_MOST_FIELDS, _LONGEST_HEADER = 100, 65536
_PARTS = re.compile(rb"--[^\r\n]{1,200}\r?\nContent-[A-Za-z-]{2,40}:", re.IGNORECASE)
_NEAR = 1000
# Archives that nothing here opens: Microsoft's cabinet, LHA, ACE, Zstandard, lzip.
_UNREAD = ((b"MSCF\0\0\0\0", b"\x28\xb5\x2f\xfd", b"LZIP\x01"), (b"-lh5-", b"-lh6-", b"-lh7-"), b"**ACE**")
_UNREAD_KIND = "unread archive"
# The module and function that open a kind, and the arguments they take beside content and budget.
_OPENERS = {
    "zip": ("zip_archive", "open_zip", "hint"),
    "gzip": ("gzip_file", "open_gzip", "filename"),
    "bzip2": ("one_file", "open_bzip2", "filename"),
    "xz": ("one_file", "open_xz", "filename"),
    "tar": ("tar_archive", "open_tar", "hint"),
    "7z": ("seven_zip", "open_seven_zip"),
    "rar": ("rar_archive", "open_rar"),
    "tnef": ("tnef", "open_tnef"),
    "outlook": ("outlook", "open_outlook"),
    "smime": ("smime", "open_smime", "filename"),
}
_WHOLE_GZIPS = "svgz emz wmz dia gnucash rds rdata blend vgz xcfgz mml kra adz als cpgz ggb pbf"


def container_kind(declared_type: str, detected_type: str | None, filename: str, data: bytes) -> str | None:
    """Return the kind of container that an attachment is to be opened as, None if it stays whole.

    "message" is what MIME reads, and no opener.
    """
    ending = extension(filename)
    if data.startswith(TNEF):
        return "tnef"
    if data.startswith(_ZIP):
        plain = detected_type in ("application/zip", None) and ending not in _WHOLE_ZIPS.split()
        return "zip" if plain and (declared_type in _ZIP_TYPES or ending == "zip") else None
    if data.startswith(GZIP):
        return None if ending in _WHOLE_GZIPS.split() or declared_type.startswith("image/") else "gzip"
    if archive := _archive_kind(data, ending, declared_type):
        return archive if ending not in _WHOLE_ARCHIVES else None
    if data.startswith(OLE):
        is_outlook = ending == "msg" or declared_type == _OUTLOOK_TYPE or detected_type == _OUTLOOK_TYPE
        unknown = detected_type in ("application/x-ole-storage", None)
        return "outlook" if is_outlook or (unknown and _MESSAGE_STREAM in data) else None
    if declared_type.startswith("multipart/") and is_mime_text(data):
        return "message"
    if declared_type in _SMIME_TYPES or ending == "p7m" or (ending == "p7s" and declared_type in _UNKNOWN_TYPES):
        return "message" if is_mime_text(data) else "smime"
    if detected_type is None and (ending == "zip" or declared_type in _ZIP_TYPES[-6:]):
        return "zip"
    if declared_type in _TNEF_TYPES or filename.lower() == "winmail.dat":
        return "tnef"
    return None


def _archive_kind(data: bytes, ending: str, declared_type: str) -> str | None:
    """Return the kind of an archive, by its first bytes."""
    if data.startswith(BZIP2) and data[4:10] in _BZIP2_BLOCKS:
        return "bzip2"
    if data.startswith(XZ):
        return "xz"
    if data.startswith(SEVEN_ZIP):
        return "7z"
    if data.startswith(RAR):
        return "rar"
    if data.startswith(_UNREAD[0]) or data.startswith(_UNREAD[1], 2) or data.startswith(_UNREAD[2], 7):
        return _UNREAD_KIND
    if ending == "tar" or declared_type in _TAR_TYPES or _TAR_CHECKSUM.match(data, 148):
        from .tar_archive import begins_tar

        named = data[_USTAR : _USTAR + 5] == b"ustar" and ending == "tar"
        return "tar" if named or begins_tar(data) else None
    return None


def is_mime_text(data: bytes) -> bool:
    """Return whether a message or a part of one begins here: a header that says so, or the first boundary of parts."""
    if not looks_like_header(data):
        return _PARTS.match(data[:_NEAR].lstrip(b"\r\n")) is not None
    start = skip_leading_blanks(data)
    end, _ = split_header(data, start, min(start + _LONGEST_HEADER, len(data)))
    return any(field.name in _MIME_FIELDS for field in islice(iterate_fields(data[start:end]), _MOST_FIELDS))


def open_container(
    kind: str, data: bytes, budget: UnpackBudget, filename: str = "", hint: str = ""
) -> Iterator[Member]:
    """Yield the members of a container. Filename is its own name, hint a charset of the mail. Raise ContainerError."""
    if kind == _UNREAD_KIND:
        raise ContainerError(UNREAD_ARCHIVE)
    if kind not in _OPENERS:
        raise ContainerError("unknown container")
    module, name, *asked = _OPENERS[kind]
    opener: Callable[..., Iterator[Member]] = getattr(import_module(f".{module}", __package__), name)
    known = {"filename": filename, "hint": hint}
    yield from opener(data, budget, *(known[one] for one in asked))
