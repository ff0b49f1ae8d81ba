"""What operators need: a message's events, runs of the operator's programs, words to find mail by, what was erased.

Mail may be held for another reason than a clash of identities, so that what it clashes with may be nothing. On
PostgreSQL `prepare` builds the indexes of words without blocking writes; SQLite has none, and is read.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

moment = sa.DateTime(timezone=True)
json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

WORDS = {
    "inbound_message": "from_email || ' ' || envelope_sender || ' ' || subject",
    "document": "coalesce(filename, '')",
}
IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


GRANTS = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'orderflow_worker') THEN
        GRANT SELECT, INSERT ON message_event TO orderflow_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'orderflow_deliver') THEN
        GRANT SELECT (settings) ON organization TO orderflow_deliver;
    END IF;
END $$
"""


def prepare(connection: sa.Connection) -> None:
    """Build the indexes of a PostgreSQL database that is in use, outside any transaction."""
    for table in WORDS:
        name = f"ix_{table}_words"
        is_valid = connection.scalar(IS_VALID, {"name": name})
        if is_valid is False:  # left by a build that was broken off
            connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
        if not is_valid:  # asked first: of a partitioned table the statement is refused, whatever is there
            connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {name} ON {words(table)}")


def words(table: str) -> str:
    """Say what an index of words is on: runs of letters and digits, whatever stands between them."""
    text = f"regexp_replace({WORDS[table]}, '[\\W_]+', ' ', 'g')"
    return f"{table} USING gin (to_tsvector('simple'::regconfig, {text}))"


def upgrade() -> None:
    op.create_table(
        "message_event",
        sa.Column("org_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("inbound_message_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid()),
        sa.Column("at", moment, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid()),
        sa.Column("details", json, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_message_event"),
    )
    op.create_index("ix_message_event_org_id_inbound_message_id", "message_event", ["org_id", "inbound_message_id"])
    of_runs = sa.text("run_id IS NOT NULL")
    op.create_index(
        "ix_message_event_run",
        "message_event",
        ["run_id", "inbound_message_id"],
        postgresql_where=of_runs,
        sqlite_where=of_runs,
    )
    op.create_table(
        "operator_run",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("chosen", json, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("position", json),
        sa.Column("selected", sa.BigInteger()),
        sa.Column("done", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("passed_over", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("failed", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_operator_run"),
    )
    op.create_index("ix_operator_run_started_at", "operator_run", ["started_at"])
    for table in ("inbound_message", "document"):
        op.add_column(table, sa.Column("erased_at", moment))
    if op.get_bind().dialect.name == "sqlite":
        rebuild_conflicts()
    else:
        op.add_column("message_conflict", sa.Column("erased_at", moment))
        op.add_column("message_conflict", sa.Column("reason", sa.String(10), nullable=False, server_default="IDENTITY"))
        op.alter_column("message_conflict", "inbound_message_id", nullable=True)
        for table in WORDS:
            op.execute(f"CREATE INDEX IF NOT EXISTS ix_{table}_words ON {words(table)}")
    alone = sa.text("inbound_message_id IS NULL")
    op.create_index(
        "uq_message_conflict_alone",
        "message_conflict",
        ["org_id", "fingerprint"],
        unique=True,
        postgresql_where=alone,
        sqlite_where=alone,
    )
    secure()


def secure() -> None:
    """Keep the tenants' events apart, as migration 0004 does with all that is theirs."""
    if op.get_bind().dialect.name == "postgresql":
        named = "org_id = ANY ((SELECT orderflow_orgs())::bigint[])"
        op.execute(f"CREATE POLICY tenant ON message_event USING ({named}) WITH CHECK ({named})")
        op.execute("ALTER TABLE message_event ENABLE ROW LEVEL SECURITY")
        # A worker of this version that starts before the roles' script has run again writes events already.
        op.execute(GRANTS)


def rebuild_conflicts() -> None:
    """Replace SQLite's table: it has no other way to let a column be empty. Nothing refers to the table."""
    kept = (
        "org_id, id, inbound_message_id, envelope_sender, envelope_recipient, queue_id, client_address, from_email, "
        "subject, raw_key, digest, fingerprint, received_at, resolution, created_at, updated_at"
    )
    texts = ("envelope_sender", "envelope_recipient", "queue_id", "client_address", "from_email", "subject", "raw_key")
    op.execute("DROP INDEX ix_message_conflict_open")
    op.execute("ALTER TABLE message_conflict RENAME TO message_conflict_before")
    op.create_table(
        "message_conflict",
        sa.Column("org_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("inbound_message_id", sa.Uuid()),
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("received_at", moment, nullable=False),
        sa.Column("erased_at", moment),
        sa.Column("resolution", sa.Text()),
        sa.Column("reason", sa.String(10), nullable=False, server_default="IDENTITY"),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("updated_at", moment, nullable=False, server_default=sa.func.current_timestamp()),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_message_conflict"),
        sa.ForeignKeyConstraint(
            ["org_id", "inbound_message_id"],
            ["inbound_message.org_id", "inbound_message.id"],
            name="fk_message_conflict_inbound_message",
        ),
        sa.UniqueConstraint(
            "org_id",
            "inbound_message_id",
            "fingerprint",
            name="uq_message_conflict_org_id_inbound_message_id_fingerprint",
        ),
    )
    op.execute(f"INSERT INTO message_conflict ({kept}) SELECT {kept} FROM message_conflict_before")
    op.execute("DROP TABLE message_conflict_before")
    op.execute(
        "CREATE INDEX ix_message_conflict_open ON message_conflict (org_id, received_at) WHERE resolution IS NULL"
    )
    op.execute(
        "CREATE TRIGGER message_conflict_touch AFTER UPDATE ON message_conflict FOR EACH ROW "
        "WHEN NEW.updated_at = OLD.updated_at BEGIN UPDATE message_conflict "
        "SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE org_id = NEW.org_id AND id = NEW.id; END"
    )
