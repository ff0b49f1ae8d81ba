"""Postfix's configuration for given settings: the commented fragments of `postfix/`, filled in.

The fragments are the one source, and `postfix_relations` says what their values must be for each other; what is
printed is what the tests run behind a real Postfix. There are three
ways from Postfix to a delivery; each has its fragments, and main.cf has a part that all share:

    pipe           a program for each message, which asks the warm service or delivers by itself
    lmtp           Postfix's LMTP client, straight to the service
    before-queue   smtpd asks the service before it answers; LMTP for what comes in by other doors

For before-queue the service needs an address to give other mail back to, ORDERFLOW_RELAY.

Postfix logs what stands in `hosts` of a PostgreSQL map when it cannot connect, and libpq is told how to verify a server
only there, as a URL: so the password stands in a file of its own, which libpq reads by itself.
"""

import re
import sys
from pathlib import Path

from sqlalchemy import URL, make_url

from ..envelope import POSTMASTERS
from ..outcomes import Outcome
from ..records import recipients_path
from ..settings import SYSTEM_FILE, BadSettings, Settings
from .postfix_relations import values as related

PIPE, LMTP, BEFORE_QUEUE = WAYS = ("pipe", "lmtp", "before-queue")
PASSFILE = "/var/lib/postfix/orderflow_recipients.pgpass"
_FILES = {
    ("main", PIPE): ("main.cf", "main.pipe.cf"),
    ("main", LMTP): ("main.cf", "main.lmtp.cf"),
    ("main", BEFORE_QUEUE): ("main.cf", "main.lmtp.cf", "main.before-queue.cf"),
    ("master", PIPE): ("master.pipe.cf",),
    ("master", LMTP): ("master.lmtp.cf",),
    ("master", BEFORE_QUEUE): ("master.lmtp.cf", "master.before-queue.cf"),
}
_LMTP_ROLES = {
    PIPE: "",
    LMTP: "Postfix hands each message to the service over a socket.",
    BEFORE_QUEUE: "what did not come by smtpd goes to the service over a socket.",
}


def render(part: str, settings: Settings, way: str, user: str, program: str | None, passfile: str = PASSFILE) -> str:
    """Give the text of `main`, `master`, `map` or `passfile`, which lies at that path. Raises BadSettings."""
    database = make_url(settings.map_database_url)
    if part == "passfile":
        return _passfile(database)
    if way == BEFORE_QUEUE and not re.fullmatch(r"[^/]+:\d+", settings.relay or ""):
        raise BadSettings("ORDERFLOW_RELAY must be host:port for the way before-queue, 127.0.0.1:10026 say")
    map_type = "sqlite" if recipients_path(settings.database_url) else "pgsql"
    values = related(settings) | {
        "WAY": way,
        "DOMAINS": ", ".join(settings.domains),
        "LOCAL_PART": settings.local_part,
        "MAP_TYPE": map_type,
        "POSTMASTERS": _postmasters(settings),
        "DEADLINE": f"{settings.deadline:g}",
        "VERDICTS": verdicts(),
        "LMTP_ROLE": _LMTP_ROLES[way],
        "SOCKET_DIR": settings.socket_dir,
        "RELAY": settings.relay,
        "TLS_LEVEL": "encrypt" if settings.require_tls else "may",
        "USER": user,
        "COMMAND": program or command(),
        "SETTINGS": f"--settings {settings.file} " if settings.file and str(settings.file) != SYSTEM_FILE else "",
        "RECIPIENTS": recipients_path(settings.database_url),
        "HOSTS": _libpq(database, passfile),
        "DATABASE": database.database or "orderflow",
    }
    files = _FILES.get((part, way), (f"orderflow_recipients.{map_type}.cf",))
    text = "".join((_fragments() / file).read_text() for file in files)
    return re.sub(r"@([A-Z_]+)@", lambda found: str(values[found[1]]), text)


def verdicts() -> str:
    """Give a regular expression of the lines for which mail may bounce: the verdicts on a message."""
    lines = (o.line.decode("ascii").strip() for o in Outcome if not (o.is_accepted or o.is_temporary))
    return "|".join(line.replace(".", r"\.") for line in lines)


def command() -> str:
    """Give what pipe(8) starts: this program's Python, and the program as an argument."""
    packages = Path(__file__).resolve().parents[2]
    code = f"import sys; sys.path.insert(0, '{packages}'); from orderflow_ingest.deliver_cli import main; main()"
    return f"{sys.executable} -I -S -c {{ {code} }}"


def _postmasters(settings: Settings) -> str:
    names = [f"{name}@{domain}" for domain in settings.domains for name in POSTMASTERS]
    return "".join(f"    {{ {name} = root@localhost }}\n" for name in names)


def _libpq(url: URL, passfile: str) -> str:
    """Give a URL as libpq reads it in `hosts`, a list by commas: without the password."""
    secret = {"passfile": passfile} if url.password else {}
    asked = {"connect_timeout": "10", **url.query, **secret}
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database, asked)
    place, _, query = bare.render_as_string().partition("?")
    return f"{place}?{query.replace('+', '%20')}".replace(",", "%2C")


def _passfile(url: URL) -> str:
    """Give the line of a passfile, which libpq reads if nobody but its owner may."""
    if not url.password:
        return ""
    fields = ["*", "*", url.database or "*", url.username or "*", str(url.password)]
    return ":".join(field.replace("\\", "\\\\").replace(":", "\\:") for field in fields) + "\n"


def _fragments() -> Path:
    """Find the fragments: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "postfix"
    return installed if installed.is_dir() else package.parent / "postfix"
