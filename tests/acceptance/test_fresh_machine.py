"""What every program says on a machine that is not set up, or wrongly: the settings, the database, the next command.

A table of cases against all programs. Each error names the settings file that was in force and the database that was
asked, and no password. The programs of operators are forked from a process that has loaded them, the others started.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import warm
from tests.support.lab.process import Process, free_port, wait_until
from tests.support.mails import mail

PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
SECRET = "not-for-any-log"
ACME = "orders+acme@orderflow.example.com"
INIT = "run orderflow-admin init"
# Every command that needs the database.
ASKING = (
    ("orderflow-admin", "status"),
    ("orderflow-admin", "status", "--by-org"),
    ("orderflow-admin", "org", "add", "acme"),
    ("orderflow-admin", "org", "list"),
    ("orderflow-admin", "org", "show", "acme"),
    ("orderflow-admin", "org", "set", "acme", "reused_message_id=hold"),
    ("orderflow-admin", "org", "disable", "acme"),
    ("orderflow-admin", "org", "test", ACME),
    ("orderflow-admin", "find", "4711"),
    ("orderflow-admin", "show", "<order-4711@shop.example>"),
    ("orderflow-admin", "canary", "--server", "127.0.0.1:1"),
    ("orderflow-admin", "reconcile"),
    ("orderflow-admin", "retention", "--yes"),
    ("orderflow-admin", "list"),
    ("orderflow-admin", "documents", "00000000-0000-4000-8000-000000000000"),
    ("orderflow-replay", "message", "--org", "acme", "--yes"),
    ("orderflow-admin", "held"),
    ("orderflow-admin", "runs"),
)
STARTED = (("orderflow-console", "user", "add", "anna"), ("orderflow-metrics", "--once"))
SPOOLED = (("orderflow-replay", "spool"), ("orderflow-admin", "dead"), ("orderflow-replay", "archive", "--yes"))
ALL = (*ASKING, *STARTED, *SPOOLED, ("orderflow-admin", "init"), ("orderflow-admin", "check", "--no-postfix"))


@pytest.fixture
def home(place) -> Iterator[Path]:
    """Return a directory of nobody, who runs the programs."""
    shutil.chown(place, "nobody", "nogroup")
    yield place


def write(place: Path, **settings: str) -> Path:
    file = place / "ingest.env"
    values = {"ORDERFLOW_STATE_DIR": str(place / "state"), "ORDERFLOW_HANDLER_TOKEN": SECRET, **settings}
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    file.chmod(0o640)
    shutil.chown(file, "root", "nogroup")
    return file


def run(command: tuple[str, ...], place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as nobody; its answer to questions is a password."""
    env = {**ENVIRONMENT, "HOME": str(place), **environment}
    who = {"user": "nobody", "group": "nogroup", "extra_groups": [], "umask": 0o022}
    if command[0] in warm.PROGRAMS:
        from grp import getgrnam

        ended = warm.run(PROGRAMS / command[0], command[1:], env, {**who, "group": getgrnam("nogroup").gr_gid}, 120)
    else:
        words = [str(PROGRAMS / command[0]), *command[1:]]
        ended = subprocess.run(words, env=env, cwd="/", input="correct horse\n", text=True, capture_output=True, **who)
    assert SECRET not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, (command, ended.stderr)
    return ended


