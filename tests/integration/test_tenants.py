"""PostgreSQL keeps the tenants apart, and each program to what it needs: real roles, each with its password."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.object_keys import document_key, raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import HandOver, HoldReason, Status
from orderflow_ingest.pipeline import extract, hand_over, replay, retry
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.archive import ArchiveUnavailable, ObjectMissing, S3Archive
from orderflow_ingest.storage.database import (
    ALL_TENANTS,
    NO_TENANT,
    DatabaseUnavailable,
    Filter,
    Records,
    SkippedPart,
    count_backlog,
    schema,
)
from orderflow_ingest.storage.database.backlog import CENSUS
from orderflow_ingest.storage.database.rows import column_values
from orderflow_ingest.storage.database.sweeping import SweepClaim
from orderflow_ingest.storage.database.tables import (
    document,
    held_mail,
    inbound_message,
    message_event,
    organization,
    skipped_part,
)
from tests.support.lab import smtp
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import free_port, scratch, wait_until
from tests.support.mails import mail, order
from tests.support.records import LEASE, NOW, claimed, inserted, new, of_version, part
from tests.support.tenants import GROUPS, Tenants

TABLES = (inbound_message, document, skipped_part, held_mail, message_event)


@pytest.fixture(scope="module")
def place():
    with scratch() as directory:
        yield directory


@pytest.fixture(scope="module")
def deployment(place):
    return Deployment(place)


@pytest.fixture(scope="module")
def tenants(postgres, deployment):
    """Two tenants, acme (1) and bolt (2), with a message, a document, a skipped part and a held mail each."""
    tenants = Tenants(postgres)
    tenants.set_up(deployment)
    records = tenants.records("owner")
    for org_id in (1, 2):
        add_rows(records, org_id)
    records.database.close()
    return tenants


def add_rows(records, org_id):
    message = inserted(records, org_id=org_id, source_message_id=f"<first-{org_id}>", subject=f"of {org_id}")
    known = records.messages.find_identity(org_id, "EMAIL", message.source_message_id)
    assert records.held_mail.insert(known, new(org_id=org_id, fingerprint="e" * 64))
    skipped = SkippedPart("3", None, "text/calendar", None, 1, "calendar", [])
    attempt = claimed(records, message)
    assert records.documents.record(
        attempt, [part(object_key=f"org/{org_id}/documents/a")], [skipped], NOW, is_complete=True
    )
    assert records.messages.retry_later(attempt, {"error": "X"}, 1, NOW)


@pytest.fixture
def records(request, tenants):
    """The tables as a role sees them."""
    records = tenants.records(request.param)
    yield records
    records.database.close()


def as_role(*roles):
    return pytest.mark.parametrize("records", roles, indirect=True)


def orgs_seen(connection, table):
    return {org_id for (org_id,) in connection.execute(sa.select(table.c.org_id))}


# A forgotten WHERE


@as_role("worker")
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize(("orgs", "seen"), [(1, {1}), (2, {2}), ((1, 2), {1, 2}), ((), set()), (99, set())], ids=str)
def test_a_query_without_a_where_sees_the_organizations_of_its_transaction_alone(records, table, orgs, seen):
    with records.database.read(orgs) as connection:
        assert orgs_seen(connection, table) == seen
    with records.database.write(orgs) as connection:
        assert orgs_seen(connection, table) == seen


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_statement_that_names_no_organization_sees_nothing(tenants, table):
    with tenants.connect("worker") as connection:
        count = f"SELECT count(*) FROM {table.name}"
        assert connection.execute(count).fetchone() == (0,)
        with connection.transaction():
            connection.execute("SET LOCAL orderflow.orgs = ''")
            assert connection.execute(count).fetchone() == (0,)
            connection.execute("SET LOCAL orderflow.orgs = '2'")
            assert connection.execute(count).fetchone() == (1,)
        assert connection.execute(count).fetchone() == (0,)


@as_role("worker")
def test_an_update_and_a_delete_without_a_where_leave_the_other_tenant_alone(records, tenants):
    try:
        with records.database.write(1) as connection:
            assert connection.execute(inbound_message.update().values(attempts=7)).rowcount == 1
            assert connection.execute(document.delete()).rowcount == 1
            assert connection.execute(skipped_part.delete()).rowcount == 1
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    with tenants.connect("owner") as connection:
        assert connection.execute("SELECT count(*) FROM document").fetchone() == (2,), "rolled back"


@as_role("deliver")
def test_an_insert_for_an_organization_that_is_not_named_is_refused(records, tenants):
    row = {**column_values(new(org_id=2)), "status": "RECEIVED", "next_attempt_at": NOW}
    for orgs in (1, (), NO_TENANT):
        with pytest.raises(DatabaseUnavailable, match="42501"), records.database.write(orgs) as connection:
            connection.execute(inbound_message.insert().values(row))


@as_role("worker")
def test_a_row_cannot_be_moved_to_another_organization(records):
    for values in ({"org_id": 2}, {"subject": "another"}, {"raw_key": "org/2/raw/x.eml"}, {"digest": "0" * 64}):
        with pytest.raises(DatabaseUnavailable, match="42501"), records.database.write((1, 2)) as connection:
            connection.execute(inbound_message.update().values(values))
    with pytest.raises(DatabaseUnavailable, match="42501"), records.database.write(1) as connection:
        connection.execute(document.update().values(org_id=2))


@as_role("deliver", "worker")
def test_no_connection_of_the_pool_keeps_a_setting(records):
    for ended in ("committed", "failed", "read"):
        if ended == "read":
            with records.database.read((1, 2)) as connection:
                connection.execute(sa.select(1))
        else:
            with pytest.raises(ZeroDivisionError), records.database.write((1, 2)) as connection:
                connection.execute(sa.select(1))
                if ended == "failed":
                    raise ZeroDivisionError
                connection.commit()
                raise ZeroDivisionError
        assert records.database.engine.pool.checkedin() == 1, "the very connection is used again"
        with records.database.read(NO_TENANT) as connection:
            setting = connection.exec_driver_sql("SELECT current_setting('orderflow.orgs', true)").scalar()
            assert not setting and orgs_seen(connection, inbound_message) == set()
        with records.database.write(NO_TENANT) as connection:
            assert orgs_seen(connection, inbound_message) == set()


@as_role("deliver")
def test_what_was_written_is_committed_and_what_failed_is_not(records, tenants):
    row = {**column_values(new(org_id=1)), "status": "PARSED", "next_attempt_at": NOW}
    with pytest.raises(ZeroDivisionError), records.database.write(1) as connection:
        connection.execute(inbound_message.insert().values(row))
        raise ZeroDivisionError
    with tenants.connect("owner") as owner:
        count = "SELECT count(*) FROM inbound_message WHERE id = %s"
        assert owner.execute(count, (row["id"],)).fetchone() == (0,)
        with records.database.write(1) as connection:
            connection.execute(inbound_message.insert().values(row))
            assert owner.execute(count, (row["id"],)).fetchone() == (0,)
        assert owner.execute(count, (row["id"],)).fetchone() == (1,)
        owner.execute("DELETE FROM inbound_message WHERE id = %s", (row["id"],))


@as_role("deliver")
def test_a_transaction_begins_in_one_round_trip(records):
    asked = []
    sa.event.listen(records.database.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    records.messages.find_identity(2, "EMAIL", "<none>")
    assert len(asked) == 2 and asked[0] == "BEGIN; SET LOCAL orderflow.orgs = '2'"


@as_role("deliver")
def test_threads_of_several_organizations_that_share_a_transaction_get_each_his_own(records, tenants):
    """What waits at the same time is asked and written together, for all organizations of the group."""
    rows = [new(org_id=1 + n % 2, source_message_id=f"<shared-{n // 2}>", fingerprint=f"{n:064}") for n in range(80)]

    def deliver(row):
        assert records.messages.insert(row, NOW)
        return records.messages.find_identity(row.org_id, "EMAIL", row.source_message_id)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(deliver, rows))
    assert [(known.id, list(known.digests)) for known in found] == [(row.id, [row.fingerprint]) for row in rows]
    with tenants.connect("owner") as owner:
        owner.execute("DELETE FROM inbound_message WHERE source_message_id LIKE '<shared-%'")


@as_role("deliver")
def test_an_identity_is_found_by_its_index_by_a_bound_role_too(records, tenants):
    with tenants.connect("owner") as owner:
        many = "INSERT INTO organization (slug, name) SELECT 'o' || n, 'n' FROM generate_series(1, 3) n RETURNING id"
        ids = [id for (id,) in owner.execute(many)]
        owner.execute(
            "INSERT INTO inbound_message (org_id, id, source, source_message_id, message_id_is_synthetic, status, "
            "envelope_sender, envelope_recipient, queue_id, client_address, from_email, subject, raw_key, digest, "
            "fingerprint, received_at, size, next_attempt_at) SELECT o, gen_random_uuid(), 'EMAIL', n::text, false, "
            "'PARSED', '', '', '', '', '', '', 'org/' || o || '/raw/x.eml', '', '', now(), 1, now() "
            "FROM unnest(%s::bigint[]) o, "
            "generate_series(1, 2000) n",
            (ids,),
        )
        owner.execute("ANALYZE inbound_message")
        asked = []
        sa.event.listen(records.database.engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        assert records.messages.find_identity(ids[0], "EMAIL", "17")
        statement, parameters = next(one for one in asked if "source_message_id" in one[0])
        with records.database.read(ids[0]) as connection:
            plan = "\n".join(r[0] for r in connection.exec_driver_sql("EXPLAIN " + statement, parameters))
        owner.execute("DELETE FROM inbound_message WHERE org_id = ANY (%s)", (ids,))
        owner.execute("DELETE FROM organization WHERE id = ANY (%s)", (ids,))
    assert "Seq Scan on inbound_message" not in plan and "source_message_id" in plan, plan


# What a role may do


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM document",
        "SELECT * FROM skipped_part",
        "UPDATE inbound_message SET status = 'PARSED'",
        "DELETE FROM inbound_message",
        "DELETE FROM held_mail",
        "TRUNCATE inbound_message",
        "SELECT name, created_at FROM organization",
        "INSERT INTO organization (slug, name) VALUES ('evil', 'Evil')",
        "UPDATE organization SET is_active = true",
        "ALTER TABLE inbound_message DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON inbound_message",
        "CREATE POLICY mine ON inbound_message USING (true)",
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE organization (x int)",
        "CREATE FUNCTION orderflow_orgs(int) RETURNS bigint[] LANGUAGE sql AS 'SELECT null::bigint[]'",
        "SELECT rolpassword FROM pg_authid",
        "SELECT data FROM huey_task",
        "DELETE FROM huey_task",
        "SELECT * FROM huey_kv",
        "SELECT * FROM orderflow_due_messages(now(), 10)",
        "SELECT * FROM orderflow_messages_to_sweep(now(), now(), 10)",
        "SELECT * FROM orderflow_documents_in_hand('host:')",
        "UPDATE sweep_claim SET claimed_by = 'me'",
        "SET ROLE {owner}",
        "SET ROLE orderflow_operator",
        "SET ROLE orderflow_worker",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE {role} BYPASSRLS",
        "COPY inbound_message TO PROGRAM 'cat'",
    ],
)
def test_the_delivery_role_is_refused(tenants, statement):
    with tenants.connect("deliver") as connection, connection.transaction():
        connection.execute("SET LOCAL orderflow.orgs = '1,2'")
        text = statement.format(owner=tenants.owner, role=tenants.role("deliver"))
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(text)


def test_row_security_cannot_be_switched_off(tenants):
    for group in ("deliver", "worker"):
        with tenants.connect(group) as connection:
            connection.execute("SET row_security = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM inbound_message")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM inbound_message",
        "INSERT INTO organization (slug, name) VALUES ('evil', 'Evil')",
        "SELECT created_at FROM organization",
        "UPDATE held_mail SET resolution = 'DISCARDED'",
        "ALTER TABLE document DISABLE ROW LEVEL SECURITY",
        "SET ROLE orderflow_operator",
        "SELECT rolpassword FROM pg_authid",
    ],
)
def test_the_worker_role_is_refused(tenants, statement):
    with tenants.connect("worker") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_the_map_role_reads_the_slugs_of_active_organizations_alone(tenants):
    with tenants.connect("map") as connection, tenants.connect("owner") as owner:
        owner.execute("UPDATE organization SET is_active = false WHERE slug = 'bolt'")
        assert connection.execute("SELECT * FROM recipient").fetchall() == [("acme",)]
        owner.execute("UPDATE organization SET is_active = true WHERE slug = 'bolt'")
        readable = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S') "
            "AND (has_table_privilege(oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') OR "
            "CASE WHEN relkind = 'S' THEN has_sequence_privilege(oid, 'USAGE, UPDATE') "
            "ELSE has_any_column_privilege(oid, 'SELECT, INSERT, UPDATE') END)"
        )
        assert readable.fetchall() == [("recipient",)]
        for statement in ("SELECT slug FROM organization", "SELECT 1 FROM inbound_message", "DELETE FROM recipient"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


@pytest.mark.parametrize("group", GROUPS)
def test_no_group_is_more_than_its_grants(tenants, group):
    with tenants.connect(group) as connection:
        attributes = "rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"
        found = f"SELECT {attributes} FROM pg_roles WHERE rolname = ANY (%s)"
        rows = connection.execute(found, ([f"orderflow_{group}", tenants.role(group)],)).fetchall()
        assert rows == [(False,) * 5] * 2


def test_the_roles_leave_an_owner_his_rights_who_lived_by_those_of_public(postgres, deployment):
    """As in a database that came from PostgreSQL 14 or before, whose schema belongs to its superuser."""
    tenants = Tenants(postgres)
    with closing(psycopg.connect(postgres.conninfo(tenants.name), autocommit=True)) as superuser:
        superuser.execute("ALTER SCHEMA public OWNER TO postgres")
        superuser.execute("GRANT ALL ON SCHEMA public TO PUBLIC")
    tenants.set_up(deployment)
    deployment.admin("init")
    owner, deliver = tenants.records("owner"), tenants.records("deliver")
    assert [org.slug for org in owner.organizations.all()] == ["acme", "bolt"]
    assert deliver.messages.lag(NOW) == 0
    owner.database.close()
    deliver.database.close()


def test_running_the_script_again_waits_for_no_reader(tenants, deployment):
    with tenants.connect("owner") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM inbound_message")
        tenants.make_roles(deployment)


def test_a_role_of_nobody_cannot_even_connect(tenants, postgres):
    stranger = f"stranger_{uuid4().hex}"
    postgres.create_role(stranger)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(postgres.url(tenants.name, stranger).replace("+psycopg", ""))


@pytest.mark.parametrize(
    ("group", "what", "statement"),
    [
        ("deliver", "SELECT, DELETE ON document", "SELECT * FROM document"),
        ("map", "EXECUTE ON FUNCTION orderflow_census()", "SELECT * FROM orderflow_census()"),
    ],
)
def test_the_script_can_be_run_again_and_takes_back_what_was_given_by_hand(
    tenants, deployment, postgres, group, what, statement
):
    with psycopg.connect(postgres.conninfo(tenants.name), autocommit=True) as superuser:
        superuser.execute(f"GRANT {what} TO orderflow_{group}")
    with tenants.connect(group) as connection:
        connection.execute(statement)
        tenants.make_roles(deployment)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


@pytest.mark.parametrize("call", ["lo_create(0)", "lo_from_bytea(0, 'x')", "lo_creat(1)"])
def test_no_group_makes_large_objects(tenants, call):
    with tenants.connect("map") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT {call}")


def test_nothing_of_the_owners_is_run_by_the_superuser_who_runs_the_script(deployment, postgres):
    """Functions and operators of the schema that fit the script's calls better than those they are named after."""
    tenants = Tenants(postgres)
    tenants.set_up(deployment)
    body = f"BEGIN EXECUTE 'ALTER ROLE {tenants.owner} SUPERUSER'; RETURN 'SELECT 1'; END"
    with tenants.connect("owner") as owner:
        for arguments in ("text, name", "text, text", "text, name, text", "text, name, name", "text, text, text"):
            owner.execute(f"CREATE FUNCTION public.format({arguments}) RETURNS text LANGUAGE plpgsql AS $${body}$$")
        owner.execute(f"CREATE FUNCTION public.cat(text, text) RETURNS text LANGUAGE plpgsql AS $${body}$$")
        owner.execute("CREATE OPERATOR public.|| (FUNCTION = public.cat, LEFTARG = text, RIGHTARG = text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("SELECT public.cat('a', 'b')")
        tenants.make_roles(deployment)
        found = owner.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert found.fetchall() == [(False,)]


@pytest.mark.parametrize("name", ["a'b", "a%Ib", "a\\b"])
def test_a_schema_whose_name_the_script_could_not_hold_is_refused(deployment, tenants, name):
    deployment.write_settings({"DATABASE_URL": tenants.owner_url})
    ended = deployment.run("orderflow-admin", "roles", "postgresql", "--schema", name, check=False)
    assert ended.returncode == 1 and "--schema" in ended.stderr


def test_the_script_is_for_the_schema_it_is_told_and_quotes_its_name(deployment, postgres):
    """A schema whose name would end the statement."""
    name, evil = f"tenants_{uuid4().hex}", 'a"; DROP TABLE x; --'
    url = postgres.create_owned_database(name, f"owner_{name}")
    quoted = psycopg.sql.Identifier(evil)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(quoted))
        path = psycopg.sql.SQL("ALTER ROLE {} SET search_path = {}")
        owner.execute(path.format(psycopg.sql.Identifier(f"owner_{name}"), quoted))
    records = Records(url)
    schema.upgrade(records.database)
    records.organizations.add("acme", "Acme")
    assert records.messages.due(NOW, 10) == [] and records.messages.count(Filter()) == 0
    records.database.close()
    postgres.run_script(name, deployment.admin("roles", "postgresql", "--schema", evil))
    postgres.create_role(f"map_{name}", "orderflow_map")
    with psycopg.connect(postgres.url(name, f"map_{name}").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("SET search_path = {}").format(quoted))
        assert connection.execute("SELECT slug FROM recipient").fetchall() == [("acme",)]


