"""Whether the database answers, keeps what it acknowledges, and has our tables, our rights and connections to spare.

`error_hints` explains errors. `storage.database.server_info` reads what PostgreSQL reports about itself.
"""

import re
from collections.abc import Iterator

from orderflow_ingest.app import App
from orderflow_ingest.observability import presence
from orderflow_ingest.storage import postgresql_url
from orderflow_ingest.storage.database import DatabaseUnavailable, schema, server_info
from orderflow_ingest.storage.resilience.timeouts import CONNECTIONS, scaled_to, session_limits

from .findings import CheckResult, compare_clocks
from .service import count_services

_SERVICE = CONNECTIONS + 1  # rows and queue
_WORKER = 4  # a worker process works on one task at a time
_FEW = 5
_WRITING = ("read-write", "primary")
# Of synchronous_standby_names: FIRST 2 (a, "b"), ANY 1 (a, b), 1 (a) or a, b.
_STANDBYS = re.compile(r"\s*(?:(?:(?:FIRST|ANY)\s+)?(?P<wanted>\d+)\s*\((?P<several>.*)\))\s*", re.I | re.S)
_NAME = re.compile(r'"((?:[^"]|"")+)"|([^\s,"()]+)')


def check_database(app: App) -> Iterator[CheckResult]:
    """Ask the database for an organization, and PostgreSQL for what it is set to."""
    name = app.records.database.engine.dialect.name
    server, findings = None, list[CheckResult]()
    try:
        if not app.records.database.is_sqlite:
            server = server_info.ask(app.records.database)
            findings = [*_holds(server), *_is_ours(server), *_bounds(app, server), *_connections(app, server)]
            findings += [*_hosts("DATABASE_URL", app.settings.database_url)]
            findings += [*_hosts("QUEUE_URL", app.settings.queue_url)]
            findings += compare_clocks("the database server's", server.clock.timestamp(), server.asked_at)
        if server is None or (server.sees_tables and not server.missing_rights):
            app.records.organizations.find("probe")
    except DatabaseUnavailable as error:
        yield "TROUBLE", str(error)
        return
    share = _share(app, server) if server is not None else ""
    yield from findings or [("OK", f"{name} answers, {app.records.database.name}{share}")]


def check_schema(app: App) -> Iterator[CheckResult]:
    """Compare the schema's version with the one that this program needs."""
    try:
        current = schema.current_version(app.records.database)
    except DatabaseUnavailable as error:
        yield "TROUBLE", f"its version cannot be read: {error}"
        return
    needed = schema.needed_version()
    if schema.is_newer(current):
        yield "OK", f"version {current} is newer than this program: install the new one here too"
    elif current is None:
        yield "TROUBLE", "there are no tables: run orderflow-admin init, as the owner of the database"
    elif current != needed:
        yield (
            "TROUBLE",
            f"version {current}, needed is {needed}: run orderflow-admin init, as the owner of the tables, then "
            "orderflow-admin roles postgresql again where programs have roles",
        )
    else:
        yield "OK", f"version {current}"


def _holds(server: server_info.Server) -> Iterator[CheckResult]:
    """Look whether the server keeps every text, and every row that it has acknowledged."""
    if server.encoding != "UTF8":
        made = "createdb -E UTF8 -T template0"
        yield "TROUBLE", f"its encoding is {server.encoding}, which cannot hold every subject: make it again by {made}"
    if not server.knows_letters:
        yield (
            "WARNING",
            "its locale knows the letters of ASCII alone, so that Ä and ä are two to who looks for mail: "
            "make it again by createdb -E UTF8 -l C.UTF-8 -T template0",
        )
    if server.is_read_only:
        yield "TROUBLE", "it is a standby, or read-only: name the primary in DATABASE_URL"
    for name in ("fsync", "full_page_writes"):
        if getattr(server, name) == "off":
            yield (
                "WARNING",
                f"postgresql.conf: set {name} = on (a crash of its machine loses orders that were acknowledged)",
            )
    if server.synchronous_commit == "off":
        yield (
            "WARNING",
            f"ALTER ROLE {server.role} SET synchronous_commit = on (a crash of the server loses the last orders)",
        )
    yield from _standbys(server)


def _standbys(server: server_info.Server) -> Iterator[CheckResult]:
    """Look whether the standbys that a commit is to wait for are there, and whether ours wait for them."""
    listed = server.synchronous_standby_names
    if not listed.strip():
        return
    if server.synchronous_commit in ("off", "local"):
        yield (
            "WARNING",
            f"synchronous_standby_names is set, and synchronous_commit = {server.synchronous_commit} for {server.role}"
            ": what was acknowledged last is lost at a failover; set it to on",
        )
        return
    wanted, names = _read_standbys(listed)
    there = sum("*" in names or name.lower() in names for name in server.standbys)
    if there < wanted:
        yield (
            "TROUBLE",
            f"each commit waits for {wanted} of synchronous_standby_names = {listed}, and {there} of them follow: mail "
            "is deferred; start the standby, or take it out of the list and pg_reload_conf()",
        )


