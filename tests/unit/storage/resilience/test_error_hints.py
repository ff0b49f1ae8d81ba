"""What each SQLSTATE of a server that is not well means: for the breaker, and for who reads it."""

from contextlib import suppress
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import exc

from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.database import connection as database
from orderflow_ingest.storage.resilience import circuit_breaker as module
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker
from orderflow_ingest.storage.resilience.error_hints import explain_database_error

URL = "postgresql+psycopg://of:secret@h/d"
AWAY, ANSWER, OURS = "away", "answer", "ours"


def raised(state, text="secret text"):
    """Return the error of an SQLSTATE as SQLAlchemy raises it."""
    error = psycopg.errors.lookup(state)(text)
    return exc.DBAPIError.instance("SELECT secret", {}, error, psycopg.Error, hide_parameters=True)


@pytest.mark.parametrize(
    ("state", "what", "says"),
    [
        ("08006", AWAY, ""), ("0A000", AWAY, "another version, or an extension"), ("25006", AWAY, "name the primary"),
        ("25P03", ANSWER, "was this program paused"), ("28P01", AWAY, ""), ("40001", ANSWER, "tried again"),
        ("40P01", ANSWER, "tried again"), ("42501", AWAY, "no right"), ("42P01", AWAY, "orderflow-admin init"),
        ("53000", AWAY, ""), ("53100", AWAY, "disk is full"), ("53200", AWAY, "no memory"),
        ("53300", AWAY, "max_connections"), ("53400", AWAY, ""), ("55P03", ANSWER, "locked"),
        ("57014", AWAY, "overloaded"), ("57P01", AWAY, "ending"), ("57P02", AWAY, "crashed"),
        ("57P03", AWAY, "starting or ending"), ("58030", AWAY, ""), ("58P01", AWAY, "damaged"), ("XX000", AWAY, ""),
        ("XX001", AWAY, ""), ("22001", OURS, ""), ("22021", OURS, ""), ("23505", OURS, ""), ("23514", OURS, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("slow", [False, True])
def test_a_server_that_is_away_or_slow_opens_the_breaker_and_one_that_answers_does_not(
    state, what, says, slow, place, monkeypatch
):
    """Of what is away, only what took its time does: a refusal that comes at once costs nobody anything."""
    monkeypatch.setattr(module, "SLOW", -1.0 if slow else 3600.0)
    breaker = CircuitBreaker(place / "database", "database", DatabaseUnavailable)
    expected = exc.DBAPIError if what is OURS else DatabaseUnavailable
    with pytest.raises(expected) as caught, breaker(), database._translated(URL):
        raise raised(state)
    assert (place / "database").exists() is (slow and what is AWAY)
    if what is not OURS:
        assert str(caught.value).startswith(f"database h/d: {state}: " if says else "database h/d: ")
        assert says in str(caught.value) and "secret" not in str(caught.value) and state in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("FATAL:  remaining connection slots are reserved for superusers", "max_connections"),
        ("FATAL:  the database system is starting up", "starting or ending"),
        ("FATAL:  the database system is in recovery mode", "starting or ending"),
        ("FATAL:  the database system is not yet accepting connections", "starting or ending"),
        ("FATAL:  the database system is not accepting connections", "starting or ending"),
        ("FATAL:  the database system is shutting down", "starting or ending"),
        ("connection refused\n- h2: session is read-only", "none of the hosts in DATABASE_URL is a primary"),
        ("session is read-only\n- h1: Connection refused", "none of the hosts in DATABASE_URL is a primary"),
        ("connection timeout expired\n- h2: server is in hot standby mode", "none of the hosts in DATABASE_URL"),
    ],
)
def test_what_a_connection_is_refused_with_has_a_meaning(text, says):
    told = explain_database_error(psycopg.OperationalError(text), "DATABASE_URL", URL)
    assert says in told and "secret" not in told


def test_what_a_driver_does_not_do_is_a_fault_of_ours():
    with suppress(DatabaseUnavailable), pytest.raises(exc.NotSupportedError), database._translated(URL):
        raise exc.NotSupportedError("SELECT 1", {}, psycopg.NotSupportedError("no"))


class RefusingConnection:
    """A connection of the pool whose server refuses its first statement, as it does a role without the right."""

    def __init__(self):
        self.driver = SimpleNamespace(response_timeout=15.0)
        self.connection = SimpleNamespace(driver_connection=self.driver)
        self.asked_within = []

    def exec_driver_sql(self, statement, execution_options):
        self.asked_within.append(self.driver.response_timeout)
        raise raised("42501")


def test_a_refused_first_statement_leaves_a_connection_the_time_of_its_later_statements():
    connection = RefusingConnection()
    with pytest.raises(exc.DBAPIError):
        database._send_first(connection, "BEGIN; SELECT orderflow_every()", 2.0)
    assert connection.asked_within == [2.0] and connection.driver.response_timeout == 15.0
