"""The identity of a message, and the header fields that are recorded of it.

    digest             SHA-256 of the raw bytes: the object key and the integrity check
    fingerprint        SHA-256 of what the sender wrote: From, To, Cc, Subject, Date, Message-ID, what
                       makes the body readable (Content-Type, -Transfer-Encoding, -Disposition), and the
                       body. Trace fields (Received, Return-Path, DKIM …) are left out, since every
                       redelivery adds its own
    source_message_id  the Message-ID, trimmed; where it is missing or unusable, `synthetic:` and the
                       fingerprint, so that a second delivery of the same mail makes the same id

What a redelivery may change does not count: how a field is folded, blanks outside quotes, empty lines at the end, and
whether the whole mail has LF or CR LF for its line ends (Postfix gives it with LF. A file may have either). All else is
content: blanks inside quotes, a CR or LF inside a line of binary, lines among the fields that are no field.

The fingerprint is stored and compared with later ones: what goes into it must never change, or every redelivery is
held. Earlier versions took all blanks and all line ends for the same. Where that makes a difference, the mail has a
`former_fingerprint` too, by which `admission` finds what was recorded before, and compares it with care. For all
other mail both are the same.

A header over the bound of `mime.fields` is not read to its end. Then the fingerprint is made of all bytes from the
first field of the sender's to the end of the mail, with LF for its line ends: what servers put before is left out, and
nothing else. Subject, sender and Message-ID are recorded where they stand within the bound. No such mail is refused.

A Message-ID is whatever its sender chose. It proves nothing.

Nothing here raises on any input, and every text is fit for PostgreSQL: no NUL, no lone surrogate.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any

from orderflow_ingest.parsing.mime.fields import TRACE_FIELDS, MailHeader, read_mail_header
from orderflow_ingest.parsing.mime.words import decode_text, storable

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
_QUOTED = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+["\\]?', re.DOTALL)
_MOST_QUOTES = 4096
_BLANKS = bytes.maketrans(b"\t\n\v\f\r", b"     ")
_LABEL_OF_UNREAD = b"header over the bound\n\n"


@dataclass(frozen=True)
class MessageIdentity:
    """What is recorded of a message. `sent_at` is aware UTC.

    `former_fingerprint` is recorded nowhere: that of earlier versions, "" where it is the same.
    """

    source_message_id: str
    message_id_is_synthetic: bool
    from_email: str
    subject: str
    sent_at: datetime | None
    size: int
    digest: str
    fingerprint: str
    former_fingerprint: str = ""

    def recorded(self) -> dict[str, Any]:
        """Return the fields that are columns of its row."""
        return {name: value for name, value in vars(self).items() if name != "former_fingerprint"}


@dataclass(frozen=True)
class ReadMail:
    """A raw mail, its header, read once, and what is recorded of it."""

    raw: bytes
    header: MailHeader
    message: MessageIdentity


def disambiguated_message_id(source_message_id: str, fingerprint: str) -> str:
    """Return the identity of a mail whose Message-ID is another one's. It is stored for good, as the fingerprint is."""
    return f"{source_message_id}#{fingerprint[:16]}"


def former_message_id(message: MessageIdentity) -> str:
    """Return the identity that earlier versions gave a mail without a usable Message-ID, or "" if it is the same."""
    is_other = message.message_id_is_synthetic and message.former_fingerprint
    return _SYNTHETIC + message.former_fingerprint if is_other else ""


def read_message(raw: bytes) -> MessageIdentity | None:
    """Read a raw message, or None if it is empty or has not one field that its sender wrote."""
    mail = read_mail(raw)
    return mail.message if mail else None


def read_mail(raw: bytes) -> ReadMail | None:
    """Read a raw mail, or None if it is empty or has not one field that its sender wrote."""
    header = read_mail_header(raw)
    values: dict[str, list[bytes]] = defaultdict(list)
    for field in header.fields:
        if field.name not in TRACE_FIELDS:
            values[field.name].append(field.value)
    if not values and header.is_whole:
        return None
    first = {name: values[name][0] if name in values else None for name in ("message-id", "from", "subject", "date")}
    fingerprint, former = _fingerprints(values, header, raw)
    message_id = _message_id(first["message-id"])
    message = MessageIdentity(
        source_message_id=message_id or _SYNTHETIC + fingerprint,
        message_id_is_synthetic=not message_id,
        from_email=_address(first["from"]),
        subject=_text(first["subject"])[:_SUBJECT_LIMIT],
        sent_at=_date(first["date"]),
        size=len(raw),
        digest=hashlib.sha256(raw).hexdigest(),
        fingerprint=fingerprint,
        former_fingerprint=former if former != fingerprint else "",
    )
    return ReadMail(raw, header, message)


