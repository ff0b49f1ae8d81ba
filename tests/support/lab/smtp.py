"""A small SMTP client that reports every reply instead of raising.

It sends what it is given: only a bare LF becomes CRLF, and a leading dot is doubled (RFC 5321, sections 2.3.8
and 4.5.2). One message is one session. Where the connection failed or broke there is no reply: the code is 0.
"""

import re
import smtplib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer of the server."""

    code: int
    text: str


@dataclass(frozen=True)
class Replies:
    """The answers to one message: `rcpt` has one for each recipient; a step not reached is None."""

    greeting: Reply
    mail: Reply | None = None
    rcpt: tuple[Reply, ...] = ()
    data: Reply | None = None

    @property
    def accepted(self) -> bool:
        """Return whether the server has taken the message."""
        return self.data is not None and self.data.code == 250


@dataclass(frozen=True)
class Message:
    """What one session of send_many() sends."""

    sender: str
    recipients: Sequence[str]
    raw: bytes


def send(
    port: int,
    sender: str,
    recipients: Sequence[str],
    raw: bytes,
    *,
    mail_options: Sequence[str] = (),
    timeout: float = 60,
    client_address: str = "",
    client_name: str = "",
) -> Replies:
    """Send one message to a loopback port; an empty sender is that of a bounce.

    With `client_address` the server takes us for that client, if it lets us say so (XCLIENT), and hears `client_name`.
    """
    client = smtplib.SMTP(timeout=timeout, local_hostname="client.lab.example")
    try:
        greeting = _step(lambda: client.connect("127.0.0.1", port))
        if greeting.code == 220:
            greeting = _step(client.ehlo)
        if greeting.code == 250 and client_address:
            _step(lambda: client.docmd("XCLIENT", f"NAME=client.lab.example ADDR={client_address}"))
            greeting = _step(lambda: client.ehlo(client_name))
        if greeting.code != 250:
            return Replies(greeting)
        mail = _step(lambda: client.mail(sender, mail_options))
        if mail.code != 250:
            return Replies(greeting, mail)
        rcpt = tuple(_step(partial(client.rcpt, recipient)) for recipient in recipients)
        if not any(reply.code in (250, 251) for reply in rcpt):
            return Replies(greeting, mail, rcpt)
        return Replies(greeting, mail, rcpt, _step(lambda: client.data(re.sub(rb"(?<!\r)\n", b"\r\n", raw))))
    finally:
        _step(lambda: client.docmd("QUIT"))
        client.close()


def send_many(port: int, messages: Iterable[Message], sessions: int) -> list[Replies]:
    """Send each message in a session of its own, `sessions` at a time; return the replies in their order."""
    with ThreadPoolExecutor(sessions) as pool:
        return list(pool.map(lambda m: send(port, m.sender, m.recipients, m.raw), messages))


def _step(call: Callable[[], Any]) -> Reply:
    try:
        code, text = call()
    except smtplib.SMTPResponseException as refused:
        code, text = refused.smtp_code, refused.smtp_error
    except (OSError, smtplib.SMTPException) as broken:
        return Reply(0, f"{type(broken).__name__}: {broken}")
    return Reply(code, text.decode(errors="replace") if isinstance(text, bytes) else str(text))
