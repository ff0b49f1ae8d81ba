"""orderflow-admin find, show, status and org as programs: what an operator asks, and the answers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import BEFORE_QUEUE, Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints.admin import main as admin_main
from orderflow_ingest.entrypoints.admin.org_test import dry_run_delivery
from orderflow_ingest.entrypoints.cli.table import display_width
from orderflow_ingest.pipeline import replay
from orderflow_ingest.pipeline.extract import extract
from orderflow_ingest.pipeline.hand_over import hand_over
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import Filter, schema
from tests.support.fakes import embedded
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, PROGRAMS
from tests.support.lab.postfix import Postfix
from tests.support.lab.process import free_port, scratch, wait_until
from tests.support.lab.smtp import send
from tests.support.mails import mail, order, part
from tests.support.terminal import on_terminal

ACME, BETA = f"orders+acme@{DOMAIN}", f"orders+beta@{DOMAIN}"
STEERING = "\x1b[2J\x1b]0;owned\x07"
TOLD = mail(
    7,
    b"--b\nContent-Type: text/plain\n\n12 widgets\n"
    + b"--b\n"
    + part(b'Content-Type: application/pdf; name="PO_4711.pdf"\nContent-Disposition: attachment', b"%PDF-1.4")
    + b"\n--b\nContent-Type: image/gif\nContent-ID: <x>\nContent-Disposition: inline\n\nGIF89a\n--b--\n",
    MIME_Version="1.0", Content_Type='multipart/mixed; boundary="b"', Subject=f"Bestellung 4711 {STEERING}",
    Received="from mail.shop.example by mx.example.com; Fri, 20 Nov 2026 10:00:01 +0000",
)  # fmt: skip


class Section:
    """A deployment on SQLite and files that belongs to nobody; mail is delivered and worked on in this process."""

    def __init__(self, directory: Path) -> None:
        self.state, self.settings_file = directory / "state", directory / "ingest.env"
        self.state.mkdir(mode=0o755)
        self.settings_file.write_text(f"ORDERFLOW_STATE_DIR={self.state}\n")
        self.app = embedded(self.state)
        open_app(self.app.settings, create=True).queue.create_tables()
        for path in (directory, self.settings_file):
            path.chmod(0o755)
        self.give_away()

    def give_away(self) -> None:
        """Let nobody have what this process has written."""
        for path in (self.state, *self.state.rglob("*")):
            shutil.chown(path, "nobody")

    def deliver(self, recipient: str, raw: bytes, **envelope: str) -> Outcome:
        """Deliver a mail."""
        ended = deliver_from_memory(Envelope(recipient, datetime.now(UTC), **envelope), raw, self.app)
        self.give_away()
        return ended.outcome

    def work(self) -> None:
        """Extract every message, and hand every document over."""
        for message in self.app.records.messages.select(Filter(), 100):
            extract(message.org_id, message.id, self.app)
            for document in self.app.records.documents.of_message(message.org_id, message.id):
                hand_over(message.org_id, document.id, self.app)
        self.give_away()


@pytest.fixture(scope="module")
def seen():
    """A deployment that has worked on a mail with documents, one of another organization, and one that is held."""
    with scratch() as directory:
        place = Section(directory)
        place.deliver(ACME, TOLD, sender="bounce@shop.example", client_address="192.0.2.7", queue_id="4Q")
        place.deliver(ACME, mail(8, Subject="Order 17"))
        place.deliver(ACME, mail(8, b"13 widgets\n", Subject="Order 17"))
        place.deliver(BETA, order(9))
        place.work()
        yield place


@pytest.fixture
def quiet(place):
    """A deployment that has had no mail."""
    return Section(place)


def ran(deployment: Section, *arguments: str) -> tuple[int, str, str]:
    """Run orderflow-admin in a process of its own, as root; without the time that a new interpreter takes."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w"), open(2, "w")  # noqa: SIM115
                sys.argv = ["orderflow-admin", *arguments]
                os.environ["ORDERFLOW_SETTINGS"] = str(deployment.settings_file)
                admin_main.main()
                status = 0
            except SystemExit as ended:
                status = int(ended.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def admin(deployment: Section, *arguments: str) -> str:
    """Run orderflow-admin, which must succeed, and return what it prints."""
    status, out, err = ran(deployment, *arguments)
    assert status == 0, out + err
    return out


def failing(deployment: Section, *arguments: str) -> str:
    """Run orderflow-admin, which must fail; return what it says in its one line."""
    status, _, err = ran(deployment, *arguments)
    assert status in (1, 2) and "Traceback" not in err, err
    return err.strip().splitlines()[-1]


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def status_of(deployment: Section, *options: str) -> dict:
    (found,) = rows(admin(deployment, "status", "--json", *options))
    return found


def found(deployment: Section, *arguments: str) -> list[str]:
    return [row["subject"].partition(" \x1b")[0] for row in rows(admin(deployment, "find", "--json", *arguments))]


def test_mail_is_found_by_what_a_supplier_can_tell_of_it(seen):
    today = datetime.now(UTC).date()
    every = ["Order 9", "Order 17", "Bestellung 4711"]
    assert found(seen) == ["Order 9", "Order 17", "Order 17", "Bestellung 4711"], "the newest first, and what is held"
    assert [row["status"] for row in rows(admin(seen, "find", "17", "--json"))] == ["HELD", "PARSED"]
    assert found(seen, "--status", "held") == found(seen, "--status", "held", "17", "--org", "acme") == ["Order 17"]
    assert found(seen, "--status", "held", "--org", "beta") == found(seen, "--status", "held", "4711") == []
    assert found(seen, "bestell", "4711") == found(seen, "--words", "4711") == ["Bestellung 4711"]
    assert found(seen, "--document", "po 4711") == found(seen, "--sender", "bounce@shop.example") == ["Bestellung 4711"]
    assert found(seen, "--sender", "@shop.example", "--limit", "3", "--status", "parsed") == every
    both = ["Order 17", "Order 17"]  # and what is held since it clashes
    assert found(seen, "--message-id", "<order-8@shop.example>") == both
    assert found(seen, "--org", "beta") == found(seen, "--document", "order-9-1.pdf") == ["Order 9"]
    assert found(seen, "--status", "parsed", "--since", f"{today}") == every
    assert found(seen, "--until", f"{today}") == found(seen, "--status", "failed") == found(seen, "nothing") == []
    assert failing(seen, "find", "--org", "nope") == "Error: no organization is named nope"


def test_a_mail_is_one_line_with_its_organization_and_what_became_of_its_documents(seen):
    head, line = admin(seen, "find", "bestellung").splitlines()
    assert head.split() == ["ID", "RECEIVED", "ORG", "STATUS", "SENDER", "SUBJECT", "DOCUMENTS"]
    assert "\x1b" not in line and line.endswith("2 DONE") and " acme  PARSED  buyer@shop.example  " in line
    (row,) = rows(admin(seen, "find", "bestellung", "--json"))
    assert row["documents"] == {"PENDING": 0, "DONE": 2, "FAILED": 0}


def id_of(seen: Section, word: str) -> str:
    (row,) = rows(admin(seen, "find", word, "--json"))
    return row["id"]


def test_show_tells_the_whole_story_of_a_mail(seen):
    text = admin(seen, "show", id_of(seen, "bestellung"))
    assert "\x1b" not in text
    for told in (
        "organization  acme", "PARSED, attempts: 1", "192.0.2.7", "bounce@shop.example -> " + ACME, "4Q",
        "Received: from mail.shop.example by mx.example.com", "From: Purchasing <buyer@shop.example>",
        "<order-7@shop.example>", "PO_4711.pdf", "small image", "text body", "skipped", "EXTRACTED", "HANDED_OVER",
    ):  # fmt: skip
        assert told in text, told


def test_show_gives_one_object_for_machines(seen):
    told = json.loads(admin(seen, "show", "<order-7@shop.example>", "--json"))
    assert (told["org"], told["kind"], told["mail"]["status"]) == ("acme", "message", "PARSED")
    assert [one["filename"] for one in told["documents"]] == [None, "PO_4711.pdf"]
    assert [one["reason"] for one in told["skipped"]] == ["container", "small image"]
    assert {"name": "Message-Id", "value": "<order-7@shop.example>"} in told["header"]
    kinds = [event["kind"] for event in told["events"]]
    assert kinds[:2] == ["RECEIVED", "RECORDED"] and sorted(kinds[2:]) == ["EXTRACTED", "HANDED_OVER", "HANDED_OVER"]


def test_a_mail_is_named_by_its_id_the_beginning_of_one_or_its_message_id_and_by_nothing_vague(seen):
    id = id_of(seen, "bestellung")
    for name in ((id,), (id.replace("-", "").upper(),), (id[:10], "--org", "acme"), ("<order-7@shop.example>",)):
        assert json.loads(admin(seen, "show", *name, "--json"))["mail"]["id"] == id
    assert failing(seen, "show", id[:10]) == "Error: the beginning of an id needs --org"
    assert failing(seen, "show", id, "--org", "beta").startswith("Error: no such mail")
    assert failing(seen, "show", "<none@shop.example>").startswith("Error: no such mail")
    assert failing(seen, "show", "4711").startswith("Error: the beginning of an id needs --org")
    assert failing(seen, "show", "bestellung").startswith("Error: MESSAGE is an id")


def test_a_mail_that_is_held_has_a_story_too_and_stands_in_that_of_the_one_it_clashes_with(seen):
    (held,) = json.loads(admin(seen, "show", "<order-8@shop.example>", "--json"))["held"]
    text = admin(seen, "show", held["id"])
    assert "HELD (IDENTITY), not decided" in text and "From: Purchasing <buyer@shop.example>" in text
    assert "CLASHES WITH THIS ONE" in admin(seen, "show", "<order-8@shop.example>")


def test_raw_mail_and_documents_are_written_out_as_they_came_and_over_nothing(seen, place):
    place.chmod(0o777)
    file, id = place / "mail.eml", id_of(seen, "bestellung")
    admin(seen, "show", id, "--raw", str(file))
    assert file.read_bytes() == TOLD and file.stat().st_mode & 0o777 == 0o600
    assert failing(seen, "show", id, "--raw", str(file)) == f"Error: {file} is there already; --force writes over it"
    admin(seen, "show", id, "--document", "2", str(file), "--force")
    assert file.read_bytes() == b"%PDF-1.4"
    assert admin(seen, "show", id, "--document", "2", "-") == "%PDF-1.4"
    other = place / "other"
    assert (
        failing(seen, "show", id, "--document", "9", str(other)) == "Error: no document has this part; there are: 1, 2"
    )
    assert failing(seen, "show", "<none@x>", "--raw", str(other)).startswith("Error: no such mail")
    assert not other.exists(), "a file is left that nothing was written to"
    assert failing(seen, "show", id, "--raw", "/nowhere/x").startswith("Error: /nowhere/x cannot be written")


def test_root_writes_where_the_owner_of_the_state_could_not(seen, tmp_path):
    tmp_path.chmod(0o700)
    admin(seen, "show", "<order-7@shop.example>", "--raw", str(tmp_path / "mail.eml"))
    assert (tmp_path / "mail.eml").read_bytes() == TOLD
    assert failing(seen, "show", "<order-7@shop.example>", "--document", "9", str(tmp_path / "other")).startswith(
        "Error: no document has this part"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mail.eml"], "a file is left that nothing was written to"


def test_bytes_are_not_written_to_a_terminal(seen):
    master, slave = os.openpty()
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(seen.settings_file)}
    command = [PROGRAMS / "orderflow-admin", "show", "<order-7@shop.example>", "--raw", "-"]
    ended = subprocess.run(command, env=env, stdout=slave, stderr=subprocess.PIPE, text=True)
    os.close(slave)
    os.close(master)
    assert ended.returncode == 1 and "not for a terminal" in ended.stderr


def test_where_the_archive_has_lost_a_mail_the_rest_of_its_story_is_told(seen):
    told = json.loads(admin(seen, "show", "<order-9@shop.example>", "--json"))
    archived = seen.state / "archive" / told["mail"]["raw_key"]
    archived.rename(archived.with_suffix(".gone"))
    try:
        text = admin(seen, "show", told["mail"]["id"])
        assert "ObjectMissing" in text and "order-9-1.pdf" in text
        assert failing(seen, "show", told["mail"]["id"], "--raw", "-").startswith("error: ObjectMissing")
    finally:
        archived.with_suffix(".gone").rename(archived)


def test_status_tells_a_day_a_week_what_is_held_and_by_organization(seen):
    told = status_of(seen)
    assert (told["messages_arrived_last_24_hours"], told["messages_parsed_last_7_days"]) == (3, 3)
    assert (told["held_mail"], told["held_mail_reused_message_id"], told["held_mail_sender_not_allowed"]) == (1, 1, 0)
    assert told["last_errors"] == [] and told["messages_failed"] == 0
    of_orgs = {row["org"]: row for row in rows(admin(seen, "status", "--by-org", "--json"))}
    assert [(of_orgs[slug]["held"], of_orgs[slug]["last_24_h"]) for slug in ("acme", "beta")] == [(1, 2), (0, 1)]
    assert list(of_orgs) == ["acme", "beta"], "trouble first"
    assert failing(seen, "status", "--by-org", "--org", "acme").startswith("Error: --by-org or --org")


LOOKS = (
    ("admin", "status"), ("admin", "status", "--by-org"), ("admin", "find", "order"), ("admin", "org", "list"),
    ("admin", "check", "--no-postfix"), ("admin", "org", "show", "acme"), ("admin", "list"), ("admin", "held"),
    ("admin", "--help"), ("admin", "org", "-h"), ("replay", "-h"),
    ("admin", "postfix", "--help"), ("admin", "reconcile"), ("admin", "show", "ID"),
    ("admin", "documents", "ID"), ("replay", "message", "--status", "parsed", "--dry-run"),
    ("replay", "archive", "--dry-run"), ("admin", "retention", "--raw-days", "1", "--dry-run"),
)  # fmt: skip


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_no_line_is_wider_than_a_terminal_of_80_columns(seen, look):
    hostile = "\x1b[2J采购订单" * 30
    seen.deliver(ACME, mail(19, Subject=hostile, From=f"{hostile} <{'b' * 60}@{'shop' * 15}.example>"))
    program, *arguments = look
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(seen.settings_file)}
    (id,) = {row["id"] for row in rows(admin(seen, "find", "--json", "--document", "PO_4711.pdf"))}
    arguments = [id if word == "ID" else word for word in arguments]
    lines = on_terminal([PROGRAMS / f"orderflow-{program}", *arguments], {**env, "NO_COLOR": "1"})
    assert lines and not [line for line in lines if display_width(line) > 80 or "\x1b" in line]
    if look == ("admin", "list"):
        assert [line for line in lines if id in line], "an id is never cut"


