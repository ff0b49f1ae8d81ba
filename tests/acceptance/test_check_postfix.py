"""What `check` finds in main.cf, master.cf and the recipient map that every way shares; asked of the modules."""

import pwd
import re
import shutil
import subprocess

import pytest

from orderflow_ingest.entrypoints.admin.checks.postconf import Postconf
from orderflow_ingest.entrypoints.admin.checks.postfix import open_postfix
from orderflow_ingest.entrypoints.admin.checks.postfix_daemon import check_daemon
from tests.support.check_postfix import said
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch


@pytest.fixture(scope="module")
def deployment(template):
    """A deployment whose Postfix is configured and does not run."""
    with scratch() as place:
        subprocess.run(["cp", "-a", f"{template}/.", place / "state"], check=True)
        deployment = Deployment(place)
        deployment.configure_postfix()
        yield deployment


@pytest.fixture
def config(deployment, place):
    """Copy Postfix's configuration, to be changed."""
    return shutil.copytree(deployment.postfix.config_directory, place / "etc")


def test_what_is_printed_is_found_in_order(deployment, config):
    assert said(deployment, config).startswith("OK: settings agree, the way is pipe")


@pytest.mark.parametrize(
    ("main", "wanted"),
    [
        (f"mydestination = {DOMAIN}", f"TROUBLE: main.cf: take {DOMAIN} out of mydestination"),
        (f"relay_domains = {DOMAIN}", f"TROUBLE: main.cf: take {DOMAIN} out of relay_domains"),
        (f"transport_maps = inline:{{{DOMAIN}=smtp:x}}", f"TROUBLE: main.cf: transport_maps sends {DOMAIN} to smtp:x"),
        (f"virtual_alias_maps = inline:{{a=b}} inline:{{orders@{DOMAIN}=x@y.example}}",
         f"TROUBLE: main.cf: virtual_alias_maps sends orders+acme@{DOMAIN} elsewhere"),
        ("maximal_queue_lifetime = 4h", "WARNING: main.cf: set maximal_queue_lifetime = 10d"),
        ("soft_bounce = yes", "WARNING: main.cf: set soft_bounce = no"),
        ("smtpd_reject_unlisted_recipient = no", "WARNING: main.cf: set smtpd_reject_unlisted_recipient = yes"),
        ("defer_transports = smtp, orderflow", "TROUBLE: main.cf: set defer_transports = "),
        ("inet_interfaces = loopback-only", "WARNING: main.cf: set inet_interfaces = all"),
        ("smtpd_tls_security_level = encrypt", "TROUBLE: main.cf: set smtpd_tls_cert_file = FILE"),
        ("smtpd_tls_security_level =", "WARNING: main.cf: set smtpd_tls_security_level = may (all mail comes in unenc"),
        ("message_size_limit = 10240000", "WARNING: main.cf: set message_size_limit = 26214400 (mail is refused that"),
        (f"relay_domains = inline:{{{DOMAIN}=x}}", f"TROUBLE: main.cf: take {DOMAIN} out of relay_domains"),
        (f"virtual_alias_maps = inline:{{abuse@{DOMAIN}=x@y.example}}",
         f"WARNING: main.cf: virtual_alias_maps does not name postmaster@{DOMAIN}: its mail is refused (RFC 2142)"),
        ("mesage_size_limit = 5", "WARNING: main.cf: mesage_size_limit is no parameter that anything uses: misspelt?"),
        ("virtual_mailbox_maps = static:no, inline:{x=y}", "knows an organization that cannot be"),
    ],
)  # fmt: skip
def test_a_line_of_main_cf_that_is_wrong_is_told_as_the_line_to_change(deployment, config, main, wanted):
    file = config / "main.cf"
    name = main.partition(" =")[0]
    lines = re.sub(rf"^{name} =.*\n(?:[ \t]+.*\n)*", "", file.read_text(), flags=re.MULTILINE)
    file.write_text(f"{lines}{main}\n")
    assert wanted in said(deployment, config)


@pytest.mark.parametrize(
    "main",
    [
        f"virtual_mailbox_domains = inline:{{{DOMAIN}=x}}, other.example",
        f"virtual_alias_maps = inline:{{a@b=c@d}}, inline:{{{{postmaster@{DOMAIN}=e}} {{abuse@{DOMAIN}=e}}}}\n"
        "smtpd_helo_required = no\nsmtpd_client_message_rate_limit = 0\nsmtpd_recipient_restrictions = permit\n"
        f"virtual_mailbox_domains = other.example, {DOMAIN.upper()}",
    ],
)
def test_what_an_operator_has_set_in_another_way_is_left_alone(deployment, config, main):
    file = config / "main.cf"
    lines = file.read_text()
    for name in re.findall(r"^(\w+) =", main, re.MULTILINE):
        lines = re.sub(rf"^{name} =.*\n(?:[ \t]+.*\n)*", "", lines, flags=re.MULTILINE)
    file.write_text(f"{lines}{main}\n")
    assert said(deployment, config).startswith("OK: settings agree, the way is pipe")


