"""No query grows with history: partial indexes of what has failed or is held, one of all messages by time.

On PostgreSQL `prepare` builds them without blocking writes; the step itself then finds them there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INDEXES = {
    "ix_inbound_message_received_at": "inbound_message (received_at DESC NULLS LAST)",
    "ix_inbound_message_failed": "inbound_message (org_id, received_at) WHERE status IN ('FAILED')",
    "ix_document_failed": "document (org_id) WHERE handover IN ('FAILED')",
    "ix_message_conflict_open": "message_conflict (org_id, received_at) WHERE resolution IS NULL",
}
# Written with every message and of no use beside the others: nearly all messages are of one status.
DROPPED = "ix_inbound_message_org_id_status"
IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def prepare(connection: sa.Connection) -> None:
    """Build and drop the indexes of a PostgreSQL database that is in use, outside any transaction."""
    for name, rows in INDEXES.items():
        is_valid = connection.scalar(IS_VALID, {"name": name})
        if is_valid is False:  # left by a build that was broken off
            connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
        if not is_valid:  # asked first: of a partitioned table the statement is refused, whatever is there
            connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {name} ON {rows}")
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {DROPPED}")


def upgrade() -> None:
    for name, rows in INDEXES.items():
        if op.get_bind().dialect.name == "sqlite":
            rows = rows.replace(" DESC NULLS LAST", "")  # refused there, and nobody's need
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {rows}")
    op.execute(f"DROP INDEX IF EXISTS {DROPPED}")
