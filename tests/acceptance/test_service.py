"""The warm service and its thin client, as processes: what they do together, and when one of them fails."""

import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

import orderflow_ingest
from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.entrypoints import pipe
from orderflow_ingest.pipeline.receive import drain
from orderflow_ingest.storage import spool_entry
from orderflow_ingest.storage.database import Filter
from orderflow_ingest.storage.envelope_header import encode_envelope
from tests.support.crash import kill_at, points
from tests.support.lab.deployment import DOMAIN, ENVIRONMENT, PROGRAMS, Deployment
from tests.support.lab.process import Process, scratch, wait_until
from tests.support.mails import mail, order

ACME = f"orders+acme@{DOMAIN}"
PACKAGES = Path(subprocess.check_output(
    [PROGRAMS / "python3", "-c", "import orderflow_ingest as o; print(o.__path__[0])"], cwd="/", text=True
).strip()).parent  # fmt: skip
CODE = "import sys; sys.path.insert(0, {!r}); from orderflow_ingest.entrypoints.pipe import main; main()"


def client(path: Path | str | None, recipient: str = ACME, *options: str) -> list[str]:
    """Return the command that pipe(8) starts, see postfix/."""
    to = ["--socket", str(path)] if path else []
    python = [str(PROGRAMS / "python3"), "-I", "-S", "-c", CODE.format(str(PACKAGES))]
    return [*python, *to, "--sender", "buyer@shop.example", "--queue-id", "4X", *options, "--", recipient]


def run(deployment: Deployment, raw: bytes, *options: str, path=None, recipient=ACME) -> tuple[int, bytes]:
    """Deliver a message through the service, or through whoever listens at `path`."""
    command = client(path or deployment.sockets / "deliver.sock", recipient, *options)
    environment = {**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)}
    ended = subprocess.run(
        command, input=raw, env=environment, cwd="/", timeout=60, capture_output=True, **deployment.credentials()
    )
    assert not ended.stderr, ended.stderr
    return ended.returncode, ended.stdout


def means(outcome: Outcome) -> tuple[int, bytes]:
    return outcome.exit_status, outcome.line


def spooled(deployment: Deployment) -> list[str]:
    spool = deployment.state / "spool"
    return [f"{state}/{name}" for state in ("tmp", "new") for name in os.listdir(spool / state)]


def health(deployment: Deployment) -> dict:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(10)
        asking.connect(str(deployment.sockets / "deliver.sock"))
        asking.sendall(b"health\n")
        return json.loads(asking.makefile().readlines()[1])


def ask(deployment: Deployment, line: bytes) -> bytes:
    """Speak to the service by hand, as the deployment's user would."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(deployment.sockets / "deliver.sock"))
        file = asking.makefile("rb")
        file.readline()
        asking.sendall(line + b"\n")
        return file.readline()


@contextmanager
def new_deployment(settings: dict[str, str] | None = None) -> Iterator[Deployment]:
    """Set up a deployment; its service is started by who needs it, and killed at the end."""
    with scratch() as place:
        deployment = Deployment(place, settings)
        deployment.set_up("acme")
        try:
            yield deployment
        finally:
            deployment.service.kill()


@pytest.fixture
def deployment():
    with new_deployment() as deployment:
        yield deployment


@pytest.fixture(scope="module")
def served():
    """A deployment with its service, for tests that leave it as it is."""
    with new_deployment() as deployment, deployment.service:
        yield deployment


@pytest.fixture
def hanging():
    """A deployment whose archive accepts connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        s3 = {
            "ARCHIVE_URL": "s3://orders", "S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-central-1",
        }  # fmt: skip
        with new_deployment() as deployment:
            deployment.write_settings(s3)
            yield deployment


# What it does


def test_a_message_is_delivered_and_known_again(served):
    assert run(served, order(1)) == means(Outcome.DELIVERED)
    assert run(served, order(1)) == means(Outcome.DUPLICATE)
    assert run(served, order(1).replace(b"Order", b"Odour")) == means(Outcome.HELD)
    assert spooled(served) == []
    (row,) = (row for row in served.messages() if row["subject"] == "Order 1")
    assert row["sender"] == "buyer@shop.example"
    assert served.status()["tasks_waiting"] >= 1