def test_roles_need_a_postgresql_url(deployment, place):
    deployment.write_settings({})
    for what, why in (("postgresql", "DATABASE_URL must be"), ("s3", "ARCHIVE_URL must be")):
        ended = deployment.run("orderflow-admin", "roles", what, check=False)
        assert ended.returncode == 1 and why in ended.stderr


# What all tenants' questions become


@as_role("deliver", "worker")
def test_a_bound_role_that_asks_about_every_tenant_is_refused_not_told_that_there_is_nothing(records):
    for ask in (
        lambda: records.messages.count(Filter()),
        lambda: records.messages.select(Filter(), 10),
        lambda: records.messages.count_by_status(NOW),
        lambda: records.held_mail.count_open(),
        lambda: records.held_mail.open(),
    ):
        with pytest.raises(DatabaseUnavailable, match="orderflow-admin roles"):
            ask()


@as_role("operator", "owner")
def test_an_operator_sees_all(records):
    assert {message.org_id for message in records.messages.select(Filter(), 10)} == {1, 2}
    assert records.messages.count_by_status(NOW)[Status.STORED] == 2
    assert records.documents.count_undone()[HandOver.PENDING] == 2
    assert {held_row.org_id for held_row in records.held_mail.open()} == {1, 2}
    assert len(records.messages.due(NOW + LEASE, 10)) == 2
    with records.database.read(ALL_TENANTS) as connection:
        assert all(orgs_seen(connection, table) == {1, 2} for table in TABLES)


