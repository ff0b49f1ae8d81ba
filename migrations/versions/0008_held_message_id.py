"""Held mail is found by its Message-ID, whatever it is held for.

Of what was held for its sender before this step nothing in the database tells it: that stays unknown.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("message_conflict", sa.Column("source_message_id", sa.Text()))
    op.execute(
        "UPDATE message_conflict SET source_message_id = (SELECT m.source_message_id FROM inbound_message m "
        "WHERE m.org_id = message_conflict.org_id AND m.id = message_conflict.inbound_message_id)"
    )
