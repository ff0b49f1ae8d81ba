"""The rows come back from the archive alone, as they were, column by column."""

import hashlib
import json
import signal
import sqlite3
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa

from orderflow_ingest.app import App
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.domain.object_keys import UPLOAD, held_id, message_id, raw_key, read_raw_key
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.domain.states import EventKind, HandOver, HoldReason, Status
from orderflow_ingest.maintenance.rebuild.organizations import find_organizations
from orderflow_ingest.maintenance.rebuild.parse_object import ObjectNote, RebuildOptions
from orderflow_ingest.maintenance.rebuild.process_pool import ProcessPool
from orderflow_ingest.maintenance.rebuild.rebuilder import orphan_documents
from orderflow_ingest.pipeline import deliver as delivery
from orderflow_ingest.pipeline import extract, hand_over, replay
from orderflow_ingest.pipeline.archive_manifest import (
    claim_organization,
    read_decision,
    read_organization,
    write_organizations,
)
from orderflow_ingest.pipeline.deliver import Origin
from orderflow_ingest.storage.archive import ArchiveUnavailable, open_archive
from orderflow_ingest.storage.database import (
    Filter,
    OrganizationMismatchError,
    OrganizationRecord,
    Presence,
    Records,
    schema,
)
from orderflow_ingest.storage.database.tables import metadata
from orderflow_ingest.storage.spool import Spool
from tests.support.fakes import FaultyArchive, ListQueue, embedded
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import wait_until
from tests.support.mails import mail, order
from tests.support.rebuilding import AT, build, deliver, told
from tests.support.servers import BUCKET

# Our own times, and what a worker writes while it is at a row.
OURS = {"created_at", "updated_at", "next_attempt_at", "attempts", "worker"}
TABLES = [t for t in metadata.sorted_tables if t.name not in ("message_event", "operator_run")]
MANY = 150
UNKNOWN = "<unknown>"
HOSTILE = (
    b"From: \x1b[31m\xff<evil@x.example>\nSubject: =?utf-8?B?AAEC?= \x00\x07\nMessage-ID: <a b\x00c@x>\n"
    b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Disposition: attachment;\n"
    b" filename*=utf-8''..%2f%00e.pdf\n\n%PDF-1.4 x\n--b\nContent-Type: text/x-vcard\n\nBEGIN:VCARD\n--b--\n"
)


@pytest.fixture(params=["embedded", "servers"])
def app(request, place, monkeypatch) -> App:
    """Return a deployment on SQLite and files, and one on PostgreSQL and Ceph."""
    if request.param == "embedded":
        return embedded(place)
    postgres, ceph = request.getfixturevalue("postgres"), request.getfixturevalue("ceph")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", ceph.region)
    urls = {
        "DATABASE_URL": postgres.create_database(f"rebuild_{place.name}"),
        "ARCHIVE_URL": f"s3://{BUCKET}/rebuild/{place.name}",
        "S3_ENDPOINT_URL": ceph.endpoint,
    }
    settings = load(environ={"ORDERFLOW_STATE_DIR": str(place), "ORDERFLOW_SETTINGS": "/dev/null", **urls})
    records = Records(settings.database_url)
    schema.upgrade(records.database)
    for slug in ("acme", "beta"):
        records.organizations.add(slug, slug.title())
    archive = open_archive(settings.archive_url, settings.s3_endpoint_url)
    spool = Spool(settings.spool_dir)
    spool.prepare()
    return App(settings, spool, archive, records, ListQueue())


@pytest.fixture
def alone(place) -> App:
    """Return a deployment on SQLite and files."""
    return embedded(place)


def lose_a_race(app: App, raw: bytes, winner: bytes) -> Outcome:
    """Deliver a mail that finds nobody there yet, and whose identity another one takes while it is archived."""
    put = app.archive.put

    def late(*arguments) -> None:
        app.archive.put = put
        deliver(app, winner)
        put(*arguments)

    app.archive.put = late
    return deliver(app, raw)


def work(app: App) -> None:
    """Do what the workers would: extract, and hand over."""
    queue = app.queue
    while queue.extractions or queue.hand_overs:
        for todo, body in ((queue.extractions, extract.extract), (queue.hand_overs, hand_over.hand_over)):
            while todo:
                body(*todo.pop(), app)


