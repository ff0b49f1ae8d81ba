"""orderflow-admin check knows each way's needs, and the service's health; each finding names the line to change."""

import re
import shutil
import subprocess

import pytest

from orderflow_ingest.entrypoints.admin.postfix.parameters import RELATIONS
from tests.support.check_postfix import said as in_process
from tests.support.checking import deployed, findings
from tests.support.lab.deployment import DOMAIN
from tests.support.operating import check

PIPE, LMTP, BEFORE_QUEUE = "pipe", "lmtp", "before-queue"


@pytest.mark.parametrize(
    ("way", "main", "master", "level", "said"),
    [
        (PIPE, "", ("sys.path.insert(0, '", "sys.path.insert(0, '/no"), "TROUBLE", "does not import the package as"),
        (PIPE, "", ("import main; main()", "import mian; mian()"), "TROUBLE", "does not import the package as"),
        (PIPE, "", ("-o pipe_delivery_status_filter=$orderflow_status_filter", ""), "TROUBLE", "a fault of ours"),
        (PIPE, "orderflow_status_filter =", None, "TROUBLE", "set -o pipe_delivery_status_filter ="),
        (PIPE, "orderflow_status_filter = regexp:{{ /^5/ 4.3.0 x }}", None, "TROUBLE", "not know '5.1.1 no such"),
        (PIPE, "orderflow_status_filter = regexp:{{ /^7/ 4.3.0 x }}", None, "TROUBLE", "a fault of ours bounces"),
        (PIPE, "", ("deliver.sock", "other.sock"), "warning", "argv must have: --socket "),
        (PIPE, "", ("--settings ", "--settings /elsewhere"), "TROUBLE", "argv must have: --settings /"),
        (
            LMTP,
            "virtual_transport = orderflow-lmtp:unix:/elsewhere",
            None,
            "TROUBLE",
            "set virtual_transport = orderfl",
        ),
        (LMTP, "", ("lmtp_line_length_limit=0", "lmtp_line_length_limit=998"), "TROUBLE", "set -o lmtp_line_length_li"),
        (LMTP, "", ("-o lmtp_line_length_limit=0", ""), "TROUBLE", "set -o lmtp_line_length_limit = 0"),
        (
            LMTP,
            "",
            ("lmtp_data_done_timeout=600s", "lmtp_data_done_timeout=1m"),
            "TROUBLE",
            "set -o lmtp_data_done_tim",
        ),
        (LMTP, "", ("lmtp_send_xforward_command=yes", "lmtp_send_xforward_command=no"), "warning", "no client address"),
        (LMTP, "", ("disable_mime_output_conversion=yes", "disable_mime_output_conversion=no"), "warning", "8-bit"),
        (LMTP, "", ("lmtp_delivery_status_filter=", "lmtp_reply_filter="), "TROUBLE", "set -o lmtp_delivery_status_f"),
        (LMTP, "orderflow_status_filter = regexp:{{ /^5/ 4.3.0 x }}", None, "TROUBLE", "does not know"),
        (LMTP, "orderflow-lmtp_destination_recipient_limit = 9", None, "warning", "set orderflow-lmtp_destination_rec"),
        (
            LMTP,
            "",
            (re.compile(r"(orderflow-lmtp .*)20( +lmtp)"), r"\g<1>40\2"),
            "warning",
            "set maxproc = 20 (ORDERFLOW_CONCURRENCY",
        ),
        (LMTP, "", (re.compile(r"(orderflow-lmtp +unix +- +- +)n"), r"\1y"), "TROUBLE", "chroot must be n"),
        (
            LMTP,
            "",
            (re.compile(r"(orderflow-lmtp .*) lmtp"), r"\1 smtp"),
            "TROUBLE",
            "the command must be lmtp, not smtp",
        ),
        (LMTP, "", ("orderflow-lmtp ", "renamed "), "TROUBLE", "no service orderflow-lmtp"),
        (LMTP, "mail_owner = daemon", None, "TROUBLE", "ORDERFLOW_MAIL_USER must be daemon"),
        (BEFORE_QUEUE, "", ("run/smtp.sock", "ran/smtp.sock"), "TROUBLE", "set -o smtpd_proxy_filter = unix:"),
        (BEFORE_QUEUE, "", ("smtpd_recipient_limit=1", "smtpd_recipient_limit=50"), "TROUBLE", "put off for ever"),
        (BEFORE_QUEUE, "", ("=dsn,etrn", "=etrn"), "TROUBLE", "set -o smtpd_discard_ehlo_keywords"),
        (BEFORE_QUEUE, "", ("smtpd_proxy_options=speed_adjust", "smtpd_proxy_options="), "warning", "speed_adjust"),
        (
            BEFORE_QUEUE,
            "",
            ("smtpd_proxy_timeout=120s", "smtpd_proxy_timeout=60s"),
            "TROUBLE",
            "smtpd_proxy_timeout = ",
        ),
        (
            BEFORE_QUEUE,
            "",
            (re.compile(r"127.0.0.1:\d+ inet  n"), "127.0.0.1:1 inet n"),
            "TROUBLE",
            "(ORDERFLOW_RELAY)",
        ),
        (BEFORE_QUEUE, "", ("-o smtpd_proxy_filter=\n", "\n"), "", "settings agree"),
        (BEFORE_QUEUE, "smtpd_proxy_filter = x:1", ("-o smtpd_proxy_filter=\n", "\n"), "TROUBLE", "mail given back"),
        (BEFORE_QUEUE, "", ("permit_mynetworks,reject\n", "permit\n"), "TROUBLE", "set -o smtpd_client_restrictions"),
        (BEFORE_QUEUE, "virtual_transport = orderflow", None, "TROUBLE", "no service orderflow: add what"),
    ],
)
def test_check_names_the_line_to_change(template, place, way, main, master, level, said):
    deployment = deployed(template, place, way)
    deployment.configure_postfix(overrides=main)
    file = deployment.postfix.config_directory / "master.cf"
    if master:
        before, (what, replacement) = file.read_text(), master
        after = before.replace(what, replacement) if isinstance(what, str) else what.sub(replacement, before)
        assert after != before
        file.write_text(after)
    found = findings(deployment)["postfix"]
    assert said in found[1]
    assert level in ("", found[0])


