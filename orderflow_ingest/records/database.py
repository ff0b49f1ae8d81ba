"""One database behind a URL: connections, transactions, and its errors in our words.

SQLite runs in WAL mode with full sync, one writer at a time (BEGIN IMMEDIATE, so that two writers
queue up instead of failing in mid-transaction). PostgreSQL is reached by psycopg 3 without prepared
statements, which a transaction pooler such as pgbouncer would lose.

Guarantees: whatever keeps the database from answering is RecordsUnavailable, by named class; its text
holds neither a statement nor a parameter, since parameters are message content. Everything else
(DataError, IntegrityError) is a fault of ours and passes through.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc

from .. import limits
from ..breaker import Guard

_READS = "orderflow_reads"


class RecordsUnavailable(Exception):
    """The database is away, slow, refusing, full, or not set up."""


class Database:
    """A pool of connections to one database; an SQLite file must be there unless `create` is set.

    `guard` stands around each use, see `breaker`.
    """

    def __init__(
        self,
        url: str,
        create: bool = False,
        times: limits.Times | None = None,
        guard: Guard = nullcontext,
    ):
        self.is_sqlite = url.startswith("sqlite")
        self._guard = guard
        target = _sqlite_url(url, create) if self.is_sqlite else url
        arguments = _arguments(self.is_sqlite, times or limits.within())
        self.engine = sa.create_engine(target, hide_parameters=True, **arguments)
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        option = {_READS: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = self.engine.execution_options(**option)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection outside any transaction. Raises RecordsUnavailable."""
        with self._guard(), _translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that commits at the end. Raises RecordsUnavailable."""
        with self._guard(), _translated(), self.engine.begin() as connection:
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """Give an INSERT that can skip a row that is there already (`on_conflict_do_nothing`)."""
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _sqlite_url(url: str, create: bool) -> sa.URL:
    path = quote(url.removeprefix("sqlite:///"))
    return sa.URL.create("sqlite", database=f"file:{path}", query={"mode": "rwc" if create else "rw", "uri": "true"})


def _arguments(is_sqlite: bool, times: limits.Times) -> dict[str, Any]:
    stay = limits.CONNECTIONS // 3
    pool: dict[str, Any] = {"pool_size": stay, "max_overflow": limits.CONNECTIONS - stay}
    pool |= {"pool_use_lifo": True, "pool_timeout": times.connect}
    if is_sqlite:
        return {"connect_args": {"timeout": times.statement}, **pool}
    return {"connect_args": limits.postgresql(times.connect, times.statement), "pool_pre_ping": True, **pool}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get(_READS):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.DataError, exc.IntegrityError, exc.NotSupportedError):
        raise
    except exc.DBAPIError as error:
        raise RecordsUnavailable(f"database: {_cause(error.orig)}") from error
    except exc.TimeoutError as error:
        raise RecordsUnavailable("database: no connection of the pool became free") from error


def _cause(error: BaseException | None) -> str:
    """Name an error: its class, and its SQLSTATE or SQLite code where it has one."""
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__
