"""extraction.py: attempts, retries, leases, and the way of a document to its handler."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Table

from orderflow_ingest import attempts, extraction, handover
from orderflow_ingest.archive import ArchiveUnavailable
from orderflow_ingest.assembly import Parts
from orderflow_ingest.attempts import ATTEMPTS, POISON_ATTEMPTS
from orderflow_ingest.limits import TimeUp
from orderflow_ingest.records import EVERY, InboundMessage, RecordsUnavailable, tables
from orderflow_ingest.status import HandOver, PartKind, Status
from tests.fakes import embedded
from tests.mails import PDF, mail, order
from tests.test_delivery import post

calls: list[tuple[str, bytes]] = []


def keep(document: handover.OrderDocument) -> None:
    """Take a document: the handler of these tests."""
    calls.append((document.document.filename, document.read()))


def refuse(document: handover.OrderDocument) -> None:
    """Raise with message content in the text, as handlers do."""
    raise ValueError(f"cannot parse {document.read()!r}")


@pytest.fixture
def parts(place) -> Parts:
    calls.clear()
    return embedded(place, ORDERFLOW_DOCUMENT_HANDLER="tests.test_extraction:keep")


def received(parts: Parts, raw: bytes) -> InboundMessage:
    return parts.records.messages.get(1, post(parts, raw).message_id)


def again(parts: Parts, message: InboundMessage) -> InboundMessage:
    return parts.records.messages.get(message.org_id, message.id)


def work(parts: Parts, until: Callable[[], bool] = lambda: True) -> None:
    """Run what the queue was rung for and what the sweep finds, till there is nothing and `until` holds."""
    end = time.monotonic() + 20
    while True:
        attempts.sweep(parts)
        messages, documents = parts.queue.extractions[:], parts.queue.hand_overs[:]
        parts.queue.extractions.clear()
        parts.queue.hand_overs.clear()
        for org_id, id in messages:
            extraction.extract(org_id, id, parts)
        for org_id, id in documents:
            handover.hand_over(org_id, id, parts)
        if not messages and not documents:
            if until():
                return
            assert time.monotonic() < end, "it never came"
            time.sleep(0.02)


def test_attachments_become_documents_and_each_is_handed_over(parts):
    message = received(parts, order(1, attachments=3))
    work(parts)
    documents = parts.records.documents.of_message(1, message.id)
    assert again(parts, message).status is Status.PARSED
    assert [d.filename for d in documents] == ["order-1-0.pdf", "order-1-1.pdf", "order-1-2.pdf"]
    assert {d.handover for d in documents} == {HandOver.DONE}
    assert sorted(calls) == [(d.filename, PDF + b"%% order 1 part %d\n" % n) for n, d in enumerate(documents)]
    assert [s.reason for s in parts.records.documents.skipped(1, message.id) if s.part_path == "1"] == ["empty"]


def test_an_order_typed_into_the_mail_is_a_document_of_its_own_kind(parts):
    message = received(parts, mail())
    work(parts)
    assert again(parts, message).status is Status.PARSED
    (document,) = parts.records.documents.of_message(1, message.id)
    assert (document.kind, document.content_type, document.reason) == (PartKind.BODY, "text/plain", "text body")
    assert calls == [(None, b"12 widgets\n")]


def test_a_message_without_any_document_is_parsed(parts):
    message = received(parts, mail(body=b" \n"))
    work(parts)
    assert again(parts, message).status is Status.PARSED
    assert parts.records.documents.of_message(1, message.id) == []
    (skipped,) = parts.records.documents.skipped(1, message.id)
    assert (skipped.part_path, skipped.reason) == ("1", "empty")


def test_extracting_twice_changes_nothing(parts):
    message = received(parts, order())
    work(parts)
    before = (again(parts, message), parts.records.documents.of_message(1, message.id), parts.archive.objects())
    extraction.extract(1, message.id, parts)
    work(parts)
    assert before == (again(parts, message), parts.records.documents.of_message(1, message.id), parts.archive.objects())
    assert len(calls) == 2


def test_two_attachments_of_the_same_content_are_two_documents_and_one_object(parts):
    part = b"--b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=%s\n\n%s"
    body = part % (b"a.pdf", PDF) + part % (b"b.pdf", PDF) + b"--b--\n"
    message = received(parts, mail(1, body, Content_Type="multipart/mixed; boundary=b"))
    work(parts)
    documents = parts.records.documents.of_message(1, message.id)
    assert [d.filename for d in documents] == ["a.pdf", "b.pdf"]
    assert len({d.object_key for d in documents}) == 1


def test_a_raw_message_that_was_changed_is_retried_then_failed_and_says_where(parts, place):
    message = received(parts, order())
    (place / "archive" / message.raw_key).write_bytes(b"something else")
    work(parts, until=lambda: again(parts, message).status is Status.FAILED)
    row = again(parts, message)
    assert (row.status, row.attempts) == (Status.FAILED, ATTEMPTS)
    assert row.error_json["error"] == "ObjectDamaged"
    assert row.error_json["attempt"] == ATTEMPTS
    assert row.error_json["where"].startswith("ObjectDamaged at interface.py:")


def test_a_part_that_cannot_be_stored_does_not_keep_the_others_from_the_handler(parts):
    raw = order(1, attachments=3)
    message = received(parts, raw)
    real = parts.archive.put

    def put(key, data, digest, metadata=None):
        if b"part 1" in data:
            raise ValueError("secret content")
        real(key, data, digest, metadata)

    parts.archive.put = put
    work(parts, until=lambda: again(parts, message).status is Status.FAILED and len(calls) == 2)
    row = again(parts, message)
    assert row.status is Status.FAILED
    assert "part 3: ValueError at" in row.error_json["detail"]
    assert "secret" not in str(row.error_json)
    assert sorted(name for name, _ in calls) == ["order-1-0.pdf", "order-1-2.pdf"]


@pytest.mark.parametrize("fault", [TimeUp, MemoryError])
def test_a_message_that_takes_all_time_or_memory_is_given_up_after_the_third_time(parts, fault):
    message = received(parts, order())
    parts.archive.fault, parts.archive.only = fault(), "/documents/"
    work(parts, until=lambda: again(parts, message).status is Status.FAILED)
    row = again(parts, message)
    assert (row.attempts, row.error_json["error"], row.error_json["attempt"]) == (3, fault.__name__, 3)


def test_after_an_outage_a_message_may_still_be_lost_once(parts):
    """An outage, however long, leaves two attempts to a message that a worker is then killed at."""
    message = received(parts, order())
    parts.archive.fault = ArchiveUnavailable("archive: away")
    for _ in range(2 * ATTEMPTS):
        extraction.extract(1, message.id, parts)
        _make_due(parts, tables.inbound_message, message.id)
    assert parts.records.messages.claim(1, message.id, "killed", datetime.now(UTC), _lease(parts))
    _make_due(parts, tables.inbound_message, message.id)
    parts.archive.fault = None
    work(parts, until=lambda: again(parts, message).status is Status.PARSED)


def test_an_outage_of_any_length_fails_no_message(parts):
    message = received(parts, order())
    parts.archive.fault = ArchiveUnavailable("archive: away")
    for _ in range(3 * ATTEMPTS):
        extraction.extract(1, message.id, parts)
        _make_due(parts, tables.inbound_message, message.id)
    assert again(parts, message).status is Status.RECEIVED
    parts.archive.fault = None
    work(parts)
    assert again(parts, message).status is Status.PARSED


def test_a_message_that_takes_three_workers_with_it_is_failed(parts):
    message = received(parts, order())
    for _ in range(POISON_ATTEMPTS):
        assert parts.records.messages.claim(1, message.id, "killed", datetime.now(UTC), _lease(parts))
        _make_due(parts, tables.inbound_message, message.id)
    extraction.extract(1, message.id, parts)
    row = again(parts, message)
    assert (row.status, row.error_json["error"]) == (Status.FAILED, "WorkersLost")


def test_a_message_in_other_hands_is_left_alone_until_its_lease_ends(parts):
    message = received(parts, order())
    parts.records.messages.claim(1, message.id, "other", datetime.now(UTC), _lease(parts))
    extraction.extract(1, message.id, parts)
    assert again(parts, message).status is Status.RECEIVED
    assert again(parts, message).worker.startswith("other/")
    work(parts, until=lambda: again(parts, message).status is Status.PARSED)


def test_a_worker_that_lost_its_lease_writes_nothing_more(parts):
    message = received(parts, order())
    real = parts.archive.read

    def read(key, digest):
        parts.archive.read = real
        _make_due(parts, tables.inbound_message, message.id)
        extraction.extract(1, message.id, parts)
        return real(key, digest)

    parts.archive.read = read
    extraction.extract(1, message.id, parts)
    row = again(parts, message)
    assert (row.status, row.attempts, row.error_json) == (Status.PARSED, 2, None)
    assert len(parts.records.documents.of_message(1, message.id)) == 2


def test_a_queue_that_is_away_leaves_documents_to_the_sweep(parts):
    message = received(parts, order())
    parts.queue.is_away = True
    extraction.extract(1, message.id, parts)
    assert again(parts, message).status is Status.PARSED
    parts.queue.is_away = False
    work(parts, until=lambda: len(calls) == 2)


def test_a_handler_that_raises_is_retried_then_the_document_is_failed_with_its_place_and_not_its_text(place):
    parts = embedded(place, ORDERFLOW_DOCUMENT_HANDLER="tests.test_extraction:refuse")
    message = received(parts, order(1, attachments=1))
    documents = parts.records.documents
    work(parts, until=lambda: documents.of_message(1, message.id)[0].handover is HandOver.FAILED)
    (document,) = documents.of_message(1, message.id)
    assert document.attempts == ATTEMPTS
    assert document.error_json["where"].startswith("ValueError at test_extraction.py:")
    assert "PDF" not in str(document.error_json)
    assert again(parts, message).status is Status.PARSED


def test_a_handler_that_exits_is_a_failed_attempt(place):
    parts = embedded(place, ORDERFLOW_DOCUMENT_HANDLER="sys:exit")
    message = received(parts, order(1, attachments=1))
    extraction.extract(1, message.id, parts)
    (document,) = parts.records.documents.of_message(1, message.id)
    handover.hand_over(1, document.id, parts)
    (document,) = parts.records.documents.of_message(1, message.id)
    assert (document.handover, document.error_json["error"], document.worker) == (HandOver.PENDING, "SystemExit", None)


@pytest.mark.parametrize("target", ["no.such.module:handle", "tests.test_extraction:no_such_function"])
def test_a_handler_that_cannot_be_loaded_is_tried_until_it_can(place, target):
    parts = embedded(place, ORDERFLOW_DOCUMENT_HANDLER=target)
    message = received(parts, order(1, attachments=1))
    extraction.extract(1, message.id, parts)
    (document,) = parts.records.documents.of_message(1, message.id)
    for _ in range(2 * ATTEMPTS):
        handover.hand_over(1, document.id, parts)
        _make_due(parts, tables.document, document.id)
    (document,) = parts.records.documents.of_message(1, message.id)
    assert document.handover is HandOver.PENDING
    assert document.error_json["error"] == "HandlerUnavailable"


def test_a_document_that_takes_three_workers_with_it_is_failed(parts):
    message = received(parts, order(1, attachments=1))
    extraction.extract(1, message.id, parts)
    (document,) = parts.records.documents.of_message(1, message.id)
    for _ in range(POISON_ATTEMPTS):
        assert parts.records.documents.claim(1, document.id, "killed", datetime.now(UTC), _lease(parts))
        _make_due(parts, tables.document, document.id)
    handover.hand_over(1, document.id, parts)
    (document,) = parts.records.documents.of_message(1, message.id)
    assert (document.handover, document.error_json["error"]) == (HandOver.FAILED, "WorkersLost")
    assert calls == []


def test_a_database_that_is_away_when_a_failure_is_to_be_noted_is_waited_for(parts, monkeypatch):
    monkeypatch.setattr(attempts, "NOTE_DELAYS", (0, 0, 0))
    message = received(parts, order())
    parts.archive.fault = ArchiveUnavailable("archive: away")
    real, failures = parts.records.messages.retry_later, [RecordsUnavailable("database: away")] * 3

    def retry_later(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    parts.records.messages.retry_later = retry_later
    extraction.extract(1, message.id, parts)
    assert again(parts, message).error_json["error"] == "ArchiveUnavailable"


def test_the_sweep_leaves_a_long_queue_alone(parts):
    received(parts, order())
    time.sleep(0.15)
    parts.queue.waiting = attempts.SWEEP_LIMIT
    assert attempts.sweep(parts) == 0
    parts.queue.waiting = 0
    assert attempts.sweep(parts) == 1


def _lease(parts: Parts):
    return timedelta(seconds=parts.settings.lease)


def _make_due(parts: Parts, table: Table, id: UUID) -> None:
    """Let the time pass that a lease or a backoff takes."""
    with parts.records.database.write(EVERY) as connection:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        connection.execute(table.update().where(table.c.id == id).values(next_attempt_at=past))