# Without them check does not find the way, and says so.
WAY = {"virtual_transport", "virtual_mailbox_domains", "virtual_mailbox_maps", "-o smtpd_proxy_filter"}
# What we print and leave to the operator: Postfix's default loses, bounces and delays no mail.
LEFT_TO_THE_OPERATOR = {
    *("smtpd_relay_restrictions", "smtpd_helo_required", "disable_vrfy_command", "-o lmtp_lhlo_timeout"),
    *(f"smtpd_client_{what}_rate_limit" for what in ("connection", "message", "recipient")),
    *(f"-o smtpd_{what}_restrictions" for what in ("helo", "sender", "recipient")),
    *("-o mynetworks", "-o smtpd_authorized_xforward_hosts"),
}
# Where Postfix's default keeps the relation; what breaks each is in test_postfix_relations.
RELATED = {relation.parameter for relation in RELATIONS}


@pytest.mark.parametrize("way", [PIPE, LMTP, BEFORE_QUEUE])
def test_each_parameter_that_is_printed_is_missed_by_its_name(template, place, way):
    deployment = deployed(template, place, way)
    deployment.configure_postfix()
    config = deployment.postfix.config_directory
    printed = {part: deployment.admin("postfix", part, "--way", way) for part in ("main", "master")}
    found = re.findall(r"(-o [\w-]+)=|(--[a-z-]+) \$|(flags)=", printed["master"])
    names = {*re.findall(r"^([\w-]+) =", printed["main"], re.MULTILINE), *(name for group in found for name in group)}
    gone = names - WAY - {"orderflow_status_filter", ""}
    main, master = ((config / f"{part}.cf").read_text() for part in ("main", "master"))
    for name in gone:
        main = re.sub(rf"^{name} =.*\n(?:[ \t#]+.*\n)*", "", main, flags=re.MULTILINE)
        master = re.sub(rf"(?<=\s){name}[= ]\S+", "", master)
    demanded = "smtpd_tls_security_level = encrypt\nsmtpd_tls_cert_file = /cert.pem\n"
    (config / "main.cf").write_text(main + demanded if way == BEFORE_QUEUE else main)
    (config / "master.cf").write_text(master)
    said = in_process(deployment, config)
    assert not {name for name in gone - LEFT_TO_THE_OPERATOR - RELATED if name not in said}, said


@pytest.mark.parametrize("way", [PIPE, LMTP, BEFORE_QUEUE])
def test_without_the_service_the_pipe_delivers_and_the_other_ways_do_not(template, place, way):
    deployment = deployed(template, place, way)
    deployment.configure_postfix()
    finding, text = findings(deployment)["service"]
    assert finding == ("warning" if way == PIPE else "TROUBLE")
    assert "systemctl enable --now orderflow-service.socket" in text
    assert check(deployment, "--no-postfix")["service"][0] == "ok"


