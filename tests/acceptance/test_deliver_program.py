"""orderflow-deliver as a program: exit status, the one line, bad input, what stands in its way."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from orderflow_ingest.domain.outcomes import Outcome
from tests.support.interpreters import make_python
from tests.support.lab.deployment import DOMAIN, PROGRAMS, Deployment
from tests.support.lab.process import free_port, scratch, wait_until
from tests.support.mails import mail, order

ACME = f"orders+acme@{DOMAIN}"


@pytest.fixture(scope="module")
def deployment():
    with scratch() as place:
        deployment = Deployment(place)
        deployment.set_up("acme", "beta")
        yield deployment


def verdict(ended: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    """Check that the output is what pipe(8) may see, and give exit status and D.S.N."""
    assert ended.returncode in (0, 65, 67, 75)
    assert re.fullmatch(rb"[245]\.\d\.\d [ -~]{1,190}\n?", ended.stdout), ended.stdout
    assert not ended.stderr
    return ended.returncode, ended.stdout.split()[0].decode()


def means(outcome: Outcome) -> tuple[int, str]:
    return outcome.exit_status, outcome.dsn_code


def test_a_message_is_delivered_and_known_again(deployment):
    assert verdict(deployment.deliver(ACME, order(1), "--sender", "", "--queue-id", "Q")) == means(Outcome.DELIVERED)
    assert deployment.deliver(ACME, order(1)).stdout == Outcome.DUPLICATE.line.strip()
    assert deployment.deliver(ACME, order(1).replace(b"Order", b"Odour")).stdout == Outcome.HELD.line.strip()


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (b"", Outcome.MALFORMED),
        (b"just words\n", Outcome.MALFORMED),
        (mail(101, b"x" * (26 << 20) + b"\n"), Outcome.TOO_BIG),
        (mail(102, b"\0" * 5000 + b"\n", Subject="a\0b"), Outcome.DELIVERED),
        (mail(103, bytes(range(256)) * 10 + b"\n", Subject="\udcff\udcfe \udce9"), Outcome.DELIVERED),
        (b"Received: from somewhere by elsewhere; some day\n" * 10000 + mail(104), Outcome.DELIVERED),
        (mail(105, b"--never\n" * 1000, Content_Type="multipart/mixed; boundary=b"), Outcome.DELIVERED),
        (mail(106, Subject="=?no-such-charset?Q?=FF?="), Outcome.DELIVERED),
        (mail(107, Date="the day before yesterday", From="(((((((" * 1000), Outcome.DELIVERED),
        (mail(108, Message_ID="<" + "x" * 5000 + ">"), Outcome.DELIVERED),
        (mail(109)[:-1], Outcome.TRUNCATED),
    ],
    ids=[
        "empty",
        "headless",
        "too big",
        "NULs",
        "8-bit",
        "10,000 Received",
        "boundary",
        "charset",
        "date",
        "message-id",
        "truncated",
    ],
)
def test_bad_input_has_a_clear_outcome(deployment, raw, outcome):
    assert verdict(deployment.deliver(ACME, raw)) == means(outcome)
    assert deployment.status()["spool_entries"] == 0


@pytest.mark.parametrize(
    ("recipient", "outcome"),
    [
        (f"orders+nope@{DOMAIN}", Outcome.UNKNOWN_ORG),
        (f"orders+../../etc@{DOMAIN}", Outcome.UNKNOWN_ORG),
        (f"orders+acme+extra@{DOMAIN}", Outcome.UNKNOWN_ORG),
        (f"orders+{'a' * 64}@{DOMAIN}", Outcome.UNKNOWN_ORG),
        (f"orders+ac\nme@{DOMAIN}", Outcome.UNKNOWN_ORG),
        ("--help", Outcome.MISCONFIGURED),
        ("--version", Outcome.MISCONFIGURED),
    ],
)
def test_odd_recipients_have_a_clear_outcome(deployment, recipient, outcome):
    assert verdict(deployment.deliver(recipient, mail(1))) == means(outcome)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        [ACME],
        [],
        ["--"],
        ["--", ""],
        ["--", ACME, ACME],
        ["--sender", "--", ACME],
        ["-x", "y", "--", ACME],
    ],
)
def test_arguments_that_make_no_delivery_never_end_with_success_while_there_is_mail(deployment, arguments):
    program = PROGRAMS / "orderflow-deliver"
    assert verdict(subprocess.run([program, *arguments], input=mail(), capture_output=True)) == means(
        Outcome.MISCONFIGURED
    )


@pytest.mark.parametrize(
    ("option", "said"), [("--help", b"orderflow-deliver [--settings"), ("--version", b"orderflow-deliver ")]
)
def test_help_is_for_people(option, said):
    ended = subprocess.run([PROGRAMS / "orderflow-deliver", option], stdin=subprocess.DEVNULL, capture_output=True)
    assert ended.returncode == 0
    assert said in ended.stdout


@pytest.mark.parametrize("text", ["ORDERFLOW_DEADLINE=soon\n", "ORDERFLOW_NO_SUCH_KEY=1\n", "nonsense\n", None])
def test_settings_that_are_wrong_or_gone_defer(place, text):
    file = place / "ingest.env"
    if text is not None:
        file.write_text(text)
    ended = subprocess.run(
        [PROGRAMS / "orderflow-deliver", "--settings", file, "--", ACME], input=mail(), capture_output=True
    )
    assert verdict(ended) == means(Outcome.MISCONFIGURED)


def test_a_spool_that_is_not_there_defers(place):
    deployment = Deployment(place)
    assert verdict(deployment.deliver(ACME, mail())) == means(Outcome.SPOOL_FULL)


def test_a_database_that_is_away_defers_and_leaves_no_entry(deployment):
    deployment.write_settings({"DATABASE_URL": f"postgresql://nobody:secret@127.0.0.1:{free_port()}/none"})
    try:
        assert verdict(deployment.deliver(ACME, mail(200))) == means(Outcome.BACKEND_DOWN)
    finally:
        deployment.write_settings({})
    assert os.listdir(deployment.state / "spool" / "new") == []
    assert "secret" not in str(deployment.log_records())


def test_in_accept_mode_the_spool_keeps_it_and_the_drain_delivers_it(deployment):
    away = {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/none"}
    deployment.write_settings({"ORDERFLOW_SPOOL_MODE": "accept", **away})
    try:
        assert verdict(deployment.deliver(ACME, mail(201))) == means(Outcome.SPOOLED)
    finally:
        deployment.write_settings({})
    assert "DELIVERED" in deployment.replay("spool")
    assert os.listdir(deployment.state / "spool" / "new") == []


@pytest.fixture
def silent_server():
    """Return the port of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield server.getsockname()[1]