@pytest.mark.parametrize(
    ("raw", "recipient", "outcome"),
    [
        (b"just words\n", ACME, Outcome.MALFORMED),
        (mail(2), f"orders+nobody@{DOMAIN}", Outcome.UNKNOWN_ORG),
        (mail(3), "orders+acme@elsewhere.example", Outcome.MISCONFIGURED),
        (mail(4)[:-1], ACME, Outcome.TRUNCATED),
        (mail(5, b"x" * (26 << 20) + b"\n"), ACME, Outcome.TOO_BIG),
    ],
    ids=lambda value: value.name if isinstance(value, Outcome) else "",
)
def test_the_client_ends_as_the_same_delivery_in_process_does(served, raw, recipient, outcome):
    assert run(served, raw, recipient=recipient) == means(outcome)
    assert spooled(served) == []


def test_the_shell_script_takes_the_socket_too(served):
    before = health(served)["deliveries"]
    ended = served.deliver(ACME, order(6), "--socket", str(served.sockets / "deliver.sock"))
    assert (ended.returncode, ended.stdout) == (0, Outcome.DELIVERED.line.strip())
    assert health(served)["deliveries"] == before + 1


def test_health_tells_who_serves_and_what_ended_how(served):
    run(served, order(7))
    found = health(served)
    assert found["version"] == orderflow_ingest.__version__
    assert found["pid"] == served.service.pid and found["user"] == served.user
    assert found["spool"] == str(served.state / "spool")
    assert found["busy"] == found["in_flight"] == found["overdue"] == 0
    assert found["outcomes"]["DELIVERED"] >= 1 and found["deliveries"] == sum(found["outcomes"].values())


def test_bytes_that_are_no_utf8_in_an_address_do_no_harm(served):
    odd = b"b\xfcyer@shop.example"
    command = client(served.sockets / "deliver.sock", ACME)
    command[command.index("buyer@shop.example")] = odd
    ended = subprocess.run(
        command, input=order(8), env=ENVIRONMENT, cwd="/", capture_output=True, **served.credentials()
    )
    assert (ended.returncode, ended.stdout) == means(Outcome.DELIVERED)


def test_the_client_lets_out_the_statuses_of_the_outcomes_and_no_other():
    """It cannot import them: that would cost as much as all else that it imports."""
    assert {int(status) for status in pipe.STATUSES} == {outcome.exit_status for outcome in Outcome}


# What it costs


def test_the_client_imports_built_in_modules_and_three_small_ones_of_ours(served):
    command = client(served.sockets / "deliver.sock")
    command[1:1] = ["-X", "importtime"]
    ended = subprocess.run(
        command, input=order(20), env=ENVIRONMENT, cwd="/", capture_output=True, text=False, **served.credentials()
    )
    assert ended.returncode == 0
    imported = {line.split("|")[-1].strip() for line in ended.stderr.decode().splitlines()[1:]}
    bare = subprocess.run([sys.executable, "-I", "-S", "-X", "importtime", "-c", ""], capture_output=True, text=True)
    start = {line.split("|")[-1].strip() for line in bare.stderr.splitlines()[1:]}
    ours = {"", ".entrypoints", ".entrypoints.pipe", ".storage", ".storage.spool_entry", ".storage.fsync"}
    assert imported - start - set(sys.builtin_module_names) == {f"orderflow_ingest{name}" for name in ours}


# A process that forks is itself counted in what its child has used at the most, so a small one starts the client.
SPAWNER = (
    "import os, sys; os.spawnv(0, sys.argv[1], sys.argv[1:]); print(__import__('resource').getrusage(-1).ru_maxrss)"
)


def test_the_clients_memory_does_not_grow_with_the_message(served):
    raw = mail(21, b"x" * 76 + b"\n" + (b"y" * 76 + b"\n") * 320000)
    command = [sys.executable, "-I", "-S", "-c", SPAWNER, *client(served.sockets / "deliver.sock")]
    ended = subprocess.run(command, input=raw, capture_output=True, env=ENVIRONMENT, cwd="/", **served.credentials())
    answer, peak = ended.stdout.splitlines()
    assert answer + b"\n" == Outcome.DELIVERED.line
    assert int(peak) < 16 << 10, "KiB"


