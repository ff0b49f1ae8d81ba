"""PostgreSQL keeps the tenants apart itself: a transaction sees the rows of the organizations that it names.

The owner of the tables is not bound: it is who migrates them, and what programs without a role of their own run
as. A role that is bound names organizations by `SET LOCAL orderflow.orgs = '1,2'` and sees nothing without. The few
questions across tenants that delivery and worker have are functions, which run as the owner and tell ids and times
alone; who may call them is granted by the script that `orderflow-admin roles postgresql` prints. On SQLite there are
no roles, and nothing is done.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

TENANT_TABLES = ("inbound_message", "document", "skipped_part", "message_conflict")

# In a policy it is asked in a SELECT of its own: once for a statement, not once for each row.
ORGS = """
CREATE FUNCTION orderflow_orgs() RETURNS bigint[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT pg_catalog.string_to_array(nullif(pg_catalog.current_setting('orderflow.orgs', true), ''), ',')::bigint[]
$$
"""

# Without it a bound role that asks about all tenants would be told that there is nothing, instead of a refusal.
EVERY = """
CREATE FUNCTION orderflow_every() RETURNS void LANGUAGE plpgsql STABLE SET search_path = {schema}, pg_temp AS $$
BEGIN
    IF row_security_active('inbound_message') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_policy p, unnest(p.polroles) AS role
        WHERE p.polrelid = 'inbound_message'::regclass AND p.polname = 'operator'
        AND pg_has_role(current_user, role, 'USAGE')
    ) THEN
        RAISE insufficient_privilege USING MESSAGE = 'this role does not see every organisation';
    END IF;
END $$
"""

DUE = """
CREATE FUNCTION orderflow_due_{name}(at timestamptz, most integer) RETURNS TABLE (org_id bigint, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    SELECT t.org_id, t.id FROM {table} t WHERE {unfinished} AND t.next_attempt_at <= $1
    ORDER BY t.next_attempt_at LIMIT $2
$$
"""

OVERDUE = """
CREATE FUNCTION orderflow_overdue_since() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    SELECT min(t.next_attempt_at) FROM inbound_message t WHERE t.status IN ('RECEIVED', 'STORED')
$$
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(ORGS)
    op.execute(EVERY.format(schema=schema))
    unfinished = "t.status IN ('RECEIVED', 'STORED')"
    op.execute(DUE.format(name="messages", table="inbound_message", unfinished=unfinished, schema=schema))
    pending = "t.handover IN ('PENDING')"
    op.execute(DUE.format(name="documents", table="document", unfinished=pending, schema=schema))
    op.execute(OVERDUE.format(schema=schema))
    for function in (
        "orderflow_due_messages(timestamptz, integer)",
        "orderflow_due_documents(timestamptz, integer)",
        "orderflow_overdue_since()",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    for table in TENANT_TABLES:
        named = "org_id = ANY ((SELECT orderflow_orgs())::bigint[])"
        op.execute(f"CREATE POLICY tenant ON {table} USING ({named}) WITH CHECK ({named})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    # What Postfix's recipient map reads; a barrier, so that no function of its reader's sees the other slugs.
    op.execute("CREATE VIEW recipient WITH (security_barrier) AS SELECT slug FROM organization WHERE is_active")
