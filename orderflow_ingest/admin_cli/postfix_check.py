"""Whether Postfix's settings agree with ours: each disagreement below loses, bounces or delays mail."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..assembly import Parts
from ..records import RecordsUnavailable
from ..settings import Settings

Said = tuple[str, str]  # name of a level, and the text


def check_postfix(parts: Parts, config: str | None) -> Iterator[Said]:
    """Compare main.cf, master.cf and the recipient map with the settings and the organisations."""
    settings = parts.settings
    postconf = shutil.which("postconf", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if postconf is None:
        yield "WARNING", "postconf is not installed here; on a host without Postfix say --no-postfix"
        return
    try:
        asked = _Postconf(postconf, config)
        findings = [*_main(settings, asked), *_transport(settings, asked), *_map(parts, asked)]
    except subprocess.CalledProcessError as error:
        yield (
            "TROUBLE",
            f"{Path(error.cmd[0]).name} ended with {error.returncode}: is {config or '/etc/postfix'} Postfix's?",
        )
        return
    yield from findings or [("OK", f"settings agree, RCPT TO is answered from the organisation table ({asked.place})")]


class _Postconf:
    """Asks postconf(1)."""

    def __init__(self, program: str, config: str | None):
        self.program = program
        self.place = str(Path(config).resolve()) if config else "/etc/postfix"

    def value(self, name: str) -> str:
        return self._run(self.program, "-xh", name).strip()

    def service(self) -> str | None:
        """Give the master.cf entry of the transport, macros as they stand; None if there is none."""
        return next(
            (line for line in self._run(self.program, "-M").splitlines() if line.startswith("orderflow ")),
            None,
        )

    def lookup(self, key: str, table: str) -> tuple[int, str]:
        """Look a key up as Postfix does; 0 found, 1 not found or failed."""
        postmap = str(Path(self.program).with_name("postmap"))
        ended = subprocess.run([postmap, "-c", self.place, "-q", key, table], capture_output=True, text=True)
        return ended.returncode, ended.stderr.strip()

    def _run(self, program: str, *arguments: str) -> str:
        command = [program, "-c", self.place, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _main(settings: Settings, asked: _Postconf) -> Iterator[Said]:
    size = int(asked.value("message_size_limit"))
    if size == 0 or size > settings.max_message_size:
        yield (
            "TROUBLE",
            _line("message_size_limit", settings.max_message_size, "larger mail is accepted and then bounces"),
        )
    domains = set(re.split(r"[\s,]+", asked.value("virtual_mailbox_domains")))
    for domain in settings.domains:
        if domain not in domains:
            yield "TROUBLE", f"main.cf: virtual_mailbox_domains does not name {domain}: its mail is refused"
    if asked.value("virtual_transport").partition(":")[0] != "orderflow":
        yield "TROUBLE", _line("virtual_transport", "orderflow", "mail goes elsewhere")
    if settings.require_tls and asked.value("smtpd_tls_security_level") != "encrypt":
        yield "TROUBLE", _line("smtpd_tls_security_level", "encrypt", "ORDERFLOW_REQUIRE_TLS is set")
    if asked.value("local_header_rewrite_clients"):
        yield (
            "WARNING",
            _line("local_header_rewrite_clients", "", "Postfix makes up Message-IDs, each another one"),
        )


def _transport(settings: Settings, asked: _Postconf) -> Iterator[Said]:
    if asked.value("orderflow_destination_recipient_limit") != "1":
        yield (
            "TROUBLE",
            _line("orderflow_destination_recipient_limit", 1, "recipients after the first are lost or mixed"),
        )
    limit = _seconds(asked.value("orderflow_time_limit") or asked.value("command_time_limit"))
    if limit < 2 * settings.deadline:
        yield (
            "TROUBLE",
            _line("orderflow_time_limit", f"{10 * settings.deadline:g}s", "at it Postfix bounces mail"),
        )
    service = asked.service()
    if service is None:
        yield "TROUBLE", "master.cf: no service orderflow: add what orderflow-admin postfix master prints"
        return
    if not re.search(r"null_sender=(\s|$)", service):
        yield (
            "TROUBLE",
            "master.cf: orderflow: null_sender= (empty) is missing: bounces come from MAILER-DAEMON",
        )
    if not re.search(r"\s-- \$\{recipient\}\s*$", service):
        yield "TROUBLE", "master.cf: orderflow: argv must end with: -- ${recipient}"
    yield from _user_and_program(settings, service)


def _user_and_program(settings: Settings, service: str) -> Iterator[Said]:
    user, argv = re.search(r"\buser=([^:\s]+)", service), re.search(r"\bargv=(\S+)", service)
    if not user or not argv:
        yield "TROUBLE", "master.cf: orderflow: user= or argv= is missing"
        return
    try:
        account = pwd.getpwnam(user[1])
    except KeyError:
        yield "TROUBLE", f"master.cf: orderflow: there is no user {user[1]}"
        return
    if account.pw_uid == 0:
        yield "TROUBLE", "master.cf: orderflow: pipe(8) refuses user=root"
    if settings.spool_dir.is_dir() and settings.spool_dir.stat().st_uid != account.pw_uid:
        yield (
            "TROUBLE",
            f"{settings.spool_dir} is not {user[1]}'s, who delivers: chown -R {user[1]}: {settings.state_dir}",
        )
    program = Path(argv[1])
    if not program.is_file():
        yield "TROUBLE", f"master.cf: orderflow: {program} is not there"
    elif os.geteuid() == 0 and not _runs_as(account, program):
        yield (
            "TROUBLE",
            f"{program} cannot be run as {user[1]}: open every directory above it, and above its Python, to that user",
        )


def _runs_as(account: pwd.struct_passwd, program: Path) -> bool:
    """Run the program as pipe(8) would: as its user, with next to no environment."""
    try:
        ended = subprocess.run(
            [str(program), "--version"],
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return ended.returncode == 0


def _map(parts: Parts, asked: _Postconf) -> Iterator[Said]:
    """Ask the recipient map itself: one that points elsewhere would refuse or accept everything, unnoticed."""
    table = asked.value("virtual_mailbox_maps").removeprefix("proxy:")
    if not table:
        yield "TROUBLE", "main.cf: virtual_mailbox_maps is empty: every recipient is accepted and bounces later"
        return
    settings = parts.settings
    try:
        known = next((org.slug for org in parts.records.organizations.all() if org.is_active), None)
    except RecordsUnavailable:
        known = None  # the database's own finding tells
    for domain in settings.domains:
        status, said = asked.lookup(f"{settings.local_part}+no-such-org--@{domain}", table)
        if said:
            yield "TROUBLE", f"the recipient map cannot be read: {said.rpartition(': ')[2]}"
            return
        if status == 0:
            yield "TROUBLE", "the recipient map knows an organisation that cannot be"
        if known and asked.lookup(f"{settings.local_part}+{known}@{domain}", table)[0] != 0:
            yield (
                "TROUBLE",
                f"the recipient map does not know {settings.local_part}+{known}@{domain}: its mail is refused",
            )


def _line(name: str, value: object, why: str) -> str:
    return f"main.cf: set {name} = {value} ({why})"


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    found = re.fullmatch(r"(\d+)([smhdw]?)", text)
    return float(found[1]) * units.get(found[2], 1) if found else 0.0