def held_of(app: App, subject: str):
    (found,) = [one for one in app.records.held_mail.open() if one.subject == subject]
    return found


def fill(app: App) -> None:
    """Make a deployment's life: every kind of message, of held mail and of organization."""
    for slug, name in (("gone", "Gone & Söhne 注文"), ("empty", "")):
        app.records.organizations.add(slug, name)
    deliver(app, mail(1, Subject="of one that leaves"), "gone")
    app.records.organizations.set_active("gone", is_active=False)
    with app.records.database.write(2) as connection:
        settings = {"retention": {"days": 30}, "senders": ["@shop.example"]}
        organization = metadata.tables["organization"]
        connection.execute(organization.update().where(organization.c.slug == "beta").values(settings=settings))
    write_organizations(app.records, app.archive)
    for number in range(1, 6):
        deliver(app, order(number), received_at=AT + timedelta(days=number))
    assert deliver(app, b"Received: again\n" + order(1)) is Outcome.DUPLICATE
    deliver(app, order(1), "beta")
    deliver(app, HOSTILE, sender="ü" * 900 + "@x.example", client_address="2001:db8::1")
    deliver(app, mail(7, Message_ID="", Auto_Submitted="auto-replied"), sender="", queue_id="")
    deliver(app, mail(8, b"", Date=""), "beta", original_recipient="x" * 3000)
    assert deliver(app, order(2), way=Origin(UPLOAD)) is Outcome.DELIVERED, "by both ways, as two messages"
    assert deliver(app, order(2) + b"other\n", way=Origin(UPLOAD)) is Outcome.HELD
    for subject in ("open", "accepted", "discarded"):
        assert deliver(app, order(3) + subject.encode(), queue_id=subject) is Outcome.HELD
    held = {one.queue_id: one for one in app.records.held_mail.open(1)}
    assert replay.accept_held(held["accepted"], app, "jo@desk", "rang them")
    assert replay.discard_held(held["discarded"], app, "jo@desk")
    assert lose_a_race(app, mail(20, b"the loser\n"), mail(20, b"the winner\n")) is Outcome.HELD
    work(app)


def hold_for_its_sender(app: App, raw: bytes) -> None:
    """Hold a mail that clashes with nothing, as an organization's setting may demand."""
    envelope, mail = Envelope(f"orders+acme@{DOMAIN}", AT, sender="x@y.example"), read_mail(raw)
    org = app.records.organizations.find("acme")
    new = delivery._new_message(envelope, mail.message, org, [], delivery.BY_SMTP)
    delivery._hold(
        None, new, HoldReason.SENDER_NOT_ALLOWED, delivery._InboundMail(envelope, mail, org, delivery.BY_SMTP), app
    )


def rows(app: App) -> dict[str, list[dict]]:
    """Return every row there is, without what is of our own times."""
    found = {}
    with app.records.database.engine.connect() as connection:
        for table in TABLES:
            columns = [column for column in table.c if column.name not in OURS]
            order_by = [table.c.id] if table.name != "skipped_part" else [*table.primary_key]
            found[table.name] = [dict(r._mapping) for r in connection.execute(sa.select(*columns).order_by(*order_by))]
    return found


def wipe(app: App) -> None:
    """Empty the database."""
    with app.records.database.engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        if not app.records.database.is_sqlite:
            connection.exec_driver_sql("ALTER SEQUENCE organization_id_seq RESTART")
    app.records.organizations._found.clear()
    assert not any(rows(app).values())


