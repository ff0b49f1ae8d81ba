"""Postfix's configuration for given settings: the commented fragments of `postfix/`, filled in.

The fragments are the one source; what is printed is what the tests run behind a real Postfix.
"""

import re
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from ..records import recipients_path
from ..settings import SYSTEM_FILE, Settings

CONCURRENCY, ORG_CONCURRENCY = 20, 10
TIME_LIMIT_FACTOR = 10


def render(part: str, settings: Settings, user: str, program: str | None) -> str:
    """Give the text of `main`, `master` or `map`."""
    map_type = "sqlite" if recipients_path(settings.database_url) else "pgsql"
    file = {"main": "main.cf", "master": "master.cf", "map": f"orderflow_recipients.{map_type}.cf"}[part]
    values = {
        "DOMAINS": ", ".join(settings.domains),
        "LOCAL_PART": settings.local_part,
        "MAP_TYPE": map_type,
        "POSTMASTERS": _postmasters(settings),
        "CONCURRENCY": CONCURRENCY,
        "ORG_CONCURRENCY": ORG_CONCURRENCY,
        "DEADLINE": f"{settings.deadline:g}",
        "TIME_LIMIT": time_limit(settings),
        "MESSAGE_SIZE": settings.max_message_size,
        "TLS_LEVEL": "encrypt" if settings.require_tls else "may",
        "USER": user,
        "PROGRAM": program or Path(sys.argv[0]).resolve().with_name("orderflow-deliver"),
        "SETTINGS": f"--settings {settings.file} " if settings.file and str(settings.file) != SYSTEM_FILE else "",
        "RECIPIENTS": recipients_path(settings.database_url),
        **_database(settings.database_url),
    }
    return re.sub(r"@([A-Z_]+)@", lambda found: str(values[found[1]]), (_fragments() / file).read_text())


def time_limit(settings: Settings) -> int:
    """Give Postfix's time limit in seconds: at it Postfix bounces, so it stands far above our deadline."""
    return max(600, int(TIME_LIMIT_FACTOR * settings.deadline))


def _postmasters(settings: Settings) -> str:
    names = [f"{name}@{domain}" for domain in settings.domains for name in ("postmaster", "abuse")]
    return "".join(f"    {{ {name} = root@localhost }}\n" for name in names)


def _database(url: str) -> dict[str, Any]:
    parts = make_url(url)
    host = parts.host or parts.query.get("host") or "localhost"
    return {
        "HOSTS": f"{host}:{parts.port}" if parts.port else host,
        "DATABASE_USER": parts.username or "",
        "DATABASE_PASSWORD": parts.password or "",
        "DATABASE": parts.database or "",
    }


def _fragments() -> Path:
    """Find the fragments: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "postfix"
    return installed if installed.is_dir() else package.parent / "postfix"
