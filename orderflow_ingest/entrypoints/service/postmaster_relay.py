"""Relay of mail for postmaster@ and abuse@ back to Postfix (RFC 5321 section 4.5.1, RFC 2142).

A before-queue filter gets all mail of its smtpd(8), including this. It is sent to a listener of Postfix that has no
such filter, while the sender waits. The sender gets that listener's reply, so nothing can be lost here. Nothing is
stored.
"""

import asyncio
import logging
import smtplib
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.observability.logs import event

from .arguments import path

_TIME_LIMIT = 15.0  # seconds for each of six steps; Postfix waits smtpd_proxy_timeout, 100 s or more, for all
_MAX_THREADS = 4
_BLOCK = 65536

NOBODY = "550 5.1.1 no such mailbox"
_VERDICTS = (550, 552)
_PASSED_ON = "250 2.0.0 message passed on"
_REFUSED = "451 4.3.5 the postmaster's mail system is not configured correctly, try again later"
_UNAVAILABLE = "451 4.4.1 the postmaster's mail system does not answer, try again later"


class Relay:
    """A client of a listener of Postfix, host:port or the path of a unix socket. It runs in threads of its own."""

    def __init__(self, listener: str):
        self._listener = listener
        self._pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="relay")

    async def pass_on(self, sender: str, recipients: list[str], raw: bytes) -> str:
        """Send a message to the listener, and return the reply for its sender."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, pass_on, self._listener, sender, recipients, raw)


def pass_on(listener: str, sender: str, recipients: list[str], raw: bytes) -> str:
    """Send a message to `listener`, and return the reply for its sender: all recipients get it or none does."""
    try:
        client = _Client(listener)
        try:
            client.ehlo_or_helo_if_needed()
            client.command(f"MAIL FROM:{path(sender)}{_options(client, [sender, *recipients], raw)}")
            for recipient in recipients:
                client.command(f"RCPT TO:{path(recipient)}")
            client.send_message_data(raw)
        finally:
            _quit(client)
    except _RefusedError as refused:
        event("relay", "Postmaster's mail was refused.", logging.WARNING, code=refused.smtp_code)
        return _reply_line(refused)
    except OSError as error:  # smtplib's own are of this class
        event("relay", "Postmaster's mail system did not answer.", logging.WARNING, reason=error)
        return _UNAVAILABLE
    return _PASSED_ON


class _RefusedError(OrderflowError, smtplib.SMTPResponseException):
    """A reply that is not the one for success."""


class _Client(smtplib.SMTP):
    """An SMTP client that also connects to unix sockets, and sends addresses that are no UTF-8 as their bytes."""

    def __init__(self, listener: str):
        host, _, port = ("unix", "", "0") if listener.startswith("/") else listener.rpartition(":")
        self._path = listener
        super().__init__(host.strip("[]"), int(port), timeout=_TIME_LIMIT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        if not self._path.startswith("/"):
            return socket.create_connection((host, port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(self._path)
        return connection

    def send(self, text: bytes | str) -> None:  # type: ignore[override]
        super().send(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)

    def command(self, command: str) -> None:
        """Send a command. Raise _RefusedError."""
        _expect(*self.docmd(command))

    def send_message_data(self, raw: bytes) -> None:
        """Send DATA and the message. Raise _RefusedError."""
        code, text = self.docmd("DATA")
        if code != 354:
            raise _RefusedError(code, text)
        for start in range(0, len(raw), _BLOCK):
            self.send(_on_the_wire(raw, start))
        self.send(b".\r\n" if raw.endswith(b"\n") else b"\r\n.\r\n")
        _expect(*self.getreply())


def _on_the_wire(raw: bytes, start: int) -> bytes:
    """Return a block of a message with CR LF and doubled dots (RFC 5321, 4.5.2).

    smtplib would make four copies of all of it.
    """
    block = raw[start : start + _BLOCK]
    is_line_start = start == 0 or raw[start - 1 : start] == b"\n"
    dot = b"." if is_line_start and block.startswith(b".") else b""
    return dot + block.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")


def _quit(client: smtplib.SMTP) -> None:
    """Send QUIT. A failure changes nothing about the replies before."""
    with suppress(OSError, smtplib.SMTPException):
        client.quit()
    client.close()


def _options(client: smtplib.SMTP, addresses: list[str], raw: bytes) -> str:
    body = "" if raw.isascii() or not client.has_extn("8bitmime") else " BODY=8BITMIME"
    is_plain = "".join(addresses).isascii() or not client.has_extn("smtputf8")
    return body + ("" if is_plain else " SMTPUTF8")


def _expect(code: int, text: bytes | str) -> None:
    """Raise _RefusedError for anything but success."""
    if code // 100 != 2:
        raise _RefusedError(code, text)


def _reply_line(refused: _RefusedError) -> str:
    """Return the reply as one line: a verdict on the mail unchanged, anything else (a 554 for us) as a 451."""
    code, text = refused.smtp_code, refused.smtp_error
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if code not in _VERDICTS and code // 100 == 5:
        return _REFUSED
    return f"{code if code in _VERDICTS else 451} {' '.join(text.split())}"
