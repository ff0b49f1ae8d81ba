"""Parse one mail of the archive into the rows that it stands for, or say what is wrong with it.

Everything in a row comes from the object. What the mail itself says is read by the functions that a delivery and an
extraction use. The rest is in the object's metadata. The archive does not record two things, so the operator decides:
whether documents had been handed over, and why one is missing.

    every document is in the archive     PARSED, and its documents DONE, or PENDING with `hand_over`
    one is missing                       RECEIVED: the worker extracts all of them, and hands them over
    one is missing, and the mail came    PARSED, and that document as erased
      before `erased_before`
    reading its parts does not end       FAILED: a replay tries again
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.envelope import UNKNOWN_SENDER
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.identity import MessageIdentity, ReadMail, disambiguated_message_id, read_mail
from orderflow_ingest.domain.object_keys import RawName, held_id, message_id, read_raw_key
from orderflow_ingest.domain.org_settings import read_settings
from orderflow_ingest.domain.states import EventKind, HandOver, HoldReason, Status
from orderflow_ingest.observability.logs import error_location
from orderflow_ingest.parsing.documents import DocumentLimit, ReadMonitor, accept_types, read_parts
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.pipeline.archive_manifest import read_decision
from orderflow_ingest.pipeline.deliver import automatic_mail_signals
from orderflow_ingest.pipeline.extract import new_document, skipped_part
from orderflow_ingest.pipeline.replay import accepted
from orderflow_ingest.storage.archive import Fetched, ObjectDamaged, ObjectMissing, object_exists
from orderflow_ingest.storage.database import (
    Event,
    NewDocument,
    NewMessage,
    OrganizationRecord,
    RebuiltHeld,
    RebuiltMessage,
    SkippedPart,
)
from orderflow_ingest.storage.resilience.timeouts import TaskDeadlineReached


@dataclass(frozen=True)
class RebuildOptions:
    """Which mail is meant, and what becomes of its documents. `at` is the time of the run, `actor` who runs it."""

    at: datetime
    actor: str
    run_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    hand_over: bool = False
    erased_before: datetime | None = None

    def covers(self, received_at: datetime) -> bool:
        """Return whether mail of this time is selected."""
        return (self.since is None or self.since <= received_at) and (self.until is None or received_at < self.until)


class ObjectNote(StrEnum):
    """What is worth telling of an object of the archive. `is_trouble` if no row can be made of it."""

    FOREIGN = "objects that are none of ours"
    DAMAGED = "objects that are not what was put"
    NO_MAIL = "objects that are no mail"
    GONE = "objects that went meanwhile"
    OTHER_TIME = "mails of another time"
    NEW_ID = "new ids, of mail that an earlier version archived"
    NO_ENVELOPE = "mails without their time of receipt"
    NO_SENDER = "mails whose envelope sender is unknown"
    CHANGED = "mails whose metadata a store or proxy has changed: read as far as it goes"
    UNFINISHED = "mails whose documents were not all archived: left to the worker"
    ERASED = "mails with an erased document"
    UNREADABLE = "mails whose parts could not be read: FAILED"

    @property
    def is_trouble(self) -> bool:
        """Return whether something is wrong with the archive."""
        return self is ObjectNote.FOREIGN or self.is_loss

    @property
    def is_loss(self) -> bool:
        """Return whether a mail of ours is lost."""
        return self in (ObjectNote.DAMAGED, ObjectNote.NO_MAIL)


@dataclass(frozen=True)
class ParsedObject:
    """What an object was found to be."""

    key: str
    mail: RebuiltMessage | RebuiltHeld | None
    notes: tuple[ObjectNote, ...] = ()


class ReaderEnded(OrderflowError):
    """The process that read a mail's parts was ended, by the kernel for want of memory say."""


@dataclass(frozen=True)
class _Parts:
    documents: tuple[NewDocument, ...]
    skipped: tuple[SkippedPart, ...]
    missing: tuple[str, ...]  # digests


def parse_object(
    key: str,
    put_at: datetime,
    choice: RebuildOptions,
    org: OrganizationRecord,
    app: App,
    error: Exception | None = None,
) -> ParsedObject:
    """Read the mail of a key, of this organization, by the archive alone.

    With `error`, which was the end of who read its parts, they are left alone.

    Raise ArchiveUnavailable.
    """
    name = read_raw_key(key)
    if name is None:
        return ParsedObject(key, None, (ObjectNote.FOREIGN,))
    try:
        if not (choice.since is None and choice.until is None):
            metadata = _metadata(key, app)
            if not choice.covers(_received_at(metadata) or put_at):
                return ParsedObject(key, None, (ObjectNote.OTHER_TIME,))
        found = _fetch(key, name, app)
        read = read_mail(found.data)
        if read is None:
            return ParsedObject(key, None, (ObjectNote.NO_MAIL,))
        new, notes = message_row(key, name, read, found.metadata, put_at, org.slug, app)
        notes += (ObjectNote.CHANGED,) if found.is_changed else ()
        if name.is_held:
            return _held(new, read.message, found.data, found.metadata, choice, notes, org, app, error)
        mail, more = _message(new, found.data, choice, org, app, error)
        return ParsedObject(key, mail, notes + more)
    except ObjectMissing:
        return ParsedObject(key, None, (ObjectNote.GONE,))
    except ObjectDamaged:
        return ParsedObject(key, None, (ObjectNote.DAMAGED,))


