"""What should be there is there, what should go goes, and nothing else does: reconcile, retention and erasure."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.object_keys import document_key, raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import EventKind, HandOver, Status
from orderflow_ingest.maintenance import erasure, retention
from orderflow_ingest.maintenance.erasure import ErasureRequest, erase
from orderflow_ingest.maintenance.reconcile import comparison, orphans
from orderflow_ingest.maintenance.reconcile.findings import DigestCheck, FindingKind, ReconcileOptions
from orderflow_ingest.maintenance.reconcile.reconciler import reconcile_host, reconcile_organization
from orderflow_ingest.maintenance.retention import RetentionRule, apply_retention
from orderflow_ingest.pipeline import extract as extraction
from orderflow_ingest.pipeline import hand_over, replay
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import ALL_TENANTS, Filter, NewMessage, Records, Run
from orderflow_ingest.storage.database.tables import (
    document,
    held_mail,
    inbound_message,
    message_event,
    operator_run,
    organization,
    skipped_part,
)
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.lab.process import scratch

from .crash import at_line, kill_at, points
from .fakes import ListQueue, embedded
from .mails import mail, order

ME = "me@here"
TOLD = ReconcileOptions(ME, object_age=timedelta(0), digests=DigestCheck.ALL)
MENDED = replace(TOLD, fix=True)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SENDER = "buyer@shop.example"


@pytest.fixture
def parts(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def deliver(parts, raw, slug="acme", sender=SENDER, at=None):
    """Deliver a mail, and say how it ended."""
    envelope = Envelope(f"orders+{slug}@orderflow.example.com", at or datetime.now(UTC), sender=sender)
    return deliver_from_memory(envelope, raw, parts)


def work(parts):
    """Extract and hand over all that is to be, as a worker would."""
    for row in parts.records.messages.select(Filter(statuses=(Status.RECEIVED, Status.STORED)), 100):
        extraction.extract(row.org_id, row.id, parts)
        for one in parts.records.documents.of_message(row.org_id, row.id):
            hand_over.hand_over(row.org_id, one.id, parts)


def delivered(parts, raw, slug="acme", sender=SENDER, at=None):
    """Deliver a mail and do all the work; give its row."""
    ended = deliver(parts, raw, slug, sender, at)
    assert ended.outcome is Outcome.DELIVERED
    work(parts)
    return row(parts, ended.message_id)


def row(parts, id):
    return parts.records.messages.select(Filter(ids=(id,)), 1)[0]


def documents(parts, message):
    return parts.records.documents.of_message(message.org_id, message.id)


def org(parts, slug="acme"):
    return next(one for one in parts.records.organizations.all() if one.slug == slug)


def found(parts, scope=TOLD, slug="acme"):
    """Give what reconcile finds in an organization: kind and what was done."""
    return [(one.kind, one.fixed) for one in reconcile_organization(org(parts, slug), scope, parts)]


def objects(parts):
    return set(parts.archive.objects())


def count(parts, table, org_id=1):
    with parts.records.database.read(ALL_TENANTS) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(table.c.org_id == org_id))


def change(parts, table, **values):
    """Change all rows behind our programs' back."""
    with parts.records.database.write(ALL_TENANTS) as connection:
        connection.execute(table.update().values(**values))


def rot(parts, key, data=b"rot"):
    """Damage an object behind our programs' back."""
    (parts.settings.state_dir / "archive" / key).write_bytes(data)


def put_orphan(parts, raw, slug="acme", is_held=False, **metadata):
    digest = read_message(raw).digest
    key = raw_key(org(parts, slug).id, digest, is_held=is_held)
    parts.archive.put(key, raw, digest, metadata)
    return key


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


def _reader(raw):
    coming = iter((raw, b""))
    return lambda _: next(coming)


def test_a_time_range_and_a_sample_bound_what_is_looked_at(parts):
    message = delivered(parts, order(1))
    rot(parts, message.raw_key)
    assert found(parts, replace(TOLD, digests=DigestCheck.NONE)) == []
    assert found(parts, replace(TOLD, digests=DigestCheck.SAMPLE, sample=5)) == [(FindingKind.RAW_DAMAGED, "")]
    assert found(parts, replace(TOLD, until=LONG_AGO)) == []


