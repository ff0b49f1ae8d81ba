"""What each of the three ways from Postfix to a delivery needs of master.cf and main.cf.

    pipe           virtual_transport = orderflow
    lmtp           virtual_transport = orderflow-lmtp:unix:…/lmtp.sock
    before-queue   an smtpd whose smtpd_proxy_filter is unix:…/smtp.sock; and lmtp for what comes otherwise

Programs are started and sockets opened as the users that will do so, see `postfix_probes`.
"""

import os
import pwd
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from orderflow_ingest.config import SYSTEM_FILE, Settings
from orderflow_ingest.entrypoints.admin.postfix.parameters import Section
from orderflow_ingest.entrypoints.admin.postfix.render import BEFORE_QUEUE, LMTP, PIPE
from orderflow_ingest.entrypoints.cli.run_as import confinement, explain_denied, is_noexec
from orderflow_ingest.entrypoints.health_client import LMTP_SOCKET, PIPE_SOCKET, SMTP_SOCKET

from .findings import CheckResult
from .postconf import Postconf, Service
from .postfix_limits import check_limits
from .postfix_probes import line, reaches, runs_as, status_filter

_TRANSPORTS = {"orderflow": PIPE, "orderflow-lmtp": LMTP}
_DSN_IS_SILENT = re.compile(r"(^|[\s,])dsn([\s,]|$)", re.IGNORECASE)
_MACROS = {
    "--queue-id": "${queue_id}",
    "--client-address": "${client_address}",
    "--original-recipient": "${original_recipient}",
}
_FORMER_MODULE = "orderflow_ingest.deliver_cli"
_IMPORTS_WHAT_DELIVERS = "import orderflow_ingest.pipeline.receive, orderflow_ingest.app"


def way_of(postconf: Postconf) -> str | None:
    """Return which way Postfix is set to, or None if mail goes elsewhere."""
    if any(_filters(postconf)):
        return BEFORE_QUEUE
    return _TRANSPORTS.get(postconf.value("virtual_transport").partition(":")[0])


def check_way(settings: Settings, postconf: Postconf) -> Iterator[CheckResult]:
    """Look at what the way needs that Postfix is set to."""
    way, transport = way_of(postconf), postconf.value("virtual_transport").partition(":")[0]
    if transport not in _TRANSPORTS:
        yield "TROUBLE", line("virtual_transport", "orderflow", "mail goes elsewhere")
        return
    service = postconf.service(transport)
    if service is None:
        yield "TROUBLE", f"master.cf: no service {transport}: add what orderflow-admin postfix master prints"
        return
    yield from (_pipe if transport == "orderflow" else _lmtp)(settings, postconf, service)
    if way == BEFORE_QUEUE:
        yield from _before_queue(settings, postconf)
    if way != PIPE or transport != "orderflow":
        yield from _mail_user(settings, postconf)


def _pipe(settings: Settings, postconf: Postconf, service: Service) -> Iterator[CheckResult]:
    if postconf.value("orderflow_destination_recipient_limit") != "1":
        yield (
            "TROUBLE",
            line("orderflow_destination_recipient_limit", 1, "recipients after the first are lost or mixed"),
        )
    yield from check_limits(settings, postconf, Section.PIPE, service)
    if service.attribute("null_sender") != "":
        yield "TROUBLE", "master.cf: orderflow: null_sender= (empty) is missing: bounces come from MAILER-DAEMON"
    if service.chroot == "y":
        yield "TROUBLE", "master.cf: orderflow: chroot must be n: the program lies outside"
    yield from _shows_envelope(service)
    if "D" in (service.attribute("flags") or ""):
        yield "WARNING", "master.cf: orderflow: take D out of flags=: mail that passed here before bounces as a loop"
    argv = service.argv
    if _option(argv, "--sender") != "${sender}":
        yield "TROUBLE", "master.cf: orderflow: argv must have: --sender ${sender}, or nobody knows who sent an order"
    for name, macro in _MACROS.items():
        if _option(argv, name) != macro:
            yield (
                "WARNING",
                f"master.cf: orderflow: argv must have: {name} {macro}, or nobody knows where a mail is from",
            )
    if argv[-2:] != ["--", "${recipient}"]:
        yield "TROUBLE", "master.cf: orderflow: argv must end with: -- ${recipient}"
    if "-c" in argv:  # the shell script is a net of its own
        yield from status_filter(postconf, service, "pipe_delivery_status_filter", "{}", "Command died with status 1")
    wanted = "" if settings.file in (None, Path(SYSTEM_FILE)) else str(settings.file)
    if _option(argv, "--settings") != wanted:
        yield "TROUBLE", f"master.cf: orderflow: argv must have: --settings {wanted or '(none)'}, what this check reads"
    yield from _user_and_program(settings, postconf, service, argv)


