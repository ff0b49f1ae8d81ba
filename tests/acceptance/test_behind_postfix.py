"""What a real Postfix makes of each end of a delivery: delivered, deferred or bounced, with our D.S.N.

One Postfix, one domain and transport per case: each starts the same program with settings or surroundings of its
own. Two programs: Python directly, as `orderflow-admin postfix master` prints it, where
pipe_delivery_status_filter is the net; and the shell script orderflow-deliver without that filter, where it is
the script.
"""

import re
import socket

import pytest

from orderflow_ingest.domain.outcomes import Outcome
from tests.support.interpreters import make_python
from tests.support.lab import smtp
from tests.support.lab.deployment import PROGRAMS, Deployment
from tests.support.lab.process import free_port, scratch, wait_until
from tests.support.mails import mail

SENT, DEFERRED, BOUNCED = "sent", "deferred", "bounced"
FILTER = "    -o pipe_delivery_status_filter=$orderflow_status_filter\n"
# case: settings of its own, the message, what Postfix says, the D.S.N.
CASES = {
    "delivered": ({}, mail(1), SENT, "2.0.0"),
    "unknown": ({"ORDERFLOW_STATE_DIR": "{without}"}, mail(2), BOUNCED, Outcome.UNKNOWN_ORG.dsn_code),
    "disabled": ({"ORDERFLOW_STATE_DIR": "{disabled}"}, mail(3), BOUNCED, Outcome.ORG_DISABLED.dsn_code),
    "malformed": ({}, b"\nno header\n", BOUNCED, Outcome.MALFORMED.dsn_code),
    "toobig": ({"ORDERFLOW_MAX_MESSAGE_SIZE": "100"}, mail(4), BOUNCED, Outcome.TOO_BIG.dsn_code),
    # What notes that its database is away has a state of its own, and each program that waits for its deadline too:
    # the next delivery would believe the note, and not wait.
    "down": (
        {"ORDERFLOW_STATE_DIR": "{away}", "DATABASE_URL": "postgresql://127.0.0.1:{closed}/x"},
        mail(5), DEFERRED, "4.3.0",
    ),
    "full": ({"ORDERFLOW_STATE_DIR": "{without}/none"}, mail(6), DEFERRED, Outcome.SPOOL_FULL.dsn_code),
    "overloaded": ({"ORDERFLOW_MAX_QUEUE": "1"}, mail(7), DEFERRED, Outcome.OVERLOADED.dsn_code),
    "deadline": (
        {
            "ORDERFLOW_STATE_DIR": "{late}", "ORDERFLOW_DEADLINE": "1",
            "DATABASE_URL": "postgresql://127.0.0.1:{silent}/x",
        },
        mail(8), DEFERRED, Outcome.DEADLINE.dsn_code,
    ),
    "misconfigured": ({"ORDERFLOW_DOMAIN": "elsewhere.example"}, mail(9), DEFERRED, Outcome.MISCONFIGURED.dsn_code),
    "badsettings": ({"ORDERFLOW_DEADLINE": "soon"}, mail(10), DEFERRED, Outcome.MISCONFIGURED.dsn_code),
    "nosettings": (None, mail(11), DEFERRED, Outcome.MISCONFIGURED.dsn_code),
}  # fmt: skip
# case: the python3 beside the shell script.
SCRIPT_FAULTS = {
    "killed": "kill -9 $$",
    "noimport": 'exec /usr/bin/python3 -S "$@"',
    "nopython": "exec /nonexistent",
    "traceback": "echo 'Traceback: secret'; exit 1",
    "silence": "exit 0",
}
# case: Python and its -c, in the place of ours.
PYTHON = "/usr/bin/python3 -I -S -c"
DIRECT_FAULTS = {
    "killed": f"{PYTHON} {{ import os; os.kill(os.getpid(), 9) }}",
    "terminated": f"{PYTHON} {{ import os; os.kill(os.getpid(), 15) }}",
    "noimport": f"{PYTHON} {{ from orderflow_ingest.entrypoints.pipe import main; main() }}",
    "nopython": "/nonexistent/python3 -c { secret }",
    "traceback": f"{PYTHON} {{ raise ValueError('secret') }}",
    "syntax": f"{PYTHON} {{ import }}",
    "exit2": f"{PYTHON} {{ import os; os._exit(2) }}",
    "exit65": f"{PYTHON} {{ import os; os._exit(65) }}",
    "exit67": f"{PYTHON} {{ import os; print('secret', flush=True); os._exit(67) }}",
    "exit70": f"{PYTHON} {{ import os; os._exit(70) }}",
    "exit78": f"{PYTHON} {{ import os; os._exit(78) }}",
    "exit127": f"{PYTHON} {{ import os; os._exit(127) }}",
    "foreign": f"{PYTHON} {{ import os; os.write(1, b'5.1.1 secret'); os._exit(67) }}",
    "longer": f"{PYTHON} {{ import os; print('5.1.1 no such organization', flush=True); print(1/0) }}",
    "slow": f"{PYTHON} {{ import time; time.sleep(60) }}",
    "silence": f"{PYTHON} {{ pass }}",
}
# A second attempt may find noted what the first has met: that its database is away, and not that its deadline is over.
ONE_ATTEMPT = "minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n"
FAULTS = {"script": SCRIPT_FAULTS, "direct": DIRECT_FAULTS}
EXPECTED = {
    (how, case): CASES[case][2:] if case in CASES else (DEFERRED, "4.3.0")
    for how, faults in FAULTS.items()
    for case in (*CASES, *faults)
}
# No filter can make a success into a failure. So nothing that can be empty or half there is what Postfix starts.
EXPECTED["direct", "silence"] = (SENT, "2.0.0")


