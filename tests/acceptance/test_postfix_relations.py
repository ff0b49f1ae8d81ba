"""What the printed parameters of Postfix do in a real one: backoff, large mail, long header fields."""

import re
import shutil

import pytest

from orderflow_ingest.entrypoints.admin.checks.postconf import Postconf
from tests.support.lab import smtp
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.relations import printed


@pytest.fixture(scope="module")
def behind():
    """A deployment by LMTP that takes large mail; its service does not run, and times are printed ones in little."""
    with scratch() as place:
        deployment = Deployment(place, {"ORDERFLOW_MAX_MESSAGE_SIZE": "60000000"}, way="lmtp")
        deployment.set_up("acme")
        asked = Postconf(str(shutil.which("postconf")), str(deployment.postfix.config_directory))
        plain = printed(place, "lmtp", {})
        scale = 2 / plain.seconds("minimal_backoff_time")
        run = max(1, round(scale * plain.seconds("queue_run_delay")))
        own = f"minimal_backoff_time = 2s\nmaximal_backoff_time = 60s\nqueue_run_delay = {run}s\n"
        mailboxes = place / "mailboxes"
        mailboxes.mkdir(mode=0o1777)
        mailboxes.chmod(0o1777)
        own += f"local_transport = local\nmail_spool_directory = {mailboxes}/\n"
        assert asked.value("message_size_limit") == "60000000"
        deployment.configure_postfix(master="qmgr unix n - n 1 1 qmgr -v\n", overrides=own)
        with deployment:
            yield deployment


def test_after_a_short_outage_mail_is_tried_again_by_the_queue_run_after_its_backoff(behind):
    assert smtp.send(
        behind.postfix.smtp_port, "a@b.example", (f"orders+acme@{DOMAIN}",), b"From: a@b.example\n\n1"
    ).accepted
    behind.postfix.wait_delivery(f"orders+acme@{DOMAIN}", "deferred")
    with behind.service:
        queue_id = behind.postfix.wait_delivery(f"orders+acme@{DOMAIN}", "sent", 60).queue_id
    log = behind.postfix.log()
    waited = log[re.search(rf"{queue_id}: to=.*status=deferred", log).end() :]
    waited = waited[: re.search(rf"{queue_id}: from=.*queue active", waited).start()]
    assert 1 <= len(re.findall(r"qmgr_scan_start: start deferred queue", waited)) <= 4, (
        "as long as two runs, as printed"
    )


def test_postmaster_has_a_mailbox_where_larger_mail_is_taken_than_postfix_expects(behind):
    assert smtp.send(
        behind.postfix.smtp_port, "a@b.example", (f"postmaster@{DOMAIN}",), b"From: a@b.example\n\n1"
    ).accepted
    assert behind.postfix.wait_delivery("root@localhost").status == "sent"


def test_a_header_field_of_thousands_of_addresses_arrives_whole(behind):
    people = b",\n ".join(b"u%05d@e.example" % number for number in range(12000))
    raw = b"From: a@b.example\nSubject: many\nTo: " + people + b"\n\n1\n"
    with behind.service:
        assert smtp.send(behind.postfix.smtp_port, "a@b.example", (f"orders+acme@{DOMAIN}",), raw).accepted
        assert wait_until(lambda: bool(behind.rows_of("many")), 60, interval=0.3)
    kept = (path.read_bytes() for path in (behind.state / "archive").rglob("*") if path.is_file())
    assert any(raw in text for text in kept)