def written_fields(header: MailHeader) -> dict[str, list[bytes]]:
    """Return what a sender wrote beside the content, as the fingerprint takes it. The header must be whole."""
    found: dict[str, list[bytes]] = {name: [] for name in _FINGERPRINTED if not name.startswith("content-")}
    for field in header.fields:
        if field.name in found:
            found[field.name].append(_normal(field.value))
    odd = header.block[header.odd_line :].strip(b"\n") if header.odd_line is not None else b""
    return {**found, "a line that is no field": [odd]}


def _message_id(value: bytes | None) -> str:
    """Return the Message-ID, or "" where it is missing, empty, over-long or could pass for a synthetic one."""
    text = storable((value or b"").decode("utf-8", "replace"), _FIELD_LIMIT)
    start, end = text.find("<"), text.find(">")
    if 0 <= start < end:
        text = text[start : end + 1]
    text = "".join(text.split())
    usable = text not in ("", "<>") and len(text) <= _MESSAGE_ID_LIMIT and not text.startswith(_SYNTHETIC)
    return text if usable else ""


def _address(value: bytes | None) -> str:
    """Return the first address of a From field. The whole text where none can be read."""
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


def _fingerprints(values: dict[str, list[bytes]], header: MailHeader, raw: bytes) -> tuple[str, str]:
    """Return the fingerprint and the former one: of the fields in a fixed order, then of the body."""
    if not header.is_whole:
        sha = hashlib.sha256(_LABEL_OF_UNREAD)
        for content, _ in _read_body(raw, header.first_own, header.line_end):
            sha.update(content)
        return (sha.hexdigest(),) * 2
    named = [(name.encode("ascii"), value) for name in _FINGERPRINTED for value in values.get(name, ())]
    former_text = b"".join(b"%s:%s\n" % (name, _squeeze(value).strip(b" ")) for name, value in named)
    text = former_text
    if quotes := text.count(b'"'):
        unify = _collapse if quotes <= _MOST_QUOTES else _unify_blanks
        text = b"".join(b"%s:%s\n" % (name, unify(value)) for name, value in named)
    if header.odd_line is not None:
        text += header.block[header.odd_line :].strip(b"\n") + b"\n"
    sha = hashlib.sha256(text + b"\n")
    former = hashlib.sha256(former_text + b"\n") if former_text != text else None
    for content, former_content in _read_body(raw, header.body_start, header.line_end):
        if former is None and former_content is not content:
            former = sha.copy()
        sha.update(content)
        if former is not None:
            former.update(former_content)
    return sha.hexdigest(), (former or sha).hexdigest()


def _normal(value: bytes) -> bytes:
    return _collapse(value) if value.count(b'"') <= _MOST_QUOTES else _unify_blanks(value)


def _collapse(value: bytes) -> bytes:
    """Make one blank of each run outside quotes, and inside a blank of each blank."""
    pieces, position = [], 0
    for quoted in _QUOTED.finditer(value):
        pieces += [_squeeze(value[position : quoted.start()]), quoted[0].translate(_BLANKS)]
        position = quoted.end()
    return b"".join((*pieces, _squeeze(value[position:]))).strip(b" ")


def _unify_blanks(value: bytes) -> bytes:
    """Make a blank of each blank: a header of so many quotes is not taken apart."""
    return value.translate(_BLANKS).strip(b" ")


def _squeeze(text: bytes) -> bytes:
    text = text.translate(_BLANKS)
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


def _read_body(raw: bytes, start: int, line_end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the body in pieces, and as earlier versions took it: the same object where that is the same.

    Line ends of the mail are LF in both. Every other CR was a line end, too. Now it is content. Line ends at the end of
    the mail do not count.
    """
    pending: list[bytes] = []
    kept = b""
    while start < len(raw):
        block = kept + raw[start : start + _BLOCK]
        start += _BLOCK
        kept = b"\r" if block.endswith(b"\r") and start < len(raw) else b""
        block = block[: len(block) - len(kept)]
        if line_end != b"\n" and b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
            if line_end == b"\r":
                block = block.replace(b"\r", b"\n")
        content = block.rstrip(b"\r\n")
        if content:
            yield from ((piece, _as_before(piece, line_end)) for piece in (*pending, content))
            pending = []
        pending.append(block[len(content) :])


def _as_before(piece: bytes, line_end: bytes) -> bytes:
    """Return a piece of the body as earlier versions took it, the same object where that is the same."""
    if b"\r" not in piece:
        return piece
    return (piece.replace(b"\r\n", b"\n") if line_end == b"\n" else piece).replace(b"\r", b"\n")
