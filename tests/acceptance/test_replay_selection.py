"""What a replay selects, the pace of a run, and decisions on held mail and dead letters."""

import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.identity import read_message
from orderflow_ingest.domain.states import EventKind, HoldReason, Status
from orderflow_ingest.entrypoints.cli.options import moment
from orderflow_ingest.entrypoints.cli.selection import build_filter, selection
from orderflow_ingest.entrypoints.replay.rate_limit import RateLimiter
from orderflow_ingest.entrypoints.replay.saved_filter import filter_from_json, filter_to_json
from orderflow_ingest.pipeline import extract, replay
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import Filter, IdentityTakenError, Records
from orderflow_ingest.storage.database.tables import document, held_mail, inbound_message
from tests.support.fakes import embedded
from tests.support.lab.process import DOMAIN
from tests.support.mails import mail, order
from tests.support.operating import failing, rows
from tests.support.replaying import ACME, NOW, fill, held


@pytest.fixture
def app(place: Path):
    app = embedded(place)
    yield app
    app.records.database.close()


# What is selected


def selected(app, *arguments):
    """Return the numbers of the orders that these options mean, in a program that has them."""
    found = []

    @click.command()
    @selection
    def probe(**given):
        found.extend(app.records.messages.select(build_filter(app, given), 100))

    ended = CliRunner().invoke(probe, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return {message.subject[6:] for message in found}


def test_messages_are_selected_by_what_is_known_of_them(app):
    now = datetime.now(UTC)
    ids = {}
    for number in range(4):
        slug, sender = ("acme", f"buyer-{number}@shop.example") if number < 3 else ("beta", "boss@firm.example")
        ended = deliver_from_memory(Envelope(f"orders+{slug}@{DOMAIN}", now, sender), order(number), app)
        ids[number] = ended.message_id
        extract.extract(1 if number < 3 else 2, ended.message_id, app)
    for one in app.records.documents.of_message(1, ids[2]):
        attempt = app.records.documents.claim(1, one.id, "w", now, timedelta(0))
        assert app.records.documents.give_up(attempt, {"error": "KeyError"})
    with app.records.database.write(1) as connection:
        connection.execute(document.update().where(document.c.inbound_message_id != ids[2]).values(handover="DONE"))

    mean = partial(selected, app)
    everything = set("0123")
    assert mean() == mean("--status", "parsed") == mean("--since", "2020-01-01") == mean("--since", "2h") == everything
    assert mean("--org", "beta") == mean("--sender", "@firm.example") == mean("--org", "BETA", "--since", "1d") == {"3"}
    assert mean("--until", "1m") == mean("--since", "2020-01-01", "--until", "2020-01-02T03:04") == set()
    assert mean("--status", "failed", "--status", "received") == set()
    assert mean(str(ids[1])) == mean("--message-id", "<order-1@shop.example>") == {"1"}
    assert mean("--sender", "buyer-2@shop.example") == mean("--words", "order 2") == {"2"}
    assert mean("--document", "order 3") == {"3"} and mean("--document-type", "image/*") == set()
    assert (
        mean("--unseen") == mean("--error", "KeyError") == mean("--unseen", "--document-type", "application/*") == {"2"}
    )
    for stored, asked in (("Erased", "MessageErased"), ("MessageErased", "Erased")):
        assert mean("--error", asked) == set()
        with app.records.database.write(1) as connection:
            of_second = document.update().where(document.c.inbound_message_id == ids[2])
            connection.execute(of_second.values(error_json={"error": stored}))
        assert mean("--error", asked) == mean("--error", stored) == {"2"}
        with app.records.database.write(1) as connection:
            connection.execute(of_second.values(error_json={"error": "KeyError"}))
    (one, *_) = app.records.documents.of_message(1, ids[0])
    assert mean("--document-id", str(one.id)) == {"0"} and mean("--document-id", str(one.id), "--unseen") == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [("yesterday", "is no time: write 2026-03-01"), ("-1d", "is no time"), ("2026-02-30", "is no time")],
)
def test_what_is_no_time_is_said(quiet, text, said):
    assert said in failing(quiet, "orderflow-admin", "list", f"--since={text}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("message", "--status", "parsed", "--rate", "nan"), "nan is no number"),
        (("held", "--accept", "--discard", "--org", "acme", "--all"), "say one of --accept and --discard"),
    ],
)
def test_what_cannot_be_meant_is_refused(quiet, arguments, said):
    ended = quiet.run("orderflow-replay", *arguments, check=False)
    assert ended.returncode == 2 and said in ended.stderr