def test_before_queue_is_not_printed_without_a_place_to_give_mail_back_to(template, place):
    deployment = deployed(template, place, PIPE)
    ended = deployment.run("orderflow-admin", "postfix", "main", "--way", BEFORE_QUEUE, check=False)
    assert "ORDERFLOW_RELAY must be host:port" in ended.stderr
    deployment.way = BEFORE_QUEUE
    deployment.write_settings({"ORDERFLOW_RELAY": "127.0.0.1:10026"})
    deployment.configure_postfix()
    deployment.write_settings({})
    assert "ORDERFLOW_RELAY is not set" in findings(deployment)["postfix"][1]


@pytest.fixture
def served(template, place):
    """A deployment by LMTP whose service runs."""
    deployment = deployed(template, place, LMTP)
    deployment.configure_postfix()
    with deployment.service:
        yield deployment


def test_the_services_health_is_told_in_figures(served):
    found = findings(served)
    assert found["postfix"][0] == "ok"
    finding, text = found["service"]
    assert finding == "ok"
    figures = r"version \S+ answers: 0 of 20 workers busy, 0 MiB in flight, 0 deliveries since \S+\n"
    assert re.fullmatch(rf"[^:]+: {figures}", text), text
    health = served.health()
    assert text.startswith(health["unit"] or f"process {health['pid']}"), "several instances may share the sockets"


def test_sockets_that_postfix_may_not_open_are_found(served):
    (served.sockets / "lmtp.sock").chmod(0o600)
    assert "lmtp.sock cannot be opened by postfix" in findings(served)["postfix"][1]


def test_a_service_that_sends_postfix_away_is_found(served):
    served.write_settings({"ORDERFLOW_MAIL_USER": "daemon"})
    served.service.stop()
    served.service.start()
    for name in ("lmtp.sock", "smtp.sock"):
        (served.sockets / name).chmod(0o666)
    said = findings(served)["postfix"][1]
    assert "sends postfix away" in said
    assert "ORDERFLOW_MAIL_USER must be postfix" in said


def test_a_socket_directory_that_others_may_write_is_found(served):
    served.sockets.chmod(0o777)
    assert "chmod 755" in findings(served)["service"][1]


def test_a_socket_of_another_user_is_found(served):
    shutil.chown(served.sockets / "deliver.sock", "daemon")
    assert "set SocketUser= in orderflow-service.socket" in findings(served)["service"][1]


def test_a_service_with_other_settings_is_found(served, place):
    other = place / "other"
    subprocess.run(["cp", "-a", served.state, other], check=True)
    served.write_settings({"ORDERFLOW_STATE_DIR": str(other)})
    finding, text = findings(served)["service"]
    assert finding == "TROUBLE"
    assert "systemctl restart 'orderflow-service@*'" in text


def test_something_else_that_listens_there_is_found(template, place):
    deployment = deployed(template, place, PIPE)
    deployment.configure_postfix()
    path = deployment.sockets / "deliver.sock"
    command = ["python3", "-c", f"import socket; s = socket.create_server({str(path)!r}, family=socket.AF_UNIX)\n"
               "while True: s.accept()[0].close()"]  # fmt: skip
    listener = subprocess.Popen(command)
    try:
        while not path.exists():
            continue
        assert findings(deployment)["service"][0] == "TROUBLE"
    finally:
        listener.kill()
        listener.wait()


@pytest.mark.parametrize("way", [LMTP, BEFORE_QUEUE])
def test_authentication_that_no_milter_can_have_written_is_told(template, place, way):
    deployment = deployed(template, place, way)
    deployment.write_settings({"ORDERFLOW_AUTHSERV_ID": "mx.lab.example"})
    deployment.configure_postfix()
    said = findings(deployment)["postfix"][1]
    assert ("before the queue no milter sees a mail" in said) is (way == BEFORE_QUEUE)


@pytest.mark.parametrize("way", [PIPE, LMTP, BEFORE_QUEUE])
def test_the_printed_configuration_draws_no_word_from_postconf(template, place, way):
    deployment = deployed(template, place, way)
    deployment.configure_postfix()
    for options in ((), ("-M",), ("-P",)):
        command = ["postconf", "-c", str(deployment.postfix.config_directory), *options]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
    assert DOMAIN in (deployment.postfix.config_directory / "main.cf").read_text()
