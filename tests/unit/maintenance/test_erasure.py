"""What is to be erased goes with all copies and rows, and nothing else does."""

import os
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from orderflow_ingest.domain.object_keys import document_key
from orderflow_ingest.maintenance import erasure
from orderflow_ingest.maintenance.erasure import ErasureRequest, erase
from orderflow_ingest.maintenance.retention import RetentionRule
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.database import ALL_TENANTS, Filter, Run
from orderflow_ingest.storage.database.tables import held_mail, inbound_message, message_event, operator_run
from tests.support.crash import at_line
from tests.support.fakes import embedded
from tests.support.mails import order
from tests.support.maintenance import (
    ME,
    OLD,
    SENDER,
    deliver,
    delivered,
    documents,
    erased,
    everything_of,
    found,
    keep,
    objects,
    org,
    populated,
    put_orphan,
    spooled,
    work,
)


@pytest.fixture
def app(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def test_an_organization_is_erased_with_all_it_has_and_the_other_one_is_as_it_was(app):
    populated(app)
    put_orphan(app, order(8))
    app.archive.put(document_key(1, "0" * 64), b"x", "0" * 64)
    other = everything_of(app, 2)
    dry = erase(ErasureRequest(org(app)), app, ME)
    assert everything_of(app, 2) == other and len(app.records.messages.select(Filter(org_id=1), 9)) == 3
    done = erased(app)
    assert everything_of(app, 1) == ([0, 0, 0, 0, 0], set())
    assert everything_of(app, 2) == other
    assert (done.messages, done.held, done.spool_entries, done.dead_letters) == (3, 1, 2, 2)
    assert dry == done
    assert spooled(app) == (4, 4)
    assert found(app, slug="beta") == []
    assert (org(app).name, org(app).slug) == ("acme", "acme")
    again = erased(app)
    assert (again.messages, again.raw_objects, again.document_objects) == (0, 0, 0)


def test_a_sender_is_erased_and_what_others_sent_stays(app):
    populated(app)
    orphan = put_orphan(app, order(8))
    os.utime(app.settings.state_dir / "archive" / orphan, (0, 0))
    other = everything_of(app, 2)
    done = erased(app, sender=SENDER)
    assert everything_of(app, 2) == other
    (left,) = app.records.messages.select(Filter(org_id=1), 9)
    assert left.envelope_sender == "else@shop.example" and app.records.held_mail.open(1) == []
    assert everything_of(app, 1)[1] == {left.raw_key, *(d.object_key for d in documents(app, left))}
    assert (done.messages, done.held, done.spool_entries, done.dead_letters) == (2, 1, 1, 1)
    with app.records.database.read(ALL_TENANTS) as connection:
        for table in (inbound_message, held_mail, message_event, operator_run):
            of_acme = table.c.org_id == 1 if "org_id" in table.c else sa.true()
            assert SENDER not in str(connection.execute(sa.select(table).where(of_acme)).all())
    assert found(app) == []


def test_one_message_is_erased_by_its_id_with_the_held_mail_that_it_was(app):
    from orderflow_ingest.pipeline.replay import accept_held

    first = delivered(app, order(1))
    deliver(app, order(1) + b"other content\n")
    (held,) = app.records.held_mail.open()
    assert accept_held(held, app, ME)
    work(app)
    (accepted,) = [m for m in app.records.messages.select(Filter(), 9) if m.id != first.id]
    done = erased(app, mail_id=accepted.id)
    assert (done.messages, done.held, done.raw_objects, done.shared) == (1, 1, 1, 2)
    assert [m.id for m in app.records.messages.select(Filter(), 9)] == [first.id]
    assert held.raw_key not in objects(app) and found(app) == []


def test_somebody_elses_held_mail_stays_held_when_what_it_clashes_with_is_erased(app):
    delivered(app, order(1))
    deliver(app, order(1).replace(b"buyer@", b"else@"), sender="else@shop.example")
    erased(app, sender=SENDER)
    (held,) = app.records.held_mail.open()
    assert held.inbound_message_id is None and held.raw_key in objects(app)
    assert found(app) == []


def test_the_same_document_of_another_sender_stays(app):
    delivered(app, order(1, attachments=1))
    kept = delivered(
        app, order(1, attachments=1).replace(b"buyer@", b"else@").replace(b"order-1@", b"e@"), sender="e@x"
    )
    done = erased(app, sender=SENDER)
    assert (done.raw_objects, done.document_objects, done.shared) == (1, 0, 1)
    assert documents(app, kept)[0].object_key in objects(app) and found(app) == []


def test_what_a_worker_has_in_hand_stays_and_is_told_and_goes_the_next_time(app):
    deliver(app, order(1))
    (message,) = app.records.messages.select(Filter(), 9)
    attempt = app.records.messages.claim(1, message.id, "w", datetime.now(UTC), timedelta(hours=1))
    done = erased(app, sender=SENDER)
    assert (done.in_hand, done.is_complete, done.messages) == (1, False, 0)
    assert message.raw_key in objects(app)
    app.records.messages.retry_later(attempt, {"error": "X"}, 1, datetime.now(UTC))
    assert erased(app, sender=SENDER).messages == 1
    assert objects(app) == set()


def test_a_worker_begins_nothing_with_a_message_that_is_being_erased(app):
    deliver(app, order(1))
    line = "for area in Area:"
    at_line((erasure,), line, lambda: work(app), lambda: erased(app, sender=SENDER))
    assert everything_of(app, 1) == ([0, 0, 0, 0, 0], set())


def test_a_replay_does_not_lead_back_what_is_being_erased(app):
    message, done = delivered(app, order(1, attachments=1)), []
    line = "for area in Area:"
    lead_back = lambda: done.append(replay.replay_message(message, app, ME))  # noqa: E731
    assert at_line((erasure,), line, lead_back, lambda: erased(app, sender=SENDER)).is_complete
    assert done == [False] and everything_of(app, 1) == ([0, 0, 0, 0, 0], set())


def test_held_mail_that_is_accepted_while_it_is_erased_is_told_as_left(app):
    delivered(app, order(1))
    deliver(app, order(1) + b"other", sender="Other@x")
    (held,) = app.records.held_mail.open()
    accept = lambda: replay.accept_held(held, app, ME)  # noqa: E731
    done = at_line((erasure,), "for area in Area:", accept, lambda: erased(app, sender=SENDER))
    assert (done.is_complete, done.in_hand) == (False, 1)
    work(app)
    assert erased(app, sender=SENDER).is_complete
    assert everything_of(app, 1) == ([0, 0, 0, 0, 0], set())


def test_letters_beyond_ascii_have_cases_too(app):
    """In addresses and words, on SQLite as on PostgreSQL."""
    raw = order(1).replace(SENDER.encode(), "Örtel@ÄRZTE.example".encode()).replace(b"Order 1", "Ölkanne".encode())
    message = delivered(app, raw, sender="x@y.example")
    for chosen in ({"words": "ÖLKANNE ärzte"}, {"sender": "örtel@ärzte.example"}, {"sender": "@Ärzte.example"}):
        assert [one.id for one in app.records.messages.select(Filter(**chosen), 9)] == [message.id]
    for command, chosen in (
        ("find --sender örtel@ärzte.example", {}),
        ("replay message", {"sender": "Örtel@Ärzte.example"}),
        ("replay message", {"sender": "other@x"}),
    ):
        app.records.runs.begin(Run.new(command, chosen))
    done = erased(app, sender="örtel@ärzte.example")
    assert (done.messages, done.runs_blanked) == (1, 2) and objects(app) == set()


def test_what_was_decided_on_held_mail_is_erased_too_even_after_a_retention(app):
    delivered(app, order(1), at=OLD)
    for name in (b"kept", b"gone"):
        deliver(app, order(1) + name, at=OLD)
    for held in app.records.held_mail.open():
        assert replay.discard_held(held, app, ME, "rang the sender")
    assert sum(key.endswith(".decision.json") for key in objects(app)) == 2
    keep(app, RetentionRule(365, None))
    assert not any("/raw/" in key for key in objects(app)), "a decision goes with its mail"
    erased(app, sender=SENDER)
    assert objects(app) == set()


@pytest.mark.parametrize("line", ["index.load(", "for area in Area:"])
def test_mail_that_arrives_meanwhile_is_new_mail(app, line):
    delivered(app, order(1))
    at_line((erasure,), line, lambda: delivered(app, order(5)), lambda: erased(app, sender=SENDER))
    (new,) = app.records.messages.select(Filter(), 9)
    assert new.subject == "Order 5" and found(app) == []
