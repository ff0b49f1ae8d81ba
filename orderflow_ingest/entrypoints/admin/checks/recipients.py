"""Whether RCPT TO is answered from the organization table: each recipient map is asked, as the user that will ask it.

A map that points elsewhere would refuse or accept everything, unnoticed. One that Postfix's user cannot read answers
451 to everybody, while root reads it without a word.
"""

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from urllib.parse import unquote

from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import POSTMASTERS
from orderflow_ingest.entrypoints.admin.postfix.render import map_name
from orderflow_ingest.entrypoints.cli.run_as import as_user, explain_denied
from orderflow_ingest.entrypoints.health_client import MAP_SOCKET
from orderflow_ingest.storage.database import DatabaseUnavailable, recipients_path

from .findings import CheckResult
from .postconf import Postconf, Service, map_servers

_PASSWORD_IN_URL = re.compile(r"://[^\s/@:]*:[^\s/@]+@")
_SECRET_OPTION = re.compile(r"[?&](?:(?:ssl)?password|oauth_client_secret|scram_(?:client|server)_key)=[^&]")
_PASSWORD = re.compile(r"^password\s*=\s*\S", re.MULTILINE)
_TEMPORARY = re.compile(r"socketmap server temporary error: (.*)")
_NOBODY = f"no-such-organization-{token_hex(8)}"  # a slug that can be, so the database has to be asked
_OPTION = re.compile(r"[?&](\w+)=([^\s&,]+)")


def check_recipients(app: App, postconf: Postconf) -> Iterator[CheckResult]:
    """Ask the recipient maps for an organization that is there, and for one that cannot be."""
    tables, account = postconf.tables("virtual_mailbox_maps"), _mail_owner(postconf)
    if not tables:
        yield "TROUBLE", "main.cf: virtual_mailbox_maps is empty: every recipient is accepted and bounces later"
        return
    yield from _passwords(tables, account)
    yield from _reached(postconf)
    addresses = app.settings.addresses
    for table in tables:
        if table.startswith("socketmap:") and table != map_name(app.settings):
            yield "WARNING", f"main.cf: virtual_mailbox_maps: {table} is not the service's: {map_name(app.settings)}"
        output = postconf.lookup(addresses.of(_NOBODY), table, account)[1]
        if output:
            yield "TROUBLE", f"the recipient map cannot be read: {_why(output, app, table, account)}"
            return
    try:
        known = next((org.slug for org in app.records.organizations.all() if org.is_active), None)
    except DatabaseUnavailable:
        known = None  # the database's own finding tells
    for domain in addresses.spellings:
        if any(postconf.lookup(addresses.of(_NOBODY, domain), table, account)[0] is not None for table in tables):
            yield "TROUBLE", "the recipient map knows an organization that cannot be"
        ours = addresses.of(known or "", domain)
        if known and all(postconf.lookup(ours, table, account)[0] is None for table in tables):
            yield "TROUBLE", f"the recipient map does not know {ours}: its mail is refused"
        if known and (elsewhere := _alias(postconf, ours, domain, app.settings.local_part)):
            yield "TROUBLE", f"main.cf: virtual_alias_maps sends {ours} elsewhere: take it out of {elsewhere}"
        yield from _postmasters(postconf, domain, tables)


def _postmasters(postconf: Postconf, domain: str, tables: list[str]) -> Iterator[CheckResult]:
    """Look whether mail for postmaster and abuse is let in: whoever has trouble with our mail writes there."""
    known = [*postconf.tables("virtual_alias_maps"), *tables]
    for address in (f"{name}@{domain}" for name in POSTMASTERS):
        if all(postconf.lookup(key, table)[0] is None for table in known for key in (address, f"@{domain}")):
            yield "WARNING", f"main.cf: virtual_alias_maps does not name {address}: its mail is refused (RFC 2142)"


def _mail_owner(postconf: Postconf) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(postconf.value("mail_owner"))
    except KeyError:  # the way's own finding tells
        return None


def _passwords(tables: list[str], account: pwd.struct_passwd | None) -> Iterator[CheckResult]:
    """Look where the maps for PostgreSQL have their passwords."""
    for table in tables:
        file = Path(table.removeprefix("pgsql:"))
        try:
            text = file.read_text(errors="replace") if table.startswith("pgsql:") else ""
        except OSError:  # the look-up tells what may not be read
            continue
        servers = map_servers(text)
        is_logged = any(_PASSWORD_IN_URL.search(one) or _SECRET_OPTION.search(one) for one in servers)
        if is_logged:
            yield (
                "WARNING",
                f"{file}: hosts has a password, which Postfix logs when the database is away: print it again by "
                "orderflow-admin postfix map, and postfix passfile",
            )
        if (is_logged or _PASSWORD.search(text)) and file.stat().st_mode & 0o007:
            yield (
                "WARNING",
                f"{file} holds a password and is open to every user: chmod 640 {file}; chgrp postfix {file}",
            )
        if passfile := _named(servers, "passfile"):
            yield from _passfile(passfile, account)


