"""Postmaster: mail for postmaster@ and abuse@ goes back to Postfix (RFC 5321 section 4.5.1, RFC 2142).

A before-queue filter gets all mail of its smtpd(8), theirs too. It is passed on to a listener of Postfix that has
no such filter, while the sender waits: what that listener answers, the sender hears, so nothing can be lost here.
"""

import logging
import smtplib
import socket

from ..logs import event

_TIME_LIMIT = 60.0  # seconds for each step; Postfix waits smtpd_proxy_timeout, 100 s, for the whole
_LOCAL_PARTS = ("postmaster", "abuse")
_NO_DOMAIN = ""

NOBODY = "550 5.1.1 no such mailbox"
_PASSED_ON = "250 2.0.0 message passed on"
_AWAY = "451 4.4.1 the postmaster's mail system does not answer, try again later"


def is_postmaster(recipient: str, domains: tuple[str, ...]) -> bool:
    """Tell whether `recipient` is postmaster or abuse of one of our domains, or plain postmaster."""
    local, _, domain = recipient.rpartition("@") if "@" in recipient else (recipient, "", _NO_DOMAIN)
    return local.lower() in _LOCAL_PARTS and domain.lower() in (*domains, _NO_DOMAIN)


def pass_on(listener: str, sender: str, recipients: list[str], raw: bytes) -> str:
    """Send a message to `listener`, host:port or the path of a unix socket; give the reply for who sent it.

    All recipients get it or none does. This waits for the network: not for the event loop.
    """
    try:
        with _Client(listener) as client:
            client.ehlo_or_helo_if_needed()
            _expect(client.mail(sender, _options(client, [sender, *recipients], raw)))
            for recipient in recipients:
                _expect(client.rcpt(recipient))
            _expect(client.data(raw.replace(b"\n", b"\r\n")))
    except _Refused as refused:
        event("relay", "Postmaster's mail was refused.", logging.WARNING, reason=refused.args[0][:9])
        return str(refused)
    except (OSError, smtplib.SMTPException) as error:
        event("relay", "Postmaster's mail system did not answer.", logging.WARNING, reason=type(error).__name__)
        return _AWAY
    return _PASSED_ON


class _Refused(Exception):
    """A reply that is not the one for success, as one line."""


class _Client(smtplib.SMTP):
    """A client that speaks over unix sockets too, and sends addresses that are no UTF-8 as the bytes they were."""

    def __init__(self, listener: str):
        host, _, port = ("unix", "", "0") if listener.startswith("/") else listener.rpartition(":")
        self._path = listener
        super().__init__(host, int(port), timeout=_TIME_LIMIT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        if not self._path.startswith("/"):
            return socket.create_connection((host, port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(self._path)
        return connection

    def send(self, text: bytes | str) -> None:  # type: ignore[override]
        super().send(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)


def _options(client: smtplib.SMTP, addresses: list[str], raw: bytes) -> list[str]:
    wanted = {"8bitmime": not raw.isascii(), "smtputf8": not all(address.isascii() for address in addresses)}
    words = {"8bitmime": "BODY=8BITMIME", "smtputf8": "SMTPUTF8"}
    return [words[name] for name, is_wanted in wanted.items() if is_wanted and client.has_extn(name)]


def _expect(reply: tuple[int, bytes]) -> None:
    """Raise _Refused for anything but success: 451 or what the listener said for good."""
    code, text = reply
    if code // 100 == 2:
        return
    words = " ".join(text.decode("ascii", "replace").split()).removeprefix(f"{code} ")
    raise _Refused(f"{code if code // 100 == 5 else 451} {words}")
