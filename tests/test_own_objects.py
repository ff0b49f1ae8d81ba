"""A row that names another tenant's object: the database refuses it, and no program reads what it names."""

import ast
import io
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.object_keys import document_key, is_own, raw_key
from orderflow_ingest.domain.states import HoldReason, Status
from orderflow_ingest.entrypoints.admin import show
from orderflow_ingest.entrypoints.admin.history import mail_history
from orderflow_ingest.observability import logs
from orderflow_ingest.pipeline import extract, hand_over, replay
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.archive import ForeignObject, read_object, require_own_key
from orderflow_ingest.storage.database import ALL_TENANTS, NO_TENANT, Database, Filter, Records, schema
from orderflow_ingest.storage.database.tables import document, held_mail, inbound_message
from orderflow_ingest.storage.package_files import package_directory
from tests.lab.deployment import Deployment
from tests.lab.process import scratch, wait_until

from .fakes import embedded
from .mails import order

PACKAGE = Path(__file__).parents[1] / "orderflow_ingest"
SECRET = b"beta's secret order"
KEYS = (
    "org/2/raw/" + "0" * 64 + ".eml",
    "org/1/raw/../../2/raw/0.eml",
    "org/10/raw/0.eml",
    "/org/1/raw/0",
    "",
    "x",
    "org/1/documents/../../2/documents/0",
    "org/2/documents/0",
    "ORG/1/raw/0.eml",
    "org/1/organization.json",
)


