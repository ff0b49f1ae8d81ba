"""The three ways from Postfix to a delivery, each with the real service and worker behind a real Postfix."""

import json
import re
import smtplib
import sqlite3
import threading
from collections import Counter
from contextlib import closing

import pytest

from tests.support.lab import demo, smtp
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import mail, order

ACME, BETA = f"orders+acme@{DOMAIN}", f"orders+beta@{DOMAIN}"
QUICK = "minimal_backoff_time = 1s\nmaximal_backoff_time = 1s\n"
# Where RCPT TO is answered without the service, it is seen what its ways do while it is away.
MAPS = {"pipe": "database", "lmtp": "database", "before-queue": "service"}
PIPE, LMTP, BEFORE_QUEUE = WAYS = ("pipe", "lmtp", "before-queue")
MX, STRICT = "mx.lab.example", f"orders+strict@{DOMAIN}"


@pytest.fixture(scope="module", params=WAYS)
def deployment(request):
    """A deployment of each way; worker, service and Postfix run."""
    with scratch() as place:
        deployment = Deployment(place, way=request.param, service=True, overrides=QUICK, map_by=MAPS[request.param])
        deployment.set_up("acme", "beta", "strict")
        deployment.admin("org", "set", "strict", "allowed_senders=@shop.example")
        with deployment:
            yield deployment


def send(deployment: Deployment, raw: bytes, *recipients: str, sender: str = "buyer@shop.example", **options):
    return smtp.send(deployment.postfix.smtp_port, sender, recipients or (ACME,), raw, **options)


def send_again(deployment: Deployment, raw: bytes, *recipients: str) -> None:
    """Send as a mail system does: what got a temporary reply is sent again until it has another."""
    left = list(recipients)

    def sent() -> bool:
        replies = send(deployment, raw, *left)
        for recipient, reply in zip(tuple(left), replies.rcpt, strict=True):
            assert reply.code in (250, 451, 452), reply
            if reply.code == 250 and replies.accepted:
                left.remove(recipient)
        assert replies.data is None or replies.data.code in (250, 451, 452), replies
        return not left

    assert wait_until(sent, 60, interval=0.2), left


def recorded(deployment: Deployment, subject: str) -> tuple[str, str, bytes]:
    """Return the queue id and the client's address of a message's row, and its raw bytes from the archive."""
    with closing(sqlite3.connect(f"file:{deployment.state}/orderflow.db?mode=ro", uri=True)) as database:
        columns = "queue_id, client_address, raw_key"
        query = f"SELECT {columns} FROM inbound_message WHERE subject = ?"
        queue_id, address, key = database.execute(query, (subject,)).fetchone()
    return queue_id, address, (deployment.state / "archive" / key).read_bytes()


def bounced(deployment: Deployment) -> list:
    return [delivery for delivery in deployment.postfix.deliveries() if delivery.status == "bounced"]


def test_an_order_becomes_documents(deployment):
    assert send(deployment, demo.purchase_order()).accepted
    (row,) = deployment.wait_parsed("Purchase order 4711: 12 widgets")
    assert wait_until(lambda: {d["state"] for d in deployment.documents(row["id"])} == {"DONE"}, 60, interval=0.6)
    assert {d["filename"] for d in deployment.documents(row["id"])} == {
        "order-4711.pdf",
        "positions.csv",
        "order-4711.xlsx",
        None,
    }


def test_the_service_delivers_it(deployment):
    before = deployment.health()["deliveries"]
    assert send(deployment, mail(1)).accepted
    deployment.wait_parsed("Order 1")
    assert wait_until(lambda: deployment.health()["deliveries"] == before + 1, 60)


def test_an_unknown_organization_is_refused_at_rcpt_to(deployment):
    for recipient in (f"orders+nope@{DOMAIN}", f"orders@{DOMAIN}", f"orders+acme+extra@{DOMAIN}"):
        (reply,) = send(deployment, mail(2), recipient).rcpt
        assert (reply.code, reply.text[:5]) == (550, "5.1.1"), recipient


def test_a_duplicate_is_accepted_and_makes_no_second_row(deployment):
    assert send(deployment, mail(3)).accepted
    deployment.wait_parsed("Order 3")
    before = deployment.health()["outcomes"].get("DUPLICATE", 0)
    replies = send(deployment, mail(3))
    assert replies.accepted
    assert wait_until(lambda: deployment.health()["outcomes"].get("DUPLICATE", 0) == before + 1, 60)
    assert len(deployment.rows_of("Order 3")) == 1
    if deployment.way == BEFORE_QUEUE:
        assert replies.data.text == "2.0.0 message known already"


def test_one_mail_to_two_organizations_is_two_messages(deployment):
    if deployment.way == BEFORE_QUEUE:
        first, second = send(deployment, order(4), ACME, BETA).rcpt
        assert (first.code, second.code) == (250, 452)
    send_again(deployment, order(4), ACME, BETA)
    rows = deployment.wait_parsed("Order 4", count=2)
    assert {row["recipient"] for row in rows} == {ACME, BETA}
    assert all(len(deployment.documents(row["id"])) == 2 for row in rows)


