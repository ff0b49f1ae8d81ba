"""orderflow-admin canary: a probe through a real Postfix, and the step that is named when one does not come."""

import pwd
import re
import socket
import stat
import threading
from contextlib import contextmanager

import pytest

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.admin.canary.flight import STEPS, Canary, Step, StepMissedError
from orderflow_ingest.entrypoints.admin.canary.smtp_probe import SmtpRefusedError, new_probe, send
from orderflow_ingest.entrypoints.admin.canary.textfile import write_textfile
from orderflow_ingest.entrypoints.admin.postfix.mail_queue import waiting_because
from orderflow_ingest.entrypoints.cli.run_as import as_user
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import free_port, scratch
from tests.support.operating import rows

CANARY = f"orders+canary@{DOMAIN}"
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def deployment(authority):
    """A deployment by LMTP, with its service, worker and Postfix, which offers TLS."""
    certificate, key = authority.issue("mx", "IP:127.0.0.1")
    with scratch() as place:
        tls = f"smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n"
        deployment = Deployment(place, way="lmtp", service=True, overrides=tls, map_by="database")
        deployment.set_up("canary")
        with deployment:
            yield deployment


def fly(
    deployment: Deployment, recipient: str = CANARY, timeout: float = 60
) -> tuple[list[str], StepMissedError | None]:
    """Let a canary fly in this process; return the steps that came, and the one that did not."""
    came: list[str] = []
    with as_user(NOBODY):
        app = open_app(load(str(deployment.settings_file), {}), guarded=False)
        org = app.records.organizations.find("canary")
        probe = new_probe(f"127.0.0.1:{deployment.postfix.smtp_port}", f"postmaster@{DOMAIN}", recipient)
        canary = Canary(app, org, probe, timeout, lambda *_: None)
        try:
            for step in canary.fly(str(deployment.postfix.config_directory)):
                came.append(step.name)
        except StepMissedError as missed:
            return came, missed
        finally:
            app.records.database.close()
    return came, None


def run(deployment: Deployment, *options: str):
    server = f"127.0.0.1:{deployment.postfix.smtp_port}"
    return deployment.run("orderflow-admin", "canary", "--server", server, "--timeout", "90", *options, check=False)


