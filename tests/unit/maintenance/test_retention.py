"""What is older than its retention goes, what somebody may still need stays, and its rows say so."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orderflow_ingest.domain.states import EventKind, HandOver, Status
from orderflow_ingest.maintenance import retention
from orderflow_ingest.maintenance.erasure import ErasureRequest, erase
from orderflow_ingest.maintenance.reconcile.reconciler import reconcile_organization
from orderflow_ingest.maintenance.retention import RetentionRule, apply_retention
from orderflow_ingest.pipeline import extract as extraction
from orderflow_ingest.pipeline import replay
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.database.tables import document, inbound_message
from tests.support.crash import at_line
from tests.support.fakes import embedded
from tests.support.mails import order
from tests.support.maintenance import (
    ME,
    MENDED,
    OLD,
    YEAR,
    change,
    deliver,
    delivered,
    documents,
    found,
    keep,
    objects,
    org,
    row,
    work,
)


@pytest.fixture
def parts(place):
    return embedded(place, ORDERFLOW_LEASE="30")


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