def test_who_sent_it_is_recorded_as_smtp_said_it(deployment):
    for number, sender in ((5, "buyer+5@shop.example"), (6, "")):
        assert send(deployment, mail(number), sender=sender).accepted
        (row,) = deployment.wait_parsed(f"Order {number}")
        queue_id, address, _ = recorded(deployment, f"Order {number}")
        assert (row["sender"], address) == (sender, "127.0.0.1")
        assert re.fullmatch("" if deployment.way == BEFORE_QUEUE else "[0-9A-F]{6,}", queue_id)


def test_postmaster_and_abuse_are_deliverable(deployment):
    for name in ("postmaster", "abuse"):
        before = len(deployment.postfix.outbound())
        raw = mail(7, Subject=f"for {name}")
        assert send(deployment, raw, f"{name}@{DOMAIN}").accepted
        assert wait_until(lambda before=before: len(deployment.postfix.outbound()) > before, 60)
        assert f"Subject: for {name}".encode() in deployment.postfix.outbound()[-1]
        assert deployment.rows_of(f"for {name}") == []


def test_eight_bit_text_arrives_as_it_was(deployment):
    raw = mail(8, "zwölf Stück\n".encode("latin-1"), Content_Type="text/plain; charset=iso-8859-1")
    assert send(deployment, raw, mail_options=["BODY=8BITMIME"]).accepted
    deployment.wait_parsed("Order 8")
    assert recorded(deployment, "Order 8")[2].endswith(raw)


def test_an_smtputf8_mail_is_delivered(deployment):
    raw = mail(9, Subject="Bestellung für Müller", From="köpfe@büro.example")
    assert send(deployment, raw, sender="köpfe@büro.example", mail_options=["SMTPUTF8", "BODY=8BITMIME"]).accepted
    (row,) = deployment.wait_parsed("Bestellung für Müller")
    assert row["sender"] == "köpfe@büro.example"


def test_three_megabytes_in_one_line_arrive_byte_for_byte(deployment):
    raw = mail(10, b"x" * (3 << 20) + b"\n.\n..\n.dots\n")
    assert send(deployment, raw).accepted
    deployment.wait_parsed("Order 10")
    assert recorded(deployment, "Order 10")[2].endswith(raw)


@pytest.mark.parametrize(
    "written",
    [f'"orders+acme"@{DOMAIN}', f"@relay.example:orders+acme@{DOMAIN}", f"Orders+ACME@{DOMAIN.upper()}"],
    ids=["quoted", "source route", "capitals"],
)
def test_a_recipient_may_be_written_in_other_ways(deployment, written):
    number = 20 + len(written)
    assert send(deployment, mail(number), f"<{written}>").accepted
    deployment.wait_parsed(f"Order {number}")


def test_a_client_that_asks_for_notifications_where_they_are_offered_is_served(deployment):
    """A client that asks for delivery status notifications where they are offered, as Postfix itself does."""
    with smtplib.SMTP("127.0.0.1", deployment.postfix.smtp_port, local_hostname="client.lab.example") as client:
        client.ehlo()
        wish = ["NOTIFY=FAILURE,DELAY", f"ORCPT=rfc822;{ACME}"] if client.has_extn("dsn") else []
        assert wish or deployment.way == BEFORE_QUEUE
        client.sendmail("buyer@shop.example", [ACME], mail(11), rcpt_options=wish)
    deployment.wait_parsed("Order 11")


def test_check_finds_nothing_wrong(deployment):
    deployment_user, deployment.user = deployment.user, "root"  # looks as each user
    try:
        ended = deployment.run(
            "orderflow-admin", "check", "--json", "--postfix-config", str(deployment.postfix.config_directory),
            check=False,
        )  # fmt: skip
    finally:
        deployment.user = deployment_user
    findings = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [f for f in findings if f["finding"] != "ok"] == []
    assert any(f"the way is {deployment.way}" in f["detail"] for f in findings)


def test_while_the_service_is_stopped_nothing_is_lost_and_nothing_bounces(deployment):
    deployment.service.stop()
    replies = send(deployment, mail(30))
    if deployment.way == BEFORE_QUEUE:
        assert (replies.rcpt[0].code, replies.rcpt[0].text[:5]) == (451, "4.3.0")
    else:
        assert replies.accepted
    if deployment.way == PIPE:
        deployment.wait_parsed("Order 30")
    if deployment.way == LMTP:
        assert deployment.postfix.wait_delivery(ACME, "deferred").dsn == "4.4.1"
        assert deployment.rows_of("Order 30") == []
    deployment.service.start()
    if deployment.way == BEFORE_QUEUE:
        assert send(deployment, mail(30)).accepted
    deployment.wait_parsed("Order 30")
    assert bounced(deployment) == []