@as_role("worker")
def test_the_worker_knows_ids_and_times_of_all_tenants(records):
    assert {org_id for org_id, _ in records.messages.due(NOW + LEASE, 10)} == {1, 2}
    assert {org_id for org_id, _ in records.documents.due(NOW + LEASE, 10)} == {1, 2}
    assert records.messages.lag(NOW + 2 * LEASE) > 0


@as_role("deliver")
def test_a_delivery_knows_how_long_the_worker_is_behind_and_no_more(records):
    assert records.messages.lag(NOW + 2 * LEASE) > 0
    for question in (records.messages.oldest_unfinished, partial(records.messages.due, NOW, 10)):
        with pytest.raises(DatabaseUnavailable, match="42501"):
            question()


@pytest.fixture
def canary(tenants, deployment):
    """Let a canary fly as root, with the role that delivers in the settings, to a port where nobody listens."""
    user, deployment.user = deployment.user, "root"
    deployment.write_settings({"DATABASE_URL": tenants.url("deliver")})
    options = ("--org", "acme", "--server", f"127.0.0.1:{free_port()}", "--timeout", "5")
    yield lambda *more: deployment.run("orderflow-admin", "canary", *options, *more, check=False).stderr
    deployment.user = user
    (deployment.directory / "worker.env").unlink(missing_ok=True)
    deployment.write_settings({"DATABASE_URL": tenants.owner_url})


