"""orderflow-admin check sends itself forged mail, through a real Postfix and its milters, and says what is believed."""

import re

import pytest

from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.admin.checks.forgery import check_forgeries
from orderflow_ingest.entrypoints.admin.checks.postfix import open_postfix
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.milters import Domain, Milters, example
from tests.support.lab.process import scratch

MX = "mx.example.com"  # as docs/how-to/senders.md has it
SOCKETS = "Socket inet:8891@127.0.0.1\n", "Socket inet:8893@127.0.0.1\n"
# As Debian installs them, but for the name and the sockets.
PLAIN = tuple(f"AuthservID {MX}\n{socket}" for socket in SOCKETS)


@pytest.fixture(scope="module")
def domain():
    with scratch() as place:
        yield Domain(place, DOMAIN)


@pytest.fixture(scope="module")
def deployment():
    """A deployment by LMTP with a canary; Postfix and the service run."""
    with scratch() as place:
        deployment = Deployment(place, {"ORDERFLOW_AUTHSERV_ID": MX}, way="lmtp", service=True, map_by="database")
        deployment.set_up("canary")
        with deployment.service, deployment.postfix:
            yield deployment


def check(deployment: Deployment, main: str = "", patience: float = 20) -> list[tuple[str, str]]:
    """Put lines into main.cf, and return what the check finds."""
    deployment.configure_postfix(overrides=main)
    deployment.postfix.reload()
    return found(deployment, patience)


def found(deployment: Deployment, patience: float = 20) -> list[tuple[str, str]]:
    app = open_app(load(str(deployment.settings_file), {}), guarded=False)
    try:
        return list(check_forgeries(app, open_postfix(str(deployment.postfix.config_directory)), patience))
    finally:
        app.records.database.close()


def nothing_is_left(deployment: Deployment) -> bool:
    held = deployment.run("orderflow-admin", "held", "--org", "canary", "--json").stdout
    return not (deployment.messages() or held or list(deployment.state.glob("archive/org/*/*/*")))


def test_behind_milters_as_the_page_sets_them_up_nothing_is_believed(deployment, domain, place):
    with Milters(place / "milters", [domain]) as milters:
        assert check(deployment, milters.main) == [("OK", "of 15 forged mails none is believed, 0 were refused")]
    assert nothing_is_left(deployment) and not (deployment.state / "probes").exists()
    assert len(deployment.postfix.queue()) == 0


def test_what_opendmarc_is_made_to_believe_by_its_defaults_is_not_believed_here(deployment, domain, place):
    with Milters(place / "milters", [domain], *PLAIN) as milters:
        assert check(deployment, milters.main) == [("OK", "of 17 forged mails none is believed, 0 were refused")]
    assert nothing_is_left(deployment)


def test_a_server_that_calls_all_mail_authenticated_is_told_by_each_kind_that_it_lets_through(deployment):
    field = f"Authentication-Results: {MX}; dmarc=pass header.from={DOMAIN}"
    said = check(deployment, f"smtpd_sender_restrictions = check_client_access static:{{PREPEND {field}}}\n")
    assert {level for level, _ in said} == {"TROUBLE"}
    assert said[0][1] == "a forged mail gets through and is believed, by its From alone: see docs/how-to/senders.md"
    assert nothing_is_left(deployment)


def test_a_milter_that_refuses_forged_mail_is_as_good(deployment, domain, place):
    rejects = example("/etc/opendmarc.conf") + "RejectFailures true\n"
    with Milters(place / "milters", [domain], opendmarc=rejects) as milters:
        ((level, said),) = check(deployment, milters.main)
    assert level == "OK" and "none is believed" in said and " 0 were" not in said


def test_a_server_that_authenticates_nothing_is_told(deployment):
    findings = check(deployment)
    assert [level for level, _ in findings] == ["WARNING", "OK"]
    assert findings[0][1].startswith(
        f"mail from 127.0.0.2 gets no Authentication-Results of {MX}: look at smtpd_milters"
    )


def test_a_milter_that_is_away_leaves_it_unknown(deployment, domain, place):
    gone = Milters(place / "milters", [domain])
    ((level, said),) = check(deployment, gone.main)
    assert level == "WARNING" and "was refused with 451 4.7.1" in said
    assert said.startswith("forged mail could not be sent, so nothing is known of it: ")


def test_mail_that_does_not_come_in_time_leaves_it_unknown_and_becomes_no_document(deployment):
    deployment.service.stop()
    try:
        ((level, said),) = check(deployment, patience=2)
        assert level == "WARNING" and said.startswith("forged mail has not come in time, so nothing is known of it: ")
        assert "lmtp.sock" in said and not (deployment.state / "probes").exists()
    finally:
        deployment.service.start()


def test_without_a_canary_nothing_is_sent(place):
    deployment = Deployment(place, {"ORDERFLOW_AUTHSERV_ID": MX}, way="lmtp")
    deployment.set_up("acme")
    assert found(deployment) == [
        ("WARNING", "no forged mail was sent, for want of somebody to send it to: orderflow-admin org add canary")
    ]
    deployment.admin("org", "add", "canary")
    ((level, said),) = found(deployment)
    assert level == "WARNING" and "127.0.0.1" in said and said.endswith("does Postfix run?")
    deployment.admin("org", "disable", "canary")
    assert found(deployment)[0][1].startswith("no forged mail was sent")


def test_where_nobody_is_authenticated_nothing_is_sent(place):
    deployment = Deployment(place, way="lmtp")
    deployment.set_up("canary")
    assert found(deployment) == []


def test_before_the_queue_nothing_is_believed_and_nothing_sent(place):
    deployment = Deployment(place, {"ORDERFLOW_AUTHSERV_ID": MX}, way="before-queue")
    deployment.set_up("canary")
    said = "before the queue no mail is believed to be authenticated, so no forged mail was sent"
    assert found(deployment) == [("OK", said)]


def test_check_has_it_as_a_part_of_its_own(deployment, domain, place):
    with Milters(place / "milters", [domain]) as milters:
        check(deployment, milters.main)
        deployment.user = "root"
        try:
            config = str(deployment.postfix.config_directory)
            ended = deployment.run("orderflow-admin", "check", "--postfix-config", config, check=False)
        finally:
            deployment.user = "nobody"
    line = r"^forged mail +ok +of 15 forged mails none is believed, 0 were refused$"
    assert re.search(line, ended.stdout, re.MULTILINE), ended.stdout