def test_every_row_comes_back_as_it_was_and_a_second_time_changes_nothing(app):
    fill(app)
    hold_for_its_sender(app, mail(30))
    before = rows(app)
    counts = {name: len(found) for name, found in before.items()}
    assert counts["organization"] == 4 and counts["inbound_message"] == 13 and counts["held_mail"] == 6
    assert counts["document"] > 12 and counts["skipped_part"] > 3
    assert {row["resolution"] for row in before["held_mail"]} == {None, "ACCEPTED", "DISCARDED"}
    wipe(app)
    tally = build(app)
    assert rows(app) == before
    assert tally.presences == {Presence.BACK: 12, Presence.HELD_BACK: 6, Presence.THERE: 0} and not tally.notes
    assert build(app).presences == {Presence.THERE: 18}
    assert rows(app) == before
    assert app.queue.extractions == app.queue.hand_overs == [], "nothing is handed over again"
    assert app.records.messages.due(AT + timedelta(days=999), 9) == []
    assert app.records.documents.due(AT + timedelta(days=999), 9) == []
    # The next organization gets an id of its own, and a redelivery is known.
    app.records.organizations.add("later", "Later")
    assert app.records.organizations.find("later").id == 5
    assert deliver(app, order(1)) is deliver(app, order(3) + b"open") is Outcome.DUPLICATE


def test_a_message_tells_that_it_was_rebuilt_and_by_whom(alone):
    deliver(alone, order(1))
    work(alone)
    write_organizations(alone.records, alone.archive)
    wipe(alone)
    build(alone)
    (row,) = alone.records.messages.select(Filter(), 9)
    (told,) = alone.records.events.of(row.org_id, row.id)
    assert (told.kind, told.actor, told.document_id) == (EventKind.REBUILT, "jo@desk", None)


def test_documents_are_handed_over_again_only_if_that_is_wanted(alone):
    deliver(alone, order(1))
    work(alone)
    write_organizations(alone.records, alone.archive)
    before = rows(alone)
    wipe(alone)
    build(alone, hand_over=True)
    found = rows(alone)
    assert {row["handover"] for row in found["document"]} == {HandOver.PENDING.value}
    assert len(alone.records.documents.due(AT + timedelta(days=999), 9)) == len(found["document"]) == 2
    for row in found["document"]:
        row["handover"] = HandOver.DONE.value
    assert found == before


def test_what_an_organization_takes_for_documents_is_known_to_the_rebuild(alone):
    assert alone.records.organizations.change_settings("acme", {"document_types": "text/csv"})
    write_organizations(alone.records, alone.archive)
    deliver(alone, order(1))
    work(alone)
    before = rows(alone)
    assert not before["document"] and before["skipped_part"], "no CSV is in it"
    wipe(alone)
    assert build(alone).presences[Presence.BACK] == 1
    assert rows(alone) == before


def test_a_mail_that_nobody_had_extracted_is_left_to_the_worker_and_lost_to_nobody(alone):
    deliver(alone, order(1))
    deliver(alone, order(2))
    alone.queue.extractions.clear()
    write_organizations(alone.records, alone.archive)
    wipe(alone)
    assert build(alone).notes == {ObjectNote.UNFINISHED: 2}
    (row, other) = alone.records.messages.select(Filter(), 9)
    assert row.status is other.status is Status.RECEIVED
    alone.queue.extractions = alone.records.messages.due(AT + timedelta(days=999), 9)
    work(alone)
    assert {row.status for row in alone.records.messages.select(Filter(), 9)} == {Status.PARSED}
    assert {row["handover"] for row in rows(alone)["document"]} == {"DONE"}


def test_a_reader_needs_the_archive_alone(alone):
    """No connection for each reader, and none that fails while a mail is read."""
    deliver(alone, order(1))
    work(alone)
    write_organizations(alone.records, alone.archive)
    before = rows(alone)
    wipe(alone)
    nowhere = replace(alone.settings, database_url="postgresql+psycopg://nobody@127.0.0.1:9/none")
    assert not build(replace(alone, settings=nowhere), processes=1).notes
    assert rows(alone) == before


def test_a_mail_whose_metadata_is_damaged_comes_back_without_it(alone):
    deliver(alone, order(1))
    work(alone)
    write_organizations(alone.records, alone.archive)
    (message,) = alone.records.messages.select(Filter(), 9)
    meta = Path(alone.settings.state_dir, "archive", message.raw_key + ".meta")
    meta.write_bytes(meta.read_bytes()[:9])
    wipe(alone)
    assert build(alone, since=AT - timedelta(days=1)).presences[Presence.BACK] == 1
    (back,) = alone.records.messages.select(Filter(), 9)
    assert (back.id, back.source_message_id, back.envelope_sender) == (message.id, message.source_message_id, UNKNOWN)
    assert back.status is Status.PARSED


