"""Who a message is: the header fields that are recorded, and its identity.

    digest             SHA-256 of the raw bytes: the object key and the integrity check
    fingerprint        SHA-256 of what the sender wrote: From, To, Cc, Subject, Date, Message-ID, what
                       makes the body readable (Content-Type, -Transfer-Encoding, -Disposition), and the
                       body with line ends made equal. Trace fields (Received, Return-Path, DKIM …) are
                       left out, since every redelivery adds its own
    source_message_id  the Message-ID, trimmed; where it is missing or unusable, `synthetic:` and the
                       fingerprint, so that a second delivery of the same mail makes the same id

The fingerprint is stored and compared with later ones: what goes into it must never change, or every
redelivery becomes a conflict. A Message-ID is whatever its sender chose; it proves nothing.

Nothing here raises on any input, and every text is fit for PostgreSQL: no NUL, no lone surrogate.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import getaddresses, parsedate_to_datetime

from .mime.fields import TRACE_FIELDS, Field, find_sender_header, first_value, read_header
from .mime.words import decode_text, storable

_FINGERPRINTED = (
    "from", "to", "cc", "subject", "date", "message-id",
    "content-type", "content-transfer-encoding", "content-disposition",
)  # fmt: skip
_SYNTHETIC = "synthetic:"
_MESSAGE_ID_LIMIT = 500
_SUBJECT_LIMIT = 1000
_ADDRESS_LIMIT = 320
_FIELD_LIMIT = 4096
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Message:
    """What is recorded of a message; `sent_at` is aware UTC."""

    source_message_id: str
    message_id_is_synthetic: bool
    from_email: str
    subject: str
    sent_at: datetime | None
    size: int
    digest: str
    fingerprint: str


def own_identity(source_message_id: str, fingerprint: str) -> str:
    """Give the identity of a mail whose Message-ID is another one's: it is recorded for good, as the fingerprint is."""
    return f"{source_message_id}#{fingerprint[:16]}"


def read_message(raw: bytes) -> Message | None:
    """Read a raw message; None if it is empty or has not one field that its sender wrote."""
    fields, body_start = _read_header(raw)
    if not fields:
        return None
    fingerprint = _fingerprint(fields, raw, body_start)
    message_id = _message_id(first_value(fields, "message-id"))
    return Message(
        source_message_id=message_id or _SYNTHETIC + fingerprint,
        message_id_is_synthetic=not message_id,
        from_email=_address(first_value(fields, "from")),
        subject=_text(first_value(fields, "subject"))[:_SUBJECT_LIMIT],
        sent_at=_date(first_value(fields, "date")),
        size=len(raw),
        digest=hashlib.sha256(raw).hexdigest(),
        fingerprint=fingerprint,
    )


def _read_header(raw: bytes) -> tuple[tuple[Field, ...], int]:
    """Read the fields that count, none if the sender wrote no field at all, and tell where the body begins."""
    found, body_start = read_header(raw, find_sender_header(raw))
    own = (field for field in found if field.name not in TRACE_FIELDS)
    first = next(own, None)
    if first is None:
        return (), body_start
    return (first, *(field for field in own if field.name in _FINGERPRINTED)), body_start


def _message_id(value: bytes | None) -> str:
    """Give the Message-ID, or "" where it is missing, empty, over-long or could pass for a synthetic one."""
    text = storable((value or b"").decode("utf-8", "replace"), _FIELD_LIMIT)
    start, end = text.find("<"), text.find(">")
    if 0 <= start < end:
        text = text[start : end + 1]
    text = "".join(text.split())
    usable = text not in ("", "<>") and len(text) <= _MESSAGE_ID_LIMIT and not text.startswith(_SYNTHETIC)
    return text if usable else ""


def _address(value: bytes | None) -> str:
    """Give the first address of a From field; the whole text where none can be read."""
    text = _text(value)
    try:
        address = next((address for _, address in getaddresses([text]) if address), text)
    except (RecursionError, IndexError, ValueError):  # nested comments, mostly
        address = text
    return "".join(address.split())[:_ADDRESS_LIMIT]


def _text(value: bytes | None) -> str:
    return storable(decode_text((value or b"")[:_FIELD_LIMIT]), _FIELD_LIMIT)


def _date(value: bytes | None) -> datetime | None:
    try:
        date = parsedate_to_datetime((value or b"")[:100].decode("ascii", "replace"))
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _fingerprint(fields: tuple[Field, ...], raw: bytes, body_start: int) -> str:
    """Hash the fields in a fixed order, then the body; blank lines at its end do not count."""
    sha = hashlib.sha256()
    for name in _FINGERPRINTED:
        for field in fields:
            if field.name == name:
                sha.update(b"%s:%s\n" % (name.encode("ascii"), b" ".join(field.value.split())))
    sha.update(b"\n")
    pending, start = b"", body_start
    while start < len(raw):
        block = pending + raw[start : start + _BLOCK]
        start += _BLOCK
        kept = b"\r" if block.endswith(b"\r") and start < len(raw) else b""
        block = block[: len(block) - len(kept)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        content = block.rstrip(b"\n")
        sha.update(content)
        pending = block[len(content) :] + kept
    return sha.hexdigest()
