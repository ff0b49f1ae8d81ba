"""What the checks of Postfix's ways share: each tries a thing as the user that will need it.

Run by root, since root itself would find everything in order. Run by another user, what needs root is left out.
"""

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.cli.run_as import ENVIRONMENT, as_user

from .findings import CheckResult
from .postconf import Postconf, Service


def line(name: str, value: object, why: str, place: str = "main.cf") -> str:
    """Return the line to set, and why."""
    return f"{place}: set {name} = {value} ({why})"


def runs_as(account: pwd.struct_passwd, command: list[str]) -> bool:
    """Run a command as pipe(8) would: as its user, with next to no environment."""
    try:
        ended = subprocess.run(
            command,
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
        )
    except OSError:
        return False
    return ended.returncode == 0


def status_filter(postconf: Postconf, service: Service, name: str, form: str, fault: str) -> Iterator[CheckResult]:
    """Ask the filter itself what it makes of our verdicts, and of a fault."""
    place, table = f"master.cf: {service.name}", postconf.value(name, service)
    if not table:
        yield "TROUBLE", line(f"-o {name}", "$orderflow_status_filter", "a fault of ours bounces mail", place)
        return
    if not (postconf.lookup(f"5.3.0 {fault}", table)[0] or "").startswith("4."):
        yield "TROUBLE", f"main.cf: orderflow_status_filter: a fault of ours bounces mail: {_PRINT_AGAIN}"
    for outcome in Outcome:
        verdict = outcome.line.decode().strip()
        if outcome.is_accepted or outcome.is_temporary:
            continue
        # pipe(8) leaves the line's end as a blank
        text = f"{verdict} " if form == "{}" else f"{outcome.dsn_code} {form.format(verdict)}"
        if (postconf.lookup(text, table)[0] or verdict) != verdict:
            yield "TROUBLE", f"main.cf: orderflow_status_filter does not know {verdict!r}: {_PRINT_AGAIN}"


_PRINT_AGAIN = "print orderflow-admin postfix main again"


def reaches(account: pwd.struct_passwd, path: Path, greeting: bytes) -> Iterator[CheckResult]:
    """Open a socket as a user. Where nobody listens, the finding of the service says so."""
    if os.geteuid():
        return
    try:
        with as_user(account), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            greeting_seen = client.recv(100)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except PermissionError:
        yield (
            "TROUBLE",
            f"{path} cannot be opened by {account.pw_name}: see SocketGroup=, SocketMode= in orderflow-service.socket",
        )
    except OSError as error:
        yield "TROUBLE", f"{path} does not greet {account.pw_name}: {os_reason(error)}"
    else:
        if not greeting_seen or not greeting_seen.startswith(greeting):
            yield "TROUBLE", f"{path}: the service sends {account.pw_name} away: look at ORDERFLOW_MAIL_USER, user="
