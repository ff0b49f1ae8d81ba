"""A process that is killed by SIGKILL between any two lines of a delivery or an extraction, then run again.

Each case is a forked process that opens its own connections, runs to the line, and is gone. What is
asserted afterwards is the promise: one row, one object, each document once, no entry left.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType

import pytest

from orderflow_ingest.app import App, open_app
from orderflow_ingest.config import Settings
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.states import HandOver, Status
from orderflow_ingest.pipeline import deliver as delivery
from orderflow_ingest.pipeline import extract, hand_over, receive, retry
from orderflow_ingest.storage.archive import FileArchive
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.database.documents import Documents
from orderflow_ingest.storage.database.held_mail import HeldMails
from orderflow_ingest.storage.database.messages import Messages
from orderflow_ingest.storage.envelope_header import encode_envelope
from orderflow_ingest.storage.spool import Spool
from orderflow_ingest.storage.spool_entry import _commit, _copy, write_entry
from tests.support.fakes import FaultyArchive, embedded
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import PDF, order

URLS = ("database_url", "queue_url", "archive_url")
RAW = order(1, attachments=2)
DELIVERY = (
    Spool.write, write_entry, _copy, _commit, receive.deliver_spooled, receive._attempt,
    delivery.deliver, delivery._deliver,
    delivery._new_message, delivery.enqueue_extraction, receive._apply_spool_policy,
    Spool.finish, FileArchive.put, FileArchive._put_all,
    FileArchive._write,
    Messages.insert, Messages._insert_all,
)  # fmt: skip
AFTER_COMMIT = (receive.deliver_spooled, receive._attempt, delivery.deliver, receive._apply_spool_policy)
FROM_MEMORY = (
    receive.deliver_from_memory,
    receive._attempt,
    delivery.deliver,
    FileArchive._put_all,
    Messages._insert_all,
)
HELD = (delivery.deliver, delivery._hold, HeldMails.insert)
STRAY = (delivery.deliver, delivery._hold, HeldMails.insert)
OWN = (delivery.deliver, delivery._record)
LATE = (delivery._resolve_identity_race, delivery._delete_orphan_object, FileArchive.delete)
EXTRACTION = (
    extract.extract, retry.run_attempt, retry._run, retry._claim,
    extract._store, extract._archived, FileArchive.put, FileArchive._put_all,
    Documents.record,
    Messages.claim, Messages._update, extract._enqueue_documents, hand_over.hand_over, Documents._end,
)  # fmt: skip


def reached(functions: tuple[Callable, ...], *runs: Callable[[Settings], object]) -> list:
    """Return each line of the functions that the last of the runs reaches as a case."""
    codes = [getattr(function, "__wrapped__", function).__code__ for function in functions]
    found = set()

    def local(frame, event, _):
        if event == "line":
            found.add((codes.index(frame.f_code), frame.f_lineno))
        return local

    with scratch() as directory:
        settings = embedded_template(directory)
        for run in runs[:-1]:
            run(settings)
        sys.settrace(lambda frame, _event, _: local if frame.f_code in codes else None)
        try:
            runs[-1](settings)
        finally:
            sys.settrace(None)
    return [
        pytest.param(codes[i], line, id=f"{codes[i].co_qualname}:{line - codes[i].co_firstlineno}")
        for i, line in sorted(found)
    ]


def kill_at(code: CodeType, line: int, run: Callable[[], object]) -> None:
    """Run in a process that is killed on reaching the line."""
    pid = os.fork()
    if pid == 0:
        try:

            def local(frame, event, _):
                if event == "line" and frame.f_lineno == line:
                    os.kill(os.getpid(), signal.SIGKILL)
                return local

            sys.settrace(lambda frame, _event, _: local if frame.f_code is code else None)
            run()
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status), "the line was not reached"


def embedded_template(directory: Path) -> Settings:
    """Set up a state directory with tables, organizations and a real queue."""
    app = embedded(directory)
    app.records.database.close()
    open_app(app.settings, create=True).queue.create_tables()
    return app.settings


@pytest.fixture(scope="module")
def template():
    with scratch() as directory:
        yield embedded_template(directory)


@pytest.fixture
def settings(template, place) -> Settings:
    """Copy the template for one case."""
    shutil.copytree(template.state_dir, place, dirs_exist_ok=True)
    urls = {name: getattr(template, name).replace(str(template.state_dir), str(place)) for name in URLS}
    return replace(template, state_dir=place, **urls)


def put_through(app: App, *blocks: bytes) -> None:
    """Spool a message that comes in these blocks, and settle it."""
    coming = iter((*blocks, b""))
    envelope = Envelope(recipient="orders+acme@orderflow.example.com", received_at=datetime.now(UTC))
    entry = app.spool.write(encode_envelope(envelope), lambda _: next(coming), 1 << 20)
    assert receive.deliver_spooled(entry, app).outcome.is_accepted


def deliver(settings: Settings) -> None:
    put_through(open_app(settings), RAW[:100], RAW[100:])


def deliver_other_content(settings: Settings) -> None:
    """Deliver the same Message-ID with other content: it is held."""
    put_through(open_app(settings), RAW + b"and more\n")


def deliver_stray(settings: Settings) -> None:
    """Deliver a mail whose sender the organization does not name: it is held."""
    open_app(settings).records.organizations.change_settings("acme", {"allowed_senders": "@other.example"})
    deliver(settings)


def deliver_own(settings: Settings) -> None:
    """Deliver the same Message-ID with other content where that is accepted: it is a message of its own."""
    open_app(settings).records.organizations.change_settings("acme", {"reused_message_id": "accept"})
    deliver_other_content(settings)


def deliver_late(settings: Settings) -> None:
    """Deliver a redelivery that finds nobody there yet, and loses the race for its identity."""
    app = open_app(settings)
    real = app.archive.put

    def put(*arguments) -> None:
        app.archive.put = real
        deliver(settings)
        real(*arguments)

    app.archive.put = put
    put_through(app, b"Received: late\n" + RAW)


def work(settings: Settings, until: Callable[[App], bool]) -> App:
    """Be a worker: sweep, and run what lies in the real queue."""
    app = open_app(
        settings,
        lambda org_id, id, is_live: extract.extract(org_id, id, app, is_live=is_live),
        lambda org_id, id, _: hand_over.hand_over(org_id, id, app),
    )

    def is_finished() -> bool:
        if until(app):
            return True
        retry.sweep(app)
        while (task := app.queue.huey.dequeue()) is not None:
            app.queue.huey.execute(task)
        return False

    assert wait_until(is_finished, 60, interval=0.01), "it was never finished"
    return app


def work_and_repeat(settings: Settings) -> None:
    """Be a worker, and take each task once more, as a sweep does that comes at the right moment."""
    app = work(settings, finished)
    for row in app.records.messages.select(Filter(), 10):
        extract.extract(row.org_id, row.id, app)
        for document in app.records.documents.of_message(row.org_id, row.id):
            hand_over.hand_over(row.org_id, document.id, app)


def finished(app: App) -> bool:
    rows = app.records.messages.select(Filter(), 10)
    documents = [d for row in rows for d in app.records.documents.of_message(row.org_id, row.id)]
    return all(r.status is Status.PARSED for r in rows) and all(d.handover is HandOver.DONE for d in documents)


@pytest.mark.parametrize(("code", "line"), reached(DELIVERY, deliver))
def test_a_delivery_killed_at_any_line_and_run_again_is_one_message(settings, code, line):
    kill_at(code, line, lambda: deliver(settings))
    deliver(settings)
    app = open_app(settings)
    assert all(ended.outcome.is_accepted for _, ended in receive.drain(app))
    (row,) = app.records.messages.select(Filter(), 10)
    assert FaultyArchive(settings.state_dir / "archive").objects() == [row.raw_key]
    assert app.archive.read(row.raw_key, row.digest) == RAW
    assert app.spool.entries() == []
    app.spool.clean(older_than=-1)
    app.archive.clean(older_than=-1)
    assert os.listdir(settings.spool_dir / "tmp") == os.listdir(settings.state_dir / "archive" / "tmp") == []
    work(settings, finished)


@pytest.mark.parametrize(("code", "line"), reached(HELD, deliver, deliver_other_content))
def test_held_mail_killed_at_any_line_and_run_again_is_held_once(settings, code, line):
    deliver(settings)
    kill_at(code, line, lambda: deliver_other_content(settings))
    deliver_other_content(settings)
    app = open_app(settings)
    list(receive.drain(app))
    assert len(app.records.messages.select(Filter(), 10)) == len(app.records.held_mail.open()) == 1
    assert len(FaultyArchive(settings.state_dir / "archive").objects()) == 2
    assert app.spool.entries() == []


@pytest.mark.parametrize(("code", "line"), reached(STRAY, deliver_stray))
def test_a_mail_of_a_stranger_killed_at_any_line_and_run_again_is_held_once(settings, code, line):
    kill_at(code, line, lambda: deliver_stray(settings))
    deliver_stray(settings)
    app = open_app(settings)
    list(receive.drain(app))
    (held,) = app.records.held_mail.open()
    assert FaultyArchive(settings.state_dir / "archive").objects() == [held.raw_key]
    assert app.archive.read(held.raw_key, held.digest) == RAW
    assert app.records.messages.select(Filter(), 10) == [] and app.spool.entries() == []


@pytest.mark.parametrize(("code", "line"), reached(OWN, deliver, deliver_own))
def test_held_mail_that_is_accepted_killed_at_any_line_and_run_again_is_one_more_message(settings, code, line):
    deliver(settings)
    kill_at(code, line, lambda: deliver_own(settings))
    deliver_own(settings)
    app = open_app(settings)
    list(receive.drain(app))
    assert len(app.records.messages.select(Filter(), 10)) == 2 and app.records.held_mail.open() == []
    assert len(FaultyArchive(settings.state_dir / "archive").objects()) == 2
    assert app.spool.entries() == []


@pytest.mark.parametrize(("code", "line"), reached(LATE, deliver_late))
def test_a_lost_race_killed_at_any_line_and_run_again_leaves_no_orphan(settings, code, line):
    kill_at(code, line, lambda: deliver_late(settings))
    app = open_app(settings)
    assert all(ended.outcome.is_accepted for _, ended in receive.drain(app))
    (row,) = app.records.messages.select(Filter(), 10)
    assert FaultyArchive(settings.state_dir / "archive").objects() == [row.raw_key]
    assert app.spool.entries() == []


def deliver_unspooled(settings: Settings) -> None:
    envelope = Envelope(recipient="orders+acme@orderflow.example.com", received_at=datetime.now(UTC))
    receive.deliver_from_memory(envelope, RAW, open_app(settings))


@pytest.mark.parametrize(("code", "line"), reached(FROM_MEMORY, deliver_unspooled))
def test_a_delivery_from_memory_killed_at_any_line_and_sent_again_is_one_message(settings, code, line):
    kill_at(code, line, lambda: deliver_unspooled(settings))
    deliver_unspooled(settings)
    app = open_app(settings)
    (row,) = app.records.messages.select(Filter(), 10)
    assert FaultyArchive(settings.state_dir / "archive").objects() == [row.raw_key]
    assert app.spool.entries() == []


@pytest.mark.parametrize(("code", "line"), reached(AFTER_COMMIT, deliver))
def test_a_delivery_killed_after_the_commit_instant_is_finished_by_the_drain_alone(settings, code, line):
    kill_at(code, line, lambda: deliver(settings))
    app = open_app(settings)
    assert all(ended.outcome.is_accepted for _, ended in receive.drain(app))
    assert len(app.records.messages.select(Filter(), 10)) == 1
    assert app.spool.entries() == []


@pytest.mark.parametrize(("code", "line"), reached(EXTRACTION, deliver, work_and_repeat))
def test_an_extraction_killed_at_any_line_is_found_and_finished(settings, code, line):
    deliver(settings)
    kill_at(code, line, lambda: work_and_repeat(settings))
    app = work(settings, finished)
    (row,) = app.records.messages.select(Filter(), 10)
    documents = app.records.documents.of_message(row.org_id, row.id)
    assert [d.filename for d in documents] == ["order-1-0.pdf", "order-1-1.pdf"]
    contents = [app.archive.read(d.object_key, d.digest) for d in documents]
    assert contents == [PDF + b"%% order 1 part %d\n" % n for n in range(2)]
    assert len(FaultyArchive(settings.state_dir / "archive").objects()) == 3
