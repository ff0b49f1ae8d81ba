"""Mail of the past comes in out of files, mbox and Maildir: once, whole, and whatever lies beside it."""

import io
import os
from datetime import UTC, datetime
from email import policy
from email.parser import BytesParser
from mailbox import Maildir, mbox
from uuid import uuid4

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.object_keys import raw_key
from orderflow_ingest.domain.states import EventKind
from orderflow_ingest.maintenance.imports.importer import Importer, ImportOutcome, read_received
from orderflow_ingest.maintenance.imports.mbox import read_mbox
from orderflow_ingest.maintenance.imports.sources import read_paths
from orderflow_ingest.parsing.mime.fields import read_mail_header
from orderflow_ingest.pipeline.deliver import deliver
from orderflow_ingest.pipeline.replay import accept_held
from orderflow_ingest.storage.database import Filter
from tests.support.fakes import embedded
from tests.support.lab.process import DOMAIN
from tests.support.mails import mail, order

LIMIT = 1 << 20
FROM = b"From buyer@shop.example Fri Nov 20 10:00:00 2026\n"
NOW = datetime(2026, 11, 28, tzinfo=UTC)


def deployed(place, **settings):
    (place / "state").mkdir()
    return embedded(place / "state", **settings)


@pytest.fixture
def app(place):
    return deployed(place)


@pytest.fixture
def files(place):
    """Return a directory for mail."""
    directory = place / "mail"
    directory.mkdir()
    return directory


def take(app, *paths, again=False) -> list[tuple[str, ImportOutcome, str]]:
    """Import; return the file's name, what became of it, and why."""
    org = app.records.organizations.find("acme")
    importer = Importer(app, org, "jo@desk", uuid4(), again, lambda: None)
    found = []
    for one in read_paths(list(paths), LIMIT):
        verdict = importer.import_mail(one)
        found.append((one.name, verdict.outcome, verdict.reason))
    return found


def became(found) -> list[ImportOutcome]:
    return [one for _, one, _ in found]


def messages(app):
    return sorted(app.records.messages.select(Filter(), 1000), key=lambda row: (row.source, row.subject))


# What is in an mbox file


def mails(text: bytes, limit: int = LIMIT) -> list[bytes | None]:
    return [one.raw for one in read_mbox(io.BytesIO(text), limit)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", []),
        (FROM, [b""]),
        (FROM + b"A: 1\n\nbody\n", [b"A: 1\n\nbody\n"]),
        (FROM + b"A: 1\n\nbody\n\n" + FROM + b"B: 2\n\n\n", [b"A: 1\n\nbody\n", b"B: 2\n\n"]),
        (FROM + b"A: 1\n\nno line end", [b"A: 1\n\nno line end"]),
        (FROM + b"A: 1\n\n>From me\n>>From you\n> From\n", [b"A: 1\n\nFrom me\n>From you\n> From\n"]),
        (FROM + b"A: 1\n\ntext\n" + FROM + b"\nFrom here on\n", [b"A: 1\n\ntext\n" + FROM + b"\nFrom here on\n"]),
        (b"junk\n\n" + FROM + b"A: 1\n\n", [b"A: 1\n"]),
    ],
    ids=["empty", "no mail", "one", "two", "cut", "quoted", "unquoted text", "junk before"],
)
def test_the_mails_of_an_mbox_file_are_what_was_put_into_it(text, found, end):
    whole = [one.replace(b"\n", end) for one in found]
    assert mails(text.replace(b"\n", end)) == whole


def test_what_the_standard_library_writes_is_read_as_it_was(files):
    raws = [order(1), mail(2, b"From the desk\n\nFrom you 10:00 2026\n"), mail(3, b"")]
    box = mbox(files / "box")
    for raw in raws:
        box.add(raw)
    box.close()
    with open(files / "box", "rb") as file:
        assert [one.raw for one in read_mbox(file, LIMIT)] == raws


def test_a_mail_over_the_limit_is_told_and_the_next_one_read():
    small = b"A: 1\n\n" + b"x" * 94 + b"\n"
    text = FROM + b"B: 1\n\n" + b"x" * 200 + b"\n" + b"y\n" * 99 + b"\n" + FROM + small + b"\n"
    assert mails(text, len(small)) == [None, small] and mails(text, len(small) - 1) == [None, None]


def test_a_line_without_an_end_costs_no_memory_and_begins_no_mail():
    line = b"A: 1\n\n" + b"z" * (3 << 16) + FROM
    assert mails(FROM + line + b"\n" + FROM + b"B: 2\n") == [line, b"B: 2\n"]


# What is mail, and what lies beside it


