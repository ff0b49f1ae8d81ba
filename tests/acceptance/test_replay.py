"""orderflow-replay as a program: what it selects, puts through again, leaves behind, and how it is broken off."""

import json
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from orderflow_ingest.storage.database import Records
from tests.support.fakes import embedded
from tests.support.lab.deployment import ENVIRONMENT, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import mail, order
from tests.support.operating import failing, rows
from tests.support.replaying import ACME, fill
from tests.support.tenants import Tenants


@pytest.fixture(scope="module")
def deployment():
    """A deployment whose worker runs."""
    with scratch() as place:
        deployment = Deployment(place)
        deployment.set_up("acme", "beta")
        with deployment.worker:
            yield deployment


@pytest.fixture
def app(place: Path):
    app = embedded(place)
    yield app
    app.records.database.close()


# Messages and hand-overs


def test_a_replay_extracts_again_and_hands_over_again_and_doubles_nothing(deployment):
    deployment.deliver(ACME, order(10))
    count = len(deployment.messages())
    before = next(row for row in deployment.wait_finished(count) if row["subject"] == "Order 10")
    said = deployment.replay("message", "--yes", before["id"])
    assert said.strip() == "led back to RECEIVED and enqueued: 1 message"
    deployment.wait_finished(count)
    (document,) = [r["document_id"] for r in deployment.log_records() if r.get("action") == "document"][-1:]
    said = deployment.replay("handover", "--yes", "--document-id", document, "--json")
    assert [row["outcome"] for row in rows(said)] == ["REPLAYED", "ENDED"]
    assert rows(said)[0]["detail"].startswith("1 document handed over again: part ")
    deployment.wait_finished(count)
    handed = [r for r in deployment.log_records() if r.get("action") == "document" and r["message_id"] == before["id"]]
    assert len(handed) == 5
    assert len({r["document_id"] for r in handed}) == 2
    assert len(deployment.documents(before["id"])) == 2
    last, first = rows(deployment.admin("runs", "--json", "--limit", "2"))
    assert (last["done"], last["selected"], last["state"]) == (first["done"], first["selected"], first["state"])
    assert (last["done"], last["selected"], last["state"]) == (1, 1, "ended")
    assert first["command"] == f"orderflow-replay message --yes {before['id']}"
    assert last["by"].startswith("nobody@")


# Broken off


class Embedded:
    """A deployment on SQLite without a worker."""

    def __init__(self, template, place):
        subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
        self.deployment = Deployment(place)
        self.url = f"sqlite:///{self.deployment.state}/orderflow.db"

    def events(self):
        """Return run, message and number of the events of replays."""
        with closing(sqlite3.connect(self.deployment.state / "orderflow.db")) as connection:
            return connection.execute(EVENTS).fetchall()


class UnderRoles:
    """A deployment on PostgreSQL, whose operator is bound to his role."""

    def __init__(self, postgres, place):
        self.tenants = Tenants(postgres)
        self.deployment = Deployment(place)
        self.tenants.set_up(self.deployment)
        self.url = self.tenants.owner_url
        self.deployment.write_settings({"DATABASE_URL": self.tenants.url("operator")})

    def events(self):
        """Return run, message and number of the events of replays."""
        with self.tenants.connect("owner") as connection:
            return connection.execute(EVENTS).fetchall()


