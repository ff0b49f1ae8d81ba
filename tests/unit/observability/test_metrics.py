"""metrics: counts outlive who counted, are exact under concurrency, and never cost anything but a count."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.observability import metric_files as slots
from orderflow_ingest.observability import metrics
from orderflow_ingest.pipeline.receive import deliver_from_memory
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.queue import Queue, QueueUnavailable
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker
from tests.support.counting import DELIVERED, count, counted, files, is_free
from tests.support.fakes import embedded
from tests.support.lab.process import wait_until
from tests.support.mails import mail


@pytest.fixture
def directory(place):
    """A directory that this process counts in."""
    metrics.start(place / "metrics")
    yield place / "metrics"
    metrics.stop()


def test_nothing_is_counted_before_a_door_says_where(place):
    metrics.stop()
    count()
    metrics.observe(metrics.MESSAGE_BYTES, 5)
    assert list(place.iterdir()) == []


def test_counts_and_values_are_found_again(directory):
    count(3)
    metrics.count(metrics.DELIVERIES, "", "UNKNOWN_ORG")
    for value in (0.005, 0.0051, 1000.0):
        metrics.observe(metrics.DELIVERY_SECONDS, value)
    found = metrics.read_counts(directory)
    assert found[DELIVERED] == [3.0]
    assert found["orderflow_deliveries_total - UNKNOWN_ORG", 1] == [1.0]
    *buckets, total = found["orderflow_delivery_seconds", metrics.DELIVERY_SECONDS.size]
    assert (buckets[0], buckets[1], buckets[-1], sum(buckets)) == (1.0, 1.0, 1.0, 3.0)
    assert total == pytest.approx(1000.0101)
    assert oct((directory / "slot-1").stat().st_mode)[-3:] == "600"
    assert oct(directory.stat().st_mode)[-3:] == "700"


def test_a_forked_process_has_a_slot_of_its_own_and_its_parent_keeps_the_first(directory):
    count()
    child = os.fork()
    if not child:
        count(10)
        os._exit(0)
    os.waitpid(child, 0)
    count()
    assert files(directory) == ["slot-1", "slot-2"]
    assert counted(directory) == 12
    with open(directory / "slot-1") as first, open(directory / "slot-2") as second:
        assert (is_free(first), is_free(second)) == (False, True)


def test_threads_lose_no_count(directory):
    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(count, 500)
    assert counted(directory) == 4000


def test_a_number_never_lies_across_two_pages(directory):
    """A kill between two pages of one write would leave half of the old number and half of the new one."""
    for number in range(400):
        metrics.count(metrics.DELIVERIES, "org-" + "x" * (number % 50) + str(number), "DELIVERED")
        metrics.observe(metrics.DELIVERY_SECONDS, number)
    lines, end = slots._parse((directory / "slot-1").read_bytes())
    assert end > 3 * 4096 and len(lines) == 401
    for offset, numbers in lines.values():
        assert offset // 4096 == (offset + len(slots._format_numbers(numbers)) - 1) // 4096


@pytest.mark.parametrize(
    "torn", [b"orderflow_deliveries_total acme DELIV", b"\n\n", b"a b c\n", b"\0\xff 1 2\n", b"k 00"]
)
def test_what_is_no_line_is_skipped_and_written_over(directory, torn):
    count(2)
    metrics.stop()
    path = directory / "slot-1"
    _, end = slots._parse(path.read_bytes())
    with path.open("r+b") as file:
        file.seek(end)
        file.write(torn)
    assert counted(directory) == 2
    metrics.start(directory)
    metrics.count(metrics.BACKEND_ERRORS, "queue")
    count()
    found = metrics.read_counts(directory)
    assert (found[DELIVERED], found["orderflow_backend_errors_total queue", 1]) == ([3.0], [1.0])


def test_a_histogram_of_another_version_is_not_taken_for_ours(directory):
    metrics.observe(metrics.DELIVERY_SECONDS, 1.0)
    metrics.observe(metrics.Histogram("orderflow_delivery_seconds", "", (1.0, 2.0)), 1.5)
    found = metrics.read_counts(directory)
    assert found["orderflow_delivery_seconds", 4] == [0.0, 1.0, 0.0, 1.5]
    assert sum(found["orderflow_delivery_seconds", metrics.DELIVERY_SECONDS.size]) == 2.0


def test_counts_of_before_this_machine_started_begin_at_zero(directory):
    """After a power failure a file may be older than what was shown: less than before looks like a new beginning."""
    count(7)
    metrics.stop()
    os.utime(directory / "slot-1", (1, 1))
    assert counted(directory) == 0
    metrics.start(directory)
    count()
    assert counted(directory) == 1


def test_a_lock_that_was_left_behind_costs_a_count_and_not_a_delivery(directory, monkeypatch):
    count()
    monkeypatch.setattr(metrics, "_PATIENCE", 0.05)
    metrics._counts._lock.acquire()
    count()
    metrics._counts._lock.release()
    count()
    assert counted(directory) == 2


# What is counted


def hand(app, raw, recipient="orders+acme@orderflow.example.com"):
    return deliver_from_memory(Envelope(recipient=recipient, received_at=datetime.now(UTC)), raw, app).outcome


def test_a_delivery_is_counted_by_organization_and_outcome_once(directory, place):
    app = embedded(place)
    assert [hand(app, mail(1)), hand(app, mail(1)), hand(app, mail(2))].count(Outcome.DELIVERED) == 2
    hand(app, b"")
    for number in range(30):
        hand(app, mail(3), f"orders+stranger-{number}@orderflow.example.com")
    found = {key: numbers[0] for (key, size), numbers in metrics.read_counts(directory).items() if size == 1}
    assert found == {
        "orderflow_deliveries_total acme DELIVERED": 2,
        "orderflow_deliveries_total acme DUPLICATE": 1,
        "orderflow_deliveries_total acme MALFORMED": 1,
        "orderflow_deliveries_total - UNKNOWN_ORG": 30,
    }
    sizes = metrics.read_counts(directory)["orderflow_message_bytes", metrics.MESSAGE_BYTES.size]
    assert (sum(sizes[:-1]), sizes[-1]) == (34, 2 * len(mail(1)) + len(mail(2)) + 30 * len(mail(3)))


def test_metrics_that_break_change_no_outcome(place):
    app = embedded(place)
    (place / "file").touch()
    metrics.start(place / "file" / "metrics")
    assert hand(app, mail(1)) is Outcome.DELIVERED
    metrics.start(place / "metrics")
    (place / "metrics").mkdir()
    (place / "metrics" / "slot-1").mkdir()
    assert hand(app, mail(2)) is Outcome.DELIVERED
    metrics.stop()


def test_a_call_that_finds_a_backend_away_is_counted_and_one_that_is_not_made_is_not(directory, place):
    breaker = CircuitBreaker(place / "circuits", "database", DatabaseUnavailable)
    (place / "circuits").touch()
    with pytest.raises(DatabaseUnavailable), breaker():
        raise AssertionError("it is known to be unavailable")
    (place / "circuits").unlink()
    with pytest.raises(DatabaseUnavailable), breaker():
        raise DatabaseUnavailable("database: gone")
    with pytest.raises(QueueUnavailable):
        Queue(f"sqlite:///{place}/nowhere/queue.db").depth()
    found = metrics.read_counts(directory)
    assert found["orderflow_backend_errors_total database", 1] == [1.0]
    assert found["orderflow_backend_errors_total queue", 1] == [1.0]


def test_who_reads_while_others_write_never_sees_less_than_before(directory):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            count()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert wait_until(lambda: counted(directory) > 0, 60)
        seen = [counted(directory) for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert seen == sorted(seen) and seen[0] < seen[-1]