def _read_standbys(listed: str) -> tuple[int, set[str]]:
    """Return how many standbys a commit waits for, and the names of those that count, in lower case."""
    found = _STANDBYS.fullmatch(listed)
    names = found["several"] if found and found["several"] is not None else listed
    read = {quoted.replace('""', '"') if quoted else plain for quoted, plain in _NAME.findall(names)}
    return int(found["wanted"] or 1) if found else 1, {name.lower() for name in read}


def _is_ours(server: server_info.Server) -> Iterator[CheckResult]:
    """Look whether the role finds our tables, and may do what a delivery does."""
    if not server.sees_tables and server.schemas:
        first = server.schemas.partition(",")[0]
        yield (
            "TROUBLE",
            f"the tables are in the schema {server.schemas}, where the role {server.role} does not look: "
            f"ALTER ROLE {server.role} SET search_path = {first}",
        )
    elif not server.sees_tables:
        yield "TROUBLE", f"the database {server.database} has no tables of ours: run orderflow-admin init as its owner"
    elif "," in server.schemas:
        yield "WARNING", f"several schemas have our tables: {server.schemas}; drop those that are left over"
    if server.sees_tables and server.missing_rights:
        yield (
            "TROUBLE",
            f"the role {server.role} lacks {', '.join(server.missing_rights)}: run orderflow-admin roles postgresql, "
            f"and GRANT orderflow_deliver TO {server.role}",
        )


def _hosts(name: str, url: str) -> Iterator[CheckResult]:
    """Look whether several hosts may send us to a standby: libpq takes the first that answers."""
    target = postgresql_url.read(url) if postgresql_url.is_postgresql(url) else None
    if target and len(target.servers) > 1 and target.parameters.get("target_session_attrs") not in _WRITING:
        yield (
            "WARNING",
            f"{name} names several hosts, and may go to a standby: say target_session_attrs=read-write behind its ?",
        )


def _bounds(app: App, server: server_info.Server) -> Iterator[CheckResult]:
    """Look whether our sessions end in time what waits: a pooler drops what programs ask for at each connection."""
    missing = [
        f"ALTER ROLE {server.role} IN DATABASE {server.database} SET {name} = '{value}';"
        for name, value in session_limits(scaled_to(app.settings.deadline).statement).items()
        if not _is_held(value, server.bounds[name])
    ]
    if missing:
        yield (
            "WARNING",
            f"{' '.join(missing)} (a pooler does not pass on what programs ask for; or run orderflow-admin roles "
            "postgresql again, and RECONNECT in the pooler's console)",
        )


def _is_held(wanted: int | str, found: str) -> bool:
    if isinstance(wanted, str):
        return found in (wanted, f"Etc/{wanted}")
    return 0 < int(found) <= wanted


def _share(app: App, server: server_info.Server) -> str:
    given = server.max_connections - server.reserved
    taken = f"this host's programs can take {_taken_here(app)[2]} of its {given} connections"
    return f"; {taken}, those of other hosts come on top"


def _taken_here(app: App) -> tuple[int, int, int]:
    """Return the instances of the service and the workers of this host, and what its programs take at the most."""
    instances, workers = max(1, count_services()), len(presence.workers(app.settings.workers_dir))
    return instances, workers, instances * _SERVICE + workers * _WORKER + _FEW


def _connections(app: App, server: server_info.Server) -> Iterator[CheckResult]:
    """Compare what this host's programs can take with what the server gives. Other hosts cannot be asked."""
    instances, workers, need = _taken_here(app)
    given = server.max_connections - server.reserved
    if given - server.taken < _FEW:
        yield (
            "TROUBLE",
            f"{server.taken} of its {given} connections are taken: raise max_connections in postgresql.conf",
        )
    if given < need:
        yield (
            "WARNING",
            f"postgresql.conf: set max_connections = {need + server.reserved} or more (the programs of this host alone "
            f"can take {need}: {_SERVICE} for each of {instances} services, {_WORKER} for each of {workers} workers)",
        )
    for limit, command in (
        (server.role_limit, f"ALTER ROLE {server.role} CONNECTION LIMIT"),
        (server.database_limit, f"ALTER DATABASE {server.database} CONNECTION LIMIT"),
    ):
        if 0 <= limit < need:
            yield "WARNING", f"{command} -1 (it is {limit}, and the programs of this host alone can take {need})"
