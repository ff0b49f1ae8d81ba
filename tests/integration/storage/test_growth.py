"""No statement grows with history: each goes by its index, in plain tables and in partitions. No test of a time.

The statements are those of `benchmarks.growth`, which measures what they cost; here the planner is asked what it
does with them where there is some history, as the roles that send them: the worker's, whom row-level security binds,
and the operator's.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from benchmarks.growth import __main__ as growth
from benchmarks.growth import history, partitions, plans
from benchmarks.growth.__main__ import MEASURES, Side
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.storage.database import ALL_TENANTS, DatabaseUnavailable, Filter, Records, SkippedPart, schema
from orderflow_ingest.storage.database.backlog import CENSUS
from orderflow_ingest.storage.database.tables import UNFINISHED as ROWS
from orderflow_ingest.storage.database.tables import document, inbound_message

NOW = datetime(2026, 11, 20, 8, 30, 15, tzinfo=UTC)
LEASE = timedelta(minutes=15)
ORGANIZATIONS = 2000
UNFINISHED, FAILED = "ix_inbound_message_unfinished", "ix_inbound_message_failed"
BY_ORG, BY_TIME = "ix_inbound_message_org_id_received_at", "ix_inbound_message_received_at"
KEY, IDENTITY = "pk_inbound_message", "uq_inbound_message_org_id_source_source_message_id"
DOCUMENT, PART = "pk_document", "uq_document_org_id_inbound_message_id_part_path"
PENDING, UNDONE = "ix_document_pending", "ix_document_failed"
WORDS, DOCUMENT_WORDS = "ix_inbound_message_words", "ix_document_words"
# How the policy of migration 0004 reads in a plan, which asks for the organizations once.
POLICY = "org_id = ANY ($"
OPEN, CLASH = "ix_held_mail_open", "uq_held_mail_org_id_inbound_message_id_fingerprint"
# An organization's own index is as good as that of the backlog or of the day: the planner may take either.
EXPECTED = {
    "identity, unknown": {IDENTITY},
    "identity, known": {IDENTITY, CLASH},
    "insert of a known identity": set(),
    "sweep: messages due": {UNFINISHED},
    "sweep: documents due": {PENDING},
    "lag": {UNFINISHED},
    "oldest unfinished": {UNFINISHED},
    "oldest unfinished of an organization": {UNFINISHED, BY_ORG},
    "status: messages": {UNFINISHED, FAILED, BY_TIME},
    "status: messages of an organization": {UNFINISHED, FAILED, BY_ORG, BY_TIME},
    "status: documents": {PENDING, UNDONE},
    "status: documents of an organization": {PENDING, UNDONE, PART},
    "status: held mail": {OPEN},
    "status: held mail of an organization": {OPEN},
    "figures of an hour": {BY_TIME},
    "figures of an organization": {BY_ORG, BY_TIME},
    "figures of an hour by organization": {BY_TIME},
    "list: 50 newest": {BY_TIME},
    "list: 50 somewhere in history": {BY_TIME},
    "list: 20 newest of an organization": {BY_ORG},
    "list: 50 newest FAILED": {FAILED},
    "list: FAILED of an organization": {FAILED},
    "list: not PARSED": {UNFINISHED, FAILED},
    "count of FAILED": {FAILED},
    "find: words of one mail": {WORDS, KEY, BY_TIME},
    "find: words of every mail": {BY_TIME},
    "find: words of every mail, of an organization": {WORDS, BY_ORG, KEY},
    "find: words of no mail": {WORDS, KEY, BY_TIME},
    "find: a sender": {WORDS, KEY, BY_TIME},
    "find: a sender of an organization": {WORDS, BY_ORG, KEY},
    "find: a sender's domain": {BY_TIME},
    "find: a document": {DOCUMENT_WORDS, KEY, BY_TIME, PART},
    "find: documents that every mail has": {BY_TIME, PART},
    "find: a document that nobody has": {DOCUMENT_WORDS, KEY, BY_TIME, PART},
    "find: a Message-ID": {IDENTITY, "pk_organization"},
    "find: what is held": {OPEN},
    "find: documents of a page": {PART},
    "show: the beginning of an id": {KEY},
    "show: held mail of a message": {CLASH},
    "show: a held mail of unknown organization": {"pk_held_mail", "pk_organization"},
    "status: a day and a week": {BY_TIME},
    "status: a day and a week of an organization": {BY_ORG, BY_TIME},
    "status: each organization": {UNFINISHED, FAILED, OPEN, PENDING, UNDONE, BY_TIME},
    "status: a day and the newest": {BY_TIME},
    "status: each organization, the newest": {UNFINISHED, FAILED, OPEN, PENDING, UNDONE, BY_TIME},
    "status: last errors": {UNFINISHED, FAILED, PENDING, UNDONE},
    "status: last errors of an organization": {UNFINISHED, FAILED, PENDING, UNDONE, BY_ORG, PART},
    "status: what is held": {OPEN},
    "held of this content": {"uq_held_mail_alone"},
    "list: held mail": {OPEN},
    "a message": {KEY},
    "a message of unknown organization": {KEY, "pk_organization"},
    "documents of a message": {PART},
    "insert": set(),
    "insert, on disk": set(),
    "claim": {KEY},
    "record of two documents": {KEY, PART, "pk_skipped_part"},
    "to PARSED": {KEY},
    "hand-over of a document": {DOCUMENT},
    "insert of a held mail": set(),
}


def made(postgres, build):
    """Make a database, and return its name."""
    name = f"growth_{uuid4().hex}"
    postgres.create_database(name)
    owner = Records(growth.url_of(postgres, name))
    build(owner.database)
    owner.database.close()
    return name


@pytest.fixture(scope="module")
def side(postgres):
    """Return 60,000 messages of 2,000 organizations, each with a held mail, and statistics of a quiet hour."""
    side = growth.open_side(postgres, made(postgres, schema.upgrade), NOW, ORGANIZATIONS)
    history.fill(side.owner, 60_000, ORGANIZATIONS, NOW)
    with side.owner.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO held_mail (org_id, id, inbound_message_id, envelope_sender, envelope_recipient, "
            "queue_id, client_address, from_email, subject, raw_key, digest, fingerprint, received_at, resolution) "
            "SELECT org_id, gen_random_uuid(), id, '', '', '', '', '', '', raw_key, digest, fingerprint, received_at, "
            "'DISCARDED' FROM inbound_message"
        )
        connection.exec_driver_sql(
            f"CREATE TABLE backlog AS SELECT org_id, id, status FROM inbound_message WHERE {ROWS}"
        )
        connection.exec_driver_sql(f"UPDATE inbound_message SET status = 'PARSED' WHERE {ROWS}")
        connection.exec_driver_sql("UPDATE document SET handover = 'DONE' WHERE handover = 'PENDING'")
        connection.exec_driver_sql("ANALYZE inbound_message, document, held_mail")
        connection.exec_driver_sql(
            "UPDATE inbound_message m SET status = b.status FROM backlog b WHERE (m.org_id, m.id) = (b.org_id, b.id)"
        )
        connection.exec_driver_sql(
            "UPDATE document d SET handover = 'PENDING' FROM backlog b "
            "WHERE (d.org_id, d.inbound_message_id) = (b.org_id, b.id) AND b.status = 'STORED'"
        )
    side.draw()
    yield side
    side.close()


@pytest.fixture(scope="module")
def unbound(side):
    """Return the same database as its owner sees it."""
    records = Records(side.owner.url.render_as_string(hide_password=False))
    yield replace(side, records=records, operator=records)
    records.database.close()


def goes_by_index(side, what):
    """Check the plans of a call, and give them."""
    found = growth.explained(side, MEASURES[what](side))
    used = {index for plan in found for index in plans.indexes(plan)}
    assert found and not [scan for plan in found for scan in plans.scans(plan)], "\n".join(found)
    assert used <= EXPECTED[what] and bool(used) == bool(EXPECTED[what]), "\n".join(found)
    return found


@pytest.mark.parametrize("what", MEASURES)
def test_a_statement_goes_by_its_index_where_there_is_history(side, what):
    goes_by_index(side, what)


@pytest.mark.parametrize("what", MEASURES)
def test_a_statement_goes_by_the_same_index_where_no_row_level_security_binds(unbound, what):
    assert POLICY not in "".join(goes_by_index(unbound, what))


@pytest.mark.parametrize("what", [what for what in MEASURES if what.endswith("of an organization")])
def test_an_organizations_own_rows_are_found_by_its_index_by_a_bound_role(side, what):
    bound = replace(side, operator=side.records)
    assert all(POLICY in plan for plan in goes_by_index(bound, what))


BY_KEY = ("identity", "a message", "documents of", "claim", "record", "to PARSED", "hand-over")


@pytest.mark.parametrize("what", [what for what in MEASURES if what.startswith(BY_KEY)])
def test_a_policy_takes_nothing_from_what_an_index_is_asked_for(side, unbound, what):
    """The organizations may be asked for besides, of the same index; values differ, and numbers of parameters."""

    def asked(side):
        found = "\n".join(goes_by_index(side, what))
        conditions = re.findall(r"Index Cond: (.*)", found)
        own = [re.sub(r"\(org_id = ANY \(\$\d\)\) AND ", "", condition) for condition in conditions]
        return POLICY in found, [re.sub(r"'[^']*'", "?", condition) for condition in own]

    assert asked(side) == (what != "a message of unknown organization", asked(unbound)[1])


def test_the_role_that_is_measured_sees_the_organizations_that_it_names_and_no_others(side):
    asked = sa.select(sa.func.count(sa.distinct(inbound_message.c.org_id)))
    with side.records.database.read(1) as connection:
        assert connection.scalar(asked) == 1
    with pytest.raises(DatabaseUnavailable), side.records.database.read(ALL_TENANTS):
        pytest.fail("it was let see every organization")


def test_the_census_for_monitoring_reads_what_it_counts_and_no_history(side):
    with side.owner.connect() as connection:
        plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {CENSUS}"))
    assert plans.scans(plan) in ([], ["organization"], ["organization"] * 2, ["organization"] * 3), plan
    assert set(plans.indexes(plan)) <= {UNFINISHED, FAILED, PENDING, UNDONE, OPEN, "pk_organization"}, plan


def test_sqlite_takes_the_census_by_the_same_indexes(tmp_path):
    records = Records(f"sqlite:///{tmp_path}/a.db", create=True)
    schema.upgrade(records.database)
    with records.database.read(ALL_TENANTS) as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {CENSUS}")]
    assert plan and not [
        line for line in plan if line.startswith(("SCAN m", "SCAN d", "SCAN c ")) and " INDEX ix_" not in line
    ]
    records.database.close()


def test_an_organization_that_has_been_silent_is_not_sought_through_the_mail_of_the_others(side):
    """The first one has a twelfth of all mail; the planner would find twenty of it soon, were it spread evenly."""
    with side.owner.connect() as connection:
        latest = connection.scalar(sa.select(sa.func.max(inbound_message.c.received_at)))
    for records in (side.records, side.operator):
        for chosen in (Filter(org_id=1), Filter(org_id=1, until=latest), Filter(org_id=1, statuses=(Status.PARSED,))):
            (plan,) = growth.explained(side, iter([lambda r=records, c=chosen: r.messages.select(c, 20)]))
            assert plans.indexes(plan) == [BY_ORG], plan


def test_what_is_measured_is_taken_out_again(side):
    def rows():
        with side.owner.connect() as connection:
            return [connection.scalar(sa.select(sa.func.count()).select_from(t)) for t in partitions.TENANT_TABLES]

    side.clean()
    before = rows()
    for what in ("insert", "record of two documents", "hand-over of a document", "insert of a held mail"):
        next(MEASURES[what](side))()
    assert all(more > less for more, less in zip(rows()[:2], before[:2], strict=True))
    side.clean()
    assert rows() == before


def test_a_scan_and_a_ratio_over_the_limit_are_told():
    plan = "Append\n  Buffers: shared hit=7 read=2\n  ->  Seq Scan on document_3 d\n  ->  Seq Scan on organization"
    assert (plans.scans(plan), plans.buffers(plan), plans.indexes(plan)) == (["document_3"], 9, [])
    case = {"what": "a", "ratio": 1.5, "scans": []}
    assert growth.complaints([case]) == []
    assert growth.complaints([case | {"ratio": 1.51}, case | {"scans": ["document"]}]) == [
        "a: 1.51 times the time",
        "a: Seq Scan on document",
    ]


READS = [
    what
    for what in MEASURES
    if what.startswith(("identity", "sweep", "lag", "oldest", "status", "figures", "list", "count"))
]


@pytest.mark.parametrize(
    "what", [what for what in READS if what not in ("identity, known", "list: 50 somewhere in history")]
)
def test_sqlite_reads_no_tenant_table_from_end_to_end(tmp_path, what):
    """It plans without statistics, so that empty tables tell as much as full ones."""
    records = Records(f"sqlite:///{tmp_path}/a.db", create=True)
    schema.upgrade(records.database)
    asked, side = [], Side("large", records, records, records.database.engine, NOW, ORGANIZATIONS)
    side.newest_since = NOW
    sa.event.listen(records.database.engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
    next(MEASURES[what](side))()
    (statement, parameters), *_ = asked
    with records.database.read(ALL_TENANTS) as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    tenant = tuple(f"SCAN {table.name}" for table in partitions.TENANT_TABLES)
    assert plan and not [line for line in plan if line.startswith(tenant) and " INDEX ix_" not in line], "\n".join(plan)
    records.database.close()


# Partitions


@pytest.fixture(scope="module")
def divided(postgres):
    """Return the tables in four partitions each, and eight organizations."""
    name = made(postgres, lambda database: partitions.build(database.engine, 4))
    side = growth.open_side(postgres, name, NOW, 8)
    for number in range(8):
        side.operator.organizations.add(f"org-{number}", "Name")
    yield side
    side.close()


def test_a_step_takes_the_indexes_that_partitions_have_already(divided):
    def all_indexes(connection):
        return connection.exec_driver_sql("SELECT indexrelid, indrelid FROM pg_index ORDER BY indexrelid").all()

    with divided.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        before = all_indexes(connection)
        with partitions.names_before_0013(connection):
            partitions.step("0003").prepare(connection)
            partitions.take(connection, "0003")
        assert all_indexes(connection) == before


def test_init_has_nothing_to_do_where_there_are_partitions(divided):
    owner = Records(divided.owner.url.render_as_string(hide_password=False))
    schema.upgrade(owner.database)
    assert schema.current_version(owner.database) == schema.needed_version()
    owner.database.close()


def test_partitions_keep_the_tenants_apart_and_are_not_to_be_had_by_their_own_names(divided):
    for org_id in (1, 2):
        divided.inserted(org_id)
    asked = sa.select(inbound_message.c.org_id).distinct()
    for orgs, seen in ((1, {1}), ((1, 2), {1, 2}), ((), set())):
        with divided.records.database.read(orgs) as connection:
            assert set(connection.scalars(asked)) == seen
    with divided.operator.database.read(ALL_TENANTS) as connection:
        assert set(connection.scalars(asked)) == {1, 2}
    for records in (divided.records, divided.operator):
        with pytest.raises(DatabaseUnavailable, match="42501"), records.database.read(1) as connection:
            connection.exec_driver_sql("SELECT FROM inbound_message_0")
    with pytest.raises(DatabaseUnavailable, match="42501"), divided.records.database.write(1) as connection:
        divided.records.messages.insert_in(connection, divided.new(2), NOW)
    divided.clean()


def test_a_message_lives_its_life_in_partitions(divided):
    records, messages, documents = divided.records, divided.records.messages, divided.records.documents
    operator = divided.operator
    for org_id in range(1, 9):
        new = divided.inserted(org_id)
        assert not messages.insert(new, NOW)
        known = messages.find_identity(org_id, "EMAIL", new.source_message_id)
        assert known is not None and known.id == new.id
        other = divided.new(org_id)
        assert records.held_mail.insert(known, other) and not records.held_mail.insert(known, other)
        assert (org_id, new.id) in messages.due(NOW, 100)
        attempt = messages.claim(org_id, new.id, "w", NOW, LEASE)
        assert attempt is not None and messages.claim(org_id, new.id, "w", NOW, LEASE) is None
        part = growth._part(org_id)
        skipped = [SkippedPart("9", None, "image/png", None, 1, "small image", [])]
        for is_complete in (False, True):  # the second finds the rows of the first
            assert documents.record(attempt, [part], skipped, NOW, is_complete=is_complete)
        assert [found.id for found in documents.of_message(org_id, new.id)] == [part.id]
        assert messages.finish(attempt, {}) and not messages.finish(attempt, {})
        handing = documents.claim(org_id, part.id, "w", NOW, LEASE)
        assert handing is not None and documents.finish(handing)
        assert [c.id for c in records.held_mail.open(org_id)] == [other.id]
        found = messages.get(org_id, new.id)
        assert found is not None and found.status is Status.PARSED and found.updated_at > found.created_at
    assert messages.due(NOW, 100) == [] and messages.lag(NOW + LEASE) == 0
    assert operator.messages.count_by_status(NOW)[Status.PARSED] == len(operator.messages.select(Filter(), 100)) == 8
    assert operator.documents.count_undone() == {HandOver.PENDING: 0, HandOver.FAILED: 0}
    assert operator.held_mail.count_open() == 8


@pytest.mark.parametrize("table", [inbound_message, document], ids=lambda t: t.name)
def test_partitions_refuse_what_belongs_to_nobody(divided, table):
    divided.records.documents.record(divided.claimed(1), [growth._part(1)], [], NOW, is_complete=True)
    with pytest.raises(sa.exc.IntegrityError), divided.operator.database.write(ALL_TENANTS) as connection:
        connection.execute(table.update().values(org_id=99))


def test_a_statement_of_one_organization_asks_one_partition(divided):
    asked = [what for what in READS if what.endswith("of an organization")]
    found = [growth.explained(divided, MEASURES[what](divided))[0].partition("\n\n")[2] for what in asked]
    parts = [set(re.findall(r" on (?:inbound_message|document|held_mail)_(\d) ", plan)) for plan in found]
    assert parts and all(len(numbers) == 1 for numbers in parts), "\n\n".join(found)


def test_one_run_gives_every_figure(place):
    command = [sys.executable, "-m", "benchmarks.growth", "--small", "6000", "--rows", "12000", "--partitions", "2"]
    options = ["--organizations", "50", "--calls", "2", "--directory", place, "--json", place / "found.json"]
    ended = subprocess.run([*command, *options], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert ended.returncode == 0 or "FAILED: " in ended.stderr.splitlines()[-1], ended.stdout + ended.stderr
    found = json.loads((place / "found.json").read_text())
    assert [case["what"] for case in found["cases"]] == list(MEASURES)
    assert all(ms > 0 for case in found["cases"] for ms in case["ms"].values())
    growth.write(found, place)
    page = (place / "growth.md").read_text()
    assert page.startswith("# What the statements cost") and "| sweep: messages due " in page
    assert "ix_inbound_message_unfinished" in (place / "growth-plans.md").read_text()
