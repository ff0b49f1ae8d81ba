"""One database behind a URL: connections, transactions, and its errors in our words.

SQLite runs in WAL mode with full sync, one writer at a time (BEGIN IMMEDIATE, so that two writers
queue up instead of failing in mid-transaction). PostgreSQL is reached by psycopg 3 without prepared
statements, which a transaction pooler such as pgbouncer would lose.

Whoever reads or writes says whose rows he means: one organization's, several's, ALL_TENANTS, or NO_TENANT for what
belongs to none. On PostgreSQL a transaction says so to the server, which shows no other rows to a role that
is bound by row-level security (see migration 0004). The setting ends with its transaction, so that no connection
of the pool keeps it. Transaction and setting begin in one round trip, which also shows whether the connection still
lives: one that the server has ended is replaced by a new one before anything is done in it, and never later. A server
that became read-only is left by the first write that it refuses.

Guarantees: whatever keeps the database from answering is DatabaseUnavailable, by named class. Its text
holds neither a statement nor a parameter, since parameters are message content. Everything else
(DataError, IntegrityError) is a fault of ours and passes through.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import exc

from orderflow_ingest.domain.errors import BackendUnavailable
from orderflow_ingest.storage import postgresql_url
from orderflow_ingest.storage.resilience import error_hints, timeouts
from orderflow_ingest.storage.resilience.circuit_breaker import READ, WRITE, Guard, unguarded
from orderflow_ingest.storage.resilience.pg_connection import connect

_READS = "orderflow_reads"
_ALIVE = "SELECT 1"
_AS_IT_IS = {"no_parameters": True}
# Of a server that is there and answers: a lock that another session has, two sessions that wait for each other (told
# after a second), a session of ours that was paused for longer than it may be.
_ANSWERS = frozenset({"55P03", "40001", "40P01", "25P03"})
_CLOCK_KEPT = 60.0  # seconds
CLOCK_SKEW = timedelta(seconds=60)  # so far clocks of hosts may differ; as in the functions of migration 0012
_WAL_PATIENCE = 5.0  # seconds


class TenantScope(Enum):
    """Whose rows a transaction is about, where it is not about certain organizations'."""

    ALL_TENANTS = "an operator's question about all tenants: refused to a role that is bound to the ones it names"
    NO_TENANT = "rows that belong to no tenant: the organizations themselves, the schema's version"
    ALL_IDS = "ids of all tenants' rows, which functions of the owner's return"


ALL_TENANTS, NO_TENANT, ALL_IDS = TenantScope.ALL_TENANTS, TenantScope.NO_TENANT, TenantScope.ALL_IDS
Orgs = int | Collection[int] | TenantScope


class DatabaseUnavailable(BackendUnavailable):
    """The database is away, slow, refusing, full, or not set up.

    `is_answer`: others are in our way. `is_unreached`: it has not answered anything, whatever the question was about.
    """

    backend = "database"
    is_answer = is_unreached = False


