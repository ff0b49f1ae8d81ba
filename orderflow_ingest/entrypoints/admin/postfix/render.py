"""Postfix's configuration for given settings: the commented fragments of `postfix/`, filled in.

The fragments are the one source, and `parameters` says what their values must be for each other. What is printed
is what the tests run behind a real Postfix. There are three ways from Postfix to a delivery. Each has its fragments,
and main.cf has a part that all share:

    pipe           a program for each message, which asks the warm service or delivers by itself
    lmtp           Postfix's LMTP client, straight to the service
    before-queue   smtpd asks the service before it answers; LMTP for what comes in by other doors

RCPT TO is answered by the service, which asks the database where it must and knows what no answer means, or by
Postfix's own map of the database, for a host that runs the way pipe without a service.

For before-queue the service needs an address to give other mail back to, ORDERFLOW_RELAY.

Postfix logs what stands in `hosts` of a PostgreSQL map when it cannot connect. Only there, as a URL, can the map say
how libpq verifies a server. So the password stands in a file of its own, which libpq reads by itself. libpq has no such
file for its other secrets, sslpassword say: a URL with one of them gets no map.
"""

import re
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

import orderflow_ingest
from orderflow_ingest.config import SYSTEM_FILE, Settings, SettingsError
from orderflow_ingest.domain.addresses import POSTMASTERS
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.health_client import MAP_SOCKET
from orderflow_ingest.storage import postgresql_url
from orderflow_ingest.storage.database import recipients_path
from orderflow_ingest.storage.package_files import package_directory
from orderflow_ingest.storage.postgresql_url import Target

from .parameters import values as related

BY_SERVICE, BY_DATABASE = MAPS = ("service", "database")
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
_BY_SERVICE = "The service answers; it knows the organizations while the database is away."
_MAP_MEANINGS = {
    (BY_SERVICE, False): _BY_SERVICE,
    (BY_SERVICE, True): _BY_SERVICE,
    (BY_DATABASE, False): "Postfix asks PostgreSQL itself: while it is away, and for a minute after, all is 451.",
    (BY_DATABASE, True): "Postfix reads recipients.db itself: where that file is gone, it does not even greet.",
}
_LMTP_ROLES = {
    PIPE: "",
    LMTP: "Postfix hands each message to the service over a socket.",
    BEFORE_QUEUE: "what did not come by smtpd goes to the service over a socket.",
}


def render(
    part: str,
    settings: Settings,
    way: str,
    user: str,
    program: str | None,
    passfile: str = PASSFILE,
    map_by: str = BY_SERVICE,
) -> str:
    """Return the text of `main`, `master`, `map` or `passfile`, which lies at that path. Raise SettingsError."""
    target = _target(settings)
    if part == "passfile":
        return _passfile(target)
    if way == BEFORE_QUEUE and not re.fullmatch(r"[^/]+:\d+", settings.relay or ""):
        raise SettingsError("ORDERFLOW_RELAY must be host:port for the way before-queue, 127.0.0.1:10026 say")
    _check_paths(settings)
    map_type = "sqlite" if recipients_path(settings.database_url) else "pgsql"
    values = related(settings) | {
        "WAY": way,
        "DOMAINS": ", ".join(settings.addresses.spellings),
        "DELIMITERS": settings.recipient_delimiter,
        "BEFORE_SLUG": len(settings.local_part) + 1,
        "PREFIXES": ", ".join(f"'{settings.local_part}{one}'" for one in settings.recipient_delimiter),
        "MAP": map_name(settings) if map_by == BY_SERVICE else f"{map_type}:$config_directory/orderflow_recipients.cf",
        "MAP_MEANING": _MAP_MEANINGS[map_by, map_type == "sqlite"],
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
        "HOSTS": _hosts(target, passfile) if part == "map" else "",
        "DATABASE": target.parameters.get("dbname", "orderflow"),
    }
    files = _FILES.get((part, way), (f"orderflow_recipients.{map_type}.cf",))
    text = "".join((package_directory("postfix") / file).read_text() for file in files)
    return re.sub(r"@([A-Z_]+)@", lambda found: str(values[found[1]]), text)