def _shows_envelope(service: Service) -> Iterator[CheckResult]:
    if not {"R", "O"} <= set(service.attribute("flags") or ""):
        yield "WARNING", f"master.cf: {service.name}: flags= must have R and O: raw mail does not show its envelope"


def _user_and_program(
    settings: Settings, postconf: Postconf, service: Service, argv: list[str]
) -> Iterator[CheckResult]:
    user = (service.attribute("user") or "").partition(":")[0]
    if not user or not argv:
        yield "TROUBLE", "master.cf: orderflow: user= or argv= is missing"
        return
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        yield "TROUBLE", f"master.cf: orderflow: there is no user {user}"
        return
    if account.pw_uid == 0:
        yield "TROUBLE", "master.cf: orderflow: pipe(8) refuses user=root"
    if user == postconf.value("mail_owner"):
        yield "TROUBLE", f"master.cf: orderflow: pipe(8) refuses user={user}, Postfix's own: make it orderflow"
    if settings.spool_dir.is_dir() and settings.spool_dir.stat().st_uid != account.pw_uid:
        yield "TROUBLE", f"{settings.spool_dir} is not {user}'s, who delivers: chown -R {user}: {settings.state_dir}"
    yield from _program(account, argv)
    wanted = str(settings.socket_dir / PIPE_SOCKET)
    if _option(argv, "--socket") != wanted:
        yield "WARNING", f"master.cf: orderflow: argv must have: --socket {wanted}, or deliveries pass the service by"
    else:
        yield from reaches(account, Path(wanted), b"")


def _program(account: pwd.struct_passwd, argv: list[str]) -> Iterator[CheckResult]:
    program, code = Path(argv[0]), _option(argv, "-c")
    if not program.is_file():
        yield "TROUBLE", f"master.cf: orderflow: {program} is not there"
    elif on := next((str(p) for p in (program, Path(__file__)) if is_noexec(p)), ""):
        yield "TROUBLE", f"{on} lies on a file system mounted noexec: mount -o remount,exec it, or install elsewhere"
    elif os.geteuid():
        return
    elif not code:
        if not runs_as(account, [*argv[:1], "--version"]):
            yield "TROUBLE", _closed(program, account)
    elif not runs_as(account, [str(program), "-I", "-S", "-c", ""]):
        yield "TROUBLE", _closed(program, account)
    elif not runs_as(account, [*argv[: argv.index("-c")], "-c", code, "--version"]):
        yield "TROUBLE", f"master.cf: orderflow: argv's -c does not import the package as {account.pw_name}: {code}"
    elif not runs_as(account, [*argv[: argv.index("-c")], "-c", code.replace("main()", _IMPORTS_WHAT_DELIVERS)]):
        yield "TROUBLE", f"{program}: without the service, {account.pw_name} cannot import what a delivery needs"
    elif _FORMER_MODULE in code:
        yield (
            "WARNING",
            f"master.cf: orderflow: argv's -c imports {_FORMER_MODULE}: a former name; print it again",
        )


def _closed(program: Path, account: pwd.struct_passwd) -> str:
    why = (
        explain_denied(program, account)
        or confinement()
        or f"as root: runuser -u {account.pw_name} -- {program} --version"
    )
    return f"{program} cannot be run as {account.pw_name}: {why}"


def _lmtp(settings: Settings, postconf: Postconf, service: Service) -> Iterator[CheckResult]:
    wanted = f"unix:{settings.socket_dir / LMTP_SOCKET}"
    if postconf.value("virtual_transport").partition(":")[2] != wanted:
        yield "TROUBLE", line("virtual_transport", f"orderflow-lmtp:{wanted}", "the service listens there")
    place = f"master.cf: {service.name}"
    if service.daemon != "lmtp":
        yield "TROUBLE", f"{place}: the command must be lmtp, not {service.daemon}"
    yield from _is_not_chrooted(service)
    yield from _shows_envelope(service)
    if postconf.value("lmtp_line_length_limit", service) != "0":
        yield "TROUBLE", line("-o lmtp_line_length_limit", 0, "longer lines are broken", place)
    if postconf.value("disable_mime_output_conversion", service) != "yes":
        yield "WARNING", line("-o disable_mime_output_conversion", "yes", "8-bit text may be rewritten", place)
    yield from check_limits(settings, postconf, Section.LMTP, service)
    if postconf.value("lmtp_send_xforward_command", service) != "yes":
        yield "WARNING", line("-o lmtp_send_xforward_command", "yes", "no client address is recorded", place)
    if postconf.value(f"{service.name}_destination_recipient_limit") != "1":
        yield "WARNING", line(f"{service.name}_destination_recipient_limit", 1, "one organization can take every place")
    said = "host x[y] said: 550 {} (in reply to end of DATA command)"
    yield from status_filter(postconf, service, "lmtp_delivery_status_filter", said, "host x[y] said: 550 what?")
    yield from _mail_user_reaches(settings, postconf, LMTP_SOCKET)


