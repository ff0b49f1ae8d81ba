"""The main job behind a real Postfix, on the embedded default and on the real backends alike."""

import json
from collections import Counter

import pytest

from tests.support.containers_made import attachment, flagged, tnef, zipped
from tests.support.lab import demo, smtp
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.postgres import Postgres
from tests.support.lab.process import scratch, wait_until
from tests.support.mails import mail, multipart, order, part

ACME, BETA = f"orders+acme@{DOMAIN}", f"orders+beta@{DOMAIN}"
STACKS = ("embedded", "postgresql+s3", "postgresql+s3+redis")


@pytest.fixture(scope="module", params=STACKS)
def deployment(request):
    """A deployment with its worker and its Postfix running, on each of the stacks."""
    settings = {}
    if request.param != "embedded":
        postgres, ceph = request.getfixturevalue("postgres"), request.getfixturevalue("ceph")
        name = request.param.replace("+", "_")
        settings = {
            "DATABASE_URL": postgres.create_database(name),
            "ARCHIVE_URL": f"s3://{ceph.create_bucket(name.replace('_', '-'))}/mail",
            "S3_ENDPOINT_URL": ceph.endpoint,
            "AWS_ACCESS_KEY_ID": ceph.access_key,
            "AWS_SECRET_ACCESS_KEY": ceph.secret_key,
            "AWS_DEFAULT_REGION": ceph.region,
        }
    if "redis" in request.param:
        settings["QUEUE_URL"] = request.getfixturevalue("redis").url(3)
    with scratch() as place:
        deployment = Deployment(place, settings)
        deployment.set_up("acme", "beta")
        with deployment:
            yield deployment


def send(deployment: Deployment, raw: bytes, *recipients: str, sender: str = "buyer@shop.example") -> smtp.Replies:
    return smtp.send(deployment.postfix.smtp_port, sender, recipients or (ACME,), raw)


def test_an_order_becomes_documents(deployment):
    assert send(deployment, demo.purchase_order()).accepted
    (row,) = deployment.wait_parsed("Purchase order 4711: 12 widgets")
    assert wait_until(lambda: {d["state"] for d in deployment.documents(row["id"])} == {"DONE"}, 60, interval=0.6)
    documents = {d["filename"]: (d["type"], d["size"]) for d in deployment.documents(row["id"])}
    excel = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert documents["order-4711.pdf"] == ("application/pdf", len(demo.PDF))
    assert documents["positions.csv"] == ("text/csv", 24)
    assert documents["order-4711.xlsx"][0] == excel
    assert len(documents) == 4 and documents[None] == ("text/plain", 32)


def test_what_attachments_hold_becomes_documents_and_every_part_is_told(deployment):
    raw = multipart(
        part(b'Content-Type: application/zip; name="orders.zip"', zipped(("order-1.pdf", demo.PDF))),
        part(b'Content-Type: application/ms-tnef; name="winmail.dat"', tnef(attachment(title=b"2.pdf", data=demo.PDF))),
        part(b'Content-Type: application/zip; name="secret.zip"', flagged(zipped(("3.pdf", demo.PDF)), 1)),
        part(b'Content-Type: application/pgp-signature; name="signature.asc"', b"-----BEGIN PGP SIGNATURE-----"),
    )
    assert send(deployment, b"Subject: Wrapped\r\n" + raw).accepted
    (row,) = deployment.wait_parsed("Wrapped")
    assert wait_until(lambda: {d["state"] for d in deployment.documents(row["id"])} == {"DONE"}, 60, interval=0.6)
    shown = [json.loads(line) for line in deployment.admin("documents", row["id"], "--json").splitlines()]
    assert [(p["part"], p["filename"], p["state"], p["reason"], p["defects"]) for p in shown] == [
        ("0", None, "skipped", "container", ""),
        ("1", "orders.zip", "skipped", "opened", ""),
        ("1.1", "order-1.pdf", "DONE", "named", ""),
        ("2", "winmail.dat", "skipped", "opened", ""),
        ("2.1", "2.pdf", "DONE", "named", ""),
        ("3", "secret.zip", "DONE", "not opened", "not opened: encrypted"),
        ("4", "signature.asc", "skipped", "signature", ""),
    ]


def test_an_unknown_organization_is_refused_at_rcpt_to(deployment):
    for recipient in (
        f"orders+nope@{DOMAIN}",
        f"orders@{DOMAIN}",
        f"orders+acme+extra@{DOMAIN}",
        f"orders+'--@{DOMAIN}",
    ):
        (reply,) = send(deployment, mail(), recipient).rcpt
        assert (reply.code, reply.text[:5]) == (550, "5.1.1"), recipient


def test_letter_case_of_a_recipient_does_not_matter(deployment):
    assert send(deployment, mail(2), "Orders+ACME@OrderFlow.example.com").accepted
    deployment.wait_parsed("Order 2")