def test_files_directories_mbox_and_maildir_come_in_whole_and_once(app, files):
    (files / "one.eml").write_bytes(order(1))
    (files / "deep" / "er").mkdir(parents=True)
    (files / "deep" / "er" / "two.EML").write_bytes(order(2).replace(b"\n", b"\r\n"))
    (files / "old.mbox").write_bytes(FROM + order(3) + b"\n" + FROM + order(4) + b"\n")
    box = Maildir(files / "inbox")
    box.add(order(5))
    box.add_folder("Archive").add(order(6))
    (files / "inbox" / "tmp" / "half").write_bytes(order(7))
    (files / "notes.txt").write_bytes(order(8))
    found = take(app, files)
    assert became(found).count(ImportOutcome.IMPORTED) == 6
    assert [(name, why) for name, one, why in found if one is ImportOutcome.NOT_MAIL] == [
        (str(files / "notes.txt"), "neither .eml nor .mbox")
    ]
    rows = messages(app)
    assert [row.subject for row in rows] == [f"Order {n}" for n in range(1, 7)]
    for row in rows:
        assert (row.source, row.envelope_recipient) == ("UPLOAD", f"orders+acme@{DOMAIN}")
        assert row.raw_key == raw_key(1, row.digest, "UPLOAD")
        assert app.archive.read(row.raw_key, row.digest)
    assert set(became(take(app, files))) == {ImportOutcome.ALREADY_IMPORTED, ImportOutcome.NOT_MAIL}
    assert messages(app) == rows


def test_a_file_that_is_named_is_taken_whatever_its_name(app, files):
    (files / "mail").write_bytes(order(1))
    (files / "link").symlink_to(files / "mail")
    assert became(take(app, files / "mail", files / "link")) == [
        ImportOutcome.IMPORTED,
        ImportOutcome.ALREADY_IMPORTED,
    ]


def test_nothing_is_followed_out_of_a_directory_and_nothing_opened_that_is_no_file(app, files, place):
    secret = place / "secret"
    secret.mkdir()
    (secret / "a.eml").write_bytes(order(1))
    (files / "link.eml").symlink_to(secret / "a.eml")
    (files / "dir").symlink_to(secret)
    (files / "loop").symlink_to(files)
    os.mkfifo(files / "pipe.eml")
    (files / "box" / "new").mkdir(parents=True)
    (files / "box" / "cur").mkdir()
    (files / "box" / "new" / "1").symlink_to(secret / "a.eml")
    os.mkfifo(files / "box" / "cur" / "2")
    (files / "good.eml").write_bytes(order(2))
    found = take(app, files)
    assert became(found).count(ImportOutcome.FAILED) == 6 and became(found).count(ImportOutcome.IMPORTED) == 1
    assert [row.subject for row in messages(app)] == ["Order 2"]


def test_what_is_no_mail_or_too_big_is_told_with_its_name_and_the_rest_goes_on(app, files):
    (files / "a.eml").write_bytes(b"")
    (files / "b.eml").write_bytes(b"no header field\n")
    (files / "c.eml").write_bytes(mail(1, b"x" * LIMIT))
    (files / "d.mbox").write_bytes(FROM + mail(2) + b"\n" + FROM + b"\n\n" + FROM + mail(3))
    found = {os.path.basename(name): (one, why) for name, one, why in take(app, files)}
    assert {name: one for name, (one, _) in found.items()} == {
        "a.eml": ImportOutcome.FAILED,
        "b.eml": ImportOutcome.FAILED,
        "c.eml": ImportOutcome.FAILED,
        "d.mbox at byte 0": ImportOutcome.IMPORTED,
        f"d.mbox at byte {len(FROM + mail(2)) + 1}": ImportOutcome.FAILED,
        f"d.mbox at byte {2 * len(FROM) + len(mail(2)) + 3}": ImportOutcome.IMPORTED,
    }
    assert "ORDERFLOW_MAX_MESSAGE_SIZE" in found["c.eml"][1] and "header" in found["b.eml"][1]
    assert [row.subject for row in messages(app)] == ["Order 2", "Order 3"]


# Which mail is there already


def test_what_came_by_mail_is_skipped_unless_it_is_wanted_again(app, files):
    deliver(Envelope(f"orders+acme@{DOMAIN}", NOW), b"Received: by mx\n" + order(1), app)
    (files / "1.eml").write_bytes(order(1))
    assert became(take(app, files)) == [ImportOutcome.CAME_BY_MAIL]
    assert became(take(app, files, again=True)) == [ImportOutcome.IMPORTED]
    assert became(take(app, files, again=True)) == [ImportOutcome.ALREADY_IMPORTED]
    assert [row.source for row in messages(app)] == ["EMAIL", "UPLOAD"]


def test_what_came_by_mail_was_held_and_accepted_as_its_own_is_skipped_too(app, files):
    changed = order(1) + b"other\n"
    for raw in (order(1), changed):
        deliver(Envelope(f"orders+acme@{DOMAIN}", NOW), raw, app)
    (files / "1.eml").write_bytes(changed)
    (held,) = app.records.held_mail.open()
    assert became(take(app, files)) == [ImportOutcome.CAME_BY_MAIL], "while it is held"
    assert accept_held(held, app, "jo@desk")
    assert became(take(app, files)) == [ImportOutcome.CAME_BY_MAIL]
    assert [row.source for row in messages(app)] == ["EMAIL", "EMAIL"]