def test_a_time_is_a_date_in_utc_or_how_long_ago():
    assert moment("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    assert moment("2026-03-01T12:30") == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    for text, ago in (("90m", timedelta(minutes=90)), ("2h", timedelta(hours=2)), ("3d", timedelta(days=3))):
        assert abs(datetime.now(UTC) - ago - moment(text)) < timedelta(seconds=5)


def test_what_a_run_selects_is_the_same_when_it_is_read_again():
    full = Filter(
        org_id=3, ids=(uuid4(),), statuses=(Status.FAILED, Status.STORED), since=NOW, until=NOW, source="EMAIL",
        message_id="<a>", sender="@b", words="c", document_words="d", document_type="e/*", error="F", unseen=True,
        document_ids=(uuid4(), uuid4()),
    )  # fmt: skip
    assert all(vars(full).values()), "each field is tried"
    for meant in (full, Filter()):
        assert filter_from_json(json.loads(json.dumps(filter_to_json(meant)))) == meant


def test_a_replay_asks_unless_told_yes_and_a_dry_run_changes_nothing(quiet):
    quiet.deliver(ACME, order(1))
    before = quiet.messages()
    for command in ("message", "handover"):
        assert failing(quiet, "orderflow-replay", command).startswith("Error: say which")
        quiet.replay(command, "--status", "RECEIVED", "--dry-run")
    assert failing(quiet, "orderflow-replay", "message", "--status", "RECEIVED").endswith(
        "--yes answers, --dry-run shows"
    )
    assert failing(quiet, "orderflow-replay", "handover", "--status", "RECEIVED") == "Error: no message is selected"
    assert failing(quiet, "orderflow-replay", "message", str(uuid4())) == "Error: no message is selected"
    assert quiet.messages() == before and rows(quiet.admin("runs", "--json")) == []
    assert failing(quiet, "orderflow-replay", "resume") == "Error: no run was broken off"
    assert (
        failing(quiet, "orderflow-replay", "resume", str(uuid4()))
        == "Error: no run has this id; orderflow-admin runs shows the latest ones"
    )


def test_what_is_erased_is_skipped_with_its_reason(quiet):
    quiet.deliver(ACME, order(1))
    quiet.deliver(ACME, order(2))
    (kept,) = [row["id"] for row in quiet.messages() if row["subject"] == "Order 2"]
    with closing(sqlite3.connect(quiet.state / "orderflow.db")) as database, database:
        database.execute("UPDATE inbound_message SET erased_at = '2026-11-20 00:00:00' WHERE subject = 'Order 1'")
    choice = ("message", "--org", "acme", "--status", "received")
    foreseen = {
        row["subject"]: (row["outcome"], row["detail"]) for row in rows(quiet.replay(*choice, "--dry-run", "--json"))
    }
    assert foreseen == {
        "Order 1": ("PASSED_OVER", "its mail is erased"), "Order 2": ("REPLAYED", "RECEIVED, extracted again"),
    }  # fmt: skip
    *told, end = rows(quiet.replay(*choice, "--yes", "--json"))
    assert {row["id"]: row["outcome"] for row in told}[kept] == "REPLAYED"
    assert sorted((row["outcome"], row["detail"]) for row in told) == sorted(foreseen.values())
    assert (end["selected"], end["replayed"], end["skipped"]) == (2, 1, 1)
    assert "1 skipped: its mail is erased" in quiet.replay(*choice, "--yes").splitlines()


def test_what_a_sender_wrote_cannot_steer_the_terminal(quiet):
    quiet.deliver(ACME, mail(1, Subject="\x1b[2J\x1b]0;owned\x07 order"))
    assert "\x1b" not in quiet.admin("list") + quiet.replay("message", "--status", "received", "--dry-run")


# RateLimiter


def test_a_run_waits_while_too_many_tasks_wait_and_counts_what_it_has_begun_itself():
    depth, waited = [0], []
    pace = RateLimiter(None, 3, lambda: depth[0])
    begun = [pace.wait(lambda: False, lambda: waited.append(1)) for _ in range(3)]
    assert begun == [True] * 3 and not waited
    assert not pace.wait(lambda: len(waited) > 1, lambda: waited.append(1)), "three wait, by its own count"
    assert pace.waiting_tasks == 3
    waited.clear()
    assert pace.wait(lambda: len(waited) > 50, lambda: waited.append(1)), "a second later it asks, and none waits"


def test_a_run_keeps_its_rate_and_does_not_make_up_for_a_pause():
    pace = RateLimiter(20, 0, lambda: 10**6)
    began = time.monotonic()
    for _ in range(5):
        assert pace.wait(lambda: False, lambda: None)
    time.sleep(0.5)
    for _ in range(6):
        assert pace.wait(lambda: False, lambda: None)
    assert time.monotonic() - began >= 0.5 + 2 / 20 + 3 / 20, "but for a tenth of a second, in each of the two"


def test_a_run_whose_queue_is_away_is_broken_off_and_loses_nothing(quiet):
    records = Records(f"sqlite:///{quiet.state}/orderflow.db")
    fill(records, 3)
    (quiet.state / "queue.db").rename(quiet.state / "away.db")
    ended = quiet.run("orderflow-replay", "message", "--org", "acme", "--yes", check=False)
    assert ended.returncode == 1 and "broken off; go on with: orderflow-replay resume" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"error: queue {quiet.state}/queue.db: ")
    (quiet.state / "away.db").rename(quiet.state / "queue.db")
    assert quiet.replay("resume").startswith("led back to RECEIVED and enqueued: 3 messages")
    records.database.close()


