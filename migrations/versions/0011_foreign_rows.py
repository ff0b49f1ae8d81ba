"""Rows of before 0009 that name another tenant's object are not worked on any more.

On PostgreSQL the constraint of 0009 refuses each change of such a row, so that no attempt at it could begin or end:
the sweep enqueued it each minute, and it counted as overdue for ever, until all mail was deferred. It is FAILED now, as
on SQLite after its last attempt. No program reads what it names, and `orderflow-admin reconcile` names the row.

Where all rows keep the rule, the constraint is validated, and nothing is done. Else it is taken off for the time of an
UPDATE that goes by the index of unfinished rows.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

# Of each table its unfinished rows, as in the index, and the columns that end them.
ENDED = {
    "inbound_message": ("raw_key", "raw", "status IN ('RECEIVED', 'STORED')", "status"),
    "document": ("object_key", "documents", "handover IN ('PENDING')", "handover"),
}
WHY = {
    "error": "ForeignObject",
    "detail": "the row names an object that is not its organization's",
    "where": "migration 0011",
    "attempt": 0,
}
IS_UNVALIDATED = sa.text(
    "SELECT true FROM pg_constraint WHERE conrelid = to_regclass(:table) AND conname = :name AND NOT convalidated"
)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    for table, (column, place, unfinished, ends) in ENDED.items():
        name = f"ck_{table}_{column}"
        if connection.scalar(IS_UNVALIDATED, {"table": table, "name": name}) is None:
            continue
        rule = f"starts_with({column}, 'org/' || org_id || '/{place}/') AND strpos({column}, '..') = 0"
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        connection.execute(
            sa.text(
                f"UPDATE {table} SET {ends} = 'FAILED', worker = NULL, error_json = CAST(:why AS json)"
                f" WHERE {unfinished} AND NOT ({rule})"
            ),
            {"why": json.dumps(WHY)},
        )
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID")