def failures(commands, said: tuple[str, ...], place: Path, **environment: str) -> list[str]:
    """Run commands that must fail in one line that says all of this; give those that do not."""
    found = []
    for command in commands:
        ended = run(command, place, **environment)
        is_metrics = command[0] == "orderflow-metrics"  # it shows the parts that are there, and logs the others
        last = ended.stderr if is_metrics else (ended.stderr.strip().splitlines() or [""])[-1]
        wanted = [text for text in said if not (is_metrics and text.startswith("settings: "))]
        if ended.returncode != (0 if is_metrics else 1) or not all(text in last for text in wanted):
            found.append(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    return found


def test_without_tables_every_program_names_file_and_database_and_says_init(home):
    file = write(home)
    said = (f"{home}/state/orderflow.db: SQLITE_CANTOPEN: there is no such file: {INIT}", f"settings: {file}")
    assert failures((*ASKING, *STARTED), said, home, ORDERFLOW_SETTINGS=str(file)) == []
    said = (f"{home}/state/", INIT, f"settings: {file}")
    assert failures(SPOOLED, said, home, ORDERFLOW_SETTINGS=str(file)) == []


def test_a_forgotten_settings_file_is_what_every_program_speaks_of(home):
    said = (f"{home}/.local/state/orderflow/", INIT, "settings: none (no --settings, no $ORDERFLOW_SETTINGS, no /etc/")
    assert failures((*ASKING[:3], *STARTED, *SPOOLED), said, home) == []


def test_a_server_that_does_not_answer_is_named_without_its_password(home):
    port = free_port()
    file = write(home, DATABASE_URL=f"postgresql://of:{SECRET}@127.0.0.1:{port}/orders")
    said = (f"127.0.0.1:{port}/orders: OperationalError: no PostgreSQL listens there", f"settings: {file}")
    assert failures((*ASKING, *STARTED, ("orderflow-admin", "init")), said, home, ORDERFLOW_SETTINGS=str(file)) == []


def test_a_postgresql_database_without_tables_asks_for_init(home, postgres):
    name = f"fresh_{os.getpid()}"
    postgres.create_owned_database(name, name)
    url = postgres.url(name, name).replace("+psycopg", "")
    file = write(home, DATABASE_URL=url)
    said = (f"127.0.0.1:{postgres.port}/{name}: 42", INIT, f"settings: {file}")
    assert failures((*ASKING, *STARTED), said, home, ORDERFLOW_SETTINGS=str(file)) == []
    found = check(home, file)
    assert {part: text for part, (level, text) in found.items() if level == "TROUBLE" and INIT not in text} == {}


@pytest.mark.parametrize("slip", ["ORDERFLOW_DEADLNE=5", f"ORDERFLOW_DEADLINE={SECRET}", f"DATABASE_URL=x:{SECRET}@"])
def test_every_program_says_the_line_of_what_is_wrong_in_the_settings(home, slip):
    file = write(home)
    file.write_text(f"# ours\n{slip}\n")
    file.chmod(0o644)
    said = (f"error: settings file {file}, line 2: ", slip.partition("=")[0])
    settings = {"ORDERFLOW_SETTINGS": str(file)}
    commands = [one for one in ALL if one[0] != "orderflow-metrics"]
    assert failures((*commands, ("orderflow-service",), ("orderflow-console", "serve")), said, home, **settings) == []
    assert said[0] in run(("orderflow-metrics", "--once"), home, **settings).stderr
    worker = run(("huey_consumer", "orderflow_ingest.tasks.huey"), home, **settings)
    assert (worker.returncode, worker.stdout, worker.stderr.count("\n")) == (78, "", 1)
    assert worker.stderr.startswith(said[0])
    command = [PROGRAMS / "orderflow-deliver", "--settings", file, "--", ACME]
    delivered = subprocess.run(command, input=mail(), capture_output=True, env=ENVIRONMENT, cwd="/", user="nobody")
    assert (delivered.returncode, delivered.stderr) == (75, b"")
    assert delivered.stdout == b"4.3.5 this system is not configured correctly, try again later"


def check(place: Path, file: Path) -> dict[str, tuple[str, str]]:
    ended = run(("orderflow-admin", "check", "--no-postfix", "--json"), place, ORDERFLOW_SETTINGS=str(file))
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return {row["part"]: (row["finding"], row["detail"]) for row in rows}


def test_check_leads_from_an_empty_machine_to_one_that_takes_mail(home):
    """Each order of check is carried out; what it asks for is there before it asks for the next."""
    file = write(home)
    orders = {part: text for part, (level, text) in check(home, file).items() if level == "TROUBLE"}
    assert set(orders) == {"spool", "breaker", "archive", "database", "schema", "queue", "organizations"}
    assert all(INIT in text and "chmod" not in text and "chown" not in text for text in orders.values()), orders
    assert run(("orderflow-admin", "init"), home, ORDERFLOW_SETTINGS=str(file)).returncode == 0
    orders = {part: text for part, (level, text) in check(home, file).items() if level == "TROUBLE"}
    assert set(orders) == {"organizations", "worker"} and "run orderflow-admin org add SLUG" in orders["organizations"]
    assert run(("orderflow-admin", "org", "add", "acme"), home, ORDERFLOW_SETTINGS=str(file)).returncode == 0
    assert {part for part, (level, _) in check(home, file).items() if level == "TROUBLE"} == {"worker"}


def test_a_state_directory_that_cannot_be_made_is_told_by_its_name(home):
    (home / "state").write_text("a file")
    ended = run(("orderflow-admin", "init"), home, ORDERFLOW_SETTINGS=str(write(home)))
    assert ended.returncode == 1 and f"error: {home}/state" in ended.stderr


def test_init_by_root_says_whose_the_state_directory_then_is(place):
    env = {**ENVIRONMENT, "HOME": str(place), "ORDERFLOW_SETTINGS": str(write(place))}
    ended = subprocess.run([PROGRAMS / "orderflow-admin", "init"], env=env, capture_output=True, text=True)
    assert ended.returncode == 0 and f"chown -R USER: {place}/state" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("orderflow-service",),
        ("orderflow-console", "serve"),
        ("orderflow-metrics",),
        ("huey_consumer", "orderflow_ingest.tasks.huey", "-k", "process", "-w", "1", "--quiet"),
    ],
    ids=lambda command: command[0],
)
def test_what_serves_says_at_its_start_which_settings_it_has_and_that_init_is_missing(home, command):
    file = write(home, ORDERFLOW_METRICS=f"unix:{home}/metrics", ORDERFLOW_CONSOLE=f"unix:{home}/console")
    env = {**ENVIRONMENT, "HOME": str(home), "ORDERFLOW_SETTINGS": str(file)}
    words = [PROGRAMS / command[0], *command[1:]]
    log = home / "log"
    process = Process(words, log, user="nobody", env=env, stop_signal=signal.SIGINT)
    with process:
        assert wait_until(lambda: f"spool is not there: {INIT}" in log.read_text(), 60)
        started = next(json.loads(line) for line in log.read_text().splitlines() if '"settings"' in line)
    assert (started["settings"], SECRET in log.read_text()) == (str(file), False)


