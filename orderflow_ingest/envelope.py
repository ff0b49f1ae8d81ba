"""The envelope of one delivery: what SMTP said of a message, never what its header says.

The organisation comes from the recipient's extension alone (`local_part+extension@domain`, RFC 5233),
since a header can be forged and a recipient has passed Postfix's map. The envelope travels in front
of the raw message in a spool entry, as the lines of `header`.
"""

import re
from dataclasses import dataclass, fields
from datetime import datetime

from .header import decode_header, encode_header

BEFORE_QUEUE = "before-queue"
# Stands in the row of a mail whose sender nothing tells any more. No address looks so, and "" is the null sender.
UNKNOWN_SENDER = "<unknown>"
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
POSTMASTERS = ("postmaster", "abuse")  # local parts of no organisation: RFC 5321 section 4.5.1, RFC 2142


class BadEnvelope(ValueError):
    """An envelope header that does not read as one."""


class ForeignDomain(ValueError):
    """A recipient in a domain that is not ours: Postfix's settings and ours disagree."""


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


def is_slug(text: str) -> bool:
    """Tell whether `text` can name an organisation: lower case, [a-z0-9] and inner -, at most 63."""
    return _SLUG.fullmatch(text) is not None


def organization_slug(recipient: str, local_part: str, domains: tuple[str, ...]) -> str | None:
    """Return the organization's slug in a recipient address; None if it names none.

    The address is in internal form, without quotes, as pipe(8) and `smtp_words` give it. Letter case does not matter,
    nor does a dot at the end. Letters are folded as Postfix folds its maps' keys: its map finds acme for what folds to
    it, and that has then been accepted. Raise ForeignDomain, which is a fault of ours and not the sender's.
    """
    user, slug, domain = split_recipient(recipient)
    if domain not in domains:
        raise ForeignDomain("recipient's domain is not in ORDERFLOW_DOMAIN")
    return slug if user == local_part and is_slug(slug) else None


def split_recipient(address: str) -> tuple[str, str, str]:
    """Return user, extension and domain of an address, folded."""
    local, _, domain = address.rpartition("@")
    user, _, extension = local.partition("+")
    return _folded(user), _folded(extension), _folded(domain.removesuffix("."))


def _folded(text: str) -> str:
    """Return a text as Postfix folds it for its maps and lists: by Unicode, not by A to Z alone as everywhere else.

    The Kelvin sign is a k for it. What it has accepted for acme must not bounce here.
    """
    return text.casefold()


def _text(value: str | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else value
