"""The rows hold on both databases: one schema, one row per identity, one worker per attempt, each tenant its own."""

import random
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from orderflow_ingest.domain.org_settings import OrgSettingsError
from orderflow_ingest.domain.states import EventKind, HandOver, HoldReason, Status
from orderflow_ingest.parsing.documents.part import PartKind
from orderflow_ingest.parsing.mime.words import storable
from orderflow_ingest.storage.database import (
    ALL_TENANTS,
    NO_TENANT,
    Database,
    DatabaseUnavailable,
    Event,
    Filter,
    IdentityTakenError,
    InboundMessage,
    Messages,
    NewDocument,
    NewMessage,
    OrganizationExistsError,
    OrganizationRecord,
    Records,
    Run,
    SkippedPart,
    count_backlog,
    recipients_path,
    schema,
    selection,
)
from orderflow_ingest.storage.database.rows import column_values
from orderflow_ingest.storage.database.sweeping import LASTS, SweepClaim
from orderflow_ingest.storage.database.tables import (
    UtcDateTime,
    document,
    held_mail,
    inbound_message,
    metadata,
    organization,
)
from orderflow_ingest.storage.resilience import circuit_breaker, timeouts
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import free_port, wait_until
from tests.support.lab.wire import Wire
from tests.support.records import (
    KINDS,
    LEASE,
    MINUTE,
    NOW,
    Server,
    at_version,
    claimed,
    inserted,
    new,
    of_version,
    part,
)

SECRET = "not-for-any-log"


@pytest.fixture(scope="module", params=KINDS)
def server(request, tmp_path_factory):
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return Server(tmp_path_factory.mktemp("records"), postgres)


@pytest.fixture
def url(server):
    return server.set_up()


@pytest.fixture
def records(url):
    """Return the tables with two organizations, acme (1) and bolt (2)."""
    records = Records(url)
    for slug in ("acme", "bolt"):
        records.organizations.add(slug, slug.title())
    yield records
    records.database.close()


def stored(records, parts, skipped=(), now=NOW, **changes):
    """Insert a message, claim it and record its documents; return the attempt."""
    attempt = claimed(records, inserted(records, **changes), now)
    assert records.documents.record(attempt, list(parts), list(skipped), now, is_complete=True)
    return attempt


def row(records, message):
    return records.messages.get(message.org_id, message.id)


# The schema


def definitions(connection):
    """List every index, constraint and trigger as the database itself writes it."""
    if connection.dialect.name == "sqlite":
        # What a definition consists of comes in an order of its own; what was added later stands on one line.
        rows = connection.exec_driver_sql(
            "SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version'"
        )
        return sorted(
            (kind, name, tuple(sorted(part.strip() for part in re.split(r"[,()]", sql or "") if part.strip())))
            for kind, name, sql in rows
            if kind != "trigger"
        )
    statement = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
        "UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        "UNION ALL SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, column_default, "
        "character_maximum_length) FROM information_schema.columns JOIN information_schema.tables USING "
        "(table_schema, table_name) WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    )
    return sorted(tuple(r) for r in connection.exec_driver_sql(statement) if not r[0].startswith("alembic_version"))


def test_models_and_migrations_agree(records):
    """But for indexes with an order or an expression of their own, which Alembic cannot compare: the next test does."""
    opts = {
        "compare_type": True,
        "compare_server_default": not records.database.is_sqlite,
        "include_object": lambda _object, name, *_: name != "ix_inbound_message_received_at" and "_words" not in name,
    }
    with records.database.read(ALL_TENANTS) as connection:
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, metadata) == []


def test_models_and_migrations_agree_in_partial_indexes_checks_and_defaults(server, records):
    by_models = Database(server.new(), create=True)
    with by_models.write(NO_TENANT) as connection:
        metadata.create_all(connection)
    with by_models.read(NO_TENANT) as expected, records.database.read(ALL_TENANTS) as found:
        assert definitions(found) == definitions(expected)
    by_models.close()


def written_before(database, message):
    """Record a message as a program does that knows of no traits."""
    known = {name: value for name, value in vars(message).items() if name != "traits"}
    with database.write(message.org_id) as connection:
        connection.execute(inbound_message.insert().values(**known, status=Status.RECEIVED.value, next_attempt_at=NOW))


def test_documents_of_the_version_before_are_read_and_replaced(server):
    """Rows of schema 0001, and one that its program writes when 0002 is in place already."""
    url = server.new()
    database = Database(url, create=True)
    at_version(database, "0001")
    records = Records(url)
    records.organizations.add("acme", "Acme")
    message = new()
    owner = {"org_id": 1, "inbound_message_id": message.id, "next_attempt_at": NOW}
    content = {"declared_type": "a/b", "size": 1, "digest": "d", "object_key": "org/1/documents/k"}

    def write(path, detected):
        with database.write(NO_TENANT) as connection:
            row = {**owner, **content, "id": uuid4(), "part_path": path, "detected_type": detected}
            connection.execute(document.insert().values(row))

    def touched():
        with database.read(NO_TENANT) as connection:
            return dict(connection.execute(sa.select(document.c.part_path, document.c.updated_at)).all())

    written_before(database, message)
    write("2", "application/pdf")
    before = touched()
    schema.upgrade(database)
    write("3", None)
    attempt = claimed(records, message)
    assert attempt.traits == []
    assert before.items() <= touched().items()
    found = records.documents.of_message(1, attempt.id)
    assert [(d.part_path, d.kind, d.content_type, d.reason, d.defects) for d in found] == [
        ("2", PartKind.ATTACHMENT, "application/pdf", "", []),
        ("3", PartKind.ATTACHMENT, "a/b", "", []),
    ]
    assert records.documents.record(attempt, [part("2.1")], [], NOW, is_complete=True)
    assert [d.part_path for d in records.documents.of_message(1, attempt.id)] == ["2.1"]
    records.database.close()
    database.close()


_HELD_BEFORE = """
INSERT INTO message_conflict (org_id, id, inbound_message_id, envelope_sender, envelope_recipient, queue_id,
    client_address, from_email, subject, raw_key, digest, fingerprint, received_at, erased_at, resolution, reason,
    source_message_id)
VALUES (:org_id, :id, :owner, 'a@shop.example', 'b@here.example', 'Q', '192.0.2.1', 'a@shop.example', :subject,
    :key, :digest, :digest, :now, :erased_at, :resolution, :reason, :source_message_id)
"""
_TYPES = (
    sa.bindparam("id", type_=sa.Uuid), sa.bindparam("owner", type_=sa.Uuid), sa.bindparam("now", type_=UtcDateTime),
    sa.bindparam("erased_at", type_=UtcDateTime),
)  # fmt: skip


def held_before(database, *states):
    """Record held mail as the version before did; a state is what differs. Give the ids."""
    usual = {"owner": None, "erased_at": None, "resolution": None, "reason": "SENDER", "source_message_id": "<1@x>"}
    ids = [uuid4() for _ in states]
    with database.write(NO_TENANT) as connection:
        for id, state in zip(ids, states, strict=True):
            org_id = state.get("org_id", 1)
            known = {"id": id, "org_id": org_id, "key": f"org/{org_id}/raw/{id}.eml", "digest": id.hex * 2, "now": NOW}
            connection.execute(sa.text(_HELD_BEFORE).bindparams(*_TYPES), {**usual, **known, **state})
    return ids


def test_held_mail_of_the_version_before_is_kept_in_every_state_and_decided_on_afterwards(server):
    """Schema 0012 has it in a table of another name."""
    url = server.new()
    database = Database(url, create=True)
    at_version(database, "0012")
    records = Records(url)
    for slug in ("acme", "bolt"):
        records.organizations.add(slug, slug)
    known = inserted(records)
    clash, alone, accepted, discarded, erased, unnamed, of_bolt = held_before(
        database,
        {"subject": "clash", "owner": known.id, "reason": "IDENTITY"},
        {"subject": "alone"},
        {"subject": "accepted", "resolution": "ACCEPTED"},
        {"subject": "discarded", "owner": known.id, "reason": "IDENTITY", "resolution": "DISCARDED"},
        {"subject": "erased", "erased_at": NOW},
        {"subject": "unnamed", "owner": known.id, "reason": "IDENTITY", "source_message_id": None},
        {"subject": "bolt", "org_id": 2},
    )
    every = f"SELECT {', '.join(column.name for column in held_mail.columns)} FROM {{}} ORDER BY id"
    with database.read(NO_TENANT) as connection:
        before = connection.exec_driver_sql(every.format("message_conflict")).all()
    for _ in range(2):
        schema.upgrade(database)
    with database.read(NO_TENANT) as connection:
        assert connection.exec_driver_sql(every.format("held_mail")).all() == before and len(before) == 7
    with pytest.raises(DatabaseUnavailable), database.read(NO_TENANT) as connection:  # a program of the version before
        connection.exec_driver_sql(every.format("message_conflict"))
    held = records.held_mail
    assert {one.id for one in held.open(1)} == {clash, alone, erased, unnamed} and held.count_open(2) == 1
    assert held.count_open_by_reason(1) == {HoldReason.MESSAGE_ID_REUSED: 2, HoldReason.SENDER_NOT_ALLOWED: 2}
    assert {one.id for one in held.of_message(1, known.id)} == {clash, discarded, unnamed}
    assert held.resolution(1, accepted) == "ACCEPTED" and held.of_id(of_bolt, 1) == []
    (gone,) = held.of_id(erased)
    assert gone.erased_at == NOW and not held.insert(
        None, new(fingerprint=gone.fingerprint), HoldReason.SENDER_NOT_ALLOWED
    )
    (open_one,) = held.of_id(alone)
    becomes = new(id=open_one.id, fingerprint=open_one.fingerprint, digest=open_one.digest)
    assert held.resolve(open_one, becomes, NOW, told(EventKind.ACCEPTED, alone))
    assert row(records, becomes).status is Status.RECEIVED and count_backlog(database).held_mail == {
        "acme": 3,
        "bolt": 1,
    }
    records.database.close()
    database.close()


def test_the_table_of_held_mail_keeps_who_may_do_what_and_sees_whose_rows_when_it_gets_its_name(postgres):
    database, owner = of_version(postgres, "0012")
    records = Records(f"postgresql://postgres@{database.name}")
    for slug in ("acme", "bolt"):
        records.organizations.add(slug, slug)
    held_before(database, {"subject": "acme"}, {"subject": "bolt", "org_id": 2})
    role = f"held_{uuid4().hex}"
    with owner:
        owner.execute(f"CREATE ROLE {role}")
        owner.execute(f"GRANT SELECT ON message_conflict TO {role}")
        owner.execute(f"GRANT EXECUTE ON FUNCTION orderflow_census() TO {role}")
        owner.commit()
        schema.upgrade(database)
        owner.execute(f"SET ROLE {role}")
        assert owner.execute("SELECT subject FROM held_mail").fetchall() == []
        owner.execute("SET LOCAL orderflow.orgs = '2'")
        assert owner.execute("SELECT subject FROM held_mail").fetchall() == [("bolt",)]
        assert ("HELD", "acme", 1, None) in owner.execute("SELECT * FROM orderflow_census()").fetchall()
        owner.rollback()
        left = "SELECT name FROM (SELECT conname AS name FROM pg_constraint UNION SELECT relname FROM pg_class"
        left += " UNION SELECT tgname FROM pg_trigger) AS names WHERE name LIKE '%message_conflict%'"
        assert owner.execute(left).fetchall() == []
    records.database.close()
    database.close()


