"""The schema's version: which one the database has, which one this program needs, and the way there.

The steps are Alembic's, in `migrations/`. The same ones build SQLite and PostgreSQL. A step does only
what old code can live with, so that old code runs against the new schema while a deploy is on its way.
0013 is the exception, and says what becomes of mail then.
Each is one transaction, and leaves nothing behind when it fails. What must not lock a big table for as
long as it takes is done before it, on PostgreSQL and outside any transaction, by the step's `prepare`:
it finds what is left of a run that failed, and can be repeated.
Alembic is imported here alone, which no program does on the way of a message.
"""

import time
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

from orderflow_ingest.storage.package_files import package_directory

from .connection import ALL_TENANTS, NO_TENANT, Database, DatabaseUnavailable

_POLL = 0.2
_LOCK = 7_301_882_119  # any number: migrations of one PostgreSQL database wait for each other


def needed_version() -> str | None:
    """Return the version that this program needs."""
    return ScriptDirectory(str(package_directory("migrations"))).get_current_head()


def current_version(database: Database) -> str | None:
    """Return the version that the database has. None before the first step. Raise DatabaseUnavailable."""
    with database.read(NO_TENANT) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _need_utf8(connection: sa.Connection, database: str) -> None:
    """Refuse a database that cannot hold every subject and file name."""
    encoding = connection.scalar(
        sa.text("SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()")
    )
    name = encoding.decode() if isinstance(encoding, bytes) else encoding
    if name != "UTF8":
        raise DatabaseUnavailable(
            f"database {database}: its encoding is {name}; make it by createdb -E UTF8 -T template0"
        )


def _need_server(connection: sa.Connection, database: str) -> None:
    """Refuse a pooler: it would give our locks and settings, which a session has, to others."""
    driver: Any = connection.connection.driver_connection
    if connection.scalar(sa.text("SELECT pg_backend_pid()")) != driver.info.backend_pid:
        raise DatabaseUnavailable(f"database {database}: it is behind a pooler: name the server itself, for init alone")


def rls_bypass_reason(database: Database) -> str:
    """Return why row-level security does not bind the role of this database's URL, or "" if it does.

    SQLite has no roles: whoever reads the file reads all. Raise DatabaseUnavailable.
    """
    if database.is_sqlite:
        return ""
    asked = (
        "SELECT CASE WHEN r.rolsuper THEN 'is a superuser' WHEN r.rolbypassrls THEN 'has BYPASSRLS' "
        "WHEN NOT row_security_active('inbound_message') THEN 'owns the tables' ELSE '' END "
        "FROM pg_roles r WHERE r.rolname = current_user"
    )
    with database.read(NO_TENANT) as connection:
        why = str(connection.exec_driver_sql(asked).scalar_one())
    return why or _seeing_every(database)


def _seeing_every(database: Database) -> str:
    try:
        with database.read(ALL_TENANTS):
            return "is a member of orderflow_operator"
    except DatabaseUnavailable:
        return ""


def is_newer(version: str | None) -> bool:
    """Return whether a version is one that this program does not know, and can run with all the same."""
    known = {step.revision for step in ScriptDirectory(str(package_directory("migrations"))).walk_revisions()}
    return version is not None and version > max(known)


def may_create(database: Database) -> bool:
    """Return whether the role of this database's URL may make our tables, and change those that are there.

    Where tables are there their owner alone may: up to PostgreSQL 14 everybody may make tables in the schema public.
    Raise DatabaseUnavailable.
    """
    if database.is_sqlite:
        return True
    asked = (
        "SELECT coalesce("
        "(SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('organization')), "
        "has_schema_privilege(current_schema(), 'CREATE'), false)"
    )
    with database.read(NO_TENANT) as connection:
        return bool(connection.exec_driver_sql(asked).scalar_one())


def upgrade(database: Database) -> None:
    """Bring the database to the needed version. Safe to repeat. Raise DatabaseUnavailable."""
    try:
        if database.is_sqlite:
            with database.write(NO_TENANT) as connection:
                _run(connection, "head")
        else:
            _upgrade_postgresql(database)
    except (CommandError, RevisionError) as error:
        raise DatabaseUnavailable(
            f"database {database.name}: its schema is newer than this program: install the new one"
        ) from error


def _upgrade_postgresql(database: Database) -> None:
    with database.read(NO_TENANT) as outside:
        _need_server(outside, database.name)
        _take_time(outside)
        _need_utf8(outside, database.name)
        # Asked for again and again: who waits inside a statement holds a snapshot, which a concurrent build waits for.
        while not outside.scalar(sa.text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
            time.sleep(_POLL)
        done = MigrationContext.configure(outside).get_current_revision()
        for step in reversed(
            list(ScriptDirectory(str(package_directory("migrations"))).iterate_revisions("head", done or "base"))
        ):
            if prepare := getattr(step.module, "prepare", None):
                prepare(outside)
            with database.write(NO_TENANT) as connection:
                # A step may take longer than a delivery, but must not make deliveries wait behind its locks.
                _take_time(connection)
                connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
                _run(connection, step.revision)


def _take_time(connection: sa.Connection) -> None:
    """Let a connection take the time it needs. It ends with its block, and so do its locks and its settings."""
    driver: Any = connection.connection.driver_connection
    driver.response_timeout = None
    connection.detach()
    connection.exec_driver_sql("SET statement_timeout = 0; SET lock_timeout = 0")


def _run(connection: sa.Connection, target: str) -> None:
    """Take the steps to a version, in the transaction of a connection."""
    config = Config()
    config.set_main_option("script_location", str(package_directory("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)