MENDS = {
    "orphan": lambda parts: put_orphan(parts, order(7)),
    "copy": lambda parts: (delivered(parts, order(7)), put_orphan(parts, b"Received: x\n" + order(7))),
    "document": lambda parts: parts.archive.delete(documents(parts, delivered(parts, order(7)))[0].object_key),
}


def reopened(parts):
    """Open the database anew, as another process would."""
    return replace(parts, records=Records(parts.settings.database_url), queue=ListQueue())


def each_kill(modules, functions, set_up, work, draw=lambda points, _: points):
    """Give the parts after a kill at each line of these functions that the work reaches, each from the beginning.

    With `draw` some of the lines are drawn, see tests/drawn.py.
    """
    with scratch() as directory:
        template = embedded(directory)
        set_up(template)
        template.records.database.close()
        kept = directory.with_name(directory.name + ".kept")
        shutil.copytree(directory, kept)
        try:
            reached = {
                (p.function, p.line): p  # the last time it is reached: all but one thing is done
                for p in points(modules, lambda: work(reopened(template)))
                if p.function in functions
            }
            assert {function for function, _ in reached} == functions, "each of these functions is reached"
            for point in draw([*reached.values()], 10):
                shutil.rmtree(directory)
                shutil.copytree(kept, directory)
                kill_at(modules, point, lambda: work(reopened(template)))
                parts = reopened(template)
                yield point, parts
                parts.records.database.close()
        finally:
            shutil.rmtree(kept)


@pytest.mark.parametrize("kind", MENDS)
def test_a_mend_killed_at_any_line_and_run_again_loses_and_doubles_nothing(kind):
    function = {"orphan": "record_orphan", "copy": "remove_copy", "document": "_extract_again"}[kind]
    killed = each_kill((comparison, orphans), {function}, MENDS[kind], lambda parts: found(parts, MENDED))
    for point, parts in killed:
        found(parts, MENDED)
        work(parts)
        assert found(parts) == [], point
        (message,) = parts.records.messages.select(Filter(), 10)
        assert message.status is Status.PARSED and len(objects(parts)) == 3


# Retention

OLD = datetime.now(UTC) - timedelta(days=400)
YEAR = RetentionRule(365, 365)


def keep(parts, rule=YEAR, slug="acme", dry_run=False):
    """Apply a rule; give, for each kind of object, how many went and how many stayed."""
    return {
        one.area.value: (one.objects, one.kept)
        for one in apply_retention(org(parts, slug), rule, parts, ME, dry_run=dry_run)
    }


def test_what_is_too_old_goes_and_its_rows_say_so(parts):
    old, new = delivered(parts, order(1), at=OLD), delivered(parts, order(2))
    before = objects(parts)
    assert keep(parts, dry_run=True) == {"raw": (1, 1), "documents": (2, 2)}
    assert objects(parts) == before and row(parts, old.id).erased_at is None, "dry"
    assert keep(parts) == {"raw": (1, 1), "documents": (2, 2)}
    assert objects(parts) == {new.raw_key, *(d.object_key for d in documents(parts, new))}
    assert row(parts, old.id).erased_at and all(d.erased_at for d in documents(parts, old))
    assert row(parts, old.id).subject == "Order 1", "the row is the history"
    told = [e for e in parts.records.events.of(1, old.id) if e.kind is EventKind.ERASED]
    assert sorted(e.details["what"] for e in told) == ["documents", "documents", "raw"]
    assert row(parts, new.id) == new
    assert keep(parts) == {"raw": (0, 1), "documents": (0, 2)}
    assert found(parts) == []


def test_raw_mail_and_documents_have_days_of_their_own_and_for_ever_is_the_default(parts):
    old = delivered(parts, order(1), at=OLD)
    assert keep(parts, RetentionRule(None, None)) == {}
    assert keep(parts, RetentionRule(99_999_999, 10**12)) == {"raw": (0, 1), "documents": (0, 2)}, (
        "longer than time is known"
    )
    assert keep(parts, RetentionRule(365, None)) == {"raw": (1, 0)}
    assert objects(parts) == {d.object_key for d in documents(parts, old)}
    assert keep(parts, RetentionRule(None, 500)) == {"documents": (0, 2)}


