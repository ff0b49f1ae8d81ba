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
def parts(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def rot(parts, key, data=b"rot"):
    """Damage an object behind our programs' back."""
    (parts.settings.state_dir / "archive" / key).write_bytes(data)


# Reconcile


def test_nothing_is_found_where_all_is_well_whatever_state_mail_is_in(parts):
    delivered(parts, order(1))
    deliver(parts, order(1) + b"other content\n")
    deliver(parts, order(2))
    delivered(parts, order(1), "beta")
    assert found(parts) == found(parts, slug="beta") == []
    assert list(reconcile_host(None, TOLD, parts)) == []


def test_raw_mail_that_is_missing_is_told_and_its_row_stays(parts):
    message = delivered(parts, order(1))
    parts.archive.delete(message.raw_key)
    assert found(parts, MENDED) == [(FindingKind.RAW_MISSING, "")]
    assert row(parts, message.id) == message


def test_held_mail_that_is_missing_is_told(parts):
    delivered(parts, order(1))
    deliver(parts, order(1) + b"other content\n")
    (held,) = parts.records.held_mail.open()
    parts.archive.delete(held.raw_key)
    assert found(parts, MENDED) == [(FindingKind.HELD_MISSING, "")]


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_document_that_is_lost_is_extracted_anew_and_not_handed_over_again(parts, how):
    message = delivered(parts, order(1))
    lost = documents(parts, message)[0]
    if how == "gone":
        parts.archive.delete(lost.object_key)
    else:
        rot(parts, lost.object_key)
    trouble = FindingKind.DOCUMENT_MISSING if how == "gone" else FindingKind.DOCUMENT_DAMAGED
    assert found(parts) == [(trouble, "")]
    assert row(parts, message.id).status is Status.PARSED, "nothing is changed without fix"
    before = documents(parts, message)
    assert found(parts, MENDED) == [(trouble, f"message {message.id} is extracted again")]
    assert found(parts) == [], "it is on its way"
    extraction.extract(message.org_id, message.id, parts)
    assert parts.archive.read(lost.object_key, lost.digest)
    assert found(parts) == []
    assert documents(parts, message) == before and before[0].handover is HandOver.DONE
    (replayed,) = [e for e in parts.records.events.of(1, message.id) if e.kind is EventKind.REPLAYED]
    assert (replayed.actor, replayed.details) == (ME, {"why": "reconcile"})


def test_nothing_is_extracted_again_from_raw_mail_that_is_damaged(parts):
    message = delivered(parts, order(1))
    parts.archive.delete(documents(parts, message)[0].object_key)
    rot(parts, message.raw_key)
    assert sorted(found(parts, MENDED)) == [(FindingKind.DOCUMENT_MISSING, ""), (FindingKind.RAW_DAMAGED, "")]
    assert row(parts, message.id).status is Status.PARSED


def test_a_document_that_was_never_handed_over_since_it_is_lost_is_handed_over_once_it_is_there(parts):
    deliver(parts, order(1, attachments=1))
    message = parts.records.messages.select(Filter(), 1)[0]
    extraction.extract(1, message.id, parts)
    lost = documents(parts, message)[0]
    parts.archive.delete(lost.object_key)
    change(parts, document, handover="FAILED", error_json={"error": "ObjectMissing"})
    assert found(parts, MENDED) == [(FindingKind.DOCUMENT_MISSING, f"message {message.id} is extracted again")]
    work(parts)
    assert [one.handover for one in documents(parts, message)] == [HandOver.DONE]
    assert found(parts) == []


def test_a_document_whose_raw_mail_is_missing_too_is_only_told(parts):
    message = delivered(parts, order(1, attachments=1))
    parts.archive.delete(documents(parts, message)[0].object_key)
    parts.archive.delete(message.raw_key)
    assert sorted(found(parts, MENDED)) == [(FindingKind.DOCUMENT_MISSING, ""), (FindingKind.RAW_MISSING, "")]
    assert row(parts, message.id).status is Status.PARSED


def test_a_document_row_that_is_lost_comes_back(parts):
    message = delivered(parts, order(1))
    lost = documents(parts, message)[0]
    with parts.records.database.write(1) as connection:
        connection.execute(document.delete().where(document.c.id == lost.id))
    assert (FindingKind.DOCUMENTS_LOST, f"message {message.id} is extracted again") in found(parts, MENDED)
    work(parts)
    assert {d.digest for d in documents(parts, message)} >= {lost.digest}
    assert found(parts) == []


def test_an_orphan_that_no_row_knows_becomes_the_message_that_it_was(parts):
    raw, at = order(3), LONG_AGO
    told = {"sender": "a@b.example", "recipient": "orders+acme@orderflow.example.com", "queue-id": "4A"}
    put_orphan(parts, raw, **told, **{"received-at": at.isoformat(), "source": "EMAIL"})
    assert found(parts) == [(FindingKind.RAW_ORPHAN, "")]
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded")]
    (message,) = parts.records.messages.select(Filter(), 10)
    assert (message.envelope_sender, message.queue_id, message.received_at) == ("a@b.example", "4A", at)
    assert message.envelope_recipient == told["recipient"]
    work(parts)
    assert row(parts, message.id).status is Status.PARSED and len(documents(parts, message)) == 2
    assert found(parts) == []
    assert deliver(parts, raw).outcome is Outcome.DUPLICATE


def test_an_orphan_without_metadata_is_recorded_all_the_same(parts):
    put_orphan(parts, order(3))
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded")]
    (message,) = parts.records.messages.select(Filter(), 10)
    assert message.envelope_recipient == "orders+acme@orderflow.example.com"


def test_an_orphan_whose_identity_has_other_content_is_held(parts):
    delivered(parts, order(3))
    key = put_orphan(parts, order(3) + b"changed\n")
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded, and held")]
    assert [held.raw_key for held in parts.records.held_mail.open()] == [key]
    assert found(parts) == []


def test_an_orphan_that_is_a_copy_is_deleted_but_never_the_only_copy(parts):
    message = delivered(parts, order(3))
    key = put_orphan(parts, b"Received: later\n" + order(3))
    kept = parts.archive.read(message.raw_key, message.digest)
    parts.archive.delete(message.raw_key)
    assert sorted(found(parts, MENDED)) == [(FindingKind.RAW_MISSING, ""), (FindingKind.RAW_ORPHAN, "")]
    assert key in objects(parts)
    parts.archive.put(message.raw_key, kept, message.digest)
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "deleted")]
    assert key not in objects(parts) and message.raw_key in objects(parts)
    assert found(parts) == []


