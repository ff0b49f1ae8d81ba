"""Detect a content's type from its bytes.

Guarantees: never raises, looks at the first and last 64 kB only. None means unknown, as for plain text and CSV, which
have no signature.

puremagic does the work: it is kept up, is pure Python, and needs no system library as libmagic does (filetype has had
no release since 2022). It is imported on the first call. It matches signatures at the beginning, so what it cannot
distinguish is found out here: the ZIP and OLE families by the names of their members, EDI and TNEF by their first
bytes. So are the commonest types, PDF and images: puremagic takes a third of a millisecond to go through all its
signatures. Signatures of one or two bytes are too easily met by chance and do not count, but for an executable's.
"""

import codecs
import re
from collections import defaultdict
from functools import cache

_REACH = 65536
_LEAST_CONFIDENCE = 0.3
_ZIP_MEMBERS = (
    (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    (b"visio/", "application/vnd.ms-visio.drawing"),
    (b"3D/", "model/3mf"),
    (b"FixedDocumentSequence.fdseq", "application/vnd.ms-xpsdocument"),
    (b"FixedDocSeq.fdseq", "application/vnd.ms-xpsdocument"),
)
# A member of this name makes an archive a file of one program, whatever else is in it.
_ZIP_MARKS = (
    (b"AndroidManifest.xml", "application/vnd.android.package-archive"),
    (b"META-INF/MANIFEST.MF", "application/java-archive"),
    (b"doc.kml", "application/vnd.google-earth.kmz"),
    (b"Index/Document.iwa", "application/vnd.apple.iwork"),
    (b"Index.zip", "application/vnd.apple.iwork"),
)
_ZIP_END, _ZIP_ENTRY = b"PK\x05\x06", b"PK\x01\x02"
_MIMETYPE_MEMBER = re.compile(rb"PK\x03\x04.{26}mimetype(application/[a-z0-9.+-]{1,80}?)PK", re.DOTALL)
_OLE_STREAMS = (
    ("__properties_version1.0", "application/vnd.ms-outlook"),
    ("Workbook", "application/vnd.ms-excel"),
    ("WordDocument", "application/msword"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("Book", "application/vnd.ms-excel"),
)
# Most parts are plain text, which has no signature: a look would find one by chance alone.
_CONTROLS = bytes((*range(9), *range(14, 27), *range(28, 32), 127))
_IS_CONTROL = bytes(number in _CONTROLS for number in range(256))
_TEXTUAL = re.compile(rb"\s*+(?:%PDF|%!PS|\{\\rtf)")
# The first bytes of all that follows, blanks before it included.
_FIRST_BYTE = frozenset(b"%\x89\xffG\x78UI\xef<\x1fM \t\n\v\f\r")
_FIRST_BYTES = (
    (re.compile(rb"%PDF-"), "application/pdf"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff[\xc0-\xef\xfe]"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"\x78\x9f\x3e\x22"), "application/vnd.ms-tnef"),
    (re.compile(rb"\s*(?:UNA.{6}\s*)?UNB\+", re.DOTALL), "application/edifact"),
    (re.compile(rb"ISA([^A-Za-z0-9\s]).{2}\1", re.DOTALL), "application/edi-x12"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*+<\?xml\s", re.IGNORECASE), "application/xml"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*+<(?:!doctype\s+html\b|!--|html\b|body\b|h1\b)", re.IGNORECASE), "text/html"),
    (re.compile(rb"<svg\s"), "image/svg+xml"),
    (re.compile(rb"\x1f\x8b\x08"), "application/gzip"),
    (re.compile(rb"MZ[\s\S]{0,1000}\x00\x00"), "application/vnd.microsoft.portable-executable"),
)


# What is text although its type does not say so.
_TEXT_TYPES = ("text/", "application/xml", "application/edifact", "application/edi-x12", "image/svg+xml")
_BINARY_TYPES = ("application/pdf", "image/", "audio/", "video/", "font/")
_BINARY_STARTS = (
    *(b"%PDF-", b"PK\x03\x04", b"\x89PNG", b"GIF87a", b"GIF89a", b"\xff\xd8\xff", b"\xd0\xcf\x11\xe0", b"\x1f\x8b\x08"),
    *(b"\x78\x9f\x3e\x22", b"II*\0", b"MM\0*", b"Rar!\x1a", b"7z\xbc\xaf\x27\x1c", b"wOFF", b"OggS", b"RIFF"),
)


def is_text(data: bytes, declared: str) -> bool:
    """Return whether content is text, whose line ends are those of the machine that it lies on."""
    if declared.startswith(("text/", "message/", "multipart/")):
        return not data.startswith(_BINARY_STARTS)
    detected = detect_type(data)
    if detected is not None:
        return detected.startswith(_TEXT_TYPES)
    return not declared.startswith(_BINARY_TYPES) and not _is_binary(data[:_REACH])


def detect_type(data: bytes) -> str | None:
    """Return the media type that the content's own bytes show, None if they show none."""
    head = data[:_REACH]
    if head.startswith(b"PK\x03\x04"):
        return _detect_zip(head, data[-_REACH:])
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        tail = data[-_REACH:]
        names = ((stream.encode("utf-16-le"), kind) for stream, kind in _OLE_STREAMS)
        return next((kind for name, kind in names if name in head or name in tail), "application/x-ole-storage")
    if head and head[0] in _FIRST_BYTE:
        for pattern, kind in _FIRST_BYTES:
            if pattern.match(head):
                return kind
    return _detect_by_signature(head)


def _detect_zip(head: bytes, tail: bytes) -> str:
    if member := _MIMETYPE_MEMBER.match(head):
        return member[1].decode("ascii")
    names = _read_zip_names(tail)
    if names is None:
        # A long directory: what is found may lie in an archive within, but an office document is then likelier.
        if b"[Content_Types].xml" in head or b"[Content_Types].xml" in tail:
            return next((kind for name, kind in _ZIP_MEMBERS if name in head or name in tail), "application/zip")
        return "application/zip"
    if b"[Content_Types].xml" in names:
        for prefix, kind in _ZIP_MEMBERS:
            if any(name.lstrip(b"/").startswith(prefix) for name in names):
                return kind
    return next((kind for name, kind in _ZIP_MARKS if name in names), "application/zip")


def _read_zip_names(tail: bytes) -> list[bytes] | None:
    """Return the names in an archive's directory, None if not all of it is here."""
    end = tail.rfind(_ZIP_END)
    entry = end - int.from_bytes(tail[end + 12 : end + 16], "little")
    if end < 0 or entry < 0:
        return None
    names: list[bytes] = []
    while entry < end:
        if not tail.startswith(_ZIP_ENTRY, entry):
            return None
        lengths = [int.from_bytes(tail[entry + at : entry + at + 2], "little") for at in (28, 30, 32)]
        names.append(tail[entry + 46 : entry + 46 + lengths[0]])
        entry += 46 + sum(lengths)
    return names


def _detect_by_signature(head: bytes) -> str | None:
    if not (_TEXTUAL.match(head) or _is_binary(head[:512])):
        return None
    if not any(head[place] in found for place, found in _signatures()):
        return None
    import puremagic

    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    best = next((match for match in matches if match.mime_type), None)
    return best.mime_type.lower() if best and best.confidence >= _LEAST_CONFIDENCE else None


@cache
def _signatures() -> list[tuple[slice, set[bytes]]]:
    """Return puremagic's signatures by where they stand: to look each of them up takes it twelve times as long."""
    import puremagic

    found = defaultdict[tuple[int, int | None], set[bytes]](set)
    for row in (*puremagic.magic_header_array, *puremagic.magic_footer_array):
        found[row.offset, row.offset + len(row.byte_match) or None].add(row.byte_match)
    return [(slice(*place), signatures) for place, signatures in found.items()]


def _is_binary(head: bytes) -> bool:
    """Return whether content is neither ASCII nor UTF-8 text. The head may end inside a character."""
    try:
        codecs.utf_8_decode(head)
    except UnicodeDecodeError:
        return True
    # A search for any of them takes ten times as long.
    return 1 in head.translate(_IS_CONTROL)