def test_a_canary_of_a_role_that_may_not_read_documents_says_so_before_it_sends_a_mail(canary):
    said = canary()
    assert said.startswith("Error: organization: ") and "42501" in said and "worker.env" in said


def test_a_canary_of_root_takes_the_workers_role_from_its_file_as_the_unit_does(tenants, deployment, canary):
    file = deployment.directory / "worker.env"
    file.touch(0o600)
    file.write_text(f"DATABASE_URL={tenants.url('worker')}\nQUEUE_URL={tenants.url('worker')}\n")
    assert canary().startswith("Error: smtp: ")
    assert "42501" in canary("--settings", str(deployment.settings_file)), "a file that is named is taken alone"


@as_role("metrics", "operator", "owner")
def test_monitoring_is_told_numbers_of_all_tenants(records, tenants):
    with tenants.connect("owner") as owner:
        owner.execute("UPDATE document SET handover = 'FAILED' WHERE org_id = 2")
        held = dict(
            owner.execute(
                "SELECT o.slug, count(*) FROM held_mail c JOIN organization o ON o.id = c.org_id "
                "WHERE resolution IS NULL GROUP BY o.slug"
            ).fetchall()
        )
        rows = owner.execute("SELECT count(*) FROM inbound_message WHERE status IN ('RECEIVED', 'STORED')").fetchone()
    found = count_backlog(records.database)
    assert (sum(found.unfinished.values()), found.held_mail) == (rows[0], held) and rows[0] > 0 and held
    assert found.failed_documents == {"bolt": 1}
    assert found.oldest_unfinished is not None
    assert records.messages.lag(datetime.now(UTC)) > 0
    with tenants.connect("owner") as owner:  # the statement that SQLite is asked, and the function
        own = {tuple(row) for row in owner.execute(CENSUS)}
        assert own == {tuple(row) for row in owner.execute("SELECT * FROM orderflow_census()")} and own


