"""PostgreSQL URLs are read as libpq reads them, or refused by name."""

import pytest
from psycopg.pq import Conninfo

from orderflow_ingest.config import KEYS, SettingsError
from orderflow_ingest.storage import postgresql_url
from orderflow_ingest.storage.resilience.error_hints import database_name
from tests.support.postgresql_urls import LOGIN, SECRET, loaded

NAMES = ("DATABASE_URL", "QUEUE_URL", "MAP_DATABASE_URL")


@pytest.mark.parametrize(
    ("rest", "servers", "name"),
    [
        ("h/d", [("h", "")], "h/d"),
        ("h:1/d", [("h", "1")], "h:1/d"),
        ("[::1]:1/d", [("::1", "1")], "::1:1/d"),
        ("/d", [("", "")], "localhost/d"),
        ("h1,h2/d", [("h1", ""), ("h2", "")], "h1,h2/d"),
        ("h1:1,h2:2/d", [("h1", "1"), ("h2", "2")], "h1:1,h2:2/d"),
        ("[::1]:1,[::2]:2/d", [("::1", "1"), ("::2", "2")], "::1:1,::2:2/d"),
        ("h1:1,h2:2,h3:3/d", [("h1", "1"), ("h2", "2"), ("h3", "3")], "h1:1,h2:2,h3:3/d"),
        ("h1%2Ch2:1/d", [("h1", "1"), ("h2", "1")], "h1:1,h2:1/d"),
        ("%2Frun%2Fpg:1/d", [("/run/pg", "1")], "/run/pg:1/d"),
        ("%2Frun%2Fpg,h2/d", [("/run/pg", ""), ("h2", "")], "/run/pg,h2/d"),
        ("/d?host=/run/pg", [("/run/pg", "")], "/run/pg/d"),
        ("/d?host=h1,h2&port=1,2", [("h1", "1"), ("h2", "2")], "h1:1,h2:2/d"),
        ("/d?host=h1,h2&port=1", [("h1", "1"), ("h2", "1")], "h1:1,h2:1/d"),
        ("/d?host=h1%2Ch2&port=1%2C2", [("h1", "1"), ("h2", "2")], "h1:1,h2:2/d"),
        ("h1,h2/d?port=1,2", [("h1", "1"), ("h2", "2")], "h1:1,h2:2/d"),
        ("/d?host=fe80::1", [("fe80::1", "")], "fe80::1/d"),
        ("h/d?hostaddr=10.0.0.1", [("h", "")], "10.0.0.1/d"),
        ("h/a?dbname=d", [("h", "")], "h/d"),
    ],
)  # fmt: skip
def test_libpqs_forms_are_taken_everywhere_and_read_by_libpq(rest, servers, name):
    for scheme in ("postgresql://", "postgres://", "postgresql+psycopg://"):
        more = f"{'&' if '?' in rest else '?'}target_session_attrs=read-write"
        settings = loaded(**dict.fromkeys(NAMES, scheme + LOGIN + rest + more))
        for url in (settings.database_url, settings.queue_url, settings.map_database_url):
            target = postgresql_url.read(url)
            assert list(target.servers) == servers and database_name(url) == target.name == name
            asked = {key: target.parameters[key] for key in ("user", "password", "target_session_attrs")}
            assert asked == {"user": "of", "password": SECRET, "target_session_attrs": "read-write"}
            assert SECRET not in target.name


def test_each_secret_that_libpq_knows_is_named_as_one():
    known = {one.keyword.decode(): one.dispchar for one in Conninfo.get_defaults()}
    for name, mark in known.items():
        is_secret = mark == b"*" or name.endswith(("password", "secret", "client_key", "server_key"))
        assert (name in postgresql_url.read(f"postgresql://h/d?{name}=1").secrets) == is_secret
    assert {"password", "sslpassword"} <= known.keys()
    assert not postgresql_url.read("postgresql://h/d?passfile=/x&sslkey=/y").secrets


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("h1,h2:2/d", "has a port for some of its hosts: name it for each, a:5432,b:5432, or for none"),
        ("h1:1,h2/d", "has a port for some of its hosts: name it for each, a:5432,b:5432, or for none"),
        ("/d?host=h1,h2&port=,2", "has a port for some of its hosts: name it for each, a:5432,b:5432, or for none"),
        ("/d?host=h1:1&host=h2:2", "has a parameter twice; several hosts are host=a,b&port=5432,5433"),
        ("/d?host=h1:1", "has a port within host=: several hosts with ports are host=a,b&port=5432,5433"),
        ("/d?host=h1,h2:2", "has a port within host=: several hosts with ports are host=a,b&port=5432,5433"),
        ("/d?host=h1,h2,h3&port=1,2", "has another number of ports than of hosts"),
        ("h1:1,h2:2/d?host=h3", "has another number of ports than of hosts"),
        ("h1,,h2/d", "has an empty name among its hosts"),
        ("h/d?hostaddr=10.0.0.1,10.0.0.2", "has several hostaddr: name several hosts as host=a,b&port=5432,5433"),
        ("h:99999/d", ""), ("h:0/d", ""), ("h1:1,h2:99999/d", ""), ("/d?host=h&port=x", ""), ("h:x/d", ""),
        ("h/d?sslmode", ""), ("h/d?options=-c a=b", ""), ("h/d?options=-ca=b", ""), ("h/d?a=%", ""), ("[::1/d", ""),
    ],
)  # fmt: skip
def test_what_is_read_in_two_ways_or_quoted_is_refused_by_name(rest, why):
    for name in NAMES:
        with pytest.raises(SettingsError) as refused:
            loaded(**{name: f"postgresql://{LOGIN}{rest}"})
        key = next(key for key in KEYS if key.name == name)
        assert str(refused.value) == f"environment: {name} {why or f'must be {key.expected}'}"
        assert refused.value.__cause__ is None and refused.value.__suppress_context__