def test_settings_that_the_version_before_wrote_into_the_archive_are_read(records):
    assert records.rebuild_writes.add_organization(OrganizationRecord(9, "old", "Old", True, {"conflicts": "accept"}))
    assert records.organizations.find("old").settings.accepts_reused_message_id


def test_upgrading_again_changes_nothing(records):
    schema.upgrade(records.database)
    assert [org.slug for org in records.organizations.all()] == ["acme", "bolt"]
    assert schema.current_version(records.database) == schema.needed_version()


def test_a_schema_that_is_newer_than_the_program_is_left_alone(server):
    database = Database(server.new(), create=True)
    schema.upgrade(database)
    with database.write(NO_TENANT) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseUnavailable, match="newer than this program"):
        schema.upgrade(database)
    assert schema.current_version(database) == "9999"
    database.close()


def test_messages_are_written_while_an_index_is_built(postgres):
    """A build waits for the transactions there are; those that come meanwhile do not wait for it."""
    database, writer = of_version(postgres, "0002")
    with writer, ThreadPoolExecutor(1) as pool:
        writer.execute("LOCK TABLE inbound_message IN ROW EXCLUSIVE MODE")
        upgrade = pool.submit(schema.upgrade, database)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%%' AND wait_event_type = 'Lock'"
        with database.read(NO_TENANT) as connection:
            assert wait_until(lambda: connection.exec_driver_sql(waiting).one_or_none() or upgrade.done(), 60)
        assert not upgrade.done()
        records = Records(f"postgresql://postgres@{database.name}")
        records.organizations.add("acme", "Acme")
        written_before(records.database, new())
        assert not upgrade.done()
        writer.commit()
        upgrade.result(60)
    assert schema.current_version(database) == schema.needed_version()
    records.database.close()
    database.close()


def test_an_index_whose_build_was_broken_off_is_built_again(postgres):
    database, writer = of_version(postgres, "0002")
    name = "ix_inbound_message_received_at"
    is_valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    with writer:
        writer.execute("LOCK TABLE inbound_message IN ROW EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match="57014"), database.read(NO_TENANT) as connection:
            connection.detach()
            connection.exec_driver_sql("SET statement_timeout = 300")
            connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {name} ON inbound_message (received_at)")
    with database.read(NO_TENANT) as connection:
        assert connection.scalar(is_valid, {"name": name}) is False
    schema.upgrade(database)
    with database.read(NO_TENANT) as connection:
        assert connection.scalar(is_valid, {"name": name}) is True
    database.close()


def test_a_new_database_has_no_version_until_it_is_upgraded(server):
    database = Database(server.new(), create=True)
    assert schema.current_version(database) is None
    schema.upgrade(database)
    assert schema.current_version(database) == schema.needed_version()
    database.close()


def test_threads_upgrade_a_new_database_at_once(server):
    url, start = server.new(), threading.Barrier(3)

    def upgrade():
        database = Database(url, create=True)
        start.wait(30)
        schema.upgrade(database)
        return schema.current_version(database)

    with ThreadPoolExecutor(3) as pool:
        assert {done.result() for done in [pool.submit(upgrade) for _ in range(3)]} == {schema.needed_version()}


def test_processes_upgrade_a_new_database_at_once(server):
    script = (
        "import sys; from orderflow_ingest.storage.database import Database, schema\n"
        "print('ready', flush=True); sys.stdin.readline(); schema.upgrade(Database(sys.argv[1], create=True))"
    )
    url, root = server.new(), Path(__file__).parents[3]
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == [b"ready\n"] * 2
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0]
    assert schema.current_version(Database(url)) == schema.needed_version()


@pytest.mark.parametrize("table", [organization, inbound_message, document, held_mail], ids=lambda t: t.name)
def test_updated_at_moves_whoever_writes(records, table):
    message = inserted(records)
    known = records.messages.find_identity(1, "EMAIL", message.source_message_id)
    records.held_mail.insert(known, new(fingerprint="e" * 64))
    assert records.documents.record(claimed(records, message), [part()], [], NOW, is_complete=True)
    column = next(c for c in table.c if c.name in ("name", "subject", "filename"))
    with records.database.write(ALL_TENANTS) as connection:
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        connection.execute(table.update().values(updated_at=long_ago))
    with records.database.write(ALL_TENANTS) as connection:
        before = connection.scalar(sa.select(table.c.updated_at).limit(1))
        connection.execute(table.update().values({column.name: "changed"}))
    with records.database.read(ALL_TENANTS) as connection:
        after, created = connection.execute(sa.select(table.c.updated_at, table.c.created_at).limit(1)).one()
    now = datetime.now(UTC)
    assert after > before >= long_ago and now - after < 5 * MINUTE and now - created < 5 * MINUTE


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (inbound_message, {"status": "LOST"}),
        (inbound_message, {"source": "FAX"}),
        (document, {"handover": "LOST"}),
        (inbound_message, {"org_id": 99}),
        (document, {"inbound_message_id": UUID(int=1)}),
        (inbound_message, {"digest": None}),
    ],
    ids=str,
)
def test_the_database_refuses_what_no_row_may_be(records, table, values):
    stored(records, [part()])
    with pytest.raises(sa.exc.IntegrityError), records.database.write(ALL_TENANTS) as connection:
        connection.execute(table.update().values(values))


# Identity and held mail


def test_a_message_is_read_back_as_it_was_recorded(records):
    message = inserted(records)
    found = row(records, message)
    assert NewMessage(**{name: getattr(found, name) for name in vars(message)}) == message
    assert (found.status, found.attempts, found.worker, found.error_json) == (Status.RECEIVED, 0, None, None)
    assert found.next_attempt_at == NOW and found.received_at.tzinfo is not None


@pytest.mark.parametrize(
    "moment",
    [
        NOW,
        NOW.replace(microsecond=0),
        NOW.astimezone(timezone(timedelta(hours=-7))),
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(9999, 12, 30, tzinfo=UTC),
    ],
    ids=str,
)
def test_times_are_aware_utc_whatever_zone_they_came_in(records, moment):
    found = row(records, inserted(records, sent_at=moment))
    assert found.sent_at == moment and found.sent_at.utcoffset() == timedelta(0)


def test_an_identity_is_recorded_once(records):
    first = inserted(records)
    assert not records.messages.insert(new(source_message_id=first.source_message_id), NOW)
    assert not records.messages.insert(first, NOW)
    assert records.messages.count(Filter()) == 1 and row(records, first).subject == "Order 17"


def test_an_identity_is_one_of_organization_source_and_message_id(records):
    for changes in ({}, {"org_id": 2}, {"source": "UPLOAD"}, {"source_message_id": "<18>"}):
        inserted(records, **{"source_message_id": "<17>", **changes})
    assert records.messages.count(Filter()) == 4


def test_of_many_inserts_at_once_one_is_recorded(records):
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda _: records.messages.insert(new(source_message_id="<17>"), NOW), range(12)))
    assert sorted(won) == [False] * 11 + [True]


def test_a_known_identity_tells_its_message_and_every_content(records):
    first = inserted(records, source_message_id="<17>")
    assert records.messages.find_identity(1, "EMAIL", "<18>") is None
    known = records.messages.find_identity(1, "EMAIL", "<17>")
    assert (known.id, known.digests) == (first.id, {"f" * 64: "d" * 64})
    assert records.held_mail.insert(known, new(fingerprint="e" * 64, digest="c" * 64))
    known = records.messages.find_identity(1, "EMAIL", "<17>")
    assert (known.id, known.digests) == (first.id, {"f" * 64: "d" * 64, "e" * 64: "c" * 64})


def clashing(records, **changes):
    first = inserted(records, source_message_id=f"<{uuid4()}>", **changes)
    known = records.messages.find_identity(first.org_id, "EMAIL", first.source_message_id)
    later = new(fingerprint="e" * 64, subject="Order 17, later", **changes)
    return known, later, records.held_mail.insert(known, later)


def test_held_mail_is_recorded_once_by_its_content(records):
    known, later, was_new = clashing(records)
    assert was_new and not records.held_mail.insert(known, replace(later, id=uuid4()))
    (found,) = records.held_mail.open()
    assert (found.id, found.inbound_message_id, found.subject) == (later.id, known.id, "Order 17, later")
    assert records.held_mail.count_open() == 1


def told(kind, id, **changes):
    return Event(1, id, kind, "me@here", NOW, **changes)


def test_held_mail_is_accepted_once_with_its_message(records):
    _, later, _ = clashing(records)
    (found,) = records.held_mail.open()
    accepted = replace(later, id=uuid4(), source_message_id="<17#e>")
    event = told(EventKind.ACCEPTED, found.id, details={"why": "they called"})
    assert records.held_mail.resolve(found, accepted, NOW, event)
    assert not records.held_mail.resolve(found, replace(accepted, id=uuid4()), NOW, event)
    assert records.events.of(1, found.id) == [event]
    assert records.events.of(1, accepted.id) == [replace(event, inbound_message_id=accepted.id)]
    assert records.held_mail.open() == [] and records.held_mail.count_open() == 0
    assert row(records, accepted).status is Status.RECEIVED and records.messages.count(Filter()) == 2


def test_a_held_mail_that_is_discarded_makes_no_message(records):
    clashing(records)
    (found,) = records.held_mail.open()
    assert records.held_mail.resolve(found, None, NOW, told(EventKind.DISCARDED, found.id))
    assert records.messages.count(Filter()) == 1 and records.held_mail.open() == []


def test_what_is_held_for_its_sender_clashes_with_nothing_and_is_held_once(records):
    later = new(fingerprint="e" * 64)
    assert records.held_mail.insert(None, later, HoldReason.SENDER_NOT_ALLOWED)
    assert not records.held_mail.insert(None, replace(later, id=uuid4()), HoldReason.SENDER_NOT_ALLOWED)
    (found,) = records.held_mail.open()
    assert (found.id, found.inbound_message_id, found.reason) == (later.id, None, HoldReason.SENDER_NOT_ALLOWED)


def test_held_mail_is_found_by_its_message_id_until_it_is_a_message(records):
    _, other, _ = clashing(records)
    alone = new(fingerprint="e" * 64, source_message_id="<alone@x>")
    assert records.held_mail.insert(None, alone, HoldReason.SENDER_NOT_ALLOWED)

    def found(message_id, **chosen):
        return [one.id for one in records.held_mail.find(Filter(message_id=message_id, **chosen), 9)]

    assert found(alone.source_message_id) == found(alone.source_message_id, org_id=1) == [alone.id]
    assert found(other.source_message_id) == [other.id] and found(alone.source_message_id, org_id=2) == []
    assert [one.id for one in records.held_mail.that_begin(1, alone.id.hex[:9], 9)] == [alone.id]
    (one, two) = sorted(records.held_mail.open(), key=lambda held: held.id == alone.id)
    assert records.held_mail.resolve(two, None, NOW, told(EventKind.DISCARDED, two.id))
    accepted = replace(other, id=uuid4(), source_message_id="<17#e>")
    assert records.held_mail.resolve(one, accepted, NOW, told(EventKind.ACCEPTED, one.id))
    assert found(alone.source_message_id) == [alone.id] and found(other.source_message_id) == []


