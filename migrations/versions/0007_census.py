"""Monitoring counts what is unfinished, failed or held, of all tenants, and sees nothing else of them.

As 0004's functions it runs as the owner; the script that `orderflow-admin roles postgresql` prints grants it to the
roles that may ask. On SQLite the program asks the same itself.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

CENSUS = """
CREATE FUNCTION orderflow_census() RETURNS TABLE (what text, org text, number bigint, oldest timestamptz)
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
    SELECT 'CONFLICT', o.slug, f.number, NULL FROM organization o JOIN (
        SELECT c.org_id, count(*) AS number FROM message_conflict c WHERE c.resolution IS NULL GROUP BY c.org_id
    ) f ON f.org_id = o.id
$$
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(CENSUS.format(schema=schema))
    op.execute("REVOKE ALL ON FUNCTION orderflow_census() FROM PUBLIC")