class Database:
    """A pool of connections to one database. An SQLite file must be there unless `create` is set.

    `guard` stands around each use, see `circuit_breaker`. `longest_delay` is the longest that a row can wait.
    """

    def __init__(
        self,
        url: str,
        times: timeouts.Timeouts | None = None,
        guard: Guard = unguarded,
        longest_delay: timedelta | None = None,
        *,
        create: bool = False,
    ):
        self.longest_delay = longest_delay
        self.is_sqlite = url.startswith("sqlite")
        self.name = error_hints.database_name(url)
        self._url = url
        self._guard = guard
        target = _sqlite_url(url, create=create) if self.is_sqlite else postgresql_url.KEPT
        arguments = _arguments(times or timeouts.scaled_to(), is_sqlite=self.is_sqlite)
        self.engine = sa.create_engine(target, hide_parameters=True, **arguments)
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            sa.event.listen(self.engine, "do_connect", partial(_connect_postgresql, url, times or timeouts.scaled_to()))
        self._reader = self.engine.execution_options(**{_READS: True})
        self._clock: tuple[float, datetime] | None = None
        self._alive_within = (times or timeouts.scaled_to()).connect
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error

    @contextmanager
    def read(self, orgs: Orgs) -> Iterator[sa.Connection]:
        """Yield a connection that reads these organizations' rows. Raise DatabaseUnavailable.

        Of PostgreSQL it is in a transaction, except for NO_TENANT and ALL_IDS, which have nothing to say in one.
        """
        first = _ALIVE if orgs in (NO_TENANT, ALL_IDS) else _begin(orgs)
        with (
            self._guard(self._about(orgs), READ),
            _translated(self._url),
            self._used(self._reader, first) as connection,
        ):
            yield connection

    @contextmanager
    def glance(self) -> Iterator[sa.Connection]:
        """Yield a connection for a question that nothing depends on. Raise DatabaseUnavailable, for any error.

        No breaker is opened by it or stops it, and of PostgreSQL it ends after GLANCE seconds.
        """
        first = f"BEGIN; SET LOCAL statement_timeout = {1000 * timeouts.GLANCE:.0f}"
        with _translated(self._url, whatever=True), self._used(self._reader, first) as connection:
            yield connection

    def ask(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Return the rows of one statement that reads what belongs to no tenant. Raise DatabaseUnavailable.

        It is written for the driver, and goes to it in one round trip: a quarter of what read() costs. It has to be
        answered within the time of a connect, or it is sent again by the usual way: that finds out whether the
        connection still lives, and gives a statement that waits for a lock its time.
        """
        with self._guard(None, READ), _translated(self._url), self._reader.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                with nullcontext() if self.is_sqlite else _answered_within(driver, self._alive_within):
                    rows: list[Any] = driver.execute(statement, parameters).fetchall()
            except self._driver_error:
                if not self.is_sqlite:
                    _send_first(connection, _ALIVE, self._alive_within)
                rows = list(connection.exec_driver_sql(statement, tuple(parameters)))
            return rows

    @contextmanager
    def write(self, orgs: Orgs) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction on these organizations' rows that commits at the end.

        Raise DatabaseUnavailable.
        """
        guarded = self._guard(self._about(orgs), WRITE)
        with guarded, _translated(self._url), self._used(self.engine, _begin(orgs)) as connection:
            yield connection

    def now(self) -> datetime:
        """Return the time by PostgreSQL's clock, aware UTC: whose host's clock is wrong must not set times on rows.

        It is asked once a minute. Between, the time goes on by a clock that nobody sets, and that goes on while this
        machine is suspended: else a lease would begin in the past. Raise DatabaseUnavailable.
        """
        if self.is_sqlite:
            return datetime.now(UTC)
        if self._clock is None or _uptime() - self._clock[0] > _CLOCK_KEPT:
            with self.read(NO_TENANT) as connection:
                server_time = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            self._clock = _uptime(), server_time
        asked, server_time = self._clock
        return server_time + timedelta(seconds=_uptime() - asked)

    @contextmanager
    def _used(self, engine: sa.Engine, first: str) -> Iterator[sa.Connection]:
        """Yield a connection whose work is committed at the end. On PostgreSQL this statement has been sent by it."""
        if self.is_sqlite:
            with engine.begin() as connection:
                yield connection
            return
        with ExitStack() as stack:
            with _translated(self._url, is_unreached=True):
                connection = stack.enter_context(engine.connect())
                _send_first(connection, first, self._alive_within)
            yield connection
            connection.commit()

    def _about(self, orgs: Orgs) -> Collection[int] | None:
        """Return whom a use is about, for the breaker: an SQLite file is there for all tenants or for none."""
        if self.is_sqlite or orgs is NO_TENANT:
            return None
        if isinstance(orgs, TenantScope):
            return ()
        return (orgs,) if isinstance(orgs, int) else orgs

    def is_odd(self, table: sa.Table, now: datetime) -> sa.ColumnElement[bool] | None:
        """Return the condition for rows whose due time was written by a clock that was wrong: they are due.

        They are due later than the longest possible delay, and were written later than now. The first alone says
        nothing: another host may have longer delays in its settings. None where the longest delay is not known.
        """
        if self.longest_delay is None:
            return None
        return (table.c.next_attempt_at > now + self.longest_delay) & (table.c.updated_at > now + CLOCK_SKEW)

    def due(self, name: str, table: sa.Table, rows: str, now: datetime, limit: int) -> list[tuple[int, UUID]]:
        """List (org_id, id) of these rows that are due, of all tenants: the longest due first.

        No role but the owner's and the operator's may read all tenants' rows. On PostgreSQL a function returns
        ids alone.
        What is_odd() is due now, and comes first.
        """
        is_odd = self.is_odd(table, now)
        at, rows_due = table.c.next_attempt_at, sa.select(table.c.org_id, table.c.id).where(sa.text(rows))
        statements: list[sa.Select[Any]]
        if self.is_sqlite:
            wanted = [at <= now] if is_odd is None else [is_odd, at <= now]
            statements = [rows_due.where(one).order_by(at).limit(limit) for one in wanted]
        elif self.longest_delay is None:
            statements = [_of_function(f"orderflow_due_{name}", now, limit)]
        else:
            statements = [_of_function(f"orderflow_{name}_to_sweep", now, now + self.longest_delay, limit)]
        with self.read(ALL_IDS) as connection:
            found = [row for statement in statements for row in connection.execute(statement)]
        return [(row.org_id, row.id) for row in found[:limit]]

    def in_hand(self, name: str, table: sa.Table, rows: str, host: str) -> list[tuple[int, UUID, str]]:
        """List (org_id, id, worker) of these rows that a worker has in hand whose mark begins so, of all tenants."""
        if self.is_sqlite:
            begins = sa.func.substr(table.c.worker, 1, len(host)) == host
            statement: Any = sa.select(table.c.org_id, table.c.id, table.c.worker).where(sa.text(rows), begins)
        else:
            statement = _of_function(f"orderflow_{name}_in_hand", host, more=(sa.column("worker"),))
        with self.read(ALL_IDS) as connection:
            return [(row.org_id, row.id, row.worker) for row in connection.execute(statement)]

    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT that can skip or change a row that exists already (`on_conflict_do_…`)."""
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _uptime() -> float:
    """Return the seconds since this machine was started, with those that it was suspended for."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _of_function(function: str, *arguments: Any, more: tuple[sa.ColumnClause[Any], ...] = ()) -> sa.Select[Any]:
    columns = (sa.column("org_id"), sa.column("id", sa.Uuid), *more)
    found = getattr(sa.func, function)(*arguments).table_valued(*columns)
    return sa.select(*(found.c[column.name] for column in columns))


def _sqlite_url(url: str, *, create: bool) -> sa.URL:
    path = quote(url.removeprefix("sqlite:///"))
    return sa.URL.create("sqlite", database=f"file:{path}", query={"mode": "rwc" if create else "rw", "uri": "true"})


def _arguments(times: timeouts.Timeouts, *, is_sqlite: bool) -> dict[str, Any]:
    stay = timeouts.CONNECTIONS // 3
    pool: dict[str, Any] = {"pool_size": stay, "max_overflow": timeouts.CONNECTIONS - stay}
    pool |= {"pool_use_lifo": True, "pool_timeout": times.connect}
    if is_sqlite:
        return {"connect_args": {"timeout": times.statement}, **pool}
    # The driver begins no transaction by itself: _begin() does. It commits and rolls back what there is.
    return {"isolation_level": "AUTOCOMMIT", **pool}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    # SQLite's own knows the letters of ASCII alone.
    connection.create_function("lower", 1, lambda text: text and str(text).lower(), deterministic=True)
    until = time.monotonic() + _WAL_PATIENCE
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        while True:
            try:
                connection.execute(f"PRAGMA {pragma}")
                break
            except connection.OperationalError:
                # Who makes a new file a WAL database locks it, and SQLite waits for him in no timeout of ours.
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)


