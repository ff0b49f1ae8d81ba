"""Documents tell their kind, why they were taken and what is odd about them; so do the parts passed over."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def defects() -> sa.Column:
    return sa.Column("defects", json, nullable=False, server_default=sa.text("'[]'"))


def upgrade() -> None:
    # Each has a default, so that a program of the version before can still write while this one is installed, and no
    # row is written here, so that nothing waits; what has no content_type yet gets it where it is read.
    op.add_column("document", sa.Column("kind", sa.String(10), nullable=False, server_default="ATTACHMENT"))
    op.add_column("document", sa.Column("content_type", sa.Text(), nullable=False, server_default=""))
    op.add_column("document", sa.Column("charset", sa.Text()))
    op.add_column("document", sa.Column("reason", sa.Text(), nullable=False, server_default=""))
    op.add_column("document", defects())
    op.add_column("skipped_part", sa.Column("detected_type", sa.Text()))
    op.add_column("skipped_part", defects())
