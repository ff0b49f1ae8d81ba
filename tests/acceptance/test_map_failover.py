"""Postfix's map of several servers of PostgreSQL: an entry for each; RCPT TO is answered while the first is dead."""

import psycopg
import pytest

from orderflow_ingest.config import load
from orderflow_ingest.entrypoints.admin.checks.postconf import Postconf
from orderflow_ingest.entrypoints.admin.checks.postfix import open_postfix
from orderflow_ingest.entrypoints.admin.checks.postfix_limits import check_hosts
from orderflow_ingest.entrypoints.admin.postfix.render import render
from orderflow_ingest.storage.postgresql_url import read
from tests.support.lab import smtp
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch
from tests.support.lab.wire import Wire

FORMS = {
    "u:p@a:5433,b:5434/d?target_session_attrs=read-write": [("a", "5433"), ("b", "5434")],
    "u:p@/d?host=a,b&port=5433,5434": [("a", "5433"), ("b", "5434")],
    "u:p@a,b/d?sslmode=verify-full&connect_timeout=3": [("a", ""), ("b", "")],
    "u:p@[::1]:5433,[fe80::2]:5434/d": [("::1", "5433"), ("fe80::2", "5434")],
    "u:p@%2Frun%2Fa%20b,c/d%2Fe": [("/run/a b", ""), ("c", "")],
    "u%2Cv@a/d": [("a", "")],
}


def hosts(url: str) -> list[str]:
    settings = load("/dev/null", {"DATABASE_URL": "postgresql://x@y/z", "MAP_DATABASE_URL": f"postgresql://{url}"})
    lines = render("map", settings, "lmtp", "nobody", None, "/pass file").splitlines()
    return next(line for line in lines if line.startswith("hosts = ")).removeprefix("hosts = ").split()


@pytest.mark.parametrize("url", FORMS)
def test_each_server_is_an_entry_that_libpq_reads_as_it_was_meant(url):
    meant, entries = read(f"postgresql://{url}"), [read(entry) for entry in hosts(url)]
    assert [entry.servers for entry in entries] == [(server,) for server in FORMS[url]]
    left_out = {"password", "target_session_attrs"}
    wanted = {"connect_timeout": "10"} | {k: v for k, v in meant.parameters.items() if k not in left_out}
    wanted |= {"passfile": "/pass file"} if "password" in meant.parameters else {}
    assert all(entry.parameters == wanted for entry in entries)
    assert not any("," in entry or ":p@" in entry for entry in hosts(url))


@pytest.fixture(scope="module")
def between(postgres):
    """Return a deployment whose map is asked by two ports, and these; as a standby, the map's role may not write."""
    with scratch() as place:
        url = postgres.create_database("map_failover")
        postgres.create_role("map_standby")
        for name in ("first", "second"):
            (place / name).mkdir()
        with Wire(place / "first", postgres.port) as first, Wire(place / "second", postgres.port) as second:
            asked = f"map_standby:{postgres.password('map_standby')}@127.0.0.1:{first.port},127.0.0.1:{second.port}"
            both = f"postgresql://{asked}/map_failover?target_session_attrs=read-write"
            deployment = Deployment(place, {"DATABASE_URL": url, "MAP_DATABASE_URL": both}, way="lmtp")
            deployment.set_up("acme")
            with psycopg.connect(postgres.conninfo("map_failover"), autocommit=True) as connection:
                connection.execute("GRANT SELECT ON recipient TO map_standby")
                connection.execute("ALTER ROLE map_standby SET default_transaction_read_only = on")
            with deployment.postfix:
                yield deployment, first


def answers(deployment: Deployment) -> list[int]:
    sent = [
        smtp.send(deployment.postfix.smtp_port, "a@b.example", (f"orders+{slug}@{DOMAIN}",), b"From: a@b.example\n\n1")
        for slug in ("acme", "nope")
    ]
    return [replies.rcpt[0].code for replies in sent]


def test_rcpt_is_answered_while_the_first_server_is_dead(between):
    deployment, first = between
    assert answers(deployment) == [250, 550]
    first.turn("refuse")
    for _ in range(3):
        assert answers(deployment) == [250, 550]
    assert "451" not in deployment.postfix.log()


def test_a_map_of_one_entry_for_all_servers_is_said(between):
    deployment, _ = between
    asked = open_postfix(str(deployment.postfix.config_directory))
    assert isinstance(asked, Postconf) and list(check_hosts(asked)) == []
    file = deployment.postfix.config_directory / "orderflow_recipients.cf"
    file.write_text("hosts = postgresql://me@/d?host=a%2Cb\ndbname = d\n")
    assert [level for level, _ in check_hosts(asked)] == ["WARNING"]
