"""A message tells what speaks of a loop or of a program that wrote it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    # With a default, which no row is written for: the version before goes on inserting.
    op.add_column("inbound_message", sa.Column("traits", json, nullable=False, server_default=sa.text("'[]'")))
