"""orderflow-admin and orderflow-replay as programs, on the embedded default."""

import json
import re
import sqlite3

import pytest

from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import free_port, wait_until
from tests.support.mails import mail, order
from tests.support.operating import check, failing, rows

ACME = f"orders+acme@{DOMAIN}"


def test_init_is_safe_to_repeat_and_closes_the_state_directory(quiet):
    quiet.deliver(ACME, mail())
    assert "schema" in quiet.admin("init")
    assert len(quiet.messages()) == 1
    modes = {path.name: oct(path.stat().st_mode)[-3:] for path in quiet.state.iterdir()}
    assert modes["spool"] == modes["archive"] == "700"
    assert modes["orderflow.db"] == modes["queue.db"] == "600"
    assert modes["recipients.db"] == "644"
    assert oct(quiet.state.stat().st_mode)[-3:] == "711"


def test_organizations_are_added_listed_disabled_and_published_to_postfix(quiet):
    assert quiet.admin("org", "add", "nova", "--name", "Nova GmbH").strip() == f"added nova: orders+nova@{DOMAIN}"
    assert {row["slug"]: row["name"] for row in rows(quiet.admin("org", "list", "--json"))}["nova"] == "Nova GmbH"
    assert quiet.admin("org", "disable", "ACME").strip() == "disabled acme"
    with sqlite3.connect(quiet.state / "recipients.db") as published:
        assert published.execute("SELECT slug FROM recipient").fetchall() == [("nova",)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("org", "add", "acme"), "Error: an organization acme exists already"),
        (("org", "add", "Not/A/Slug"), "Error: a slug is of a-z, 0-9 and inner hyphens, at most 63 characters"),
        (("org", "disable", "nope"), "Error: no organization is named nope"),
        (("status", "--org", "nope"), "Error: no organization is named nope"),
        (
            ("init", "--settings", "/no/file"),
            "error: settings file /no/file cannot be read: ENOENT (No such file or directory)",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(quiet, arguments, said):
    assert failing(quiet, "orderflow-admin", *arguments) == said


def test_a_database_that_is_away_is_said_in_one_line_without_the_password(quiet):
    port = free_port()
    quiet.write_settings({"DATABASE_URL": f"postgresql://user:hidden@127.0.0.1:{port}/x"})
    for program, command in (("orderflow-admin", "status"), ("orderflow-admin", "list")):
        said = failing(quiet, program, command)
        assert said.startswith(f"error: database 127.0.0.1:{port}/x: OperationalError")
        assert "hidden" not in said


def wrong(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Return the parts that check is not content with."""
    return {part: finding for part, (finding, _) in found.items() if finding != "ok"}


def test_check_is_content_with_what_init_made(quiet):
    assert wrong(check(quiet, "--no-postfix")) == {"worker": "TROUBLE"}, "none runs"


def _remove(file: str):
    return lambda deployment: [path.unlink() for path in deployment.state.glob(file)]


def _open_settings(deployment: Deployment) -> None:
    deployment.settings_file.chmod(0o644)


def _open_spool(deployment: Deployment) -> None:
    (deployment.state / "spool").chmod(0o755)


def _forget_recipients(deployment: Deployment) -> None:
    with sqlite3.connect(deployment.state / "recipients.db") as published:
        published.execute("DELETE FROM recipient")


def _old_schema(deployment: Deployment) -> None:
    with sqlite3.connect(deployment.state / "orderflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0001'")


@pytest.mark.parametrize(
    ("fault", "part", "said"),
    [
        (_open_settings, "settings", "chmod 640"),
        (_open_spool, "spool", "chmod 700"),
        (lambda d: (d.state / "circuits").chmod(0o500), "breaker", "cannot be written by nobody, who delivers"),
        (
            lambda d: (d.state / "circuits" / "archive").touch(),
            "breaker",
            "archive: deliveries here have found it away",
        ),
        (
            lambda d: (d.state / "circuits" / "archive.7").touch(),
            "breaker",
            "found it away for 1 organizations, and defer",
        ),
        (_remove("orderflow.db*"), "database", "run orderflow-admin init"),
        (_remove("queue.db*"), "queue", "run orderflow-admin init"),
        (_old_schema, "schema", "version 0001, needed is 0013: run orderflow-admin init"),
        (lambda d: d.admin("org", "disable", "acme"), "organizations", "run orderflow-admin org add"),
        (_forget_recipients, "organizations", "differs from the table: run orderflow-admin init"),
        (lambda d: d.write_settings({"ARCHIVE_URL": "file:///proc/none"}), "archive", "file:///proc/none"),
        (
            lambda d: d.write_settings({"ORDERFLOW_DOCUMENT_HANDLER": "no.such:thing"}),
            "document handler",
            "no.such:thing",
        ),
    ],
    ids=[
        "settings",
        "spool",
        "breaker",
        "circuits",
        "away for one",
        "database",
        "queue",
        "schema",
        "organizations",
        "recipients",
        "archive",
        "handler",
    ],
)
def test_check_finds_what_is_wrong_and_says_what_to_do(quiet, fault, part, said):
    fault(quiet)
    finding, text = check(quiet, "--no-postfix")[part]
    assert finding == "TROUBLE"
    assert said in text


@pytest.mark.parametrize(
    ("main", "master", "said"),
    [
        ("", None, "settings agree"),
        ("message_size_limit = 52428800", None, "set message_size_limit = 26214400"),
        ("virtual_mailbox_domains = other.example", None, f"virtual_mailbox_domains does not name {DOMAIN}"),
        ("virtual_transport = lmtp:unix:private/x", None, "set virtual_transport = orderflow"),
        ("orderflow_destination_recipient_limit = 50", None, "set orderflow_destination_recipient_limit = 1"),
        ("orderflow_time_limit = 30s", None, "set orderflow_time_limit = 600s"),
        ("local_header_rewrite_clients = permit_inet_interfaces", None, "set local_header_rewrite_clients ="),
        ("virtual_mailbox_maps =", None, "virtual_mailbox_maps is empty"),
        ("virtual_mailbox_maps = static:yes", None, "knows an organization that cannot be"),
        ("virtual_mailbox_maps = sqlite:/nonexistent", None, "the recipient map cannot be read"),
        ("virtual_mailbox_maps = inline:{x=y}", None, f"does not know orders+acme@{DOMAIN}: its mail is refused"),
        ("", ("null_sender=", "null_sender=<>"), "null_sender= (empty) is missing"),
        ("", ("-- ${recipient}", "${recipient}"), "argv must end with: -- ${recipient}"),
        ("", ("user=nobody", "user=root"), "pipe(8) refuses user=root"),
        ("", ("user=nobody", "user=no-such-user"), "there is no user no-such-user"),
        ("", ("user=nobody", "user=daemon"), "is not daemon's, who delivers: chown -R daemon:"),
        ("", ("argv=", "argv=/nonexistent"), "is not there"),
        ("", ("orderflow ", "renamed "), "no service orderflow"),
    ],
)
def test_check_compares_postfix_with_the_settings(quiet, main, master, said):
    quiet.configure_postfix(overrides=main)
    file = quiet.postfix.config_directory / "master.cf"
    if master:
        assert master[0] in file.read_text()
        file.write_text(file.read_text().replace(*master))
    found = check(quiet, "--postfix-config", str(quiet.postfix.config_directory))
    assert said in str(found["postfix"])


def test_check_as_root_looks_with_the_eyes_of_who_delivers_and_leaves_nothing_of_root(quiet):
    quiet.user = "root"
    assert wrong(check(quiet, "--no-postfix")) == {"worker": "TROUBLE"}, "none runs"
    assert {path.owner() for path in quiet.state.rglob("*")} == {"nobody"}
    quiet.settings_file.chmod(0o600)
    assert (
        "cannot be read: EACCES (Permission denied); nobody, who delivers, must read it"
        in check(quiet, "--no-postfix")["settings"][1]
    )


def test_check_finds_what_a_worker_leaves_undone_and_what_was_set_aside(quiet):
    quiet.write_settings({"ORDERFLOW_LEASE": "0.1", "ORDERFLOW_SWEEP_AFTER": "0.1"})
    quiet.deliver(ACME, mail(1))
    assert wait_until(lambda: "does orderflow-worker run?" in check(quiet, "--no-postfix")["worker"][1], 60)


def test_what_root_runs_leaves_nothing_of_root_behind(quiet):
    quiet.write_settings({"DATABASE_URL": "postgresql://127.0.0.1:1/x", "ORDERFLOW_SPOOL_MODE": "accept"})
    quiet.deliver(ACME, mail(1))
    quiet.write_settings({})
    quiet.user = "root"
    assert "DELIVERED" in quiet.replay("spool")
    quiet.admin("org", "add", "beta")
    assert {path.owner() for path in quiet.state.rglob("*")} == {"nobody"}


def test_check_says_so_when_the_pipe_user_cannot_run_the_program(quiet):
    """Run by root, as an operator would, since it tries as that user."""
    closed = quiet.directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python3").symlink_to("/usr/bin/python3")
    quiet.configure_postfix()
    file = quiet.postfix.config_directory / "master.cf"
    file.write_text(re.sub(r"argv=\S+", f"argv={closed / 'python3'}", file.read_text()))
    quiet.user = "root"
    found = check(quiet, "--postfix-config", str(quiet.postfix.config_directory))
    assert "cannot be run as nobody" in found["postfix"][1]


def test_the_map_for_postgresql_names_the_database(quiet):
    quiet.write_settings({"DATABASE_URL": "postgresql://me:p%40ss@db.example:5433/orders"})
    lines = quiet.admin("postfix", "map", "--passfile", "/etc/pg pass").splitlines()
    url = "postgresql://me@db.example:5433/orders?connect_timeout=10&passfile=%2Fetc%2Fpg%20pass"
    assert f"hosts = {url}" in lines
    assert quiet.admin("postfix", "passfile") == "*:*:orders:me:p@ss\n"


def test_the_map_passes_on_what_libpq_is_told_and_its_password_stands_in_the_passfile_alone(quiet):
    quiet.write_settings({"DATABASE_URL": "postgresql://me:a%3Ab%5C@/d?sslmode=verify-full&host=x"})
    assert quiet.admin("postfix", "passfile") == "*:*:d:me:a\\:b\\\\\n"
    table = quiet.admin("postfix", "map")
    assert "sslmode=verify-full" in table and "me@x/d?" in table and "passfile=" in table and "a%3A" not in table
    quiet.write_settings({"DATABASE_URL": "postgresql://me@/orders?host=/run/postgresql"})
    assert "passfile=" not in quiet.admin("postfix", "map") and quiet.admin("postfix", "passfile") == ""


def test_no_map_is_printed_that_holds_a_secret_other_than_the_password(quiet):
    url = "postgresql://me:pw@db.example/orders?sslkey=/etc/k&sslpassword=hidden7Q"
    quiet.write_settings({"DATABASE_URL": url})
    ended = quiet.run("orderflow-admin", "postfix", "map", check=False)
    assert ended.returncode and "MAP_DATABASE_URL has sslpassword, and Postfix logs it" in ended.stderr
    assert "hidden7Q" not in ended.stdout + ended.stderr
    main = quiet.admin("postfix", "main", "--map", "database")
    assert "hidden7Q" not in main and "pgsql:" in main, "what holds no secret is printed"
    quiet.write_settings({"DATABASE_URL": url, "MAP_DATABASE_URL": "postgresql://map:pw@db.example/orders"})
    assert "hidden7Q" not in quiet.admin("postfix", "map")


def test_tls_can_be_required(quiet):
    quiet.write_settings({"ORDERFLOW_REQUIRE_TLS": "true", "ORDERFLOW_DOMAIN": "a.example, b.example"})
    main = quiet.admin("postfix", "main")
    assert "smtpd_tls_security_level = encrypt" in main
    assert "virtual_mailbox_domains = a.example, b.example" in main
    assert "abuse@b.example" in main


def test_status_shows_what_is_where(quiet):
    quiet.deliver(ACME, order(1))
    status = quiet.status()
    assert (status["messages_received"], status["tasks_waiting"], status["spool_entries"]) == (1, 1, 0)
    assert status["oldest_unfinished_message_at"] is not None
    lines = quiet.admin("status", "--org", "acme").splitlines()
    assert lines[1].split() == ["messages", "received", "1"]
    assert not any("spool" in line for line in lines), "a spool has no tenants"


def test_help_is_there_for_every_command(quiet):
    for program in ("orderflow-admin", "orderflow-replay"):
        for line in quiet.run(program, "--help").stdout.partition("Commands:\n")[2].splitlines():
            if not line:
                break
            assert "Usage:" in quiet.run(program, line.split()[0], "--help").stdout


HANDLERS = """
import ctypes, os, time

def once(order):
    mark = os.environ["MARK"]
    if not os.path.exists(mark):
        open(mark, "w").close()
        time.sleep(600)

def by_name(order):
    if "-666-" in order.document.filename:
        open(os.environ["MARK"], "w").close()
        time.sleep(600)

def poisoned(order):
    if "-667-" in order.document.filename:
        os.kill(os.getpid(), 9)
    if "-668-" in order.document.filename:
        bytearray(1 << 30)
    if "-669-" in order.document.filename:
        time.sleep(600)

def deaf(order):
    if "-666-" in order.document.filename:
        open(os.environ["MARK"], "w").close()
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)

class Panic(BaseException):  # what a library in Rust raises
    pass

def panics(order):
    if "-666-" in order.document.filename:
        raise Panic("secret 12 widgets")
"""


def with_handler(place, handler: str, lease: str, **settings: str) -> Deployment:
    """Set up a deployment whose worker has one of these handlers, and a file to tell that it hangs."""
    (place / "handlers.py").write_text(HANDLERS)
    own = {"ORDERFLOW_DOCUMENT_HANDLER": f"handlers:{handler}", "ORDERFLOW_LEASE": lease}
    deployment = Deployment(place / "deployment", own | settings)
    deployment.set_up("acme", "beta")
    surroundings = {"PYTHONPATH": str(place), "MARK": str(deployment.state / "mark")}
    deployment.worker.env = {**deployment.worker.env, **surroundings}
    return deployment


def test_a_worker_killed_in_mid_task_loses_nothing(place):
    """A handler that hangs for its first document, and a SIGKILL while it does."""
    deployment = with_handler(place, "once", lease="2")
    with deployment.worker as worker:
        deployment.deliver(ACME, order(1, attachments=3))
        assert wait_until((deployment.state / "mark").exists, 60)
        worker.kill()
        worker.start()
        deployment.wait_finished(1, timeout=150)
    (row,) = deployment.messages()
    assert row["status"] == "PARSED"
    assert {d["state"] for d in deployment.documents(row["id"])} == {"DONE"}


def test_a_handler_that_hangs_is_ended_and_the_other_orders_go_on(place):
    """Two workers, three documents that hang, and the order of another organization behind them."""
    deployment = with_handler(place, "by_name", lease="3")
    with deployment.worker:
        deployment.deliver(ACME, order(666, attachments=3))
        assert wait_until((deployment.state / "mark").exists, 60)
        deployment.deliver(f"orders+beta@{DOMAIN}", order(1, attachments=1))

        def is_handed_over() -> bool:
            found = [row for row in deployment.messages() if row["subject"] == "Order 1" and row["status"] == "PARSED"]
            return bool(found) and {d["state"] for d in deployment.documents(found[0]["id"])} == {"DONE"}

        assert wait_until(is_handed_over, 60, interval=0.5)
        ended = [r for r in deployment.log_records() if r.get("error") == "TaskDeadlineReached"]
        assert {r["where"].split(":")[0] for r in ended} == {"TaskDeadlineReached at handlers.py"}


def test_a_handler_that_never_comes_back_to_python_is_ended_before_its_lease_and_given_up(place):
    """More such documents than there are workers, which no signal's handler reaches, and an order behind them."""
    deployment = with_handler(place, "deaf", lease="3")
    with deployment.worker, deployment.new_sweeper():
        deployment.deliver(ACME, order(666, attachments=3))
        assert wait_until((deployment.state / "mark").exists, 60)
        deployment.deliver(f"orders+beta@{DOMAIN}", order(1, attachments=1))
        deployment.wait_finished(2, timeout=240)
    states = {
        row["subject"]: {d["state"] for d in deployment.documents(row["id"]) if d["filename"]}
        for row in deployment.messages()
    }
    assert states == {"Order 666": {"FAILED"}, "Order 1": {"DONE"}}
    said = (deployment.directory / "worker.log").read_text()
    assert "Timeout (0:00:02.7" in said and 'handlers.py", line' in said and "12 widgets" not in said


def test_whatever_a_handler_raises_is_noted_and_its_text_told_nowhere(place):
    deployment = with_handler(place, "panics", lease="60")
    with deployment.worker, deployment.new_sweeper():
        deployment.deliver(ACME, order(666, attachments=1))
        deployment.wait_finished(1, timeout=120)
    (row,) = deployment.messages()
    (failed,) = [one for one in deployment.documents(row["id"]) if one["state"] == "FAILED"]
    records = deployment.log_records()
    assert [r["error"] for r in records if r["message"] == "Hand-over failed for good."] == ["Panic"]
    assert "secret" not in (deployment.directory / "worker.log").read_text() + json.dumps(records) + json.dumps(failed)


def test_documents_that_kill_hang_or_swell_their_worker_are_given_up_after_the_third_time(place):
    """Two workers, and an order of each kind; what came behind them is handed over all the same."""
    deployment = with_handler(place, "poisoned", lease="3", ORDERFLOW_TASK_MEMORY=str(700 << 20))
    with deployment.worker, deployment.new_sweeper():
        for number in (667, 668, 669, 1, 2):
            deployment.deliver(ACME, order(number, attachments=1))
        deployment.wait_finished(5, timeout=240)
        given_up = {
            record["error"]: record["attempt"]
            for record in deployment.log_records()
            if record.get("action") == "hand_over" and record["message"] == "Hand-over failed for good."
        }
    assert given_up == {"AttemptLost": 3, "MemoryError": 3, "TaskDeadlineReached": 3}
    states = {
        row["subject"]: {d["state"] for d in deployment.documents(row["id"]) if d["filename"]}
        for row in deployment.messages()
    }
    failed, done = {"FAILED"}, {"DONE"}
    assert states == {
        "Order 667": failed, "Order 668": failed, "Order 669": failed, "Order 1": done, "Order 2": done,
    }  # fmt: skip