def test_a_decision_that_cannot_be_archived_is_none(alone, monkeypatch):
    deliver(alone, order(1))
    deliver(alone, order(1) + b"other")
    (held,) = alone.records.held_mail.open()

    def refuse(*_):
        raise ArchiveUnavailable("away")

    monkeypatch.setattr(alone.archive, "put", refuse)
    for decide in (replay.accept_held, replay.discard_held):
        with pytest.raises(ArchiveUnavailable):
            decide(held, alone, "jo@desk")
    assert alone.records.held_mail.open() == [held] and len(alone.records.messages.select(Filter(), 9)) == 1


def test_a_document_that_was_erased_comes_back_as_such_where_the_operator_says_so(alone):
    deliver(alone, order(1))
    work(alone)
    write_organizations(alone.records, alone.archive)
    before = rows(alone)
    alone.archive.delete(before["document"][0]["object_key"])
    wipe(alone)
    at = AT + timedelta(days=50)
    assert build(alone, at=at, erased_before=AT + timedelta(seconds=1)).notes == {ObjectNote.ERASED: 1}
    found = rows(alone)
    assert found["document"][0].pop("erased_at") and not before["document"][0].pop("erased_at")
    assert found == before


def test_a_document_whose_mail_is_gone_is_told(app):
    deliver(app, order(1))
    deliver(app, order(2))
    work(app)
    write_organizations(app.records, app.archive)
    gone = next(row for row in app.records.messages.select(Filter(), 9) if row.subject == "Order 2")
    keys = {d.object_key for d in app.records.documents.of_message(1, gone.id)}
    app.archive.delete(gone.raw_key)
    app.archive.put("org/1/documents/zzz", b"", hashlib.sha256(b"").hexdigest())
    wipe(app)
    build(app)
    (org, _) = app.records.rebuild_writes.organization_records()
    assert {one.key for one in orphan_documents(org, app)} == keys | {"org/1/documents/zzz"}


def test_what_is_no_mail_of_ours_is_told_and_ends_nothing(alone):
    deliver(alone, order(1))
    deliver(alone, order(2))
    work(alone)
    write_organizations(alone.records, alone.archive)
    before = rows(alone)
    wipe(alone)
    put = alone.archive.put
    none = b"no header field\n\n"
    put("org/1/raw/notes.txt", b"x", hashlib.sha256(b"x").hexdigest())
    put(raw_key(1, "a" * 64), b"not what it says", hashlib.sha256(b"not what it says").hexdigest())
    put(raw_key(1, hashlib.sha256(none).hexdigest()), none, hashlib.sha256(none).hexdigest())
    put(f"org/1/raw/{'b' * 64}.decision.json", b"{}", hashlib.sha256(b"{}").hexdigest())
    put("org/x/raw/1.eml", b"", hashlib.sha256(b"").hexdigest())
    tally = build(alone)
    assert tally.notes == {ObjectNote.FOREIGN: 2, ObjectNote.DAMAGED: 1, ObjectNote.NO_MAIL: 1}
    assert {key for key, note in tally.troubles if note is ObjectNote.DAMAGED} == {raw_key(1, "a" * 64)}
    assert rows(alone) == before
    assert [found.org_id for found in find_organizations(alone.archive)] == [1, 2, None]


def test_mail_of_an_earlier_version_comes_back_with_an_id_of_its_digest(alone):
    """No id in the metadata, and no object of the organization; held mail stood under the key of a message."""
    told = {"org": "acme", "source": "EMAIL", "sender": "a@b.example", "recipient": f"orders+acme@{DOMAIN}"}
    told |= {"original-recipient": "", "queue-id": "4X", "client-address": "192.0.2.9", "received-at": AT.isoformat()}
    mails = [order(1), mail(2, b"one\n"), mail(2, b"other\n")]
    for raw in mails:
        digest = hashlib.sha256(raw).hexdigest()
        alone.archive.put(raw_key(1, digest), raw, digest, told)
    wipe(alone)
    (found,) = find_organizations(alone.archive)
    assert found.org == OrganizationRecord(1, "acme", "acme", True) and "lost" in found.why
    tally = build(alone, erased_before=AT + timedelta(days=1))
    assert (
        tally.presences == {Presence.BACK: 2, Presence.CLASH: 1, Presence.THERE: 0}
        and tally.notes[ObjectNote.NEW_ID] == 3
    )
    found = rows(alone)
    assert {row["id"] for row in found["inbound_message"]} <= {
        message_id(row["raw_key"]) for row in found["inbound_message"]
    }
    assert {row["subject"] for row in found["inbound_message"]} == {"Order 1", "Order 2"}
    (held,) = found["held_mail"]
    assert (held["subject"], held["resolution"], held["client_address"]) == ("Order 2", None, "192.0.2.9")
    before = found
    assert build(alone).presences == {Presence.THERE: 3}
    assert rows(alone) == before