EVENTS = (
    "SELECT run_id, inbound_message_id, count(*) FROM message_event WHERE kind = 'REPLAYED' "
    "GROUP BY run_id, inbound_message_id"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def many(request, place):
    """Return a deployment with 300 FAILED messages, some received at the same time."""
    if request.param == "sqlite":
        found = Embedded(request.getfixturevalue("template"), place)
    else:
        found = UnderRoles(request.getfixturevalue("postgres"), place)
    records = Records(found.url)
    fill(records, 300)
    records.database.close()
    return found


class Running:
    """orderflow-replay as a process whose lines are read as they come."""

    def __init__(self, deployment, *arguments):
        env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
        self.child = subprocess.Popen(
            [deployment.programs / "orderflow-replay", *arguments, "--json"], cwd="/", env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **deployment.credentials(),
        )  # fmt: skip
        self.lines = []

    def read(self, count):
        """Read so many lines."""
        while count > 0 and (line := self.child.stdout.readline()):
            self.lines.append(json.loads(line))
            count -= 1

    def end(self, number=None):
        """Send a signal if there is one, read the rest, and give exit status and standard error."""
        if number:
            self.child.send_signal(number)
        # The line that a kill has cut off is not whole.
        self.lines += [json.loads(line) for line in self.child.stdout if line.endswith("\n")]
        errors = self.child.stderr.read()
        return self.child.wait(100), errors


def test_a_run_that_is_stopped_and_killed_ends_exact(many):
    """Every message stays one of those that are meant, so that the run's trace alone tells what is done."""
    deployment = many.deployment
    choice = ("--org", "acme", "--status", "failed", "--status", "received")
    pace = ("--rate", "200", "--max-waiting", "0")

    first = Running(deployment, "message", *choice, "--yes", *pace)
    first.read(30)
    status, errors = first.end(signal.SIGINT)
    *told, summary = first.lines
    assert status == 1 and f"go on with: orderflow-replay resume {summary['run']}" in errors
    assert (summary["outcome"], summary["replayed"]) == ("STOPPED", len(told)) and 30 <= len(told) < 150
    (run,) = rows(deployment.admin("runs", "--json"))
    assert (run["state"], run["done"], run["selected"]) == ("stopped", len(told), 300)

    killed = Running(deployment, "resume", summary["run"])
    killed.read(40)
    assert killed.end(signal.SIGKILL)[0] == -signal.SIGKILL
    done = len(many.events())
    assert len(told) + 40 <= done < 300

    last = Running(deployment, "resume")
    assert last.end()[0] == 0
    *rest, end = last.lines
    assert (end["run"], end["outcome"], end["replayed"], end["skipped"]) == (summary["run"], "ENDED", 300, 0)
    assert len(rest) == 300 - done, "what was done is not done again"
    assert [count for _, _, count in many.events()] == [1] * 300
    assert len({run for run, _, _ in many.events()}) == 1
    (run,) = rows(deployment.admin("runs", "--json"))
    assert (run["state"], run["done"], run["failed"]) == ("ended", 300, 0)
    assert failing(deployment, "orderflow-replay", "resume", run["run"]).startswith("Error: this run has ended")
    assert {row["status"] for row in deployment.messages()} == {"RECEIVED"}


def test_two_that_go_on_with_one_run_do_nothing_twice(many):
    choice = ("--org", "acme", "--status", "failed", "--status", "received", "--max-waiting", "0")
    # So slow that it still goes on when the others have started, on a busy machine too.
    first = Running(many.deployment, "message", *choice, "--yes", "--rate", "10")
    first.read(20)
    both = [Running(many.deployment, "resume") for _ in range(2)]
    ended = [one.end() for one in (*both, first)]
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert [count for _, _, count in many.events()] == [1] * 300


def test_a_run_has_a_limit_over_all_of_it_and_what_has_come_since_is_not_meant(quiet):
    records = Records(f"sqlite:///{quiet.state}/orderflow.db")
    fill(records, 60)
    began = Running(
        quiet, "message", "--status", "failed", "--status", "received", "--yes", "--limit", "50", "--rate", "40"
    )
    began.read(10)
    began.end(signal.SIGKILL)
    quiet.deliver(ACME, mail(1))
    *_, end = rows(quiet.replay("resume", "--json"))
    assert (end["selected"], end["replayed"], end["outcome"]) == (50, 50, "ENDED")
    untouched = {row["subject"] for row in quiet.messages() if row["status"] == "FAILED"}
    assert {f"Order {number}" for number in range(9)} < untouched, "the oldest ten"
    assert len(untouched) == 10 and untouched < {f"Order {number}" for number in range(12)}, "three came at one time"
    records.database.close()


def test_a_run_waits_for_the_worker_and_says_so(quiet):
    records = Records(f"sqlite:///{quiet.state}/orderflow.db")
    fill(records, 12)
    records.database.close()
    run = Running(quiet, "message", "--org", "acme", "--yes", "--max-waiting", "10")
    run.read(10)
    assert run.child.stderr.readline().startswith("waiting: 10 tasks in the queue; the run goes on when")
    status, _ = run.end(signal.SIGTERM)
    assert (status, run.lines[-1]["outcome"], run.lines[-1]["replayed"]) == (1, "STOPPED", 10)


def test_a_damaged_dead_letter_is_told_and_does_not_keep_the_others_from_being_shown(quiet):
    dead = quiet.state / "spool" / "dead"
    (dead / "1-broken").write_text("nothing of ours")
    (dead / "1-broken.why").touch()
    subprocess.run(["chown", "-R", "nobody:", dead], check=True)
    (broken,) = rows(quiet.admin("dead", "--json"))
    assert (broken["recipient"], broken["reason"]) == ("unreadable: EntryDamagedError", "no reason was noted")
    file = quiet.state / "broken.eml"
    for option in (["--show", "1-broken"], ["--export", "1-broken", str(file)]):
        assert "is not whole; its file is" in failing(quiet, "orderflow-replay", "dead", *option)
    assert not file.exists()


# Held mail


def test_held_mail_is_shown_accepted_once_or_discarded(deployment):
    for body in (b"12\n", b"13\n", b"14\n"):
        deployment.deliver(ACME, mail(20, body))
    count = len(deployment.messages())
    first, second = rows(deployment.admin("held", "--json"))
    assert first["reason"] == "IDENTITY"
    (foreseen,) = rows(deployment.replay("held", "--accept", "--dry-run", first["id"], "--json"))
    assert foreseen["outcome"].startswith("accepted as <order-20@shop.example>#")
    assert deployment.replay("held", "--accept", first["id"]).strip() == "1 of 1 held mails: accepted"
    again = deployment.run("orderflow-replay", "held", "--accept", first["id"])
    assert again.stdout.strip() == "0 of 1 held mails: accepted" and "not held" in again.stderr
    said = deployment.replay("held", "--discard", "--org", "acme", "--all", "--yes", "--why", "they called")
    assert said.strip() == "1 of 1 held mails: discarded"
    assert rows(deployment.replay("conflicts", "--json")) == [], "the command's name in the version before"
    assert "conflicts" not in deployment.replay("--help")
    found = deployment.wait_finished(count + 1)
    assert [row["subject"] for row in found].count("Order 20") == 2
    assert failing(deployment, "orderflow-replay", "held", "--accept").startswith("Error: --accept needs IDS")
    assert failing(deployment, "orderflow-replay", "held", "--org", "acme", "--all").startswith("Error: --all goes")
    with closing(sqlite3.connect(deployment.state / "orderflow.db")) as database:
        events = database.execute("SELECT inbound_message_id, details FROM message_event WHERE kind = 'DISCARDED'")
        ((id, details),) = events.fetchall()
    assert str(UUID(id)) == second["id"] and json.loads(details)["why"] == "they called"


# Under roles


def test_an_operator_does_all_of_it_under_row_level_security(postgres, place):
    under = UnderRoles(postgres, place)
    deployment = under.deployment
    deployment.deliver(ACME, order(1))
    deployment.deliver(ACME, mail(1, b"other\n"))
    with deployment.worker:
        assert wait_until(lambda: {row["status"] for row in deployment.messages()} == {"PARSED"}, 60, interval=0.5)
        for command in ("message", "handover"):
            *_, end = rows(
                deployment.replay(command, "--sender", "@shop.example", "--status", "parsed", "--yes", "--json")
            )
            assert (end["replayed"], end["outcome"]) == (1, "ENDED")
            deployment.wait_finished(1)
        (held,) = rows(deployment.admin("held", "--json"))
        assert deployment.replay("held", "--accept", held["id"]).strip() == "1 of 1 held mails: accepted"
        deployment.wait_finished(2)
    with psycopg.connect(under.tenants.url("owner").replace("+psycopg", "")) as connection:
        counts = dict(connection.execute("SELECT kind, count(*) FROM message_event GROUP BY kind").fetchall())
    assert (counts["REPLAYED"], counts["ACCEPTED"], counts["HANDED_OVER"]) == (3, 2, 7), counts
    assert [run["state"] for run in rows(deployment.admin("runs", "--json"))] == ["ended"] * 3
