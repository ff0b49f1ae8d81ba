"""What counts as a document.

Taken are: what the sender calls an attachment, every leaf with a name, every leaf that is not text, and documents
(PDF, spreadsheets, CSV, XML, EDI, Word) however they are marked: a PDF marked inline is an order. Text bodies are
taken as documents of their own kind (see `bodies`). Passed over are calendars, business cards, signatures, delivery
reports, and images that an HTML body shows by their Content-ID or Content-Location (RFC 2392, RFC 2557) or that are
too small for a scan. A large one that is all a page shows is the order itself, and so is any in a mail without another
document (see `pictures`). The word inline alone decides nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from urllib.parse import unquote

from orderflow_ingest.parsing.mime.filenames import extension

from .content_types import DOCUMENT_TYPES
from .part import Part, PartKind, Reason
from .pictures import SMALL_SIZE

# What is skipped by its type, and what has to stand in it.
_CALENDAR = re.compile(rb"BEGIN:VCALENDAR", re.IGNORECASE)
_CARD = re.compile(rb"BEGIN:VCARD", re.IGNORECASE)
_PGP = re.compile(rb"-----BEGIN PGP (?:SIGNATURE|PUBLIC KEY BLOCK)|\A\s*+Version:\s*+1\s*+\Z")
_BY_TYPE = {
    "text/calendar": (Reason.CALENDAR, _CALENDAR),
    "application/ics": (Reason.CALENDAR, _CALENDAR),
    "text/x-vcalendar": (Reason.CALENDAR, _CALENDAR),
    "text/vcard": (Reason.BUSINESS_CARD, _CARD),
    "text/x-vcard": (Reason.BUSINESS_CARD, _CARD),
    "text/directory": (Reason.BUSINESS_CARD, _CARD),
    "application/vcard": (Reason.BUSINESS_CARD, _CARD),
    "application/pgp-signature": (Reason.SIGNATURE, _PGP),
    "application/pgp-encrypted": (Reason.SIGNATURE, _PGP),
    "application/pgp-keys": (Reason.SIGNATURE, _PGP),
}
_BY_EXTENSION = {"ics": (Reason.CALENDAR, _CALENDAR), "vcf": (Reason.BUSINESS_CARD, _CARD)}
_CMS_SIGNATURES = ("application/pkcs7-signature", "application/x-pkcs7-signature")
_REPORTS = (
    "message/delivery-status",
    "message/disposition-notification",
    "message/feedback-report",
    "message/tracking-status",
    "text/rfc822-headers",
)
_BODIES = ("text/plain", "text/html", "text/enriched", "text/richtext", "text/x-amp-html", "text/watch-html")
_REFERENCE = re.compile(r"""(?:cid:|(?:(?:src|background)\s*+=|\burl\()\s*+["']?)([^"'\s<>()]{1,500})""", re.IGNORECASE)
# In a multipart that has no parts: a line that is neither blank nor a boundary.
_CONTENT_LINE = re.compile(rb"^(?!--)[ \t]*[^\s]", re.MULTILINE)
_HEAD = 4096
_LISTED = 100


def decide(
    part: Part, parent: str, names: tuple[str, ...], is_shown: Callable[[Part, Iterable[str]], bool]
) -> tuple[bool, Reason]:
    """Return whether a leaf is a document, or a text body, and why.

    parent is the type of the multipart it stands in, names are its Content-ID and Content-Location. Is_shown returns
    whether an HTML body of the mail shows a part that has one of the names, and is asked for images only.
    """
    if reason := _excluded_by_type(part):
        return False, reason
    if part.disposition == "attachment":
        return True, Reason.ATTACHMENT
    if _is_image(part):
        if is_shown(part, (*names, part.claimed_filename or "")):
            return False, Reason.INLINE_IMAGE
        addressed = part.disposition == "inline" or any(names)
        if part.size < SMALL_SIZE and addressed and (parent == "multipart/related" or not part.filename):
            return False, Reason.SMALL_IMAGE
    if part.filename:
        return True, Reason.NAMED
    if part.declared_type == "message/partial":
        return True, Reason.PARTIAL_MESSAGE
    is_multipart = part.declared_type.startswith("multipart/")
    if not part.data or part.data.isspace() or (is_multipart and not _CONTENT_LINE.search(part.data)):
        return False, Reason.EMPTY
    if (part.declared_type in _BODIES or is_multipart) and _is_text(part):
        return True, Reason.TEXT_BODY
    return True, Reason.DOCUMENT_TYPE


def accept_types(parts: Iterable[Part], types: tuple[str, ...]) -> Iterator[Part]:
    """Yield parts, passing over the documents of other content types than these, a kind as `image/*`; () means all.

    Text bodies stay, since an order may be typed into one, and so does what could not be opened or read, since nobody
    knows what is in it.
    """
    unknown = (Reason.NOT_OPENED, Reason.UNREADABLE, Reason.PARTIAL_MESSAGE)
    for part in parts:
        kind = f"{part.content_type.partition('/')[0]}/*"
        is_accepted = not types or part.content_type in types or kind in types
        if part.is_document and not is_accepted and part.kind is PartKind.ATTACHMENT and part.reason not in unknown:
            yield replace(part, is_document=False, reason=Reason.NOT_ACCEPTED)
        else:
            yield part


class DocumentLimit:
    """The limit on a mail's documents, and on how many other parts are listed.

    The first documents are taken, the last half of the places is for attachments alone: many texts keep no file out.
    Of the others _LISTED are listed as skipped, and of parts that are skipped anyway as many as documents may be
    accepted. One last part of each kind says how many more there are. `over` counts the documents that were not taken.
    """

    def __init__(self, most: int) -> None:
        self.over = 0
        self._most = most

    def apply(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield parts within the limit."""
        accepted = skipped = 0
        first: dict[Reason, str] = {}
        for part in parts:
            places = self._most if part.kind is PartKind.ATTACHMENT else max(1, self._most // 2)
            if part.is_document and accepted < places:
                accepted += 1
                yield part
                continue
            if part.is_document:
                self.over += 1
                number, most, reason = self.over, _LISTED, Reason.TOO_MANY_DOCUMENTS
            else:
                skipped += 1
                number, most, reason = skipped, self._most, Reason.TOO_MANY_PARTS
            if number <= most:
                yield replace(part, is_document=False, reason=reason) if part.is_document else part
            else:
                first.setdefault(reason, part.path)
        more = {Reason.TOO_MANY_DOCUMENTS: self.over - _LISTED, Reason.TOO_MANY_PARTS: skipped - self._most}
        for reason, path in first.items():
            defects = (f"{more[reason]} parts from here on are not listed",)
            yield Part(path, None, None, "", None, "", "", b"", is_document=False, reason=reason, defects=defects)


def find_references(pages: Iterable[str]) -> frozenset[str]:
    """Return what HTML pages show: Content-IDs and locations, in lower case."""
    found: set[str] = set()
    for page in pages:
        names = (unquote(match[1]) for match in _REFERENCE.finditer(page))
        found.update(name.lower().removeprefix("cid:").strip() for name in names)
    return frozenset(found)


def is_referenced(names: Iterable[str], references: frozenset[str]) -> bool:
    """Return whether one of a part's names is among what pages show."""
    return any(unquote(name).strip().lower() in references for name in names if name)


def names_signature(part: Part) -> bool:
    """Return whether a part says that it is an S/MIME signature."""
    if part.content_type in DOCUMENT_TYPES:
        return False
    generic = part.declared_type in ("application/octet-stream", "text/plain")
    return part.declared_type in _CMS_SIGNATURES or (generic and extension(part.filename) == "p7s")


def _excluded_by_type(part: Part) -> Reason | None:
    """Return the reason for a part that is no document by its type, or by its name if the type says nothing.

    A document that only goes under such a type is one all the same.
    """
    if part.content_type in DOCUMENT_TYPES:
        return None
    if part.declared_type in _REPORTS:
        return Reason.DELIVERY_REPORT
    reason, sign = _BY_TYPE.get(part.declared_type, (None, None))
    if part.declared_type in ("application/octet-stream", "text/plain"):
        reason, sign = _BY_EXTENSION.get(extension(part.filename), (None, None))
    return reason if sign is not None and sign.search(part.data, 0, _HEAD) else None


def _is_text(part: Part) -> bool:
    """Return whether a text body is text: by chance, many a text begins with the signature of some odd format."""
    detected = part.detected_type or "text/"
    if "html" in part.declared_type and detected == "application/xml":
        return True
    return detected.startswith("text/") or (detected not in DOCUMENT_TYPES and b"\0" not in part.data[:_HEAD])


def _is_image(part: Part) -> bool:
    """Return whether a part is an image, whatever it is declared as."""
    if part.declared_type == "application/octet-stream":
        return (part.detected_type or "").startswith("image/")
    # No mail program shows TIFF: it is a scan.
    return part.declared_type.startswith("image/") and part.detected_type not in ("application/pdf", "image/tiff")