def test_what_workers_have_in_hand_is_begun_anew_and_nothing_else_is_touched(records):
    attempt, waiting, done = claimed(records, inserted(records)), inserted(records), stored(records, [part()])
    other = claimed(records, inserted(records, org_id=2))
    assert records.messages.finish(done, {})
    lost = claimed(records, inserted(records), NOW - 2 * LEASE)
    before = [row(records, one) for one in (waiting, done, other, lost)]
    assert records.erasure.unseat(1, NOW) == [attempt.id]
    assert [row(records, one) for one in (waiting, done, other, lost)] == before
    assert not records.messages.finish(attempt, {}), "its lease is lost"
    again = claimed(records, attempt)
    assert (again.attempts, again.status) == (1, Status.RECEIVED)


def test_what_is_being_erased_is_not_led_back(records):
    done = stored(records, [part()])
    assert records.messages.finish(done, {})
    message = row(records, done)
    assert records.erasure.take(1, [message.id], NOW, LEASE) == set()
    replayed = told(EventKind.REPLAYED, message.id)
    assert not records.documents.replay(message, NOW + MINUTE, replayed)
    assert records.documents.replay(message, NOW + 2 * LEASE, replayed), "whoever erased it is gone"


def test_mail_is_found_by_words_of_sender_subject_and_document(records):
    order = stored(records, [part(filename="PO_4711-final.pdf")], subject="Bestellung 4711/26 für März")
    other = inserted(records, from_email="Sales@Acme-Tools.example", subject="Order 17")

    def found(**chosen):
        return {message.id for message in records.messages.select(Filter(**chosen), 9)}

    assert found(words="4711") == found(words="best 47 BUYER") == found(words="märz") == {order.id}
    assert found(words="order 4711") == found(words="%") == found(words="!") == set()
    assert found(words="MÄRZ FÜR") == {order.id}
    assert found(words="acme tools") == found(sender="sales@acme-tools.example") == {other.id}
    assert found(sender="@acme-tools.example") == {other.id} and found(sender="@tools.example") == set()
    assert found(sender="@shop.example") == {order.id, other.id}, "the envelope counts too"
    assert found(document_words="po 4711 fin") == {order.id} and found(document_words="order") == set()
    assert (
        found(message_id=other.source_message_id) == found(message_id=other.source_message_id, org_id=1) == {other.id}
    )
    assert found(message_id=other.source_message_id, org_id=2) == set()
    assert found(document_type="application/pdf") == found(document_type="application/*") == {order.id}
    assert found(document_type="application/p_f") == found(document_type="image/*") == set()
    assert found(unseen=True) == {order.id}
    assert found(source="EMAIL") == {order.id, other.id} and found(source="UPLOAD") == set()


def test_mail_is_found_by_the_class_of_its_error_or_of_a_documents(records):
    one, two = claimed(records, inserted(records)), stored(records, [part()])
    records.messages.give_up(one, {"error": "ObjectMissing", "attempt": 4})
    (failing,) = records.documents.of_message(1, two.id)
    records.documents.retry_later(
        records.documents.claim(1, failing.id, "w", NOW, LEASE), {"error": "KeyError"}, 1, NOW
    )

    def found(error):
        return {message.id for message in records.messages.select(Filter(error=error), 9)}

    assert found("ObjectMissing") == {one.id} and found("KeyError") == {two.id} and found("Key") == set()
    both = Filter(error="KeyError", statuses=(Status.STORED,), org_id=1)
    assert [message.id for message in records.messages.select(both, 9)] == [two.id]
    assert records.documents.count(both) == (1, 1) and records.documents.count(Filter(error="ObjectMissing")) == (0, 0)


def test_what_is_said_of_documents_is_met_by_one_of_them(records):
    attempt = stored(records, [part("1", filename="a.pdf"), part("2", filename="b.png", content_type="image/png")])
    one, two = records.documents.of_message(1, attempt.id)
    other = stored(records, [part("1")])
    records.documents.finish(records.documents.claim(1, two.id, "w", NOW, LEASE))

    def found(**chosen):
        counted = records.documents.count(Filter(**chosen))
        meant = records.documents.of_messages(records.messages.select(Filter(**chosen), 9), Filter(**chosen))
        documents = [document.id for of_one in meant.values() for document in of_one]
        assert counted == (len(documents), len(meant)) and all(meant.values())
        return documents

    assert found(document_ids=(one.id, two.id)) == [one.id, two.id]
    assert found(document_ids=(two.id,), unseen=True) == found(document_ids=(one.id,), org_id=2) == []
    assert found(document_type="image/*") == [two.id] and found(document_type="image/*", unseen=True) == []
    assert found(document_words="a", unseen=True, ids=(attempt.id, other.id)) == [one.id]
    assert records.documents.of_messages([]) == {}


def test_what_came_lately_is_counted_by_status_of_a_day_and_of_a_week(records):
    for days in (0, 2, 9):
        inserted(records, received_at=NOW - timedelta(days=days))
    records.messages.give_up(claimed(records, inserted(records, org_id=2)), {"error": "X"})
    day, week = NOW - timedelta(days=1), NOW - timedelta(days=7)
    found = records.overview.recent_counts(day, week)
    assert (found[Status.RECEIVED].day, found[Status.RECEIVED].week) == (1, 2)
    assert (found[Status.FAILED].day, found[Status.PARSED].week) == (1, 0)
    assert records.overview.recent_counts(day, week, 1)[Status.FAILED].week == 0


def test_organizations_are_told_with_the_most_trouble_first(records):
    inserted(records, received_at=NOW - MINUTE)
    clashing(records, org_id=2)
    failing = stored(records, [part(object_key="org/2/documents/a")], org_id=2)
    (one,) = records.documents.of_message(2, failing.id)
    records.documents.give_up(records.documents.claim(2, one.id, "w", NOW, LEASE), {"error": "X"})
    two, acme = records.overview.by_organization(NOW - timedelta(days=1), NOW - timedelta(days=7))
    assert (two.org_id, two.trouble, two.counts["held"], two.counts["documents FAILED"]) == (2, 2, 1, 1)
    assert (acme.org_id, acme.trouble, acme.counts["unfinished"], acme.counts["week"]) == (1, 0, 1, 1)
    assert (acme.oldest_unfinished, two.counts["day"]) == (NOW - MINUTE, 2)


def test_the_last_errors_are_told_by_class_and_place_and_how_often(records):
    def error(name, minute):
        return {"error": name, "where": "a.py:1", "at": f"2026-11-20T08:{minute}:00+00:00", "attempt": 1}

    records.messages.retry_later(claimed(records, inserted(records)), error("X", "01"), 1, NOW)
    for minute, org_id in (("05", 1), ("03", 2)):
        records.messages.give_up(claimed(records, inserted(records, org_id=org_id)), error("X", minute))
    old = inserted(records, received_at=NOW - timedelta(days=9))
    records.messages.give_up(claimed(records, old), error("Old", "09"))
    pending = stored(records, [part()])
    (one,) = records.documents.of_message(1, pending.id)
    records.documents.retry_later(records.documents.claim(1, one.id, "w", NOW, LEASE), error("KeyError", "07"), 1, NOW)
    since = NOW - timedelta(days=7)
    last, first = records.overview.last_errors(since, 9)
    assert (last.what, last.error, last.where, last.rows) == ("hand-over", "KeyError", "a.py:1", 1)
    assert (first.what, first.error, first.last_at[14:16], first.rows) == ("extraction", "X", "05", 3)
    assert records.overview.last_errors(since, 1) == [last]
    assert [found.rows for found in records.overview.last_errors(since, 9, 2)] == [1]


def test_the_hand_over_of_listed_messages_is_counted(records):
    done, none = stored(records, [part("1"), part("2")]), inserted(records, org_id=2)
    one, _ = records.documents.of_message(1, done.id)
    records.documents.finish(records.documents.claim(1, one.id, "w", NOW, LEASE))
    found = records.overview.hand_overs(records.messages.select(Filter(), 9))
    assert found == {(1, done.id): {HandOver.DONE: 1, HandOver.PENDING: 1}, (2, none.id): {}}
    assert records.overview.hand_overs([]) == {}


def test_a_message_is_known_by_the_beginning_of_its_id_within_its_organization(records):
    ids = [UUID(f"abcd{n}000-0000-4000-8000-000000000000") for n in "12"] + [UUID("ff" * 16)]
    for id in ids:
        inserted(records, id=id)
    begin = records.overview.ids_that_begin
    assert begin(1, "abcd", 9) == ids[:2] and begin(1, "abcd", 1) == ids[:1]
    assert begin(1, "abcd2", 9) == [ids[1]] and begin(1, "f" * 31, 9) == [ids[2]]
    assert begin(2, "abcd", 9) == begin(1, "abce", 9) == []


def test_held_mail_is_found_by_its_id_its_message_and_its_content(records):
    known, later, _ = clashing(records)
    alone = new(fingerprint="a" * 64)
    assert records.held_mail.insert(None, alone, HoldReason.SENDER_NOT_ALLOWED)
    assert [held.id for held in records.held_mail.of_message(1, known.id)] == [later.id]
    assert records.held_mail.alone(1, "a" * 64).id == alone.id
    assert records.held_mail.alone(1, "e" * 64) is records.held_mail.alone(2, "a" * 64) is None
    assert [held.id for held in records.held_mail.of_id(alone.id)] == [alone.id]
    assert records.held_mail.of_id(alone.id, 2) == []
    assert records.held_mail.count_open_by_reason() == {
        HoldReason.MESSAGE_ID_REUSED: 1,
        HoldReason.SENDER_NOT_ALLOWED: 1,
    }
    assert records.held_mail.count_open_by_reason(2) == {
        HoldReason.MESSAGE_ID_REUSED: 0,
        HoldReason.SENDER_NOT_ALLOWED: 0,
    }


def test_settings_are_changed_key_by_key_and_what_a_newer_version_wrote_stays(records):
    organizations = records.organizations
    with records.database.write(NO_TENANT) as connection:
        connection.execute(organization.update().values(settings={"color": "red"}))
    assert organizations.find("acme").settings.max_message_size is None
    assert organizations.change_settings("acme", {"max_message_size": "17", "reused_message_id": "accept"})
    assert organizations.change_settings("acme", {"max_message_size": ""})
    found = organizations.find("acme")
    assert found.stored == {"color": "red", "reused_message_id": "accept"} and found.settings.accepts_reused_message_id
    assert organizations.get(found.id) == found and organizations.get(99) is None
    assert not organizations.change_settings("nope", {"reused_message_id": "hold"})
    with pytest.raises(OrgSettingsError):
        organizations.change_settings("acme", {"reused_message_id": "maybe"})
    assert not organizations.find("bolt").settings.accepts_reused_message_id


def test_two_who_change_settings_at_the_same_time_both_get_theirs(records):
    changes = [{"max_message_size": "17"}, {"keep_raw_days": "9"}, {"reused_message_id": "accept"}] * 4
    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(lambda change: records.organizations.change_settings("acme", change), changes))
    assert set(records.organizations.find("acme").stored) == {"max_message_size", "keep_raw_days", "reused_message_id"}


