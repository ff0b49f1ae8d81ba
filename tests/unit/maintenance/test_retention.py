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
def app(place):
    return embedded(place, ORDERFLOW_LEASE="30")


def test_what_is_too_old_goes_and_its_rows_say_so(app):
    old, new = delivered(app, order(1), at=OLD), delivered(app, order(2))
    before = objects(app)
    assert keep(app, dry_run=True) == {"raw": (1, 1), "documents": (2, 2)}
    assert objects(app) == before and row(app, old.id).erased_at is None, "dry"
    assert keep(app) == {"raw": (1, 1), "documents": (2, 2)}
    assert objects(app) == {new.raw_key, *(d.object_key for d in documents(app, new))}
    assert row(app, old.id).erased_at and all(d.erased_at for d in documents(app, old))
    assert row(app, old.id).subject == "Order 1", "the row is the history"
    told = [e for e in app.records.events.of(1, old.id) if e.kind is EventKind.ERASED]
    assert sorted(e.details["what"] for e in told) == ["documents", "documents", "raw"]
    assert row(app, new.id) == new
    assert keep(app) == {"raw": (0, 1), "documents": (0, 2)}
    assert found(app) == []


def test_raw_mail_and_documents_have_days_of_their_own_and_for_ever_is_the_default(app):
    old = delivered(app, order(1), at=OLD)
    assert keep(app, RetentionRule(None, None)) == {}
    assert keep(app, RetentionRule(99_999_999, 10**12)) == {"raw": (0, 1), "documents": (0, 2)}, (
        "longer than time is known"
    )
    assert keep(app, RetentionRule(365, None)) == {"raw": (1, 0)}
    assert objects(app) == {d.object_key for d in documents(app, old)}
    assert keep(app, RetentionRule(None, 500)) == {"documents": (0, 2)}


def test_an_object_stays_while_a_younger_row_of_its_organization_needs_it_and_no_other_organization_matters(app):
    """The very same attachment in an old and a new mail, and in another organization's."""
    delivered(app, order(1, attachments=1), at=OLD)
    again = order(1, attachments=1).replace(b"order-1@", b"again@")
    new = delivered(app, again)
    other = delivered(app, order(1, attachments=1), "beta")
    assert keep(app) == {"raw": (1, 1), "documents": (0, 1)}
    assert {new.raw_key, documents(app, new)[0].object_key} <= objects(app)
    assert {other.raw_key, documents(app, other)[0].object_key} <= objects(app)
    assert found(app) == found(app, slug="beta") == []


@pytest.mark.parametrize("state", ["received", "failed", "document failed", "document pending", "held"])
def test_what_somebody_may_still_need_stays(app, state):
    if state == "received":
        deliver(app, order(1), at=OLD)
    else:
        delivered(app, order(1), at=OLD)
    if state == "failed":
        change(app, inbound_message, status="FAILED", error_json={"error": "X"})
    if state.startswith("document"):
        change(app, document, handover=state.split()[1].upper(), error_json={"error": "X"})
    if state == "held":
        delivered(app, order(2), at=OLD)
        deliver(app, order(2) + b"other\n", at=OLD)
    gone = keep(app)
    if state == "held":
        assert gone == {"raw": (2, 1), "documents": (4, 0)}
        (held,) = app.records.held_mail.open()
        assert held.raw_key in objects(app) and held.erased_at is None
        return
    assert gone["raw"] == (0, 1) and gone["documents"][0] == 0
    assert (keep(app, RetentionRule(365, 365, also_failed=True))["raw"][0] == 1) is ("failed" in state)


def test_a_message_that_is_replayed_meanwhile_keeps_its_objects(app):
    old = delivered(app, order(1), at=OLD)
    again = lambda: change(app, inbound_message, status="RECEIVED")  # noqa: E731
    mark = "going = self.app.records.erasure.mark"
    (raw, _) = at_line((retention,), mark, again, lambda: apply_retention(org(app), YEAR, app, ME, dry_run=False))
    assert (raw.objects, raw.busy) == (0, 1)
    assert old.raw_key in objects(app) and row(app, old.id).erased_at is None


def test_held_mail_that_is_accepted_while_the_rows_are_read_keeps_its_object(app, monkeypatch):
    delivered(app, order(1))
    deliver(app, order(1) + b"other content\n", at=OLD)
    (held,) = app.records.held_mail.open()
    iterate = type(app.records.holdings).iterate
    kinds = []

    def once_one_is_read(self, org_id, kind, **others):
        kinds.append(kind)
        if len(kinds) == 2:
            assert replay.accept_held(held, app, ME)
        return iterate(self, org_id, kind, **others)

    monkeypatch.setattr(type(app.records.holdings), "iterate", once_one_is_read)
    keep(app)
    assert len(kinds) >= 3 and held.raw_key in objects(app)
    work(app)
    assert {one.status for one in app.records.messages.select(Filter(), 9)} == {Status.PARSED}


def test_a_document_that_comes_again_while_it_is_deleted_is_extracted_again(app):
    delivered(app, order(1, attachments=1), at=OLD)
    again = lambda: delivered(app, order(1, attachments=1).replace(b"order-1@", b"again@"))  # noqa: E731
    line = "for key in sorted(going)"
    done = at_line(
        (retention,),
        line,
        again,
        lambda: apply_retention(org(app), RetentionRule(None, 365), app, ME, dry_run=False),
    )
    assert [one.extracted_again for one in done] == [1]
    work(app)
    assert found(app) == []
    assert sum("/documents/" in key for key in objects(app)) == 1


@pytest.mark.parametrize("how", ["retention", "erasure", "orphans"])
def test_a_worker_who_has_put_a_document_again_before_it_was_deleted_begins_anew(app, how):
    """Objects come before rows: nobody who looks at rows sees what this worker needs."""
    first = delivered(app, order(1, attachments=1), at=OLD)
    (shared,) = documents(app, first)
    second = deliver(app, order(1, attachments=1).replace(b"order-1@", b"again@").replace(b"buyer@", b"else@"))

    def delete():
        if how == "retention":
            apply_retention(org(app), RetentionRule(None, 365), app, ME, dry_run=False)
        elif how == "erasure":
            erase(ErasureRequest(org(app), mail_id=first.id), app, ME, dry_run=False)
        else:
            with app.records.database.write(1) as connection:
                connection.execute(document.delete())
            list(reconcile_organization(org(app), replace(MENDED, orphan_documents=True), app))
        assert shared.object_key not in objects(app)

    at_line((extraction,), "if not app.records.documents.record(", delete, lambda: work(app))
    message = row(app, second.message_id)
    assert (message.status, message.attempts) == (Status.RECEIVED, 0)
    work(app)
    (again,) = documents(app, message)
    assert again.object_key == shared.object_key in objects(app) and again.handover is HandOver.DONE


def test_a_replay_of_erased_mail_is_refused_and_an_extraction_fails_at_once(app):
    message = delivered(app, order(1, attachments=1), at=OLD)
    keep(app)
    message = row(app, message.id)
    assert not app.records.documents.replay(message, datetime.now(UTC), retention.erased_event)
    change(app, inbound_message, status="RECEIVED", attempts=0)
    change(app, document, handover="PENDING", attempts=0)
    work(app)
    assert row(app, message.id).status is Status.FAILED
    assert row(app, message.id).error_json["error"] == "MessageErased"
    assert documents(app, message)[0].error_json["error"] == "MessageErased"
