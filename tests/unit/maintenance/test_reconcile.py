"""What rows and objects do not agree about is found, and mended where that is safe."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.object_keys import document_key, raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import EventKind, HandOver, Status
from orderflow_ingest.maintenance.reconcile import comparison, orphans
from orderflow_ingest.maintenance.reconcile.findings import DigestCheck, FindingKind
from orderflow_ingest.maintenance.reconcile.reconciler import reconcile_host, reconcile_organization
from orderflow_ingest.pipeline import extract as extraction
from orderflow_ingest.storage.database import Filter, NewMessage
from orderflow_ingest.storage.database.tables import document, inbound_message, organization
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.support.crash import at_line
from tests.support.fakes import embedded
from tests.support.mails import mail, order
from tests.support.maintenance import (
    ME,
    MENDED,
    TOLD,
    _reader,
    change,
    count,
    deliver,
    delivered,
    documents,
    found,
    objects,
    org,
    put_orphan,
    row,
    work,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def app(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def rot(app, key, data=b"rot"):
    """Damage an object behind our programs' back."""
    (app.settings.state_dir / "archive" / key).write_bytes(data)


# Reconcile


def test_nothing_is_found_where_all_is_well_whatever_state_mail_is_in(app):
    delivered(app, order(1))
    deliver(app, order(1) + b"other content\n")
    deliver(app, order(2))
    delivered(app, order(1), "beta")
    assert found(app) == found(app, slug="beta") == []
    assert list(reconcile_host(None, TOLD, app)) == []


def test_raw_mail_that_is_missing_is_told_and_its_row_stays(app):
    message = delivered(app, order(1))
    app.archive.delete(message.raw_key)
    assert found(app, MENDED) == [(FindingKind.RAW_MISSING, "")]
    assert row(app, message.id) == message


def test_held_mail_that_is_missing_is_told(app):
    delivered(app, order(1))
    deliver(app, order(1) + b"other content\n")
    (held,) = app.records.held_mail.open()
    app.archive.delete(held.raw_key)
    assert found(app, MENDED) == [(FindingKind.HELD_MISSING, "")]


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_document_that_is_lost_is_extracted_anew_and_not_handed_over_again(app, how):
    message = delivered(app, order(1))
    lost = documents(app, message)[0]
    if how == "gone":
        app.archive.delete(lost.object_key)
    else:
        rot(app, lost.object_key)
    trouble = FindingKind.DOCUMENT_MISSING if how == "gone" else FindingKind.DOCUMENT_DAMAGED
    assert found(app) == [(trouble, "")]
    assert row(app, message.id).status is Status.PARSED, "nothing is changed without fix"
    before = documents(app, message)
    assert found(app, MENDED) == [(trouble, f"message {message.id} is extracted again")]
    assert found(app) == [], "it is on its way"
    extraction.extract(message.org_id, message.id, app)
    assert app.archive.read(lost.object_key, lost.digest)
    assert found(app) == []
    assert documents(app, message) == before and before[0].handover is HandOver.DONE
    (replayed,) = [e for e in app.records.events.of(1, message.id) if e.kind is EventKind.REPLAYED]
    assert (replayed.actor, replayed.details) == (ME, {"why": "reconcile"})


def test_nothing_is_extracted_again_from_raw_mail_that_is_damaged(app):
    message = delivered(app, order(1))
    app.archive.delete(documents(app, message)[0].object_key)
    rot(app, message.raw_key)
    assert sorted(found(app, MENDED)) == [(FindingKind.DOCUMENT_MISSING, ""), (FindingKind.RAW_DAMAGED, "")]
    assert row(app, message.id).status is Status.PARSED


def test_a_document_that_was_never_handed_over_since_it_is_lost_is_handed_over_once_it_is_there(app):
    deliver(app, order(1, attachments=1))
    message = app.records.messages.select(Filter(), 1)[0]
    extraction.extract(1, message.id, app)
    lost = documents(app, message)[0]
    app.archive.delete(lost.object_key)
    change(app, document, handover="FAILED", error_json={"error": "ObjectMissing"})
    assert found(app, MENDED) == [(FindingKind.DOCUMENT_MISSING, f"message {message.id} is extracted again")]
    work(app)
    assert [one.handover for one in documents(app, message)] == [HandOver.DONE]
    assert found(app) == []