def test_common_words_and_rare_ones_find_the_same_whichever_end_is_begun_at(records, monkeypatch):
    both = [stored(records, [part(filename=f"order {n}.pdf")], subject=f"Order {n}") for n in range(5)]
    for many, common in ((1, 0), (9, 0), (9, 3), (9, 100)):
        monkeypatch.setattr(selection, "MANY", many)
        monkeypatch.setattr(selection, "COMMON", common)
        for org_id in (None, 1):
            for chosen in (
                Filter(org_id, words="order"), Filter(org_id, document_words="pdf"),
                Filter(org_id, sender="@shop.example"), Filter(org_id, words="order", document_words="order pdf"),
            ):  # fmt: skip
                assert {message.id for message in records.messages.select(chosen, 9)} == {
                    message.id for message in both
                }
                assert len(records.messages.select(chosen, 2)) == 2 and records.messages.count(chosen) == 5
            for chosen in (Filter(org_id, words="order 3"), Filter(org_id, document_words="3")):
                assert [message.id for message in records.messages.select(chosen, 9)] == [both[3].id]
        assert records.messages.select(Filter(2, words="order"), 9) == []


def test_every_end_of_an_attempt_is_an_event_of_its_message(records):
    attempt = claimed(records, inserted(records))
    records.messages.retry_later(attempt, {"error": "X", "attempt": 1}, 1, NOW)
    attempt = claimed(records, row(records, attempt))
    records.documents.record(attempt, [part()], [], NOW, is_complete=True)
    assert records.messages.finish(attempt, {"documents": 1})
    assert not records.messages.finish(attempt, {"documents": 1})
    (one,) = records.documents.of_message(1, attempt.id)
    records.documents.finish(records.documents.claim(1, one.id, "w", NOW, LEASE))
    message = row(records, attempt)
    events = [*message.first_events(), *records.events.of(message.org_id, message.id)]
    kinds = EventKind
    assert [event.kind for event in events] == [
        kinds.RECEIVED, kinds.RECORDED, kinds.ATTEMPT_FAILED, kinds.EXTRACTED, kinds.HANDED_OVER,
    ]  # fmt: skip
    assert events[2].details == {"error": "X", "attempt": 1} and events[2].actor.startswith("w")
    assert (events[4].document_id, events[4].run_id) == (one.id, None)
    assert records.events.of(2, attempt.id) == []


def test_a_run_is_remembered_with_how_far_it_has_come(records):
    run = Run(uuid4(), "replay message", "me@here", {"org": 1}, None, 7, 0, 0, 0, NOW, NOW, None)
    records.runs.begin(run)
    records.runs.begin(replace(run, command="another"))
    assert records.runs.latest() == [run]
    records.runs.advance(run.id, ["2026-11-20", "id"], 3, 1, 2, NOW + MINUTE)
    found = records.runs.get(run.id)
    assert (found.position, found.done, found.passed_over, found.failed) == (["2026-11-20", "id"], 3, 1, 2)
    assert (found.updated_at, found.ended_at) == (NOW + MINUTE, None)
    records.runs.advance(run.id, None, 7, 0, 0, NOW + LEASE, is_over=True)
    assert records.runs.get(run.id).ended_at == NOW + LEASE and records.runs.get(uuid4()) is None


# Attempts: claim, lease, fence


def test_of_two_threads_that_claim_one_wins(records):
    for _ in range(5):
        message, start = inserted(records), threading.Barrier(2)

        def claim(message=message, start=start):
            start.wait(30)
            return claimed(records, message)

        with ThreadPoolExecutor(2) as pool:
            attempts = [done.result() for done in [pool.submit(claim) for _ in range(2)]]
        (winner,) = [attempt for attempt in attempts if attempt]
        assert winner.attempts == 1 and winner.worker and winner.next_attempt_at == NOW + LEASE


@pytest.mark.parametrize(
    ("later", "is_given"), [(timedelta(0), False), (LEASE - MINUTE, False), (LEASE, True), (LEASE + MINUTE, True)]
)
def test_a_claimed_message_is_given_again_when_its_lease_is_over(records, later, is_given):
    message = inserted(records)
    first = claimed(records, message)
    second = claimed(records, message, NOW + later)
    assert (second is not None) == is_given
    if second:
        assert second.attempts == 2 and second.worker != first.worker, "the same worker's next attempt has another mark"


def endings(records, attempt):
    """Do everything that an attempt at a message may write."""
    messages = records.messages
    return {
        "record": records.documents.record(attempt, [part()], [], NOW, is_complete=True),
        "record in part": records.documents.record(attempt, [part()], [], NOW, is_complete=False),
        "stored": messages.move(attempt, Status.STORED),
        "parsed": messages.finish(attempt, {}),
        "retry": messages.retry_later(attempt, {"error": "late"}, 1, NOW),
        "give up": messages.give_up(attempt, {"error": "late"}),
    }


@pytest.mark.parametrize("status", [Status.RECEIVED, Status.STORED])
def test_a_lost_lease_can_write_nothing(records, status):
    message = inserted(records)
    lost = claimed(records, message)
    if status is Status.STORED:
        assert records.messages.move(lost, Status.STORED)
    claimed(records, message, NOW + LEASE)
    before = row(records, message)
    assert set(endings(records, lost).values()) == {False}
    assert row(records, message) == before and records.documents.of_message(1, message.id) == []


def test_an_attempt_that_ended_can_write_nothing_more(records):
    message = inserted(records)
    attempt = claimed(records, message)
    assert records.messages.retry_later(attempt, {"error": "x"}, 1, NOW + MINUTE)
    before = row(records, message)
    assert set(endings(records, attempt).values()) == {False} and row(records, message) == before


def test_who_claimed_nothing_can_write_nothing(records):
    message = inserted(records)
    before = row(records, message)
    assert set(endings(records, before).values()) == {False} and row(records, message) == before


def test_a_failed_attempt_tells_why_and_begins_again_when_it_is_due(records):
    message = inserted(records)
    error = {"error": "X", "detail": "bü \U0001f4e6", "attempt": 1, "list": [1, None]}
    assert records.messages.retry_later(claimed(records, message), error, 1, NOW + MINUTE)
    found = row(records, message)
    assert (found.status, found.attempts, found.worker, found.error_json) == (Status.RECEIVED, 1, None, error)
    assert claimed(records, message, NOW) is None
    assert claimed(records, message, NOW + MINUTE).attempts == 2


def test_a_message_goes_from_received_to_stored_to_parsed(records):
    message = inserted(records)
    attempt = claimed(records, message)
    assert records.messages.move(attempt, Status.STORED) and row(records, message).worker == attempt.worker
    assert records.messages.finish(attempt, {})
    found = row(records, message)
    assert (found.status, found.worker, found.error_json) == (Status.PARSED, None, None)
    assert claimed(records, message, NOW + 9 * LEASE) is None


def put_into(records, message, status):
    """Put a message into a status, keeping the worker that it has."""
    with records.database.write(ALL_TENANTS) as connection:
        connection.execute(
            inbound_message.update().where(inbound_message.c.id == message.id).values(status=status.value)
        )


@pytest.mark.parametrize("target", [Status.STORED, Status.PARSED, Status.FAILED])
@pytest.mark.parametrize("status", list(Status))
def test_a_transition_that_status_refuses_is_refused_by_the_update(records, status, target):
    allowed = {(Status.RECEIVED, Status.STORED), (Status.STORED, Status.PARSED)}
    allowed |= {(Status.RECEIVED, Status.FAILED), (Status.STORED, Status.FAILED)}
    attempt = claimed(records, inserted(records))
    put_into(records, attempt, status)
    ends = {Status.FAILED: records.messages.give_up, Status.PARSED: records.messages.finish}
    moved = ends[target](attempt, {}) if target in ends else records.messages.move(attempt, target)
    assert moved == ((status, target) in allowed)
    assert row(records, attempt).status is (target if moved else status)


@pytest.mark.parametrize("status", [Status.PARSED, Status.FAILED])
def test_a_finished_message_is_neither_claimed_nor_retried_nor_recorded(records, status):
    attempt = claimed(records, inserted(records))
    put_into(records, attempt, status)
    assert claimed(records, attempt, NOW + LEASE) is None
    assert not records.messages.retry_later(attempt, {}, 1, NOW)
    assert not records.documents.record(attempt, [part()], [], NOW, is_complete=True)


@pytest.mark.parametrize("status", list(Status))
def test_a_replay_begins_anew_and_takes_the_message_from_who_has_it(records, status):
    attempt = claimed(records, inserted(records))
    put_into(records, attempt, status)
    assert lead_back(records, row(records, attempt), NOW + MINUTE)
    found = row(records, attempt)
    assert (found.status, found.attempts, found.worker, found.error_json) == (Status.RECEIVED, 0, None, None)
    assert found.next_attempt_at == NOW + MINUTE and set(endings(records, attempt).values()) == {False}
    assert claimed(records, attempt).attempts == 1


def test_a_replay_of_what_moved_meanwhile_is_refused(records):
    message = inserted(records)
    seen = row(records, message)
    attempt = claimed(records, message)
    assert not lead_back(records, seen, NOW)
    seen = row(records, message)
    assert records.messages.give_up(attempt, {"error": "x"})
    assert not lead_back(records, seen, NOW) and row(records, message).status is Status.FAILED


def test_a_replay_that_is_refused_leaves_the_documents_alone(records):
    attempt = stored(records, [part("1")])
    (found,) = records.documents.of_message(1, attempt.id)
    records.documents.finish(records.documents.claim(1, found.id, "w", NOW, LEASE))
    seen = row(records, attempt)
    assert records.messages.finish(attempt, {})
    assert not records.documents.replay(seen, NOW, told(EventKind.REPLAYED, seen.id))
    assert records.documents.of_message(1, attempt.id)[0].handover is HandOver.DONE


def test_what_is_due_is_listed_the_longest_due_first(records):
    moments = {minutes: inserted(records, org_id=1 + minutes % 2) for minutes in (3, 1, 2, 9)}
    for minutes, message in moments.items():
        records.messages.retry_later(claimed(records, message), {}, 1, NOW + minutes * MINUTE)
    records.messages.give_up(claimed(records, moments[2], NOW + 2 * MINUTE), {})
    due = records.messages.due(NOW + 3 * MINUTE, 10)
    assert due == [(2, moments[1].id), (2, moments[3].id)]
    assert records.messages.due(NOW + 3 * MINUTE, 1) == due[:1]