# Nobody listens, or somebody else


def test_without_a_service_the_same_delivery_runs_in_process(deployment):
    assert run(deployment, order(30)) == means(Outcome.DELIVERED)
    assert run(deployment, order(30)) == means(Outcome.DUPLICATE)
    assert any(r["message"] == "Service could not be asked." for r in deployment.log_records())
    assert spooled(deployment) == []


def test_a_socket_that_a_killed_service_left_is_nobody_and_is_replaced(deployment):
    deployment.service.start()
    deployment.service.kill()
    assert (deployment.sockets / "deliver.sock").exists()
    assert run(deployment, order(31)) == means(Outcome.DELIVERED)
    deployment.service.start()
    assert run(deployment, order(32)) == means(Outcome.DELIVERED)
    assert health(deployment)["deliveries"] == 1


def test_a_second_service_does_not_take_the_first_ones_sockets(served):
    ended = served.run("orderflow-service", check=False)
    assert ended.returncode == 1 and "another program listens here" in ended.stderr
    assert health(served)["pid"] == served.service.pid


def test_a_service_that_is_stopped_before_its_greeting_is_not_waited_for(deployment):
    with deployment.service:
        os.kill(deployment.service.pid, signal.SIGSTOP)
        try:
            assert run(deployment, order(33)) == means(Outcome.DELIVERED)
        finally:
            os.kill(deployment.service.pid, signal.SIGCONT)


STRANGER = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
server.listen(5)
while True:
    connection, _ = server.accept()
    connection.sendall(b"orderflow 1 100000000 60 " + sys.argv[2].encode() + b"\\n")
    connection.recv(1000)
    connection.sendall(b"0 2.0.0 message recorded\\n")
"""


def test_a_socket_that_another_user_listens_at_is_not_trusted(deployment, place):
    place.chmod(0o777)
    path = place / "deliver.sock"
    theirs = Process([sys.executable, "-c", STRANGER, path, place], place / "log", ready=path.exists, user="games")
    with theirs:
        assert run(deployment, order(34), path=path) == means(Outcome.DELIVERED)
    assert len(deployment.messages()) == 1


def test_another_user_cannot_deliver(deployment):
    with deployment.service:
        path = deployment.sockets / "deliver.sock"
        code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(100))"
        command = ["setpriv", "--reuid=games", "--clear-groups", sys.executable, "-c", code, path]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "PermissionError" in refused.stderr
        path.chmod(0o777)
        assert subprocess.run(command, capture_output=True, text=True).stdout == "b''\n"
        strangers = [
            r for r in deployment.log_records() if r["message"].startswith("Connection to deliver.sock was refused")
        ]
        assert [record["uid"] for record in strangers] == [pwd.getpwnam("games").pw_uid]


class FakeService(threading.Thread):
    """Listens as a service does, and does with each connection what a test wants; `names` are what it was asked."""

    def __init__(self, path: Path, greeting: bytes, answer: bytes | None):
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        path.chmod(0o777)
        self._server.listen(5)
        self._greeting, self._answer, self.names, self._held = greeting, answer, [], []

    def run(self):
        while True:
            connection, _ = self._server.accept()
            connection.sendall(self._greeting)
            self.names.append(connection.makefile("rb").readline())
            if self._answer is None:
                self._held.append(connection)
            else:
                connection.sendall(self._answer)
                connection.close()


def greeting(deployment: Deployment, patience: float = 30) -> bytes:
    return b"orderflow 1 26214400 %g %s\n" % (patience, os.fsencode(deployment.state / "spool"))


@pytest.mark.parametrize(
    ("answer", "patience", "outcome"),
    [
        (b"", 30, Outcome.INTERNAL),
        (b"0 2.0.0 message rec", 30, Outcome.INTERNAL),
        (None, 1, Outcome.DEADLINE),
        (b"1 something else\n", 30, Outcome.INTERNAL),
        (b"HTTP/1.1 200 OK\n", 30, Outcome.INTERNAL),
    ],
    ids=["dies", "dies within the answer", "hangs", "a status that bounces", "no service"],
)
def test_a_service_that_does_not_answer_leaves_the_message_to_postfix(deployment, place, answer, patience, outcome):
    place.chmod(0o755)
    service = FakeService(place / "deliver.sock", greeting(deployment, patience), answer)
    service.start()
    assert run(deployment, order(35), path=place / "deliver.sock") == means(outcome)
    assert len(service.names) == 1
    assert spooled(deployment) == []
    assert run(deployment, order(35)) == means(Outcome.DELIVERED)


def test_an_entry_that_the_service_is_at_is_not_withdrawn(deployment, place):
    """The service hangs with the entry's lock; what it does with it in the end is its own."""
    place.chmod(0o755)
    service = FakeService(place / "deliver.sock", greeting(deployment, 3), None)
    service.start()
    ended = []
    asking = threading.Thread(target=lambda: ended.append(run(deployment, order(36), path=place / "deliver.sock")))
    asking.start()
    assert wait_until(lambda: service.names, 60)
    fd = spool_entry.lock_entry(str(deployment.state / "spool" / "new" / service.names[0].decode().strip()))
    asking.join()
    assert ended == [means(Outcome.DEADLINE)]
    assert len(spooled(deployment)) == 1
    os.close(fd)
    assert "DELIVERED" in deployment.replay("spool")
    assert run(deployment, order(36)) == means(Outcome.DUPLICATE)