def test_a_service_killed_under_load_loses_nothing_and_doubles_nothing(deployment):
    numbers = range(1000, 1060)
    senders = [
        threading.Thread(target=lambda part=part: [send_again(deployment, order(n, 1), ACME) for n in part])
        for part in (numbers[start::6] for start in range(6))
    ]
    for sender in senders:
        sender.start()
    for done in (5, 10):
        # By the pipe, mail that comes while the service is away is delivered without it: all of it may be through.
        assert wait_until(
            lambda done=done: (
                deployment.health()["deliveries"] >= done or not any(sender.is_alive() for sender in senders)
            ),
            60,
            interval=0.05,
        )
        deployment.service.kill()
        deployment.service.start()
    for sender in senders:
        sender.join()

    def subjects() -> Counter:
        rows = (row["subject"] for row in deployment.messages() if row["status"] == "PARSED")
        return Counter(subject for subject in rows if subject in wanted)

    wanted = Counter({f"Order {number}": 1 for number in numbers})
    assert wait_until(lambda: subjects() == wanted, 120, interval=1), subjects() - wanted or wanted - subjects()
    assert bounced(deployment) == []


def test_after_all_this_the_deployment_is_clean(deployment):
    deployment.wait_finished(len(deployment.messages()), timeout=60)
    # An entry that a killed service held is the drain's, in its own time.
    assert wait_until(lambda: deployment.status()["spool_entries"] == 0, 60, interval=0.5)
    status = deployment.status()
    assert (status["dead_letters"], status["messages_failed"]) == (0, 0)
    assert wait_until(lambda: deployment.postfix.queue() == [], 60, interval=0.5), deployment.postfix.queue()
    told = re.findall(r"(?:warning|error|fatal): .*", deployment.postfix.log())
    # Postfix compares the file system's clock with the machine's, which a virtual machine may set in mid-run.
    known = ("proxy", "recipients.sock", "TLS", "file system clock is", "resetting file time stamps")
    assert {line for line in told if not any(words in line for words in known)} == set()


@pytest.mark.parametrize("way", WAYS)
def test_mail_of_about_the_size_limit_is_refused_in_the_dialogue_or_delivered(place, way):
    """Postfix adds header fields to what it has let in, and sends CR LF where our limit counts LF."""
    deployment = Deployment(place, {"ORDERFLOW_MAX_MESSAGE_SIZE": "50000"}, way=way, service=True)
    deployment.set_up("acme")
    with deployment.service, deployment.postfix:
        codes: Counter[int] = Counter()
        # Postfix's limit counts CR LF; so short lines reach it earlier.
        for line, sizes in ((b"short\n", range(42000, 43000, 50)), (b"l" * 899 + b"\n", range(49000, 50000, 50))):
            for size in sizes:
                raw = mail(size, line * (size // len(line)))[: size - 1] + b"\n"
                replies = send(deployment, raw)
                codes[replies.data.code if replies.data else replies.mail.code] += 1
        assert set(codes) == {250, 552}
        accepted = codes[250]
        assert wait_until(lambda: len(deployment.messages()) + len(bounced(deployment)) == accepted, 60, interval=0.5)
        assert bounced(deployment) == []


@pytest.mark.parametrize("way", WAYS)
def test_five_hundred_sessions_at_once_lose_and_double_nothing(place, way):
    """On two instances of the service that share their sockets; the worker stays off, so all tasks wait."""
    deployment = Deployment(place, way=way, instances=2, overrides=QUICK + "default_process_limit = 600\n")
    deployment.set_up("acme", "beta")
    numbers = range(500)
    recipients = {number: (ACME, BETA)[number % 2] for number in numbers}
    messages = [smtp.Message("buyer@shop.example", [recipients[n]], mail(n)) for n in numbers]
    with deployment.service, deployment.postfix:
        replies = smtp.send_many(deployment.postfix.smtp_port, messages, sessions=500)
        assert [reply for reply in replies if not reply.accepted] == []
        assert wait_until(lambda: len(deployment.messages()) >= 500, 120, interval=1), deployment.status()
        assert bounced(deployment) == []
    found = Counter((row["subject"], row["recipient"]) for row in deployment.messages())
    assert found == {(f"Order {number}", recipient): 1 for number, recipient in recipients.items()}
    status = deployment.status()
    assert (status["tasks_waiting"], status["spool_entries"], status["dead_letters"]) == (500, 0, 0)


def test_a_field_that_the_sender_wrote_authenticates_nobody(deployment):
    deployment.write_settings({"ORDERFLOW_AUTHSERV_ID": MX})
    deployment.service.stop()
    deployment.service.start()
    results = f"Authentication-Results: {MX}; dmarc=pass header.from=shop.example\n".encode()
    assert send(deployment, results + order(900), STRICT).accepted

    def held() -> bool:
        return bool(deployment.run("orderflow-admin", "held", "--org", "strict", "--json").stdout)

    assert wait_until(held, 60, interval=0.5)
    assert not any(row["recipient"] == STRICT for row in deployment.messages())