@pytest.mark.parametrize("name", ["messages", "documents"])
def test_due_is_read_from_its_partial_index_alone(records, name):
    stored(records, [part(str(n)) for n in range(3)])
    with records.database.write(ALL_TENANTS) as connection:
        many = [{**column_values(new()), "status": "PARSED", "next_attempt_at": NOW} for _ in range(500)]
        connection.execute(inbound_message.insert(), many)
        done = [
            {
                **column_values(part("1")),
                "org_id": 1,
                "inbound_message_id": m["id"],
                "handover": "DONE",
                "next_attempt_at": NOW,
            }
            for m in many
        ]
        connection.execute(document.insert(), done)
        connection.exec_driver_sql("ANALYZE")
    asked = []
    sa.event.listen(records.database.engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
    getattr(records, name).due(NOW + LEASE, 1000)
    statement, parameters = asked[-1]
    explain = "EXPLAIN QUERY PLAN "
    with records.database.read(ALL_TENANTS) as connection:
        if not records.database.is_sqlite:
            find = "SELECT prosrc FROM pg_proc WHERE proname = %s"
            body = connection.exec_driver_sql(find, (f"orderflow_due_{name}",)).scalar_one()
            statement, parameters = body.replace("$1", "%s").replace("$2", "%s"), (NOW + LEASE, 1000)
            explain = "EXPLAIN "
        plan = "\n".join(str(tuple(r)) for r in connection.exec_driver_sql(explain + statement, parameters))
    index = {"messages": "ix_inbound_message_unfinished", "documents": "ix_document_pending"}[name]
    assert index in plan and "Seq Scan" not in plan and "SCAN " not in plan and "TEMP B-TREE" not in plan


# Choosing messages


def test_messages_are_paged_the_newest_first_and_each_once(records):
    moments = [NOW, NOW, NOW, NOW - MINUTE, NOW + MINUTE, NOW + timedelta(microseconds=1), NOW]
    ids = {inserted(records, received_at=moment).id for moment in moments}
    found, page = [], []
    while page := records.messages.select(Filter(org_id=1), 2, page[-1] if page else None):
        found += page
    assert [m.received_at for m in found] == sorted(moments, reverse=True)
    assert len(found) == len(ids) and {m.id for m in found} == ids


@pytest.mark.parametrize(
    ("chosen", "subjects"),
    [
        ({}, "abc"),
        ({"org_id": 1}, "ab"),
        ({"org_id": 2}, "c"),
        ({"org_id": 3}, ""),
        ({"statuses": (Status.RECEIVED,)}, "bc"),
        ({"statuses": (Status.STORED,)}, ""),
        ({"statuses": (Status.FAILED, Status.PARSED)}, "a"),
        ({"statuses": (Status.FAILED, Status.RECEIVED), "org_id": 1}, "ab"),
        ({"statuses": tuple(Status), "since": NOW}, "bc"),
        ({"since": NOW}, "bc"),
        ({"until": NOW}, "a"),
        ({"since": NOW, "until": NOW + MINUTE}, "b"),
        ({"ids": (UUID(int=1), UUID(int=3), UUID(int=9))}, "ac"),
        ({"org_id": 1, "ids": (UUID(int=3),)}, ""),
    ],
)
def test_a_filter_chooses_and_counts_the_same(records, chosen, subjects):
    a, _, _ = (
        inserted(records, id=UUID(int=n), subject=subject, org_id=org_id, received_at=NOW + (n - 2) * MINUTE)
        for n, (subject, org_id) in enumerate([("a", 1), ("b", 1), ("c", 2)], 1)
    )
    records.messages.give_up(claimed(records, a), {})
    found = records.messages.select(Filter(**chosen), 10)
    assert "".join(sorted(m.subject for m in found)) == subjects
    assert records.messages.count(Filter(**chosen)) == len(subjects)


def test_every_status_is_counted_and_the_oldest_unfinished_told(records):
    assert records.messages.oldest_unfinished() is None
    old, younger = (inserted(records, received_at=NOW - n * MINUTE) for n in (2, 1))
    assert records.messages.oldest_unfinished() == old.received_at
    records.messages.give_up(claimed(records, old), {})
    assert records.messages.oldest_unfinished(1) == younger.received_at
    assert records.messages.count_by_status(NOW) == {"RECEIVED": 1, "STORED": 0, "PARSED": 0, "FAILED": 1}


def test_of_what_is_parsed_the_latest_is_counted(records):
    for org_id, minutes in ((1, 0), (1, 1), (2, 1), (1, 2)):
        message = inserted(records, org_id=org_id, received_at=NOW - minutes * MINUTE)
        put_into(records, message, Status.PARSED)
    nothing = {"RECEIVED": 0, "STORED": 0, "FAILED": 0}
    assert records.messages.count_by_status(NOW - MINUTE) == {**nothing, "PARSED": 3}
    assert records.messages.count_by_status(NOW - MINUTE, 1) == {**nothing, "PARSED": 2}


DAY = timedelta(days=1)


def now_of(records):
    """Return the time by the clock that writes the rows."""
    return records.database.now()


def by_a_clock_that_was_ahead(records, table, id):
    """Change a row as it had been written a day later."""
    times = {"updated_at": table.c.updated_at, "next_attempt_at": table.c.next_attempt_at}
    with records.database.write(ALL_TENANTS) as connection:
        if not records.database.is_sqlite:  # its trigger would write the time of now
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        before = connection.execute(sa.select(*times.values()).where(table.c.id == id)).one()
        later = {name: value + DAY for name, value in zip(times, before, strict=True)}
        connection.execute(table.update().where(table.c.id == id).values(**later))


def test_a_due_time_that_a_clock_that_was_ahead_has_written_is_due(records):
    """It was a day ahead when the retry was noted, and is right again."""
    records.database.longest_delay = timedelta(hours=1)
    now = now_of(records)
    soon, odd, later = (inserted(records) for _ in range(3))
    for message, due in ((soon, now), (odd, now), (later, now + timedelta(minutes=59))):
        records.messages.retry_later(claimed(records, message, now=now), {}, 1, due)
    by_a_clock_that_was_ahead(records, inbound_message, odd.id)
    assert [id for _, id in records.messages.due(now, 10)] == [odd.id, soon.id]
    assert [id for _, id in records.messages.due(now, 1)] == [odd.id]
    assert claimed(records, later, now=now) is None
    attempt = claimed(records, odd, now=now)
    assert (attempt.attempts, attempt.next_attempt_at) == (2, now + LEASE)


def test_a_retry_that_a_host_of_longer_delays_has_noted_is_due_when_it_says(records):
    """While a deploy changes ORDERFLOW_RETRY_DELAY, hosts have other longest delays."""
    records.database.longest_delay = timedelta(hours=1)
    now = now_of(records)
    message = inserted(records)
    parsed = stored(records, [part("1")])
    (waiting,) = records.documents.of_message(1, parsed.id)
    records.messages.finish(parsed, {})
    records.messages.retry_later(claimed(records, message, now=now), {}, 1, now + DAY)
    attempt = records.documents.claim(1, waiting.id, "host:1", now, LEASE)
    records.documents.retry_later(attempt, {}, 1, now + DAY)
    assert records.documents.claim(1, waiting.id, "host:1", now, LEASE) is None
    assert claimed(records, message, now=now) is None and records.messages.lag(now) == 0
    assert records.messages.due(now, 10) == [] == records.documents.due(now, 10)
    assert claimed(records, message, now=now + DAY).attempts == 2


def test_a_message_that_a_clock_that_was_ahead_has_written_is_overdue_on_sqlite(records):
    """PostgreSQL's times are all by the server's clock."""
    records.database.longest_delay = timedelta(hours=1)
    now = now_of(records)
    message = inserted(records, received_at=now - MINUTE)
    records.messages.retry_later(claimed(records, message, now=now), {}, 1, now)
    by_a_clock_that_was_ahead(records, inbound_message, message.id)
    assert records.messages.lag(now) == (60 if records.database.is_sqlite else 0)


def test_what_a_worker_has_in_hand_gets_a_lease_by_a_clock_that_was_set_back(records):
    records.database.longest_delay = timedelta(hours=1)
    now = now_of(records)
    message = inserted(records)
    first = claimed(records, message, now=now)
    by_a_clock_that_was_ahead(records, inbound_message, message.id)
    assert claimed(records, message, now=now) is None
    found = row(records, message)
    assert (found.worker, found.attempts, found.next_attempt_at) == (first.worker, 1, now + LEASE)
    assert records.messages.move(first, Status.STORED), "it has lost nothing"


def test_a_document_that_a_clock_that_was_ahead_has_written_is_due(records):
    records.database.longest_delay = timedelta(hours=1)
    now = now_of(records)
    (document_row,) = records.documents.of_message(1, stored(records, [part("1")]).id)
    attempt = records.documents.claim(1, document_row.id, "host:1", now, LEASE)
    records.documents.retry_later(attempt, {}, 1, now)
    by_a_clock_that_was_ahead(records, document, document_row.id)
    assert records.documents.due(now, 10) == [(1, document_row.id)]
    assert records.documents.claim(1, document_row.id, "host:1", now, LEASE).attempts == 2


def test_rows_in_hand_are_told_by_whose_mark_they_have_of_all_tenants(records):
    mine, other, _ = inserted(records), inserted(records, org_id=2), inserted(records)
    mark = records.messages.claim(1, mine.id, "mail_1:7@a.b", NOW, LEASE).worker
    records.messages.claim(2, other.id, "mail-1:7@a.b", NOW, LEASE)
    assert records.messages.in_hand("mail_1:") == [(1, mine.id, mark)]
    assert records.messages.in_hand("mail%") == [] and records.documents.in_hand("mail_1:") == []


def sweeper(records, who, gone=()):
    return SweepClaim(records.database, who, lambda name: name in gone)


def test_one_consumer_sweeps_at_a_time_and_one_that_was_killed_holds_nothing(records):
    a, b, c, d = (sweeper(records, name) for name in "abcd")
    assert a.take(NOW) and not b.take(NOW) and a.take(NOW), "its next worker process"
    assert not b.take(NOW + LASTS - timedelta(seconds=1)) and b.take(NOW + LASTS)
    a.give_back(NOW + LASTS)
    assert not a.take(NOW + LASTS)
    b.give_back(NOW + LASTS)
    assert c.take(NOW + LASTS)
    assert d.take(NOW - timedelta(days=1)), "a clock was a day ahead"


def test_hosts_of_one_name_do_not_sweep_at_the_same_time(records):
    """Each consumer has a name of its own; the claim of one whose process is gone is free for who can tell."""
    assert sweeper(records, "mail:1@aa.bb/1").take()
    assert not sweeper(records, "mail:1@cc.dd/2", gone={"mail:1@aa.ee/1"}).take()
    started_again = sweeper(records, "mail:7@aa.ff/3", gone={"mail:1@aa.bb/1"})
    assert started_again.take() and started_again.hold()


def test_a_host_that_slept_in_its_sweep_has_lost_its_claim_where_another_has_swept(records):
    slept, other = sweeper(records, "a"), sweeper(records, "b")
    assert slept.take(NOW) and slept.hold(NOW + MINUTE), "nobody else has swept"
    assert other.take(NOW + 5 * MINUTE)
    assert not slept.hold(NOW + 5 * MINUTE) and not slept.hold(NOW + MINUTE)
    other.give_back(NOW + 5 * MINUTE)
    assert not slept.hold(NOW + 5 * MINUTE)
    assert other.hold(NOW + 5 * MINUTE) and not slept.take(NOW + 5 * MINUTE)


def test_a_host_whose_time_stood_still_takes_the_claim_of_none(records):
    """It was paused: what it holds for the time is five minutes old. The database's own clock decides."""
    if records.database.is_sqlite:
        return  # one host, one clock
    assert sweeper(records, "a").take()
    with records.database.read(NO_TENANT) as connection:
        now = connection.scalar(sa.select(sa.func.clock_timestamp()))
    records.database._clock = (clock_gettime(CLOCK_BOOTTIME), now - 5 * MINUTE)
    assert not sweeper(records, "b").take()


def test_the_time_goes_on_while_the_machine_is_suspended(records, monkeypatch):
    """CLOCK_MONOTONIC stands still then, and CLOCK_BOOTTIME does not."""
    before, slept = records.database.now(), clock_gettime(CLOCK_BOOTTIME) + 30
    monkeypatch.setattr("time.clock_gettime", lambda clock: slept)
    after = records.database.now()
    assert records.database.is_sqlite or after - before > timedelta(seconds=29)


def test_of_hosts_that_would_sweep_in_one_moment_one_does(url):
    many = [Records(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: sweeper(many[n], f"host{n}").take(NOW), range(8)))
    assert sum(taken) == 1
    for one in many:
        one.database.close()


def test_the_lag_is_that_of_the_longest_due_unfinished_message(records):
    assert records.messages.lag(NOW) == 0
    failed, claimed_one, due = (inserted(records) for _ in range(3))
    assert records.messages.lag(NOW - MINUTE) == 0 and records.messages.lag(NOW + MINUTE) == 60
    records.messages.give_up(claimed(records, failed), {})
    records.messages.retry_later(claimed(records, due), {}, 1, NOW + MINUTE)
    attempt = claimed(records, claimed_one)
    assert records.messages.lag(NOW + MINUTE) == 0
    assert records.messages.lag(NOW + 2 * MINUTE) == 60
    assert records.messages.lag(NOW + LEASE + MINUTE) == (LEASE).total_seconds()
    records.messages.move(attempt, Status.STORED)
    records.messages.finish(attempt, {})
    put_into(records, due, Status.STORED)
    assert records.messages.lag(NOW + 3 * MINUTE) == 120


# Documents


def test_documents_and_skipped_parts_are_recorded_with_the_status(records):
    skipped = SkippedPart("3", None, "image/gif", "image/png", 5, "inline image", ["noise in base64"])
    first, second = part("1.2", kind=PartKind.BODY, filename=None, claimed_filename=None, detected_type=None), part("2")
    attempt = stored(records, [second, first], [skipped])
    found = records.documents.of_message(1, attempt.id)
    assert [NewDocument(**{n: getattr(d, n) for n in vars(first)}) for d in found] == [first, second]
    assert {(d.handover, d.attempts, d.worker, d.org_id, d.next_attempt_at) for d in found} == {
        (HandOver.PENDING, 0, None, 1, NOW)
    }
    assert records.documents.skipped(1, attempt.id) == [skipped] and row(records, attempt).status is Status.STORED


def test_a_message_without_documents_is_stored(records):
    assert records.documents.of_message(1, stored(records, []).id) == []


def lead_back(records, message, moment):
    with records.database.write(ALL_TENANTS) as connection:
        return records.messages.replay_in(connection, message, moment)


def again(records, attempt, parts, is_complete=True, skipped=()):
    lead_back(records, row(records, attempt), NOW)
    return records.documents.record(claimed(records, attempt), list(parts), list(skipped), NOW, is_complete=is_complete)


def test_documents_recorded_again_keep_their_ids_and_hand_over(records):
    attempt = stored(records, [part("1"), part("2", digest="b" * 64)])
    first, second = records.documents.of_message(1, attempt.id)
    records.documents.finish(records.documents.claim(1, first.id, "w", NOW, LEASE))
    assert again(records, attempt, [part("1"), part("2", digest="c" * 64), part("3")])
    one, two, three = records.documents.of_message(1, attempt.id)
    assert (one.id, one.handover) == (first.id, HandOver.DONE)
    assert (two.digest, two.handover) == ("c" * 64, HandOver.PENDING)
    assert len({first.id, second.id, two.id, three.id}) == 4, "other bytes are another document"


def test_documents_recorded_again_take_the_new_names_and_types(records):
    attempt = stored(records, [part("1", filename="BROKEN")])
    (before,) = records.documents.of_message(1, attempt.id)
    records.documents.finish(records.documents.claim(1, before.id, "w", NOW, LEASE))
    assert again(records, attempt, [part("1", filename="order.pdf", detected_type="application/pdf")])
    (found,) = records.documents.of_message(1, attempt.id)
    assert (found.id, found.handover) == (before.id, HandOver.DONE)
    assert (found.filename, found.detected_type) == ("order.pdf", "application/pdf")


def test_a_changed_document_is_taken_from_who_hands_over_the_old_one(records):
    attempt = stored(records, [part("1")])
    (old,) = records.documents.of_message(1, attempt.id)
    handing = records.documents.claim(1, old.id, "w", NOW, LEASE)
    assert again(records, attempt, [part("1", digest="b" * 64)])
    assert not records.documents.finish(handing)
    (found,) = records.documents.of_message(1, attempt.id)
    assert (found.handover, found.attempts, found.worker) == (HandOver.PENDING, 0, None)


def test_what_is_not_found_any_more_is_removed_when_all_was_stored(records):
    attempt = stored(
        records,
        [part("1"), part("2")],
        [SkippedPart("3", None, "image/gif", "image/png", 5, "inline image", ["noise in base64"])],
    )
    again(records, attempt, [part("1")], is_complete=False)
    assert len(records.documents.of_message(1, attempt.id)) == 2 and row(records, attempt).status is Status.RECEIVED
    assert records.documents.skipped(1, attempt.id) == []
    again(records, attempt, [part("1")])
    assert [d.part_path for d in records.documents.of_message(1, attempt.id)] == ["1"]
    again(records, attempt, [])
    assert records.documents.of_message(1, attempt.id) == []


def test_documents_are_recorded_all_or_none(records):
    attempt = claimed(records, inserted(records))
    with pytest.raises(sa.exc.IntegrityError):
        records.documents.record(attempt, [part("1"), part("2", declared_type=None)], [], NOW, is_complete=True)
    assert records.documents.of_message(1, attempt.id) == [] and row(records, attempt).status is Status.RECEIVED


def test_a_hand_over_is_claimed_once_and_fenced(records):
    attempt = stored(records, [part()])
    (found,) = records.documents.of_message(1, attempt.id)
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda _: records.documents.claim(1, found.id, "w", NOW, LEASE), range(4)))
    (first,) = [claim for claim in claims if claim]
    assert first.attempts == 1 and records.documents.due(NOW + LEASE, 9) == [(1, found.id)]
    second = records.documents.claim(1, found.id, "w", NOW + LEASE, LEASE)
    documents = records.documents
    for late in (first, found):
        assert not (documents.finish(late) or documents.give_up(late, {}) or documents.retry_later(late, {}, 1, NOW))
    assert documents.retry_later(second, {"error": "x"}, 2, NOW + 2 * LEASE) and documents.due(NOW + LEASE, 9) == []
    third = documents.claim(1, found.id, "w", NOW + 2 * LEASE, LEASE)
    assert third.attempts == 3 and third.error_json == {"error": "x"} and documents.finish(third)
    (done,) = documents.of_message(1, attempt.id)
    assert (done.handover, done.worker, done.error_json) == (HandOver.DONE, None, None)
    assert documents.claim(1, found.id, "w", NOW + 9 * LEASE, LEASE) is None and not documents.finish(third)