@pytest.mark.parametrize("backend", ["database", "archive"])
def test_a_backend_that_hangs_ends_at_the_deadline(deployment, silent_server, backend):
    url = {"database": {"DATABASE_URL": f"postgresql://127.0.0.1:{silent_server}/none"}}.get(
        backend,
        {
            "ARCHIVE_URL": "s3://orders",
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{silent_server}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-central-1",
        },
    )
    deployment.write_settings({"ORDERFLOW_DEADLINE": "1", **url})
    try:
        assert verdict(deployment.deliver(ACME, mail(300))) == means(Outcome.DEADLINE)
    finally:
        deployment.write_settings({})
    assert os.listdir(deployment.state / "spool" / "new") == []


def test_a_main_thread_that_hangs_in_a_library_is_ended_from_outside_it(place, deployment):
    """The signal's handler does not run while a library does not come back to Python."""
    code = (
        "import sys, ctypes; from orderflow_ingest.entrypoints import pipe as program, pipe_fallback as inside;"
        "inside._GRACE = 0.5;"
        "import orderflow_ingest.pipeline.deliver as delivery;"
        "delivery.read_mail = lambda raw: [ctypes.CDLL(None).sleep(1) for _ in iter(int, 1)];"
        "import signal; signal.setitimer = lambda *_: None;"
        "program.main()"
    )
    deployment.write_settings({"ORDERFLOW_DEADLINE": "0.5"})
    try:
        command = [sys.executable, "-c", code, "--settings", deployment.settings_file, "--", ACME]
        ended = subprocess.run(command, input=mail(301), capture_output=True, timeout=30, **deployment.credentials())
    finally:
        deployment.write_settings({})
    assert verdict(ended) == means(Outcome.DEADLINE)


@pytest.mark.parametrize(
    "script",
    [
        'PYTHONHOME=/nonexistent exec /usr/bin/python3 "$2" "$3"',
        "exec /usr/bin/python3 -I -S -c 'import orderflow_ingest.entrypoints.pipe'",
        "kill -9 $$",
        "kill -15 $$",
        "exit 1",
        "echo Traceback; exit 70",
        "exec /nonexistent/python3",
        "ulimit -v 20000; exec /usr/bin/python3 -c pass",
        "exit 0",
        "echo all is well",
    ],
    ids=[
        "no standard library",
        "no package",
        "killed",
        "terminated",
        "exit 1",
        "traceback",
        "no interpreter",
        "no memory",
        "silence",
        "wrong words",
    ],
)
def test_what_python_cannot_catch_defers_too(place, script):
    program = make_python(place / "bin", script)
    ended = subprocess.run([program, "--", ACME], input=mail(), capture_output=True)
    assert verdict(ended) == (75, "4.3.0")