def test_a_canary_comes_through_and_tells_each_step_and_a_textfile(deployment):
    before = len(deployment.messages())
    ended = run(deployment, "--json", "--textfile", str(deployment.state / "canary.prom"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps = rows(ended.stdout)
    assert [(step["step"], step["arrived"]) for step in steps] == [(name, True) for name in STEPS]
    assert all(step["seconds"] >= 0 for step in steps)
    assert "queued as" in steps[0]["detail"] and steps[0]["detail"].endswith("by TLS")
    text = (deployment.state / "canary.prom").read_text()
    assert "\norderflow_canary_success 1\n" in text
    assert set(re.findall(r'orderflow_canary_seconds{step="(\w+)"} \d', text)) == {*STEPS, "total"}
    (newest, *_) = deployment.messages()
    assert len(deployment.messages()) == before + 1, "one small message, and nothing removed"
    assert {(d["filename"], d["state"]) for d in deployment.documents(newest["id"])} == {
        ("canary.pdf", "DONE"), ("canary.csv", "DONE"), (None, "DONE"),
    }  # fmt: skip


def test_an_organization_that_is_not_there_is_told_with_what_to_run(deployment):
    file = deployment.state / "missing.prom"
    ended = run(deployment, "--org", "nope", "--textfile", str(file))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.strip() == "Error: organization: there is none named nope: run orderflow-admin org add nope"
    assert "\norderflow_canary_success 0\n" in file.read_text()


def test_a_canary_that_postfix_refuses_ends_at_smtp_with_its_answer(deployment):
    came, missed = fly(deployment, f"orders+nope@{DOMAIN}")
    assert (came, missed.step) == ([], "smtp")
    assert str(missed).startswith("RCPT TO was refused with 550 5.1.1 ") and "orderflow-admin check" in str(missed)


def test_a_canary_ends_at_stored_where_no_worker_runs(deployment):
    deployment.worker.stop()
    try:
        came, missed = fly(deployment, timeout=8)
    finally:
        deployment.worker.start()
    assert (came, missed.step) == (["smtp", "row"], "stored")
    assert "stays RECEIVED: no worker has taken it: systemctl status orderflow-worker" in str(missed)


def test_a_canary_ends_at_its_row_where_the_service_is_down_and_tells_why_postfix_keeps_it(deployment):
    deployment.service.stop()
    try:
        came, missed = fly(deployment, timeout=8)
    finally:
        deployment.service.start()
    assert (came, missed.step) == (["smtp"], "row")
    assert "Postfix has deferred it (" in str(missed) and "lmtp.sock" in str(missed) and "postqueue -p" in str(missed)


def test_a_mail_that_left_the_queue_without_a_row_is_looked_for_in_the_log(deployment):
    said = waiting_because("4NOSUCHID", str(deployment.postfix.config_directory))
    assert said.startswith("Postfix has it no more") and "grep 4NOSUCHID" in said
    assert "did not say where" in waiting_because("", None)


# SMTP that goes wrong, by a server that says what a test wants


@contextmanager
def saying(*answers: bytes):
    """A server that gives these answers one after the other, each to whatever came, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            client, _ = listener.accept()
            with client, client.makefile("rb") as lines:
                client.settimeout(20)
                for answer in answers:
                    client.sendall(answer)
                    lines.readline()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


HELLO = (b"220 mx\r\n", b"250 mx\r\n")
TLS = (b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((b"554 5.7.1 go away\r\n",), "the connection was refused with 554 5.7.1 go away: does it know this domain"),
        ((*HELLO, b"530 5.7.0 Must issue a STARTTLS\r\n"), "MAIL FROM was refused with 530"),
        ((*HELLO, b"250 ok\r\n", b"451 4.3.0 \x1b[2Jfailure\r\n"), "RCPT TO was refused with 451 4.3.0  [2Jfailure"),
        ((*HELLO, b"250 ok\r\n", b"250 ok\r\n", b"452 4.3.1 full\r\n"), "DATA was refused with 452 4.3.1 full"),
        ((*HELLO, b"250 ok\r\n"), "hung up"),
        ((*TLS, b"220 go\r\n", b"no TLS\r\n"), "STARTTLS was offered, and TLS failed"),
        ((*TLS, b"454 no certificate\r\n", b"530 TLS first\r\n"), "MAIL FROM was refused with 530 TLS first"),
    ],
)
def test_what_the_server_answers_is_told_with_its_step(answers, said):
    with saying(*answers) as server, pytest.raises(SmtpRefusedError) as refused:
        send(new_probe(server, "a@b.example", CANARY), 10)
    assert said in str(refused.value) and "\x1b" not in str(refused.value)


def test_a_server_that_offers_tls_and_has_no_certificate_gets_the_mail_without():
    answers = (*TLS, b"454 4.7.0 TLS not available\r\n", b"250 ok\r\n", b"250 ok\r\n", b"452 full\r\n")
    with saying(*answers) as server, pytest.raises(SmtpRefusedError, match="DATA was refused with 452 full"):
        send(new_probe(server, "a@b.example", CANARY), 10)


def test_a_server_where_nobody_listens_is_told():
    with pytest.raises(
        SmtpRefusedError, match=r"does not answer, ECONNREFUSED \(Connection refused\): does Postfix run\?"
    ):
        send(new_probe(f"127.0.0.1:{free_port()}", "a@b.example", CANARY), 5)


def test_every_probe_has_a_message_id_of_its_own_and_a_server_may_be_named_in_three_ways():
    probes = [new_probe(server, "", CANARY) for server in ("mx.example", "mx.example:26", "[::1]:27")]
    assert [(probe.host, probe.port) for probe in probes] == [("mx.example", 25), ("mx.example", 26), ("::1", 27)]
    assert len({probe.message_id for probe in probes}) == 3
    for wrong in ("", "a:b", "a:1:2", "::1"):
        with pytest.raises(ValueError):
            new_probe(wrong, "", CANARY)


# The textfile


def test_a_failed_run_has_its_steps_and_replaces_the_file_whole_and_readable(place):
    file = place / "canary.prom"
    file.write_text("of the run before")
    file.chmod(0o600)
    write_textfile(file, [Step("smtp", 0.25, "")], 120.5, is_success=False)
    text = file.read_text()
    assert 'orderflow_canary_seconds{step="smtp"} 0.250\norderflow_canary_seconds{step="total"} 120.500\n' in text
    assert "\norderflow_canary_success 0\n" in text
    assert re.search(r"^orderflow_canary_last_run_timestamp_seconds \d{10}$", text, re.MULTILINE)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in place.iterdir()] == ["canary.prom"], "no temporary file is left"


def test_a_textfile_that_cannot_be_written_leaves_the_old_one(place):
    (place / "canary.prom").mkdir()
    with pytest.raises(OSError):
        write_textfile(place / "canary.prom", [], 1, is_success=True)
    assert [path.name for path in place.iterdir()] == ["canary.prom"]