def test_a_replay_hands_every_document_over_again(records):
    attempt = stored(records, [part("1"), part("2")])
    one, two = records.documents.of_message(1, attempt.id)
    records.documents.finish(records.documents.claim(1, one.id, "w", NOW, LEASE))
    records.documents.give_up(records.documents.claim(1, two.id, "w", NOW, LEASE), {"error": "x"})
    assert records.documents.count_undone() == {"PENDING": 0, "FAILED": 1}
    event = told(EventKind.REPLAYED, attempt.id, run_id=uuid4())
    assert records.documents.replay(row(records, attempt), NOW + MINUTE, event)
    assert event in records.events.of(1, attempt.id)
    assert records.events.of_run(event.run_id, [attempt.id, uuid4()]) == {attempt.id}
    assert records.documents.count_undone(1) == {"PENDING": 2, "FAILED": 0}
    assert len(records.documents.due(NOW + MINUTE, 9)) == 2 and records.documents.due(NOW, 9) == []


def test_a_run_replays_a_message_once_whatever_becomes_of_it_meanwhile(records):
    """The second finds the message as it left it, so that nothing but the run's own event keeps it off."""
    attempt = stored(records, [part()])
    event = told(EventKind.REPLAYED, attempt.id, run_id=uuid4())
    assert records.documents.replay(row(records, attempt), NOW + MINUTE, event)
    again = claimed(records, row(records, attempt))
    assert records.messages.give_up(again, {"error": "x"})
    before = row(records, attempt)
    assert not records.documents.replay(before, NOW + LEASE, replace(event, at=NOW + MINUTE))
    assert row(records, attempt) == before and records.events.count_of_run(event.run_id) == 1
    assert records.documents.replay(before, NOW + LEASE, replace(event, run_id=uuid4()))


def test_documents_are_led_back_once_by_a_run_but_for_what_a_worker_has_in_hand(records):
    attempt = stored(records, [part("1"), part("2"), part("3")])
    one, two, three = records.documents.of_message(1, attempt.id)
    records.documents.finish(records.documents.claim(1, one.id, "w", NOW, LEASE))
    records.documents.claim(1, two.id, "w", NOW, LEASE)
    records.documents.give_up(records.documents.claim(1, three.id, "w", NOW, LEASE), {"error": "x"})
    run = uuid4()

    def lead_back(run_id, seen):
        events = [(d, told(EventKind.REPLAYED, attempt.id, document_id=d.id, run_id=run_id)) for d in seen]
        return records.documents.replay_handover(events, NOW + MINUTE, NOW + LEASE)

    stale = [one, two, three]
    assert lead_back(run, stale) == [], "they have moved since"
    seen = records.documents.of_message(1, attempt.id)
    assert lead_back(run, seen) == [one.id, three.id]
    found = records.documents.of_message(1, attempt.id)
    assert [d.handover for d in found] == [HandOver.PENDING] * 3
    assert [(d.attempts, d.worker is None, d.error_json) for d in found] == [
        (0, True, None),
        (1, False, None),
        (0, True, None),
    ]
    assert [d.next_attempt_at for d in found] == [NOW + LEASE] * 3
    events = [event for event in records.events.of(1, attempt.id) if event.run_id == run]
    assert {event.document_id for event in events} == {one.id, three.id}
    assert records.events.count_of_run(run) == 1
    assert lead_back(run, found) == [] and records.documents.of_message(1, attempt.id) == found
    assert lead_back(uuid4(), found) == [one.id, three.id]


def erase(records, table):
    with records.database.write(1) as connection:
        connection.execute(table.update().where(table.c.org_id == 1).values(erased_at=NOW))


def test_what_is_erased_is_never_led_back(records):
    attempt = stored(records, [part()])
    erase(records, inbound_message)
    erase(records, document)
    assert not records.documents.replay(row(records, attempt), NOW, told(EventKind.REPLAYED, attempt.id))
    seen = [
        (d, told(EventKind.REPLAYED, attempt.id, document_id=d.id)) for d in records.documents.of_message(1, attempt.id)
    ]
    assert records.documents.replay_handover(seen, NOW, NOW) == []
    assert [event.kind for event in records.events.of(1, attempt.id)] == []


def test_a_document_that_is_taken_out_again_is_not_erased_any_more(records):
    attempt = stored(records, [part()])
    erase(records, document)
    assert records.documents.replay(row(records, attempt), NOW, told(EventKind.REPLAYED, attempt.id))
    records.documents.record(claimed(records, row(records, attempt)), [part()], [], NOW, is_complete=True)
    (found,) = records.documents.of_message(1, attempt.id)
    assert found.erased_at is None