def _before_queue(settings: Settings, postconf: Postconf) -> Iterator[CheckResult]:
    wanted = f"unix:{settings.socket_dir / SMTP_SOCKET}"
    if settings.authserv_id:
        yield (
            "WARNING",
            "ORDERFLOW_AUTHSERV_ID: before the queue no milter sees a mail, so that none is called authenticated: all "
            "mail to organizations with allowed_senders is held; take the way lmtp or pipe",
        )
    for service in _filters(postconf):
        place = f"master.cf: {service.name}"
        if postconf.value("smtpd_proxy_filter", service) != wanted:
            yield "TROUBLE", line("-o smtpd_proxy_filter", wanted, "the service listens there", place)
        yield from _is_not_chrooted(service)
        if postconf.value("smtpd_recipient_limit", service) != "1":
            why = "mail for two recipients is put off for ever"
            yield "TROUBLE", line("-o smtpd_recipient_limit", 1, why, place)
        if not _DSN_IS_SILENT.search(postconf.value("smtpd_discard_ehlo_keywords", service)):
            why = "mail that asks for a delivery status notification is refused"
            yield "TROUBLE", line("-o smtpd_discard_ehlo_keywords", "dsn,etrn,silent-discard", why, place)
        if not postconf.value("smtpd_relay_restrictions", service).startswith("reject_unauth_destination"):
            why = "mail of this network for other domains is put off for ever"
            yield "WARNING", line("-o smtpd_relay_restrictions", "reject_unauth_destination", why, place)
        if "speed_adjust" not in postconf.value("smtpd_proxy_options", service):
            yield "WARNING", line("-o smtpd_proxy_options", "speed_adjust", "slow senders take places", place)
        yield from check_limits(settings, postconf, Section.PROXIED, service)
    yield from _mail_user_reaches(settings, postconf, SMTP_SOCKET)
    yield from _relay(settings, postconf)


def _relay(settings: Settings, postconf: Postconf) -> Iterator[CheckResult]:
    """Look at the listener that the service gives mail for postmaster back to."""
    if settings.relay is None:
        yield "TROUBLE", "ORDERFLOW_RELAY is not set: mail for postmaster and abuse cannot be given back"
        return
    found = next((s for s in postconf.services if s.type == "inet" and s.name == settings.relay), None)
    if found is None:
        yield (
            "TROUBLE",
            f"master.cf: no service {settings.relay} inet (ORDERFLOW_RELAY): mail for postmaster is put off",
        )
        return
    place = f"master.cf: {found.name}"
    if postconf.value("smtpd_proxy_filter", found):
        yield "TROUBLE", line("-o smtpd_proxy_filter", "", "mail given back comes back", place)
    if not postconf.value("smtpd_client_restrictions", found).replace(" ", "").endswith(",reject"):
        why = "others may connect"
        yield "TROUBLE", line("-o smtpd_client_restrictions", "permit_mynetworks,reject", why, place)
    if postconf.value("smtpd_tls_security_level", found) == "encrypt":
        why = "the service speaks no TLS here: mail for postmaster is put off"
        yield "TROUBLE", line("-o smtpd_tls_security_level", "none", why, place)


def _filters(postconf: Postconf) -> Iterator[Service]:
    """Find the smtpds that ask our service before they answer."""
    for service in postconf.services:
        if service.daemon == "smtpd" and postconf.value("smtpd_proxy_filter", service).endswith("/" + SMTP_SOCKET):
            yield service


def _is_not_chrooted(service: Service) -> Iterator[CheckResult]:
    if service.chroot != "n":
        yield "TROUBLE", f"master.cf: {service.name}: chroot must be n: the socket lies outside"


def _mail_user(settings: Settings, postconf: Postconf) -> Iterator[CheckResult]:
    owner = postconf.value("mail_owner")
    if owner != settings.mail_user:
        yield "TROUBLE", f"ORDERFLOW_MAIL_USER must be {owner}, as whom Postfix connects: the service sends it away"


def _mail_user_reaches(settings: Settings, postconf: Postconf, name: str) -> Iterator[CheckResult]:
    try:
        account = pwd.getpwnam(postconf.value("mail_owner"))
    except KeyError:
        yield "TROUBLE", "main.cf: mail_owner is no user"
        return
    yield from reaches(account, settings.socket_dir / name, b"220 ")


def _option(argv: list[str], name: str) -> str:
    """Return an option's value, or "" if it is not there."""
    return next((value for option, value in pairwise(argv) if option == name), "")
