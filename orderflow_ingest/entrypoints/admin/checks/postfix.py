"""Whether Postfix's settings agree with ours: each disagreement below loses, bounces or delays mail.

What every way needs is looked at here; what one way needs, in `postfix_ways`; the recipient map, in
`recipient_check`. The way is the one that Postfix is set to.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orderflow_ingest.app import App
from orderflow_ingest.config import Settings
from orderflow_ingest.entrypoints.admin.postfix.parameters import Place

from .findings import Said
from .postconf import Postconf
from .postfix_limits import check_hosts, check_limits
from .postfix_probes import line
from .postfix_ways import check_way, way_of
from .recipients import check_recipients

_BLANKS = re.compile(r"[\s,]+")


def open_postfix(config: str | None) -> Postconf | Said:
    """Ask Postfix for its settings; a finding if that cannot be done."""
    postconf = shutil.which("postconf", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if postconf is None:
        return "WARNING", "postconf is not installed here; on a host without Postfix say --no-postfix"
    try:
        return Postconf(postconf, config)
    except subprocess.CalledProcessError as error:
        return _failed(error, config)


def check_postfix(app: App, asked: Postconf) -> Iterator[Said]:
    """Compare main.cf, master.cf and the recipient map with the settings and the organizations."""
    settings = app.settings
    try:
        findings = [*_main(settings, asked), *check_way(settings, asked), *check_recipients(app, asked)]
    except subprocess.CalledProcessError as error:
        yield _failed(error, asked.place)
        return
    way = way_of(asked)
    yield from findings or [
        ("OK", f"settings agree, the way is {way}, RCPT TO is answered from the organization table ({asked.place})")
    ]


def _failed(error: subprocess.CalledProcessError, config: str | None) -> Said:
    program, directory = Path(error.cmd[0]).name, Path(config or "/etc/postfix")
    for name in ("main.cf", "master.cf"):
        if not (directory / name).exists():
            return (
                "TROUBLE",
                f"{directory} has no {name}: dpkg-reconfigure postfix; or name another by --postfix-config, or say "
                "--no-postfix on a host that takes no mail",
            )
    return "TROUBLE", f"{program} ended with {error.returncode}: is {config or '/etc/postfix'} Postfix's?"


def _main(settings: Settings, asked: Postconf) -> Iterator[Said]:
    yield from check_limits(settings, asked, Place.MAIN)
    yield from check_hosts(asked)
    yield from _domains(settings, asked)
    if settings.require_tls and asked.value("smtpd_tls_security_level") != "encrypt":
        yield "TROUBLE", line("smtpd_tls_security_level", "encrypt", "ORDERFLOW_REQUIRE_TLS is set")
    if asked.value("smtpd_tls_security_level") in ("", "none") and asked.value("smtpd_use_tls") != "yes":
        yield "WARNING", line("smtpd_tls_security_level", "may", "all mail comes in unencrypted")
    if asked.value("smtpd_tls_security_level") == "encrypt" and not _has_certificate(asked):
        yield (
            "TROUBLE",
            line("smtpd_tls_cert_file", "FILE", "TLS is demanded and none can be offered: no mail comes in"),
        )
    if asked.value("inet_interfaces") in ("loopback-only", "localhost"):
        yield "WARNING", line("inet_interfaces", "all", "no other host can send mail to this one")
    yield from _patience(asked)
    yield from _written_twice(asked)


def _domains(settings: Settings, asked: Postconf) -> Iterator[Said]:
    """Look whether each domain is ours alone: Postfix takes a domain for one class of address."""
    delimiters = settings.recipient_delimiter
    if asked.value("recipient_delimiter") != delimiters:
        yield "WARNING", line("recipient_delimiter", delimiters, "postmaster with an extension is refused")
    for domain in settings.addresses.spellings:
        if not _lists(asked, "virtual_mailbox_domains", domain):
            yield "TROUBLE", f"main.cf: virtual_mailbox_domains does not name {domain}: its mail is refused"
        for other in ("mydestination", "virtual_alias_domains", "relay_domains"):
            if _lists(asked, other, domain):
                yield "TROUBLE", f"main.cf: take {domain} out of {other} (its mail may go elsewhere, or be refused)"
        for table in asked.tables("transport_maps"):
            found = asked.lookup(domain, table)[0]
            if found and not found.startswith("orderflow"):
                yield "TROUBLE", f"main.cf: transport_maps sends {domain} to {found}: take it out of {table}"


def _patience(asked: Postconf) -> Iterator[Said]:
    """Look whether Postfix may say no at all, and whether it waits for nothing."""
    if asked.value("soft_bounce") == "yes":
        yield "WARNING", line("soft_bounce", "no", "what is to be refused is tried again for days")
    if asked.value("smtpd_reject_unlisted_recipient") == "no":
        yield "WARNING", line("smtpd_reject_unlisted_recipient", "yes", "mail to unknown organizations bounces later")
    if {"orderflow", "orderflow-lmtp"} & _words(asked, "defer_transports"):
        yield "TROUBLE", line("defer_transports", "", "all our mail waits until somebody flushes the queue")


def _written_twice(asked: Postconf) -> Iterator[Said]:
    for number, what, name in asked.complaints:
        if what.startswith("overriding"):
            yield "WARNING", f"main.cf: {name} stands there more than once, the last one counts: see line {number}"
        else:
            yield "WARNING", f"main.cf: {name} is no parameter that anything uses: misspelt?"
    names = [(service.name, service.type) for service in asked.services]
    for name, type_ in sorted({one for one in names if names.count(one) > 1}):
        yield "WARNING", f"master.cf: the service {name} {type_} stands there more than once: take one out"


def _has_certificate(asked: Postconf) -> bool:
    names = ("smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file", "smtpd_tls_chain_files")
    return any(asked.value(name) not in ("", "none") for name in names)


def _lists(asked: Postconf, name: str, domain: str) -> bool:
    """Return whether a list of domains has one, as a word or in a table."""
    tables = (table for table in asked.tables(name) if ":" in table)
    return domain in _words(asked, name) or any(asked.lookup(domain, table)[0] is not None for table in tables)


def _words(asked: Postconf, name: str) -> set[str]:
    return set(_BLANKS.split(asked.value(name).lower()))
