"""extract.py: attempts, retries, leases, and the way of a document to its handler."""

import functools
import gc
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Table

from orderflow_ingest.app import App, open_app
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.parsing.documents.part import PartKind
from orderflow_ingest.pipeline import extract, hand_over
from orderflow_ingest.pipeline import retry as attempts
from orderflow_ingest.pipeline.retry import ATTEMPTS, POISON_ATTEMPTS
from orderflow_ingest.storage import attempt_files
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import ALL_TENANTS, DatabaseUnavailable, InboundMessage, Records, tables
from orderflow_ingest.storage.resilience.timeouts import LONGEST_BACKOFF, TaskDeadlineReached
from tests.support.fakes import embedded
from tests.support.lab.process import wait_until
from tests.support.mails import PDF, mail, multipart, order, part
from tests.support.posting import post

calls: list[tuple[str, bytes]] = []
PAGE = b"<p>12 widgets</p>"
WITH_PAGE = multipart(
    b"Message-ID: <p@a>\r\nContent-Type: text/html\r\n\r\n" + PAGE,
    part(b"Content-Type: application/pdf; name=a.pdf", PDF),
)


def keep(document: hand_over.OrderDocument) -> None:
    """Take a document: the handler of these tests."""
    calls.append((document.document.filename, document.read()))


def refuse(document: hand_over.OrderDocument) -> None:
    """Raise with message content in the text, as handlers do."""
    raise ValueError(f"cannot parse {document.read()!r}")


@pytest.fixture
def app(place) -> App:
    calls.clear()
    return embedded(place, ORDERFLOW_DOCUMENT_HANDLER="tests.unit.pipeline.test_extract:keep")


def received(app: App, raw: bytes) -> InboundMessage:
    return app.records.messages.get(1, post(app, raw).message_id)


def again(app: App, message: InboundMessage) -> InboundMessage:
    return app.records.messages.get(message.org_id, message.id)


def work(app: App, until: Callable[[], bool] = lambda: True, *, waits: bool = False) -> None:
    """Run what is queued and what the sweep finds, till there is nothing and `until` holds.

    The time between two attempts passes at once, unless it `waits` for it. A lease is always waited for.
    """

    def is_done() -> bool:
        if not waits:
            _end_backoffs(app)
        attempts.sweep(app)
        messages, documents = app.queue.extractions[:], app.queue.hand_overs[:]
        app.queue.extractions.clear()
        app.queue.hand_overs.clear()
        for org_id, id in messages:
            extract.extract(org_id, id, app)
        for org_id, id in documents:
            hand_over.hand_over(org_id, id, app)
        return not messages and not documents and until()

    assert wait_until(is_done, 60), "it never came"


def test_attachments_become_documents_and_each_is_handed_over(app):
    message = received(app, order(1, attachments=3))
    work(app)
    documents = app.records.documents.of_message(1, message.id)
    assert again(app, message).status is Status.PARSED
    assert [d.filename for d in documents] == ["order-1-0.pdf", "order-1-1.pdf", "order-1-2.pdf"]
    assert {d.handover for d in documents} == {HandOver.DONE}
    assert sorted(calls) == [(d.filename, PDF + b"%% order 1 part %d\n" % n) for n, d in enumerate(documents)]
    assert [s.reason for s in app.records.documents.skipped(1, message.id) if s.part_path == "1"] == ["empty"]


def test_an_order_typed_into_the_mail_is_a_document_of_its_own_kind(app):
    message = received(app, mail())
    work(app)
    assert again(app, message).status is Status.PARSED
    (document,) = app.records.documents.of_message(1, message.id)
    assert (document.kind, document.content_type, document.reason) == (PartKind.BODY, "text/plain", "text body")
    assert calls == [(None, b"12 widgets\n")]


def test_a_message_without_any_document_is_parsed(app):
    message = received(app, mail(body=b" \n"))
    work(app)
    assert again(app, message).status is Status.PARSED
    assert app.records.documents.of_message(1, message.id) == []
    (skipped,) = app.records.documents.skipped(1, message.id)
    assert (skipped.part_path, skipped.reason) == ("1", "empty")