def _named(servers: list[str], option: str) -> Path | None:
    """Return the file that an option of a map's URL names."""
    for server in servers:
        for name, value in _OPTION.findall(server):
            if name == option:
                return Path(unquote(value))
    return None


def _passfile(file: Path, account: pwd.struct_passwd | None) -> Iterator[CheckResult]:
    """Look whether libpq reads a password from its file: it passes over one that others may read, without a word."""
    try:
        seen = file.stat()
    except FileNotFoundError:
        yield (
            "TROUBLE",
            f"{file} is not there: install -m 600 -o postfix /dev/null {file}, then "
            f"orderflow-admin postfix passfile > {file}",
        )
        return
    except OSError:
        return
    if seen.st_mode & 0o077:
        yield "TROUBLE", f"{file} is open to others, so that libpq reads no password there: chmod 600 {file}"
    if account and seen.st_uid != account.pw_uid:
        yield "TROUBLE", f"{file} is not {account.pw_name}'s: chown {account.pw_name} {file}"


def _reached(postconf: Postconf) -> Iterator[CheckResult]:
    """Look whether smtpd, which may be chrooted, gets at maps that lie outside of its directory."""
    proxy = postconf.service("proxymap")
    if proxy and _is_chrooted(postconf, proxy):
        yield "TROUBLE", "master.cf: proxymap: chroot must be n: it reads the recipient map for all"
    is_direct = any(
        table.startswith(("pgsql:", "sqlite:", "socketmap:unix:"))
        for table in postconf.value("virtual_mailbox_maps").replace(",", " ").split()
    )
    jailed = next((s for s in postconf.services if s.daemon == "smtpd" and _is_chrooted(postconf, s)), None)
    if is_direct and jailed:
        yield (
            "TROUBLE",
            f"main.cf: virtual_mailbox_maps: put proxy: before the map (the smtpd of {jailed.name} is chrooted)",
        )


def _is_chrooted(postconf: Postconf, service: Service) -> bool:
    default = "y" if postconf.value("compatibility_level") == "0" else "n"
    return (default if service.chroot == "-" else service.chroot) == "y"


def _why(output: str, app: App, table: str, account: pwd.struct_passwd | None) -> str:
    """Return what to open, where a right is missing, else what postmap said."""
    if table.startswith("socketmap:"):
        return _why_no_answer(output, app)
    if account is None or os.geteuid():
        return output.splitlines()[-1].rpartition(": ")[2]
    source = Path(table.partition(":")[2])
    servers = map_servers(source.read_text(errors="replace")) if table.startswith("pgsql:") else []
    authority = _named(servers, "sslrootcert")
    for file in filter(None, (source, recipients_path(app.settings.database_url), authority)):
        if closed := explain_denied(file, account):
            return closed
        if file.is_file() and not _reads(file, account):
            return f"{file} cannot be read by {account.pw_name}: chmod 640 {file}; chgrp {account.pw_name} {file}"
    return output.splitlines()[-1].rpartition(": ")[2]


def _why_no_answer(output: str, app: App) -> str:
    """Return what to do about a service that is not there, or what it answered instead of yes or no."""
    if refused := _TEMPORARY.search(output):
        return f"{refused[1]}, so all unknown recipients hear 451"
    path = app.settings.socket_dir / MAP_SOCKET
    if not path.exists():
        return (
            f"{path} is not there, so all recipients hear 451: install orderflow-service.socket of this version, "
            "systemctl restart orderflow-service.socket; or print main by --map database"
        )
    if "Permission denied" in output:
        return f"{path} cannot be opened by Postfix: see SocketGroup=, SocketMode= in orderflow-service.socket"
    return f"nobody answers at {path}, so all recipients hear 451: {output.splitlines()[0].rpartition(': ')[2]}"


def _reads(file: Path, account: pwd.struct_passwd) -> bool:
    with as_user(account):
        return os.access(file, os.R_OK, effective_ids=True)


def _alias(postconf: Postconf, recipient: str, domain: str, local: str) -> str:
    """Name the table that gives our recipient, or the whole domain, to somebody else, or "" if none does."""
    for table in postconf.tables("virtual_alias_maps"):
        if any(postconf.lookup(key, table)[0] for key in (recipient, f"{local}@{domain}", f"@{domain}")):
            return table.partition("{")[0].rstrip(":") or table
    return ""