def test_a_terminal_has_colour_and_nothing_else_has_it(seen):
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(seen.settings_file)}
    command = [PROGRAMS / "orderflow-admin", "list"]
    on_terminal_lines = on_terminal(command, env, columns=2000)
    parsed = click.style("PARSED", fg="green")
    assert parsed in on_terminal_lines[-1]
    plain = [line.replace(parsed, "PARSED") for line in on_terminal_lines]
    assert plain == on_terminal(command, {**env, "NO_COLOR": "1"}, columns=2000) == admin(seen, "list").splitlines()


def test_times_are_shown_in_the_zone_of_the_computer_and_json_stays_in_utc(seen):
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(seen.settings_file), "TZ": "Asia/Kolkata"}
    shown = on_terminal([PROGRAMS / "orderflow-admin", "list", "--local"], env, columns=2000)
    (utc, *_), local = rows(admin(seen, "list", "--local", "--json")), shown[1].split("  ")[1]
    assert local.endswith("+0530") and utc["received"].endswith("+00:00")
    at = datetime.strptime(local, "%Y-%m-%d %H:%M:%S%z")
    assert abs(at - datetime.fromisoformat(utc["received"])) < timedelta(seconds=1)


def test_an_organization_that_is_mistyped_is_answered_with_a_similar_one(seen):
    assert failing(seen, "list", "--org", "acmee") == "Error: no organization is named acmee; did you mean acme?"


