"""The envelope of one delivery: what SMTP said of a message, never what its header says.

The organization comes from the recipient alone, see `addresses`, since a header can be forged and a recipient has
passed Postfix's map. In a spool entry it stands in front of the raw message, see `storage.envelope_header`.
"""

from dataclasses import dataclass
from datetime import datetime

BEFORE_QUEUE = "before-queue"
# The sender in the row of a mail whose sender is not known any more. No address looks so; "" is the null sender.
UNKNOWN_SENDER = "<unknown>"


@dataclass(frozen=True)
class Envelope:
    """The envelope of one delivery to one recipient.

    `sender` is empty for a bounce. `queue_id` is for finding a delivery in Postfix's log. Postfix reuses it later.
    `listener` is BEFORE_QUEUE for mail that smtpd asks about: it has passed no milter, see `sender_policy`.
    """

    recipient: str
    received_at: datetime
    sender: str = ""
    original_recipient: str = ""
    queue_id: str = ""
    client_address: str = ""
    listener: str = ""