def test_an_orphan_is_no_copy_of_what_is_damaged(parts):
    message = delivered(parts, order(3))
    key = put_orphan(parts, b"Received: later\n" + order(3))
    rot(parts, message.raw_key)
    assert sorted(found(parts, MENDED)) == [(FindingKind.RAW_DAMAGED, ""), (FindingKind.RAW_ORPHAN, "")]
    assert key in objects(parts)


def test_an_orphan_is_no_copy_of_held_mail_that_is_damaged(parts):
    change(parts, organization, settings={"allowed_senders": "@other.example"})
    assert deliver(parts, order(3)).outcome is Outcome.HELD
    (held,) = parts.records.held_mail.open()
    key = put_orphan(parts, b"Received: later\n" + order(3), is_held=True)
    rot(parts, held.raw_key)
    assert (FindingKind.RAW_ORPHAN, "") in found(parts, MENDED) and key in objects(parts)


@pytest.mark.parametrize("copy", [b"", b"Received: later\n"])
def test_an_orphan_that_is_damaged_is_told_and_stays_as_it_is(parts, copy):
    if copy:
        delivered(parts, order(3))
    key = put_orphan(parts, copy + order(3))
    size = len(copy + order(3))
    rot(parts, key, b"Message-ID: <other@shop.example>\n\n".ljust(size, b"x"))
    (one,) = reconcile_organization(org(parts), MENDED, parts)
    assert (one.kind, one.fixed, one.detail) == (FindingKind.RAW_ORPHAN, "", "its bytes are not those that were put")
    assert key in objects(parts) and count(parts, inbound_message) == bool(copy)