def test_a_mail_without_any_metadata_comes_back_too(alone):
    raw = order(1)
    digest = hashlib.sha256(raw).hexdigest()
    alone.archive.put(raw_key(1, digest), raw, digest)
    write_organizations(alone.records, alone.archive)
    wipe(alone)
    assert build(alone).notes == {
        ObjectNote.NEW_ID: 1,
        ObjectNote.NO_ENVELOPE: 1,
        ObjectNote.NO_SENDER: 1,
        ObjectNote.UNFINISHED: 1,
    }
    (row,) = alone.records.messages.select(Filter(), 9)
    assert (row.subject, row.envelope_recipient) == ("Order 1", f"orders+acme@{DOMAIN}")
    assert (row.envelope_sender, row.traits) == (UNKNOWN, []), "nothing says that it is a bounce"


def test_a_part_of_the_mail_comes_back_by_time_and_by_organization(alone):
    for number in range(1, 6):
        deliver(alone, mail(number), received_at=AT + timedelta(days=number))
    deliver(alone, mail(1), "beta", received_at=AT + timedelta(days=2))
    work(alone)
    write_organizations(alone.records, alone.archive)
    wipe(alone)
    tally = build(alone, since=AT + timedelta(days=2), until=AT + timedelta(days=4))
    assert tally.presences[Presence.BACK] == 3 and tally.notes == {ObjectNote.OTHER_TIME: 3}
    subjects = {(row.org_id, row.subject) for row in alone.records.messages.select(Filter(), 9)}
    assert subjects == {(1, "Order 2"), (1, "Order 3"), (2, "Order 1")}


def test_a_dry_run_tells_what_would_come_back_and_writes_nothing(alone):
    deliver(alone, order(1))
    deliver(alone, order(1) + b"held")
    work(alone)
    write_organizations(alone.records, alone.archive)
    assert build(alone, dry_run=True).presences == {Presence.THERE: 2}
    wipe(alone)
    assert build(alone, dry_run=True).presences == {Presence.BACK: 1, Presence.HELD_BACK: 1, Presence.THERE: 0}
    assert not any(rows(alone).values())


def test_two_organizations_never_get_mixed_up(alone):
    deliver(alone, order(1))
    write_organizations(alone.records, alone.archive)
    wipe(alone)
    alone.records.organizations.add("beta", "Beta")  # gets the id that the archive knows as acme's
    with pytest.raises(OrganizationMismatchError):
        claim_organization(alone.records.rebuild_writes.organization_record("beta"), alone.archive)
    with pytest.raises(OrganizationMismatchError):
        build(alone)
    assert rows(alone)["inbound_message"] == []


def test_a_held_mail_has_a_key_of_its_own_and_one_that_lost_a_race_leaves_none_as_a_message(alone):
    assert lose_a_race(alone, mail(1, b"loser\n"), mail(1, b"winner\n")) is Outcome.HELD
    (held_row,) = alone.records.held_mail.open()
    (message,) = alone.records.messages.select(Filter(), 9)
    mails = [key for key in alone.archive.objects() if read_raw_key(key)]
    assert mails == sorted([message.raw_key, held_row.raw_key])
    assert read_raw_key(held_row.raw_key).is_held and held_row.id == held_id(held_row.raw_key)
    assert alone.archive.describe(held_row.raw_key).metadata["held"] == "IDENTITY"


