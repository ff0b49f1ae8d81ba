"""A part of a mail, and the decision whether it is a document."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Part", "PartKind", "Reason"]


class PartKind(StrEnum):
    """What a document is to its message: a file that came with it, or the text that was typed into it."""

    ATTACHMENT = "ATTACHMENT"
    BODY = "BODY"


class Reason(StrEnum):
    """Why a part is a document or is skipped; the texts are stored in the database and stand in the manual."""

    ATTACHMENT = "attachment"
    NAMED = "named"
    DOCUMENT_TYPE = "document type"
    PARTIAL_MESSAGE = "partial message"
    UUENCODED = "uuencoded"
    TEXT_BODY = "text body"
    NOT_OPENED = "not opened"
    UNREADABLE = "unreadable"

    CONTAINER = "container"
    OPENED = "opened"
    ALTERNATIVE_TEXT = "alternative text"
    INLINE_IMAGE = "inline image"
    SMALL_IMAGE = "small image"
    SIGNATURE = "signature"
    CALENDAR = "calendar"
    BUSINESS_CARD = "business card"
    DELIVERY_REPORT = "delivery report"
    EMPTY = "empty"
    OUTSIDE = "outside the parts"
    NOT_ACCEPTED = "not accepted"
    TOO_MANY_DOCUMENTS = "too many documents"
    TOO_MANY_PARTS = "too many parts"


@dataclass(frozen=True)
class Part:
    """One part of a mail, decoded, with the verdict on it.

    path           its IMAP section; what was inside a file has a path below the file's
    filename       safe to store and to show; claimed_filename is what the sender wrote
    declared_type  what the sender says it is, detected_type what its bytes show (None: nothing), content_type the
                   better founded of both and of the name's ending
    charset        of a text, by the name that Python knows; None if none is declared or it is not known
    size           of `data`, in bytes
    defects        what had to be tolerated, in short fixed words
    """

    path: str
    filename: str | None
    claimed_filename: str | None
    declared_type: str
    detected_type: str | None
    content_type: str
    disposition: str
    data: bytes
    is_document: bool
    reason: Reason
    kind: PartKind = PartKind.ATTACHMENT
    charset: str | None = None
    defects: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Return the size of the content in bytes."""
        return len(self.data)
