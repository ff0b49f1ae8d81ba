"""What the recipient map asks a real PostgreSQL, and what a lost connection or a lock makes of it."""

import psycopg
import pytest

from orderflow_ingest.storage.database import DatabaseUnavailable, Records
from orderflow_ingest.storage.resilience.timeouts import Timeouts
from tests.support.fakes import embedded
from tests.support.lab.process import scratch


@pytest.fixture(scope="module")
def url(postgres):
    """Return the URL of a database of PostgreSQL with two organizations."""
    with scratch() as place:
        url = postgres.create_database("asked")
        embedded(place, DATABASE_URL=url).records.database.close()
        return url


@pytest.fixture
def records(url):
    records = Records(url)
    yield records
    records.database.close()


def test_a_question_is_one_round_trip_whether_it_names_one_or_many(records):
    organizations, database = records.organizations, records.database
    organizations.active_slugs({"acme"})
    with database.engine.connect() as connection:
        driver, sent = connection.connection.driver_connection, []
    wait, driver.wait = driver.wait, lambda *all, **named: sent.append(driver.pgconn.transaction_status) or wait(*all)
    for among in ({"guess"}, {f"guess{number}" for number in range(500)} | {"acme"}):
        began = len(sent)
        assert organizations.active_slugs(among) == among & {"acme"}
        # What the pool has rolled back is no transaction, and nothing is sent for it.
        assert len(sent) - began <= 2


def test_a_connection_that_the_server_has_ended_is_replaced_and_the_question_answered(records, postgres):
    organizations = records.organizations
    assert organizations.active_slugs({"acme", "guess"}) == {"acme"}
    with psycopg.connect(postgres.conninfo("asked"), autocommit=True) as connection:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'asked' AND pid <> %s"
        assert connection.execute(ended, (connection.info.backend_pid,)).fetchall() == [(True,)]
        assert organizations.active_slugs({"acme", "guess"}) == {"acme"}
        connection.execute("ALTER TABLE organization RENAME TO kept")
        with pytest.raises(DatabaseUnavailable, match="a table is missing"):
            organizations.active_slugs({"guess"})
        connection.execute("ALTER TABLE kept RENAME TO organization")
    assert organizations.active_slugs({"acme", "guess"}) == {"acme"}


def test_a_table_that_is_locked_is_unknown_for_now_and_opens_no_breaker(url, postgres):
    """A migration may hold it: what waits for a lock is no database that is away."""
    records = Records(url, times=Timeouts(connect=1, statement=4.5, read=1))  # which waits 1.5 s for a lock
    with psycopg.connect(postgres.conninfo("asked")) as connection:
        connection.execute("LOCK TABLE organization")
        with pytest.raises(DatabaseUnavailable, match="locked") as told:
            records.organizations.active_slugs({"guess"})
        assert told.value.is_answer
    assert records.organizations.active_slugs({"acme", "guess"}) == {"acme"}
    records.database.close()


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_the_table_is_asked_for_the_active_alone(where, place, request):
    url = {} if where == "sqlite" else {"DATABASE_URL": request.getfixturevalue("postgres").create_database("known")}
    organizations = embedded(place, **url).records.organizations
    organizations.set_active("beta", is_active=False)
    assert organizations.active_slugs() == {"acme"}
    assert (
        organizations.active_slugs({"acme", "beta", "nope"}) == {"acme"}
        and organizations.active_slugs({"beta"}) == set()
    )
    organizations.set_active("acme", is_active=False)
    assert organizations.active_slugs() == set()
