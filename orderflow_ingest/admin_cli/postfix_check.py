"""Whether Postfix's settings agree with ours: each disagreement below loses, bounces or delays mail.

What every way needs is looked at here; what one way needs, in `postfix_ways`. The way is the one that
Postfix is set to.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..assembly import Parts
from ..records import RecordsUnavailable
from ..settings import Settings
from .postconf import Postconf
from .postfix_probes import Said, line
from .postfix_ways import check_way, way_of


def open_postfix(config: str | None) -> Postconf | Said:
    """Ask Postfix for its settings; a finding if that cannot be done."""
    postconf = shutil.which("postconf", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if postconf is None:
        return "WARNING", "postconf is not installed here; on a host without Postfix say --no-postfix"
    try:
        return Postconf(postconf, config)
    except subprocess.CalledProcessError as error:
        return _failed(error, config)


def check_postfix(parts: Parts, asked: Postconf) -> Iterator[Said]:
    """Compare main.cf, master.cf and the recipient map with the settings and the organisations."""
    settings = parts.settings
    try:
        findings = [*_main(settings, asked), *check_way(settings, asked), *_map(parts, asked)]
    except subprocess.CalledProcessError as error:
        yield _failed(error, asked.place)
        return
    way = way_of(asked)
    yield from findings or [
        ("OK", f"settings agree, the way is {way}, RCPT TO is answered from the organisation table ({asked.place})")
    ]


def _failed(error: subprocess.CalledProcessError, config: str | None) -> Said:
    program = Path(error.cmd[0]).name
    return "TROUBLE", f"{program} ended with {error.returncode}: is {config or '/etc/postfix'} Postfix's?"


def _main(settings: Settings, asked: Postconf) -> Iterator[Said]:
    size = int(asked.value("message_size_limit"))
    if size == 0 or size > settings.max_message_size:
        yield (
            "TROUBLE",
            line("message_size_limit", settings.max_message_size, "larger mail is accepted and then bounces"),
        )
    domains = set(re.split(r"[\s,]+", asked.value("virtual_mailbox_domains")))
    for domain in settings.domains:
        if domain not in domains:
            yield "TROUBLE", f"main.cf: virtual_mailbox_domains does not name {domain}: its mail is refused"
    if settings.require_tls and asked.value("smtpd_tls_security_level") != "encrypt":
        yield "TROUBLE", line("smtpd_tls_security_level", "encrypt", "ORDERFLOW_REQUIRE_TLS is set")
    if asked.value("local_header_rewrite_clients"):
        yield (
            "WARNING",
            line("local_header_rewrite_clients", "", "Postfix makes up Message-IDs, each another one"),
        )


def _map(parts: Parts, asked: Postconf) -> Iterator[Said]:
    """Ask the recipient map itself: one that points elsewhere would refuse or accept everything, unnoticed."""
    table = asked.value("virtual_mailbox_maps").removeprefix("proxy:")
    if not table:
        yield "TROUBLE", "main.cf: virtual_mailbox_maps is empty: every recipient is accepted and bounces later"
        return
    settings = parts.settings
    file = Path(table.removeprefix("pgsql:"))
    if table.startswith("pgsql:") and file.exists() and file.stat().st_mode & 0o007:
        yield "WARNING", f"{file} holds a password and is open to every user: chmod 640 {file}; chgrp postfix {file}"
    try:
        known = next((org.slug for org in parts.records.organizations.all() if org.is_active), None)
    except RecordsUnavailable:
        known = None  # the database's own finding tells
    for domain in settings.domains:
        found, said = asked.lookup(f"{settings.local_part}+no-such-org--@{domain}", table)
        if said:
            yield "TROUBLE", f"the recipient map cannot be read: {said.rpartition(': ')[2]}"
            return
        if found is not None:
            yield "TROUBLE", "the recipient map knows an organisation that cannot be"
        if known and asked.lookup(f"{settings.local_part}+{known}@{domain}", table)[0] is None:
            yield (
                "TROUBLE",
                f"the recipient map does not know {settings.local_part}+{known}@{domain}: its mail is refused",
            )
