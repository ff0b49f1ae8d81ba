"""Replay: what an operator puts through again, one thing at a time, each safe to repeat.

A replayed message goes back to RECEIVED and is extracted anew from the archive; its documents keep
their ids and are handed over again. A dead letter goes back to the spool and is delivered. A conflict
is accepted as a message of its own, or discarded; its raw mail stays in the archive either way, and the decision is
put beside it before the row has it: where the archive knows of none, there was none.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from .archived import Decision, write_decision
from .assembly import Parts
from .delivery import Delivery, known_traits, ring, settle
from .keys import EMAIL, message_id, read_raw_key
from .message import Message, read_message
from .records import Conflict, Event, InboundMessage, Mail, NewMessage
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
    """Make a held message one of its own, under its Message-ID and fingerprint; False if it is closed."""
    raw = parts.archive.read(conflict.raw_key, conflict.digest)
    message = read_message(raw)
    if message is None:
        raise ValueError("a held message has no header")
    new = accepted(conflict, message, known_traits(raw, conflict.envelope_sender, parts))
    if not _resolve(conflict, new, EventKind.ACCEPTED, actor, why, parts):
        return False
    ring(new, parts)
    return True


def discard_conflict(conflict: Conflict, parts: Parts, actor: str, why: str = "") -> bool:
    """Close a conflict without making it a message; False if it is closed."""
    return _resolve(conflict, None, EventKind.DISCARDED, actor, why, parts)


def accepted(conflict: Mail, message: Message, traits: list[str]) -> NewMessage:
    """Say what a held mail is as a message of its own: the same whenever it is asked."""
    own = replace(message, source_message_id=f"{message.source_message_id}#{message.fingerprint[:16]}")
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
        **vars(own),
    )


def _resolve(conflict: Conflict, new: NewMessage | None, kind: EventKind, actor: str, why: str, parts: Parts) -> bool:
    now = datetime.now(UTC)
    told = Event(
        conflict.org_id,
        conflict.id,
        kind,
        actor,
        now,
        details={"held": str(conflict.id), "reason": conflict.reason.value, "why": why},
    )
    write_decision(conflict.raw_key, Decision(kind.value, actor, why, now), parts.archive)
    if parts.records.conflicts.resolve(conflict, new, now, told):
        return True
    before = parts.records.conflicts.resolution(conflict.org_id, conflict.id)
    if before:  # somebody was first, and his decision stands
        write_decision(conflict.raw_key, Decision(before, "", "", now), parts.archive)
    return False