def test_a_race_of_the_same_mail_ends_with_the_row_that_the_archive_tells(alone):
    assert lose_a_race(alone, order(1), order(1)) is Outcome.DUPLICATE
    (message,) = alone.records.messages.select(Filter(), 9)
    assert alone.archive.describe(message.raw_key).metadata["id"] == str(message.id) == str(message_id(message.raw_key))


def test_the_first_decision_stands_in_the_archive_whoever_decides_later(alone):
    deliver(alone, order(1))
    deliver(alone, order(1) + b"other")
    (held,) = alone.records.held_mail.open()
    assert replay.discard_held(held, alone, "jo@desk", "spam")
    assert read_decision(held.raw_key, alone.archive).why == "spam"
    assert not replay.accept_held(held, alone, "al@desk")
    assert read_decision(held.raw_key, alone.archive).resolution == "DISCARDED"


def test_extracting_again_gives_documents_the_same_ids(alone):
    deliver(alone, order(1))
    work(alone)
    before = rows(alone)["document"]
    (message,) = alone.records.messages.select(Filter(), 9)
    with alone.records.database.write(1) as connection:
        connection.execute(metadata.tables["document"].delete())
    assert replay.replay_message(message, alone, "jo@desk")
    work(alone)
    assert rows(alone)["document"] == before


def test_a_mail_whose_reading_takes_all_memory_is_failed_and_the_others_come_back(place):
    alone = embedded(place, ORDERFLOW_TASK_MEMORY=str(400 << 20))
    big = mail(2, b"x" * (120 << 20))
    deliver(alone, order(1))
    deliver(alone, big)
    alone.queue.extractions.pop()
    work(alone)
    write_organizations(alone.records, alone.archive)
    wipe(alone)
    tally = build(alone, erased_before=AT + timedelta(days=1), processes=1)
    by_subject = {row.subject: row for row in alone.records.messages.select(Filter(), 9)}
    assert by_subject["Order 1"].status is Status.PARSED
    assert tally.notes == {ObjectNote.UNREADABLE: 1} and by_subject["Order 2"].status is Status.FAILED
    assert by_subject["Order 2"].error_json["error"] in ("MemoryError", "ReaderEnded")


def test_readers_that_are_killed_cost_no_mail(alone):
    for number in range(30):
        deliver(alone, mail(number))
    work(alone)
    write_organizations(alone.records, alone.archive)
    listed = [(one.key, one.put_at) for one in alone.archive.iterate("org/1/raw/")]
    acme = read_organization(1, alone.archive)
    with ProcessPool(alone, RebuildOptions(AT, "jo@desk"), 2) as readers:

        def chunks():
            for n in range(0, 30, 5):
                yield acme, listed[n : n + 5]
                if n == 5:
                    readers._workers[1]._process.kill()

        found = [one for chunk in readers.read(chunks()) for one in chunk]
    assert [one.key for one in found] == [key for key, _ in listed]
    assert all(one.mail and not one.notes for one in found)


# The program


@pytest.fixture
def deployment(template, place):
    """A copy of the template with mail in it, whose worker has run."""
    subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
    deployment = Deployment(place)
    deployment.admin("org", "add", "beta", "--name", "Beta Ltd")
    deployment.admin("org", "disable", "beta")
    return deployment


def fill_directly(deployment: Deployment, number: int) -> App:
    """Deliver and extract so many mails in this process, as the deployment's user would have."""
    settings = load(str(deployment.settings_file), environ={})
    records, archive = Records(settings.database_url), FaultyArchive(deployment.state / "archive")
    app = App(settings, Spool(settings.spool_dir), archive, records, ListQueue())
    for n in range(number):
        deliver(app, mail(n))
    work(app)
    subprocess.run(["chown", "-R", f"--reference={deployment.state}", deployment.state], check=True)
    return app


def lose_database(deployment: Deployment, app: App) -> None:
    app.records.database.close()
    for path in deployment.state.glob("orderflow.db*"):
        path.unlink()
    deployment.admin("init")