@pytest.fixture
def parts(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def deliver(parts, raw, slug):
    envelope = Envelope(f"orders+{slug}@orderflow.example.com", datetime.now(UTC), "buyer@shop.example")
    return deliver_from_memory(envelope, raw, parts).message_id


def rows(parts, slug):
    org = parts.records.organizations.find(slug)
    return parts.records.messages.select(Filter(org_id=org.id), 10)


def change(parts, table, **values):
    """Write into acme's rows what the database would refuse, as one of the version before may hold it."""
    with parts.records.database.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.execute(table.update().where(table.c.org_id == 1).values(**values))


@pytest.fixture
def crossed(parts):
    """Give a deployment where acme's message, held mail and document name beta's objects, digests and all."""
    deliver(parts, order(1, attachments=1), "acme")
    deliver(parts, b"From: buyer@shop.example\nSubject: secret\nMessage-ID: <2@x>\n\n" + SECRET + b"\n", "beta")
    for message in (*rows(parts, "acme"), *rows(parts, "beta")):
        extract.extract(message.org_id, message.id, parts)
    (theirs,) = rows(parts, "beta")
    (mine,) = rows(parts, "acme")
    (text,) = parts.records.documents.of_message(2, theirs.id)
    held = parts.records.messages.get(1, mine.id)
    assert parts.records.held_mail.insert(None, held, HoldReason.SENDER_NOT_ALLOWED)
    change(parts, inbound_message, raw_key=theirs.raw_key, digest=theirs.digest, status="RECEIVED")
    change(parts, held_mail, raw_key=theirs.raw_key, digest=theirs.digest)
    change(parts, document, object_key=text.object_key, digest=text.digest, handover="PENDING")
    return parts


def test_a_key_is_an_organizations_own_or_not():
    assert is_own(1, raw_key(1, "0" * 64)) and is_own(1, raw_key(1, "0" * 64, "UPLOAD", is_held=True))
    assert is_own(1, document_key(1, "0" * 64)) and not any(is_own(1, key) for key in KEYS)


def test_the_error_names_neither_key_nor_object(parts):
    for key in KEYS:
        with pytest.raises(ForeignObject) as refused:
            read_object(1, key, "0" * 64, parts.archive)
        assert str(refused.value) == "the row names an object that is not its organization's"
        with pytest.raises(ForeignObject):
            require_own_key(1, key)


def test_no_program_reads_it(crossed, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(hand_over, "load_handler", lambda _: lambda document: given.append(document.read()))
    stream = io.StringIO()
    logs.configure("stderr", "test", None)
    logs._logger.handlers[0].stream = stream
    parts, (mine,) = crossed, rows(crossed, "acme")
    found = parts.records.documents.of_message(1, mine.id)
    extract.extract(1, mine.id, parts)
    for one in found:
        hand_over.hand_over(1, one.id, parts)
    (held,) = parts.records.held_mail.open()
    for call in (
        lambda: replay.accept_held(held, parts, "test", "why"),
        lambda: replay.discard_held(held, parts, "test", "why"),
        lambda: replay.identity_of(held, parts),
        lambda: show._write_raw(mine, given.append, parts),
        lambda: show._write_document(mine, found[0].part_path, given.append, parts),
    ):
        with pytest.raises(ForeignObject):
            call()
    story = mail_history(mine, parts)
    assert "ForeignObject" in repr(story) and SECRET.decode() not in repr(story)
    assert given == [] and rows(parts, "acme")[0].status is Status.RECEIVED
    logged = stream.getvalue()
    assert "ForeignObject" in logged and "org/2/" not in logged and SECRET.decode() not in logged


def is_archive(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr in ("archive", "_archive")) or (
        isinstance(node, ast.Name) and node.id == "archive"
    )


def test_every_object_that_a_row_names_is_read_by_the_one_function():
    """So no call of the archive has a row's key, but for two that have just made the key: a delivery's puts."""
    of_rows, reads = set(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                where = str(path.relative_to(PACKAGE))
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                is_call = isinstance(node.func, ast.Attribute) and is_archive(node.func.value)
                named = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)} & {
                    "raw_key",
                    "object_key",
                }
                if (is_call or name == "object_exists") and named:
                    of_rows.add((where, name))
                if is_call and name in ("read", "fetch"):
                    reads.add(where)
    assert of_rows == {
        ("pipeline/deliver.py", "put"),
        ("pipeline/deliver.py", "delete"),
        ("pipeline/extract.py", "put"),
        ("maintenance/rebuild/parse_object.py", "object_exists"),
    }
    # These read by the keys of a listing of one organization, by one that they have made, or are the function itself.
    assert reads == {
        "storage/archive/__init__.py",
        "pipeline/archive_manifest.py",
        "entrypoints/admin/checks/s3.py",
        "maintenance/erasure.py",
        "maintenance/reconcile/orphans.py",
        "maintenance/rebuild/parse_object.py",
    }


# The database


def written(database, table, org_id, key):
    """Write a row with this key; the other columns hold what they must."""
    other = {"subject": "", "from_email": "", "queue_id": "", "client_address": "", "fingerprint": "f" * 64}
    mail = {"envelope_sender": "", "envelope_recipient": "", **other, "received_at": datetime.now(UTC)}
    values = {"org_id": org_id, "id": uuid4(), "digest": "0" * 64}
    if table is inbound_message:
        identity = {"source": "EMAIL", "source_message_id": str(uuid4()), "message_id_is_synthetic": False}
        values |= {**mail, **identity, "raw_key": key, "status": "PARSED", "size": 1}
        values["next_attempt_at"] = mail["received_at"]
    elif table is held_mail:
        values |= {**mail, "fingerprint": str(uuid4()), "raw_key": key}
    else:
        values |= {"object_key": key, "declared_type": "a/b", "size": 1, "part_path": str(uuid4())}
        values |= {"next_attempt_at": mail["received_at"]}
        with database.read(ALL_TENANTS) as connection:
            id = connection.scalar(sa.select(inbound_message.c.id).where(inbound_message.c.org_id == org_id).limit(1))
        values["inbound_message_id"] = id
    with database.write(ALL_TENANTS) as connection:
        connection.execute(table.insert().values(**values))
    return values["id"]


@pytest.fixture(params=["sqlite", "postgresql"])
def records(request, place):
    if request.param == "sqlite":
        records = Records(f"sqlite:///{place}/rows.db", create=True)
    else:
        url = request.getfixturevalue("postgres").create_database(f"own_{uuid4().hex}")
        records = Records(url)
    yield records
    records.database.close()


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


def at_version(database: Database, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(package_directory("migrations")))
    with database.write(NO_TENANT) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)


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