@pytest.mark.parametrize("program", ["admin", "replay"])
def test_a_mistyped_command_is_answered_with_what_is_similar(seen, program):
    ended = subprocess.run([PROGRAMS / f"orderflow-{program}", "hel"], text=True, capture_output=True)
    assert ended.returncode == 2 and ended.stderr.endswith("No such command 'hel'. Did you mean 'held'?\n")


def test_status_watches_in_lines_until_it_is_interrupted(seen):
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(seen.settings_file)}
    command = [PROGRAMS / "orderflow-admin", "status", "--watch", "0.2"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as watching:
        lines = iter(watching.stdout.readline, "")
        drawn = 0
        while drawn < 2:
            drawn += next(lines).startswith("NAME")
        watching.send_signal(signal.SIGINT)
        rest = watching.stdout.read()
        assert watching.wait() == 0 and "\x1b" not in rest


def test_what_is_held_for_its_sender_is_found_by_its_message_id(quiet):
    """Where is my order? It has been taken, and waits for somebody to decide."""
    admin(quiet, "org", "set", "acme", "allowed_senders=@other.example")
    assert quiet.deliver(ACME, mail(1)) is quiet.deliver(ACME, mail(2)) is Outcome.HELD
    one, two = sorted(quiet.app.records.held_mail.open(), key=lambda held: held.source_message_id)
    name = one.source_message_id
    for asked in (name, name.strip("<>")):
        (told,) = rows(admin(quiet, "find", "--message-id", asked, "--json"))
        assert (told["id"], told["status"]) == (str(one.id), "HELD")
    assert admin(quiet, "show", name) == admin(quiet, "show", str(one.id)[:13], "--org", "acme")
    assert f"Message-ID    {name}" in admin(quiet, "show", name)
    assert replay.discard_held(one, quiet.app, "jo", "a stranger")
    assert replay.accept_held(two, quiet.app, "jo")
    (told,) = rows(admin(quiet, "find", "--message-id", name, "--json"))
    assert told["status"] == "DISCARDED" and "a stranger" in admin(quiet, "show", name)
    (told,) = rows(admin(quiet, "find", "--message-id", two.source_message_id, "--json"))
    assert told["status"] == "RECEIVED", "it is a message now, and told once"
    status, out, err = ran(quiet, "find", "--document", "order")
    assert (status, out) == (0, "") and "held mail was not looked at" in err


def told_of(deployment: Section, address: str, *arguments: str) -> dict[str, str]:
    return {row["name"]: row["value"] for row in rows(admin(deployment, "org", "test", address, "--json", *arguments))}


def test_settings_of_an_organization_are_set_shown_heeded_and_taken_back(quiet):
    assert admin(quiet, "org", "set", "acme", "allowed_senders=@other.example", "max_message_size=100000").startswith(
        "acme: "
    )
    shown = {row["setting"]: row for row in rows(admin(quiet, "org", "show", "acme", "--json"))}
    assert (shown["allowed_senders"]["value"], shown["allowed_senders"]["set"]) == ("@other.example", True)
    assert (shown["reused_message_id"]["value"], shown["reused_message_id"]["set"]) == ("hold", False)
    assert "allowed_senders=@other.example" in admin(quiet, "org", "list")
    assert quiet.deliver(ACME, mail(1)) is Outcome.HELD
    assert status_of(quiet)["held_mail_sender_not_allowed"] == 1
    assert quiet.deliver(ACME, mail(2, b"x" * 100000)) is Outcome.TOO_BIG
    both = admin(quiet, "org", "set", "ACME", "allowed_senders=", "reused_message_id=hold", "max_message_size= ")
    assert both.strip() == "acme: reused_message_id set; allowed_senders, max_message_size as for everybody"
    unset = admin(quiet, "org", "unset", "acme", "conflicts")  # its name in the version before
    assert unset.strip() == "acme: reused_message_id as for everybody"
    time.sleep(1.1)  # for as long settings are remembered
    assert quiet.deliver(ACME, mail(2, b"x" * 100000)) is Outcome.DELIVERED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "acme", "color=red"), "Error: no setting is named color; there are "),
        (("set", "acme", "reused_message_id=maybe"), "Error: reused_message_id must be hold or accept"),
        (("set", "acme", "reused_message_id"), "Error: reused_message_id is not of the form KEY=VALUE"),
        (("set", "nope", "reused_message_id=hold"), "Error: no organization is named nope"),
        (("show", "nope"), "Error: no organization is named nope"),
        (("test", ACME, "/no/file"), "Error: Invalid value for '[FILE]'"),
    ],
)
def test_a_setting_that_is_wrong_is_told_in_one_line(seen, arguments, said):
    assert failing(seen, "org", *arguments).startswith(said)