def test_an_object_stays_while_a_younger_row_of_its_organization_needs_it_and_no_other_organization_matters(parts):
    """The very same attachment in an old and a new mail, and in another organization's."""
    delivered(parts, order(1, attachments=1), at=OLD)
    again = order(1, attachments=1).replace(b"order-1@", b"again@")
    new = delivered(parts, again)
    other = delivered(parts, order(1, attachments=1), "beta")
    assert keep(parts) == {"raw": (1, 1), "documents": (0, 1)}
    assert {new.raw_key, documents(parts, new)[0].object_key} <= objects(parts)
    assert {other.raw_key, documents(parts, other)[0].object_key} <= objects(parts)
    assert found(parts) == found(parts, slug="beta") == []


@pytest.mark.parametrize("state", ["received", "failed", "document failed", "document pending", "held"])
def test_what_somebody_may_still_need_stays(parts, state):
    if state == "received":
        deliver(parts, order(1), at=OLD)
    else:
        delivered(parts, order(1), at=OLD)
    if state == "failed":
        change(parts, inbound_message, status="FAILED", error_json={"error": "X"})
    if state.startswith("document"):
        change(parts, document, handover=state.split()[1].upper(), error_json={"error": "X"})
    if state == "held":
        delivered(parts, order(2), at=OLD)
        deliver(parts, order(2) + b"other\n", at=OLD)
    gone = keep(parts)
    if state == "held":
        assert gone == {"raw": (2, 1), "documents": (4, 0)}
        (held,) = parts.records.held_mail.open()
        assert held.raw_key in objects(parts) and held.erased_at is None
        return
    assert gone["raw"] == (0, 1) and gone["documents"][0] == 0
    assert (keep(parts, RetentionRule(365, 365, also_failed=True))["raw"][0] == 1) is ("failed" in state)


def test_a_message_that_is_replayed_meanwhile_keeps_its_objects(parts):
    old = delivered(parts, order(1), at=OLD)
    again = lambda: change(parts, inbound_message, status="RECEIVED")  # noqa: E731
    mark = "going = self.app.records.erasure.mark"
    (raw, _) = at_line((retention,), mark, again, lambda: apply_retention(org(parts), YEAR, parts, ME, dry_run=False))
    assert (raw.objects, raw.busy) == (0, 1)
    assert old.raw_key in objects(parts) and row(parts, old.id).erased_at is None


def test_held_mail_that_is_accepted_while_the_rows_are_read_keeps_its_object(parts, monkeypatch):
    delivered(parts, order(1))
    deliver(parts, order(1) + b"other content\n", at=OLD)
    (held,) = parts.records.held_mail.open()
    iterate = type(parts.records.holdings).iterate
    kinds = []

    def once_one_is_read(self, org_id, kind, **others):
        kinds.append(kind)
        if len(kinds) == 2:
            assert replay.accept_held(held, parts, ME)
        return iterate(self, org_id, kind, **others)

    monkeypatch.setattr(type(parts.records.holdings), "iterate", once_one_is_read)
    keep(parts)
    assert len(kinds) >= 3 and held.raw_key in objects(parts)
    work(parts)
    assert {one.status for one in parts.records.messages.select(Filter(), 9)} == {Status.PARSED}


def test_a_document_that_comes_again_while_it_is_deleted_is_extracted_again(parts):
    delivered(parts, order(1, attachments=1), at=OLD)
    again = lambda: delivered(parts, order(1, attachments=1).replace(b"order-1@", b"again@"))  # noqa: E731
    line = "for key in sorted(going)"
    done = at_line(
        (retention,),
        line,
        again,
        lambda: apply_retention(org(parts), RetentionRule(None, 365), parts, ME, dry_run=False),
    )
    assert [one.extracted_again for one in done] == [1]
    work(parts)
    assert found(parts) == []
    assert sum("/documents/" in key for key in objects(parts)) == 1


@pytest.mark.parametrize("how", ["retention", "erasure", "orphans"])
def test_a_worker_who_has_put_a_document_again_before_it_was_deleted_begins_anew(parts, how):
    """Objects come before rows: nobody who looks at rows sees what this worker needs."""
    first = delivered(parts, order(1, attachments=1), at=OLD)
    (shared,) = documents(parts, first)
    second = deliver(parts, order(1, attachments=1).replace(b"order-1@", b"again@").replace(b"buyer@", b"else@"))

    def delete():
        if how == "retention":
            apply_retention(org(parts), RetentionRule(None, 365), parts, ME, dry_run=False)
        elif how == "erasure":
            erase(ErasureRequest(org(parts), mail_id=first.id), parts, ME, dry_run=False)
        else:
            with parts.records.database.write(1) as connection:
                connection.execute(document.delete())
            list(reconcile_organization(org(parts), replace(MENDED, orphan_documents=True), parts))
        assert shared.object_key not in objects(parts)

    at_line((extraction,), "if not app.records.documents.record(", delete, lambda: work(parts))
    message = row(parts, second.message_id)
    assert (message.status, message.attempts) == (Status.RECEIVED, 0)
    work(parts)
    (again,) = documents(parts, message)
    assert again.object_key == shared.object_key in objects(parts) and again.handover is HandOver.DONE


