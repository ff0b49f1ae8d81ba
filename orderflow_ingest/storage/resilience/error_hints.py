"""What an error of PostgreSQL, SQLite, Redis or TLS means for the operator, and what to change.

A server's error has an SQLSTATE. A failure to connect has none: libpq, Python's ssl and the AWS SDK report it in a
text, which may hold names and addresses. So the text is searched for known reasons, and no part of it is passed on.
SQLite has one code for several errors, so its texts are searched too. SQLite does not say why a file cannot be opened:
for that one error the file itself is looked at.

Each explanation begins with the name of the database, see `database_name`, since the settings may name another one than
was meant. No driver is imported here. libpq, ssl and the SDK verify certificates. Nothing in this package switches it
off.
"""

import os
import re
from urllib.parse import unquote, urlsplit

from orderflow_ingest.storage import postgresql_url

_INIT = "run orderflow-admin init"
_POOLER_STARTS = (
    "it is a pooler that refuses what programs ask for at the start: in pgbouncer.ini, "
    "ignore_startup_parameters = extra_float_digits,options"
)
_POOLER = "it is a pooler such as pgbouncer, without this user or database: see its auth_file and [databases]"
_CODES = {
    "42501": "the role of {url} has no right to do this; see orderflow-admin roles",
    "55P03": "another session has the row or the table locked; it is tried again, or run this again",
    "42P01": (
        f"a table is missing: {_INIT} as the owner of the database, or set the role's search_path to the schema of the "
        "tables"
    ),
    "42703": f"a column is missing, the schema is of another version: {_INIT}",
    "42883": f"a function is missing, there are no tables or those of another version: {_INIT}",
    "3F000": "no schema of the role's search_path is there for it: GRANT USAGE, or ALTER ROLE … SET search_path",
    "25006": "the server is a standby, or read-only: name the primary in {url}",
    "0A000": "the server does not do what is asked of it: another version, or an extension such as Citus",
    "25P03": "the server ended the session, which was idle in a transaction for too long: was this program paused?",
    "40001": "another session changed the same rows; it is tried again, or run this again",
    "40P01": "another session waited for the same rows; it is tried again, or run this again",
    "53100": "the server's disk is full",
    "53200": "the server has no memory left",
    "53300": "the server has no connection left: raise max_connections in postgresql.conf",
    "57014": "the server took longer than a statement may: is it overloaded, or a table locked?",
    "57P01": "the server is ending",
    "57P02": "the server crashed, and is starting again",
    "57P03": "the server is starting or ending",
    "58P01": "the server's files are damaged",
    "SQLITE_CANTOPEN": "the file cannot be opened: run this as the user that delivers",
    "SQLITE_READONLY": "the file or its directory is not this user's: chown it to the user that delivers",
    "SQLITE_READONLY_DIRECTORY": "its directory is not this user's: chown it to the user that delivers",
    "SQLITE_READONLY_DBMOVED": "the file was replaced while it was in use: restart the service and the worker",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_NOTADB": "the file is no SQLite database: look at {url}",
    "SQLITE_CORRUPT": "the file is damaged: restore it from a backup",
    "SQLITE_BUSY": "another program holds it locked",
}
_NOT_THERE = f"there is no such file: {_INIT}, as the user that delivers"
_TEXTS = (
    # Of several hosts each has its own reason; that one is there and takes no writes is the one to name.
    (r"session is read-only|in hot standby mode", "none of the hosts in {url} is a primary now"),
    (r"invalid (uri query parameter|connection option)", "{url} has a parameter that libpq does not know"),
    (r"password authentication failed", "the server refuses the password in {url}"),
    (r"no password supplied", "{url} lacks the password: postgresql://USER:PASSWORD@HOST/NAME"),
    (r"role \S+ does not exist", "the server has no such role: createuser, or look at {url}"),
    (r"database \S+ does not exist", "the server has no such database: createdb -E UTF8, or look at {url}"),
    (r"permission denied for database", "the role may not connect to this database; see orderflow-admin roles"),
    (r"is not permitted to log in", "the role is a group: ALTER ROLE … LOGIN, or name a member of it in {url}"),
    (r"peer authentication failed", "only the user of the same name may use this socket: name host and password"),
    (r"no pg_hba.conf entry.*(no encryption|ssl off)", "the server wants TLS: say ?sslmode=verify-full behind {url}"),
    (r"no pg_hba.conf entry", "pg_hba.conf of the server has no line for this host, role and database"),
    (r"unsupported startup parameter", _POOLER_STARTS),
    (r"no such (user|database)\b.*|pgbouncer", _POOLER),
    (r"too many (clients|connections)|remaining connection slots", _CODES["53300"]),
    (r"starting up|shutting down|in recovery mode|not (yet )?accepting connections", _CODES["57P03"]),
    (r"could not translate host name|name or service not known", "its host name is not known: look at {url}"),
    (r"connection refused", "no PostgreSQL listens there: look at host and port of {url}, and at listen_addresses"),
    (r"no such file or directory", "no PostgreSQL listens at that socket: look at {url}"),
    (
        r"timeout expired|timed out|no route to host|network is unreachable",
        "nobody answers there: a firewall, or another host in {url}?",
    ),
    (r"does not support ssl", "it does not offer TLS"),
    (r"no such table", _CODES["42P01"].partition(", or")[0]),
    (r"no such column|has no column", _CODES["42703"]),
)  # fmt: skip