def test_the_same_bytes_by_mail_and_by_import_keep_an_envelope_each(app, files):
    raw = order(1)
    deliver(Envelope(f"orders+acme@{DOMAIN}", NOW, sender="a@b.example", queue_id="4X"), raw, app)
    (files / "1.eml").write_bytes(raw)
    take(app, files, again=True)
    by_mail, by_import = messages(app)
    assert by_mail.digest == by_import.digest and by_mail.raw_key != by_import.raw_key and by_mail.id != by_import.id
    assert app.archive.describe(by_mail.raw_key).metadata["queue-id"] == "4X"
    assert app.archive.describe(by_import.raw_key).metadata["source"] == "UPLOAD"


def test_the_same_message_id_with_other_content_is_held(app, files):
    (files / "1.eml").write_bytes(order(1))
    (files / "2.eml").write_bytes(order(1) + b"other\n")
    assert became(take(app, files)) == [ImportOutcome.IMPORTED, ImportOutcome.HELD]
    assert became(take(app, files)) == [ImportOutcome.ALREADY_IMPORTED, ImportOutcome.ALREADY_IMPORTED]
    (held,) = app.records.held_mail.open()
    assert held.raw_key == raw_key(1, held.digest, "UPLOAD", is_held=True)


def test_an_import_is_told_of_the_message_and_its_task_waits_behind_live_mail(app, files):
    rung = []
    app.queue.enqueue_extraction = lambda org_id, id, is_live=True: rung.append((id, is_live))
    (files / "1.eml").write_bytes(order(1))
    take(app, files)
    (row,) = messages(app)
    assert rung == [(row.id, False)]
    (told,) = app.records.events.of(1, row.id)
    assert (told.kind, told.actor, bool(told.run_id)) == (EventKind.IMPORTED, "jo@desk", True)


def test_an_import_waits_while_half_of_the_room_for_tasks_is_taken(place, files):
    app = deployed(place, ORDERFLOW_MAX_QUEUE="10")
    app.queue.waiting = 5
    (files / "1.eml").write_bytes(order(1))
    waits = []

    def wait() -> None:
        waits.append(len(messages(app)))
        app.queue.waiting = 4

    org = app.records.organizations.find("acme")
    importer = Importer(app, org, "jo", uuid4(), False, wait)
    assert [importer.import_mail(one).outcome for one in read_paths([files], LIMIT)] == [ImportOutcome.IMPORTED]
    assert waits == [0]


# When and from whom


@pytest.mark.parametrize(
    ("header", "moment", "sender"),
    [
        (b"Received: from a by b; Thu, 19 Nov 2026 09:00:00 +0100\nReceived: x; Wed, 18 Nov 2026 00:00:00 +0000\n"
         b"Date: Fri, 20 Nov 2026 10:00:00 +0000\n", datetime(2026, 11, 19, 8, tzinfo=UTC), None),
        (b"Received: from a\n\tby b (x; y);\n Thu, 19 Nov 2026 09:00:00 -0000\n",
         datetime(2026, 11, 19, 9, tzinfo=UTC), None),
        (b"Received: nonsense\nDate: Fri, 20 Nov 2026 10:00:00 GMT\n", datetime(2026, 11, 20, 10, tzinfo=UTC), None),
        (b"Date: Fri, 20 Nov 2126 10:00:00 +0000\n", None, None),
        (b"Date: Thu, 1 Jan 1970 00:00:00 +0000\nReturn-Path: <a@b.example>\n", None, "a@b.example"),
        (b"Return-Path: <>\nDate: \xff\xfe\n", None, ""),
        (b"Subject: x\n", None, None),
    ],
    ids=["received", "folded", "date", "ahead", "before e-mail", "null sender", "nothing"],
)  # fmt: skip
def test_a_mail_tells_when_it_came_and_from_whom(header, moment, sender):
    assert read_received(read_mail_header(header + b"\nbody\n"), NOW) == (moment, sender)


def test_where_a_mail_tells_nothing_its_file_does(app, files):
    (files / "1.eml").write_bytes(mail(1, Date=""))
    os.utime(files / "1.eml", (1_700_000_000, 1_700_000_000))
    (files / "2.mbox").write_bytes(FROM + mail(2, From="Other <other@shop.example>") + b"\n")
    take(app, files)
    one, two = messages(app)
    assert one.received_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (one.envelope_sender, two.envelope_sender) == ("buyer@shop.example", "buyer@shop.example")
    assert two.received_at == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert one.traits == two.traits == []


def test_a_mail_of_the_past_reads_as_any_reader_reads_it(app, files):
    (files / "old.mbox").write_bytes(FROM + order(3).replace(b"\n", b"\r\n") + b"\r\n")
    take(app, files)
    (row,) = messages(app)
    raw = app.archive.read(row.raw_key, row.digest)
    assert BytesParser(policy=policy.default).parsebytes(raw)["subject"] == row.subject == "Order 3"