def test_held_mail_stays_open_where_its_message_cannot_be_recorded(records):
    known, later, _ = clashing(records)
    (found,) = records.held_mail.open()
    taken = replace(later, id=uuid4(), source_message_id=row(records, replace(later, id=known.id)).source_message_id)
    with pytest.raises(IdentityTakenError):
        records.held_mail.resolve(found, taken, NOW, told(EventKind.ACCEPTED, found.id))
    assert records.held_mail.open() == [found] and records.events.of(1, found.id) == []
    assert records.messages.count(Filter()) == 1


# Tenants


def test_no_method_shows_or_changes_another_tenants_rows(records):
    """Everything that acme (1) has is asked for, and written to, as bolt (2)."""
    messages, documents, rows_held = records.messages, records.documents, records.held_mail
    known, _, _ = clashing(records)
    (held_row,) = rows_held.open()
    mine = messages.get(1, known.id)
    attempt = claimed(records, mine)
    documents.record(
        attempt,
        [part()],
        [SkippedPart("3", None, "image/gif", "image/png", 5, "inline image", ["noise in base64"])],
        NOW,
        is_complete=True,
    )
    (own,) = documents.of_message(1, mine.id)
    before = (row(records, mine), own, rows_held.open(), documents.skipped(1, mine.id))

    assert messages.get(2, mine.id) is None
    assert messages.find_identity(2, "EMAIL", mine.source_message_id) is None
    assert messages.select(Filter(org_id=2), 9) == [] and messages.count(Filter(org_id=2)) == 0
    assert messages.select(Filter(org_id=2, ids=(mine.id,)), 9) == []
    assert set(messages.count_by_status(NOW - LEASE, 2).values()) == {0} and messages.oldest_unfinished(2) is None
    assert rows_held.open(2) == [] and rows_held.open(2, (held_row.id,)) == []
    assert records.events.of(2, mine.id) == [] and records.events.of_run(uuid4(), [mine.id], 2) == set()
    assert rows_held.count_open(2) == 0
    assert messages.claim(2, mine.id, "w", NOW + LEASE, LEASE) is None
    assert documents.of_message(2, mine.id) == [] and documents.skipped(2, mine.id) == []
    assert documents.claim(2, own.id, "w", NOW, LEASE) is None
    assert set(documents.count_undone(2).values()) == {0}
    other = replace(row(records, mine), org_id=2)
    assert not documents.replay(other, NOW + LEASE, told(EventKind.REPLAYED, mine.id))
    assert documents.of_messages([other]) == {mine.id: []} and documents.count(Filter(org_id=2)) == (0, 0)
    foreign = (replace(own, org_id=2), told(EventKind.REPLAYED, mine.id, document_id=own.id, run_id=uuid4()))
    assert documents.replay_handover([foreign], NOW, NOW) == []

    foreign = replace(attempt, org_id=2)
    assert set(endings(records, foreign).values()) == {False}
    assert not lead_back(records, replace(row(records, mine), org_id=2), NOW)
    assert not rows_held.resolve(replace(held_row, org_id=2), None, NOW, told(EventKind.DISCARDED, held_row.id))
    handing = documents.claim(1, own.id, "w", NOW, LEASE)
    foreign = replace(handing, org_id=2)
    assert not (
        documents.finish(foreign) or documents.give_up(foreign, {}) or documents.retry_later(foreign, {}, 1, NOW)
    )
    as_before = {"worker": None, "attempts": 0, "next_attempt_at": own.next_attempt_at}
    with records.database.write(1) as connection:
        connection.execute(document.update().where(document.c.id == own.id).values(**as_before))
    assert (
        row(records, mine),
        *documents.of_message(1, mine.id),
        rows_held.open(),
        documents.skipped(1, mine.id),
    ) == before


def test_two_tenants_may_have_rows_of_the_same_ids(records):
    id = uuid4()
    for org_id in (1, 2):
        message = inserted(records, id=id, org_id=org_id, subject=f"of {org_id}")
        attempt = claimed(records, message)
        taken = part("1", id=id, object_key=f"org/{org_id}/documents/a")
        assert records.documents.record(attempt, [taken], [], NOW, is_complete=True)
    assert [records.messages.get(org_id, id).subject for org_id in (1, 2)] == ["of 1", "of 2"]
    assert records.messages.give_up(attempt, {}) and records.messages.get(1, id).status is Status.STORED
    assert records.documents.finish(records.documents.claim(1, id, "w", NOW, LEASE))
    assert records.documents.of_message(2, id)[0].handover is HandOver.PENDING


def test_held_mail_cannot_be_of_another_tenants_message(records):
    known, later, _ = clashing(records)
    with pytest.raises(sa.exc.IntegrityError):
        records.held_mail.insert(known, replace(later, org_id=2))


# Texts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "\udcff",
        "\ud83d",
        "\U0001f4e6",
        "'; DROP TABLE document; --",
        "%s :x {y}",
        "\\",
        "x" * 100_000,
        "\r\n\t",
        "\x85\u2028\ufeff\uffff",
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_any_text_that_was_made_storable_is_stored(records, text):
    text = storable(text)
    message = inserted(records, subject=text, envelope_sender=text, from_email=text, queue_id=text)
    attempt = claimed(records, message)
    made = part(filename=text, claimed_filename=text, declared_type=text, detected_type=text, defects=[text])
    skipped = SkippedPart("9", text, text, text, 1, text, [text])
    assert records.documents.record(attempt, [made], [skipped], NOW, is_complete=True)
    assert records.messages.give_up(attempt, {"detail": text})
    found = row(records, message)
    assert (found.subject, found.envelope_sender, found.from_email, found.error_json) == (
        text,
        text,
        text,
        {"detail": text},
    )
    (document,) = records.documents.of_message(1, message.id)
    assert (document.filename, document.declared_type) == (text, text)
    assert records.documents.skipped(1, message.id) == [skipped]


def test_the_longest_message_id_of_the_widest_letters_is_an_identity(records):
    chosen = random.Random(5)
    longest = "".join(chr(chosen.randrange(0x10000, 0x10FFFF)) for _ in range(500))
    inserted(records, source_message_id=longest)
    assert records.messages.find_identity(1, "EMAIL", longest) is not None


def test_sizes_beyond_32_bits_are_stored(records):
    assert row(records, inserted(records, size=2**40)).size == 2**40


# Organizations


def test_an_organization_is_added_once_and_found_by_its_slug(records):
    with pytest.raises(OrganizationExistsError):
        records.organizations.add("acme", "Another")
    found = records.organizations.find("acme")
    assert (found.slug, found.name, found.is_active) == ("acme", "Acme", True)
    assert records.organizations.find("none") is None and records.organizations.find("ACME") is None


def test_an_organization_is_switched_off_and_on(records):
    assert (
        records.organizations.set_active("acme", is_active=False) and not records.organizations.find("acme").is_active
    )
    assert records.organizations.set_active("acme", is_active=True) and records.organizations.find("acme").is_active
    assert not records.organizations.set_active("none", is_active=True)


def published(path):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        return [slug for (slug,) in connection.execute("SELECT slug FROM recipient ORDER BY slug")]


def test_the_active_slugs_are_published_for_postfix(records, place):
    path = place / "recipients.db"
    records.organizations.publish(path)
    assert published(path) == ["acme", "bolt"] and path.stat().st_mode & 0o777 == 0o644
    records.organizations.set_active("acme", is_active=False)
    records.organizations.publish(path)
    assert published(path) == ["bolt"] and [file.name for file in place.iterdir()] == ["recipients.db"]


def test_a_reader_never_sees_half_of_the_published_slugs(records, place):
    path, stop = place / "recipients.db", threading.Event()
    records.organizations.publish(path)

    def publish():
        while not stop.is_set():
            records.organizations.publish(path)

    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publish)
        try:
            assert {tuple(published(path)) for _ in range(100)} == {("acme", "bolt")}
        finally:
            stop.set()
        publishing.result()


@pytest.mark.parametrize("spoil", ["no directory", "no database", "a directory"])
def test_slugs_that_cannot_be_published_are_unavailable(records, place, spoil):
    path = place / "recipients.db"
    if spoil == "no directory":
        path = place / "missing" / "recipients.db"
    elif spoil == "no database":
        path.write_bytes(b"no database" * 1000)
    else:
        path.mkdir()
    with pytest.raises(DatabaseUnavailable, match="cannot be written"):
        records.organizations.publish(path)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////srv/of/orderflow.db", Path("/srv/of/recipients.db")),
        ("sqlite:////srv/a b/x", Path("/srv/a b/recipients.db")),
        ("postgresql+psycopg://of@db/of", None),
    ],
)
def test_only_an_sqlite_database_has_a_recipients_file(url, path):
    assert recipients_path(url) == path


# A database that is away


def refused(records):
    """Ask and write, and return what it said each time."""
    message = new(subject=SECRET, source_message_id=SECRET)
    told = []
    for step in (
        lambda: records.organizations.find("acme"),
        lambda: records.messages.find_identity(1, "EMAIL", SECRET),
        lambda: records.messages.insert(message, NOW),
        lambda: records.messages.claim(1, message.id, SECRET, NOW, LEASE),
        lambda: schema.current_version(records.database),
    ):
        with pytest.raises(DatabaseUnavailable) as away:
            step()
        told.append(str(away.value))
    assert not any(SECRET in text or "SELECT" in text or str(message.id) in text for text in told)
    return told


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_subject_is_refused(postgres, encoding):
    name = f"records_{uuid4().hex}"
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    database = Database(f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/{name}")
    with pytest.raises(DatabaseUnavailable, match=f"its encoding is {encoding}"):
        schema.upgrade(database)
    database.close()


def test_a_server_that_nobody_listens_for_is_unavailable():
    refused(Records(f"postgresql+psycopg://of:{SECRET}@127.0.0.1:{free_port()}/of"))


def test_a_server_that_accepts_and_never_answers_is_unavailable_in_time(monkeypatch):
    monkeypatch.setattr(timeouts, "CONNECT", 2)  # the least that libpq knows
    with socket.create_server(("127.0.0.1", 0)) as silent:
        records = Records(f"postgresql+psycopg://of:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/of")
        with pytest.raises(DatabaseUnavailable) as away:
            records.messages.insert(new(subject=SECRET), NOW)
    assert SECRET not in str(away.value)


def test_a_database_or_a_user_that_is_not_there_is_unavailable(postgres):
    for path in (
        f"postgres:{SECRET}@127.0.0.1:{postgres.port}/missing",
        f"nobody:{SECRET}@127.0.0.1:{postgres.port}/postgres",
    ):
        refused(Records(f"postgresql+psycopg://{path}"))


def test_a_database_that_is_not_set_up_is_unavailable(server):
    database = Database(server.new(), create=True)
    with pytest.raises(DatabaseUnavailable):
        Messages(database).insert(new(subject=SECRET), NOW)
    with pytest.raises(DatabaseUnavailable):
        Messages(database).due(NOW, 1)
    database.close()


def test_a_file_that_is_not_there_is_unavailable_and_is_not_created(place):
    refused(Records(f"sqlite:///{place}/missing.db"))
    refused(Records(f"sqlite:///{place}/missing/orderflow.db", create=True))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["a b.db", "a?b.db", "a#b.db", "100%25.db", "bü.db"])
