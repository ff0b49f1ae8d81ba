"""The servers of the lab do what their headers promise, and Postfix does what this project is built on.

The second half is a contract with pipe(8) and cleanup(8): every rule there was seen with Postfix 3.7, and a
Postfix that behaves otherwise shows here first. One instance serves all of it; a message's recipient says
what the command does.
"""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import botocore.exceptions
import psycopg
import pytest

from tests.support.lab.postfix import Postfix
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import LabError, Process, free_port, listening, scratch, wait_until
from tests.support.lab.redis import Redis
from tests.support.lab.s3 import CephS3
from tests.support.lab.smtp import Message, send, send_many

MAIL = b"From: buyer@shop.example\nTo: orders@lab.example\nSubject: order 17\n\nten of them\n"


@pytest.fixture
def place():
    with scratch() as directory:
        yield directory


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


# Processes


def test_ports_are_given_out_once():
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50 and not any(listening(port) for port in ports)


def test_a_server_that_ends_at_once_is_reported_with_the_end_of_its_log(place):
    with pytest.raises(LabError, match=r"(?s)ended with status 3;.*no such thing"):
        Process(["sh", "-c", "echo no such thing; exit 3"], place / "log", ready=lambda: False).start()


def test_a_server_that_is_never_ready_is_killed_and_reported(place):
    process = Process(["sh", "-c", "echo still thinking; sleep 60"], place / "log", ready=lambda: False, timeout=0.5)
    with pytest.raises(LabError, match=r"(?s)not ready;.*still thinking"):
        process.start()
    assert not process.running


def test_a_process_runs_as_the_user_asked_for(place):
    with Process(["sh", "-c", "id -un; id -Gn; sleep 60"], place / "log", user="nobody") as process:
        assert wait_until(lambda: process.tail() == "nobody\nnogroup", 60)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_descendant_outlives_its_process(place, end):
    script = "trap 'exit 0' TERM; setsid sleep 60 & echo $!; wait"
    process = Process(["sh", "-c", script], place / "log", ready=lambda: (place / "log").stat().st_size > 1)
    process.start()
    pids = [process.pid, int(process.tail())]
    getattr(process, end)()
    assert not any(alive(pid) for pid in pids)


