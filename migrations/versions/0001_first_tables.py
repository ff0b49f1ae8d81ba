"""Organizations, inbound messages, documents, skipped parts, conflicts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

UNFINISHED = sa.text("status IN ('RECEIVED', 'STORED')")
PENDING = sa.text("handover IN ('PENDING')")
WITH_TIMES = {
    "organization": ("id",),
    "inbound_message": ("org_id", "id"),
    "document": ("org_id", "id"),
    "message_conflict": ("org_id", "id"),
}

identifier = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
moment = sa.DateTime(timezone=True)


def text(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=nullable)


def times() -> tuple[sa.Column, ...]:
    names = ("created_at", "updated_at")
    return tuple(sa.Column(n, moment, nullable=False, server_default=sa.func.current_timestamp()) for n in names)


def tried() -> tuple[sa.Column, ...]:
    return (
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_attempt_at", moment, nullable=False),
        text("worker", nullable=True),
        sa.Column("error_json", json),
    )


def of_message(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["org_id", "inbound_message_id"],
        ["inbound_message.org_id", "inbound_message.id"],
        name=f"fk_{table}_inbound_message",
    )


def upgrade() -> None:
    op.create_table(
        "organization",
        sa.Column("id", identifier, nullable=False),
        sa.Column("slug", sa.String(63), nullable=False),
        text("name"),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("settings", json, nullable=False, server_default=sa.text("'{}'")),
        *times(),
        sa.PrimaryKeyConstraint("id", name="pk_organization"),
        sa.UniqueConstraint("slug", name="uq_organization_slug"),
    )
    op.create_table(
        "inbound_message",
        sa.Column("org_id", identifier, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(10), nullable=False),
        text("source_message_id"),
        sa.Column("message_id_is_synthetic", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        text("envelope_sender"),
        text("envelope_recipient"),
        text("queue_id"),
        text("client_address"),
        text("from_email"),
        text("subject"),
        sa.Column("sent_at", moment),
        sa.Column("received_at", moment, nullable=False),
        text("raw_key"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        *tried(),
        *times(),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_inbound_message"),
        sa.ForeignKeyConstraint(["org_id"], ["organization.id"], name="fk_inbound_message_organization"),
        sa.UniqueConstraint(
            "org_id", "source", "source_message_id", name="uq_inbound_message_org_id_source_source_message_id"
        ),
        sa.CheckConstraint("source IN ('EMAIL', 'UPLOAD')", name=op.f("ck_inbound_message_source")),
        sa.CheckConstraint(
            "status IN ('RECEIVED', 'STORED', 'PARSED', 'FAILED')", name=op.f("ck_inbound_message_status")
        ),
    )
    op.create_index("ix_inbound_message_org_id_received_at", "inbound_message", ["org_id", "received_at"])
    op.create_index("ix_inbound_message_org_id_status", "inbound_message", ["org_id", "status"])
    op.create_index(
        "ix_inbound_message_unfinished",
        "inbound_message",
        ["next_attempt_at"],
        postgresql_where=UNFINISHED,
        sqlite_where=UNFINISHED,
    )
    op.create_table(
        "document",
        sa.Column("org_id", identifier, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("inbound_message_id", sa.Uuid(), nullable=False),
        text("part_path"),
        text("filename", nullable=True),
        text("claimed_filename", nullable=True),
        text("declared_type"),
        text("detected_type", nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        text("object_key"),
        sa.Column("handover", sa.String(10), nullable=False, server_default="PENDING"),
        *tried(),
        *times(),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_document"),
        of_message("document"),
        sa.UniqueConstraint(
            "org_id",
            "inbound_message_id",
            "part_path",
            name="uq_document_org_id_inbound_message_id_part_path",
        ),
        sa.CheckConstraint("handover IN ('PENDING', 'DONE', 'FAILED')", name=op.f("ck_document_handover")),
    )
    op.create_index(
        "ix_document_pending", "document", ["next_attempt_at"], postgresql_where=PENDING, sqlite_where=PENDING
    )
    op.create_table(
        "skipped_part",
        sa.Column("org_id", identifier, nullable=False),
        sa.Column("inbound_message_id", sa.Uuid(), nullable=False),
        text("part_path"),
        text("filename", nullable=True),
        text("declared_type"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        text("reason"),
        sa.PrimaryKeyConstraint("org_id", "inbound_message_id", "part_path", name="pk_skipped_part"),
        of_message("skipped_part"),
    )
    op.create_table(
        "message_conflict",
        sa.Column("org_id", identifier, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("inbound_message_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        text("raw_key"),
        text("envelope_sender"),
        text("envelope_recipient"),
        text("queue_id"),
        text("client_address"),
        text("from_email"),
        text("subject"),
        sa.Column("received_at", moment, nullable=False),
        text("resolution", nullable=True),
        *times(),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_message_conflict"),
        of_message("message_conflict"),
        sa.UniqueConstraint(
            "org_id",
            "inbound_message_id",
            "fingerprint",
            name="uq_message_conflict_org_id_inbound_message_id_fingerprint",
        ),
    )
    touch_on_update()


def touch_on_update() -> None:
    """Keep updated_at right whoever writes: a trigger of the database's own kind."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION orderflow_touch() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$"
        )
        for table in WITH_TIMES:
            op.execute(
                f"CREATE TRIGGER {table}_touch BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION orderflow_touch()"
            )
        return
    for table, key in WITH_TIMES.items():
        own = " AND ".join(f"{column} = NEW.{column}" for column in key)
        op.execute(
            f"CREATE TRIGGER {table}_touch AFTER UPDATE ON {table} FOR EACH ROW "
            f"WHEN NEW.updated_at = OLD.updated_at "
            f"BEGIN UPDATE {table} SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE {own}; END"
        )