def message_row(
    key: str,
    name: RawName,
    mail: ReadMail,
    metadata: Mapping[str, str],
    put_at: datetime,
    slug: str,
    app: App,
) -> tuple[NewMessage, tuple[ObjectNote, ...]]:
    """Make the row of a mail out of itself and its object's metadata, which may be missing.

    A sender that the metadata does not tell is UNKNOWN_SENDER, never the null sender.
    """
    message, settings, received_at = mail.message, app.settings, _received_at(metadata)
    own_address = settings.addresses.of(slug)
    own_id = _id(metadata)
    missing = {
        ObjectNote.NEW_ID: own_id,
        ObjectNote.NO_ENVELOPE: received_at,
        ObjectNote.NO_SENDER: "sender" in metadata,
    }
    sender = storable(metadata.get("sender", UNKNOWN_SENDER))
    if metadata.get("identity") == "own" and not name.is_held:
        own = disambiguated_message_id(message.source_message_id, message.fingerprint)
        message = replace(message, source_message_id=own)
    row = NewMessage(
        org_id=name.org_id,
        id=own_id or (held_id(key) if name.is_held else message_id(key)),
        source=name.source,
        envelope_sender=sender,
        envelope_recipient=storable(metadata.get("recipient") or own_address),
        queue_id=storable(metadata.get("queue-id", "")),
        client_address=storable(metadata.get("client-address", "")),
        received_at=received_at or put_at,
        raw_key=key,
        traits=automatic_mail_signals(mail.header, sender, app),
        **message.recorded(),
    )
    return row, tuple(note for note, found in missing.items() if not found)


def _message(
    new: NewMessage, raw: bytes, choice: RebuildOptions, org: OrganizationRecord, app: App, error: Exception | None
) -> tuple[RebuiltMessage, tuple[ObjectNote, ...]]:
    """Return a message with its documents, in the state that the archive shows."""
    event = Event(new.org_id, new.id, EventKind.REBUILT, choice.actor, choice.at, run_id=choice.run_id)
    due = choice.at + timedelta(seconds=app.settings.sweep_after)
    state = HandOver.PENDING if choice.hand_over else HandOver.DONE
    mail = RebuiltMessage(new, Status.PARSED, state, due, event)
    try:
        if error:
            raise error
        found = _read_parts(new, raw, org, app)
    except (TaskDeadlineReached, MemoryError, RecursionError, ReaderEnded) as failed:
        why = {"error": type(failed).__name__, "detail": "", "where": error_location(failed), "attempt": 0}
        why["at"] = choice.at.isoformat(timespec="seconds")
        return replace(mail, status=Status.FAILED, error_json=why), (ObjectNote.UNREADABLE,)
    if found.missing and not (choice.erased_before and new.received_at < choice.erased_before):
        return replace(mail, status=Status.RECEIVED), (ObjectNote.UNFINISHED,)
    erased = dict.fromkeys(found.missing, choice.at)
    whole = replace(mail, documents=found.documents, skipped=found.skipped, erased_at=erased)
    return whole, (ObjectNote.ERASED,) if erased else ()


def _held(
    new: NewMessage,
    message: MessageIdentity,
    raw: bytes,
    metadata: Mapping[str, str],
    choice: RebuildOptions,
    notes: tuple[ObjectNote, ...],
    org: OrganizationRecord,
    app: App,
    error: Exception | None,
) -> ParsedObject:
    """Return held mail with its decision, and the message that it has become."""
    decision = read_decision(new.raw_key, app.archive)
    event = Event(new.org_id, new.id, EventKind.REBUILT, choice.actor, choice.at, run_id=choice.run_id)
    held = RebuiltHeld(new, hold_reason(metadata), decision.resolution if decision else None, event)
    if decision is None or decision.resolution != EventKind.ACCEPTED.value:
        return ParsedObject(new.raw_key, held, notes)
    own, more = _message(accepted(new, message, new.traits, decision.identity), raw, choice, org, app, error)
    return ParsedObject(new.raw_key, replace(held, accepted=own), notes + more)


def hold_reason(metadata: Mapping[str, str]) -> HoldReason:
    """Return why a mail is held, by its object's metadata."""
    return HoldReason(metadata["held"]) if metadata.get("held") in list(HoldReason) else HoldReason.MESSAGE_ID_REUSED


def _read_parts(new: NewMessage, raw: bytes, org: OrganizationRecord, app: App) -> _Parts:
    documents, skipped = [], []
    limit, monitor = (
        DocumentLimit(app.settings.max_documents),
        ReadMonitor(app.settings.part_time, app.settings.mail_time),
    )
    for part in limit.apply(accept_types(read_parts(raw, monitor), read_settings(org.settings).document_types)):
        if part.is_document:
            documents.append(new_document(new.org_id, new.id, part))
        else:
            skipped.append(skipped_part(part))
    missing = [document.digest for document in documents if not object_exists(document.object_key, app.archive)]
    return _Parts(tuple(documents), tuple(skipped), tuple(missing))


def _fetch(key: str, name: RawName, app: App) -> Fetched:
    """Fetch a mail, without its metadata where that is damaged or not there. Raise ObjectMissing, ObjectDamaged."""
    try:
        found = app.archive.fetch(key)
    except ObjectDamaged:
        return Fetched(app.archive.read(key, name.digest), {})
    if hashlib.sha256(found.data).hexdigest() != name.digest:
        raise ObjectDamaged(key)
    return found


def _metadata(key: str, app: App) -> Mapping[str, str]:
    try:
        return app.archive.describe(key).metadata
    except ObjectDamaged:
        return {}


def _received_at(metadata: Mapping[str, str]) -> datetime | None:
    try:
        found = datetime.fromisoformat(metadata.get("received-at", ""))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _id(metadata: Mapping[str, Any]) -> UUID | None:
    try:
        return UUID(metadata.get("id", ""))
    except ValueError:
        return None
