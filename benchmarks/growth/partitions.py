"""The tenant tables as partitions by hash of org_id: the same columns, keys, indexes and triggers, by the same names.

What makes it possible is in `orderflow_ingest.storage.database.tables`: every primary and unique key of a tenant table
begins with org_id, which PostgreSQL demands of a partitioned table, and so does every foreign key. Functions, row-level
security and the recipients' view come by the very step that makes them everywhere; a role has no rights on a partition
by its own name. docs/explanation/growth.md says what is won by partitions and what is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from orderflow_ingest.storage.database import schema
from orderflow_ingest.storage.database.tables import (
    document,
    held_mail,
    inbound_message,
    message_event,
    metadata,
    skipped_part,
)
from orderflow_ingest.storage.package_files import package_directory

TENANT_TABLES = (inbound_message, document, skipped_part, held_mail, message_event)


def build(engine: sa.Engine, parts: int) -> None:
    """Make the schema in an empty PostgreSQL database, its tenant tables in so many partitions each."""
    made = sa.MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.sorted_tables:
        copy = table.to_metadata(made)
        if table in TENANT_TABLES:
            copy.dialect_options["postgresql"]["partition_by"] = "HASH (org_id)"
    with engine.begin() as connection:
        made.create_all(connection)
        for table in TENANT_TABLES:
            for part in range(parts):
                connection.exec_driver_sql(
                    f"CREATE TABLE {table.name}_{part} PARTITION OF {table.name} "
                    f"FOR VALUES WITH (MODULUS {parts}, REMAINDER {part})"
                )
        connection.exec_driver_sql(
            "CREATE FUNCTION orderflow_touch() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$"
        )
        for table in (t for t in metadata.sorted_tables if "updated_at" in t.c):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table.name}_touch BEFORE UPDATE ON {table.name} "
                "FOR EACH ROW EXECUTE FUNCTION orderflow_touch()"
            )
        # The steps before 0013 name the table as it was called then, and 0013 renames it.
        connection.exec_driver_sql("ALTER TABLE held_mail RENAME TO message_conflict")
        take(connection, "0004")
        with Operations.context(MigrationContext.configure(connection)):
            step("0006").secure()
        take(connection, "0007")
        with Operations.context(MigrationContext.configure(connection)):
            step("0010").add_functions()
        take(connection, "0012")
        take(connection, "0013")
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) CONSTRAINT alembic_version_pkc PRIMARY KEY)"
        )
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{schema.needed_version()}')")


@contextmanager
def names_before_0013(connection: sa.Connection) -> Iterator[None]:
    """Give held_mail and its indexes the names that the steps before 0013 know."""
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'held_mail' AND indexname LIKE 'ix_held_mail%%'"
    names = {name: name.replace("held_mail", "message_conflict") for (name,) in connection.exec_driver_sql(indexes)}
    for name, former in names.items():
        connection.exec_driver_sql(f"ALTER INDEX {name} RENAME TO {former}")
    connection.exec_driver_sql("ALTER TABLE held_mail RENAME TO message_conflict")
    yield
    connection.exec_driver_sql("ALTER TABLE message_conflict RENAME TO held_mail")
    for name, former in names.items():
        connection.exec_driver_sql(f"ALTER INDEX {former} RENAME TO {name}")


def take(connection: sa.Connection, revision: str) -> None:
    """Take one step of the migrations, whatever the database's version is."""
    with Operations.context(MigrationContext.configure(connection)):
        step(revision).upgrade()


def step(revision: str) -> ModuleType:
    """Return one step of the migrations."""
    return ScriptDirectory(str(package_directory("migrations"))).get_revision(revision).module