# Dead letters and the spool


def test_a_dead_letter_is_shown_exported_and_delivered(quiet):
    spool = quiet.state / "spool"
    raw = mail(1, Subject="\x1b[2J order")
    quiet.write_settings({"DATABASE_URL": "postgresql://127.0.0.1:1/x", "ORDERFLOW_SPOOL_MODE": "accept"})
    quiet.deliver(ACME, raw, "--sender", "buyer@shop.example")
    quiet.write_settings({})
    quiet.admin("org", "disable", "acme")
    assert "ORG_DISABLED" in quiet.replay("spool")
    assert list((spool / "new").iterdir()) == []
    (dead,) = rows(quiet.admin("dead", "--json"))
    assert (dead["recipient"], dead["reason"].split()[-1]) == (ACME, "ORG_DISABLED")
    assert failing(quiet, "orderflow-admin", "dead", "nope") == "Error: no dead letter is named nope"

    shown = quiet.admin("dead", dead["entry"])
    assert "sender: buyer@shop.example" in shown and "ORG_DISABLED" in shown and "  Subject: \ufffd[2J order" in shown
    (told,) = rows(quiet.admin("dead", dead["entry"], "--json"))
    assert (told["recipient"], told["size"]) == (ACME, len(raw)) and "From: Purchasing <buyer@shop.example>" in told[
        "header"
    ]
    assert "12 widgets" not in shown + json.dumps(told)

    file = quiet.state / "dead.eml"
    quiet.admin("dead", dead["entry"], "--export", str(file))
    assert file.read_bytes() == raw and oct(file.stat().st_mode)[-3:] == "600"
    is_there = f"Error: {file} is there already; --force writes over it"
    assert failing(quiet, "orderflow-admin", "dead", dead["entry"], "--export", str(file)) == is_there
    file.write_bytes(b"x" * 100_000)
    quiet.admin("dead", dead["entry"], "--export", str(file), "--force")
    assert file.read_bytes() == raw == quiet.admin("dead", dead["entry"], "--export", "-").encode()
    former = quiet.replay("dead", "--export", dead["entry"], "-"), quiet.replay("dead", "--show", dead["entry"])
    assert former == (raw.decode(), shown), "what orderflow-replay took before 0.1.0"
    other = quiet.state / "other.eml"
    unknown = failing(quiet, "orderflow-admin", "dead", "nope", "--export", str(other))
    assert unknown == "Error: no dead letter is named nope" and not other.exists()

    again = quiet.run("orderflow-replay", "dead", dead["entry"], check=False)
    assert again.returncode == 1 and "ORG_DISABLED" in again.stdout
    quiet.admin("org", "enable", "acme")
    assert quiet.replay("dead", "--all", "--dry-run").count(dead["entry"]) == 1
    assert "Deliver 1 dead letter again?" in quiet.run("orderflow-replay", "dead", "--all", check=False).stderr
    assert "DELIVERED" in quiet.replay("dead", "--all", "--yes")
    assert list((spool / "dead").iterdir()) == []
    assert len(quiet.messages()) == 1
    run, failed = rows(quiet.admin("runs", "--json"))
    assert (run["command"], run["done"], run["failed"]) == ("orderflow-replay dead --all --yes", 1, 0)
    assert (failed["command"], failed["done"], failed["failed"]) == (f"orderflow-replay dead {dead['entry']}", 0, 1)