def test_a_shell_that_cannot_start_a_process_defers(deployment):
    """A limit of processes, as of a container or a unit, is reached in the middle of a burst."""
    command = [
        "prlimit",
        "--nproc=1",
        PROGRAMS / "orderflow-deliver",
        "--settings",
        deployment.settings_file,
        "--",
        ACME,
    ]
    ended = subprocess.run(command, input=mail(402), capture_output=True, **deployment.credentials())
    assert verdict(ended) == (75, "4.3.0")


def test_settings_on_a_disk_that_hangs_defer_before_postfix_bounces(place):
    os.mkfifo(place / "ingest.env", 0o644)
    code = "import orderflow_ingest.entrypoints.pipe as program; program._STARTUP = 1; program.main()"
    program = make_python(place / "bin", f"shift 3; exec {sys.executable} -c '{code}' \"$@\"")
    ended = subprocess.run([program, "--settings", place / "ingest.env", "--", ACME], input=mail(), capture_output=True)
    assert verdict(ended) == (75, "4.3.0")


@pytest.mark.parametrize(
    "broken", ["sqlalchemy", "orderflow_ingest/pipeline/deliver", "orderflow_ingest/domain/outcomes", "huey"]
)
def test_a_deploy_that_does_not_import_defers(place, broken):
    """A copy of the environment's packages in which one does not import."""
    packages = next((PROGRAMS.parent / "lib").glob("python3*/site-packages"))
    copy = place / "packages"
    copy.mkdir()
    for entry in packages.iterdir():
        (copy / entry.name).symlink_to(entry)
    (copy / "orderflow_ingest").unlink()
    shutil.copytree(packages / "orderflow_ingest", copy / "orderflow_ingest")
    if (copy / broken).is_symlink():
        (copy / broken).unlink()
    (copy / f"{broken}.py").write_text("raise ImportError('half a deploy')\n")
    program = make_python(place / "bin", f'shift; PYTHONPATH={copy} exec /usr/bin/python3 -S "$@"')
    deployment = Deployment(place / "deployment")
    deployment.set_up("acme")
    deployment.programs = program.parent
    assert verdict(deployment.deliver(ACME, mail())) == (75, "4.3.0")


def test_a_closed_output_changes_nothing(deployment):
    command = f"'{PROGRAMS}/orderflow-deliver' --settings {deployment.settings_file} -- {ACME} >&-"
    ended = subprocess.run(["sh", "-c", command], input=mail(400), **deployment.credentials(), capture_output=True)
    assert ended.returncode == 0


WRITER = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
child.stdin.write(sys.stdin.buffer.read())
child.stdin.flush()
time.sleep(60)
"""


def test_a_writer_that_is_killed_in_the_middle_leaves_nothing(deployment):
    """What came is a good message and ends with a line feed; only its writer is gone."""
    command = [PROGRAMS / "orderflow-deliver", "--settings", deployment.settings_file, "--", ACME]
    logged = len(deployment.log_records())
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, *command], stdin=subprocess.PIPE, **deployment.credentials(), cwd="/"
    )
    writer.stdin.write(mail(401))
    writer.stdin.close()
    arriving = deployment.state / "spool" / "tmp"
    assert wait_until(lambda: any(path.stat().st_size > len(mail(401)) for path in arriving.iterdir()), 60)
    writer.kill()
    writer.wait()
    assert wait_until(lambda: not os.listdir(arriving), 60)
    assert wait_until(lambda: any(one.get("outcome") == "TRUNCATED" for one in deployment.log_records()[logged:]), 60)
    assert not any("<order-401@" in str(row) for row in deployment.messages())
    assert verdict(deployment.deliver(ACME, mail(401, b"12 widgets\nand the rest\n"))) == means(Outcome.DELIVERED)


def test_it_reads_standard_input_to_its_end_even_of_a_message_that_is_too_big(deployment):
    """Otherwise the writer would see a broken pipe."""
    process = subprocess.Popen(
        [PROGRAMS / "orderflow-deliver", "--settings", deployment.settings_file, "--", ACME],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **deployment.credentials(),
    )  # fmt: skip
    failed = []

    def feed() -> None:
        try:
            for _ in range(30):
                process.stdin.write(b"x" * (1 << 20))
            process.stdin.close()
        except OSError as error:
            failed.append(error)

    writer = threading.Thread(target=feed)
    writer.start()
    writer.join(60)
    assert process.stdout.read() == Outcome.TOO_BIG.line.strip()
    assert process.wait() == 65
    assert failed == []
