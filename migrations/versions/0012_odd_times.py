"""A due time beyond the longest delay is due only where its row was written later than now.

While a deploy gives hosts other retry settings, one of them took the retries of another, which are meant to be later
than its own longest delay, for times that a wrong clock had written, and began them all at once. Whoever writes a row
writes `updated_at` by the same clock, so that a clock that was ahead shows there too. The minute is CLOCK_SKEW
of storage/database/connection.py.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

DUE = """
CREATE OR REPLACE FUNCTION orderflow_{name}_to_sweep(at timestamptz, beyond timestamptz, most integer)
RETURNS TABLE (org_id bigint, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    (SELECT t.org_id, t.id FROM {table} t
    WHERE {unfinished} AND t.next_attempt_at > $2 AND t.updated_at > $1 + interval '60 seconds'
    ORDER BY t.next_attempt_at LIMIT $3)
    UNION ALL
    (SELECT t.org_id, t.id FROM {table} t WHERE {unfinished} AND t.next_attempt_at <= $1
    ORDER BY t.next_attempt_at LIMIT $3)
$$
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for name, table, unfinished in (
        ("messages", "inbound_message", "t.status IN ('RECEIVED', 'STORED')"),
        ("documents", "document", "t.handover IN ('PENDING')"),
    ):
        op.execute(DUE.format(name=name, table=table, unfinished=unfinished, schema=schema))
