"""The rows of mail: what a message, a document, a skipped part, a held mail and an event are made of.

A field here is the one declaration of a column. `tables` makes the column of it by its type: `X | None` may be NULL, an
enum is stored as its value, a list or a dictionary as JSON. A new field is also a migration, and a test says so.
"""

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Annotated, Any, Self
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.states import EventKind, HandOver, HoldReason, Status
from orderflow_ingest.parsing.documents.part import PartKind

Sha256 = Annotated[str, sa.String(64)]
Bytes = Annotated[int, sa.BigInteger()]
Json = Annotated[Any, sa.JSON()]


@dataclass(frozen=True)
class Mail:
    """What is known of a mail that is archived, whether it is a message or held.

    org_id, id          together the key of the row; `id` is the same for a mail that comes again
    envelope_sender     MAIL FROM, "" of a bounce; envelope_recipient: RCPT TO. Both as Postfix gave them
    queue_id            Postfix's, "" where no queue was passed; client_address: the sending host's IP address, or ""
    from_email          the address of the From field, "" if it has none. Anybody can write it
    subject             decoded, at most 1,000 characters
    received_at         when it was received here, aware UTC
    raw_key, digest     the raw mail's object in the archive, and its SHA-256 in hexadecimal
    fingerprint         SHA-256 of the content without its trace fields: the same for a redelivery
    """

    org_id: int
    id: UUID
    envelope_sender: str
    envelope_recipient: str
    queue_id: str
    client_address: str
    from_email: str
    subject: str
    received_at: datetime
    raw_key: str
    digest: Sha256
    fingerprint: Sha256


@dataclass(frozen=True)
class NewMessage(Mail):
    """What delivery records of a message.

    source                   EMAIL, or UPLOAD of an imported mail
    source_message_id        the Message-ID; one made of the content where message_id_is_synthetic
    sent_at                  the Date field, aware UTC; None where it does not read
    size                     of the raw mail, in bytes
    traits                   values of AutomaticMailSignal: signs that no person wrote the mail
    """

    source: Annotated[str, sa.String(10)]
    source_message_id: str
    message_id_is_synthetic: bool
    sent_at: datetime | None
    size: Bytes
    traits: list[str]


@dataclass(frozen=True)
class Attempts:
    """How far the attempts at a message or a document have come. `tables` says what the columns mean."""

    attempts: int
    next_attempt_at: datetime
    worker: str | None
    error_json: Json | None
    erased_at: datetime | None


@dataclass(frozen=True)
class Event:
    """One thing that happened to a message or a held mail, or to a document of it."""

    org_id: int
    inbound_message_id: UUID
    kind: Annotated[EventKind, sa.String(20)]
    actor: str
    at: datetime
    document_id: UUID | None = None
    run_id: UUID | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def by_worker(
        cls,
        org_id: int,
        message_id: UUID,
        worker: str | None,
        kind: EventKind,
        details: dict[str, Any],
        document_id: UUID | None = None,
    ) -> Self:
        """Return how an attempt ended, now, by the mark that its worker has on the row."""
        return cls(org_id, message_id, kind, worker or "", datetime.now(UTC), document_id, details=details)


@dataclass(frozen=True)
class InboundMessage(Attempts, NewMessage):
    """A message's row.

    status              see `domain.states`; attempts: how many were begun; next_attempt_at: when it is due, aware UTC
    worker              who works at it, None if nobody does
    error_json          how the last failed attempt ended: class and place of the error, never content
    created_at          when the row was written, and updated_at when last changed, aware UTC
    erased_at           when its content was erased, None if it was not
    """

    status: Status
    created_at: datetime
    updated_at: datetime

    def first_events(self) -> list[Event]:
        """Return the events that no row of message_event records, because this row does: received and recorded."""
        received = Event(self.org_id, self.id, EventKind.RECEIVED, self.client_address, self.received_at)
        return [received, Event(self.org_id, self.id, EventKind.RECORDED, "", self.created_at)]


@dataclass(frozen=True)
class NewDocument:
    """What extraction records of a part that is a document.

    id                made of the message, the part's place and its content: the same at each attempt and after a replay
    part_path         the part's place in the mail, as IMAP numbers it: "2", "2.1"
    kind              PartKind: an attachment, or the text of the mail
    filename          safe to store and to show, None if it has none; claimed_filename: as the sender wrote it
    declared_type     the content type that the sender gave; detected_type: what the bytes show, None if nothing
    content_type      the better founded of both
    charset           of a text, by the name that Python knows; None if unknown
    reason            why the part is a document: a value of Reason
    defects           what had to be tolerated in reading it, in short fixed words
    size              in bytes; digest: SHA-256 in hexadecimal; object_key: the object in the archive
    """

    id: UUID
    part_path: str
    kind: PartKind
    filename: str | None
    claimed_filename: str | None
    declared_type: str
    detected_type: str | None
    content_type: str
    charset: str | None
    reason: str
    defects: list[str]
    size: Bytes
    digest: Sha256
    object_key: str


@dataclass(frozen=True)
class Document(Attempts, NewDocument):
    """A document's row.

    org_id, inbound_message_id  the message that it came in
    handover                    how far its way to the handler is, see `domain.states`
    attempts                    how many hand-overs were begun, this one included; next_attempt_at: aware UTC
    worker, error_json          as of InboundMessage
    erased_at                   when its content was erased, None if it was not
    """

    org_id: int
    inbound_message_id: UUID
    handover: HandOver


@dataclass(frozen=True)
class SkippedPart:
    """A part that was skipped, and why."""

    part_path: str
    filename: str | None
    declared_type: str
    detected_type: str | None
    size: Bytes
    reason: str
    defects: list[str]


@dataclass(frozen=True)
class HeldMail(Mail):
    """A mail that is held, why, and the message whose identity it has, if it clashes with one."""

    inbound_message_id: UUID | None
    source_message_id: str | None  # None of what was held before this column was there
    reason: HoldReason
    resolution: str | None
    erased_at: datetime | None


@cache
def field_names(row: type) -> tuple[str, ...]:
    """Return the names of the columns that a row has, in the order of its fields."""
    return tuple(one.name for one in fields(row))


def column_values(row: Any, only: type | None = None) -> dict[str, Any]:
    """Return what the database stores of a row, by column: all of it, or what the base class `only` has of it."""
    values = {name: getattr(row, name) for name in field_names(only or type(row))}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