def _connect_postgresql(url: str, times: timeouts.Timeouts, *_: Any) -> Any:
    # The server's own limit for a statement comes first, where it lives.
    return connect(url, timeouts.postgresql(times.connect, times.statement), times.statement + times.connect)


def _begin_sqlite(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get(_READS):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(orgs: Orgs) -> str:
    """Write what begins a transaction and names its organizations, in one round trip. They are numbers, hence safe."""
    if orgs is ALL_TENANTS:
        return "BEGIN; SELECT orderflow_every()"
    if isinstance(orgs, TenantScope):
        return "BEGIN"
    ids = {orgs} if isinstance(orgs, int) else set(orgs)
    return f"BEGIN; SET LOCAL orderflow.orgs = '{','.join(f'{id:d}' for id in sorted(ids))}'"


def _send_first(connection: sa.Connection, first: str, within: float) -> None:
    """Send the first statement of a use, by a new connection, if the one of the pool turns out to be dead.

    It waits for no lock, so a server that does not answer it within the time of a connect hangs: another host may have
    taken its place. Nothing has been done in it yet, so that nothing is done twice. SQLAlchemy then gives up all
    connections of the pool that are as old, so that the second one is new: if that fails too the server is away.
    """
    try:
        _send(connection, first, within)
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        connection.rollback()
        _send(connection, first, within)


def _send(connection: sa.Connection, statement: str, within: float) -> None:
    with _answered_within(connection.connection.driver_connection, within):
        connection.exec_driver_sql(statement, execution_options=_AS_IT_IS)


@contextmanager
def _answered_within(driver: Any, within: float) -> Iterator[None]:
    """Have a connection to PostgreSQL answered within so many seconds. A refusal leaves it in the pool, as it was."""
    usual, driver.response_timeout = driver.response_timeout, within
    try:
        yield
    finally:
        driver.response_timeout = usual


def whose(org_id: int | None) -> Orgs:
    """Return whose rows a question is about that may be about all tenants."""
    return ALL_TENANTS if org_id is None else org_id


@contextmanager
def _translated(url: str, *, whatever: bool = False, is_unreached: bool = False) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        # What the driver does not do is a fault of ours; what the server does not is one of the server's.
        is_ours = isinstance(error, exc.DataError | exc.IntegrityError) or (
            isinstance(error, exc.NotSupportedError) and not state
        )
        if is_ours and not whatever:
            raise
        unavailable = DatabaseUnavailable(
            f"database {error_hints.explain_database_error(error.orig, 'DATABASE_URL', url)}"
        )
        unavailable.is_answer, unavailable.is_unreached = state in _ANSWERS, is_unreached
        raise unavailable from error
    except exc.TimeoutError as error:
        why = "no connection of the pool became free"
        raise DatabaseUnavailable(f"database {error_hints.database_name(url)}: {why}") from error