@pytest.mark.parametrize(
    "statement",
    [
        *(f"SELECT 1 FROM {table.name}" for table in (*TABLES, organization)),
        "SELECT data FROM huey_task",
        "DELETE FROM huey_task",
        "INSERT INTO organization (slug, name) VALUES ('x', 'x')",
        "SELECT * FROM orderflow_due_messages(now(), 5)",
    ],
)
def test_the_monitoring_role_is_refused(tenants, statement):
    with tenants.connect("metrics") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize("group", ["map", "deliver", "worker"])
def test_the_census_is_for_monitoring_and_operators_alone(tenants, group):
    with tenants.connect(group) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM orderflow_census()")


def test_the_exporter_needs_no_more_than_its_role(tenants, deployment):
    environment = {"DATABASE_URL": tenants.url("metrics"), "QUEUE_URL": tenants.url("metrics")}
    deployment.environment = environment
    try:
        page = deployment.run("orderflow-metrics", "--once").stdout
    finally:
        deployment.environment = {}
    assert 'orderflow_up{part="database"} 1.0' in page and 'orderflow_up{part="queue"} 1.0' in page
    assert "orderflow_queue_tasks " in page


def test_functions_that_run_as_the_owner_are_for_the_roles_alone_and_fix_their_search_path(tenants):
    with tenants.connect("owner") as owner:
        found = owner.execute(
            "SELECT proname, proconfig, has_function_privilege('orderflow_map', oid, 'EXECUTE') FROM pg_proc "
            "WHERE prosecdef AND pronamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
    of_work = [f"{table}_{what}" for table in ("documents", "messages") for what in ("in_hand", "to_sweep")]
    names = ["census", "due_documents", "due_messages", "overdue_since", *of_work]
    assert found == [(f"orderflow_{name}", ["search_path=public, pg_temp"], False) for name in sorted(names)]


def test_a_program_of_the_version_before_goes_on_as_the_owner(tenants):
    """Its statements name no organization to the server; the owner is bound by nothing."""
    with tenants.connect("owner") as owner:
        assert owner.execute("SELECT count(DISTINCT org_id) FROM inbound_message").fetchone() == (2,)
        id = uuid4()
        row = {**column_values(new(org_id=2, id=id)), "status": "RECEIVED", "next_attempt_at": NOW}
        del row["traits"]  # that version knows of none
        names = ", ".join(row)
        values = ", ".join(f"%({name})s" for name in row)
        insert = f"INSERT INTO inbound_message ({names}) VALUES ({values}) ON CONFLICT DO NOTHING RETURNING id"
        assert owner.execute(insert, row).fetchone() == (id,)
        due = "SELECT id FROM inbound_message WHERE status IN ('RECEIVED', 'STORED') AND next_attempt_at <= %s"
        assert (id,) in owner.execute(due, (NOW,)).fetchall()
        assert owner.execute("UPDATE inbound_message SET status = 'PARSED' WHERE id = %s", (id,)).rowcount == 1
        assert owner.execute("DELETE FROM inbound_message WHERE id = %s", (id,)).rowcount == 1
        known = "SELECT slug FROM organization WHERE is_active AND 'orders+' || slug = lower('orders+acme')"
        assert owner.execute(known).fetchone() == ("acme",), "a map that was printed before"


# S3 policies


def test_programs_of_this_version_go_on_between_its_schema_and_its_roles_script(postgres, tenants):
    """A worker writes events, and a delivery reads organizations' settings, as soon as there are any."""
    database, connection = of_version(postgres, "0005")
    schema.upgrade(database)
    asked = (
        "SELECT has_table_privilege('orderflow_worker', 'message_event', 'INSERT'), "
        "has_column_privilege('orderflow_deliver', 'organization', 'settings', 'SELECT')"
    )
    with connection:
        assert connection.execute(asked).fetchone() == (True, True)
    database.close()


def test_the_policies_name_the_bucket_and_the_prefix(deployment):
    deployment.write_settings({"ARCHIVE_URL": "s3://orders-archive/mail/in"})
    policies = json.loads(deployment.admin("roles", "s3"))
    root = "arn:aws:s3:::orders-archive/mail/in/"
    allowed = {
        role: {(action, resource) for s in policy["Statement"] for action in s["Action"] for resource in s["Resource"]}
        for role, policy in policies.items()
    }
    assert ("s3:PutObject", f"{root}org/*/raw/*") in allowed["orderflow_deliver"]
    assert not any("documents" in resource for _, resource in allowed["orderflow_deliver"])
    assert ("s3:GetObject", f"{root}org/*/raw/*") not in allowed["orderflow_deliver"]
    assert ("s3:DeleteObject", f"{root}org/*/documents/*") not in allowed["orderflow_worker"]
    everywhere = {resource for action, resource in set().union(*allowed.values())}
    assert all(resource == "arn:aws:s3:::orders-archive" or resource.startswith(root) for resource in everywhere)


def refused(step):
    """Return whether the store refuses a step for want of a right."""
    try:
        step()
    except ArchiveUnavailable as error:
        assert "was answered with AccessDenied: " in str(error)
        return True
    return False


def test_a_real_store_holds_each_role_to_its_policy(ceph, deployment):
    bucket = ceph.create_bucket("policies")
    deployment.write_settings({"ARCHIVE_URL": f"s3://{bucket}/mail"})
    statements, archives = [], []
    for number, policy in enumerate(json.loads(deployment.admin("roles", "s3")).values()):
        keys = {"aws_access_key_id": f"ROLE{number}", "aws_secret_access_key": f"secret{number}"}
        ceph.create_user(f"role{number}", *keys.values())
        principal = {"Principal": {"AWS": [f"arn:aws:iam:::user/role{number}"]}}
        statements += [{**statement, **principal} for statement in policy["Statement"]]
        archives.append(S3Archive(ceph.client(**keys), bucket, "mail"))
    ceph.client().put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements})
    )
    deliver, worker, operator, tenant = archives
    data = b"an order"
    digest = hashlib.sha256(data).hexdigest()
    raws, documents = [raw_key(n, digest) for n in (1, 2)], [document_key(n, digest) for n in (1, 2)]
    for key in raws:
        deliver.put(key, data, digest)
        assert worker.read(key, digest) == operator.read(key, digest) == data
    for key in documents:
        assert refused(partial(deliver.put, key, data, digest))
        worker.put(key, data, digest)
        assert worker.read(key, digest) == data
        assert refused(partial(deliver.read, key, digest)) and refused(partial(deliver.delete, key))
        assert refused(partial(worker.delete, key))
    assert [refused(partial(tenant.read, key, digest)) for key in raws + documents] == [False, True, False, True]
    assert all(refused(partial(tenant.put, key, data, digest)) for key in raws + documents)
    with pytest.raises(ObjectMissing):
        worker.read(raw_key(1, "0" * 64), digest)
    for archive in (deliver, worker, operator):
        assert refused(partial(archive.put, "elsewhere/x", data, digest))
    deliver.delete(raws[0])
    operator.delete(documents[0])


