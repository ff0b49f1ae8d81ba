"""Years of mail in a PostgreSQL database, written by a few statements: what queries have to be measured against.

Databases of different size differ in history alone. All have the same organizations and the same last 24 hours:
as many messages, of which as many are unfinished (half of them due), FAILED or held, and as many documents PENDING
and FAILED. What came before lies evenly over two years, and is PARSED, handed over and resolved.

Rows are as wide as real ones (a Message-ID of 60 characters, a subject of 60, hexadecimal digests) and lie in the
order they came in; a message's organization is drawn by lot, the first ones far more often than the last (of 2,000
the first gets 8 %, half of them less than 0.03 % each); ids and Message-IDs are random, as they are in life, so that
the trees of their indexes have been filled like in life. Every message has one or two documents, some a part that was
skipped; a message in 500 has had a mail that was held.

The tables have to be there and empty. Foreign keys are not checked while rows are written, since they hold by the
way the rows are made; this needs a superuser.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

DAY, YEARS = timedelta(days=1), timedelta(days=730)
RECENT = 5_000
_CHUNK = 500_000

_ROWS = sa.text("""
WITH number AS MATERIALIZED (
  SELECT n, 1 + floor(:organizations * power(random(), 3))::bigint AS org_id, gen_random_uuid() AS id,
    md5(random()::text) || md5(n::text) AS digest,
    CAST(:began AS timestamptz) + (n - :first) * CAST(:step AS interval) AS received_at,
    CASE WHEN NOT :is_recent THEN 'PARSED' WHEN n % 50 = 0 THEN 'RECEIVED' WHEN n % 50 = 1 THEN 'STORED'
      WHEN n % 50 = 2 THEN 'FAILED' ELSE 'PARSED' END AS status
  FROM generate_series(CAST(:first AS bigint), :last) n
), message AS (
  INSERT INTO inbound_message (org_id, id, source, source_message_id, message_id_is_synthetic, status,
    envelope_sender, envelope_recipient, queue_id, client_address, from_email, subject, sent_at, received_at,
    raw_key, size, digest, fingerprint, attempts, next_attempt_at, created_at, updated_at)
  SELECT org_id, id, 'EMAIL', '<' || right(digest, 40) || '@mail.example.com>', false, status,
    'buyer-' || n % 97 || '@customer.example.com', 'orders+org-' || org_id || '@orders.example.com',
    '4XYZ' || n, '192.0.2.17', 'buyer-' || n % 97 || '@customer.example.com',
    rpad('Purchase order ' || n || ', to be delivered until', 60, '.'), received_at - interval '5 seconds', received_at,
    'org/' || org_id || '/raw/' || digest || '.eml', 50000 + n % 1000, digest, reverse(digest),
    CASE WHEN status IN ('RECEIVED', 'STORED') THEN 0 ELSE 1 END,
    CASE WHEN status IN ('RECEIVED', 'STORED')
      THEN CAST(:now AS timestamptz) + CASE WHEN n % 100 < 50 THEN -1 ELSE 1 END * (n % 600) * interval '1 second'
      ELSE received_at + interval '10 minutes' END,
    received_at, received_at + interval '2 seconds'
  FROM number RETURNING org_id, id, digest, received_at, status
)
INSERT INTO document (org_id, id, inbound_message_id, part_path, filename, claimed_filename, declared_type,
  detected_type, content_type, reason, size, digest, object_key, handover, attempts, next_attempt_at, created_at,
  updated_at)
SELECT org_id, gen_random_uuid(), id, part::text, 'order-' || left(digest, 8) || '.pdf',
  'order-' || left(digest, 8) || '.pdf', 'application/octet-stream', 'application/pdf', 'application/pdf', 'attachment',
  40000, digest, 'org/' || org_id || '/documents/' || digest,
  CASE WHEN status = 'STORED' THEN 'PENDING' WHEN status = 'FAILED' THEN 'FAILED' ELSE 'DONE' END, 1,
  received_at + interval '10 minutes', received_at, received_at + interval '3 seconds'
FROM message, generate_series(1, 1 + ascii(digest) % 2) part
""")
_SKIPPED = sa.text("""
INSERT INTO skipped_part (org_id, inbound_message_id, part_path, declared_type, size, reason)
SELECT org_id, id, '9', 'image/png', 800, 'small image' FROM inbound_message WHERE ascii(digest) % 5 = 0
""")
_HELD_MAIL = sa.text("""
INSERT INTO held_mail (org_id, id, inbound_message_id, source_message_id, envelope_sender, envelope_recipient,
  queue_id, client_address, from_email, subject, raw_key, digest, fingerprint, received_at, resolution)
SELECT org_id, gen_random_uuid(), id, source_message_id, envelope_sender, envelope_recipient, queue_id, client_address,
  from_email, subject, raw_key, reverse(digest), digest, received_at,
  CASE WHEN received_at < :today THEN 'DISCARDED' END
FROM (SELECT *, row_number() OVER () AS n FROM inbound_message WHERE status = 'PARSED') message
WHERE n % CASE WHEN received_at < :today THEN 500 ELSE 50 END = 0
""")


def fill(
    engine: sa.Engine, rows: int, organizations: int, now: datetime, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Write so many messages with what belongs to them, and have the database look at its tables."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO organization (slug, name) SELECT 'org-' || n, 'Organization ' || n "
            f"FROM generate_series(1, {organizations}) n"
        )

    def write(first: int, last: int, began: datetime, step: timedelta) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            connection.exec_driver_sql(f"SELECT setseed({1 / (1 + first)})")  # the same lots in each database
            values = {"first": first, "last": last, "began": began, "step": step, "is_recent": last <= RECENT}
            connection.execute(_ROWS, {**values, "now": now, "organizations": organizations})

    step = YEARS / (rows - RECENT)
    for first in range(RECENT + 1, rows + 1, _CHUNK):
        last = min(first + _CHUNK - 1, rows)
        write(first, last, now - DAY - YEARS + (first - RECENT) * step, step)
        tell(f"{last} of {rows} messages")
    write(1, RECENT, now - DAY + timedelta(minutes=1), DAY / (RECENT + 9))  # nothing is of the future
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(_SKIPPED)
        connection.execute(_HELD_MAIL, {"today": now - DAY})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")
