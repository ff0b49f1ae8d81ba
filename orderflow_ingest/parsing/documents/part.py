"""A part of a mail, and the decision whether it is a document."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Part", "PartKind", "Reason"]


class PartKind(StrEnum):
    """What a document is to its message: a file that came with it, or the text that was typed into it."""

    ATTACHMENT = "ATTACHMENT"
    BODY = "BODY"


class Reason(StrEnum):
    """Why a part is a document or is skipped. The database stores these texts. `MEANINGS` explains each one."""

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


# What each reason says, and whether the part is a document.
MEANINGS = {
    Reason.ATTACHMENT: "The sender marks it as an attachment.",
    Reason.NAMED: "It has a file name.",
    Reason.DOCUMENT_TYPE: "It is not text: a PDF, a spreadsheet or a scan, however it is marked.",
    Reason.PARTIAL_MESSAGE: "One piece of a mail that was sent in pieces. The others come as mails of their own.",
    Reason.UUENCODED: "A file that an old program wrote into the text.",
    Reason.TEXT_BODY: "The text of the mail, in UTF-8. HTML is made text where that is possible.",
    Reason.NOT_OPENED: "A container that stays whole. Its defects say why.",
    Reason.UNREADABLE: "Reading it failed by a fault of ours. It is kept whole.",
    Reason.CONTAINER: "A multipart or an attached message. Its parts follow.",
    Reason.OPENED: "A file that held others. They follow.",
    Reason.ALTERNATIVE_TEXT: "Another form of the same text has each of its lines, in the same order.",
    Reason.INLINE_IMAGE: "A picture that the HTML body shows.",
    Reason.SMALL_IMAGE: "An inline picture under 1 kB: a tracking pixel, or a rule in a signature.",
    Reason.SIGNATURE: "A PGP or S/MIME signature, without content of its own.",
    Reason.CALENDAR: "An iCalendar file.",
    Reason.BUSINESS_CARD: "A vCard file.",
    Reason.DELIVERY_REPORT: "The machine-readable part of a bounce or of a receipt.",
    Reason.EMPTY: "It has no content and no name, or it is a link or a device in an archive.",
    Reason.OUTSIDE: "Text before the first part of a multipart or after its last one. Mail programs do not show it.",
    Reason.NOT_ACCEPTED: "The setting document_types of its organization does not name its type.",
    Reason.TOO_MANY_DOCUMENTS: "The mail has more documents than ORDERFLOW_MAX_DOCUMENTS.",
    Reason.TOO_MANY_PARTS: "More parts were skipped than are listed. This row counts the others.",
}
# The reasons of parts that are documents.
DOCUMENT_REASONS = frozenset(
    (
        Reason.ATTACHMENT,
        Reason.NAMED,
        Reason.DOCUMENT_TYPE,
        Reason.PARTIAL_MESSAGE,
        Reason.UUENCODED,
        Reason.TEXT_BODY,
        Reason.NOT_OPENED,
        Reason.UNREADABLE,
    )
)


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