@pytest.mark.parametrize("nameless", [False, True])
def test_an_orphan_is_a_copy_of_what_an_earlier_version_recorded(parts, nameless):
    """It recorded another fingerprint, and so another identity of a mail without a Message-ID."""
    raw = mail(1, To='"A  B" <orders@orderflow.example.com>', **({"Message-ID": ""} if nameless else {}))
    message, read = delivered(parts, raw), read_message(raw)
    change(parts, inbound_message, fingerprint=read.former_fingerprint)
    if nameless:
        change(parts, inbound_message, source_message_id=f"synthetic:{read.former_fingerprint}")
    key = put_orphan(parts, b"Received: later\n" + raw)
    other = put_orphan(parts, b"Received: later\n" + raw.replace(b"12 widgets", b"13 widgets"))
    assert sorted(found(parts, MENDED), key=str)[0] == (FindingKind.RAW_ORPHAN, "deleted")
    assert key not in objects(parts) and {message.raw_key, other} <= objects(parts)
    assert parts.records.held_mail.count_open() == (not nameless) and found(parts) == []


def test_an_orphan_that_is_the_only_copy_of_held_mail_stays(parts):
    change(parts, organization, settings={"allowed_senders": "@other.example"})
    assert deliver(parts, order(3)).outcome is Outcome.HELD
    (held,) = parts.records.held_mail.open()
    key = put_orphan(parts, b"Received: later\n" + order(3), is_held=True)
    kept = parts.archive.read(held.raw_key, held.digest)
    parts.archive.delete(held.raw_key)
    assert sorted(found(parts, MENDED)) == [(FindingKind.HELD_MISSING, ""), (FindingKind.RAW_ORPHAN, "")]
    assert key in objects(parts)
    parts.archive.put(held.raw_key, kept, held.digest)
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "deleted")]
    assert objects(parts) >= {held.raw_key} and key not in objects(parts)


def test_an_orphan_that_passed_the_policy_becomes_a_message_though_a_strangers_copy_is_held(parts):
    change(parts, organization, settings={"allowed_senders": "@other.example"})
    assert deliver(parts, order(3)).outcome is Outcome.HELD
    key = put_orphan(parts, b"Received: later\n" + order(3))
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "recorded")]
    assert [message.raw_key for message in parts.records.messages.select(Filter(), 10)] == [key]
    assert parts.records.held_mail.count_open() == 1 and found(parts) == []


def test_a_copy_that_a_row_comes_to_name_while_it_is_deleted_is_there_again(parts):
    delivered(parts, order(3))
    raw = b"Received: later\n" + order(3)
    key = put_orphan(parts, raw)
    known = parts.records.messages.select(Filter(), 1)[0]
    values = {name: getattr(known, name) for name in NewMessage.__dataclass_fields__}
    values |= {"id": uuid4(), "source": "UPLOAD", "raw_key": key, "digest": read_message(raw).digest}
    upload = lambda: parts.records.messages.insert(NewMessage(**values), datetime.now(UTC))  # noqa: E731
    assert at_line((orphans,), "app.archive.delete(listed.key)", upload, lambda: found(parts, MENDED)) == []
    assert key in objects(parts)


def test_mail_in_flight_is_no_orphan(parts):
    put_orphan(parts, order(3))
    assert found(parts, replace(TOLD, object_age=timedelta(hours=1))) == []


def test_an_orphan_of_a_disabled_organization_is_only_told(parts):
    put_orphan(parts, order(3))
    parts.records.organizations.set_active("acme", is_active=False)
    assert found(parts, MENDED) == [(FindingKind.RAW_ORPHAN, "")]


def test_a_document_that_no_row_names_is_deleted_only_if_that_was_said(parts):
    message = delivered(parts, order(1))
    digest = "0" * 64
    parts.archive.put(document_key(1, digest), b"x", digest)
    assert found(parts, replace(MENDED, digests=DigestCheck.NONE)) == [(FindingKind.DOCUMENT_ORPHAN, "")]
    assert found(parts, replace(MENDED, orphan_documents=True)) == [(FindingKind.DOCUMENT_ORPHAN, "deleted")]
    assert {d.object_key for d in documents(parts, message)} < objects(parts)


def test_a_document_whose_row_comes_meanwhile_is_no_orphan(parts):
    deliver(parts, order(1))
    (unfinished,) = parts.records.messages.select(Filter(), 1)
    extract = lambda: extraction.extract(1, unfinished.id, parts)  # noqa: E731
    scope = replace(MENDED, orphan_documents=True)
    listing = "listing = self._app.archive.iterate"
    assert at_line((comparison,), listing, extract, lambda: found(parts, scope)) == []


