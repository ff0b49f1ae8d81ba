"""Rows of messages, parts and held mail, as every command prints them."""

from typing import Any

from orderflow_ingest.storage.database import Document, HeldMail, InboundMessage, SkippedPart


def message_row(message: InboundMessage) -> dict[str, Any]:
    """Return the output row of a message."""
    return {
        "id": message.id,
        "received": message.received_at,
        "status": message.status.value,
        "attempts": message.attempts,
        "recipient": message.envelope_recipient,
        "sender": message.envelope_sender,
        "from": message.from_email,
        "subject": message.subject,
        "traits": ", ".join(message.traits),
        "error": (message.error_json or {}).get("error"),
    }


def part_row(part: Document | SkippedPart, content_type: str, state: str) -> dict[str, Any]:
    """Return the output row of a part of a message."""
    row = {"part": part.part_path, "filename": part.filename, "type": content_type, "size": part.size}
    return {**row, "state": state, "reason": part.reason, "defects": "; ".join(part.defects)}


def held_row(held: HeldMail) -> dict[str, Any]:
    """Return the output row of a held mail."""
    return {
        "id": held.id,
        "received": held.received_at,
        "reason": held.reason.value,
        "message_id": held.inbound_message_id,
        "recipient": held.envelope_recipient,
        "from": held.from_email,
        "subject": held.subject,
        "erased": held.erased_at,
    }
