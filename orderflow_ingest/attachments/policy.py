"""What counts as a document.

Taken are: what the sender calls an attachment, every leaf with a name, every leaf that is not text, and documents
(PDF, spreadsheets, CSV, XML, EDI, Word) however they are marked: a PDF marked inline is an order. Text bodies are
taken as documents of their own kind (see `reading`). Passed over are calendars, business cards, signatures, delivery
reports, and images that an HTML body shows by their Content-ID or Content-Location (RFC 2392, RFC 2557) or that are
too small for a scan; a large one that is all a page shows is the order itself. The word inline alone decides nothing.
"""

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from ..mime.filenames import extension
from .parts import Part, Reason

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
_SMALL_IMAGE = 1024
# Blanks, and the boundary lines of a multipart that has no parts.
_NOTHING = re.compile(rb"(?>\s*--[^\r\n]*)*\s*")
_BY_EXTENSION = {"p7s": Reason.SIGNATURE, "ics": Reason.CALENDAR, "vcf": Reason.BUSINESS_CARD}


def judge(
    part: Part, parent: str, names: tuple[str, ...], is_shown: Callable[[Part, Iterable[str]], bool]
) -> tuple[bool, Reason]:
    """Return whether a leaf is a document, or a text body, and why.

    parent is the type of the multipart it stands in, names are its Content-ID and Content-Location; is_shown tells
    whether an HTML body of the mail shows a part that has one of the names, and is asked for images only.
    """
    if set_aside := _recognise(part):
        return False, set_aside
    if part.disposition == "attachment":
        return True, Reason.ATTACHMENT
    if _is_image(part):
        if is_shown(part, (*names, part.claimed_filename or "")):
            return False, Reason.INLINE_IMAGE
        addressed = part.disposition == "inline" or any(names)
        if part.size < _SMALL_IMAGE and addressed and (parent == "multipart/related" or not part.filename):
            return False, Reason.SMALL_IMAGE
    if part.filename:
        return True, Reason.NAMED
    if part.declared_type == "message/partial":
        return True, Reason.PARTIAL_MESSAGE
    if _NOTHING.fullmatch(part.data):
        return False, Reason.EMPTY
    body = part.declared_type in _BODIES or part.declared_type.startswith("multipart/")
    if body and (part.detected_type or "text/").startswith("text/"):
        return True, Reason.TEXT_BODY
    return True, Reason.DOCUMENT_TYPE


def find_references(pages: Iterable[str]) -> frozenset[str]:
    """Return what HTML pages show: Content-IDs and locations, in lower case."""
    found: set[str] = set()
    for page in pages:
        names = (unquote(match[1]) for match in _REFERENCE.finditer(page))
        found.update(name.lower().removeprefix("cid:").strip() for name in names)
    return frozenset(found)


def is_referenced(names: Iterable[str], references: frozenset[str]) -> bool:
    """Tell whether one of a part's names is among what pages show."""
    return any(unquote(name).strip().lower() in references for name in names if name)


def _recognise(part: Part) -> Reason | None:
    """Return the reason for a part that is no document by its type, or by its name if the type says nothing."""
    for types, reason in (
        (_SIGNATURES, Reason.SIGNATURE),
        (_CALENDARS, Reason.CALENDAR),
        (_CARDS, Reason.BUSINESS_CARD),
        (_REPORTS, Reason.DELIVERY_REPORT),
    ):
        if part.declared_type in types:
            return reason
    if part.declared_type in ("application/octet-stream", "text/plain"):
        return _BY_EXTENSION.get(extension(part.filename))
    return None


def _is_image(part: Part) -> bool:
    """Tell an image from a document that is only declared as one, and the other way round."""
    if part.declared_type == "application/octet-stream":
        return (part.detected_type or "").startswith("image/")
    return part.declared_type.startswith("image/") and part.detected_type != "application/pdf"