def test_a_document_whose_raw_mail_is_missing_too_is_only_told(app):
    message = delivered(app, order(1, attachments=1))
    app.archive.delete(documents(app, message)[0].object_key)
    app.archive.delete(message.raw_key)
    assert sorted(found(app, MENDED)) == [(FindingKind.DOCUMENT_MISSING, ""), (FindingKind.RAW_MISSING, "")]
    assert row(app, message.id).status is Status.PARSED


def test_a_document_row_that_is_lost_comes_back(app):
    message = delivered(app, order(1))
    lost = documents(app, message)[0]
    with app.records.database.write(1) as connection:
        connection.execute(document.delete().where(document.c.id == lost.id))
    assert (FindingKind.DOCUMENTS_LOST, f"message {message.id} is extracted again") in found(app, MENDED)
    work(app)
    assert {d.digest for d in documents(app, message)} >= {lost.digest}
    assert found(app) == []


def test_an_orphan_that_no_row_knows_becomes_the_message_that_it_was(app):
    raw, at = order(3), LONG_AGO
    told = {"sender": "a@b.example", "recipient": "orders+acme@orderflow.example.com", "queue-id": "4A"}
    put_orphan(app, raw, **told, **{"received-at": at.isoformat(), "source": "EMAIL"})
    assert found(app) == [(FindingKind.RAW_ORPHAN, "")]
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded")]
    (message,) = app.records.messages.select(Filter(), 10)
    assert (message.envelope_sender, message.queue_id, message.received_at) == ("a@b.example", "4A", at)
    assert message.envelope_recipient == told["recipient"]
    work(app)
    assert row(app, message.id).status is Status.PARSED and len(documents(app, message)) == 2
    assert found(app) == []
    assert deliver(app, raw).outcome is Outcome.DUPLICATE


def test_an_orphan_without_metadata_is_recorded_all_the_same(app):
    put_orphan(app, order(3))
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded")]
    (message,) = app.records.messages.select(Filter(), 10)
    assert message.envelope_recipient == "orders+acme@orderflow.example.com"


def test_an_orphan_whose_identity_has_other_content_is_held(app):
    delivered(app, order(3))
    key = put_orphan(app, order(3) + b"changed\n")
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded, and held")]
    assert [held.raw_key for held in app.records.held_mail.open()] == [key]
    assert found(app) == []


def test_an_orphan_that_is_a_copy_is_deleted_but_never_the_only_copy(app):
    message = delivered(app, order(3))
    key = put_orphan(app, b"Received: later\n" + order(3))
    kept = app.archive.read(message.raw_key, message.digest)
    app.archive.delete(message.raw_key)
    assert sorted(found(app, MENDED)) == [(FindingKind.RAW_MISSING, ""), (FindingKind.RAW_ORPHAN, "")]
    assert key in objects(app)
    app.archive.put(message.raw_key, kept, message.digest)
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "deleted")]
    assert key not in objects(app) and message.raw_key in objects(app)
    assert found(app) == []


def test_an_orphan_is_no_copy_of_what_is_damaged(app):
    message = delivered(app, order(3))
    key = put_orphan(app, b"Received: later\n" + order(3))
    rot(app, message.raw_key)
    assert sorted(found(app, MENDED)) == [(FindingKind.RAW_DAMAGED, ""), (FindingKind.RAW_ORPHAN, "")]
    assert key in objects(app)


def test_an_orphan_is_no_copy_of_held_mail_that_is_damaged(app):
    change(app, organization, settings={"allowed_senders": "@other.example"})
    assert deliver(app, order(3)).outcome is Outcome.HELD
    (held,) = app.records.held_mail.open()
    key = put_orphan(app, b"Received: later\n" + order(3), is_held=True)
    rot(app, held.raw_key)
    assert (FindingKind.RAW_ORPHAN, "") in found(app, MENDED) and key in objects(app)


@pytest.mark.parametrize("copy", [b"", b"Received: later\n"])
def test_an_orphan_that_is_damaged_is_told_and_stays_as_it_is(app, copy):
    if copy:
        delivered(app, order(3))
    key = put_orphan(app, copy + order(3))
    size = len(copy + order(3))
    rot(app, key, b"Message-ID: <other@shop.example>\n\n".ljust(size, b"x"))
    (one,) = reconcile_organization(org(app), MENDED, app)
    assert (one.kind, one.fixed, one.detail) == (FindingKind.RAW_ORPHAN, "", "its bytes are not those that were put")
    assert key in objects(app) and count(app, inbound_message) == bool(copy)