def recipient(how: str, case: str) -> str:
    return f"orders+acme@{case}.{how}.example"


@pytest.fixture(scope="module")
def postfix():
    with scratch() as place, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        domains = ",".join(recipient(*key).partition("@")[2] for key in EXPECTED)
        deployment = Deployment(place / "deployment", {"ORDERFLOW_DOMAIN": domains})
        others = {
            name: Deployment(place / name) for name in ("without", "disabled", "away", "late_direct", "late_script")
        }
        for other in (deployment, *others.values()):
            other.set_up("acme" if other is not others["without"] else "spare")
        others["disabled"].admin("org", "disable", "acme")
        names: dict[str, object] = {name: other.state for name, other in others.items()}
        names |= {"closed": free_port(), "silent": silent.getsockname()[1]}
        common = {"ORDERFLOW_STATE_DIR": str(deployment.state), "ORDERFLOW_DOMAIN": domains}
        entries = {how: entry(deployment, how) for how in FAULTS}
        master, transports = "", ""
        for how, case in EXPECTED:
            directory = place / how / case
            service = entries[how].replace("orderflow ", f"{how}-{case} ", 1)
            if case in CASES:
                file = own_settings(
                    Deployment(directory), CASES[case][0], common, names | {"late": names[f"late_{how}"]}
                )
                service = service.replace(str(deployment.settings_file), str(file))
            else:
                argv = DIRECT_FAULTS[case] if how == "direct" else make_python(directory / "bin", SCRIPT_FAULTS[case])
                service = re.sub(r"argv=.*", lambda _, argv=argv: f"argv={argv}", service)
            master += service
            transports += f"{{ {case}.{how}.example = {how}-{case}: }}\n    "
        limits = "".join(f"{how}-{case}_destination_recipient_limit = 1\n" for how, case in EXPECTED)
        overrides = (
            f"transport_maps = inline:{{\n    {transports}}}\ndirect-slow_time_limit = 1s\n{limits}{ONE_ATTEMPT}"
        )
        deployment.configure_postfix(master, overrides)
        with deployment.postfix as postfix:
            messages = [
                smtp.Message("buyer@shop.example", [recipient(how, case)], CASES[case][1] if case in CASES else mail())
                for how, case in EXPECTED
            ]
            assert all(replies.accepted for replies in smtp.send_many(postfix.smtp_port, messages[:1], sessions=1))
            postfix.wait_delivery(recipient("script", "delivered"), SENT)
            assert all(replies.accepted for replies in smtp.send_many(postfix.smtp_port, messages[1:], sessions=4))
            yield postfix


def entry(deployment: Deployment, how: str) -> str:
    """Return the transport's entry of master.cf as it is printed; for the script, without the filter."""
    if how == "direct":
        printed = deployment.admin("postfix", "master", "--user", "nobody")
        assert FILTER in printed
    else:
        program = str(PROGRAMS / "orderflow-deliver")
        printed = deployment.admin("postfix", "master", "--user", "nobody", "--program", program).replace(FILTER, "")
    return printed[printed.index("orderflow ") :]


def own_settings(own: Deployment, settings: dict | None, common: dict, names: dict):
    """Write the settings of a case; return their file, which is not there for None."""
    if settings is None:
        own.settings_file.unlink()
    else:
        own.write_settings(common | {name: value.format(**names) for name, value in settings.items()})
    return own.settings_file


@pytest.mark.parametrize(("how", "case"), EXPECTED)
def test_postfix_does_what_the_outcome_says(postfix, how, case):
    delivery = postfix.wait_delivery(recipient(how, case), timeout=60)
    assert (delivery.status, delivery.dsn) == EXPECTED[how, case], delivery
    for secret in ("secret", "Traceback", "/python3", "ZeroDivision"):
        assert secret not in delivery.text


def test_nothing_that_is_our_fault_ever_bounces(postfix):
    assert wait_until(lambda: len({d.recipient for d in postfix.deliveries()}) >= len(EXPECTED), 60)
    bounced = {d.recipient for d in postfix.deliveries() if d.status == BOUNCED}
    assert bounced == {recipient(how, case) for how in FAULTS for case in CASES if CASES[case][2] == BOUNCED}


def test_a_bounce_tells_the_sender_our_words_and_nothing_of_this_host(postfix):
    assert wait_until(lambda: len(postfix.outbound()) >= 8, 60)
    for bounce in postfix.outbound():
        report = bounce.partition(b"Content-Description: Undelivered")[0]
        assert b"Traceback" not in report
        assert b"/bin/" not in report
        assert b"ingest.env" not in report


def test_the_log_tells_how_the_program_ended(postfix):
    for case, said in {"traceback": "status 1", "exit127": "status 127", "killed": "signal 9"}.items():
        text = postfix.wait_delivery(recipient("direct", case)).text
        assert text == f"delivery program ended with {said}, try again later"
