"""A row names objects of its own tenant alone: the key of a mail or a document begins with the row's org_id.

On PostgreSQL `prepare` adds the constraints without reading the tables, which takes a short lock, and then has the rows
of before read, which blocks nobody. Where one of those breaks the rule the constraint stays unvalidated: it binds each
new row, `orderflow-admin reconcile` names the old one, and no program reads what it names. SQLite cannot add a
constraint to a table, so there triggers refuse such a row.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

KEYS = {
    "inbound_message": ("raw_key", "raw"),
    "message_conflict": ("raw_key", "raw"),
    "document": ("object_key", "documents"),
}
IS_VALIDATED = sa.text(
    "SELECT convalidated FROM pg_constraint WHERE conrelid = to_regclass(:table) AND conname = :name"
)


def prepare(connection: sa.Connection) -> None:
    """Add the constraints of a PostgreSQL database that is in use, outside any transaction; safe to repeat."""
    for table, (column, place) in KEYS.items():
        if connection.scalar(sa.text("SELECT to_regclass(:table)"), {"table": table}) is None:
            return
        add(connection, table, column, place)


def add(connection: sa.Connection, table: str, column: str, place: str) -> None:
    """Add a constraint and have the rows of before read."""
    name = f"ck_{table}_{column}"
    named = {"table": table, "name": name}
    if connection.scalar(IS_VALIDATED, named) is None:
        rule = f"starts_with({column}, 'org/' || org_id || '/{place}/') AND strpos({column}, '..') = 0"
        # Mail would wait behind this statement while it waits for a long transaction.
        connection.exec_driver_sql("SET lock_timeout = '5s'")
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID")
        connection.exec_driver_sql("SET lock_timeout = 0")
    if connection.scalar(IS_VALIDATED, named) is False:
        try:
            connection.exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
        except sa.exc.IntegrityError:  # a row of before breaks it; see above
            return


def upgrade() -> None:
    for table, (column, place) in KEYS.items():
        if op.get_bind().dialect.name == "postgresql":
            in_transaction(op.get_bind(), table, column, place)
        else:
            refuse(table, column, place)


def in_transaction(connection: sa.Connection, table: str, column: str, place: str) -> None:
    """Add a constraint that is missing, to tables that this run has made: they are empty, and nobody uses them."""
    if connection.scalar(IS_VALIDATED, {"table": table, "name": f"ck_{table}_{column}"}) is None:
        add(connection, table, column, place)


def refuse(table: str, column: str, place: str) -> None:
    """Make SQLite refuse a row that names another tenant's object."""
    rule = f"NEW.{column} GLOB 'org/' || NEW.org_id || '/{place}/*' AND instr(NEW.{column}, '..') = 0"
    for event, when in (("insert", "INSERT"), ("update", f"UPDATE OF org_id, {column}")):
        op.execute(
            f"CREATE TRIGGER {table}_{column}_{event} BEFORE {when} ON {table} FOR EACH ROW WHEN NOT ({rule}) "
            f"BEGIN SELECT RAISE(ABORT, 'ck_{table}_{column}'); END"
        )
