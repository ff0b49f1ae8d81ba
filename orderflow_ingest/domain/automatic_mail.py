"""Signs that no person wrote a mail. They are recorded on its row and change nothing else.

A program that answers mail must not answer such mail (RFC 3834, section 2). This package answers and sends none, so it
records and extracts such mail like any other: an order may well come from a machine. The signals are for the document
handler, which may answer, and for an operator who looks for a loop.
"""

from collections.abc import Callable
from enum import StrEnum

from orderflow_ingest.parsing.mime.fields import MailHeader

_VALUE_LIMIT = 1000


class AutomaticMailSignal(StrEnum):
    """One sign of mail that no person wrote, or that has been here before."""

    NULL_SENDER = "null sender"
    AUTO_SUBMITTED = "auto-submitted"
    BULK = "bulk"
    OWN_DELIVERED_TO = "own delivered-to"


def read_signals(header: MailHeader, sender: str, is_own: Callable[[str], bool]) -> list[AutomaticMailSignal]:
    """Return the signals in a mail with this envelope sender. `is_own` is true for a recipient of ours.

    Auto-Submitted is RFC 3834's, section 5: anything but "no". Precedence (RFC 2076, section 3.9) counts with the
    values that mailing lists and programs use. Delivered-To is what Postfix's loop detection goes by.
    """
    found = set() if sender else {AutomaticMailSignal.NULL_SENDER}
    for field in header.top if header.top is header.fields else (*header.top, *header.fields):
        if field.name not in ("auto-submitted", "precedence", "delivered-to"):
            continue
        value = field.value[:_VALUE_LIMIT].decode("ascii", "replace").strip().lower()
        if field.name == "auto-submitted" and value.partition(";")[0].strip() not in ("", "no"):
            found.add(AutomaticMailSignal.AUTO_SUBMITTED)
        if field.name == "precedence" and value in ("bulk", "list", "junk", "auto_reply"):
            found.add(AutomaticMailSignal.BULK)
        if field.name == "delivered-to" and is_own(value.strip("<>")):
            found.add(AutomaticMailSignal.OWN_DELIVERED_TO)
    return sorted(found)
