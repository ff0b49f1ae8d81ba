"""Support finds a mail's records by its Message-ID and its organization; one without a document is a warning."""

import json
from datetime import UTC, datetime

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.observability import logs
from orderflow_ingest.pipeline import extract, hand_over
from orderflow_ingest.pipeline.receive import deliver_from_memory
from tests.support.fakes import embedded
from tests.support.mails import mail, order


@pytest.fixture
def records(place):
    """Return a function that reads what has been logged by now."""
    logs.configure(str(place / "log"), "test", place)
    return lambda: [json.loads(line) for line in (place / "log").read_text().splitlines()]


@pytest.fixture
def app(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def take(app, raw):
    """Deliver a mail to beta, organization 2, extract it and hand it over."""
    envelope = Envelope("orders+beta@orderflow.example.com", datetime.now(UTC), "buyer@shop.example", queue_id="4XYZ")
    id = deliver_from_memory(envelope, raw, app).message_id
    deliver_from_memory(envelope, raw, app)
    extract.extract(2, id, app)
    for one in app.records.documents.of_message(2, id):
        hand_over.hand_over(2, one.id, app)
    return id


def test_each_record_of_a_mail_has_its_message_id_and_organization(place, app, records):
    id = take(app, order(1, attachments=1))
    found = [one for one in records() if one["action"] in ("deliver", "store", "extract", "hand_over", "document")]
    assert {one["action"] for one in found} == {"deliver", "store", "extract", "hand_over", "document"}
    ids = {(one["org"], one["org_id"], one["message_id"], one["source_message_id"]) for one in found}
    assert len(ids) == 1 and next(iter(ids))[:3] == ("beta", 2, str(id)) and "@" in next(iter(ids))[3]


def test_a_hostile_message_id_makes_one_short_line(place, app, records):
    take(app, b"From: a@b.example\nMessage-ID: <\x1b[31m\xe2\x80\xae\xff" + b"x" * 400 + b"@e>\n\nhi\n")
    take(app, b"From: a@b.example\nMessage-ID: <" + b"y" * 100_000 + b"@e>\n\nhi\n")
    lines = (place / "log").read_bytes().splitlines()
    assert all(line.isascii() and b"\x1b" not in line and len(line) < 5_000 for line in lines)
    assert len(lines) == len(records()) and any("xxx" in one.get("source_message_id", "") for one in records())


def test_a_mail_without_a_document_is_a_warning_and_one_with_some_is_none(place, app, records):
    take(app, mail(1, b"\n"))
    take(app, order(2, attachments=1))
    (empty, full) = [one for one in records() if one["action"] == "store"]
    assert (empty["level"], empty["message"]) == ("WARNING", "Message has no document.")
    assert (full["level"], full["message"]) == ("INFO", "Documents stored.")