@pytest.mark.parametrize("nameless", [False, True])
def test_an_orphan_is_a_copy_of_what_an_earlier_version_recorded(app, nameless):
    """It recorded another fingerprint, and so another identity of a mail without a Message-ID."""
    raw = mail(1, To='"A  B" <orders@orderflow.example.com>', **({"Message-ID": ""} if nameless else {}))
    message, read = delivered(app, raw), read_message(raw)
    change(app, inbound_message, fingerprint=read.former_fingerprint)
    if nameless:
        change(app, inbound_message, source_message_id=f"synthetic:{read.former_fingerprint}")
    key = put_orphan(app, b"Received: later\n" + raw)
    other = put_orphan(app, b"Received: later\n" + raw.replace(b"12 widgets", b"13 widgets"))
    assert sorted(found(app, MENDED), key=str)[0] == (FindingKind.RAW_ORPHAN, "deleted")
    assert key not in objects(app) and {message.raw_key, other} <= objects(app)
    assert app.records.held_mail.count_open() == (not nameless) and found(app) == []


def test_an_orphan_that_is_the_only_copy_of_held_mail_stays(app):
    change(app, organization, settings={"allowed_senders": "@other.example"})
    assert deliver(app, order(3)).outcome is Outcome.HELD
    (held,) = app.records.held_mail.open()
    key = put_orphan(app, b"Received: later\n" + order(3), is_held=True)
    kept = app.archive.read(held.raw_key, held.digest)
    app.archive.delete(held.raw_key)
    assert sorted(found(app, MENDED)) == [(FindingKind.HELD_MISSING, ""), (FindingKind.RAW_ORPHAN, "")]
    assert key in objects(app)
    app.archive.put(held.raw_key, kept, held.digest)
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "deleted")]
    assert objects(app) >= {held.raw_key} and key not in objects(app)


def test_an_orphan_that_passed_the_policy_becomes_a_message_though_a_strangers_copy_is_held(app):
    change(app, organization, settings={"allowed_senders": "@other.example"})
    assert deliver(app, order(3)).outcome is Outcome.HELD
    key = put_orphan(app, b"Received: later\n" + order(3))
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded")]
    assert [message.raw_key for message in app.records.messages.select(Filter(), 10)] == [key]
    assert app.records.held_mail.count_open() == 1 and found(app) == []


def test_a_copy_that_a_row_comes_to_name_while_it_is_deleted_is_there_again(app):
    delivered(app, order(3))
    raw = b"Received: later\n" + order(3)
    key = put_orphan(app, raw)
    known = app.records.messages.select(Filter(), 1)[0]
    values = {name: getattr(known, name) for name in NewMessage.__dataclass_fields__}
    values |= {"id": uuid4(), "source": "UPLOAD", "raw_key": key, "digest": read_message(raw).digest}
    upload = lambda: app.records.messages.insert(NewMessage(**values), datetime.now(UTC))  # noqa: E731
    assert at_line((orphans,), "app.archive.delete(listed.key)", upload, lambda: found(app, MENDED)) == []
    assert key in objects(app)


def test_mail_in_flight_is_no_orphan(app):
    put_orphan(app, order(3))
    assert found(app, replace(TOLD, object_age=timedelta(hours=1))) == []


def test_an_orphan_of_a_disabled_organization_is_only_told(app):
    put_orphan(app, order(3))
    app.records.organizations.set_active("acme", is_active=False)
    assert found(app, MENDED) == [(FindingKind.RAW_ORPHAN, "")]


def test_a_document_that_no_row_names_is_deleted_only_if_that_was_said(app):
    message = delivered(app, order(1))
    digest = "0" * 64
    app.archive.put(document_key(1, digest), b"x", digest)
    assert found(app, replace(MENDED, digests=DigestCheck.NONE)) == [(FindingKind.DOCUMENT_ORPHAN, "")]
    assert found(app, replace(MENDED, orphan_documents=True)) == [(FindingKind.DOCUMENT_ORPHAN, "deleted")]
    assert {d.object_key for d in documents(app, message)} < objects(app)


def test_a_document_whose_row_comes_meanwhile_is_no_orphan(app):
    deliver(app, order(1))
    (unfinished,) = app.records.messages.select(Filter(), 1)
    extract = lambda: extraction.extract(1, unfinished.id, app)  # noqa: E731
    scope = replace(MENDED, orphan_documents=True)
    listing = "listing = self._app.archive.iterate"
    assert at_line((comparison,), listing, extract, lambda: found(app, scope)) == []