def test_a_duplicate_is_accepted_and_makes_no_second_row(deployment):
    assert send(deployment, mail(3)).accepted
    deployment.wait_parsed("Order 3")
    assert send(deployment, mail(3)).accepted
    deployment.postfix.wait_log(r"status=sent \(.*message known already")
    assert len(deployment.rows_of("Order 3")) == 1


def test_one_mail_to_two_organizations_is_two_messages(deployment):
    assert send(deployment, order(4), ACME, BETA).accepted
    rows = deployment.wait_parsed("Order 4", count=2)
    assert {row["recipient"] for row in rows} == {ACME, BETA}
    assert all(len(deployment.documents(row["id"])) == 2 for row in rows)


def test_senders_are_recorded_as_smtp_said_them_an_empty_one_too(deployment):
    assert send(deployment, mail(5), sender="").accepted
    assert send(deployment, mail(50), sender="someone@else.example").accepted
    senders = {row["subject"]: row["sender"] for number in (5, 50) for row in deployment.wait_parsed(f"Order {number}")}
    assert senders == {"Order 5": "", "Order 50": "someone@else.example"}


def test_postmaster_and_abuse_are_deliverable(deployment):
    for name in ("postmaster", "abuse"):
        assert send(deployment, mail(6), f"{name}@{DOMAIN}").accepted


def test_a_message_over_the_limit_is_refused_in_the_dialogue(deployment):
    replies = smtp.send(deployment.postfix.smtp_port, "a@b.example", [ACME], mail(7), mail_options=[f"SIZE={26214401}"])
    assert replies.mail.code == 552


def test_a_disabled_organization_is_refused_at_once(deployment):
    deployment.admin("org", "add", "gone")
    deployment.admin("org", "disable", "gone")
    assert send(deployment, mail(8), f"orders+gone@{DOMAIN}").rcpt[0].code == 550
    deployment.admin("org", "enable", "gone")
    assert send(deployment, mail(8), f"orders+gone@{DOMAIN}").accepted


def test_check_finds_nothing_wrong(deployment):
    deployment.user = "root"  # as an operator would: Postfix's map of PostgreSQL is not for every user
    try:
        ended = deployment.run(
            "orderflow-admin", "check", "--json", "--postfix-config", str(deployment.postfix.config_directory),
            check=False,
        )  # fmt: skip
    finally:
        deployment.user = "nobody"
    findings = {
        f["part"]: f["detail"] for line in ended.stdout.splitlines() if (f := json.loads(line))["finding"] != "ok"
    }
    # As the lab is: without a service, by a superuser, on a server that need not outlive its machine.
    wanted = {"service": "none listens", "openness": "its role is a superuser", "database": "set fsync = on"}
    assert all(wanted[part] in says for part, says in findings.items()), findings
    assert "service" in findings and ended.returncode == 0


def test_a_hundred_sessions_at_once_lose_nothing(deployment):
    messages = [smtp.Message("buyer@shop.example", [ACME], order(1000 + n, attachments=1)) for n in range(100)]
    replies = smtp.send_many(deployment.postfix.smtp_port, messages, sessions=100)
    assert Counter(reply.accepted for reply in replies) == {True: 100}

    def numbers() -> Counter:
        subjects = (row["subject"] for row in deployment.messages() if row["status"] == "PARSED")
        return Counter(subject for subject in subjects if subject.startswith("Order 1"))

    wanted = {f"Order {1000 + n}": 1 for n in range(100)}
    assert wait_until(lambda: numbers() == wanted, 180, interval=1), deployment.status()
    assert not [d for d in deployment.postfix.deliveries() if d.status == "bounced"]


def test_nothing_that_a_sender_wrote_is_logged(deployment):
    marks = ("12 widgets", "purchasing", "%PDF", "find attached")
    for record in deployment.log_records():
        assert not any(mark in json.dumps(record) for mark in marks), record
    assert "secret" not in deployment.postfix.log().lower()


def test_after_all_this_the_deployment_is_clean(deployment):
    deployment.wait_finished(len(deployment.messages()), timeout=60)
    status = deployment.status()
    assert (status["spool_entries"], status["dead_letters"], status["messages_failed"]) == (0, 0, 0)


def test_rcpt_to_is_answered_451_while_the_database_is_stopped():
    """It has a PostgreSQL of its own."""
    with scratch() as place, Postgres(place / "postgres", fsync=False) as postgres:
        deployment = Deployment(place / "deployment", {"DATABASE_URL": postgres.create_database("rcpt")})
        deployment.set_up("acme")
        with deployment.postfix:
            assert send(deployment, mail()).rcpt[0].code == 250
            postgres.stop()
            for recipient in (ACME, f"orders+nope@{DOMAIN}"):
                assert send(deployment, mail(), recipient).rcpt[0].code == 451