@pytest.mark.parametrize(
    ("encryption", "resource"),
    [
        ("aws:kms:1a-2b", "arn:aws:kms:*:*:key/1a-2b"),
        ("aws:kms:arn:aws:kms:eu-central-1:1:key/1a", "arn:aws:kms:eu-central-1:1:key/1a"),
        ("aws:kms:alias/orders", "arn:aws:kms:*:*:key/*"),
        ("aws:kms", None),
        ("AES256", None),
    ],
)
def test_the_policies_allow_the_key_that_objects_are_encrypted_with(deployment, encryption, resource):
    deployment.write_settings({"ARCHIVE_URL": "s3://orders-archive", "ORDERFLOW_S3_ENCRYPTION": encryption})
    for policy in json.loads(deployment.admin("roles", "s3")).values():
        keys = [s["Resource"] for s in policy["Statement"] if "kms:Decrypt" in s["Action"]]
        assert keys == ([[resource]] if resource else [])


# The whole way


def test_each_step_of_a_message_is_done_by_its_own_role(tenants, deployment, place):
    """Delivery, duplicate, held mail, sweep, extraction, hand-over, replay: nothing more is needed than was granted."""

    def parts(group):
        return open_app(load(str(deployment.settings_file), {"DATABASE_URL": tenants.url(group)}))

    # What the fixture has left unfinished is of a day of its own.
    own = {"ORDERFLOW_SWEEP_AFTER": "0.1", "ORDERFLOW_MAX_LAG": "0"}
    deployment.write_settings({"ARCHIVE_URL": f"file://{place}/archive", **own})
    (place / "archive").mkdir(exist_ok=True)
    delivering, working, operating = parts("deliver"), parts("worker"), parts("operator")
    delivering.archive.prepare()
    envelope = Envelope(recipient=f"orders+acme@{DOMAIN}", sender="a@b.example", received_at=NOW)
    ended = [
        deliver_from_memory(envelope, raw, delivering) for raw in (order(77), order(77), order(77) + b"changed\r\n")
    ]
    assert [e.outcome for e in ended] == [Outcome.DELIVERED, Outcome.DUPLICATE, Outcome.HELD]
    id = ended[0].message_id
    assert operating.records.organizations.change_settings("bolt", {"allowed_senders": "@other.example"})
    stray = Envelope(recipient=f"orders+bolt@{DOMAIN}", sender="a@b.example", received_at=NOW)
    ended += [deliver_from_memory(stray, raw, delivering) for raw in (order(78), b"Received: late\n" + order(78))]
    assert [e.outcome for e in ended[3:]] == [Outcome.HELD, Outcome.HELD]
    assert operating.records.held_mail.of_id(ended[3].message_id)[0].reason is HoldReason.SENDER_NOT_ALLOWED
    assert operating.records.organizations.change_settings("acme", {"document_types": "image/*"})
    working.queue.huey.flush()
    assert wait_until(lambda: (1, id) in working.records.messages.due(datetime.now(UTC), 100), 60)
    assert SweepClaim(working.records.database, "a", lambda _: False).take(datetime.now(UTC))
    assert retry.sweep(working) >= 1 and retry.record_rows_lost(working) == 0
    extract.extract(1, id, working)
    assert {part.reason for part in working.records.documents.skipped(1, id)} >= {"not accepted"}
    assert operating.records.organizations.change_settings("acme", {"document_types": ""})
    time.sleep(1.1)  # for as long settings are remembered
    assert replay.replay_message(operating.records.messages.get(1, id), operating, "me@here")
    extract.extract(1, id, working)
    documents = working.records.documents.of_message(1, id)
    for one in documents:
        hand_over.hand_over(1, one.id, working)
    assert working.records.messages.get(1, id).status is Status.PARSED
    assert {d.handover for d in working.records.documents.of_message(1, id)} == {HandOver.DONE} and documents
    assert replay.replay_message(operating.records.messages.get(1, id), operating, "me@here")
    (held,) = [c for c in operating.records.held_mail.open(1) if c.inbound_message_id == id]
    assert replay.accept_held(held, operating, "me@here")
    extract.extract(1, id, working)
    failing = working.records.documents.claim(1, documents[0].id, "w", datetime.now(UTC), timedelta(0))
    assert failing is not None and working.records.documents.give_up(failing, {"error": "x"})
    again = claimed(working.records, inserted(delivering.records, source_message_id="<late>"), datetime.now(UTC))
    assert working.records.messages.retry_later(again, {}, 1, NOW)
    again = claimed(working.records, again, datetime.now(UTC))
    assert working.records.messages.give_up(again, {"error": "x"})
    for opened in (delivering, working, operating):
        opened.records.database.close()


