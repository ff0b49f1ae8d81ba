"""The canary's mail, and its way into the MX: SMTP as a supplier's mail system speaks it (RFC 5321, RFC 3207).

TLS is taken where it is offered, and the certificate is not verified: mail systems do neither demand nor trust one
(RFC 7435), and a probe has nothing to hide. What a server answers is made printable before anybody sees it.
"""

import re
import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from uuid import uuid4

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason

_PDF = (
    b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]>>endobj\n%% %s\ntrailer<</Root 1 0 R>>\n%%%%EOF\n"
)
_CERTIFICATE = "look at smtpd_tls_cert_file and smtpd_tls_key_file"
_HINTS = {
    421: "is the mail system overloaded, or this host counted out? see its log",
    450: "its log tells what it waits for",
    451: "can it read the recipient map, does the service run? orderflow-admin check",
    452: "is its disk full? orderflow-admin check",
    454: _CERTIFICATE,
    530: "it wants TLS or a login from this host",
    550: "is the organization in the recipient map? orderflow-admin check",
    552: "is message_size_limit far too small?",
    554: "does it know this domain as its own, and may this host send to it? orderflow-admin check",
}


class SmtpRefusedError(OrderflowError):
    """The mail system did not take the probe. The text says at which step, with what answer, and what to look at.

    `verdict` is the code of its answer to the mail itself, 0 where it did not come to that.
    """

    def __init__(self, text: str, verdict: int = 0):
        super().__init__(text)
        self.verdict = verdict


@dataclass(frozen=True)
class Probe:
    """A probe to send: from whom, to whom, through which server. Every one has a Message-ID of its own."""

    host: str
    port: int
    sender: str
    recipient: str
    message_id: str
    documents: int = 3  # its text, the PDF and the CSV file


@dataclass(frozen=True)
class Answer:
    """What the server said to the message, its name for it in the queue if it told, and what came of TLS."""

    code: int
    text: str
    queue_id: str
    tls: str


def new_probe(server: str, sender: str, recipient: str) -> Probe:
    """Make a probe for HOST:PORT, HOST or [ADDRESS]:PORT. Raise ValueError."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+)(?::(\d{1,5}))?", server)
    if found is None:
        raise ValueError(server)
    domain = recipient.rpartition("@")[2]
    port = int(found[2] or 25)
    return Probe(found[1].strip("[]"), port, sender, recipient, f"<canary-{uuid4().hex}@{domain}>")


def send(probe: Probe, timeout: float, raw: bytes | None = None, source: str | None = None) -> Answer:
    """Send a probe in a session of its own. Each answer is waited for so long. Raises Refused.

    `raw` is sent in place of the canary's mail, `source` is the address of this host to send it from and to greet with.
    """
    place, name = ((source, 0), _literal(source)) if source else (None, None)
    try:
        client = smtplib.SMTP(probe.host, probe.port, name, timeout, source_address=place)
        try:
            return _speak(client, probe, _raw(probe) if raw is None else raw)
        finally:
            with suppress(OSError):
                client.quit()
            client.close()
    except smtplib.SMTPConnectError as error:
        raise SmtpRefusedError(_refusal("the connection", error.smtp_code, error.smtp_error)) from error
    except smtplib.SMTPDataError as error:
        raise SmtpRefusedError(_refusal("DATA", error.smtp_code, error.smtp_error)) from error
    except smtplib.SMTPServerDisconnected as error:
        raise SmtpRefusedError(f"{probe.host}:{probe.port} hung up: see its log") from error
    except OSError as error:  # smtplib's own are of this class
        raise SmtpRefusedError(
            f"{probe.host}:{probe.port} does not answer, {os_reason(error)}: does Postfix run?"
        ) from error


def _literal(address: str) -> str:
    """Write an address as EHLO has it in place of a name."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _speak(client: smtplib.SMTP, probe: Probe, raw: bytes) -> Answer:
    """Speak SMTP to the end of the message."""
    tls = _greet(client)
    _step("MAIL FROM", client.mail(probe.sender), 250)
    _step("RCPT TO", client.rcpt(probe.recipient), 250, 251)
    code, text = client.data(raw)
    if code != 250:
        raise SmtpRefusedError(_refusal("DATA", code, text), code)
    found = re.search(rb"queued as (\w+)", text)
    return Answer(code, _printable(text), found[1].decode() if found else "", tls)


def _greet(client: smtplib.SMTP) -> str:
    """Greet, with TLS where it is offered. A server that offers it and says no gets the mail without, as elsewhere."""
    _step("EHLO", client.ehlo(), 250)
    if not client.has_extn("starttls"):
        return "TLS is not offered"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        client.starttls(context=context)
    except smtplib.SMTPResponseException as error:
        return f"no TLS: {_refusal('STARTTLS', error.smtp_code, error.smtp_error)}"
    except ssl.SSLError as error:
        raise SmtpRefusedError(f"STARTTLS was offered, and TLS failed ({error.reason}): {_CERTIFICATE}") from error
    _step("EHLO", client.ehlo(), 250)
    return "by TLS"


def _step(name: str, answer: tuple[int, bytes], *wanted: int) -> None:
    if answer[0] not in wanted:
        raise SmtpRefusedError(_refusal(name, *answer))


def _refusal(step: str, code: int, text: bytes | str) -> str:
    hint = _HINTS.get(code)
    return f"{step} was refused with {code} {_printable(text)}" + (f": {hint}" if hint else "")


def _printable(text: bytes | str) -> str:
    plain = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    return "".join(character if character.isprintable() else " " for character in plain)[:200].strip()


def _raw(probe: Probe) -> bytes:
    mail = EmailMessage()
    mail["From"] = f"OrderFlow canary <{probe.sender or 'postmaster@' + probe.recipient.rpartition('@')[2]}>"
    mail["To"] = probe.recipient
    mail["Subject"] = "OrderFlow canary"
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = probe.message_id
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("A probe of orderflow-admin canary: no order.\n")
    pdf = _PDF % probe.message_id.encode()
    mail.add_attachment(pdf, maintype="application", subtype="pdf", filename="canary.pdf")
    mail.add_attachment(f"item,count\n{probe.message_id},1\n", subtype="csv", filename="canary.csv")
    return mail.as_bytes()
