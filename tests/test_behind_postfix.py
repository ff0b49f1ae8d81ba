"""What a real Postfix makes of each end of orderflow-deliver: delivered, deferred or bounced, with our D.S.N.

One Postfix, one transport per case: each starts the same program with settings or surroundings of its own.
"""

import socket

import pytest

from orderflow_ingest.outcomes import Outcome
from tests.lab import smtp
from tests.lab.deployment import DOMAIN, PROGRAMS, Deployment
from tests.lab.process import free_port, scratch, wait_until
from tests.mails import mail
from tests.test_program import make_python

SENT, DEFERRED, BOUNCED = "sent", "deferred", "bounced"
# case: settings of its own, the python3 beside the program, the message, what Postfix says, the D.S.N.
CASES = {
    "delivered": ({}, "", mail(1), SENT, "2.0.0"),
    "unknown": ({"ORDERFLOW_STATE_DIR": "{other}"}, "", mail(2), BOUNCED, Outcome.UNKNOWN_ORG.dsn_code),
    "disabled": ({"ORDERFLOW_STATE_DIR": "{other}"}, "", mail(3), BOUNCED, Outcome.ORG_DISABLED.dsn_code),
    "malformed": ({}, "", b"\nno header\n", BOUNCED, Outcome.MALFORMED.dsn_code),
    "toobig": ({"ORDERFLOW_MAX_MESSAGE_SIZE": "100"}, "", mail(4), BOUNCED, Outcome.TOO_BIG.dsn_code),
    "down": ({"DATABASE_URL": "postgresql://127.0.0.1:{closed}/x"}, "", mail(5), DEFERRED, "4.3.0"),
    "full": ({"ORDERFLOW_STATE_DIR": "{other}/none"}, "", mail(6), DEFERRED, Outcome.SPOOL_FULL.dsn_code),
    "overloaded": ({"ORDERFLOW_MAX_QUEUE": "1"}, "", mail(7), DEFERRED, Outcome.OVERLOADED.dsn_code),
    "deadline": (
        {"ORDERFLOW_DEADLINE": "1", "DATABASE_URL": "postgresql://127.0.0.1:{silent}/x"},
        "", mail(8), DEFERRED, Outcome.DEADLINE.dsn_code,
    ),
    "misconfigured": ({"ORDERFLOW_DOMAIN": "elsewhere.example"}, "", mail(9), DEFERRED, Outcome.MISCONFIGURED.dsn_code),
    "badsettings": ({"ORDERFLOW_DEADLINE": "soon"}, "", mail(10), DEFERRED, Outcome.MISCONFIGURED.dsn_code),
    "nosettings": (None, "", mail(11), DEFERRED, Outcome.MISCONFIGURED.dsn_code),
    "killed": ({}, "kill -9 $$", mail(12), DEFERRED, "4.3.0"),
    "noimport": ({}, 'exec /usr/bin/python3 -S "$@"', mail(13), DEFERRED, "4.3.0"),
    "nopython": ({}, "exec /nonexistent", mail(14), DEFERRED, "4.3.0"),
    "traceback": ({}, "echo 'Traceback: secret'; exit 1", mail(15), DEFERRED, "4.3.0"),
    "silence": ({}, "exit 0", mail(16), DEFERRED, "4.3.0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def postfix():
    with scratch() as place, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        deployment = Deployment(place / "deployment")
        deployment.set_up(*CASES)
        other = Deployment(place / "other")
        other.set_up("disabled", "spare")
        other.admin("org", "disable", "disabled")
        names = {"other": other.state, "closed": free_port(), "silent": silent.getsockname()[1]}
        entry = deployment.admin("postfix", "master", "--user", "nobody", "--program", "PROGRAM")
        entry = entry[entry.index("orderflow ") :]
        master, transports = "", ""
        for case, (settings, script, *_) in CASES.items():
            directory = place / case
            own = Deployment(directory)
            own.state.rmdir()
            own.state.symlink_to(deployment.state)
            if settings is None:
                own.settings_file.unlink()
            else:
                own.write_settings({name: value.format(**names) for name, value in settings.items()})
            program = PROGRAMS / "orderflow-deliver"
            if script:
                program = make_python(directory / "bin", script)
            service = entry.replace("orderflow ", f"case-{case} ", 1).replace("PROGRAM", str(program))
            master += service.replace(str(deployment.settings_file), str(own.settings_file))
            transports += f"{{ orders+{case}@{DOMAIN} = case-{case}: }}\n    "
        limits = "".join(f"case-{case}_destination_recipient_limit = 1\n" for case in CASES)
        deployment.configure_postfix(master, f"transport_maps = inline:{{\n    {transports}}}\n{limits}")
        with deployment.postfix as postfix:
            send = [smtp.Message("buyer@shop.example", [f"orders+{case}@{DOMAIN}"], CASES[case][2]) for case in CASES]
            assert all(replies.accepted for replies in smtp.send_many(postfix.smtp_port, send[:1], sessions=1))
            postfix.wait_delivery(f"orders+delivered@{DOMAIN}", SENT)
            assert all(replies.accepted for replies in smtp.send_many(postfix.smtp_port, send[1:], sessions=4))
            yield postfix


@pytest.mark.parametrize("case", CASES)
def test_postfix_does_what_the_outcome_says(postfix, case):
    *_, status, dsn = CASES[case]
    delivery = postfix.wait_delivery(f"orders+{case}@{DOMAIN}", timeout=60)
    assert (delivery.status, delivery.dsn) == (status, dsn), delivery
    assert "secret" not in delivery.text


def test_nothing_that_is_our_fault_ever_bounces(postfix):
    assert wait_until(lambda: len({d.recipient for d in postfix.deliveries() if d.status != ""}) >= len(CASES), 60)
    bounced = {d.recipient.partition("+")[2].partition("@")[0] for d in postfix.deliveries() if d.status == BOUNCED}
    assert bounced == {"unknown", "disabled", "malformed", "toobig"}


def test_a_bounce_tells_the_sender_our_words_and_nothing_of_this_host(postfix):
    assert wait_until(lambda: len(postfix.outbound()) >= 4, 30)
    for bounce in postfix.outbound():
        report = bounce.partition(b"Content-Description: Undelivered")[0]
        assert b"Traceback" not in report
        assert b"/bin/" not in report
        assert b"ingest.env" not in report