def test_what_would_become_of_a_mail_is_told_and_nothing_is_changed(quiet, place):
    place.chmod(0o755)
    (place / "a.eml").write_bytes(TOLD)
    (place / "a.eml").chmod(0o644)
    file = str(place / "a.eml")

    def outcome(address: str, *arguments: str) -> str:
        return told_of(quiet, address, *arguments)["outcome"].split(":")[0]

    assert outcome(f"orders+nope@{DOMAIN}") == outcome(f"orders@{DOMAIN}") == "UNKNOWN_ORG"
    assert told_of(quiet, f"Postmaster@{DOMAIN}") == {"recipient": "no organization's: Postfix's aliases take it"}
    assert outcome("orders+acme@elsewhere.example") == "MISCONFIGURED"
    assert outcome(ACME) == outcome(ACME, "--sender", "a@b.example", "--size", "1000") == "DELIVERED"
    assert outcome(ACME, "--size", "30000000") == "TOO_BIG"
    told = told_of(quiet, ACME, file)
    assert told["outcome"].startswith("DELIVERED: 250 2.0.0") and told["part 2"].startswith("taken, attachment: ")
    assert told["part 3"] == "skipped, small image: image/gif, 6 bytes"
    admin(quiet, "org", "set", "acme", "allowed_senders=@other.example", "document_types=text/csv")
    assert (
        outcome(ACME, "--sender", "a@b.example") == "HELD"
        and outcome(ACME, "--sender", "a@OTHER.example") == "DELIVERED"
    )
    told = told_of(quiet, ACME, file)
    assert told["sender"] == "held: From is not among allowed_senders" and told["outcome"].startswith("HELD (SENDER)")
    assert told["part 2"].startswith("skipped, not accepted: application/pdf")
    assert quiet.app.records.messages.select(Filter(), 1) == [] and status_of(quiet)["held_mail"] == 0
    assert not list((quiet.state / "archive").rglob("*.eml"))
    admin(quiet, "org", "unset", "acme", "allowed_senders")
    quiet.deliver(ACME, TOLD)
    assert outcome(ACME, file) == "DUPLICATE"
    (place / "a.eml").write_bytes(TOLD + b"more\n")
    assert outcome(ACME, file) == "HELD (IDENTITY)"
    admin(quiet, "org", "set", "acme", "reused_message_id=accept")
    assert outcome(ACME, file) == "DELIVERED"
    admin(quiet, "org", "disable", "acme")
    assert outcome(ACME, file) == "ORG_DISABLED"


