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
from orderflow_ingest.storage.archive import need_own, read_object
from orderflow_ingest.storage.database import Document, Event, HeldMail, IdentityTaken, InboundMessage, Mail, NewMessage
from orderflow_ingest.storage.queue import QueueUnavailable

from .admission import IdentityLookup
from .archive_manifest import Decision, write_decision
from .deliver import Delivery, automatic_mail_signals, deliver_spooled, enqueue_extraction

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
            app.queue.hand_over(documents[0].org_id, id, is_live=False)
    except QueueUnavailable as error:
        event("enqueue", "Tasks left to the sweep.", message_id=documents[0].inbound_message_id, reason=error)
    return len(done)


def redeliver_dead_letter(name: str, app: App) -> Delivery | None:
    """Deliver a dead letter; None if another process is at it. Raises FileNotFoundError."""
    app.spool.revive(name)
    entry = app.spool.claim(name)
    return deliver_spooled(entry, app, sender_waits=False) if entry else None


def accept_held(conflict: HeldMail, app: App, actor: str, why: str = "", run_id: UUID | None = None) -> bool:
    """Make a held message one of its own; False if it is closed, or erased.

    Raises IdentityTaken, and leaves it held, where each identity that it could have is another message's.
    """
    if conflict.erased_at or app.records.conflicts.resolution(conflict.org_id, conflict.id):
        return False
    told = _resolved(conflict, EventKind.ACCEPTED, actor, why, run_id)
    for new in _of_conflict(conflict, app):
        try:
            if not _resolve(conflict, new, told, app):
                return False
        except IdentityTaken:
            continue
        enqueue_extraction(new, app)
        return True
    raise IdentityTaken


def identity_of(conflict: HeldMail, app: App) -> str | None:
    """Tell under which Message-ID a held mail would be accepted; None if each that it could have is taken."""
    for new in _of_conflict(conflict, app):
        if app.records.messages.find_identity(new.org_id, new.source, new.source_message_id) is None:
            return new.source_message_id
    return None


def discard_held(conflict: HeldMail, app: App, actor: str, why: str = "", run_id: UUID | None = None) -> bool:
    """Close a conflict without making it a message; False if it is closed."""
    return _resolve(conflict, None, _resolved(conflict, EventKind.DISCARDED, actor, why, run_id), app)


def _resolved(conflict: HeldMail, kind: EventKind, actor: str, why: str, run_id: UUID | None) -> Event:
    details = {"held": str(conflict.id), "reason": conflict.reason.value, "why": why}
    now = datetime.now(UTC)
    return Event(conflict.org_id, conflict.id, kind, actor, now, run_id=run_id, details=details)


def _resolve(conflict: HeldMail, new: NewMessage | None, told: Event, app: App) -> bool:
    """Close the conflict, the decision beside its mail; False if somebody was first. Raises IdentityTaken."""
    identity = new.source_message_id if new else ""
    decision = Decision(told.kind.value, told.actor, told.details["why"], told.at, identity)
    need_own(conflict.org_id, conflict.raw_key)
    write = partial(write_decision, conflict.raw_key, decision, app.archive)
    return app.records.conflicts.resolve(conflict, new, app.records.database.now(), told, before_commit=write)


def _of_conflict(conflict: HeldMail, app: App) -> Iterator[NewMessage]:
    """Give the message that a held mail may become: under its own Message-ID, unless that is what it clashes with, or
    under one that its content makes another."""
    mail = read_mail(read_object(conflict.org_id, conflict.raw_key, conflict.digest, app.archive))
    if mail is None:
        raise ValueError("a held message has no header")
    message, traits = mail.message, automatic_mail_signals(mail.header, conflict.envelope_sender, app)
    same = IdentityLookup(conflict.org_id, app.records, app.archive).find_same(message, EMAIL)
    if same and not same.known.is_held(same.fingerprint):
        return  # it has come again meanwhile, and is a message already
    if conflict.reason is HoldReason.SENDER:
        yield accepted(conflict, message, traits, message.source_message_id)
    yield accepted(conflict, message, traits)


def accepted(conflict: Mail, message: MessageIdentity, traits: list[str], identity: str = "") -> NewMessage:
    """Say what a held mail is as a message: under this identity, or one that its content makes its own."""
    own = identity or disambiguated_message_id(message.source_message_id, message.fingerprint)
    message = replace(message, source_message_id=own)
    name = read_raw_key(conflict.raw_key)
    return NewMessage(
        org_id=conflict.org_id,
        id=message_id(conflict.raw_key),
        source=name.source if name else EMAIL,
        envelope_sender=conflict.envelope_sender,
        envelope_recipient=conflict.envelope_recipient,
        queue_id=conflict.queue_id,
        client_address=conflict.client_address,
        received_at=conflict.received_at,
        raw_key=conflict.raw_key,
        traits=traits,
        **message.recorded(),
    )