def map_name(settings: Settings) -> str:
    """Return the recipient map that the service answers, by socketmap_table(5)."""
    return f"socketmap:unix:{settings.socket_dir / MAP_SOCKET}:recipients"


def verdicts() -> str:
    """Return a regular expression of the lines for which mail may bounce: the verdicts on a message."""
    lines = (o.line.decode("ascii").strip() for o in Outcome if not (o.is_accepted or o.is_temporary))
    return "|".join(line.replace(".", r"\.") for line in lines)


def command() -> str:
    """Return what pipe(8) starts: this program's Python, and the program as an argument."""
    packages = Path(orderflow_ingest.__file__).resolve().parents[1]
    code = f"import sys; sys.path.insert(0, '{packages}'); from orderflow_ingest.entrypoints.pipe import main; main()"
    return f"{sys.executable} -I -S -c {{ {code} }}"


def _check_paths(settings: Settings) -> None:
    """Raise SettingsError for a path that Postfix would read as something else: it divides at blanks and expands $."""
    for name, path in (("ORDERFLOW_SOCKET_DIR", settings.socket_dir), ("--settings", settings.file or "")):
        if re.search(r"[\s,${}]", str(path)):
            raise SettingsError(f"{name}: {path} cannot stand in Postfix's files: no blank, comma, $, {{ or }}")


def _postmasters(settings: Settings) -> str:
    names = [f"{name}@{domain}" for domain in settings.addresses.spellings for name in POSTMASTERS]
    return "".join(f"    {{ {name} = root@localhost }}\n" for name in names)


def _target(settings: Settings) -> Target:
    """Return the servers and parameters of the recipient map. Raise SettingsError."""
    if not postgresql_url.is_postgresql(settings.map_database_url):
        return Target((), {})
    try:
        return postgresql_url.read(settings.map_database_url)
    except postgresql_url.PostgresqlUrlError as error:
        raise SettingsError(f"MAP_DATABASE_URL {error}") from None


def _hosts(target: Target, passfile: str) -> str:
    """Return Postfix's `hosts`: a URL for each server, as libpq reads it, without the password.

    A process of Postfix does not ask an entry for a minute that it found away, but the next one at once. A standby may
    answer: the map only reads. Raise SettingsError.
    """
    if others := sorted(target.secrets - {"password"}):
        raise SettingsError(
            f"MAP_DATABASE_URL has {', '.join(others)}, and Postfix logs it: a map takes no secret but the password; "
            "give sslkey a key without a passphrase that Postfix's user alone can read"
        )
    hidden = {"password", "target_session_attrs", "load_balance_hosts"}
    options = {name: value for name, value in target.parameters.items() if name not in hidden}
    options = {"connect_timeout": "10", **options}
    if "password" in target.parameters:
        options["passfile"] = passfile
    user, name = options.pop("user", ""), options.pop("dbname", "")
    login, query = f"{quote(user, '')}@" if user else "", urlencode(options, quote_via=quote, safe="")
    urls = (f"postgresql://{login}{_server(host, port)}/{quote(name, '')}?{query}" for host, port in target.servers)
    return " ".join(dict.fromkeys(urls))


def _server(host: str, port: str) -> str:
    """Return a server as it stands in a URL. The directory of a socket is quoted, and begins with a slash."""
    return (f"[{quote(host, ':')}]" if ":" in host else quote(host, "")) + (f":{port}" if port else "")


def _passfile(target: Target) -> str:
    """Return the line of a passfile, which libpq reads if nobody but its owner may."""
    password = target.parameters.get("password")
    if not password:
        return ""
    fields = ["*", "*", target.parameters.get("dbname", "*"), target.parameters.get("user", "*"), password]
    return ":".join(field.replace("\\", "\\\\").replace(":", "\\:") for field in fields) + "\n"
