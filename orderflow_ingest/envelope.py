"""The envelope of one delivery: what SMTP said of a message, never what its header says.

The organization comes from the recipient alone, see `addresses`, since a header can be forged and a recipient has
passed Postfix's map. The envelope travels in front of the raw message in a spool entry, as the lines of `header`.
"""

from dataclasses import dataclass, fields
from datetime import datetime

from .header import decode_header, encode_header

BEFORE_QUEUE = "before-queue"
# Stands in the row of a mail whose sender nothing tells any more. No address looks so, and "" is the null sender.
UNKNOWN_SENDER = "<unknown>"


class BadEnvelope(ValueError):
    """An envelope header that does not read as one."""


@dataclass(frozen=True)
class Envelope:
    """The envelope of one delivery to one recipient.

    `sender` is empty for a bounce. `queue_id` is for finding a delivery in Postfix's log; Postfix uses
    it again later. `door` is BEFORE_QUEUE for mail that smtpd asks about: it has passed no milter, see `senders`.
    """

    recipient: str
    received_at: datetime
    sender: str = ""
    original_recipient: str = ""
    queue_id: str = ""
    client_address: str = ""
    door: str = ""

    def encode(self) -> bytes:
        """Write the envelope as header lines, without the blank line that ends them."""
        return encode_header({field.name: _text(getattr(self, field.name)) for field in fields(self)})


def decode(header: bytes) -> Envelope:
    """Read what `Envelope.encode` wrote; unknown names are ignored, so that a newer writer is read.

    Raises BadEnvelope.
    """
    found = decode_header(header)
    try:
        return Envelope(
            recipient=found["recipient"],
            sender=found["sender"],
            original_recipient=found["original_recipient"],
            queue_id=found["queue_id"],
            client_address=found["client_address"],
            received_at=datetime.fromisoformat(found["received_at"]),
            door=found.get("door", ""),
        )
    except (KeyError, ValueError) as error:
        raise BadEnvelope(f"envelope header does not read: {type(error).__name__}") from None


def _text(value: str | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else value
