"""message_conflict is named held_mail, which is what its rows are; so are its constraints, indexes and triggers.

On PostgreSQL nothing is written but names: rows, grants, policies and row-level security belong to the table, whatever
it is named. A constraint of 0009 that is not validated stays so. orderflow_census, which names the table, is replaced,
and says HELD instead of CONFLICT. SQLite cannot rename a constraint, so there the table is made again with its rows.

This is the one step that a program of the version before cannot live with: what it asks of message_conflict fails as a
database that is away does. Mail that came before stays in its spool, or in Postfix's queue, until it is restarted.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

RENAME = """
DO $$
DECLARE
    former text;
BEGIN
    ALTER TABLE message_conflict RENAME TO held_mail;
    FOR former IN
        SELECT conname FROM pg_catalog.pg_constraint
        WHERE conrelid = 'held_mail'::regclass AND conname LIKE '%message_conflict%'
    LOOP
        EXECUTE format(
            'ALTER TABLE held_mail RENAME CONSTRAINT %I TO %I', former, replace(former, 'message_conflict', 'held_mail')
        );
    END LOOP;
    -- An index of a constraint has its constraint's name by now.
    FOR former IN
        SELECT c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = 'held_mail'::regclass AND c.relname LIKE '%message_conflict%'
    LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', former, replace(former, 'message_conflict', 'held_mail'));
    END LOOP;
    FOR former IN
        SELECT tgname FROM pg_catalog.pg_trigger
        WHERE tgrelid = 'held_mail'::regclass AND NOT tgisinternal AND tgname LIKE '%message_conflict%'
    LOOP
        EXECUTE format(
            'ALTER TRIGGER %I ON held_mail RENAME TO %I', former, replace(former, 'message_conflict', 'held_mail')
        );
    END LOOP;
END $$
"""

CENSUS = """
CREATE OR REPLACE FUNCTION orderflow_census() RETURNS TABLE (what text, org text, number bigint, oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    SELECT m.status::text, '', count(*), min(m.received_at)
    FROM inbound_message m WHERE m.status IN ('RECEIVED', 'STORED') GROUP BY m.status
    UNION ALL
    SELECT 'FAILED', o.slug, f.number, NULL FROM organization o JOIN (
        SELECT m.org_id, count(*) AS number FROM inbound_message m WHERE m.status IN ('FAILED') GROUP BY m.org_id
    ) f ON f.org_id = o.id
    UNION ALL
    SELECT 'PENDING DOCUMENT', '', count(*), NULL FROM document d WHERE d.handover IN ('PENDING')
    UNION ALL
    SELECT 'FAILED DOCUMENT', o.slug, f.number, NULL FROM organization o JOIN (
        SELECT d.org_id, count(*) AS number FROM document d WHERE d.handover IN ('FAILED') GROUP BY d.org_id
    ) f ON f.org_id = o.id
    UNION ALL
    SELECT 'HELD', o.slug, f.number, NULL FROM organization o JOIN (
        SELECT h.org_id, count(*) AS number FROM held_mail h WHERE h.resolution IS NULL GROUP BY h.org_id
    ) f ON f.org_id = o.id
$$
"""

OPEN = sa.text("resolution IS NULL")
ALONE = sa.text("inbound_message_id IS NULL")


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute(RENAME)
        schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
        op.execute(CENSUS.format(schema=schema))
    else:
        make_again()


def make_again() -> None:
    """Make SQLite's table again under its new name, with its rows; nothing refers to it."""
    moment = sa.DateTime(timezone=True)
    texts = ("envelope_sender", "envelope_recipient", "queue_id", "client_address", "from_email", "subject", "raw_key")
    table = op.create_table(
        "held_mail",
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
        sa.Column("source_message_id", sa.Text()),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("updated_at", moment, nullable=False, server_default=sa.func.current_timestamp()),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_held_mail"),
        sa.ForeignKeyConstraint(
            ["org_id", "inbound_message_id"],
            ["inbound_message.org_id", "inbound_message.id"],
            name="fk_held_mail_inbound_message",
        ),
        sa.UniqueConstraint(
            "org_id", "inbound_message_id", "fingerprint", name="uq_held_mail_org_id_inbound_message_id_fingerprint"
        ),
    )
    columns = ", ".join(table.columns.keys())
    op.execute(f"INSERT INTO held_mail ({columns}) SELECT {columns} FROM message_conflict")
    op.execute("DROP TABLE message_conflict")
    op.create_index("ix_held_mail_open", "held_mail", ["org_id", "received_at"], sqlite_where=OPEN)
    op.create_index("uq_held_mail_alone", "held_mail", ["org_id", "fingerprint"], unique=True, sqlite_where=ALONE)
    op.execute(
        "CREATE TRIGGER held_mail_touch AFTER UPDATE ON held_mail FOR EACH ROW "
        "WHEN NEW.updated_at = OLD.updated_at BEGIN UPDATE held_mail "
        "SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE org_id = NEW.org_id AND id = NEW.id; END"
    )
    # After the rows: one of before 0009 that breaks the rule is kept, as it is on PostgreSQL.
    rule = "NEW.raw_key GLOB 'org/' || NEW.org_id || '/raw/*' AND instr(NEW.raw_key, '..') = 0"
    for event, when in (("insert", "INSERT"), ("update", "UPDATE OF org_id, raw_key")):
        op.execute(
            f"CREATE TRIGGER held_mail_raw_key_{event} BEFORE {when} ON held_mail FOR EACH ROW WHEN NOT ({rule}) "
            "BEGIN SELECT RAISE(ABORT, 'ck_held_mail_raw_key'); END"
        )
