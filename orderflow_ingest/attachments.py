"""Decide which parts of a mail are documents: the policy on top of the MIME reader.

Guarantees: every part is told with the reason why it was taken or passed over; nothing in a mail raises; a part whose
decoding fails is given out whole and undecoded with a defect, and never costs the others. Content is decoded part by
part, as the caller asks for the next; a container's data is empty, since its parts come after it. ImportError and
MemoryError do pass: they tell of this machine and not of the mail, and must not make a document of it.

Taken are: what the sender calls an attachment, every leaf with a name, every leaf that is not text, and documents
(PDF, spreadsheets, CSV, XML, EDI, Word) however they are marked: a PDF marked inline is an order. Passed over are text
bodies, calendars, business cards, signatures, delivery reports, and images that an HTML body shows by their Content-ID
or Content-Location (RFC 2392, RFC 2557) or that are too small for a scan. The word inline alone decides nothing.

Archives and other containers (ZIP, TNEF, S/MIME, Outlook messages) are taken whole. Files uuencoded in a text body are
parts below it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from urllib.parse import unquote

from .mime.bodies import decode_body, find_uuencoded
from .mime.charsets import codec_name, decode_bytes
from .mime.entities import Entity
from .mime.fields import find_sender_header
from .mime.filenames import safe_filename
from .mime.sniff import detect_type
from .mime.tree import MAX_PARTS, walk
from .mime.words import decode_text, storable

_SIGNATURES = (
    "application/pgp-signature",
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
    "application/pgp-encrypted",
    "application/pgp-keys",
)
_CALENDARS = ("text/calendar", "application/ics", "text/x-vcalendar")
_CARDS = ("text/vcard", "text/x-vcard", "text/directory", "application/vcard")
_REPORTS = (
    "message/delivery-status",
    "message/disposition-notification",
    "message/feedback-report",
    "message/tracking-status",
    "text/rfc822-headers",
)
_BODIES = ("text/plain", "text/html", "text/enriched", "text/richtext", "text/x-amp-html", "text/watch-html")
_REFERENCE = re.compile(r"""(?:cid:|(?:src|background)\s*=\s*["']?)([^"'\s<>()]{1,500})""", re.IGNORECASE)
# No scan of a page is as small; tracking pixels and rules in a signature are.
_SMALL_IMAGE = 2048
_EXTENSION = re.compile(r"\.([a-z0-9]{1,5})$", re.IGNORECASE)
_BY_EXTENSION = (("p7s", "signature"), ("ics", "calendar"), ("vcf", "business card"))


@dataclass(frozen=True)
class Part:
    """One part of a mail, decoded, with the verdict on it; path is its IMAP section, size in decoded bytes."""

    path: str
    filename: str | None
    claimed_filename: str | None
    declared_type: str
    detected_type: str | None
    disposition: str
    size: int
    data: bytes
    taken: bool
    reason: str
    defects: tuple[str, ...]


def read_parts(raw: bytes) -> Iterator[Part]:
    """Yield every part of a mail in the order in which they stand, containers before their parts."""
    entities: list[Entity] = []
    broken, hint, references = "", "", frozenset[str]()
    raw = raw[find_sender_header(raw) :]
    try:
        for found in walk(raw):
            entities.append(found)
        hint = _find_hint(entities)
        references = _find_references(entities)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        broken = f"reading failed: {type(error).__name__}"
    room = MAX_PARTS
    for entity in entities:
        part = _read_part(entity, hint, references)
        yield part
        if part.reason == "text body" and b"begin" in part.data:
            for file in islice(_read_uuencoded(part, hint), room):
                yield file
                room -= 1
    if broken:
        yield Part("", None, None, "message/rfc822", None, "", len(raw), raw, True, "unreadable", (broken,))


def _find_hint(entities: list[Entity]) -> str:
    """Return the first charset declared in the mail that says something about raw 8-bit file names."""
    for entity in entities:
        if (label := entity.header.charset()) and codec_name(label) not in (None, "ascii", "utf-8", "utf-7"):
            return label
    return ""


def _find_references(entities: list[Entity]) -> frozenset[str]:
    """Return what the HTML bodies show: Content-IDs and locations, in lower case."""
    found: set[str] = set()
    for entity in entities:
        if entity.kind == "leaf" and entity.header.type == "text/html":
            data = _decode(entity)[0]
            html = decode_bytes(data, entity.header.charset() or "latin1")
            names = (unquote(match[1]) for match in _REFERENCE.finditer(html))
            found.update(name.lower().removeprefix("cid:").strip() for name in names)
    return frozenset(found)


def _decode(entity: Entity) -> tuple[bytes, tuple[str, ...]]:
    try:
        body = decode_body(entity.source, entity.start, entity.end, entity.header.encoding)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        return entity.source[entity.start : entity.end], (f"decoding failed: {type(error).__name__}",)
    return body.data, body.defects


def _read_part(entity: Entity, hint: str, references: frozenset[str]) -> Part:
    """Return the part of an entity with the verdict on it."""
    header = entity.header
    data, defects = _decode(entity)
    try:
        claimed = header.filename(hint)
        part = Part(
            path=entity.path,
            filename=safe_filename(claimed) if claimed else None,
            claimed_filename=storable(claimed) if claimed else None,
            declared_type=storable(header.type),
            detected_type=detect_type(data),
            disposition=_read_disposition(header.disposition.value),
            size=len(data),
            data=data,
            taken=False,
            reason="",
            defects=(*entity.defects, *defects),
        )
        taken, reason = _judge(entity, part, references)
        return replace(part, taken=taken, reason=reason)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        failed = (*entity.defects, *defects, f"reading failed: {type(error).__name__}")
        kind = storable(header.type)
        return Part(entity.path, None, None, kind, None, "", len(data), data, True, "unreadable", failed)


def _read_disposition(value: str) -> str:
    # RFC 2183 section 2.8: a disposition that is not known means attachment.
    return value if value in ("", "inline") else "attachment"


def _judge(entity: Entity, part: Part, references: frozenset[str]) -> tuple[bool, str]:
    """Return whether a part is a document, and the word for why."""
    if entity.kind != "leaf":
        return False, "container"
    if set_aside := _recognise(part):
        return False, set_aside
    if part.disposition == "attachment":
        return True, "attachment"
    if _is_image(part):
        if _is_referenced(entity, part, references):
            return False, "inline image"
        addressed = part.disposition == "inline" or entity.header.content_id
        if part.size < _SMALL_IMAGE and addressed and entity.parent == "multipart/related":
            return False, "small image"
    if part.filename:
        return True, "named"
    if part.declared_type == "message/partial":
        return True, "partial message"
    if not part.data.strip():
        return False, "empty"
    body = part.declared_type in _BODIES or part.declared_type.startswith("multipart/")
    if body and (part.detected_type or "text/").startswith("text/"):
        return False, "text body"
    return True, "document type"


def _recognise(part: Part) -> str | None:
    """Return the word for a part that is no document by its type, or by its name if the type says nothing."""
    for types, word in (
        (_SIGNATURES, "signature"),
        (_CALENDARS, "calendar"),
        (_CARDS, "business card"),
        (_REPORTS, "delivery report"),
    ):
        if part.declared_type in types:
            return word
    extension = _EXTENSION.search(part.filename or "")
    if extension and part.declared_type in ("application/octet-stream", "text/plain"):
        return next((word for ending, word in _BY_EXTENSION if ending == extension[1].lower()), None)
    return None


def _is_image(part: Part) -> bool:
    """Tell an image from a document that is only declared as one, and the other way round."""
    if part.declared_type == "application/octet-stream":
        return (part.detected_type or "").startswith("image/")
    return part.declared_type.startswith("image/") and part.detected_type != "application/pdf"


def _is_referenced(entity: Entity, part: Part, references: frozenset[str]) -> bool:
    names = (unquote(entity.header.content_id), entity.header.location, part.claimed_filename or "")
    return any(name.strip().lower() in references for name in names if name)


def _read_uuencoded(part: Part, hint: str) -> Iterator[Part]:
    for number, file in enumerate(find_uuencoded(part.data), start=1):
        claimed = decode_text(file.name, hint)
        yield Part(
            path=f"{part.path}.{number}",
            filename=safe_filename(claimed),
            claimed_filename=storable(claimed),
            declared_type="application/octet-stream",
            detected_type=detect_type(file.data),
            disposition="",
            size=len(file.data),
            data=file.data,
            taken=True,
            reason="uuencoded",
            defects=() if file.complete else ("uuencode never ended",),
        )
