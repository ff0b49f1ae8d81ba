"""orderflow-console as a program: where it listens, what it refuses, and PostgreSQL behind it."""

import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.console.app import create_app
from orderflow_ingest.storage.database import Records
from tests.support.console import as_user, filled_with_an_hour, found, made_users, message_of, opened, url_of
from tests.support.fakes import embedded
from tests.support.lab.process import Process, wait_until
from tests.support.mailroom import Mailroom

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Return the directory of a deployment with an hour of mail."""
    return filled_with_an_hour(tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="module")
def room(filled) -> SimpleNamespace:
    """Return the deployment for tests that only look."""
    return opened(filled)


@pytest.fixture
def empty(place) -> Path:
    os.chown(place, os.geteuid(), os.getegid())
    embedded(place).records.database.close()
    return place


PROGRAM = "from orderflow_ingest.entrypoints.console.main import main; main()"


def test_the_program_answers_at_a_unix_socket_until_it_is_told_to_end(empty):
    socket_path = empty / "console.sock"
    environment = {**_python(), "ORDERFLOW_STATE_DIR": str(empty), "ORDERFLOW_SETTINGS": "/dev/null"}
    environment |= {"ORDERFLOW_CONSOLE": f"unix:{socket_path}", "PYTHONPATH": str(ROOT), "ORDERFLOW_LOG": "stderr"}
    command = [sys.executable, "-c", PROGRAM, "serve"]
    process = Process(command, empty / "log", env=environment, ready=socket_path.exists)
    with process, socket.socket(socket.AF_UNIX) as client:
        assert wait_until(lambda: client.connect_ex(str(socket_path)) == 0, 60)
        client.sendall(
            b"GET /messages HTTP/1.0\r\nHost: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"
        )
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
        assert answer.startswith("HTTP/1.0 303") and "\r\nLocation: /login?next=/messages\r\n" in answer
        assert "Server:" not in answer
        assert oct(socket_path.stat().st_mode)[-3:] == "660"
        second = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert second.returncode == 1 and "another program listens here" in second.stderr.splitlines()[-1]
        assert socket_path.exists(), "the first one keeps its socket"
        os.kill(process.pid, signal.SIGTERM)
        assert wait_until(lambda: not process.running, 60)
        assert process._child.returncode == 0
    assert "nobody can log in yet: orderflow-console user add NAME" in process.tail()


def test_a_place_that_cannot_be_listened_at_is_told_in_one_line(empty):
    environment = {"ORDERFLOW_STATE_DIR": str(empty), "ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_LOG": "/dev/null"}
    environment |= {"ORDERFLOW_CONSOLE": f"unix:{empty}/no/such/console.sock", **_python(), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, "serve"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("Error: cannot listen at unix:")


def test_a_proxy_is_not_believed_at_a_port_where_any_user_of_the_host_could_be_one(empty):
    environment = {"ORDERFLOW_STATE_DIR": str(empty), "ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_LOG": "/dev/null"}
    environment |= {"ORDERFLOW_CONSOLE_PROXY_HEADER": "X-User", **_python(), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, "serve"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1 and "ORDERFLOW_CONSOLE=unix:/path" in ended.stderr


def test_without_the_extra_the_program_says_what_to_install():
    code = "import sys; sys.modules['flask'] = None; from orderflow_ingest.entrypoints.console.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=_python())
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: flask is missing: pip install 'orderflow-ingest[console]'\n"


def _python() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"}


def test_a_deployment_on_postgresql_is_shown_as_one_on_sqlite(place, postgres):
    """The operator's role, with row-level security, sees what the owner of an SQLite file does."""
    from orderflow_ingest.entrypoints.admin import roles
    from orderflow_ingest.storage.database import schema

    url = postgres.create_database(f"console_{uuid4().hex}")
    owner = Records(url)
    schema.upgrade(owner.database)
    for slug in ("acme", "beta"):
        owner.organizations.add(slug, slug)
    postgres.run_script(url.rpartition("/")[2], roles.postgresql(load(environ={"DATABASE_URL": url}), "public"))
    role = f"console_{uuid4().hex[:8]}"
    postgres.create_role(role, "orderflow_operator")
    embedded_app = embedded(place, ORDERFLOW_MAX_LAG="0")
    mailroom = Mailroom(replace(embedded_app, records=owner), datetime.now(UTC))
    mailroom.deliver(mailroom.order("acme"), "acme", 59)
    mailroom.work()
    users = made_users(place / "users.json")
    app = replace(embedded_app, records=Records(postgres.url(url.rpartition("/")[2], role)))
    room = SimpleNamespace(app=app, flask=create_app(app, users))
    message = message_of(app, "acme")
    for name in ("anna", "ben"):
        client = as_user(room, name)
        for period in ("1h", "24h", "7d"):
            page = client.get(f"/?period={period}").text
            assert 'data-label="Received">1<' in page
        assert found(client, words=re.search(r"\d+", message.subject)[0]) == [str(message.id)]
        assert "EXTRACTED" in client.get(url_of(app, message)).text
        for path in ("/messages?sender=a%00@b", "/?org=%00", f"/messages/a%00/{message.id}"):
            assert client.get(path).status_code == 400, "PostgreSQL knows no such text"
    assert as_user(room, "anna").get("/?org=beta").status_code == 200
    app.records.database.close()
    owner.database.close()