def test_a_full_backlog_is_not_waited_for_long(deployment, place):
    place.chmod(0o755)
    path = place / "deliver.sock"
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as first:
        deaf.bind(str(path))
        path.chmod(0o777)
        deaf.listen(0)
        first.connect(str(path))
        assert run(deployment, order(37), path=path) == means(Outcome.DELIVERED)


# It fails in the middle


def test_a_service_that_is_killed_in_mid_delivery_defers_and_leaves_no_entry(hanging):
    hanging.service.start()
    ended = []
    asking = threading.Thread(target=lambda: ended.append(run(hanging, order(40))))
    asking.start()
    assert wait_until(lambda: health(hanging)["busy"] == 1, 60, interval=0.1)
    assert health(hanging)["in_flight"] > len(order(40))
    hanging.service.kill()
    asking.join()
    assert ended == [means(Outcome.INTERNAL)]
    assert spooled(hanging) == []
    hanging.write_settings({})
    hanging.service.start()
    assert run(hanging, order(40)) == means(Outcome.DELIVERED)
    assert len(hanging.messages()) == 1


def test_a_delivery_that_hangs_is_answered_at_its_deadline(hanging):
    hanging.write_settings({**settings_of(hanging), "ORDERFLOW_DEADLINE": "1", "ORDERFLOW_CONCURRENCY": "1"})
    with hanging.service:
        assert run(hanging, order(41)) == means(Outcome.DEADLINE)
        assert health(hanging)["overdue"] == 1
        assert run(hanging, order(42)) == means(Outcome.OVERLOADED), "the only place is held"
        assert len(spooled(hanging)) == 1, "the one that the service is at"


def test_bytes_beyond_the_bound_defer(hanging):
    hanging.write_settings({**settings_of(hanging), "ORDERFLOW_MAX_IN_FLIGHT": "5000"})
    with hanging.service:
        first = threading.Thread(target=lambda: run(hanging, mail(43, b"x" * 6000 + b"\n")))
        first.start()
        assert wait_until(lambda: health(hanging)["busy"] == 1, 60, interval=0.1)
        assert run(hanging, order(44)) == means(Outcome.OVERLOADED)
        assert len(spooled(hanging)) == 1
    first.join()


