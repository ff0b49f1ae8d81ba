"""The envelope as the header lines of a spool entry, which less(1) shows.

The service's pipe protocol carries the same lines. `orderflow-deliver` writes them itself, see `spool_entry`.
"""

from dataclasses import fields
from datetime import datetime

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.errors import OrderflowError

from .spool_entry import encode_header

# The field was named so in the first versions. It is written so, since a service of such a version may drain the spool.
_OLD_NAMES = {"listener": "door"}


class EnvelopeError(OrderflowError, ValueError):
    """An envelope header that does not read as one."""


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the envelope as header lines, without the blank line that ends them."""
    return encode_header(
        {_OLD_NAMES.get(field.name, field.name): _text(getattr(envelope, field.name)) for field in fields(envelope)}
    )


def decode_envelope(header: bytes) -> Envelope:
    """Read what encode_envelope() wrote. Unknown names are ignored, so that a newer writer is read.

    Raise EnvelopeError.
    """
    found = _decode_header(header)
    try:
        return Envelope(
            recipient=found["recipient"],
            sender=found["sender"],
            original_recipient=found["original_recipient"],
            queue_id=found["queue_id"],
            client_address=found["client_address"],
            received_at=datetime.fromisoformat(found["received_at"]),
            listener=found.get("listener") or found.get("door", ""),
        )
    except (KeyError, ValueError) as error:
        raise EnvelopeError(f"envelope header does not read: {type(error).__name__}") from None


def _decode_header(header: bytes) -> dict[str, str]:
    """Read what encode_header() wrote."""
    pairs = (line.partition(": ") for line in header.decode("utf-8", "surrogateescape").split("\n"))
    return {name: _unescape(value) for name, _, value in pairs}


def _text(value: str | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else value


def _unescape(text: str) -> str:
    return text.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