def test_extracting_twice_changes_nothing(app):
    message = received(app, order())
    work(app)
    before = (again(app, message), app.records.documents.of_message(1, message.id), app.archive.objects())
    extract.extract(1, message.id, app)
    work(app)
    assert before == (again(app, message), app.records.documents.of_message(1, message.id), app.archive.objects())
    assert len(calls) == 2


def test_two_attachments_of_the_same_content_are_two_documents_and_one_object(app):
    part = b"--b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=%s\n\n%s"
    body = part % (b"a.pdf", PDF) + part % (b"b.pdf", PDF) + b"--b--\n"
    message = received(app, mail(1, body, Content_Type="multipart/mixed; boundary=b"))
    work(app)
    documents = app.records.documents.of_message(1, message.id)
    assert [d.filename for d in documents] == ["a.pdf", "b.pdf"]
    assert len({d.object_key for d in documents}) == 1


def test_a_raw_message_that_was_changed_is_retried_then_failed_and_says_where(app, place):
    message = received(app, order())
    (place / "archive" / message.raw_key).write_bytes(b"something else")
    work(app, until=lambda: again(app, message).status is Status.FAILED, waits=True)
    row = again(app, message)
    assert (row.status, row.attempts) == (Status.FAILED, ATTEMPTS)
    assert row.error_json["error"] == "ObjectDamaged"
    assert row.error_json["attempt"] == ATTEMPTS
    assert row.error_json["where"].startswith("ObjectDamaged at interface.py:")


def test_a_part_that_cannot_be_stored_does_not_keep_the_others_from_the_handler(app):
    raw = order(1, attachments=3)
    message = received(app, raw)
    real = app.archive.put

    def put(key, data, digest, metadata=None):
        if b"part 1" in data:
            raise ValueError("secret content")
        real(key, data, digest, metadata)

    app.archive.put = put
    work(app, until=lambda: again(app, message).status is Status.FAILED and len(calls) == 2)
    row = again(app, message)
    assert row.status is Status.FAILED
    assert "part 3: ValueError at" in row.error_json["detail"]
    assert "secret" not in str(row.error_json)
    assert sorted(name for name, _ in calls) == ["order-1-0.pdf", "order-1-2.pdf"]


@pytest.mark.parametrize("fault", [TaskDeadlineReached, MemoryError])
def test_a_message_that_takes_all_time_or_memory_is_given_up_after_the_third_time(app, fault):
    message = received(app, order())
    app.archive.fault, app.archive.only = fault(), "/documents/"
    work(app, until=lambda: again(app, message).status is Status.FAILED)
    row = again(app, message)
    assert (row.attempts, row.error_json["error"], row.error_json["attempt"]) == (3, fault.__name__, 3)


def by_path(app: App, message: InboundMessage) -> dict[str, tuple[bytes, list[str]]]:
    found = app.records.documents.of_message(1, message.id)
    return {one.part_path: (app.archive.read(one.object_key, one.digest), one.defects) for one in found}


KEPT = {"1": (PAGE, ["not opened: an attempt failed at it"]), "2": (PDF, [])}


@pytest.mark.parametrize("fault", [TaskDeadlineReached, MemoryError])
def test_a_part_that_takes_all_time_or_memory_is_whole_in_the_next_attempt(app, monkeypatch, fault):
    def fail(*_):
        raise fault

    message = received(app, WITH_PAGE)
    monkeypatch.setattr("orderflow_ingest.parsing.documents.text_bodies.html_text", fail)
    work(app, until=lambda: again(app, message).status is Status.PARSED)
    assert again(app, message).attempts == 2
    assert by_path(app, message) == KEPT


def test_a_part_that_takes_its_process_is_whole_in_the_next_attempt_and_the_lease_is_not_waited_for(place, monkeypatch):
    app = embedded(place, ORDERFLOW_LEASE="600")
    message = received(app, WITH_PAGE)
    with monkeypatch.context() as patched:
        patched.setattr("orderflow_ingest.parsing.documents.text_bodies.html_text", lambda *_: os.kill(os.getpid(), 9))
        app.records.database.close()
        child = os.fork()
        if child == 0:
            extract.extract(1, message.id, open_app(app.settings))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9
    work(app, until=lambda: again(app, message).status is Status.PARSED)
    assert (again(app, message).attempts, by_path(app, message)) == (2, KEPT)
    assert list(attempt_files.lost_attempts(app.settings.attempts_dir)) == []