def settings_of(deployment: Deployment) -> dict[str, str]:
    lines = deployment.settings_file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_on_sigterm_what_is_in_hand_is_finished_and_nothing_new_is_taken(deployment):
    deployment.service.start()
    path, ended = deployment.sockets / "deliver.sock", []
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(path))
        answers = early.makefile("rb")
        assert answers.readline().startswith(b"orderflow 1 ")
        database = sqlite3.connect(deployment.state / "orderflow.db", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        asking = threading.Thread(target=lambda: ended.append(run(deployment, order(45))))
        asking.start()
        assert wait_until(lambda: health(deployment)["busy"] == 1, 60, interval=0.1)
        os.kill(deployment.service.pid, signal.SIGTERM)

        def is_closed() -> bool:
            with socket.socket(socket.AF_UNIX) as late:
                return late.connect_ex(str(path)) != 0

        assert wait_until(is_closed, 60)
        assert deployment.service.running
        early.sendall(b"00000000000000000001.1.aaaaaaaa\n")
        assert answers.readline().startswith(b"75 4."), "who was greeted before is answered"
        database.execute("ROLLBACK")
        asking.join()
    assert ended == [means(Outcome.DELIVERED)]
    assert wait_until(lambda: not deployment.service.running, 60)
    assert [r["message"] for r in deployment.log_records() if r.get("program") == "service"][-1] == "Service stopped."


@pytest.mark.parametrize("name", [b"00000000000000000001.1.aaaaaaaa", b"../dead/x", b"/etc/passwd", b"", b"\xff"])
def test_an_entry_that_is_not_there_defers(served, name):
    status, _, line = ask(served, name).partition(b" ")
    assert (int(status), line) == means(Outcome.INTERNAL)


def test_an_entry_that_was_cut_short_defers_and_is_not_kept(served):
    blocks = iter((order(46), b""))
    header = encode_envelope(Envelope(ACME, datetime.now(UTC)))
    name, fd = spool_entry.write_entry(str(served.state / "spool"), header, lambda _: next(blocks), 1 << 20)
    path = served.state / "spool" / "new" / name
    shutil.chown(path, served.user)
    os.truncate(path, path.stat().st_size - 10)
    os.close(fd)
    status, _, line = ask(served, name.encode()).partition(b" ")
    assert (int(status), line) == means(Outcome.INTERNAL)
    assert spooled(served) == []


def test_an_entry_that_the_service_may_not_read_defers(served):
    blocks = iter((order(47), b""))
    header = encode_envelope(Envelope(ACME, datetime.now(UTC)))
    name, fd = spool_entry.write_entry(str(served.state / "spool"), header, lambda _: next(blocks), 1 << 20)
    os.close(fd)
    assert ask(served, name.encode()).startswith(b"75 4.3.0 ")
    os.unlink(served.state / "spool" / "new" / name)


def test_a_service_that_is_killed_and_started_under_load_loses_and_doubles_nothing(deployment):
    """Each message comes again until it is accepted, as Postfix would do it."""
    numbers, outcomes, over = iter(range(1000, 1120)), Counter(), threading.Event()

    def send() -> None:
        for number in numbers:
            while (ended := run(deployment, order(number)))[0] == 75:
                outcomes[ended] += 1
                time.sleep(0.1)
            outcomes[ended] += 1

    def restart() -> None:
        while not over.wait(0.7):
            deployment.service.kill()
            over.wait(0.2)
            deployment.service.start()

    deployment.service.start()
    senders, restarter = [threading.Thread(target=send) for _ in range(6)], threading.Thread(target=restart)
    for thread in (*senders, restarter):
        thread.start()
    for thread in senders:
        thread.join()
    over.set()
    restarter.join()
    assert {status for status, _ in outcomes} <= {0, 75}, outcomes
    deployment.replay("spool")
    assert Counter(row["subject"] for row in deployment.messages()) == {f"Order {n}": 1 for n in range(1000, 1120)}
    assert spooled(deployment) == []


@pytest.mark.parametrize("way", ["pipe", "lmtp"])
def test_a_delivery_that_ends_after_its_deadline_and_comes_again_is_one_message(deployment, way):
    deployment.write_settings({"ORDERFLOW_DEADLINE": "1"})
    with deployment.service, closing(sqlite3.connect(deployment.state / "orderflow.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        if way == "pipe":
            assert run(deployment, order(60)) == means(Outcome.DEADLINE)
        else:
            assert lmtp(deployment, *dialogue(order(60)))[-1].startswith("451 4.4.7 ")
        lock.execute("ROLLBACK")
        assert wait_until(lambda: deployment.health()["busy"] == 0, 60, interval=0.1)
        assert deployment.health()["in_flight"] == deployment.health()["overdue"] == 0
        assert run(deployment, order(60)) == means(Outcome.DUPLICATE)
    assert len(deployment.messages()) == 1
    assert spooled(deployment) == []


# LMTP, to the real service


def lmtp(deployment: Deployment, *blocks: bytes) -> list[str]:
    """Send these blocks to lmtp.sock, each after the answer to the last one, and return the answers' last lines."""
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(30)
        talk.connect(str(deployment.sockets / "lmtp.sock"))
        file, answers = talk.makefile("rb"), []
        for block in (b"", *blocks):
            talk.sendall(block)
            while (line := file.readline())[3:4] == b"-":
                continue
            answers.append(line.decode().strip())
        return answers


def dialogue(raw: bytes, *recipients: str) -> list[bytes]:
    to = [b"RCPT TO:<%s>\r\n" % recipient.encode() for recipient in recipients or (ACME,)]
    stuffed = b"".join(b"." * line.startswith(b".") + line for line in raw.replace(b"\n", b"\r\n").splitlines(True))
    return [b"LHLO here\r\n", b"MAIL FROM:<buyer@shop.example>\r\n", *to, b"DATA\r\n", stuffed + b".\r\n"]


def test_lmtp_answers_with_the_outcome(served):
    assert lmtp(served, *dialogue(order(70)))[-1] == "250 2.0.0 message recorded"
    assert lmtp(served, *dialogue(order(70)))[-1] == "250 2.0.0 message known already"
    assert lmtp(served, *dialogue(order(70).replace(b"Order", b"Odour")))[-1].startswith("250 2.0.0 message held")
    assert lmtp(served, *dialogue(b"no header\n"))[-1] == "550 5.6.0 message has no header"
    assert lmtp(served, *dialogue(order(71), f"orders+nobody@{DOMAIN}")[:3])[-1] == "550 5.1.1 no such organization"


def test_an_lmtp_client_that_leaves_in_the_middle_of_a_message_has_sent_none(served):
    before = len(served.messages())
    for cut in (1, 100, len(order(72)) - 1):
        with socket.socket(socket.AF_UNIX) as talk, talk.makefile("rb") as file:
            talk.connect(str(served.sockets / "lmtp.sock"))
            *commands, message = dialogue(order(72))
            for command in (b"", *commands):
                talk.sendall(command)
                while file.readline()[3:4] == b"-":
                    continue
            talk.sendall(message[:cut])
    assert wait_until(lambda: served.health()["in_flight"] == 0, 60)
    assert len(served.messages()) == before
    assert spooled(served) == []
    assert lmtp(served, *dialogue(order(72)))[-1] == "250 2.0.0 message recorded"


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r"], ids=repr)
def test_nothing_but_the_right_end_ends_a_message(served, end):
    """What stands behind a wrong end is content and no second message (SMTP smuggling)."""
    number = 7300 + int.from_bytes(end, "big") % 997
    smuggled = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: smuggled\r\n\r\nx" % ACME.encode()
    *commands, message = dialogue(mail(number))
    answers = lmtp(served, *commands, message[:-3] + end + smuggled + b"\r\n.\r\n", b"NOOP\r\n")
    assert answers[-2:] == ["250 2.0.0 message recorded", "250 2.0.0 OK"]
    assert not [row for row in served.messages() if row["subject"] == "smuggled"]


def test_a_line_of_megabytes_is_taken_as_it_is(served):
    raw = mail(74, b"x" * (3 << 20) + b"\n")
    assert lmtp(served, *dialogue(raw))[-1] == "250 2.0.0 message recorded"
    assert [r["size"] for r in served.log_records() if r.get("size", 0) > 3 << 20 and r["outcome"] == "DELIVERED"][
        -1:
    ] == [len(raw)]


# The client is killed


def hand_over(deployment: Deployment, raw: bytes) -> tuple[int, bytes]:
    """Run the client in this process, which then goes on: its alarm, the client's last resort, must not end it."""
    end, writer = os.pipe()
    os.write(writer, raw)
    os.close(writer)
    before = os.dup(0)
    os.dup2(end, 0)
    os.close(end)
    try:
        return pipe.run(["--socket", str(deployment.sockets / "deliver.sock"), "--", ACME], via_shell=False)
    finally:
        signal.alarm(0)
        os.dup2(before, 0)
        os.close(before)


@pytest.fixture(scope="module")
def roots():
    """A deployment of root with its service, and its App."""
    with scratch() as place:
        deployment = Deployment(place, user="root")
        deployment.set_up("acme")
        with deployment.service:
            yield deployment, open_app(load(str(deployment.settings_file)))


def test_a_client_that_is_killed_anywhere_and_comes_again_is_one_message(roots):
    deployment, app = roots
    modules = (pipe, spool_entry)
    reached = points(modules, lambda: hand_over(deployment, order(2000)))
    assert {"write_entry", "_copy", "_commit", "_deliver_by_service", "_read_line"} <= {
        point.function for point in reached
    }
    for point in reached:
        raw = order(2001 + point.number)
        kill_at(modules, point, lambda raw=raw: hand_over(deployment, raw))
        assert wait_until(lambda: health(deployment)["busy"] == 0, 60), point
        assert all(ended.outcome.is_accepted for _, ended in drain(app)), point
        assert hand_over(deployment, raw)[0] == 0, point
    subjects = Counter(row.subject for row in app.records.messages.select(Filter(), 1000))
    assert subjects == {f"Order {2000 + n}": 1 for n in range(len(reached) + 1)}
    assert app.spool.entries() == []
    assert app.queue.depth() == len(reached) + 1


# systemd


LAUNCHER = """
import os, sys
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
os.execv(sys.argv[1], sys.argv[1:])
"""
# What systemd does with the sockets of a unit that lacks NonBlocking=yes.
ANOTHER_UNIT = "import os; os.set_blocking(3, True)"


def start_on(listener: socket.socket, *command: str | Path, **environment: str) -> subprocess.Popen:
    """Start a program that inherits a listener, as systemd does; it ends with this process."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", LAUNCHER, *command], cwd="/",
        env={**ENVIRONMENT, **environment}, preexec_fn=lambda: os.dup2(listener.fileno(), 3), pass_fds=(3,),
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def asked(connection: socket.socket) -> dict:
    """Ask the service's health over a connection that has been greeted."""
    connection.sendall(b"health\n")
    return json.loads(connection.makefile().readline())


@contextmanager
def greeted(path: Path) -> Iterator[socket.socket]:
    """Connect to deliver.sock and read the greeting: some process has accepted."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        assert connection.recv(200).endswith(b"\n")
        yield connection


def hear_all(notices: socket.socket) -> None:
    """Read the messages that came meanwhile, as systemd would: the kernel holds ten such messages."""
    notices.setblocking(False)
    with suppress(BlockingIOError):
        while notices.recv(100):
            continue
    notices.settimeout(30)


def test_systemd_gives_the_socket_and_hears_how_it_goes(deployment, place):
    path = place / "deliver.sock"
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        ours.bind(str(path))
        ours.listen(100)
        notices.bind(str(place / "notify"))
        notices.settimeout(30)
        environment = {
            "ORDERFLOW_SETTINGS": str(deployment.settings_file), "WATCHDOG_USEC": "1000000",
            "NOTIFY_SOCKET": str(place / "notify"),
        }  # fmt: skip
        for number in (50, 51):
            asking = []
            client_thread = threading.Thread(
                target=lambda n=number, asking=asking: asking.append(run(deployment, order(n), path=path))
            )
            if number == 51:
                client_thread.start()  # comes while no service runs, and waits for it
            hear_all(notices)  # the last one's: notices leave it by a thread
            service = start_on(ours, PROGRAMS / "orderflow-service", **environment)
            try:
                assert notices.recv(100) == b"READY=1"
                assert [notices.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
                if number == 50:
                    client_thread.start()
                client_thread.join(30)
                assert asking == [means(Outcome.DELIVERED)]
            finally:
                hear_all(notices)
                service.send_signal(signal.SIGTERM)
                assert service.wait(30) == 0
            assert wait_until(lambda: notices.recv(100) == b"STOPPING=1", 60)
            assert path.exists()


def test_a_unit_that_makes_the_shared_socket_blocking_freezes_no_instance(deployment, place):
    """O_NONBLOCK is the open file's, so one process clears it for all: a loop would wait in accept(2)."""
    path, settings = place / "deliver.sock", str(deployment.settings_file)
    with socket.socket(socket.AF_UNIX) as ours, ExitStack() as stack:
        ours.bind(str(path))
        ours.listen(100)
        services = [start_on(ours, PROGRAMS / "orderflow-service", ORDERFLOW_SETTINGS=settings) for _ in range(2)]
        stack.callback(lambda: [service.kill() or service.wait() for service in services])
        early = {}
        for service, other in (services, services[::-1]):
            os.kill(other.pid, signal.SIGSTOP)  # so it is this one that accepts
            connections = [stack.enter_context(greeted(path)) for _ in range(4)]
            early[service.pid] = connections[1:]
            assert asked(connections[0])["pid"] == service.pid
            os.kill(other.pid, signal.SIGCONT)
        for number in range(3):
            assert start_on(ours, sys.executable, "-c", ANOTHER_UNIT).wait() == 0
            assert os.get_blocking(ours.fileno())
            with greeted(path) as new:  # wakes every loop: one accepts, and each looks for more
                assert asked(new)["pid"] in early
            assert [asked(connections[number])["pid"] for connections in early.values()] == list(early)


def test_a_systemd_that_reads_no_notices_holds_up_no_mail(deployment, place):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full,
    ):
        notices.bind(str(place / "notify"))
        (place / "notify").chmod(0o777)
        full.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                full.sendto(b"X=1", str(place / "notify"))
        deployment.service.env |= {"NOTIFY_SOCKET": str(place / "notify"), "WATCHDOG_USEC": "200000"}
        with deployment.service:
            assert run(deployment, order(83)) == means(Outcome.DELIVERED)
            notices.settimeout(60)
            heard = iter(lambda: notices.recv(100), b"")
            assert next(notice for notice in heard if notice != b"X=1") == b"READY=1", "it is sent until it is taken"
            assert next(heard) == b"WATCHDOG=1"


def test_a_backend_that_is_known_to_be_away_keeps_nobody_waiting(hanging):
    """The first delivery finds out; the next ones, of the service and of the program, know it at once."""
    hanging.write_settings({**settings_of(hanging), "ORDERFLOW_DEADLINE": "20"})
    with hanging.service, ExitStack() as probing:
        assert run(hanging, order(81)) == means(Outcome.BACKEND_DOWN)
        for name in ("archive", "archive.1"):  # on a busy machine it would be time for a probe
            file = probing.enter_context((hanging.state / "circuits" / name).open())
            fcntl.flock(file, fcntl.LOCK_EX)
            os.utime(file.fileno())
        for number in range(3):
            assert run(hanging, order(82 + number)) == means(Outcome.BACKEND_DOWN)
        hanging.service.stop()
        assert run(hanging, order(90)) == means(Outcome.BACKEND_DOWN)
    # Who gives this reason has not asked the backend; who waited gives another.
    reasons = [record.get("reason", "") for record in hanging.log_records() if record.get("action") == "deliver"]
    assert sum("known to be unavailable" in reason for reason in reasons) == 4
    assert spooled(hanging) == []


def test_systemd_hears_nothing_more_where_every_place_hangs(hanging, place):
    hanging.write_settings({**settings_of(hanging), "ORDERFLOW_DEADLINE": "1", "ORDERFLOW_CONCURRENCY": "1"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(place / "notify"))
        (place / "notify").chmod(0o777)
        notices.settimeout(1)
        hanging.service.env |= {"NOTIFY_SOCKET": str(place / "notify"), "WATCHDOG_USEC": "600000"}
        with hanging.service:
            assert run(hanging, order(80)) == means(Outcome.DEADLINE)

            def is_silent() -> bool:
                try:
                    notices.recv(100)
                except TimeoutError:
                    return True
                return False

            assert wait_until(is_silent, 60)
            assert hanging.health()["overdue"] == 1
