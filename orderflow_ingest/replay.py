"""Replay: what an operator puts through again, one thing at a time, each safe to repeat.

A replayed message goes back to RECEIVED and is extracted anew from the archive; its documents keep
their ids and are handed over again. A dead letter goes back to the spool and is delivered. A conflict
is accepted as a message of its own, or discarded; its raw mail stays in the archive either way.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from .assembly import Parts
from .delivery import EMAIL, Delivery, known_traits, ring, settle
from .message import Message, own_identity, read_message
from .records import Conflict, Event, InboundMessage, NewMessage
from .status import EventKind


def replay_message(message: InboundMessage, parts: Parts, actor: str, run_id: UUID | None = None) -> bool:
    """Lead a message back to RECEIVED and ring for it, behind all live mail; False if it moved meanwhile."""
    now = datetime.now(UTC)
    told = Event(message.org_id, message.id, EventKind.REPLAYED, actor, now, run_id=run_id)
    if not parts.records.documents.replay(message, now + timedelta(seconds=parts.settings.sweep_after), told):
        return False
    ring(message, parts, is_live=False)
    return True


def revive(name: str, parts: Parts) -> Delivery | None:
    """Deliver a dead letter; None if another process is at it. Raises FileNotFoundError."""
    parts.spool.revive(name)
    entry = parts.spool.claim(name)
    return settle(entry, parts, sender_waits=False) if entry else None


def accept_conflict(conflict: Conflict, parts: Parts, actor: str, why: str = "") -> bool:
    """Make a held mail a message, under its Message-ID and fingerprint if it clashes; False if it is closed."""
    raw = parts.archive.read(conflict.raw_key, conflict.digest)
    message = read_message(raw)
    if message is None:
        raise ValueError("a held message has no header")
    new = _of_conflict(conflict, message, known_traits(raw, conflict.envelope_sender, parts))
    now = datetime.now(UTC)
    if not parts.records.conflicts.resolve(
        conflict, new, now, _resolved(conflict, EventKind.ACCEPTED, actor, why, now)
    ):
        return False
    ring(new, parts)
    return True


def discard_conflict(conflict: Conflict, parts: Parts, actor: str, why: str = "") -> bool:
    """Close a conflict without making it a message; False if it is closed."""
    now = datetime.now(UTC)
    told = _resolved(conflict, EventKind.DISCARDED, actor, why, now)
    return parts.records.conflicts.resolve(conflict, None, now, told)


def _resolved(conflict: Conflict, kind: EventKind, actor: str, why: str, now: datetime) -> Event:
    details = {"held": str(conflict.id), "reason": conflict.reason.value, "why": why}
    return Event(conflict.org_id, conflict.id, kind, actor, now, details=details)


def _of_conflict(conflict: Conflict, message: Message, traits: list[str]) -> NewMessage:
    own = message
    if conflict.inbound_message_id:
        own = replace(message, source_message_id=own_identity(message.source_message_id, message.fingerprint))
    return NewMessage(
        org_id=conflict.org_id,
        id=uuid4(),
        source=EMAIL,
        envelope_sender=conflict.envelope_sender,
        envelope_recipient=conflict.envelope_recipient,
        queue_id=conflict.queue_id,
        client_address=conflict.client_address,
        received_at=conflict.received_at,
        raw_key=conflict.raw_key,
        traits=traits,
        **vars(own),
    )
