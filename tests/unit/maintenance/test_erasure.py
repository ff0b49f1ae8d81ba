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
def parts(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def test_an_organization_is_erased_with_all_it_has_and_the_other_one_is_as_it_was(parts):
    populated(parts)
    put_orphan(parts, order(8))
    parts.archive.put(document_key(1, "0" * 64), b"x", "0" * 64)
    other = everything_of(parts, 2)
    dry = erase(ErasureRequest(org(parts)), parts, ME)
    assert everything_of(parts, 2) == other and len(parts.records.messages.select(Filter(org_id=1), 9)) == 3
    done = erased(parts)
    assert everything_of(parts, 1) == ([0, 0, 0, 0, 0], set())
    assert everything_of(parts, 2) == other
    assert (done.messages, done.held, done.spool_entries, done.dead_letters) == (3, 1, 2, 2)
    assert dry == done
    assert spooled(parts) == (4, 4)
    assert found(parts, slug="beta") == []
    assert (org(parts).name, org(parts).slug) == ("acme", "acme")
    again = erased(parts)
    assert (again.messages, again.raw_objects, again.document_objects) == (0, 0, 0)


def test_a_sender_is_erased_and_what_others_sent_stays(parts):
    populated(parts)
    orphan = put_orphan(parts, order(8))
    os.utime(parts.settings.state_dir / "archive" / orphan, (0, 0))
    other = everything_of(parts, 2)
    done = erased(parts, sender=SENDER)
    assert everything_of(parts, 2) == other
    (left,) = parts.records.messages.select(Filter(org_id=1), 9)
    assert left.envelope_sender == "else@shop.example" and parts.records.held_mail.open(1) == []
    assert everything_of(parts, 1)[1] == {left.raw_key, *(d.object_key for d in documents(parts, left))}
    assert (done.messages, done.held, done.spool_entries, done.dead_letters) == (2, 1, 1, 1)
    with parts.records.database.read(ALL_TENANTS) as connection:
        for table in (inbound_message, held_mail, message_event, operator_run):
            of_acme = table.c.org_id == 1 if "org_id" in table.c else sa.true()
            assert SENDER not in str(connection.execute(sa.select(table).where(of_acme)).all())
    assert found(parts) == []


def test_one_message_is_erased_by_its_id_with_the_held_mail_that_it_was(parts):
    from orderflow_ingest.pipeline.replay import accept_held

    first = delivered(parts, order(1))
    deliver(parts, order(1) + b"other content\n")
    (held,) = parts.records.held_mail.open()
    assert accept_held(held, parts, ME)
    work(parts)
    (accepted,) = [m for m in parts.records.messages.select(Filter(), 9) if m.id != first.id]
    done = erased(parts, mail_id=accepted.id)
    assert (done.messages, done.held, done.raw_objects, done.shared) == (1, 1, 1, 2)
    assert [m.id for m in parts.records.messages.select(Filter(), 9)] == [first.id]
    assert held.raw_key not in objects(parts) and found(parts) == []


def test_somebody_elses_held_mail_stays_held_when_what_it_clashes_with_is_erased(parts):
    delivered(parts, order(1))
    deliver(parts, order(1).replace(b"buyer@", b"else@"), sender="else@shop.example")
    erased(parts, sender=SENDER)
    (held,) = parts.records.held_mail.open()
    assert held.inbound_message_id is None and held.raw_key in objects(parts)
    assert found(parts) == []


def test_the_same_document_of_another_sender_stays(parts):
    delivered(parts, order(1, attachments=1))
    kept = delivered(
        parts, order(1, attachments=1).replace(b"buyer@", b"else@").replace(b"order-1@", b"e@"), sender="e@x"
    )
    done = erased(parts, sender=SENDER)
    assert (done.raw_objects, done.document_objects, done.shared) == (1, 0, 1)
    assert documents(parts, kept)[0].object_key in objects(parts) and found(parts) == []


def test_what_a_worker_has_in_hand_stays_and_is_told_and_goes_the_next_time(parts):
    deliver(parts, order(1))
    (message,) = parts.records.messages.select(Filter(), 9)
    attempt = parts.records.messages.claim(1, message.id, "w", datetime.now(UTC), timedelta(hours=1))
    done = erased(parts, sender=SENDER)
    assert (done.in_hand, done.is_complete, done.messages) == (1, False, 0)
    assert message.raw_key in objects(parts)
    parts.records.messages.retry_later(attempt, {"error": "X"}, 1, datetime.now(UTC))
    assert erased(parts, sender=SENDER).messages == 1
    assert objects(parts) == set()


def test_a_worker_begins_nothing_with_a_message_that_is_being_erased(parts):
    deliver(parts, order(1))
    line = "for area in Area:"
    at_line((erasure,), line, lambda: work(parts), lambda: erased(parts, sender=SENDER))
    assert everything_of(parts, 1) == ([0, 0, 0, 0, 0], set())


def test_a_replay_does_not_lead_back_what_is_being_erased(parts):
    message, done = delivered(parts, order(1, attachments=1)), []
    line = "for area in Area:"
    lead_back = lambda: done.append(replay.replay_message(message, parts, ME))  # noqa: E731
    assert at_line((erasure,), line, lead_back, lambda: erased(parts, sender=SENDER)).is_complete
    assert done == [False] and everything_of(parts, 1) == ([0, 0, 0, 0, 0], set())


def test_held_mail_that_is_accepted_while_it_is_erased_is_told_as_left(parts):
    delivered(parts, order(1))
    deliver(parts, order(1) + b"other", sender="Other@x")
    (held,) = parts.records.held_mail.open()
    accept = lambda: replay.accept_held(held, parts, ME)  # noqa: E731
    done = at_line((erasure,), "for area in Area:", accept, lambda: erased(parts, sender=SENDER))
    assert (done.is_complete, done.in_hand) == (False, 1)
    work(parts)
    assert erased(parts, sender=SENDER).is_complete
    assert everything_of(parts, 1) == ([0, 0, 0, 0, 0], set())


def test_letters_beyond_ascii_have_cases_too(parts):
    """In addresses and words, on SQLite as on PostgreSQL."""
    raw = order(1).replace(SENDER.encode(), "Örtel@ÄRZTE.example".encode()).replace(b"Order 1", "Ölkanne".encode())
    message = delivered(parts, raw, sender="x@y.example")
    for chosen in ({"words": "ÖLKANNE ärzte"}, {"sender": "örtel@ärzte.example"}, {"sender": "@Ärzte.example"}):
        assert [one.id for one in parts.records.messages.select(Filter(**chosen), 9)] == [message.id]
    for command, chosen in (
        ("find --sender örtel@ärzte.example", {}),
        ("replay message", {"sender": "Örtel@Ärzte.example"}),
        ("replay message", {"sender": "other@x"}),
    ):
        parts.records.runs.begin(Run.new(command, chosen))
    done = erased(parts, sender="örtel@ärzte.example")
    assert (done.messages, done.runs_blanked) == (1, 2) and objects(parts) == set()


def test_what_was_decided_on_held_mail_is_erased_too_even_after_a_retention(parts):
    delivered(parts, order(1), at=OLD)
    for name in (b"kept", b"gone"):
        deliver(parts, order(1) + name, at=OLD)
    for held in parts.records.held_mail.open():
        assert replay.discard_held(held, parts, ME, "rang the sender")
    assert sum(key.endswith(".decision.json") for key in objects(parts)) == 2
    keep(parts, RetentionRule(365, None))
    assert not any("/raw/" in key for key in objects(parts)), "a decision goes with its mail"
    erased(parts, sender=SENDER)
    assert objects(parts) == set()


@pytest.mark.parametrize("line", ["index.load(", "for area in Area:"])
def test_mail_that_arrives_meanwhile_is_new_mail(parts, line):
    delivered(parts, order(1))
    at_line((erasure,), line, lambda: delivered(parts, order(5)), lambda: erased(parts, sender=SENDER))
    (new,) = parts.records.messages.select(Filter(), 9)
    assert new.subject == "Order 5" and found(parts) == []
