"""Whether a mail that forges its sender gets through Postfix and its milters and is believed.

Such mail is really sent, to the organization canary and from an address that milters do not let pass by habit, and is
judged as a delivery judges it. A delivery hands its header back and does nothing more, see `storage.probe_mail`. What
is refused is as good as what is not believed. All of it takes at most twenty seconds, and leaves nothing.
"""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orderflow_ingest.app import App
from orderflow_ingest.config import Settings
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.domain.sender_policy import Authenticator, check_sender
from orderflow_ingest.entrypoints.admin.canary.smtp_probe import Probe, SmtpRefusedError, send
from orderflow_ingest.entrypoints.admin.postfix.mail_queue import waiting_because
from orderflow_ingest.entrypoints.admin.postfix.render import BEFORE_QUEUE
from orderflow_ingest.entrypoints.cli.run_as import as_owner
from orderflow_ingest.parsing.mime.fields import read_mail_header
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.probe_mail import Probes, waiting

from .findings import CheckResult
from .forged_mail import STRANGER, Forgery, forgeries, is_looked_at, plain, spf_forgeries
from .postconf import Postconf
from .postfix_ways import way_of

_CANARY = "canary"
_PATIENCE = 20.0  # seconds, for all of it
_LOOPBACK = "127.0.0.1"
# OpenDKIM and OpenDMARC let 127.0.0.1 pass; this is the same host to Postfix, and another to them.
_STRANGER = "127.0.0.2"
_SUBMISSION = {"submission", "smtps", "submissions", "587", "465"}


@dataclass
class _Sent:
    """A mail that was sent: its trick, its Message-ID, and Postfix's name for it or its refusal."""

    forgery: Forgery
    message_id: str
    queue_id: str = ""
    refusal: str = ""
    header: bytes | None = None


class _MailLateError(OrderflowError):
    """A mail has not come in time. The text is Postfix's name for it."""


def check_forgeries(app: App, postconf: Postconf, patience: float = _PATIENCE) -> Iterator[CheckResult]:
    """Send forged mail where a server is said to authenticate senders, and tell which is believed.

    `patience` is how many seconds all of it may take.
    """
    settings = app.settings
    if not settings.authserv_id:
        return
    if way_of(postconf) == BEFORE_QUEUE:
        yield "OK", "before the queue no mail is believed to be authenticated, so no forged mail was sent"
        return
    recipient = settings.addresses.of(_CANARY)
    host, port = _listener(postconf)
    to = Probe(host, port, "", recipient, "")
    with as_owner(settings.spool_dir):
        if not _is_there(app):
            yield (
                "WARNING",
                f"no forged mail was sent, for want of somebody to send it to: orderflow-admin org add {_CANARY}",
            )
            return
        try:
            with waiting(settings.probes_dir) as probes:
                yield from _try(_Trial(settings, to, probes, patience), postconf)
        except OSError as error:
            yield "TROUBLE", f"{settings.probes_dir} cannot be used, {os_reason(error)}: chown it to who delivers"


class _Trial:
    """Forged mail on its way: it is sent, waited for, and judged, until the time is up."""

    def __init__(self, settings: Settings, to: Probe, probes: Probes, patience: float) -> None:
        self._to, self._probes, self._until = to, probes, time.monotonic() + patience
        self.domain, self.authserv_id = settings.domains[0], settings.authserv_id
        self.source = _STRANGER if to.host == _LOOPBACK else to.host

    def send(self, *forgeries: Forgery) -> list[_Sent]:
        """Send each, and wait until all that were taken have come. Raise SmtpRefusedError and _MailLateError."""
        sent = [self._send(forgery) for forgery in forgeries]
        while out := [one for one in sent if one.header is None and not one.refusal]:
            if time.monotonic() > self._until:
                raise _MailLateError(out[0].queue_id)
            time.sleep(0.05)
            for one in out:
                one.header = self._probes.header(one.message_id)
        return sent

    def is_believed(self, sent: _Sent) -> bool:
        """Judge a mail as a delivery would, for an organization that takes mail from all whom its From names."""
        allowed = (f"@{self.domain}", f"@{STRANGER}")
        if sent.header is None:
            return False
        server = Authenticator(self.authserv_id, sent.queue_id or None, sent.forgery.envelope)
        return check_sender(read_mail_header(sent.header), allowed, server) is None

    def _send(self, forgery: Forgery) -> _Sent:
        sent = _Sent(forgery, self._probes.expect(self.domain))
        probe = replace(self._to, sender=forgery.envelope, message_id=sent.message_id)
        raw, left = forgery.raw(probe.recipient, sent.message_id), self._until - time.monotonic()
        if left <= 0:
            raise _MailLateError
        try:
            sent.queue_id = send(probe, max(1.0, left), raw, self.source).queue_id
        except SmtpRefusedError as error:
            if error.verdict < 500 and not forgery.envelope:
                raise
            sent.refusal = str(error)
        return sent


def _try(trial: _Trial, postconf: Postconf) -> Iterator[CheckResult]:
    """Send the tricks, and tell which are believed."""
    domain, authserv_id = trial.domain, trial.authserv_id
    try:
        first, second = trial.send(plain(domain), plain(domain, f"postmaster@{domain}"))
        sent = [first, *trial.send(*forgeries(domain, authserv_id))]
        if not trial.is_believed(second):  # else SPF passes for this host, and rightly
            sent += trial.send(*spf_forgeries(domain, authserv_id))
    except SmtpRefusedError as error:
        yield "WARNING", f"forged mail could not be sent, so nothing is known of it: {error}"
        return
    except _MailLateError as error:
        why = waiting_because(str(error), postconf.config_directory)
        yield "WARNING", f"forged mail has not come in time, so nothing is known of it: {why}"
        return
    if first.header is not None and not is_looked_at(first.header, authserv_id):
        yield (
            "WARNING",
            f"mail from {trial.source} gets no Authentication-Results of {authserv_id}: look at smtpd_milters, at "
            "AuthservID and AlwaysAddARHeader in opendkim.conf, at AuthservID and IgnoreHosts in opendmarc.conf",
        )
    believed = [one for one in sent if trial.is_believed(one)]
    for one in believed:
        yield "TROUBLE", f"a forged mail gets through and is believed, by {one.forgery.what}: {one.forgery.cure}"
    if not believed:
        refused = sum(bool(one.refusal) for one in sent)
        yield "OK", f"of {len(sent)} forged mails none is believed, {refused} were refused"


def _is_there(app: App) -> bool:
    """Return whether there is an organization that forged mail can go to."""
    try:
        org = app.records.organizations.find(_CANARY)
    except DatabaseUnavailable:
        return False
    return org is not None and org.is_active


def _listener(postconf: Postconf) -> tuple[str, int]:
    """Return the address and port of this host at which Postfix takes mail from others."""
    listeners = [s.name for s in postconf.services if s.type == "inet" and s.daemon in ("smtpd", "postscreen")]
    host, _, service = next((n for n in listeners if n.rpartition(":")[2] not in _SUBMISSION), "smtp").rpartition(":")
    if not host:
        host = next(iter(postconf.value("inet_interfaces").replace(",", " ").split()), "all")
    try:
        port = int(service) if service.isdigit() else socket.getservbyname(service)
    except OSError:
        port = 25
    return _address(host.strip("[]")), port


def _address(host: str) -> str:
    """Return an address of a host, or of what inet_interfaces calls so."""
    if host in ("all", "loopback-only", "localhost"):
        return _LOOPBACK
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError:
        return _LOOPBACK
