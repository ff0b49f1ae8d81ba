"""The census: how many rows are unfinished, failed or held, over all tenants, in one statement.

It counts by the partial indexes alone, so that it costs what there is to count and not what there was. On PostgreSQL
it is a function of the owner's (migration 0007), since no role but the operator's sees all tenants' rows. It returns
numbers, slugs and a time, so that who asks for monitoring's sake need see nothing else.
"""

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from orderflow_ingest.domain.states import UNFINISHED, Status

from .connection import NO_TENANT, Database
from .tables import UtcDateTime

CENSUS = """
SELECT m.status AS what, '' AS org, count(*) AS number, min(m.received_at) AS oldest
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
    SELECT c.org_id, count(*) AS number FROM held_mail c WHERE c.resolution IS NULL GROUP BY c.org_id
) f ON f.org_id = o.id
"""


@dataclass
class Backlog:
    """Numbers of rows. Those of an organization are by its slug, and only where there are any."""

    unfinished: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(UNFINISHED, 0))
    oldest_unfinished: datetime | None = None
    failed: dict[str, int] = field(default_factory=dict)
    pending_documents: int = 0
    failed_documents: dict[str, int] = field(default_factory=dict)
    held_mail: dict[str, int] = field(default_factory=dict)


def count_backlog(database: Database) -> Backlog:
    """Count. Raise DatabaseUnavailable."""
    text = CENSUS if database.is_sqlite else "SELECT * FROM orderflow_census()"
    statement = sa.text(text).columns(
        sa.column("what", sa.Text), sa.column("org", sa.Text), sa.column("number", sa.BigInteger),
        sa.column("oldest", UtcDateTime),
    )  # fmt: skip
    found = Backlog()
    by_org = {"FAILED": found.failed, "FAILED DOCUMENT": found.failed_documents, "HELD": found.held_mail}
    with database.read(NO_TENANT) as connection:
        for what, org, number, oldest in connection.execute(statement):
            if what in by_org:
                by_org[what][org] = number
            elif what == "PENDING DOCUMENT":
                found.pending_documents = number
            else:
                found.unfinished[Status(what)] = number
                found.oldest_unfinished = min(filter(None, (found.oldest_unfinished, oldest)), default=None)
    return found
