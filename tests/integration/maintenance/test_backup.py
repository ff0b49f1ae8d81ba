"""orderflow-admin backup: a whole copy under load, which with the archive brings every mail back."""

import os
import shutil
import signal
import sqlite3
from threading import Event, Thread
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from orderflow_ingest.app import open_app
from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import Status
from orderflow_ingest.entrypoints.admin.checks.database import check_database, check_schema
from orderflow_ingest.entrypoints.admin.main import cli
from orderflow_ingest.maintenance import backup as module
from orderflow_ingest.maintenance.backup import BackupError, back_up
from orderflow_ingest.pipeline import extract
from orderflow_ingest.pipeline.archive_manifest import write_organizations
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.queue import Queue
from tests.support.fakes import embedded
from tests.support.mails import order
from tests.support.rebuilding import build, deliver


@pytest.fixture
def app(place):
    (place / "state").mkdir()
    app = embedded(place / "state")
    write_organizations(app.records, app.archive)
    queue = Queue(app.settings.queue_url, create=True)
    queue.create_tables()
    queue.huey.storage.close()
    return app


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def count(file, table):
    with sqlite3.connect(file) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_a_backup_under_load_and_the_archive_bring_back_every_mail(app, place):
    """What was delivered before it began is in the copy; what came after comes out of the archive."""
    numbers, sent, stop, went_on = iter(range(1, 10_000)), [], Event(), Event()

    def send():
        while not stop.is_set():
            number = next(numbers)
            assert deliver(app, order(number)) is Outcome.DELIVERED
            sent.append(number)
            went_on.set()

    client = Thread(target=send)
    client.start()
    try:
        while len(sent) < 16:
            assert went_on.wait(60)
        before = len(sent)
        copies = back_up(app.settings, place / "copy")
        went_on.clear()
        assert went_on.wait(60), "mail goes on"
    finally:
        stop.set()
        client.join()
    assert [path.name for path, _ in copies] == ["orderflow.db", "queue.db"] and names(place) == ["copy", "state"]
    assert before <= count(place / "copy" / "orderflow.db", "inbound_message") < len(sent)

    restored = SimpleNamespace(state=place / "restored")
    shutil.copytree(place / "copy", restored.state)
    shutil.copytree(place / "state" / "archive", restored.state / "archive")
    again = open_app(load("/dev/null", {"ORDERFLOW_STATE_DIR": str(restored.state)}), create=True, guarded=False)
    assert [level for check in (check_database, check_schema) for level, _ in check(again)] == ["OK", "OK"]
    build(again)
    assert again.records.messages.count(Filter(org_id=1)) == len(sent)
    for row in again.records.messages.select(Filter(org_id=1, statuses=(Status.RECEIVED,)), 10_000):
        extract.extract(1, row.id, again)
    assert again.records.messages.count_by_status(app.records.database.now(), 1)[Status.RECEIVED] == 0
    assert deliver(again, order(1)) is Outcome.DUPLICATE and deliver(again, order(20_000)) is Outcome.DELIVERED


def test_a_copy_of_the_file_alone_is_none(app, place):
    """Which is why the command is there."""
    for number in range(16):
        assert deliver(app, order(number)) is Outcome.DELIVERED
    shutil.copy(place / "state" / "orderflow.db", place / "copied.db")
    back_up(app.settings, place / "copy")
    assert count(place / "copy" / "orderflow.db", "inbound_message") == 16
    with pytest.raises((sqlite3.Error, AssertionError)):
        assert count(place / "copied.db", "inbound_message") == 16


def test_what_fails_leaves_nothing_and_overwrites_nothing(app, place, monkeypatch):
    (place / "there").mkdir()
    (place / "dangling").symlink_to("nowhere")
    for taken in ("there", "dangling"):
        with pytest.raises(BackupError, match="is there already"):
            back_up(app.settings, place / taken)
    with pytest.raises(BackupError, match=r"cannot be written: ENOENT \(No such file or directory\)"):
        back_up(app.settings, place / "missing" / "copy")
    full = SimpleNamespace(**{**vars(sqlite3), "connect": no_space})
    monkeypatch.setattr(module, "sqlite3", full)
    with pytest.raises(BackupError, match=f"^{place}: SQLITE_FULL: the disk is full"):  # and not that of the database
        back_up(app.settings, place / "copy")
    assert names(place) == ["dangling", "state", "there"]


def no_space(*_, **__):
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    raise error


def test_a_backup_that_is_ended_leaves_nothing(app, place, monkeypatch):
    file = place / "ingest.env"
    file.write_text(f"ORDERFLOW_STATE_DIR={place}/state\n")
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(module, "sync_file", lambda path: os.kill(os.getpid(), signal.SIGTERM))
    ended = CliRunner().invoke(cli, ["backup", str(place / "copy"), "--settings", str(file)])
    assert ended.exit_code == 128 + signal.SIGTERM and names(place) == ["ingest.env", "state"]
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_damaged_database_is_told_and_not_copied(app, place):
    for number in range(50):
        deliver(app, order(number))
    app.records.database.close()
    file = place / "state" / "orderflow.db"
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = bytearray(file.read_bytes())
    data[8 * 4096 : -4096] = b"\xff" * len(data[8 * 4096 : -4096])
    file.write_bytes(data)
    with pytest.raises(BackupError, match="damaged"):
        back_up(app.settings, place / "copy")
    assert names(place) == ["state"]


def test_the_program_tells_the_copies_and_of_postgresql_what_to_use(app, place):
    file = place / "ingest.env"
    file.write_text(f"ORDERFLOW_STATE_DIR={place}/state\n")
    told = CliRunner().invoke(cli, ["backup", str(place / "copy"), "--json", "--settings", str(file)])
    assert told.exit_code == 0 and f'"{place}/copy/orderflow.db"' in told.output, told.output
    for path in (place / "copy", *(place / "copy").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, "it holds the mail of all tenants"
    again = CliRunner().invoke(cli, ["backup", str(place / "copy"), "--settings", str(file)])
    assert again.exit_code == 1 and "is there already" in again.output
    file.write_text("DATABASE_URL=postgresql://u:p@h/d\n")
    with pytest.raises(SettingsError, match=r"pg_dump -Fc as the owner of the tables, or pg_basebackup"):
        CliRunner().invoke(cli, ["backup", str(place / "more"), "--settings", str(file)], catch_exceptions=False)
