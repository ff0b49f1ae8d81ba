"""Every way a delivery can end, and what each door says of it.

One table is the whole exit policy. pipe(8) reads the exit status, and takes a leading D.S.N of the
output over it (RFC 3463). LMTP and SMTP doors read the reply code (RFC 5321 section 4.2). What is a
fault of ours always defers. Only a verdict on the message itself bounces. So 0, 65, 67 and 75 are
the only statuses that ever leave a program of ours (sysexits: EX_DATAERR, EX_NOUSER, EX_TEMPFAIL).

The texts reach the sender of a bounced mail: they hold nothing of the message and nothing of this host.
"""

from enum import Enum

EX_OK, EX_DATAERR, EX_NOUSER, EX_TEMPFAIL = 0, 65, 67, 75


class Outcome(Enum):
    """One end of a delivery: exit status, D.S.N, SMTP reply code, text."""

    DELIVERED = (EX_OK, "2.0.0", 250, "message recorded")
    DUPLICATE = (EX_OK, "2.0.0", 250, "message known already")
    HELD = (EX_OK, "2.0.0", 250, "message held for an operator to decide")
    SPOOLED = (EX_OK, "2.0.0", 250, "message kept for later delivery")
    DEAD_LETTER = (EX_OK, "2.0.0", 250, "message kept for an operator")
    UNKNOWN_ORG = (EX_NOUSER, "5.1.1", 550, "no such organization")
    ORG_DISABLED = (EX_NOUSER, "5.2.1", 550, "organization does not accept mail")
    MALFORMED = (EX_DATAERR, "5.6.0", 550, "message has no header")
    TOO_BIG = (EX_DATAERR, "5.3.4", 552, "message exceeds the size limit")
    BACKEND_DOWN = (EX_TEMPFAIL, "4.3.0", 451, "storage is not available, try again later")
    SPOOL_FULL = (EX_TEMPFAIL, "4.3.1", 452, "spool cannot be written, try again later")
    OVERLOADED = (EX_TEMPFAIL, "4.3.2", 451, "too much work waiting, try again later")
    DEADLINE = (EX_TEMPFAIL, "4.4.7", 451, "delivery took too long, try again later")
    TRUNCATED = (EX_TEMPFAIL, "4.4.2", 451, "message ended early, try again later")
    MISCONFIGURED = (EX_TEMPFAIL, "4.3.5", 451, "this system is not configured correctly, try again later")
    INTERNAL = (EX_TEMPFAIL, "4.3.0", 451, "internal error, try again later")

    def __init__(self, exit_status: int, dsn_code: str, reply_code: int, text: str):
        self.exit_status = exit_status
        self.dsn_code = dsn_code
        self.reply_code = reply_code
        self.text = text

    @property
    def line(self) -> bytes:
        """Return the one line that a program prints for pipe(8)."""
        return f"{self.dsn_code} {self.text}\n".encode("ascii")

    @property
    def is_accepted(self) -> bool:
        """Return whether we have taken charge of the message."""
        return self.exit_status == EX_OK

    @property
    def is_temporary(self) -> bool:
        """Return whether Postfix keeps the message and tries again."""
        return self.exit_status == EX_TEMPFAIL


MEANINGS = {
    Outcome.DELIVERED: "The mail is archived and recorded. Its task is enqueued, or the sweep will find it.",
    Outcome.DUPLICATE: "The organization has this Message-ID with the same content already.",
    Outcome.HELD: "The Message-ID is known with other content, or the sender is not allowed. An operator decides.",
    Outcome.SPOOLED: "A backend is unavailable, and the spool mode is accept. The spool has the mail.",
    Outcome.DEAD_LETTER: "The third unexpected error on the same content. The mail lies in `dead/` of the spool.",
    Outcome.UNKNOWN_ORG: "The recipient names no organization.",
    Outcome.ORG_DISABLED: "The organization is disabled.",
    Outcome.MALFORMED: "The mail is empty, or its sender wrote no header field.",
    Outcome.TOO_BIG: "The mail is larger than ORDERFLOW_MAX_MESSAGE_SIZE, or than its organization allows.",
    Outcome.BACKEND_DOWN: "The archive or the database is unavailable, slow, refuses us, or is not set up.",
    Outcome.SPOOL_FULL: "The spool cannot be written: no space, no inodes, read-only, or missing.",
    Outcome.OVERLOADED: "Too many tasks wait, one waits too long, or the service has no room or is stopping.",
    Outcome.DEADLINE: "ORDERFLOW_DEADLINE was over.",
    Outcome.TRUNCATED: "Standard input ended before the mail did: the writer of Postfix died.",
    Outcome.MISCONFIGURED: "Settings or arguments are wrong, the domain is not ours, or there is no organization.",
    Outcome.INTERNAL: "Anything else: a bug, a package that cannot be imported, a killed process.",
}


class DeadlineReached(BaseException):
    """The delivery's own deadline ran out. It is no Exception, so that no library swallows it."""
