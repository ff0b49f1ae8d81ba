"""The life of an inbound message, and the only changes of it that are allowed.

    RECEIVED  raw mail archived and recorded; attachments not yet taken out
    STORED    every attachment archived and recorded as a document
    PARSED    one task per document enqueued. Final until replayed
    FAILED    given up after the last attempt; error_json says why. Final until replayed

    RECEIVED -> STORED -> PARSED      RECEIVED, STORED -> FAILED
    any -> RECEIVED, by a replay alone

`allowed_from` is what an UPDATE names in its WHERE clause, so that the database refuses what this table
refuses, whichever of two workers comes second.
"""

from enum import StrEnum


class Status(StrEnum):
    """Status of an inbound message."""

    RECEIVED = "RECEIVED"
    STORED = "STORED"
    PARSED = "PARSED"
    FAILED = "FAILED"


class HandOver(StrEnum):
    """Status of a document's way to the document handler."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


class HoldReason(StrEnum):
    """Why a mail is held: a row of held_mail, archived, for an operator to accept or discard."""

    # The values are older than the names, and stay: they stand in rows, in events and at mail in the archive.
    MESSAGE_ID_REUSED = "IDENTITY"  # its Message-ID is known with other content
    SENDER_NOT_ALLOWED = "SENDER"  # the organization takes no mail from this sender by itself


class EventKind(StrEnum):
    """What happened to a message, a document or a held mail."""

    RECEIVED = "RECEIVED"  # not stored: the row itself says so
    RECORDED = "RECORDED"  # not stored: the row itself says so
    EXTRACTED = "EXTRACTED"
    HANDED_OVER = "HANDED_OVER"
    ATTEMPT_FAILED = "ATTEMPT_FAILED"
    FAILED = "FAILED"
    REPLAYED = "REPLAYED"
    ACCEPTED = "ACCEPTED"
    DISCARDED = "DISCARDED"
    ERASED = "ERASED"
    IMPORTED = "IMPORTED"
    REBUILT = "REBUILT"


UNFINISHED = (Status.RECEIVED, Status.STORED)

_ALLOWED = {
    Status.STORED: (Status.RECEIVED,),
    Status.PARSED: (Status.STORED,),
    Status.FAILED: (Status.RECEIVED, Status.STORED),
    Status.RECEIVED: tuple(Status),
}


def allowed_from(target: Status) -> tuple[Status, ...]:
    """Return the statuses from which `target` may be reached."""
    return _ALLOWED[target]
