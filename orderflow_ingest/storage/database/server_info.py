"""What PostgreSQL says of itself, for `orderflow-admin check`: its settings, our role's rights and bounds.

It is asked as the role of the database's URL, reads system catalogs alone, and changes nothing.
"""

import time
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from orderflow_ingest.storage.resilience import timeouts

from .connection import NO_TENANT, Database

_SAYS = """
SELECT current_user::text AS role,
       current_database()::text AS database,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       pg_encoding_to_char(d.encoding) != 'UTF8' OR lower(chr(196)) = chr(228) AS knows_letters,
       clock_timestamp() AS clock,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS is_read_only,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       ARRAY(SELECT coalesce(application_name, '')::text FROM pg_stat_replication
         WHERE coalesce(state, 'streaming') = 'streaming') AS standbys,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int AS reserved,
       (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS taken,
       r.rolconnlimit AS role_limit,
       d.datconnlimit AS database_limit,
       to_regclass('inbound_message') IS NOT NULL AS sees_tables,
       coalesce((SELECT string_agg(n.nspname::text, ', ' ORDER BY n.nspname) FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = 'inbound_message' AND c.relkind IN ('r', 'p')),
         '') AS schemas
FROM pg_database d, pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user
"""
# Of organization a delivery may read some columns, of huey_task it may write some.
_RIGHTS = """
SELECT what FROM (VALUES
    ('SELECT on organization', has_any_column_privilege(to_regclass('organization')::oid, 'SELECT')),
    ('SELECT on inbound_message', has_any_column_privilege(to_regclass('inbound_message')::oid, 'SELECT')),
    ('INSERT on inbound_message', has_any_column_privilege(to_regclass('inbound_message')::oid, 'INSERT')),
    ('SELECT on held_mail', has_any_column_privilege(to_regclass('held_mail')::oid, 'SELECT')),
    ('INSERT on held_mail', has_any_column_privilege(to_regclass('held_mail')::oid, 'INSERT')),
    ('EXECUTE on orderflow_overdue_since()',
        has_function_privilege(to_regprocedure('orderflow_overdue_since()')::oid, 'EXECUTE')),
    ('INSERT on huey_task', has_any_column_privilege(to_regclass('huey_task')::oid, 'INSERT'))
) AS rights (what, is_given) WHERE NOT is_given
"""


_IN_FORCE = "SELECT lower(name), setting FROM pg_settings WHERE lower(name) = ANY (string_to_array(:names, ','))"


@dataclass(frozen=True)
class Server:
    """A server as our role sees it. `asked_at` is our own clock, in the middle of the asking.

    `session_limits` are those of `timeouts.session_limits` in force in our own session. `standbys` are the application
    names of who streams from it. A role without pg_read_all_stats does not see the state, so a base backup counts too.
    """

    role: str
    database: str
    encoding: str
    knows_letters: bool
    clock: datetime
    asked_at: float
    is_read_only: bool
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    synchronous_standby_names: str
    standbys: list[str]
    max_connections: int
    reserved: int
    taken: int
    role_limit: int
    database_limit: int
    sees_tables: bool
    schemas: str
    missing_rights: tuple[str, ...]
    bounds: dict[str, str]


def ask(database: Database) -> Server:
    """Ask the server. PostgreSQL alone. Raise DatabaseUnavailable."""
    with database.read(NO_TENANT) as connection:
        before = time.time()
        says = connection.execute(sa.text(_SAYS)).mappings().one()
        asked_at = (before + time.time()) / 2
        missing = tuple(connection.scalars(sa.text(_RIGHTS)))
        in_force = connection.execute(
            sa.text(_IN_FORCE), {"names": ",".join(timeouts.session_limits(timeouts.STATEMENT))}
        )
        bounds = {name: setting for name, setting in in_force}
    return Server(**says, asked_at=asked_at, missing_rights=missing, bounds=bounds)
