"""The table of relations between Postfix's parameters: what is printed keeps them, and check finds each that is broken.

What the rows claim of Postfix is shown by a real one: mail for postmaster above Postfix's usual mailbox, a header field
above its usual limit, and how soon mail is delivered after a short outage.
"""

import os
import re

import pytest

from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.entrypoints.admin.checks.postconf import Postconf
from orderflow_ingest.entrypoints.admin.checks.postfix_limits import check_limits
from orderflow_ingest.entrypoints.admin.postfix.parameters import RELATIONS, Section
from orderflow_ingest.entrypoints.admin.postfix.render import WAYS, render
from tests.support.relations import printed, read

SERVICES = {Section.PIPE: "orderflow", Section.LMTP: "orderflow-lmtp", Section.PROXIED: "smtp"}
PLACES = {
    "pipe": (Section.MAIN, Section.PIPE),
    "lmtp": (Section.MAIN, Section.LMTP),
    "before-queue": (Section.MAIN, Section.LMTP, Section.PROXIED),
}
SETTINGS = {
    "usual": {},
    "small": {"ORDERFLOW_MAX_MESSAGE_SIZE": "1000", "ORDERFLOW_CONCURRENCY": "1", "ORDERFLOW_DEADLINE": "0.5"},
    "two places": {"ORDERFLOW_CONCURRENCY": "2"},
    "large": {"ORDERFLOW_MAX_MESSAGE_SIZE": "300000000", "ORDERFLOW_CONCURRENCY": "1000", "ORDERFLOW_DEADLINE": "500"},
    "long": {"ORDERFLOW_DEADLINE": "7200"},
}
# For each row of the table something that breaks it: a line of main.cf, or what stands in master.cf and what is put
# in its place.
BROKEN = {
    (Section.MAIN, "message_size_limit"): (
        "message_size_limit = 26214401\nmailbox_size_limit = 0\nvirtual_mailbox_limit = 0",
    ),
    (Section.MAIN, "mailbox_size_limit"): ("mailbox_size_limit = 26214399",),
    (Section.MAIN, "virtual_mailbox_limit"): ("virtual_mailbox_limit = 26214399",),
    (Section.MAIN, "header_size_limit"): ("header_size_limit = 102400",),
    (Section.MAIN, "maximal_queue_lifetime"): ("maximal_queue_lifetime = 4h",),
    (Section.MAIN, "bounce_queue_lifetime"): ("bounce_queue_lifetime = 5d",),
    (Section.MAIN, "minimal_backoff_time"): ("minimal_backoff_time = 300s",),
    (Section.MAIN, "queue_run_delay"): ("queue_run_delay = 300s",),
    (Section.MAIN, "transport_retry_time"): ("transport_retry_time = 1h",),
    (Section.MAIN, "maximal_backoff_time"): ("maximal_backoff_time = 30s",),
    (Section.MAIN, "anvil_rate_time_unit"): ("anvil_rate_time_unit = 1h",),
    (Section.MAIN, "local_header_rewrite_clients"): ("local_header_rewrite_clients = permit_mynetworks",),
    (Section.MAIN, "always_add_missing_headers"): ("always_add_missing_headers = yes",),
    (Section.MAIN, "remote_header_rewrite_domain"): ("remote_header_rewrite_domain = domain.invalid",),
    (Section.MAIN, "proxy_read_maps"): ("proxy_read_maps = $alias_maps\nvirtual_mailbox_maps = proxy:sqlite:/x.cf",),
    (Section.MAIN, "smtpd_forbid_bare_newline"): ("smtpd_forbid_bare_newline = no",),
    (Section.PIPE, "orderflow_time_limit"): ("orderflow_time_limit = 30s",),
    (Section.PIPE, "daemon_timeout"): ("daemon_timeout = 600s",),
    (Section.PIPE, "orderflow_destination_concurrency_limit"): ("orderflow_destination_concurrency_limit = 20",),
    (Section.PIPE, "maxproc"): ("", "20       pipe", "-       pipe"),
    (Section.LMTP, "-o lmtp_data_done_timeout"): ("", "lmtp_data_done_timeout=600s", "lmtp_data_done_timeout=1m"),
    (Section.LMTP, "daemon_timeout"): ("daemon_timeout = 10m",),
    (Section.LMTP, "orderflow-lmtp_destination_concurrency_limit"): (
        "orderflow-lmtp_destination_concurrency_limit = 0",
    ),
    (Section.LMTP, "maxproc"): ("", "20       lmtp", "0       lmtp"),
    (Section.PROXIED, "-o smtpd_proxy_timeout"): ("", "smtpd_proxy_timeout=120s", "smtpd_proxy_timeout=60s"),
    (Section.PROXIED, "-o smtpd_client_connection_count_limit"): ("", "100     smtpd", "20     smtpd"),
}