def test_a_queue_that_is_away_is_one_record_a_minute_for_each_process(home):
    """Huey's own would be a traceback for each of several tries a second."""
    file = write(home)
    env = {**ENVIRONMENT, "HOME": str(home), "ORDERFLOW_SETTINGS": str(file)}
    words = [PROGRAMS / "huey_consumer", "orderflow_ingest.tasks.huey", "-k", "process", "-w", "1", "-m", "0.1", "-v"]
    log = home / "log"
    process = Process(words, log, user="nobody", env=env, stop_signal=signal.SIGINT)
    with process:
        assert wait_until(lambda: log.read_text().count("Sleeping for") > 20, 60)
    assert 1 <= log.read_text().count("Queue could not be asked.") <= 2  # the worker's and the scheduler's
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_handlers_own_settings_are_in_its_environment(home, where):
    """The units read worker.env into the environment; the settings file is read by the program."""
    file = write(home)
    if where == "environment":
        file.write_text(f"ORDERFLOW_STATE_DIR={home}/state\n")
    code = "import os; from orderflow_ingest import tasks; print(len(os.environ['ORDERFLOW_HANDLER_TOKEN']))"
    own = {"ORDERFLOW_HANDLER_TOKEN": SECRET} if where == "environment" else {}
    env = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(file), **own}
    ended = subprocess.run([sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == (f"{len(SECRET)}\n", "")