def test_the_file_is_the_one_that_the_url_names(place, name):
    database = Database(f"sqlite:///{place}/{name}", create=True)
    schema.upgrade(database)
    database.close()
    assert [file.name for file in place.iterdir()] == [name]


def test_a_file_that_is_no_database_is_unavailable(place):
    (place / "x.db").write_bytes(b"no database" * 1000)
    refused(Records(f"sqlite:///{place}/x.db"))


def test_a_full_disk_is_unavailable_and_what_was_recorded_stays(place):
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "none", place]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mount was refused")
    try:
        records = Records(f"sqlite:///{place}/x.db", create=True)
        schema.upgrade(records.database)
        records.organizations.add("acme", "Acme")
        recorded = []
        with pytest.raises(DatabaseUnavailable) as full:
            while True:
                recorded.append(inserted(records, subject=SECRET + "x" * 20000))
        assert SECRET not in str(full.value) and "SQLITE" in str(full.value)
        assert recorded and all(row(records, message) for message in recorded)
        records.database.close()
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_row_that_stays_locked_is_unavailable_in_time(url, records, monkeypatch):
    monkeypatch.setattr(timeouts, "STATEMENT", 0.3)
    message = inserted(records)
    hurried = Records(url)
    with records.database.write(ALL_TENANTS) as other:
        other.execute(inbound_message.update().values(subject="held"))
        with pytest.raises(DatabaseUnavailable):
            claimed(hurried, message)
    assert claimed(hurried, message) is not None
    hurried.database.close()


def test_a_lag_that_cannot_be_told_soon_or_by_this_role_is_unavailable_and_opens_no_breaker(
    postgres, place, monkeypatch
):
    monkeypatch.setattr(timeouts, "GLANCE", 0.1)
    monkeypatch.setattr(circuit_breaker, "SLOW", 0.0)
    name = f"records_{uuid4().hex}"
    url = postgres.create_database(name)
    records = Records(url, guard=CircuitBreaker(place / "circuits" / "database", "database", DatabaseUnavailable))
    schema.upgrade(records.database)
    records.organizations.add("acme", "Acme")
    function = "CREATE OR REPLACE FUNCTION orderflow_overdue_since() RETURNS timestamptz LANGUAGE plpgsql AS $$ {} $$"
    for body in ("BEGIN PERFORM pg_sleep(60); END", "BEGIN RAISE feature_not_supported USING MESSAGE = 'no'; END"):
        with psycopg.connect(postgres.conninfo(name), autocommit=True) as connection:
            connection.execute(function.format(body))
        with pytest.raises(DatabaseUnavailable):
            records.messages.recent_lag()
        assert not (place / "circuits" / "database").exists() and inserted(records) is not None
        records.messages.recent_lag._due_at = 0.0
    records.database.close()


def test_a_hang_at_the_rows_of_one_organization_leaves_the_others_alone(postgres, place, monkeypatch):
    """As a node of a sharded database that has these rows; a server that does not answer at all is away for all."""
    monkeypatch.setattr(circuit_breaker, "SLOW", 0.1)
    name = f"records_{uuid4().hex}"
    url, path = postgres.create_database(name), place / "circuits" / "database"
    guard = CircuitBreaker(path, "database", DatabaseUnavailable)
    with Wire(place, postgres.port) as wire:
        through = url.replace(f":{postgres.port}/", f":{wire.port}/")
        made, records = Records(url), Records(through, times=timeouts.Timeouts(2, 0.3, 1), guard=guard)
        schema.upgrade(made.database)
        for org in ("acme", "bolt"):
            made.organizations.add(org, org)
        with psycopg.connect(postgres.conninfo(name), autocommit=True) as connection:
            body = "BEGIN IF NEW.org_id = 1 THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END"
            connection.execute(f"CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
            on = "BEFORE INSERT ON inbound_message FOR EACH ROW EXECUTE FUNCTION hang()"
            connection.execute(f"CREATE TRIGGER hang {on}")
        with ThreadPoolExecutor(1) as pool:
            hangs = pool.submit(inserted, records, org_id=1)
            while not hangs.done():
                with records.database.write(2):
                    time.sleep(0.01)
            with pytest.raises(DatabaseUnavailable, match="57014"):
                hangs.result()
        assert path.with_name("database.1").exists() and not path.exists()
        with pytest.raises(DatabaseUnavailable, match="known to be unavailable for this organization"):
            inserted(records, org_id=1)
        assert inserted(records, org_id=2) is not None and records.messages.due(NOW, 10)
        wire.turn("hang for good")
        with pytest.raises(DatabaseUnavailable):
            inserted(records, org_id=2)
        assert path.exists() and not path.with_name("database.2").exists()
        wire.turn("pass")
        for one in (made, records):
            one.database.close()


def test_a_connection_that_is_silent_for_ever_is_unavailable_in_time_and_another_serves(postgres, place, monkeypatch):
    """The server's process hangs, and its kernel acknowledges all the same."""
    monkeypatch.setattr(timeouts, "CONNECT", 2)
    monkeypatch.setattr(timeouts, "STATEMENT", 1)
    name = f"records_{uuid4().hex}"
    url = postgres.create_database(name)
    with Wire(place, postgres.port) as wire:
        records = Records(url.replace(f":{postgres.port}/", f":{wire.port}/"))
        schema.upgrade(records.database)
        records.organizations.add("acme", "Acme")
        inserted(records)
        wire.turn("hang for good")
        with pytest.raises(DatabaseUnavailable):
            inserted(records)
        wire.turn("pass")
        assert wait_until(lambda: _serves(records), 60)
        records.database.close()


def _serves(records) -> bool:
    try:
        return inserted(records) is not None
    except DatabaseUnavailable:
        return False


def test_a_pool_without_a_free_connection_is_unavailable_in_time(postgres, monkeypatch):
    monkeypatch.setattr(timeouts, "CONNECT", 2)
    database = Database(postgres.create_database(f"records_{uuid4().hex}"))
    held = [database.engine.connect() for _ in range(15)]
    with pytest.raises(DatabaseUnavailable, match="no connection of the pool"), database.read(NO_TENANT):
        pass
    for connection in held:
        connection.close()
    database.close()


def end_sessions(postgres, name):
    """Have the server end all sessions of a database."""
    with psycopg.connect(postgres.conninfo(name), autocommit=True) as other:
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        ended = other.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")
        assert all(row == (True,) for row in ended)


def test_a_server_that_ended_our_sessions_is_used_again(postgres):
    name = f"records_{uuid4().hex}"
    database = Database(postgres.create_database(name))
    with pytest.raises(DatabaseUnavailable), database.read(NO_TENANT) as connection:
        end_sessions(postgres, name)
        connection.execute(sa.text("SELECT 1"))
    with database.read(NO_TENANT) as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    database.close()


USES = {
    "read, no tenant": lambda database: database.read(NO_TENANT),
    "read": lambda database: database.read(1),
    "read, every": lambda database: database.read(ALL_TENANTS),
    "write": lambda database: database.write(1),
    "write, no tenant": lambda database: database.write(NO_TENANT),
}


def fill_pool(database):
    """Open as many connections as the pool keeps, and give them back."""
    held = [database.engine.connect() for _ in range(timeouts.CONNECTIONS // 3)]
    for connection in held:
        connection.close()
    return len(held)


@pytest.fixture
def own(place):
    """A server of its own, which may be killed, and a database with organization 1."""
    with Postgres(place / "postgres") as server:
        records = Records(server.create_database("own"))
        schema.upgrade(records.database)
        records.organizations.add("acme", "Acme")
        yield server, records
        records.database.close()


def test_what_comes_after_the_server_was_killed_and_is_back_is_not_refused(own):
    """All connections of the pool are dead then; whatever comes first replaces them."""
    server, records = own
    for use in USES.values():
        assert fill_pool(records.database) == records.database.engine.pool.checkedin()
        server.kill()
        server.start()
        with use(records.database) as connection:
            assert connection.scalar(sa.text("SELECT slug FROM organization")) == "acme"
        assert inserted(records) is not None
    assert records.messages.count(Filter(org_id=1)) == len(USES)


def test_a_server_that_is_away_is_unavailable_to_every_use(own):
    server, records = own
    for use in USES.values():
        fill_pool(records.database)
        server.kill()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable), use(records.database):
                pytest.fail("there is no server")
        server.start()
        assert inserted(records) is not None


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_session_that_ended_between_two_uses_is_replaced_with_its_organizations(postgres, use):
    name = f"records_{uuid4().hex}"
    database = Database(postgres.create_database(name))
    schema.upgrade(database)
    asked = "SELECT pg_backend_pid(), current_setting('orderflow.orgs', true), now() <> statement_timestamp()"
    fill_pool(database)
    with use(database) as connection:
        first = connection.exec_driver_sql(asked).one()
    end_sessions(postgres, name)
    with use(database) as connection:
        second = connection.exec_driver_sql(asked).one()
    assert first[0] != second[0] and (first[1] or "", first[2]) == (second[1] or "", second[2])
    database.close()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_session_that_ends_within_a_use_is_not_replaced(postgres, use):
    """What was done in it is lost with its transaction, so that nothing may go on without it."""
    name = f"records_{uuid4().hex}"
    database = Database(postgres.create_database(name))
    schema.upgrade(database)
    with pytest.raises(DatabaseUnavailable), use(database) as connection:
        connection.exec_driver_sql("SELECT 1")
        end_sessions(postgres, name)
        connection.exec_driver_sql("SELECT 1")
    with pytest.raises(sa.exc.PendingRollbackError), use(database) as connection:
        end_sessions(postgres, name)
        with suppress(sa.exc.DBAPIError):  # somebody who overlooks it
            connection.exec_driver_sql("SELECT 1")
        connection.exec_driver_sql("SELECT 1")
    database.close()


def test_a_fault_of_ours_passes_and_shows_no_parameter(records):
    with pytest.raises((sa.exc.IntegrityError, sa.exc.DataError)) as fault:
        records.messages.insert(new(org_id=99, subject=SECRET), NOW)
    assert SECRET not in str(fault.value)


def test_a_transaction_that_fails_leaves_nothing(records):
    with pytest.raises(ValueError, match="stop"), records.database.write(ALL_TENANTS) as connection:
        connection.execute(organization.insert().values(slug="late", name="Late"))
        raise ValueError("stop")
    assert records.organizations.find("late") is None


def test_writers_queue_up(records):
    messages = [inserted(records) for _ in range(30)]
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda message: claimed(records, message), messages))


def test_sqlite_syncs_every_commit_and_checks_references(place):
    database = Database(f"sqlite:///{place}/x.db", create=True)
    with database.read(NO_TENANT) as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]
    database.close()


def test_the_row_of_a_message_is_typed(records):
    assert isinstance(row(records, inserted(records)), InboundMessage)


def test_who_publishes_late_publishes_what_is_true_then(place):
    """One that waited for the file must not write the list of before."""
    records = Records(f"sqlite:///{place}/orderflow.db", create=True)
    schema.upgrade(records.database)
    file = place / "recipients.db"
    records.organizations.publish(file)
    with sqlite3.connect(file, isolation_level=None) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(records.organizations.publish, file)
        time.sleep(0.3)
        records.organizations.add("late", "Late")
        other.execute("ROLLBACK")
        waiting.result(30)
    assert records.organizations.published(file) == {"late"}
    records.database.close()