def test_no_server_outlives_an_interpreter_that_was_killed(place):
    script = (
        "import os, sys, pathlib\n"
        "from tests.support.lab.postfix import Postfix\nfrom tests.support.lab.redis import Redis\n"
        "place = pathlib.Path(sys.argv[1])\nservers = Redis(place / 'redis'), Postfix(place)\n"
        "[server.start() for server in servers]\n"
        "print(servers[0]._process.pid, servers[1]._master.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, place], cwd=root, stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2 and wait_until(lambda: not any(alive(pid) for pid in pids), 60)


# PostgreSQL, Redis, S3


def test_postgres_keeps_what_was_committed_through_a_kill(place):
    with Postgres(place / "postgres") as server:
        url = server.create_database("ingest")
        assert url == f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/ingest"
        with psycopg.connect(server.conninfo("ingest")) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (17)")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.conninfo("ingest"))
        server.start()
        with psycopg.connect(server.conninfo("ingest")) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (17,)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_redis_keeps_what_was_set_through_a_kill(place):
    redis = pytest.importorskip("redis")
    with Redis(place / "redis") as server:
        redis.Redis.from_url(server.url()).set("kept", "17")
        server.kill()
        server.start()
        assert redis.Redis.from_url(server.url()).get("kept") == b"17"
        assert redis.Redis.from_url(server.url(db=1)).get("kept") is None


@pytest.fixture(scope="module")
def s3():
    with scratch() as directory, CephS3(directory / "s3") as server:
        server.create_bucket("orders")
        yield server


def test_s3_gives_back_what_was_put(s3):
    s3.client().put_object(Bucket="orders", Key="a/b", Body=MAIL, Metadata={"sender": "x"})
    answer = s3.client().get_object(Bucket="orders", Key="a/b")
    assert (answer["Body"].read(), answer["Metadata"]) == (MAIL, {"sender": "x"})


def test_s3_refuses_a_wrong_secret(s3):
    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        s3.client(aws_secret_access_key="wrong").list_objects_v2(Bucket="orders")


def test_s3_refuses_a_body_without_signature(s3):
    request = urllib.request.Request(f"{s3.endpoint}/orders/anonymous", data=MAIL, method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_s3_refuses_a_wrong_content_md5(s3):
    with pytest.raises(botocore.exceptions.ClientError, match="BadDigest"):
        s3.client().put_object(Bucket="orders", Key="md5", Body=MAIL, ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")


def test_s3_on_bluestore_keeps_an_acknowledged_object_through_a_kill(place):
    with CephS3(place / "s3", store="bluestore") as server:
        server.create_bucket("orders")
        server.client().put_object(Bucket="orders", Key="kept", Body=MAIL)
        server.kill()
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            server.client().get_object(Bucket="orders", Key="kept")
        server.start()
        assert server.client().get_object(Bucket="orders", Key="kept")["Body"].read() == MAIL


# Postfix: the private instance and the small client


CAT = "cat unix - n n - - pipe\n  flags= user=nobody argv=/bin/cat\n"
TO_CAT = "transport_maps = inline:{{lab.example=cat}}\n"


def test_postfix_hands_a_mail_to_a_command_as_another_user(place):
    with Postfix(place) as postfix:
        postfix.configure(TO_CAT, CAT.replace("/bin/cat", "/usr/bin/id -un"))
        postfix.reload()
        assert send(postfix.smtp_port, "", ["orders@lab.example"], MAIL).accepted
        delivery = postfix.wait_delivery("orders@lab.example", "sent")
        assert (delivery.relay, delivery.dsn) == ("cat", "2.0.0") and "nobody" in delivery.text


def test_postfix_keeps_its_queue_through_a_kill_and_tries_again_by_itself(place):
    postfix = Postfix(place)
    postfix.configure(TO_CAT, CAT.replace("/bin/cat", "/bin/sleep 60"))
    with postfix:
        assert send(postfix.smtp_port, "buyer@shop.example", ["orders@lab.example"], MAIL).accepted
        pid = postfix._master.pid
        assert wait_until(lambda: [mail["queue_name"] for mail in postfix.queue()] == ["active"], 60)
        postfix.kill()
        assert not alive(pid) and not listening(postfix.smtp_port)
        postfix.configure(TO_CAT, CAT)
        postfix.start()
        postfix.wait_delivery("orders@lab.example", "sent")
        assert wait_until(lambda: postfix.queue() == [], 60)
    assert not listening(postfix.smtp_port)


def test_postfix_tries_a_deferred_mail_again_when_flushed(place):
    postfix = Postfix(place)
    refuse = CAT.replace("/bin/cat", "/bin/sh -c {exit 75}")
    postfix.configure(TO_CAT, refuse, overrides="minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n")
    with postfix:
        send(postfix.smtp_port, "buyer@shop.example", ["orders@lab.example"], MAIL)
        postfix.wait_delivery("orders@lab.example", "deferred")
        postfix.configure(TO_CAT, CAT)
        postfix.reload()
        postfix.flush()
        postfix.wait_delivery("orders@lab.example", "sent")


def test_postfix_lets_fragments_override_the_base_and_overrides_the_fragments(place):
    postfix = Postfix(place)
    postfix.configure(
        "myhostname = fragment.example\nmail_name = Fragment\n",
        "smtp inet n - n - - smtpd\n  -o smtpd_banner=$myhostname-$mail_name\n",
        maps={"refused": "nobody@lab.example 550 5.1.1 said the map\n"},
        overrides="mail_name = Override\n"
        "smtpd_recipient_restrictions = check_recipient_access texthash:$config_directory/refused, permit\n",
    )
    with postfix:
        with pytest.raises(LabError, match="nothing in the log"):
            postfix.wait_log("never logged", timeout=0.1)
        replies = send(postfix.smtp_port, "", ["nobody@lab.example", "bob@lab.example"], MAIL)
        assert replies.greeting.text.startswith("fragment.example")
        assert (replies.rcpt[0].code, replies.rcpt[1].code, replies.data.code) == (550, 250, 250)
        assert "said the map" in replies.rcpt[0].text
    banner = subprocess.check_output(["postconf", "-c", postfix.config_directory, "-hx", "mail_name"], text=True)
    assert banner == "Override\n"


def test_postfix_reports_a_configuration_it_cannot_start_with(place):
    postfix = Postfix(place)
    postfix.configure(master="worse unix\n")
    with pytest.raises(LabError, match=r"check: exit status 1(.|\n)*master\.cf"):
        postfix.start()


def test_the_client_reports_a_server_that_is_not_there():
    replies = send(free_port(), "", ["orders@lab.example"], MAIL)
    assert replies.greeting.code == 0 and "refused" in replies.greeting.text and not replies.accepted


# The contract

COMMAND = r"""#!/bin/sh
# command DIRECTORY QUEUE_ID SIZE WHAT: the last argument, the recipient's local part, says what to do.
out=$1/out/$2
case $4 in
    exit-*) cat >/dev/null; exit "${4#exit-}" ;;
    unread-*) exit "${4#unread-}" ;;
    signal-*) cat >/dev/null; kill -s "${4#signal-}" $$ ;;
    says-*) cat >/dev/null; IFS=-; set -- $4; echo "$2 in its own words"; exit "$3" ;;
    flood) cat >/dev/null; exec yes ;;
    slow) exec sleep 60 ;;
    keep) cat >"$out"; echo "$3" >"$out.size"; mv "$out.size" "$out.done" ;;
    orphan) exec /usr/bin/python3 -I "$1/orphan.py" "$out" ;;
esac
"""

ORPHAN = """
import os, sys
out, parent = sys.argv[1], os.getppid()
if os.path.exists(out + ".parent"):  # the second delivery
    open(out, "wb").write(sys.stdin.buffer.read())
    sys.exit()
raw = os.read(0, 1)
open(out + ".tmp", "w").write(str(parent))
os.rename(out + ".tmp", out + ".parent")
while os.getppid() == parent:
    pass
raw += sys.stdin.buffer.read()
try:
    os.write(1, b"does anybody hear?")
    heard = True
except BrokenPipeError:
    heard = False
open(out + ".tmp", "w").write(f"{len(raw)} {raw.endswith(bytes([10]))} {heard}")
os.rename(out + ".tmp", out + ".orphan")
"""

BOUNCED, DEFERRED, SENT = "bounced", "deferred", "sent"

VERDICTS = [
    ("exit-0", SENT, "2.0.0"),
    ("exit-75", DEFERRED, "4.3.0"),
    ("exit-71", DEFERRED, "4.3.0"),
    ("signal-KILL", DEFERRED, "4.3.0"),
    ("signal-TERM", DEFERRED, "4.3.0"),
    ("signal-SEGV", DEFERRED, "4.3.0"),
    ("exit-67", BOUNCED, "5.1.1"),
    ("exit-65", BOUNCED, "5.6.0"),
    ("exit-77", BOUNCED, "5.7.0"),
    ("exit-64", BOUNCED, "5.3.0"),
    ("exit-66", BOUNCED, "5.3.0"),
    ("exit-69", BOUNCED, "5.3.0"),
    ("exit-70", BOUNCED, "5.3.0"),
    ("exit-74", BOUNCED, "5.3.0"),
    ("exit-78", BOUNCED, "5.3.5"),
    ("exit-68", BOUNCED, "5.1.2"),
    ("exit-73", BOUNCED, "5.2.0"),
    ("exit-76", BOUNCED, "5.5.0"),
    ("exit-1", BOUNCED, "5.3.0"),
    ("exit-2", BOUNCED, "5.3.0"),
    ("exit-120", BOUNCED, "5.3.0"),
    ("slow", BOUNCED, "5.3.0"),
    ("says-4.3.0-70", DEFERRED, "4.3.0"),
    ("says-5.1.1-75", BOUNCED, "5.1.1"),
    ("says-4.4.7-75", DEFERRED, "4.4.7"),
    ("says-5.2.1-67", BOUNCED, "5.2.1"),
    ("says-5.6.0-0", SENT, "2.0.0"),
    ("says-nothing-75", DEFERRED, "4.3.0"),
    ("flood", BOUNCED, "5.3.0"),
]

TEXTS = {
    "exit-1": "Command died with status 1",
    "exit-2": "Command died with status 2",
    "exit-120": "Command died with status 120",
    "slow": "Command time limit exceeded",
    "signal-KILL": "Command died with signal 9",
    "says-4.3.0-70": "in its own words",
    "says-5.1.1-75": "in its own words",
}

# Sizes around those at which a record of the queue file changes its form: 128 and 2048 bytes.
BODIES = {
    "empty lines": b"\n" * 1000,
    "short lines": b"x" * 76 + b"\n" + b"x" * 127 + b"\n" + b"x" * 128 + b"\n",
    "long lines": b"x" * 2047 + b"\n" + b"x" * 2048 + b"\n" + b"x" * 4097 + b"\n",
    "one huge line": b"x" * 300_000 + b"\n",
    "no line end": b"no line end at the end",
    "dots": b".\n..\n.x\n",
    "binary": bytes(set(range(256)) - {10, 13}) * 50 + b"\n",
}

BIG = MAIL + (b"x" * 76 + b"\n") * 260_000


@pytest.fixture(scope="module")
def contract():
    with scratch() as directory:
        (directory / "command").write_text(COMMAND)
        (directory / "command").chmod(0o755)
        (directory / "orphan.py").write_text(ORPHAN)
        (directory / "out").mkdir(mode=0o777)
        (directory / "out").chmod(0o777)
        pipe = f"user=nobody argv={directory}/command {directory} ${{queue_id}} ${{size}} ${{user}}\n"
        services = {"plain": "flags=", "traced": "flags=DORX", "hasty": "flags="}
        postfix = Postfix(directory)
        postfix.configure(
            "transport_maps = inline:{" + " ".join(f"{{{name}.example={name}}}" for name in services) + "}\n"
            "hasty_time_limit = 1s\nmessage_size_limit = 52428800\n"
            "local_header_rewrite_clients =\n"
            + "".join(f"{name}_destination_recipient_limit = 1\n" for name in services),
            "".join(f"{name} unix - n n - - pipe\n  {flags} {pipe}" for name, flags in services.items()),
        )
        with postfix:
            yield postfix


@pytest.fixture(scope="module")
def verdicts(contract):
    """Send one message for each verdict, all at once."""
    recipients = [f"{what}@{'hasty' if what == 'slow' else 'plain'}.example" for what, *_ in VERDICTS]
    messages = [Message("buyer@shop.example", [recipient], MAIL) for recipient in recipients]
    assert all(replies.accepted for replies in send_many(contract.smtp_port, messages, sessions=len(messages)))
    return dict(zip([what for what, *_ in VERDICTS], recipients, strict=True))


@pytest.mark.parametrize(("what", "status", "dsn"), VERDICTS)
def test_pipe_reads_the_end_of_a_command_as_our_table_says(contract, verdicts, what, status, dsn):
    delivery = contract.wait_delivery(verdicts[what])
    assert (delivery.status, delivery.dsn) == (status, dsn)
    assert TEXTS.get(what, "") in delivery.text


def test_what_the_command_printed_is_read_by_the_sender(contract, verdicts):
    contract.wait_delivery(verdicts["says-5.1.1-75"], BOUNCED)
    words = b"in its own words"
    assert wait_until(lambda: any(words in b" ".join(mail.split()) for mail in contract.outbound()), 60)


def accept(contract, recipient, raw):
    """Send a mail and return its queue id."""
    replies = send(contract.smtp_port, "buyer@shop.example", [recipient], raw)
    assert replies.accepted
    return replies.data.text.split()[-1]


def queue_size(raw):
    """Compute what text takes in a queue file: each line as pieces of 2048 bytes with type and length."""
    size = 0
    for line in raw.split(b"\n")[:-1]:
        pieces = [2048] * (len(line) // 2048) + [len(line) % 2048]
        size += sum(piece + (2 if piece < 128 else 3) for piece in pieces)
    return size


@pytest.mark.parametrize("service", ["plain", "traced"])
@pytest.mark.parametrize("body", BODIES)
def test_size_is_that_of_the_queue_file_and_not_of_standard_input(contract, service, body):
    """It counts lines as records, and leaves out the header fields that pipe(8) prepends."""
    queue_id = accept(contract, f"keep@{service}.example", MAIL + BODIES[body])
    assert wait_until((contract.directory / "out" / f"{queue_id}.done").exists, 60)
    raw, size = (
        (contract.directory / "out" / queue_id).read_bytes(),
        int((contract.directory / "out" / f"{queue_id}.done").read_text()),
    )
    prepended = raw[: raw.index(b"Received:")]
    assert (prepended == b"") == (service == "plain")
    assert size == queue_size(raw[len(prepended) :]) > len(raw) - len(prepended)


@pytest.mark.parametrize("body", BODIES)
def test_standard_input_ends_with_a_line_end_even_if_the_message_did_not(contract, body):
    queue_id = accept(contract, "keep@plain.example", MAIL + BODIES[body])
    assert wait_until((contract.directory / "out" / f"{queue_id}.done").exists, 60)
    assert (contract.directory / "out" / queue_id).read_bytes().endswith(b"\n")


def test_a_killed_pipe_shows_as_end_of_file_in_mid_line_another_parent_and_a_closed_output(contract):
    """The message stays in the queue and comes again whole."""
    queue_id = accept(contract, "orphan@plain.example", BIG)
    parent, orphan = (
        contract.directory / "out" / f"{queue_id}.parent",
        contract.directory / "out" / f"{queue_id}.orphan",
    )
    assert wait_until(parent.exists, 60)
    os.kill(int(parent.read_text()), 9)
    assert wait_until(orphan.exists, 60)
    length, ends_with_lf, heard = orphan.read_text().split()
    assert 0 < int(length) < len(BIG) and (ends_with_lf, heard) == ("False", "False")
    contract.wait_delivery("orphan@plain.example", SENT)
    assert (contract.directory / "out" / queue_id).read_bytes().endswith(BIG)


@pytest.mark.parametrize(
    ("what", "status", "dsn"),
    [("unread-65", BOUNCED, "5.6.0"), ("unread-75", DEFERRED, "4.3.0"), ("unread-0", SENT, "2.0.0")],
)
def test_the_exit_status_counts_though_20_mb_of_standard_input_were_not_read(contract, what, status, dsn):
    """Also exit 0: Postfix does not mind that its write failed, and takes the mail for delivered."""
    accept(contract, f"{what}@plain.example", BIG)
    delivery = contract.wait_delivery(f"{what}@plain.example")
    assert (delivery.status, delivery.dsn) == (status, dsn)


def header_names(postfix, raw):
    queue_id = accept(postfix, "bob@outside.example", raw)
    postfix.wait_log(f"{queue_id}: removed")
    header = (postfix.directory / "outbound" / queue_id).read_bytes().partition(b"\n\n")[0]
    return set(re.findall(rb"^([\w-]+):", header, re.MULTILINE))


def test_without_rewrite_clients_postfix_adds_only_received_to_a_mail_from_loopback(contract):
    assert header_names(contract, b"Subject: bare\n\nbody\n") == {b"Return-Path", b"Received", b"Subject"}


def test_by_default_postfix_adds_message_id_date_and_from_to_a_mail_from_loopback(place):
    with Postfix(place) as postfix:
        added = header_names(postfix, b"Subject: bare\n\nbody\n")
        assert added == {b"Return-Path", b"Received", b"Subject", b"Message-Id", b"Date", b"From"}


def test_three_hundred_sessions_at_once_are_all_served(contract):
    messages = [Message("", ["exit-0@plain.example"], MAIL)] * 600
    assert all(replies.accepted for replies in send_many(contract.smtp_port, messages, sessions=300))