def said(asked: Postconf, way: str, given: dict[str, str]) -> list[tuple[str, str]]:
    settings, found = load(None, given), []
    for place in PLACES[way]:
        service = next((s for s in asked.services if s.name == SERVICES.get(place)), None)
        found += check_limits(settings, asked, place, service)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", SETTINGS)
def test_what_is_printed_keeps_every_relation(place, way, given):
    found = said(printed(place, way, SETTINGS[given]), way, SETTINGS[given])
    if (way, given) == ("before-queue", "long"):  # no value can be right
        assert ["ORDERFLOW_DEADLINE must be far below" in text for _, text in found] == [True]
    else:
        assert found == []


@pytest.mark.parametrize("name", ["order flow", "a,b", "$queue_directory", "{x}", "a\tb"])
@pytest.mark.parametrize("part", ["main", "master"])
def test_a_path_that_postfix_would_read_as_something_else_is_not_printed(place, part, name):
    file = place / f"{name}.env"
    file.write_text("")
    for settings, said in (
        (load(os.devnull, {"ORDERFLOW_SOCKET_DIR": f"/srv/{name}"}), f"ORDERFLOW_SOCKET_DIR: /srv/{name} cannot"),
        (load(str(file), {}), f"--settings: {file} cannot stand in Postfix's files"),
    ):
        with pytest.raises(SettingsError) as refused:
            render(part, settings, "pipe", "nobody", None)
        assert str(refused.value).startswith(said)


def test_every_row_is_tried():
    assert set(BROKEN) == {(relation.place, relation.parameter) for relation in RELATIONS}


@pytest.mark.parametrize("row", BROKEN, ids=lambda row: f"{row[0].name}-{row[1]}")
def test_a_relation_that_is_broken_is_said_with_the_line_to_set(place, row):
    way = next(way for way in reversed(WAYS) if row[0] in PLACES[way])
    found = said(printed(place, way, {}, *BROKEN[row]), way, {})
    relation = next(r for r in RELATIONS if (r.place, r.parameter) == row)
    wanted = f"set {relation.parameter} = {relation.printed(load(None, {}))} ({relation.why})"
    assert [(level, text.endswith(f": {wanted}")) for level, text in found] == [(relation.level, True)], found


@pytest.mark.parametrize("way", WAYS)
def test_postfix_left_to_its_defaults_is_told_what_it_would_cost(place, way):
    """What is printed is taken out of main.cf again, line by line: each default that does harm is found."""
    printed(place, way, {"ORDERFLOW_MAX_MESSAGE_SIZE": "60000000"})
    names = {r.parameter for r in RELATIONS if r.place is not Section.PROXIED} - {"message_size_limit"}
    lines = (place / "main.cf").read_text().splitlines(keepends=True)
    asked = read(place, "".join(line for line in lines if line.split(" ")[0] not in names))
    found = said(asked, way, {"ORDERFLOW_MAX_MESSAGE_SIZE": "60000000"})
    told = {re.search(r"set (?:-o )?(\S+) =", text)[1] for _, text in found}
    transport = "orderflow" if way == "pipe" else "orderflow-lmtp"
    assert told == {
        *("mailbox_size_limit", "virtual_mailbox_limit", "header_size_limit", "minimal_backoff_time"),
        *("local_header_rewrite_clients", "smtpd_forbid_bare_newline", f"{transport}_destination_concurrency_limit"),
    }


def test_a_time_without_a_unit_is_of_the_unit_that_its_default_has(place):
    asked = printed(place, "pipe", {}, "maximal_queue_lifetime = 7\nbounce_queue_lifetime = 7\nqueue_run_delay = 20")
    assert asked.seconds("maximal_queue_lifetime") == 7 * 86400
    assert asked.seconds("queue_run_delay") == 20
    assert said(asked, "pipe", {}) == []
