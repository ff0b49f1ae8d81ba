"""What a program that is paused, cut off, or wrong about the time does to the others, on a real PostgreSQL."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from orderflow_ingest.storage.database import DatabaseUnavailable, Records, schema
from orderflow_ingest.storage.resilience import timeouts
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker
from tests.support.lab.process import FAKETIME, wait_until
from tests.support.records import LEASE, NOW, claimed, inserted


@pytest.fixture
def url(postgres):
    """A database with the organization acme (1)."""
    url = postgres.create_database(f"limits_{uuid4().hex}")
    records = Records(url)
    schema.upgrade(records.database)
    records.organizations.add("acme", "Acme")
    records.database.close()
    return url


@pytest.fixture
def records(url):
    records = Records(url)
    yield records
    records.database.close()


def test_who_waits_for_a_locked_row_hears_so_and_nobody_else_is_kept_from_the_database(records, url, place):
    breaker = CircuitBreaker(place / "circuits" / "database", "database", DatabaseUnavailable)
    other = Records(url, times=timeouts.Timeouts(1, 6, 1), guard=breaker)
    message = inserted(records)
    attempt = claimed(records, message)
    with records.database.write(1) as paused:
        assert records.messages.holds(attempt, paused)
        with pytest.raises(DatabaseUnavailable, match="55P03: another session has the row") as refused:
            claimed(other, message, NOW + 2 * LEASE)
        assert refused.value.is_answer
        assert other.organizations.get(1).slug == "acme" and not (place / "circuits" / "database").exists()
    assert claimed(other, message, NOW + 2 * LEASE) is not None
    other.database.close()


def test_a_session_that_is_paused_in_a_transaction_is_ended_and_its_locks_with_it(records, url, monkeypatch):
    monkeypatch.setattr(timeouts, "IDLE", 1)
    paused = Records(url)
    message = inserted(records)
    attempt = claimed(paused, message)

    def is_taken_over() -> bool:
        try:
            return claimed(records, message, NOW + 2 * LEASE) is not None
        except DatabaseUnavailable:
            return False

    with pytest.raises(DatabaseUnavailable), paused.database.write(1) as connection:
        assert paused.messages.holds(attempt, connection)
        assert wait_until(is_taken_over, 60, interval=0.1)
        paused.messages.holds(attempt, connection)
    paused.database.close()


WORKER = """
from datetime import datetime
from uuid import UUID
import sys
from orderflow_ingest.app import open_app
from orderflow_ingest.config import load
from orderflow_ingest.pipeline import extract
print(datetime.now().year)
app = open_app(load())
extract.extract(1, UUID(sys.argv[1]), app)
"""


@pytest.mark.parametrize("years", [1, -1])
def test_a_worker_whose_clock_is_wrong_puts_nothing_off_for_others(records, url, place, years):
    """Its archive is away, so that it puts its attempt off: by the time of the database."""
    message = inserted(records, received_at=datetime.now(UTC))
    (place / "archive").write_text("no directory")
    environment = {
        "PATH": os.environ["PATH"], "LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{365 * years:+d}d",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DATABASE_URL": url, "ARCHIVE_URL": f"file://{place}/archive",
        "ORDERFLOW_STATE_DIR": str(place / "state"), "ORDERFLOW_SETTINGS": "/dev/null", "ORDERFLOW_LOG": "stderr",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, str(message.id)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0 and int(ended.stdout) == datetime.now(UTC).year + years, ended.stderr
    row = records.messages.get(1, message.id)
    assert row.attempts == 1 and row.error_json["error"] == "ArchiveUnavailable", row
    assert abs(row.next_attempt_at - datetime.now(UTC)) < timedelta(minutes=5)
