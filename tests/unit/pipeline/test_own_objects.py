"""A row that names another tenant's object: the database refuses it, and no program reads what it names."""

import ast
import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.object_keys import document_key, is_own, raw_key
from orderflow_ingest.domain.states import HoldReason, Status
from orderflow_ingest.entrypoints.admin import show
from orderflow_ingest.entrypoints.admin.history import mail_history
from orderflow_ingest.observability import logs
from orderflow_ingest.pipeline import extract, hand_over, replay
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.archive import ForeignObject, read_object, require_own_key
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.database.tables import document, held_mail, inbound_message
from tests.support.fakes import embedded
from tests.support.mails import order
from tests.support.own_objects import KEYS

PACKAGE = Path(__file__).parents[3] / "orderflow_ingest"
SECRET = b"beta's secret order"


@pytest.fixture
def app(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def deliver(app, raw, slug):
    envelope = Envelope(f"orders+{slug}@orderflow.example.com", datetime.now(UTC), "buyer@shop.example")
    return deliver_from_memory(envelope, raw, app).message_id


def rows(app, slug):
    org = app.records.organizations.find(slug)
    return app.records.messages.select(Filter(org_id=org.id), 10)


def change(app, table, **values):
    """Write into acme's rows what the database would refuse, as one of the version before may hold it."""
    with app.records.database.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.execute(table.update().where(table.c.org_id == 1).values(**values))


@pytest.fixture
def crossed(app):
    """Return a deployment where acme's message, held mail and document name beta's objects, digests and all."""
    deliver(app, order(1, attachments=1), "acme")
    deliver(app, b"From: buyer@shop.example\nSubject: secret\nMessage-ID: <2@x>\n\n" + SECRET + b"\n", "beta")
    for message in (*rows(app, "acme"), *rows(app, "beta")):
        extract.extract(message.org_id, message.id, app)
    (theirs,) = rows(app, "beta")
    (mine,) = rows(app, "acme")
    (text,) = app.records.documents.of_message(2, theirs.id)
    held = app.records.messages.get(1, mine.id)
    assert app.records.held_mail.insert(None, held, HoldReason.SENDER_NOT_ALLOWED)
    change(app, inbound_message, raw_key=theirs.raw_key, digest=theirs.digest, status="RECEIVED")
    change(app, held_mail, raw_key=theirs.raw_key, digest=theirs.digest)
    change(app, document, object_key=text.object_key, digest=text.digest, handover="PENDING")
    return app


def test_a_key_is_an_organizations_own_or_not():
    assert is_own(1, raw_key(1, "0" * 64)) and is_own(1, raw_key(1, "0" * 64, "UPLOAD", is_held=True))
    assert is_own(1, document_key(1, "0" * 64)) and not any(is_own(1, key) for key in KEYS)


def test_the_error_names_neither_key_nor_object(app):
    for key in KEYS:
        with pytest.raises(ForeignObject) as refused:
            read_object(1, key, "0" * 64, app.archive)
        assert str(refused.value) == "the row names an object that is not its organization's"
        with pytest.raises(ForeignObject):
            require_own_key(1, key)


def test_no_program_reads_it(crossed, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(hand_over, "load_handler", lambda _: lambda document: given.append(document.read()))
    stream = io.StringIO()
    logs.configure("stderr", "test", None)
    logs._logger.handlers[0].stream = stream
    app, (mine,) = crossed, rows(crossed, "acme")
    found = app.records.documents.of_message(1, mine.id)
    extract.extract(1, mine.id, app)
    for one in found:
        hand_over.hand_over(1, one.id, app)
    (held,) = app.records.held_mail.open()
    for call in (
        lambda: replay.accept_held(held, app, "test", "why"),
        lambda: replay.discard_held(held, app, "test", "why"),
        lambda: replay.identity_of(held, app),
        lambda: show._write_raw(mine, given.append, app),
        lambda: show._write_document(mine, found[0].part_path, given.append, app),
    ):
        with pytest.raises(ForeignObject):
            call()
    story = mail_history(mine, app)
    assert "ForeignObject" in repr(story) and SECRET.decode() not in repr(story)
    assert given == [] and rows(app, "acme")[0].status is Status.RECEIVED
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
        ("testing.py", "put"),  # of what a test has made
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