def test_a_mail_that_fails_at_another_part_each_time_is_delivered_with_all_parts_whole(app, monkeypatch):
    def fail(*_):
        raise MemoryError

    raw = multipart(*(b"Content-Type: text/html\r\n\r\n<p>%d widgets</p>" % n for n in range(5)))
    message = received(app, raw.replace(b"MIME-V", b"Message-ID: <a@b>\r\nMIME-V", 1))
    monkeypatch.setattr("orderflow_ingest.parsing.documents.text_bodies.html_text", fail)
    work(app, until=lambda: again(app, message).status is Status.PARSED)
    assert again(app, message).attempts == 3
    assert [data for data, _ in by_path(app, message).values()] == [b"<p>%d widgets</p>" % n for n in range(5)]


def test_an_outage_between_two_attempts_forgets_no_part_that_failed(app, monkeypatch):
    def fail(*_):
        raise MemoryError

    message = received(app, WITH_PAGE)
    monkeypatch.setattr("orderflow_ingest.parsing.documents.text_bodies.html_text", fail)
    extract.extract(1, message.id, app)
    app.archive.fault = ArchiveUnavailable("archive: away")
    for _ in range(ATTEMPTS):
        _make_due(app, tables.inbound_message, message.id)
        extract.extract(1, message.id, app)
    assert again(app, message).error_json["parts"] == ["1"]
    app.archive.fault = None
    work(app, until=lambda: again(app, message).status is Status.PARSED)
    assert by_path(app, message) == KEPT


def test_what_an_attempt_lost_outside_of_any_part_is_read_as_ever(app):
    message = received(app, WITH_PAGE)
    claimed = app.records.messages.claim(1, message.id, "host:1", datetime.now(UTC), timedelta(seconds=600))
    _leave_in_hand(app, attempt_files.MESSAGE, message.id, claimed.worker, None)
    work(app, until=lambda: again(app, message).status is Status.PARSED)
    assert by_path(app, message) == {"1": (b"12 widgets\n", []), "2": (PDF, [])}


def test_a_loss_is_noted_once_and_not_where_the_row_has_moved_on(app):
    message = received(app, order())
    app.records.messages.claim(1, message.id, "host:1", datetime.now(UTC), timedelta(seconds=600))
    _leave_in_hand(app, attempt_files.MESSAGE, message.id, "host:1/another", "1")
    attempts.record_losses(app)
    assert again(app, message).worker.startswith("host:1/") and again(app, message).error_json is None
    _leave_in_hand(app, attempt_files.MESSAGE, message.id, again(app, message).worker, "1")
    attempts.record_losses(app)
    attempts.record_losses(app)
    row = again(app, message)
    assert (row.worker, row.error_json["error"], row.error_json["parts"], row.attempts) == (
        None,
        "AttemptLost",
        ["1"],
        1,
    )


