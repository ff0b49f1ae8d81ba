"""Replay: what an operator puts through again, one thing at a time, each safe to repeat.

A replayed message goes back to RECEIVED and is extracted anew from the archive; its documents keep
their ids and are handed over again. A dead letter goes back to the spool and is delivered. A conflict
is accepted as a message of its own, or discarded; its raw mail stays in the archive either way.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from .assembly import Parts
from .delivery import EMAIL, Delivery, known_traits, ring, settle
from .message import Message, read_message
from .records import Conflict, InboundMessage, NewMessage


def replay_message(message: InboundMessage, parts: Parts) -> bool:
    """Lead a message back to RECEIVED and ring for it; False if it moved meanwhile."""
    now = datetime.now(UTC)
    if not parts.records.documents.replay(message, now, now + timedelta(seconds=parts.settings.sweep_after)):
        return False
    ring(message, parts)
    return True


def revive(name: str, parts: Parts) -> Delivery | None:
    """Deliver a dead letter; None if another process is at it. Raises FileNotFoundError."""
    parts.spool.revive(name)
    entry = parts.spool.claim(name)
    return settle(entry, parts, sender_waits=False) if entry else None


def accept_conflict(conflict: Conflict, parts: Parts) -> bool:
    """Make a held message one of its own, under its Message-ID and fingerprint; False if it is closed."""
    raw = parts.archive.read(conflict.raw_key, conflict.digest)
    message = read_message(raw)
    if message is None:
        raise ValueError("a held message has no header")
    new = _of_conflict(conflict, message, known_traits(raw, conflict.envelope_sender, parts))
    if not parts.records.conflicts.resolve(conflict, "ACCEPTED", new, datetime.now(UTC)):
        return False
    ring(new, parts)
    return True


def discard_conflict(conflict: Conflict, parts: Parts) -> bool:
    """Close a conflict without making it a message; False if it is closed."""
    return parts.records.conflicts.resolve(conflict, "DISCARDED", None, datetime.now(UTC))


def _of_conflict(conflict: Conflict, message: Message, traits: list[str]) -> NewMessage:
    own = replace(message, source_message_id=f"{message.source_message_id}#{message.fingerprint[:16]}")
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