def test_what_goes_and_comes_meanwhile_is_no_finding(parts):
    message = delivered(parts, order(1))
    kept = parts.archive.read(message.raw_key, message.digest)
    parts.archive.delete(message.raw_key)
    put_back = lambda: parts.archive.put(message.raw_key, kept, message.digest)  # noqa: E731
    assert at_line((comparison,), "yield from self._missing", put_back, lambda: found(parts)) == []


def test_what_is_overdue_is_rung_for(parts):
    deliver(parts, order(1))
    change(parts, inbound_message, next_attempt_at=LONG_AGO)
    parts.queue.extractions.clear()
    assert found(parts) == [(FindingKind.MESSAGE_OVERDUE, "")] and not parts.queue.extractions
    assert found(parts, MENDED) == [(FindingKind.MESSAGE_OVERDUE, "rung for")]
    ((_, id),) = parts.queue.extractions
    extraction.extract(1, id, parts)
    change(parts, document, next_attempt_at=LONG_AGO)
    parts.queue.hand_overs.clear()
    assert found(parts, MENDED) == [(FindingKind.DOCUMENT_OVERDUE, "rung for")] * 2
    assert len(parts.queue.hand_overs) == 2


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
def test_rows_that_cannot_be_are_told(parts, table, values):
    """Some of the version before, which had no constraint against another tenant's key."""
    delivered(parts, order(1, attachments=1))
    without_triggers(parts)
    change(parts, table, **values)
    assert found(parts, MENDED) == [(FindingKind.IMPOSSIBLE, "")]


def without_triggers(parts):
    with parts.records.database.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            if "_key_" in name:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")


def test_an_object_of_another_kind_and_of_no_organization_are_told_and_stay(parts):
    parts.archive.put("org/1/raw/notes.txt", b"x", "0" * 64)
    parts.archive.put(raw_key(10, "0" * 64), b"x", "0" * 64)
    parts.archive.put(raw_key(12, "0" * 64), b"x", "0" * 64)
    assert found(parts, MENDED) == [(FindingKind.FOREIGN, "")]
    told = [(one.kind, one.subject) for one in reconcile_host(None, MENDED, parts)]
    assert told == [(FindingKind.NO_ORGANIZATION, "org/10/"), (FindingKind.NO_ORGANIZATION, "org/12/")]
    assert len(objects(parts)) == 3


def test_what_is_erased_by_all_its_rows_and_is_there_is_deleted(parts):
    message = delivered(parts, order(1))
    kept = parts.archive.read(message.raw_key, message.digest)
    change(parts, inbound_message, erased_at=LONG_AGO)
    assert found(parts) == [(FindingKind.LEFT_BEHIND, "")]
    assert found(parts, MENDED) == [(FindingKind.LEFT_BEHIND, "deleted")]
    assert message.raw_key not in objects(parts) and kept and found(parts) == []


def test_old_spool_entries_and_dead_letters_are_told_of_their_organization(parts):
    envelope = Envelope("orders+acme@orderflow.example.com", datetime.now(UTC))
    parts.spool.write(encode_envelope(envelope), _reader(order(1)), 1 << 20).release()
    assert list(reconcile_host(None, TOLD, parts)) == []
    old = replace(TOLD, overdue=timedelta(0))
    assert [(f.kind, f.org) for f in reconcile_host(None, old, parts)] == [(FindingKind.SPOOLED, "acme")]
    assert list(reconcile_host("beta", old, parts)) == []
    (name,) = parts.spool.entries()
    parts.spool.move_to_dead(parts.spool.claim(name), "k", "it broke")
    (dead,) = reconcile_host("acme", old, parts)
    assert dead.kind is FindingKind.DEAD and "it broke" in dead.detail
    (parts.settings.spool_dir / "dead" / f"{name}.why").write_text("")
    (dead,) = reconcile_host("acme", old, parts)
    assert dead.detail.startswith("no reason was noted; ")


def test_a_time_range_and_a_sample_bound_what_is_looked_at(parts):
    message = delivered(parts, order(1))
    rot(parts, message.raw_key)
    assert found(parts, replace(TOLD, digests=DigestCheck.NONE)) == []
    assert found(parts, replace(TOLD, digests=DigestCheck.SAMPLE, sample=5)) == [(FindingKind.RAW_DAMAGED, "")]
    assert found(parts, replace(TOLD, until=LONG_AGO)) == []
