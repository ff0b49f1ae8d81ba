"""What is more open than it need be: a role that nothing binds, a connection nobody verifies, a file that all read.

None of it keeps mail from being delivered, so most is a warning. A file of passwords that every user can read is
trouble. That the settings file itself is one is found with the settings.
"""

import os
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from orderflow_ingest.app import App
from orderflow_ingest.config import Settings
from orderflow_ingest.storage import postgresql_url
from orderflow_ingest.storage.database import DatabaseUnavailable, schema

from .findings import CheckResult

_FALSE = ("0", "F", "FALSE", "N", "NO")  # as redis-py reads it
_VERIFY = "say ?sslmode=verify-full&sslrootcert=FILE behind it"


def check_openness(app: App) -> Iterator[CheckResult]:
    """Name what is too open."""
    settings = app.settings
    findings = [*_role(app), *_connections(settings), *_passwords(settings), *_stores(settings)]
    yield from findings or [("OK", "nothing is more open than it need be")]


def _role(app: App) -> Iterator[CheckResult]:
    """Look at the role that delivers."""
    try:
        why = schema.rls_bypass_reason(app.records.database)
    except DatabaseUnavailable:
        yield (
            "WARNING",
            "the role of DATABASE_URL could not be looked at: see the finding of the database or the schema",
        )
        return
    if why:
        yield (
            "WARNING",
            f"DATABASE_URL: its role {why}, so row-level security does not keep the tenants apart: "
            "run orderflow-admin roles postgresql, and let a member of orderflow_deliver deliver",
        )
    elif app.settings.map_database_url == app.settings.database_url and not app.records.database.is_sqlite:
        yield (
            "WARNING",
            "MAP_DATABASE_URL is DATABASE_URL: Postfix gets the password of the role that delivers; let its map log in "
            "as a member of orderflow_map",
        )


def _connections(settings: Settings) -> Iterator[CheckResult]:
    reported = set()
    for name, url in (
        ("DATABASE_URL", settings.database_url),
        ("QUEUE_URL", settings.queue_url),
        ("MAP_DATABASE_URL", settings.map_database_url),
    ):
        why = _unverified(url)
        if why and url not in reported:
            yield "WARNING", f"{name} goes to another host {why}"
        reported.add(url)
    endpoint = settings.s3_endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", ""))
    if settings.archive_url.startswith("s3:") and endpoint.startswith("http:") and not _is_here(endpoint):
        yield "WARNING", "S3_ENDPOINT_URL goes to another host in the clear: say https:"


def _unverified(url: str) -> str:
    """Return what a connection to another host lacks, or "" if nothing."""
    if url.startswith("sqlite"):
        return ""
    if postgresql_url.is_postgresql(url):
        return _unverified_postgresql(url)
    options = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    if _is_here(url):
        return ""
    if url.startswith("redis:"):
        return "in the clear: say rediss:"
    is_off = (
        options.get("ssl_cert_reqs", "required") != "required"
        or options.get("ssl_check_hostname", "").upper() in _FALSE
    )
    return "without verifying it: leave out ssl_cert_reqs and ssl_check_hostname" if is_off else ""


def _unverified_postgresql(url: str) -> str:
    try:
        target = postgresql_url.read(url)
    except postgresql_url.PostgresqlUrlError as error:
        return f"by a URL that {error}"
    address = target.parameters.get("hostaddr")
    # With verify-ca any certificate of that authority will do, and the system's sign for everybody.
    is_verified = target.parameters.get("sslmode") == "verify-full"
    is_here = all(_is_local(address or host) for host, _ in target.servers)
    return "" if is_verified or is_here else f"without verifying it: {_VERIFY}"


def _is_here(url: str) -> bool:
    """Return whether a URL stays on this host: loopback or a unix socket."""
    return _is_local(urlsplit(url).hostname or "")


def _is_local(host: str) -> bool:
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _passwords(settings: Settings) -> Iterator[CheckResult]:
    """Look at the files beside the settings file that units read over it, and at who may put one in its place."""
    if settings.file is None:
        return
    directory = settings.file.parent
    for file in sorted(directory.glob("*.env")):
        if file != settings.file and _mode(file) & 0o007:
            yield "TROUBLE", f"{file} can hold passwords and is open to every user: chmod 600 {file}"
    if _mode(settings.file) & 0o022:
        yield "TROUBLE", f"{settings.file} can be written by others than its owner: chmod 640 {settings.file}"
    if _mode(directory) & 0o002 and not _mode(directory) & stat.S_ISVTX:
        yield "TROUBLE", f"any user can put another {settings.file.name} into {directory}: chmod 755 {directory}"


def _stores(settings: Settings) -> Iterator[CheckResult]:
    """Look at the embedded parts: they hold mail."""
    urls = (settings.database_url, settings.queue_url, settings.archive_url)
    paths = [url.partition("://")[2].lstrip("/") for url in urls if url.startswith(("sqlite:", "file:"))]
    for path in (Path("/", path) for path in paths):
        if path.exists() and _mode(path) & 0o007:
            yield "WARNING", f"{path} holds mail and is open to every user: chmod o-rwx {path}"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0  # what we cannot even look at is not open