def test_the_program_rebuilds_tells_and_lets_postfix_know(deployment):
    app = fill_directly(deployment, 3)
    before = rows(app)
    lose_database(deployment, app)
    dry = told(deployment.replay("archive", "--dry-run", "--json"))
    assert dry["organizations that came back"] == 2 and dry[Presence.BACK.value] == 3
    assert told(deployment.replay("archive", "--dry-run", "--json", "--org", "beta"))[Presence.BACK.value] == 0
    assert told(deployment.replay("archive", "--yes", "--json"))[Presence.BACK.value] == 3
    assert rows(app) == before
    with sqlite3.connect(deployment.state / "recipients.db") as published:
        assert published.execute("SELECT slug FROM recipient").fetchall() == [("acme",)]
    ended = deployment.run("orderflow-replay", "archive", check=False)
    assert ended.returncode == 1 and "Rebuild the rows of 2 organizations?" in ended.stderr


def test_a_damaged_mail_is_named_printable_and_the_exit_status_tells(deployment):
    app = fill_directly(deployment, 2)
    digest = "c" * 64
    app.archive.put(raw_key(1, digest), b"altered", hashlib.sha256(b"altered").hexdigest())
    (deployment.state / "archive/org/1/raw/\x1b[31m.eml").write_bytes(b"x")
    subprocess.run(["chown", "-R", f"--reference={deployment.state}", deployment.state], check=True)
    lose_database(deployment, app)
    ended = deployment.run("orderflow-replay", "archive", "--yes", check=False)
    assert ended.returncode == 1 and f"{ObjectNote.DAMAGED.value}: org/1/raw/{digest}.eml" in ended.stderr
    assert "\x1b" not in ended.stderr + ended.stdout
    assert len(rows(app)["inbound_message"]) == 2


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_is_ended_in_the_middle_goes_on_and_ends_exact(deployment, ending):
    app = fill_directly(deployment, MANY)
    before = rows(app)
    lose_database(deployment, app)
    environment = {"PATH": "/usr/bin:/bin", "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
    running = subprocess.Popen(
        [deployment.programs / "orderflow-replay", "archive", "--yes", "--concurrency", "2"],
        env=environment, cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **deployment.credentials(),
    )  # fmt: skip

    def count() -> int:
        with sqlite3.connect(deployment.state / "orderflow.db") as connection:
            return connection.execute("SELECT count(*) FROM inbound_message").fetchone()[0]

    assert wait_until(lambda: count() >= 20, 60, interval=0.02)
    running.send_signal(ending)
    _, said = running.communicate(timeout=60)
    assert running.returncode not in (0, None)
    done = count()
    assert 20 <= done < MANY, "it was ended in the middle"
    run = said.splitlines()[0].removeprefix("run ")
    assert ending is signal.SIGKILL or f"--resume {run}" in said
    result = told(deployment.replay("archive", "--yes", "--json", "--resume", run))
    assert result[Presence.BACK.value] == MANY - done
    assert rows(app) == before
    again = deployment.run("orderflow-replay", "archive", "--yes", "--resume", run, check=False)
    assert again.returncode == 1 and "has come to its end" in again.stderr
    assert told(deployment.replay("archive", "--yes", "--json"))[Presence.THERE.value] == MANY
    assert rows(app) == before


def test_no_organization_is_added_under_an_id_that_the_archive_knows_as_anothers(deployment):
    app = fill_directly(deployment, 1)
    lose_database(deployment, app)
    ended = deployment.run("orderflow-admin", "org", "add", "newcomer", check=False)
    assert ended.returncode == 1 and "orderflow-replay archive" in ended.stderr
    assert deployment.admin("org", "list", "--json") == ""
    deployment.replay("archive", "--yes")
    deployment.admin("org", "add", "newcomer")
    assert [org.slug for org in app.records.rebuild_writes.organization_records()] == ["acme", "beta", "newcomer"]


def test_what_an_organization_is_stands_in_the_archive_after_every_change(deployment):
    archive = FaultyArchive(deployment.state / "archive")

    def known(org_id: int) -> dict:
        return json.loads(archive.fetch(f"org/{org_id}/organization.json").data)

    assert known(2) == {"id": 2, "slug": "beta", "name": "Beta Ltd", "is_active": False, "settings": {}}
    deployment.admin("org", "enable", "beta")
    assert known(2)["is_active"] is True
    archive.delete("org/1/organization.json")
    deployment.admin("init")
    assert known(1)["slug"] == "acme"
