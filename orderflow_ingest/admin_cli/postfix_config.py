"""Postfix's configuration for given settings: the commented fragments of `postfix/`, filled in.

The fragments are the one source; what is printed is what the tests run behind a real Postfix. There are three
ways from Postfix to a delivery; each has its fragments, and main.cf has a part that all share:

    pipe           a program for each message, which asks the warm service or delivers by itself
    lmtp           Postfix's LMTP client, straight to the service
    before-queue   smtpd asks the service before it answers; LMTP for what comes in by other doors

For before-queue the service needs an address to give other mail back to, ORDERFLOW_RELAY.
"""

import re
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url

from ..outcomes import Outcome
from ..records import recipients_path
from ..settings import SYSTEM_FILE, BadSettings, Settings

PIPE, LMTP, BEFORE_QUEUE = WAYS = ("pipe", "lmtp", "before-queue")
TIME_LIMIT_FACTOR = 10
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


def render(part: str, settings: Settings, way: str, user: str, program: str | None) -> str:
    """Give the text of `main`, `master` or `map`. Raises BadSettings."""
    if way == BEFORE_QUEUE and not re.fullmatch(r"[^/]+:\d+", settings.relay or ""):
        raise BadSettings("ORDERFLOW_RELAY must be host:port for the way before-queue, 127.0.0.1:10026 say")
    map_type = "sqlite" if recipients_path(settings.database_url) else "pgsql"
    values = {
        "WAY": way,
        "DOMAINS": ", ".join(settings.domains),
        "LOCAL_PART": settings.local_part,
        "MAP_TYPE": map_type,
        "POSTMASTERS": _postmasters(settings),
        "CONCURRENCY": settings.concurrency,
        "ORG_CONCURRENCY": (settings.concurrency + 1) // 2,
        "DEADLINE": f"{settings.deadline:g}",
        "TIME_LIMIT": time_limit(settings),
        "PROXY_TIMEOUT": max(100, int(2 * settings.deadline)),
        "VERDICTS": verdicts(),
        "LMTP_ROLE": _LMTP_ROLES[way],
        "SOCKET_DIR": settings.socket_dir,
        "RELAY": settings.relay,
        "MESSAGE_SIZE": settings.max_message_size,
        "TLS_LEVEL": "encrypt" if settings.require_tls else "may",
        "USER": user,
        "COMMAND": program or command(),
        "SETTINGS": f"--settings {settings.file} " if settings.file and str(settings.file) != SYSTEM_FILE else "",
        "RECIPIENTS": recipients_path(settings.database_url),
        **_database(settings.map_database_url),
    }
    files = _FILES.get((part, way), (f"orderflow_recipients.{map_type}.cf",))
    text = "".join((_fragments() / file).read_text() for file in files)
    return re.sub(r"@([A-Z_]+)@", lambda found: str(values[found[1]]), text)


def time_limit(settings: Settings) -> int:
    """Give Postfix's time limit in seconds, which stands far above our deadline."""
    return max(600, int(TIME_LIMIT_FACTOR * settings.deadline))


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
    names = [f"{name}@{domain}" for domain in settings.domains for name in ("postmaster", "abuse")]
    return "".join(f"    {{ {name} = root@localhost }}\n" for name in names)


def _database(url: str) -> dict[str, Any]:
    parts = make_url(url)
    host = parts.host or parts.query.get("host") or "localhost"
    return {
        # Only a URL can tell Postfix's libpq more than host and port: to verify the server's certificate, say.
        "HOSTS": _libpq(parts) if set(parts.query) - {"host"} else f"{host}:{parts.port}" if parts.port else host,
        "DATABASE_USER": parts.username or "",
        "DATABASE_PASSWORD": parts.password or "",
        "DATABASE": parts.database or "",
    }


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _fragments() -> Path:
    """Find the fragments: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "postfix"
    return installed if installed.is_dir() else package.parent / "postfix"