def test_an_order_goes_through_a_deployment_whose_programs_have_roles_of_their_own(postgres):
    with scratch() as place:
        deployment = Deployment(place, service=True, map_by="database")
        tenants = Tenants(postgres)
        tenants.set_up(deployment)
        deployment.write_settings({"DATABASE_URL": tenants.url("deliver"), "MAP_DATABASE_URL": tenants.url("map")})
        deployment.worker.env["DATABASE_URL"] = tenants.url("worker")
        deployment.configure_postfix()
        with deployment:
            replies = smtp.send(deployment.postfix.smtp_port, "a@b.example", [f"orders+acme@{DOMAIN}"], order(5))
            assert replies.accepted
            (unknown,) = smtp.send(deployment.postfix.smtp_port, "a@b.example", [f"orders+no@{DOMAIN}"], mail()).rcpt
            assert unknown.code == 550
            delivered = deployment.deliver(f"orders+bolt@{DOMAIN}", order(6))
            assert delivered.returncode == 0
            refused = deployment.run("orderflow-admin", "status", check=False)
            assert refused.returncode == 1 and "orderflow-admin roles" in refused.stderr
            deployment.environment["DATABASE_URL"] = tenants.url("operator")
            deployment.wait_finished(2)
            assert deployment.status()["messages_parsed_last_24_hours"] == 2
            assert {row["recipient"] for row in deployment.messages()} == {
                f"orders+{slug}@{DOMAIN}" for slug in ("acme", "bolt")
            }
            deployment.admin("org", "add", "late")
            (late,) = smtp.send(deployment.postfix.smtp_port, "a@b.example", [f"orders+late@{DOMAIN}"], mail()).rcpt
            assert late.code == 250, "the map sees what the operator adds"
        table = (deployment.postfix.config_directory / "orderflow_recipients.cf").read_text()
        assert tenants.role("map") in table and tenants.role("deliver") not in table