_REDIS_TEXTS = (
    (r"connection refused", "no Redis listens there: look at host and port of {url}"),
    (r"name or service not known|temporary failure in name", "its host name is not known: look at {url}"),
    (r"timeout|timed out|no route to host", "nobody answers there: a firewall, or another host in {url}?"),
    (r"invalid username-password|wrongpass|invalid password", "it refuses the password in {url}"),
    (r"noauth|authentication required", "it wants a password: redis://:PASSWORD@HOST:PORT/0"),
    (r"called without any password configured", "it has no password: take it out of {url}"),
    (r"noperm|no permissions", "its user may not do this: give it the keys huey.* in its ACL"),
    (r"oom command not allowed", "it is full: raise maxmemory, and set maxmemory-policy noeviction"),
    (r"read only replica", "it is a replica: name the primary in {url}"),
    (r"misconf", "it cannot save to its disk, and refuses to write: see its log"),
    (r"db index is out of range", "{url} names a database number that it has not"),
    (r"loading", "it is starting"),
)
# The first match counts: OpenSSL reports a wrong host name as a failed verification as well.
_TLS_TEXTS = (
    (
        r"does not match host name|hostname mismatch|ip address mismatch|hostname .* doesn't match",
        "its certificate is for another host name",
    ),
    ("certificate has expired", "its certificate has expired"),
    ("root certificate file|could not read root cert", "the file of sslrootcert cannot be read"),
    (
        "could not open certificate file|private key file",
        "the file of sslcert or sslkey, by default below ~/.postgresql, cannot be used",
    ),
    (r"ca certificate bundle|ssl validation failed.*no such file", "the file of AWS_CA_BUNDLE cannot be read"),
    ("certificate.verify.failed", "its certificate is not signed by an authority that we trust"),
    ("server does not support ssl", "it does not offer TLS"),
)


def database_name(url: str) -> str:
    """Return which database a URL names, for people: an SQLite file, or host, port and name, never a password."""
    if url.startswith("sqlite"):
        return url.removeprefix("sqlite:///")
    if postgresql_url.is_postgresql(url):
        try:
            return postgresql_url.read(url).name
        except postgresql_url.PostgresqlUrlError:
            return "a URL that libpq does not read"
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname or 'localhost'}{port}/{unquote(parts.path.strip('/'))}"


def explain_database_error(error: BaseException | None, setting: str, url: str) -> str:
    """Name the database and the error, and say what to change in the setting that names the database."""
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    name = type(error).__name__
    meaning = _meaning(error, code).format(url=setting)
    if code == "SQLITE_CANTOPEN" and _is_missing(database_name(url)):
        meaning = _NOT_THERE
    if meaning:
        return f"{database_name(url)}: {code or name}: {meaning}"
    return f"{database_name(url)}: {name} {code}" if code else f"{database_name(url)}: {name}{explain_tls_error(error)}"


def explain_tls_error(error: BaseException | None) -> str:
    """Return why TLS failed, as `: REASON` to follow the name of the error, or "" for any other error."""
    text = str(error).lower()
    return next((f": {ours}" for theirs, ours in _TLS_TEXTS if re.search(theirs, text, re.DOTALL)), "")


def _is_missing(file: str) -> bool:
    try:
        os.stat(file)
    except FileNotFoundError:
        return True
    except OSError:  # a directory that is closed to this user
        return False
    return False


def _meaning(error: BaseException | None, code: str | None) -> str:
    if code in _CODES:
        return _CODES[code]
    if explain_tls_error(error) and not code:
        return ""
    text, texts = str(error).lower(), _REDIS_TEXTS if type(error).__module__.startswith("redis") else _TEXTS
    return next((ours for theirs, ours in texts if re.search(theirs, text)), "")