def test_a_replay_of_erased_mail_is_refused_and_an_extraction_fails_at_once(parts):
    message = delivered(parts, order(1, attachments=1), at=OLD)
    keep(parts)
    message = row(parts, message.id)
    assert not parts.records.documents.replay(message, datetime.now(UTC), retention.erased_event)
    change(parts, inbound_message, status="RECEIVED", attempts=0)
    change(parts, document, handover="PENDING", attempts=0)
    work(parts)
    assert row(parts, message.id).status is Status.FAILED
    assert row(parts, message.id).error_json["error"] == "MessageErased"
    assert documents(parts, message)[0].error_json["error"] == "MessageErased"


def test_a_retention_killed_at_any_line_and_run_again_ends_the_same(draw):
    def set_up(parts):
        delivered(parts, order(1), at=OLD)
        delivered(parts, order(2))

    functions = {"_delete", "run"}
    for point, parts in each_kill((retention,), functions, set_up, keep, draw):
        keep(parts)
        assert len(objects(parts)) == 3, point
        old, new = sorted(parts.records.messages.select(Filter(), 10), key=lambda message: message.received_at)
        assert old.erased_at and not new.erased_at
        assert found(parts) == [], point
        assert count(parts, message_event) == 3 + 4 + 2, "each told once"


# Erasure


def erased(parts, slug="acme", **of):
    return erase(ErasureRequest(org(parts, slug), **of), parts, ME, dry_run=False)


def populated(parts):
    """Fill two organizations with the same bytes, from two senders, with all that a mail can leave."""
    for slug in ("acme", "beta"):
        delivered(parts, order(1), slug)
        deliver(parts, order(1) + b"other content\n", slug)
        delivered(parts, mail(2, From="Else <else@shop.example>"), slug, sender="else@shop.example")
        deliver(parts, order(3), slug)
    for sender in (SENDER, "else@shop.example"):
        raw = mail(9, From=sender)
        for slug in ("acme", "beta"):
            envelope = Envelope(f"orders+{slug}@orderflow.example.com", datetime.now(UTC), sender=sender)
            parts.spool.write(encode_envelope(envelope), _reader(raw), 1 << 20).release()
            dead = parts.spool.write(encode_envelope(envelope), _reader(raw), 1 << 20)
            parts.spool.move_to_dead(dead, f"{slug}{sender}", "it broke")


def everything_of(parts, org_id):
    """Give all that there is of an organization: the number of its rows in each table, its objects."""
    tables = (inbound_message, document, skipped_part, held_mail, message_event)
    rows = [count(parts, table, org_id) for table in tables]
    return rows, {key for key in objects(parts) if key.startswith(f"org/{org_id}/")}


def spooled(parts):
    names = [*parts.spool.entries(), *(name for name, _ in parts.spool.dead())]
    return len(names), len(os.listdir(parts.settings.spool_dir / "dead"))


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


@pytest.mark.parametrize("of", [{}, {"sender": SENDER}], ids=["organization", "sender"])
def test_an_erasure_killed_at_any_line_and_run_again_ends_the_same(of, draw):
    functions = {"spool", "_delete", "rows"} if of else {"_delete", "rows", "rest"}
    other = None
    for point, parts in each_kill((erasure,), functions, populated, lambda parts: erased(parts, **of), draw):
        other = other or everything_of(parts, 2)
        assert erased(parts, **of).is_complete, point
        left = parts.records.messages.select(Filter(org_id=1), 9)
        assert [m.envelope_sender for m in left] == (["else@shop.example"] if of else []), point
        assert everything_of(parts, 2) == other, point
        kept = {key for m in left for key in (m.raw_key, *(d.object_key for d in documents(parts, m)))}
        assert everything_of(parts, 1)[1] == kept and count(parts, held_mail) == 0, point
        assert spooled(parts) == ((6, 6) if of else (4, 4))
        assert found(parts) == []
