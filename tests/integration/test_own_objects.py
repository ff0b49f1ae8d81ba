"""A row of an earlier version that names another tenant's object is not worked on."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
import sqlalchemy as sa

from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.object_keys import document_key, raw_key
from orderflow_ingest.domain.states import Status
from orderflow_ingest.storage.database import ALL_TENANTS, NO_TENANT, Filter, Records, schema
from orderflow_ingest.storage.database.tables import document, held_mail, inbound_message
from tests.support.lab.deployment import Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import order
from tests.support.own_objects import KEYS, at_version, written


@pytest.fixture(params=["sqlite", "postgresql"])
def records(request, place):
    if request.param == "sqlite":
        records = Records(f"sqlite:///{place}/rows.db", create=True)
    else:
        url = request.getfixturevalue("postgres").create_database(f"own_{uuid4().hex}")
        records = Records(url)
    yield records
    records.database.close()


def test_a_wrong_row_of_before_is_not_worked_on_and_keeps_no_mail_from_coming_in(postgres):
    """The constraint would refuse each change of it: each minute's task would break, and it would be late for ever."""
    records = Records(postgres.create_database(f"own_{uuid4().hex}"))
    at_version(records.database, "0008")
    records.organizations.add("acme", "Acme")
    wrong = written(records.database, inbound_message, 1, KEYS[0])
    right = written(records.database, inbound_message, 1, raw_key(1, "0" * 64))
    papers = [written(records.database, document, 1, key) for key in (KEYS[7], document_key(1, "0" * 64))]
    with records.database.write(ALL_TENANTS) as connection:
        connection.execute(inbound_message.update().values(status="RECEIVED"))
    schema.upgrade(records.database)
    now = datetime.now(UTC)
    assert records.messages.due(now, 10) == [(1, right)] and records.documents.due(now, 10) == [(1, papers[1])]
    row = records.messages.get(1, wrong)
    assert row.status is Status.FAILED and row.error_json["error"] == "ForeignObject"
    with records.database.write(1) as connection:
        connection.execute(inbound_message.delete().where(inbound_message.c.id == right))
    assert records.messages.lag(now) == 0
    with pytest.raises(sa.exc.IntegrityError):
        written(records.database, inbound_message, 1, KEYS[0])
    records.database.close()


def test_on_postgresql_a_wrong_row_of_before_is_logged_without_its_content_and_others_are_worked_on(postgres):
    """The unvalidated constraint refuses each change of such a row, also the beginning of an attempt."""
    with scratch() as place:
        deployment = Deployment(place, {"DATABASE_URL": postgres.create_database(f"own_{uuid4().hex}")})
        deployment.admin("init")
        deployment.admin("org", "add", "acme")
        secret = order(1).replace(b"Subject: ", b"Subject: secret-word ")
        assert deployment.deliver("orders+acme@orderflow.example.com", secret).returncode == 0
        values = dict(line.split("=", 1) for line in deployment.settings_file.read_text().splitlines())
        records = Records(values["DATABASE_URL"])
        with records.database.write(ALL_TENANTS) as connection:
            for step in (
                "DROP CONSTRAINT ck_inbound_message_raw_key",
                "ADD CONSTRAINT ck_inbound_message_raw_key CHECK (starts_with(raw_key, 'org/' || org_id)) NOT VALID",
            ):
                if step.startswith("ADD"):
                    connection.execute(inbound_message.update().values(raw_key=KEYS[0]))
                connection.exec_driver_sql(f"ALTER TABLE inbound_message {step}")
        records.database.close()
        assert deployment.deliver("orders+acme@orderflow.example.com", order(2)).returncode == 0
        deployment.worker.start()
        try:
            deployment.wait_parsed(subject_of(order(2)))
            assert wait_until(lambda: "Task failed" in deployment.worker.log.read_text(), 60)
        finally:
            deployment.worker.stop()
        log = deployment.worker.log.read_text()
        assert "IntegrityError at messages.py" in log and "Traceback" not in log and "secret-word" not in log


def subject_of(raw):
    return read_message(raw).subject


def test_the_database_refuses_a_row_with_another_tenants_key(records):
    schema.upgrade(records.database)
    for slug in ("acme", "beta"):
        records.organizations.add(slug, slug)
    own = {
        inbound_message: ("raw_key", [raw_key(1, "0" * 64), raw_key(1, "0" * 64, "UPLOAD")]),
        held_mail: ("raw_key", [raw_key(1, "0" * 64, is_held=True), raw_key(1, "1" * 64)]),
        document: ("object_key", [document_key(1, "0" * 64)]),
    }
    for table, (column, keys) in own.items():
        ids = [written(records.database, table, 1, key) for key in keys]
        for key in KEYS:
            with pytest.raises(sa.exc.IntegrityError, match=f"ck_{table.name}_{column}"):
                written(records.database, table, 1, key)
            with (
                pytest.raises(sa.exc.IntegrityError, match=f"ck_{table.name}_{column}"),
                records.database.write(ALL_TENANTS) as connection,
            ):
                connection.execute(table.update().where(table.c.id == ids[0]).values({column: key}))
    with pytest.raises(sa.exc.IntegrityError), records.database.write(ALL_TENANTS) as connection:
        connection.execute(inbound_message.update().values(org_id=2))


@pytest.mark.parametrize("key", [raw_key(1, "0" * 64), KEYS[0]], ids=["a right one", "a wrong one"])
def test_an_upgrade_keeps_the_rows_of_before_and_binds_the_new_ones(records, key):
    at_version(records.database, "0008")
    records.organizations.add("acme", "Acme")
    written(records.database, inbound_message, 1, key)
    for _ in range(2):
        schema.upgrade(records.database)
    assert schema.current_version(records.database) == schema.needed_version()
    assert [row.raw_key for row in records.messages.select(Filter(), 10)] == [key]
    with pytest.raises(sa.exc.IntegrityError):
        written(records.database, inbound_message, 1, KEYS[0])
    if not records.database.is_sqlite:
        with records.database.read(NO_TENANT) as connection:
            asked = "SELECT convalidated FROM pg_constraint WHERE conname = 'ck_inbound_message_raw_key'"
            assert connection.exec_driver_sql(asked).scalar() == (key != KEYS[0])