def test_what_stands_twice_in_main_cf_is_told_and_hides_nothing_else(deployment, config):
    file = config / "main.cf"
    file.write_text("message_size_limit = 5\n" + file.read_text())
    text = said(deployment, config)
    assert "WARNING: main.cf: message_size_limit stands there more than once, the last one counts: see line" in text
    assert "TROUBLE" not in text, "postmap's word of it is no map that cannot be read"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ((r"(orderflow +unix +- +n +)n", r"\1y"), "TROUBLE: master.cf: orderflow: chroot must be n"),
        ((r"flags=RO", "flags=DRO"), "WARNING: master.cf: orderflow: take D out of flags="),
        ((r"flags=RO user=nobody", "flags=RO user=postfix"), "orderflow: pipe(8) refuses user=postfix, Postfix"),
        ((r"--sender \$\{sender\} ", ""), "TROUBLE: master.cf: orderflow: argv must have: --sender ${sender}"),
        ((r"\Z", "orderflow unix - n n - 1 pipe user=nobody argv=/bin/true\n"),
         "WARNING: master.cf: the service orderflow unix stands there more than once"),
        ((r"(proxymap +unix +\S+ +\S+ +)\S", r"\1y"), "TROUBLE: master.cf: proxymap: chroot must be n"),
    ],
)  # fmt: skip
def test_an_entry_of_master_cf_that_is_wrong_is_told(deployment, config, change, wanted):
    file = config / "master.cf"
    before = file.read_text()
    file.write_text(re.sub(*change, before, count=1))
    assert file.read_text() != before
    assert wanted in said(deployment, config)


def test_a_map_that_a_chrooted_smtpd_cannot_reach_is_told(deployment, config):
    main, master = config / "main.cf", config / "master.cf"
    main.write_text(main.read_text().replace("proxy:sqlite:", "sqlite:"))
    master.write_text(re.sub(r"(inet +n +\S+ +)n(.* smtpd)", r"\1y\2", master.read_text(), count=1))
    assert "TROUBLE: main.cf: virtual_mailbox_maps: put proxy: before the map" in said(deployment, config)


def test_a_map_that_root_reads_and_postfix_does_not_is_told_with_what_to_open(deployment, config):
    file = config / "orderflow_recipients.cf"
    file.chmod(0o600)
    assert f"{file} cannot be read by postfix: chmod 640 {file}; chgrp postfix {file}" in said(deployment, config)
    file.chmod(0o644)
    deployment.state.chmod(0o700)
    try:
        text = said(deployment, config)
    finally:
        deployment.state.chmod(0o711)
    assert f"{deployment.state} is closed to postfix: chmod o+x {deployment.state}" in text


def test_what_is_started_as_another_user_sees_none_of_our_environment(config, place, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    (place / "postconf").symlink_to(shutil.which("postconf"))
    (place / "postmap").write_text("#!/bin/sh\nenv\n")
    (place / "postmap").chmod(0o755)
    seen, _ = Postconf(str(place / "postconf"), str(config)).lookup("key", "table", pwd.getpwnam("postfix"))
    assert "PATH=" in seen and "hidden" not in seen


def test_a_postfix_that_does_not_run_and_one_without_a_queue_are_told(deployment, config, place):
    postfix = Postconf(shutil.which("postconf"), str(config))
    assert "is not there: postfix check" in next(check_daemon(postfix))[1]
    queue = deployment.postfix.directory / "queue"
    queue.mkdir()
    level, text = next(check_daemon(postfix))
    assert level == "TROUBLE" and text.startswith(f"Postfix does not run: postfix -c {config} start")


@pytest.mark.parametrize("missing", ["main.cf", "master.cf"])
def test_a_postfix_without_its_files_is_told_what_makes_them(place, missing):
    for name in {"main.cf", "master.cf"} - {missing}:
        (place / name).write_text("")
    level, text = open_postfix(str(place))
    assert level == "TROUBLE" and f"{place} has no {missing}: dpkg-reconfigure postfix" in text
