"""Replay: what an operator puts through again, one row at a time. Each replay is safe to repeat.

message      goes back to RECEIVED, and is extracted again from the archive. Its documents keep their ids and are handed
             over again
document     goes back to PENDING, and is handed over again
dead letter  goes back to the spool, and is delivered
held mail    is accepted as a message of its own, or discarded. Its raw mail stays in the archive either way

One run does the first two once, whatever becomes of the run, by the key of its event. The decision on a held mail is
put beside the mail in the archive before the row has it: where the archive has no decision, there was none.

What has been erased is never replayed: nothing is left of it. The reason to skip a row is worded in one place, for a
dry run and for the run.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.domain.identity import MessageIdentity, disambiguated_message_id, read_mail
from orderflow_ingest.domain.object_keys import EMAIL, message_id, read_raw_key
from orderflow_ingest.domain.states import EventKind, HandOver, HoldReason
from orderflow_ingest.observability.logs import event
from orderflow_ingest.storage.archive import read_object, require_own_key
from orderflow_ingest.storage.database import (
    Document,
    Event,
    HeldMail,
    IdentityTakenError,
    InboundMessage,
    Mail,
    NewMessage,
)
from orderflow_ingest.storage.queue import QueueUnavailable

from .archive_manifest import Decision, write_decision
from .deliver import Delivery, automatic_mail_signals, enqueue_extraction
from .identity_lookup import IdentityLookup
from .receive import deliver_spooled

ERASED = "its mail is erased"
LEASED = "a worker has it in hand"


def skip_reason(message: InboundMessage) -> str:
    """Return why a message cannot be extracted again, or "" if it can."""
    return ERASED if message.erased_at else ""


def why_not_handed_over(document: Document, now: datetime) -> str:
    """Return why a document cannot be handed over again, by the database's clock, or "" if it can."""
    is_leased = document.worker is not None and document.next_attempt_at > now
    if document.handover is HandOver.PENDING and is_leased:
        return LEASED
    return ERASED if document.erased_at else ""


def replay_message(message: InboundMessage, app: App, actor: str, run_id: UUID | None = None) -> bool:
    """Set a message back to RECEIVED and enqueue it behind all live mail. Return False if it has changed meanwhile."""
    if skip_reason(message):
        return False
    audit_event = Event(message.org_id, message.id, EventKind.REPLAYED, actor, datetime.now(UTC), run_id=run_id)
    if not app.records.documents.replay(message, app.swept_at(), audit_event):
        return False
    enqueue_extraction(message, app, is_live=False)
    return True


def replay_handover(documents: list[Document], app: App, actor: str, run_id: UUID | None = None) -> int:
    """Hand documents of one message over again, behind all live mail. Return how many had not changed meanwhile."""
    at, now = datetime.now(UTC), app.records.database.now()
    audit_event = [
        (one, Event(one.org_id, one.inbound_message_id, EventKind.REPLAYED, actor, at, one.id, run_id))
        for one in documents
        if not why_not_handed_over(one, now)
    ]
    done = app.records.documents.replay_handover(audit_event, now, app.swept_at())
    try:
        for id in done:
            app.queue.enqueue_hand_over(documents[0].org_id, id, is_live=False)
    except QueueUnavailable as error:
        event("enqueue", "Tasks left to the sweep.", message_id=documents[0].inbound_message_id, reason=error)
    return len(done)


def redeliver_dead_letter(name: str, app: App) -> Delivery | None:
    """Deliver a dead letter, or None if another process is at it. Raise FileNotFoundError."""
    app.spool.restore_dead(name)
    entry = app.spool.claim(name)
    return deliver_spooled(entry, app, sender_waits=False) if entry else None


def accept_held(held: HeldMail, app: App, actor: str, why: str = "", run_id: UUID | None = None) -> bool:
    """Make a held message one of its own, or False if it is closed, or erased.

    Raise IdentityTakenError, and leaves it held, where each identity that it could have is another message's.
    """
    if held.erased_at or app.records.held_mail.resolution(held.org_id, held.id):
        return False
    audit_event = _resolved(held, EventKind.ACCEPTED, actor, why, run_id)
    for new in _new_messages(held, app):
        try:
            if not _resolve(held, new, audit_event, app):
                return False
        except IdentityTakenError:
            continue
        enqueue_extraction(new, app)
        return True
    raise IdentityTakenError


def identity_of(held: HeldMail, app: App) -> str | None:
    """Return the Message-ID under which a held mail would be accepted, or None if each that it could have is taken."""
    for new in _new_messages(held, app):
        if app.records.messages.find_identity(new.org_id, new.source, new.source_message_id) is None:
            return new.source_message_id
    return None


def discard_held(held: HeldMail, app: App, actor: str, why: str = "", run_id: UUID | None = None) -> bool:
    """Close a held mail without making it a message, or False if it is closed."""
    return _resolve(held, None, _resolved(held, EventKind.DISCARDED, actor, why, run_id), app)


def _resolved(held: HeldMail, kind: EventKind, actor: str, why: str, run_id: UUID | None) -> Event:
    details = {"held": str(held.id), "reason": held.reason.value, "why": why}
    now = datetime.now(UTC)
    return Event(held.org_id, held.id, kind, actor, now, run_id=run_id, details=details)


def _resolve(held: HeldMail, new: NewMessage | None, audit_event: Event, app: App) -> bool:
    """Close a held mail, with the decision beside it. Return False if somebody was first. Raise IdentityTakenError."""
    identity = new.source_message_id if new else ""
    decision = Decision(audit_event.kind.value, audit_event.actor, audit_event.details["why"], audit_event.at, identity)
    require_own_key(held.org_id, held.raw_key)
    write = partial(write_decision, held.raw_key, decision, app.archive)
    return app.records.held_mail.resolve(held, new, app.records.database.now(), audit_event, before_commit=write)


def _new_messages(held: HeldMail, app: App) -> Iterator[NewMessage]:
    """Yield the message that a held mail may become: under its own Message-ID, unless that is what it clashes with, or
    under one that its content makes another."""
    mail = read_mail(read_object(held.org_id, held.raw_key, held.digest, app.archive))
    if mail is None:
        raise ValueError("a held message has no header")
    message, signals = mail.message, automatic_mail_signals(mail.header, held.envelope_sender, app)
    same = IdentityLookup(held.org_id, app.records, app.archive).find_same(message, EMAIL)
    if same and not same.existing.is_held(same.fingerprint):
        return  # it has come again meanwhile, and is a message already
    if held.reason is HoldReason.SENDER_NOT_ALLOWED:
        yield accepted(held, message, signals, message.source_message_id)
    yield accepted(held, message, signals)


def accepted(mail: Mail, message: MessageIdentity, signals: list[str], identity: str = "") -> NewMessage:
    """Return a held mail as a message: under this identity, or one that its content makes its own."""
    own = identity or disambiguated_message_id(message.source_message_id, message.fingerprint)
    message = replace(message, source_message_id=own)
    name = read_raw_key(mail.raw_key)
    return NewMessage(
        org_id=mail.org_id,
        id=message_id(mail.raw_key),
        source=name.source if name else EMAIL,
        envelope_sender=mail.envelope_sender,
        envelope_recipient=mail.envelope_recipient,
        queue_id=mail.queue_id,
        client_address=mail.client_address,
        received_at=mail.received_at,
        raw_key=mail.raw_key,
        traits=signals,
        **message.recorded(),
    )
