"""Replay: what an operator puts through again, one thing at a time, each safe to repeat.

A replayed message goes back to RECEIVED and is extracted anew from the archive; its documents keep
their ids and are handed over again. A hand-over alone leads documents back to PENDING. Either is done once by one
run, whatever becomes of the run, by the key of its event. A dead letter goes back to the spool and is delivered. A
held mail is accepted as a message of its own, or discarded; its raw mail stays in the archive either way, and the
decision is put beside it before the row has it: where the archive knows of none, there was none.

What has been erased is never led back: there is nothing left to take anew. Why a thing would be passed over is told
by the same words before and afterwards.
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
    """Tell why a message cannot be extracted again; nothing if it can."""
    return ERASED if message.erased_at else ""


def why_not_handed_over(document: Document, now: datetime) -> str:
    """Tell why a document cannot be handed over again, by the database's clock; nothing if it can."""
    is_leased = document.worker is not None and document.next_attempt_at > now
    if document.handover is HandOver.PENDING and is_leased:
        return LEASED
    return ERASED if document.erased_at else ""


def replay_message(message: InboundMessage, app: App, actor: str, run_id: UUID | None = None) -> bool:
    """Lead a message back to RECEIVED and ring for it, behind all live mail; False if it moved meanwhile."""
    if skip_reason(message):
        return False
    told = Event(message.org_id, message.id, EventKind.REPLAYED, actor, datetime.now(UTC), run_id=run_id)
    if not app.records.documents.replay(message, app.swept_at(), told):
        return False
    enqueue_extraction(message, app, is_live=False)
    return True


def replay_handover(documents: list[Document], app: App, actor: str, run_id: UUID | None = None) -> int:
    """Have documents of one message handed over again, behind all live mail; give how many had not moved meanwhile."""
    at, now = datetime.now(UTC), app.records.database.now()
    told = [
        (one, Event(one.org_id, one.inbound_message_id, EventKind.REPLAYED, actor, at, one.id, run_id))
        for one in documents
        if not why_not_handed_over(one, now)
    ]
    done = app.records.documents.replay_handover(told, now, app.swept_at())
    try:
        for id in done:
            app.queue.enqueue_hand_over(documents[0].org_id, id, is_live=False)
    except QueueUnavailable as error:
        event("enqueue", "Tasks left to the sweep.", message_id=documents[0].inbound_message_id, reason=error)
    return len(done)


def redeliver_dead_letter(name: str, app: App) -> Delivery | None:
    """Deliver a dead letter; None if another process is at it. Raises FileNotFoundError."""
    app.spool.restore_dead(name)
    entry = app.spool.claim(name)
    return deliver_spooled(entry, app, sender_waits=False) if entry else None


def accept_held(held: HeldMail, app: App, actor: str, why: str = "", run_id: UUID | None = None) -> bool:
    """Make a held message one of its own; False if it is closed, or erased.

    Raises IdentityTakenError, and leaves it held, where each identity that it could have is another message's.
    """
    if held.erased_at or app.records.held_mail.resolution(held.org_id, held.id):
        return False
    told = _resolved(held, EventKind.ACCEPTED, actor, why, run_id)
    for new in _new_messages(held, app):
        try:
            if not _resolve(held, new, told, app):
                return False
        except IdentityTakenError:
            continue
        enqueue_extraction(new, app)
        return True
    raise IdentityTakenError


def identity_of(held: HeldMail, app: App) -> str | None:
    """Tell under which Message-ID a held mail would be accepted; None if each that it could have is taken."""
    for new in _new_messages(held, app):
        if app.records.messages.find_identity(new.org_id, new.source, new.source_message_id) is None:
            return new.source_message_id
    return None


def discard_held(held: HeldMail, app: App, actor: str, why: str = "", run_id: UUID | None = None) -> bool:
    """Close a held mail without making it a message; False if it is closed."""
    return _resolve(held, None, _resolved(held, EventKind.DISCARDED, actor, why, run_id), app)


def _resolved(held: HeldMail, kind: EventKind, actor: str, why: str, run_id: UUID | None) -> Event:
    details = {"held": str(held.id), "reason": held.reason.value, "why": why}
    now = datetime.now(UTC)
    return Event(held.org_id, held.id, kind, actor, now, run_id=run_id, details=details)


def _resolve(held: HeldMail, new: NewMessage | None, told: Event, app: App) -> bool:
    """Close a held mail, the decision beside its mail; False if somebody was first. Raises IdentityTakenError."""
    identity = new.source_message_id if new else ""
    decision = Decision(told.kind.value, told.actor, told.details["why"], told.at, identity)
    require_own_key(held.org_id, held.raw_key)
    write = partial(write_decision, held.raw_key, decision, app.archive)
    return app.records.held_mail.resolve(held, new, app.records.database.now(), told, before_commit=write)


def _new_messages(held: HeldMail, app: App) -> Iterator[NewMessage]:
    """Give the message that a held mail may become: under its own Message-ID, unless that is what it clashes with, or
    under one that its content makes another."""
    mail = read_mail(read_object(held.org_id, held.raw_key, held.digest, app.archive))
    if mail is None:
        raise ValueError("a held message has no header")
    message, traits = mail.message, automatic_mail_signals(mail.header, held.envelope_sender, app)
    same = IdentityLookup(held.org_id, app.records, app.archive).find_same(message, EMAIL)
    if same and not same.existing.is_held(same.fingerprint):
        return  # it has come again meanwhile, and is a message already
    if held.reason is HoldReason.SENDER_NOT_ALLOWED:
        yield accepted(held, message, traits, message.source_message_id)
    yield accepted(held, message, traits)


def accepted(mail: Mail, message: MessageIdentity, traits: list[str], identity: str = "") -> NewMessage:
    """Say what a held mail is as a message: under this identity, or one that its content makes its own."""
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
        traits=traits,
        **message.recorded(),
    )
