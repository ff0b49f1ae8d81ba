"""Who holds an old snapshot of the queue's database, so that PostgreSQL keeps the rows of tasks that were taken.

A session's snapshot (pg_dump's, say) and a prepared transaction hold the tables of their own database alone. A
replication slot and a standby with hot_standby_feedback hold those of all. A slot's catalog_xmin holds the catalogs
alone. A role without pg_read_all_stats sees its own sessions only, so the rows that are kept are counted too.
"""

from collections.abc import Iterator

from orderflow_ingest.app import App

from .findings import CheckResult, ago

_OLD = 600.0  # seconds
_MANY = 100_000  # transactions since, where no time is known, and rows
_ASKED = """
SELECT kind, who::text, coalesce(seconds, 0)::float, since FROM (
    SELECT CASE WHEN backend_type = 'walsender' THEN 'standby' ELSE 'session' END AS kind,
        'role ' || coalesce(usename::text, '-') || ', process ' || pid AS who,
        extract(epoch FROM clock_timestamp() - xact_start) AS seconds, age(backend_xmin) AS since
    FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
        AND (datname = current_database() OR datname IS NULL)
    UNION ALL
    SELECT 'replication slot', slot_name::text, NULL, age(xmin) FROM pg_replication_slots WHERE xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction', gid, extract(epoch FROM clock_timestamp() - prepared), age(transaction)
    FROM pg_prepared_xacts WHERE database = current_database()
) AS held ORDER BY since DESC, seconds DESC LIMIT 1
"""
_KEPT = "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE relid = to_regclass('huey_task')"


def check_snapshots(app: App) -> Iterator[CheckResult]:
    """Look for the oldest snapshot of the queue's database. Raise QueueUnavailable."""
    held, kept = app.queue.query(_ASKED), app.queue.query(_KEPT)
    if held is None or kept is None:
        return
    number = kept[0][0]
    oldest = [row for row in held if row[2] >= _OLD or row[3] >= _MANY]
    for kind, who, seconds, since in oldest:
        name = "".join(letter if letter.isprintable() else "?" for letter in who)[:80]
        length = f"for {ago(seconds)}" if seconds else f"since {since} transactions"
        by_all = kind in ("standby", "replication slot")
        yield (
            "WARNING",
            f"a {kind} ({name}) holds a snapshot {length}, so {number} tasks that were taken stay in the table and "
            "deliveries and workers read them again: "
            + (
                "set hot_standby_feedback = off on the standby, or drop a slot that nobody uses"
                if by_all
                else "end it, or set QUEUE_URL to a database of its own, whose dump and reports are nobody's"
            ),
        )
    if not oldest and number >= _MANY:
        yield (
            "WARNING",
            f"{number} tasks that were taken stay in the table huey_task: somebody holds a snapshot whom only a role "
            "with pg_read_all_stats sees, or autovacuum does not come there; set QUEUE_URL to a database of its own",
        )