def identities(app):
    return sorted(message.source_message_id for message in app.records.messages.select(Filter(), 9))


def free_identity(app):
    with app.records.database.write(1) as connection:
        connection.execute(inbound_message.update().values(source_message_id="<another>"))


def test_what_is_held_for_its_sender_keeps_its_message_id_where_that_is_free(app):
    held_row = held(app, HoldReason.SENDER_NOT_ALLOWED, b"1\n", b"2\n")
    free_identity(app)
    assert replay.identity_of(held_row, app) == "<order-1@shop.example>"
    assert replay.accept_held(held_row, app, "me@here", "known")
    assert identities(app) == ["<another>", "<order-1@shop.example>"]
    assert not replay.accept_held(held_row, app, "me@here")


@pytest.mark.parametrize("reason", HoldReason)
def test_what_is_held_gets_an_identity_of_its_own_where_its_message_id_is_taken(app, reason):
    held_row = held(app, reason, b"1\n", b"2\n")
    own = f"<order-1@shop.example>#{held_row.fingerprint[:16]}"
    assert replay.identity_of(held_row, app) == own
    assert replay.accept_held(held_row, app, "me@here")
    assert identities(app) == ["<order-1@shop.example>", own]
    assert len(app.queue.extractions) == 2


@pytest.mark.parametrize("reason", HoldReason)
def test_what_is_held_stays_held_where_each_identity_is_taken(app, reason):
    held_row = held(app, reason, b"1\n", b"2\n")
    assert replay.accept_held(held_row, app, "me@here")
    with app.records.database.write(1) as connection:
        connection.execute(held_mail.update().values(resolution=None))
    before = (identities(app), app.records.events.of(1, held_row.id))
    assert replay.identity_of(held_row, app) is None
    with pytest.raises(IdentityTakenError):
        replay.accept_held(held_row, app, "me@here")
    assert app.records.held_mail.open() == [held_row]
    assert (identities(app), app.records.events.of(1, held_row.id)) == before


def test_what_is_held_and_erased_can_only_be_discarded(quiet):
    for body in (b"1\n", b"2\n"):
        quiet.deliver(ACME, mail(1, body))
    with closing(sqlite3.connect(quiet.state / "orderflow.db")) as database, database:
        database.execute("UPDATE held_mail SET erased_at = '2026-11-20 00:00:00'")
    (held,) = rows(quiet.admin("held", "--json"))
    (foreseen,) = rows(quiet.replay("held", "--accept", held["id"], "--dry-run", "--json"))
    (ended,) = rows(quiet.replay("held", "--accept", held["id"], "--json"))
    assert foreseen["outcome"] == ended["outcome"] == "its mail is erased: it can only be discarded"
    assert len(rows(quiet.admin("held", "--json"))) == 1
    (ended,) = rows(quiet.replay("held", "--discard", held["id"], "--json"))
    assert ended["outcome"] == "discarded"


def test_a_run_tells_its_events_of_an_accepted_mail(app):
    held_row, run = held(app, HoldReason.MESSAGE_ID_REUSED, b"1\n", b"2\n"), uuid4()
    assert replay.accept_held(held_row, app, "me@here", "they called", run)
    (event,) = app.records.events.of(1, held_row.id)
    assert (event.kind, event.run_id, event.details["why"]) == (EventKind.ACCEPTED, run, "they called")
    assert read_message(app.archive.read(held_row.raw_key, held_row.digest)) is not None
