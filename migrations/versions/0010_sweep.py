"""One sweep of all hosts' at a time, and what it and a host that comes back ask about all tenants.

`sweep_claim` has one row: who sweeps, and until when no other does. It ends by itself, so that a host that was killed
holds nothing. The functions tell ids, and the marks of workers; as those of 0004 they run as the owner.
A due time that is later than any that can have been meant was written by a clock that was wrong: it is due.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

DUE = """
CREATE FUNCTION orderflow_{name}_to_sweep(at timestamptz, beyond timestamptz, most integer)
RETURNS TABLE (org_id bigint, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    (SELECT t.org_id, t.id FROM {table} t WHERE {unfinished} AND t.next_attempt_at > $2
    ORDER BY t.next_attempt_at LIMIT $3)
    UNION ALL
    (SELECT t.org_id, t.id FROM {table} t WHERE {unfinished} AND t.next_attempt_at <= $1
    ORDER BY t.next_attempt_at LIMIT $3)
$$
"""

IN_HAND = """
CREATE FUNCTION orderflow_{name}_in_hand(host text) RETURNS TABLE (org_id bigint, id uuid, worker text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    SELECT t.org_id, t.id, t.worker FROM {table} t WHERE {unfinished} AND starts_with(t.worker, $1)
$$
"""

GRANTS = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['orderflow_worker', 'orderflow_operator'] LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE ON sweep_claim TO %I', name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION {functions} TO %I', name);
        END IF;
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "sweep_claim",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweep_claim"),
    )
    if op.get_bind().dialect.name == "postgresql":
        add_functions()


def add_functions() -> None:
    """Add the functions that look for rows of all tenants, on PostgreSQL, and give the roles what they need."""
    connection = op.get_bind()
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    functions = []
    for name, table, unfinished in (
        ("messages", "inbound_message", "t.status IN ('RECEIVED', 'STORED')"),
        ("documents", "document", "t.handover IN ('PENDING')"),
    ):
        for function in (DUE, IN_HAND):
            op.execute(function.format(name=name, table=table, unfinished=unfinished, schema=schema))
        functions += [
            f"orderflow_{name}_to_sweep(timestamptz, timestamptz, integer)",
            f"orderflow_{name}_in_hand(text)",
        ]
    for function in functions:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    # A worker of this version that starts before the roles' script has run again sweeps already.
    op.execute(GRANTS.format(functions=", ".join(functions)))