def test_a_document_whose_worker_is_gone_is_tried_again_before_its_lease_is_over(app):
    message = received(app, order(1, attachments=1))
    extract.extract(1, message.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    lease = timedelta(seconds=600)
    claimed = app.records.documents.claim(1, document.id, "host:1", datetime.now(UTC), lease)
    _leave_in_hand(app, attempt_files.DOCUMENT, document.id, claimed.worker, None)
    work(app, until=lambda: len(calls) == 1)


def test_a_mail_has_no_more_documents_than_the_limit_and_tells_of_the_others(place, caplog):
    app = embedded(place, ORDERFLOW_MAX_DOCUMENTS="20")
    message = received(app, order(1, attachments=300))
    extract.extract(1, message.id, app)
    assert again(app, message).status is Status.PARSED
    documents = app.records.documents.of_message(1, message.id)
    assert len(documents) == len(app.queue.hand_overs) == 20
    over = [one for one in app.records.documents.skipped(1, message.id) if one.reason == "too many documents"]
    assert len(over) == 101
    assert [one.defects for one in over if one.defects] == [["180 parts from here on are not listed"]]
    (warned,) = [one for one in caplog.records if "ORDERFLOW_MAX_DOCUMENTS" in one.message]
    assert (warned.levelname, warned.documents, warned.left) == ("WARNING", 20, 280)


def test_after_an_outage_a_message_may_still_be_lost_once(app):
    """An outage, however long, leaves two attempts to a message that a worker is then killed at."""
    message = received(app, order())
    app.archive.fault = ArchiveUnavailable("archive: away")
    for _ in range(2 * ATTEMPTS):
        extract.extract(1, message.id, app)
        _make_due(app, tables.inbound_message, message.id)
    assert app.records.messages.claim(1, message.id, "killed", datetime.now(UTC), _lease(app))
    _make_due(app, tables.inbound_message, message.id)
    app.archive.fault = None
    work(app, until=lambda: again(app, message).status is Status.PARSED)


def test_an_outage_of_any_length_fails_no_message(app):
    message = received(app, order())
    app.archive.fault = ArchiveUnavailable("archive: away")
    for _ in range(3 * ATTEMPTS):
        extract.extract(1, message.id, app)
        _make_due(app, tables.inbound_message, message.id)
    assert again(app, message).status is Status.RECEIVED
    app.archive.fault = None
    work(app)
    assert again(app, message).status is Status.PARSED


def test_a_message_that_takes_three_workers_with_it_is_failed(app):
    message = received(app, order())
    for _ in range(POISON_ATTEMPTS):
        assert app.records.messages.claim(1, message.id, "killed", datetime.now(UTC), _lease(app))
        _make_due(app, tables.inbound_message, message.id)
    extract.extract(1, message.id, app)
    row = again(app, message)
    assert (row.status, row.error_json["error"]) == (Status.FAILED, "AttemptLost")


def test_a_message_in_other_hands_is_left_alone_until_its_lease_ends(app):
    message = received(app, order())
    app.records.messages.claim(1, message.id, "other", datetime.now(UTC), _lease(app))
    extract.extract(1, message.id, app)
    assert again(app, message).status is Status.RECEIVED
    assert again(app, message).worker.startswith("other/")
    work(app, until=lambda: again(app, message).status is Status.PARSED)


def test_a_worker_that_lost_its_lease_writes_nothing_more(app):
    message = received(app, order())
    real = app.archive.read

    def read(key, digest):
        app.archive.read = real
        _make_due(app, tables.inbound_message, message.id)
        extract.extract(1, message.id, app)
        return real(key, digest)

    app.archive.read = read
    extract.extract(1, message.id, app)
    row = again(app, message)
    assert (row.status, row.attempts, row.error_json) == (Status.PARSED, 2, None)
    assert len(app.records.documents.of_message(1, message.id)) == 2


def test_a_queue_that_is_away_leaves_documents_to_the_sweep(app):
    message = received(app, order())
    app.queue.is_away = True
    extract.extract(1, message.id, app)
    assert again(app, message).status is Status.PARSED
    app.queue.is_away = False
    work(app, until=lambda: len(calls) == 2)


def test_a_handler_that_raises_is_retried_then_the_document_is_failed_with_its_place_and_not_its_text(place):
    app = embedded(place, ORDERFLOW_DOCUMENT_HANDLER="tests.unit.pipeline.test_extract:refuse")
    message = received(app, order(1, attachments=1))
    documents = app.records.documents
    work(app, until=lambda: documents.of_message(1, message.id)[0].handover is HandOver.FAILED)
    (document,) = documents.of_message(1, message.id)
    assert document.attempts == ATTEMPTS
    assert document.error_json["where"].startswith("ValueError at test_extract.py:")
    assert "PDF" not in str(document.error_json)
    assert again(app, message).status is Status.PARSED


def test_a_handler_that_exits_is_a_failed_attempt(place):
    app = embedded(place, ORDERFLOW_DOCUMENT_HANDLER="sys:exit")
    message = received(app, order(1, attachments=1))
    extract.extract(1, message.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    hand_over.hand_over(1, document.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    assert (document.handover, document.error_json["error"], document.worker) == (HandOver.PENDING, "SystemExit", None)


@pytest.mark.parametrize("target", ["no.such.module:handle", "tests.unit.pipeline.test_extract:no_such_function"])
def test_a_handler_that_cannot_be_loaded_is_tried_until_it_can(place, target):
    app = embedded(place, ORDERFLOW_DOCUMENT_HANDLER=target)
    message = received(app, order(1, attachments=1))
    extract.extract(1, message.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    for _ in range(2 * ATTEMPTS):
        hand_over.hand_over(1, document.id, app)
        _make_due(app, tables.document, document.id)
    (document,) = app.records.documents.of_message(1, message.id)
    assert document.handover is HandOver.PENDING
    assert document.error_json["error"] == "HandlerUnavailable"


class Sender:
    """Several ways of a handler that is none, and some that are."""

    def __call__(self, document: hand_over.OrderDocument) -> None:
        keep(document)

    async def send(self, document: hand_over.OrderDocument) -> None:
        keep(document)

    @classmethod
    def of(cls, document: hand_over.OrderDocument) -> None:
        keep(document)


class AsyncSender:
    async def __call__(self, document: hand_over.OrderDocument) -> None:
        keep(document)


class Taken:
    def __init__(self, document: hand_over.OrderDocument) -> None:
        keep(document)


async def async_keep(document: hand_over.OrderDocument) -> None:
    keep(document)


async def async_generator(document: hand_over.OrderDocument):
    keep(document)
    yield


def generator(document: hand_over.OrderDocument):
    keep(document)
    yield


def plain(function):
    """Wrap as a decorator does that knows nothing of async."""

    @functools.wraps(function)
    def call(*arguments):
        return function(*arguments)

    return call


def adding(function):
    """Wrap as a decorator does that gives an argument of its own."""

    @functools.wraps(function)
    def call(document):
        return function("session", document)

    return call


def named(*, document: hand_over.OrderDocument) -> None:
    keep(document)


def two(first: object, second: object) -> None:
    keep(second)


sender, async_sender, async_method = Sender(), AsyncSender(), Sender().send
class_method, partial_keep, partial_of_two = Sender.of, functools.partial(keep), functools.partial(two, "first")
partial_async, partial_object = functools.partial(async_keep), functools.partial(AsyncSender())
partial_spoiled = functools.partial(two)
wrapped, wrapped_async, wrapped_generator = adding(two), plain(async_keep), plain(generator)
a_number, no_argument = 7, lambda: None


def documents_after(place, name: str, attempts: int = 1):
    """Hand a document to a handler of this module so often; return its row."""
    app = embedded(place, ORDERFLOW_DOCUMENT_HANDLER=f"tests.unit.pipeline.test_extract:{name}")
    calls.clear()
    message = received(app, order(1, attachments=1))
    extract.extract(1, message.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    for _ in range(attempts):
        _make_due(app, tables.document, document.id)
        hand_over.hand_over(1, document.id, app)
    return app.records.documents.of_message(1, message.id)[0]


@pytest.mark.parametrize("name", ["sender", "class_method", "partial_keep", "partial_of_two", "wrapped", "Taken"])
def test_whatever_can_be_called_with_one_argument_is_a_handler(place, name):
    assert documents_after(place, name).handover is HandOver.DONE
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("async_keep", "async"),
        ("async_generator", "async"),
        ("generator", "yield"),
        ("async_method", "async"),
        ("async_sender", "async"),
        ("partial_async", "async"),
        ("partial_object", "async"),
        ("partial_spoiled", "one argument"),
        ("two", "one argument"),
        ("named", "one argument"),
        ("no_argument", "one argument"),
        ("Sender", "one argument"),
        ("a_number", "not callable"),
    ],
)
def test_a_handler_that_cannot_be_one_uses_up_no_attempt(place, name, says):
    document = documents_after(place, name, 2 * ATTEMPTS)
    assert (document.handover, document.error_json["error"]) == (HandOver.PENDING, "HandlerUnavailable")
    assert says in document.error_json["detail"] and calls == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["wrapped_async", "wrapped_generator"])
def test_a_handler_whose_result_is_only_the_beginning_of_its_work_has_failed(place, name):
    document = documents_after(place, name)
    assert (document.handover, document.error_json["error"]) == (HandOver.PENDING, "HandlerNotRun")
    (place / "again").mkdir()
    document = documents_after(place / "again", name, ATTEMPTS)
    assert (document.handover, document.attempts) == (HandOver.FAILED, ATTEMPTS)
    gc.collect()
    assert calls == []


def test_a_document_that_takes_three_workers_with_it_is_failed(app):
    message = received(app, order(1, attachments=1))
    extract.extract(1, message.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    for _ in range(POISON_ATTEMPTS):
        assert app.records.documents.claim(1, document.id, "killed", datetime.now(UTC), _lease(app))
        _make_due(app, tables.document, document.id)
    hand_over.hand_over(1, document.id, app)
    (document,) = app.records.documents.of_message(1, message.id)
    assert (document.handover, document.error_json["error"]) == (HandOver.FAILED, "AttemptLost")
    assert calls == []


def test_a_database_that_is_away_when_a_failure_is_to_be_noted_is_waited_for(app, monkeypatch):
    monkeypatch.setattr(attempts, "NOTE_DELAYS", (0, 0, 0))
    message = received(app, order())
    app.archive.fault = ArchiveUnavailable("archive: away")
    real, failures = app.records.messages.retry_later, [DatabaseUnavailable("database: away")] * 3

    def retry_later(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    app.records.messages.retry_later = retry_later
    extract.extract(1, message.id, app)
    assert again(app, message).error_json["error"] == "ArchiveUnavailable"


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("kind", ["messages", "documents"])
def test_an_attempt_whose_claim_was_not_answered_is_taken_all_the_same_once(app, monkeypatch, kind, is_committed):
    monkeypatch.setattr(attempts, "CLAIM_DELAYS", (0, 0, 0))
    message = received(app, order(1, attachments=1))
    if kind == "documents":
        extract.extract(1, message.id, app)
    rows = getattr(app.records, kind)
    real, claims = rows.claim, []

    def claim(*arguments):
        claims.append(arguments)
        if len(claims) > 1:
            return real(*arguments)
        if is_committed:
            assert real(*arguments)
        raise DatabaseUnavailable("database: it went away at the commit")

    def away(*_):
        rows.get = get
        raise DatabaseUnavailable("database: away")

    rows.claim, rows.get, get = claim, away, rows.get
    if kind == "messages":
        extract.extract(1, message.id, app)
    for document in app.records.documents.of_message(1, message.id):
        hand_over.hand_over(1, document.id, app)
    assert again(app, message).status is Status.PARSED
    assert {(row.handover, row.attempts) for row in app.records.documents.of_message(1, message.id)} == {
        (HandOver.DONE, 1)
    }
    assert again(app, message).attempts == 1 and len(calls) == 1
    assert sum(arguments[1] == claims[0][1] for arguments in claims) == (1 if is_committed else 2)


def test_another_workers_claim_is_not_taken_for_ones_own_that_was_not_answered(app, monkeypatch):
    monkeypatch.setattr(attempts, "CLAIM_DELAYS", (0,))
    message = received(app, order())
    real = app.records.messages.claim

    def claim(org_id, id, worker, now, lease):
        app.records.messages.claim = real
        assert real(org_id, id, f"{worker}0", now, lease)
        raise DatabaseUnavailable("database: away")

    app.records.messages.claim = claim
    extract.extract(1, message.id, app)
    assert again(app, message).status is Status.RECEIVED and again(app, message).attempts == 1


def test_the_sweep_finds_what_has_lost_its_task_behind_thousands_that_have_one(app, monkeypatch):
    monkeypatch.setattr(attempts, "SWEEP_LIMIT", 3)
    for number in range(12):
        received(app, order(number))
    lost = app.queue.extractions[-4:]
    del app.queue.extractions[-4:]
    app.queue.waiting = 5000
    time.sleep(0.15)
    assert attempts.sweep(app) == 3 and set(app.queue.extractions[8:]) < set(lost)
    assert attempts.sweep(app) == 1 and sorted(app.queue.extractions[8:]) == sorted(lost), "nothing twice"
    assert attempts.sweep(app) == 0


def test_a_host_that_lost_the_sweep_while_it_slept_enqueues_no_more(app, monkeypatch):
    monkeypatch.setattr(attempts, "SWEEP_BATCH", 2)
    for number in range(5):
        received(app, order(number))
    app.queue.extractions.clear()
    time.sleep(0.15)
    held = iter((True, True, False))
    assert attempts.sweep(app, lambda: next(held)) == 4 == len(app.queue.extractions)


def test_the_sweep_leaves_a_queue_alone_in_which_half_of_what_defers_mail_waits(place):
    app = embedded(place, ORDERFLOW_MAX_QUEUE="10000")
    received(app, order())
    app.queue.extractions.clear()
    time.sleep(0.15)
    app.queue.waiting = 5000
    assert attempts.sweep(app) == 0
    app.queue.waiting = 4999
    assert attempts.sweep(app) == 1


def _claimed_by_a_worker_that_is_killed(app: App, message) -> str:
    """Claim a message in a process of its own, as a worker does, and kill that; return the mark it leaves."""
    child = os.fork()
    if child == 0:
        name = attempts.worker_name(app.settings.attempts_dir)
        records = Records(app.settings.database_url)
        records.messages.claim(1, message.id, name, datetime.now(UTC), timedelta(seconds=600))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return again(app, message).worker


def test_a_lease_of_before_a_power_cut_is_freed_by_its_own_host_alone(app):
    """The files that say what was in hand are gone with the power, or hold an older line."""
    cut, elsewhere, alive = (received(app, order(number)) for number in range(3))
    mark = _claimed_by_a_worker_that_is_killed(app, cut)
    for path in app.settings.attempts_dir.glob("[0-9]*"):
        path.unlink()
    now, lease = datetime.now(UTC), timedelta(seconds=600)
    messages = app.records.messages
    messages.claim(1, elsewhere.id, mark.partition("/")[0].replace(attempts._host(), "other:"), now, lease)
    messages.claim(1, alive.id, attempts.worker_name(app.settings.attempts_dir), now, lease)
    attempts.record_losses(app)
    assert again(app, cut).worker == mark, "no file tells of it"
    attempts.record_rows_lost(app)
    attempts.record_rows_lost(app)
    row = again(app, cut)
    assert (row.worker, row.error_json["error"], row.attempts) == (None, "AttemptLost", 1)
    assert again(app, elsewhere).worker and again(app, alive).worker
    work(app, until=lambda: again(app, cut).status is Status.PARSED)
    assert again(app, cut).attempts == 2


def test_a_worker_that_is_killed_between_its_claim_and_its_note_leaves_no_lease(app):
    """Its file is there and says nothing; the consumer runs on, and asks for rows of a crash no more."""
    cut, alive = (received(app, order(number)) for number in range(2))
    now, lease = datetime.now(UTC), timedelta(seconds=600)
    app.records.messages.claim(1, alive.id, attempts.worker_name(app.settings.attempts_dir), now, lease)
    assert _claimed_by_a_worker_that_is_killed(app, cut)
    assert attempts.record_losses(app) == 1 and attempts.record_losses(app) == 0
    assert again(app, cut).worker is None and again(app, alive).worker
    work(app, until=lambda: again(app, cut).status is Status.PARSED)


def _leave_in_hand(app: App, kind: str, id: UUID, worker: str, part: str | None) -> None:
    """Leave what a process leaves behind that is gone."""
    app.settings.attempts_dir.mkdir(exist_ok=True)
    line = f"{kind} 1 {id} {worker} {'-' if part is None else f'/{part}'}\n"
    (app.settings.attempts_dir / "1.abcd").write_text(line)


def _lease(app: App):
    return timedelta(seconds=app.settings.lease)


def _make_due(app: App, table: Table, id: UUID) -> None:
    """Let the time pass that a lease or a backoff takes."""
    with app.records.database.write(ALL_TENANTS) as connection:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        connection.execute(table.update().where(table.c.id == id).values(next_attempt_at=past))


def _end_backoffs(app: App) -> None:
    """Let the time pass that each row waits that no worker has."""
    past = datetime(2020, 1, 1, tzinfo=UTC)
    with app.records.database.write(ALL_TENANTS) as connection:
        for table in (tables.inbound_message, tables.document):
            waiting = table.c.worker.is_(None) & (table.c.next_attempt_at > past)
            connection.execute(table.update().where(waiting).values(next_attempt_at=past))


def test_the_longest_delay_is_that_of_the_last_attempt_but_one(app):
    assert attempts._BACKOFF ** (ATTEMPTS - 1) == LONGEST_BACKOFF
    assert app.settings.longest_delay == 60 + app.settings.retry_delay * LONGEST_BACKOFF