def test_a_sender_is_judged_by_the_queue_id_under_which_the_mail_came(place):
    settings = {"ORDERFLOW_AUTHSERV_ID": "mx.example", "ORDERFLOW_STATE_DIR": str(place)}
    app = open_app(load("/dev/null", settings), create=True, guarded=False)
    schema.upgrade(app.records.database)
    app.records.organizations.add("acme", "Acme")
    app.records.organizations.change_settings("acme", {"allowed_senders": "@shop.example"})
    raw = (
        b"Authentication-Results: mx.example; dkim=pass header.d=shop.example\n"
        b"Received: from x by y with ESMTP id 4bXyz1;\n\tnow\nFrom: a@shop.example\nSubject: x\n\nhi\n"
    )

    def told(*more: str) -> tuple[str, ...]:
        found = dict(dry_run_delivery(ACME, raw, None, None, app, *more))
        return found.get("queue id", "")[:9], found["sender"]

    assert told() == ("not known", "taken")
    assert told("4bXyz1") == ("", "taken")
    assert told("another") == told("") == ("", "held: From is not authenticated")
    assert told("4bXyz1", '"a b"@shop.example')[1].startswith("held: it may have made our server write false")
    app.records.database.close()


def test_a_dry_run_and_a_delivery_agree_on_mail_before_the_queue_and_after_it(place):
    app = embedded(place, ORDERFLOW_AUTHSERV_ID="mx.example")
    app.records.organizations.change_settings("acme", {"allowed_senders": "@shop.example"})
    raw = (
        b"Authentication-Results: mx.example; dkim=pass header.d=shop.example\n"
        b"Received: from x by y with ESMTP id 4bXyz1;\n\tnow\nFrom: a@shop.example\nSubject: x\n\nhi\n"
    )
    for listener, outcome in ((BEFORE_QUEUE, Outcome.HELD), ("", Outcome.DELIVERED)):
        is_before_queue = listener == BEFORE_QUEUE
        dry = dict(dry_run_delivery(ACME, raw, None, None, app, "4bXyz1", is_before_queue=is_before_queue))
        unseen = dict(dry_run_delivery(ACME, None, "a@shop.example", None, app, is_before_queue=is_before_queue))
        envelope = Envelope(ACME, datetime.now(UTC), queue_id="4bXyz1", listener=listener)
        assert deliver_from_memory(envelope, raw, app).outcome is outcome
        assert dry["outcome"].startswith(outcome.name) and unseen["outcome"].startswith(outcome.name)
    app.records.database.close()


def test_status_counts_what_postfix_holds_back_and_has_a_dash_where_there_is_none(quiet, place):
    assert status_of(quiet, "--postfix-config", str(place))["deferred_by_postfix"] is None
    postfix = Postfix(place / "postfix")
    postfix.configure(overrides=f"default_transport = smtp:[127.0.0.1]:{free_port()}\n")
    with postfix:
        for _ in range(2):
            assert send(postfix.smtp_port, "a@b.example", ["postmaster@far.example"], mail()).accepted
        told = wait_until(
            lambda: status_of(quiet, "--postfix-config", str(postfix.config_directory))["deferred_by_postfix"] == 2, 60
        )
        assert told, postfix.queue()
