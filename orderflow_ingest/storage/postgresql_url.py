"""A PostgreSQL URL in libpq's own form, with one host or several: what is refused, and who reads the rest.

libpq alone reads it: rows, queue, migrations and checks hand it the same text, and Postfix's map is written from what
libpq has read. So a form that means one thing to libpq and another to who knows other libraries is refused, with the
reason. So is what libpq would quote in an error, since a URL holds a password. No text of ours holds a part of a URL.

    postgresql://user:password@host1:5432,host2:5433/name?target_session_attrs=read-write
    postgresql://user:password@/name?host=host1,host2&port=5432,5433
    postgresql://user@%2Frun%2Fpostgresql/name

Settings are read by every program that Postfix starts, so `checked` imports no driver. All others do when called.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

from orderflow_ingest.domain.errors import OrderflowError

LIBPQ = "postgresql://"
KEPT = "postgresql+psycopg://"  # as settings keep it; it names SQLAlchemy's driver too
_SCHEMES = (KEPT, LIBPQ, "postgres://")
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^@/?#\[\]:,\s]*)"
_PARAMETER = r"[A-Za-z_]+=[^#&=\s]*"
# What libpq quotes in its errors, password and all: a % that begins no %xx, an @ or / in the password as it is, half a
# bracket, a parameter without its value.
_FORM = re.compile(
    r"(?=.)(?!.*%(?![0-9A-Fa-f]{2}))(?!.*%00)(?:[^@/?#\[\]\s]*@)?"
    rf"(?P<hosts>{_HOST}(?::\d*)?(?:,{_HOST}(?::\d*)?)*)(?:/[^?#\s]*)?(?:\?(?P<asked>(?:{_PARAMETER}(?:&{_PARAMETER})*)?))?"
)
_SEVERAL = "host=a,b&port=5432,5433"
# libpq marks its other secrets as such, by PQconninfoOption.dispchar "*"; these it marks as made for debugging.
_MARKED, _UNMARKED_SECRETS = b"*", ("scram_client_key", "scram_server_key")
_LEAST_TIMEOUT = 2  # seconds for one host, libpq's least


class PostgresqlUrlError(OrderflowError, ValueError):
    """A URL that is refused. Its text, if any, says why, goes behind the setting's name, and holds no value."""


@dataclass(frozen=True)
class Target:
    """What libpq has read: (host, port) in the order in which they are tried, and its other parameters.

    A host may be the directory of a unix socket. "" is libpq's default, of a port too. Of the parameters those are
    missing that were not named: `user`, `password`, `dbname`, `sslmode` and so on. `secrets` names those of them whose
    values nobody may see.
    """

    servers: tuple[tuple[str, str], ...]
    parameters: dict[str, str]
    secrets: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Return hosts, ports and database, for people."""
        hosts = self.parameters.get("hostaddr")
        named = [(hosts, port) for _, port in self.servers] if hosts else self.servers
        places = ",".join(f"{host or 'localhost'}{port and ':'}{port}" for host, port in named)
        return f"{places}/{self.parameters.get('dbname', '')}"


def is_postgresql(url: str) -> bool:
    """Return whether a URL names PostgreSQL."""
    return url.startswith(_SCHEMES)


def checked(url: str) -> str:
    """Return a URL as settings keep it. Raise PostgresqlUrlError."""
    rest = url.partition("://")[2]
    found = _FORM.fullmatch(rest)
    if not is_postgresql(url) or not found:
        raise PostgresqlUrlError
    asked = [part.partition("=")[::2] for part in (found["asked"] or "").split("&") if part]
    parameters = {name: unquote(value) for name, value in asked}
    if len(parameters) < len(asked):
        raise PostgresqlUrlError(f"has a parameter twice; several hosts are {_SEVERAL}")
    parts = [re.fullmatch(rf"({_HOST}):?(\d*)", part) for part in found["hosts"].split(",")]
    hosts = parameters.get("host") or unquote(",".join(part[1] for part in parts if part))
    ports = parameters.get("port") or ",".join(part[2] for part in parts if part)
    _check_hosts(hosts.split(","), ports.split(","), parameters.get("hostaddr", ""))
    return KEPT + rest


def _check_hosts(hosts: list[str], ports: list[str], address: str) -> None:
    if "," in address:
        raise PostgresqlUrlError(f"has several hostaddr: name several hosts as {_SEVERAL}")
    if len(hosts) > 1 and not all(hosts):
        raise PostgresqlUrlError("has an empty name among its hosts")
    if any(":" in host and not host.startswith(("/", "@", "[")) and not _is_address(host) for host in hosts):
        raise PostgresqlUrlError(f"has a port within host=: several hosts with ports are {_SEVERAL}")
    if any(ports) and not all(ports):
        raise PostgresqlUrlError("has a port for some of its hosts: name it for each, a:5432,b:5432, or for none")
    if len(ports) not in (1, len(hosts)):
        raise PostgresqlUrlError("has another number of ports than of hosts")
    if not all(not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
        raise PostgresqlUrlError


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def libpq(url: str) -> str:
    """Return a URL as libpq takes it."""
    return LIBPQ + url.partition("://")[2]


def read(url: str) -> Target:
    """Return what libpq reads in a URL. Raise PostgresqlUrlError."""
    import psycopg
    from psycopg.pq import Conninfo

    try:
        options = [one for one in Conninfo.parse(libpq(url).encode()) if one.val is not None]
    except psycopg.Error:
        raise PostgresqlUrlError(
            "is none that libpq reads: look at its parameters"
        ) from None  # its text quotes what it read
    found = {one.keyword.decode(): (one.val or b"").decode() for one in options}
    marked = {one.keyword.decode() for one in options if one.dispchar == _MARKED}
    hosts = found.pop("host", "").split(",")
    ports = found.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    return Target(
        tuple(zip(hosts, ports, strict=True)), found, frozenset(marked.union(_UNMARKED_SECRETS).intersection(found))
    )


def with_url(parameters: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the parameters of a connection that go before those of a URL, made to fit it.

    Sessions get the URL's own options too, and hosts that are several get less time each. What is wrong with a URL
    comes out when it is connected.
    """
    fitted = dict(parameters)
    try:
        target = read(url)
    except PostgresqlUrlError:
        return fitted
    if options := target.parameters.get("options"):
        fitted["options"] = f"{options} {parameters['options']}"  # the last one counts
    if len(target.servers) > 1:
        fitted["connect_timeout"] = _LEAST_TIMEOUT
    return fitted
