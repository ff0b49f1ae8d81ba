"""Whether Postfix's settings agree with ours: each disagreement below loses, bounces or delays mail.

What every way needs is looked at here. What one way needs, in `postfix_ways`. The recipient map, in
`recipients`. The way is the one that Postfix is set to.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orderflow_ingest.app import App
from orderflow_ingest.config import Settings
from orderflow_ingest.entrypoints.admin.postfix.parameters import Section

from .findings import CheckResult
from .postconf import Postconf
from .postfix_limits import check_hosts, check_limits
from .postfix_probes import line
from .postfix_ways import check_way, way_of
from .recipients import check_recipients

_BLANKS = re.compile(r"[\s,]+")


def open_postfix(config: str | None) -> Postconf | CheckResult:
    """Ask Postfix for its settings. A finding if that cannot be done."""
    postconf = shutil.which("postconf", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if postconf is None:
        return "WARNING", "postconf is not installed here; on a host without Postfix say --no-postfix"
    try:
        return Postconf(postconf, config)
    except subprocess.CalledProcessError as error:
        return _failed(error, config)


def check_postfix(app: App, postconf: Postconf) -> Iterator[CheckResult]:
    """Compare main.cf, master.cf and the recipient map with the settings and the organizations."""
    settings = app.settings
    try:
        findings = [*_main(settings, postconf), *check_way(settings, postconf), *check_recipients(app, postconf)]
    except subprocess.CalledProcessError as error:
        yield _failed(error, postconf.config_directory)
        return
    way = way_of(postconf)
    yield from findings or [
        (
            "OK",
            f"settings agree, the way is {way}, RCPT TO is answered from the organization table "
            f"({postconf.config_directory})",
        )
    ]


def _failed(error: subprocess.CalledProcessError, config: str | None) -> CheckResult:
    program, directory = Path(error.cmd[0]).name, Path(config or "/etc/postfix")
    for name in ("main.cf", "master.cf"):
        if not (directory / name).exists():
            return (
                "TROUBLE",
                f"{directory} has no {name}: dpkg-reconfigure postfix; or name another by --postfix-config, or say "
                "--no-postfix on a host that takes no mail",
            )
    return "TROUBLE", f"{program} ended with {error.returncode}: is {config or '/etc/postfix'} Postfix's?"


def _main(settings: Settings, postconf: Postconf) -> Iterator[CheckResult]:
    yield from check_limits(settings, postconf, Section.MAIN)
    yield from check_hosts(postconf)
    yield from _domains(settings, postconf)
    if settings.require_tls and postconf.value("smtpd_tls_security_level") != "encrypt":
        yield "TROUBLE", line("smtpd_tls_security_level", "encrypt", "ORDERFLOW_REQUIRE_TLS is set")
    if postconf.value("smtpd_tls_security_level") in ("", "none") and postconf.value("smtpd_use_tls") != "yes":
        yield "WARNING", line("smtpd_tls_security_level", "may", "all mail comes in unencrypted")
    if postconf.value("smtpd_tls_security_level") == "encrypt" and not _has_certificate(postconf):
        yield (
            "TROUBLE",
            line("smtpd_tls_cert_file", "FILE", "TLS is demanded and none can be offered: no mail comes in"),
        )
    if postconf.value("inet_interfaces") in ("loopback-only", "localhost"):
        yield "WARNING", line("inet_interfaces", "all", "no other host can send mail to this one")
    yield from _patience(postconf)
    yield from _written_twice(postconf)


def _domains(settings: Settings, postconf: Postconf) -> Iterator[CheckResult]:
    """Look whether each domain is ours alone: Postfix takes a domain for one class of address."""
    delimiters = settings.recipient_delimiter
    if postconf.value("recipient_delimiter") != delimiters:
        yield "WARNING", line("recipient_delimiter", delimiters, "postmaster with an extension is refused")
    for domain in settings.addresses.spellings:
        if not _lists(postconf, "virtual_mailbox_domains", domain):
            yield "TROUBLE", f"main.cf: virtual_mailbox_domains does not name {domain}: its mail is refused"
        for other in ("mydestination", "virtual_alias_domains", "relay_domains"):
            if _lists(postconf, other, domain):
                yield "TROUBLE", f"main.cf: take {domain} out of {other} (its mail may go elsewhere, or be refused)"
        for table in postconf.tables("transport_maps"):
            found = postconf.lookup(domain, table)[0]
            if found and not found.startswith("orderflow"):
                yield "TROUBLE", f"main.cf: transport_maps sends {domain} to {found}: take it out of {table}"


def _patience(postconf: Postconf) -> Iterator[CheckResult]:
    """Look whether Postfix may say no at all, and whether it waits for nothing."""
    if postconf.value("soft_bounce") == "yes":
        yield "WARNING", line("soft_bounce", "no", "what is to be refused is tried again for days")
    if postconf.value("smtpd_reject_unlisted_recipient") == "no":
        yield "WARNING", line("smtpd_reject_unlisted_recipient", "yes", "mail to unknown organizations bounces later")
    if {"orderflow", "orderflow-lmtp"} & _words(postconf, "defer_transports"):
        yield "TROUBLE", line("defer_transports", "", "all our mail waits until somebody flushes the queue")


def _written_twice(postconf: Postconf) -> Iterator[CheckResult]:
    for number, what, name in postconf.complaints:
        if what.startswith("overriding"):
            yield "WARNING", f"main.cf: {name} stands there more than once, the last one counts: see line {number}"
        else:
            yield "WARNING", f"main.cf: {name} is no parameter that anything uses: misspelt?"
    names = [(service.name, service.type) for service in postconf.services]
    for name, type_ in sorted({one for one in names if names.count(one) > 1}):
        yield "WARNING", f"master.cf: the service {name} {type_} stands there more than once: take one out"


def _has_certificate(postconf: Postconf) -> bool:
    names = ("smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file", "smtpd_tls_chain_files")
    return any(postconf.value(name) not in ("", "none") for name in names)


def _lists(postconf: Postconf, name: str, domain: str) -> bool:
    """Return whether a list of domains has one, as a word or in a table."""
    tables = (table for table in postconf.tables(name) if ":" in table)
    return domain in _words(postconf, name) or any(postconf.lookup(domain, table)[0] is not None for table in tables)


def _words(postconf: Postconf, name: str) -> set[str]:
    return set(_BLANKS.split(postconf.value(name).lower()))