@pytest.mark.parametrize("group", ["deliver", "worker", "operator"])
def test_init_on_a_further_host_makes_its_directories_by_the_role_of_that_host(tenants, group):
    with scratch() as place:
        deployment = Deployment(place)
        deployment.write_settings({"DATABASE_URL": tenants.url(group)})
        assert "the tables are another role's" in deployment.admin("init")
        assert {"spool", "circuits", "metrics"} <= {path.name for path in deployment.state.iterdir()}
        assert deployment.admin("init"), "again"


def test_who_may_make_tables_beside_the_owners_leaves_those_alone(tenants, postgres):
    """As each role may in the schema public of a database that comes from PostgreSQL 14 or older."""
    with scratch() as place, psycopg.connect(postgres.conninfo(tenants.name), autocommit=True) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        try:
            deployment = Deployment(place)
            deployment.write_settings({"DATABASE_URL": tenants.url("deliver")})
            assert "the tables are another role's" in deployment.admin("init")
            deployment.write_settings({"DATABASE_URL": tenants.owner_url})
            assert "another role" not in deployment.admin("init")
        finally:
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def test_init_by_a_role_that_may_make_no_tables_says_who_makes_them(postgres, deployment):
    tenants = Tenants(postgres)
    postgres.create_role(tenants.role("deliver"))
    with scratch() as place:
        deployment = Deployment(place)
        deployment.write_settings({"DATABASE_URL": tenants.url("deliver")})
        ended = deployment.run("orderflow-admin", "init", check=False)
        assert ended.returncode == 1
        assert (
            "it has no tables, and the role of DATABASE_URL may make none: run orderflow-admin init as" in ended.stderr
        )