def test_what_goes_and_comes_meanwhile_is_no_finding(app):
    message = delivered(app, order(1))
    kept = app.archive.read(message.raw_key, message.digest)
    app.archive.delete(message.raw_key)
    put_back = lambda: app.archive.put(message.raw_key, kept, message.digest)  # noqa: E731
    assert at_line((comparison,), "yield from self._missing", put_back, lambda: found(app)) == []


def test_what_is_overdue_is_rung_for(app):
    deliver(app, order(1))
    change(app, inbound_message, next_attempt_at=LONG_AGO)
    app.queue.extractions.clear()
    assert found(app) == [(FindingKind.MESSAGE_OVERDUE, "")] and not app.queue.extractions
    assert found(app, MENDED) == [(FindingKind.MESSAGE_OVERDUE, "rung for")]
    ((_, id),) = app.queue.extractions
    extraction.extract(1, id, app)
    change(app, document, next_attempt_at=LONG_AGO)
    app.queue.hand_overs.clear()
    assert found(app, MENDED) == [(FindingKind.DOCUMENT_OVERDUE, "rung for")] * 2
    assert len(app.queue.hand_overs) == 2


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (inbound_message, {"raw_key": "org/2/raw/" + "0" * 64 + ".eml"}),
        (inbound_message, {"worker": "w"}),
        (inbound_message, {"status": "FAILED"}),
        (document, {"object_key": "org/2/documents/" + "0" * 64}),
        (document, {"worker": "w"}),
    ],
)
def test_rows_that_cannot_be_are_told(app, table, values):
    """Some of the version before, which had no constraint against another tenant's key."""
    delivered(app, order(1, attachments=1))
    without_triggers(app)
    change(app, table, **values)
    assert found(app, MENDED) == [(FindingKind.IMPOSSIBLE, "")]


def without_triggers(app):
    with app.records.database.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            if "_key_" in name:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")


def test_an_object_of_another_kind_and_of_no_organization_are_told_and_stay(app):
    app.archive.put("org/1/raw/notes.txt", b"x", "0" * 64)
    app.archive.put(raw_key(10, "0" * 64), b"x", "0" * 64)
    app.archive.put(raw_key(12, "0" * 64), b"x", "0" * 64)
    assert found(app, MENDED) == [(FindingKind.FOREIGN, "")]
    told = [(one.kind, one.subject) for one in reconcile_host(None, MENDED, app)]
    assert told == [(FindingKind.NO_ORGANIZATION, "org/10/"), (FindingKind.NO_ORGANIZATION, "org/12/")]
    assert len(objects(app)) == 3


def test_what_is_erased_by_all_its_rows_and_is_there_is_deleted(app):
    message = delivered(app, order(1))
    kept = app.archive.read(message.raw_key, message.digest)
    change(app, inbound_message, erased_at=LONG_AGO)
    assert found(app) == [(FindingKind.LEFT_BEHIND, "")]
    assert found(app, MENDED) == [(FindingKind.LEFT_BEHIND, "deleted")]
    assert message.raw_key not in objects(app) and kept and found(app) == []


def test_old_spool_entries_and_dead_letters_are_told_of_their_organization(app):
    envelope = Envelope("orders+acme@orderflow.example.com", datetime.now(UTC))
    app.spool.write(encode_envelope(envelope), _reader(order(1)), 1 << 20).release()
    assert list(reconcile_host(None, TOLD, app)) == []
    old = replace(TOLD, overdue=timedelta(0))
    assert [(f.kind, f.org) for f in reconcile_host(None, old, app)] == [(FindingKind.SPOOLED, "acme")]
    assert list(reconcile_host("beta", old, app)) == []
    (name,) = app.spool.entries()
    app.spool.move_to_dead(app.spool.claim(name), "k", "it broke")
    (dead,) = reconcile_host("acme", old, app)
    assert dead.kind is FindingKind.DEAD and "it broke" in dead.detail
    (app.settings.spool_dir / "dead" / f"{name}.why").write_text("")
    (dead,) = reconcile_host("acme", old, app)
    assert dead.detail.startswith("no reason was noted; ")


def test_a_time_range_and_a_sample_bound_what_is_looked_at(app):
    message = delivered(app, order(1))
    rot(app, message.raw_key)
    assert found(app, replace(TOLD, digests=DigestCheck.NONE)) == []
    assert found(app, replace(TOLD, digests=DigestCheck.SAMPLE, sample=5)) == [(FindingKind.RAW_DAMAGED, "")]
    assert found(app, replace(TOLD, until=LONG_AGO)) == []
