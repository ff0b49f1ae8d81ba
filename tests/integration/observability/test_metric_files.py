"""Metric files of real processes: slots, a kill in the middle of counting, a full disk."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orderflow_ingest.observability import metric_files as slots
from orderflow_ingest.observability import metrics
from tests.support.counting import count, counted, files, is_free
from tests.support.lab.process import wait_until

ROOT = Path(__file__).parents[3]
COUNTING = """
import sys, time
from orderflow_ingest.observability import metrics
metrics.start(sys.argv[1])
for _ in range(int(sys.argv[2])):
    metrics.count(metrics.DELIVERIES, "acme", "DELIVERED")
print("counted", flush=True)
if len(sys.argv) > 3:
    exec(sys.argv[3])
"""


@pytest.fixture
def directory(place):
    """A directory that this process counts in."""
    metrics.start(place / "metrics")
    yield place / "metrics"
    metrics.stop()


def counting(directory: Path, times: int, then: str = "") -> subprocess.Popen:
    """Start a process that counts, and wait until it has."""
    command = [sys.executable, "-c", COUNTING, directory, str(times), *([then] if then else [])]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "counted\n"
    return process


def test_processes_at_a_time_have_a_slot_each_and_later_ones_go_on_with_them(directory):
    others = [counting(directory, 10, "time.sleep(60)") for _ in range(2)]
    count(5)
    assert files(directory) == ["slot-1", "slot-2", "slot-3"]
    for process in others:
        process.kill()
        process.wait()
    assert counted(directory) == 25
    for _ in range(3):
        counting(directory, 100).wait()
    assert counted(directory) == 325
    assert files(directory) == ["slot-1", "slot-2", "slot-3"]


def test_a_kill_in_the_middle_of_counting_loses_what_was_going_on_and_nothing_else(directory):
    """Killed eight times while it counts without a pause: what was counted never becomes less."""
    forever = "while True: metrics.count(metrics.DELIVERIES, 'acme', 'DELIVERED'); "
    forever += "metrics.observe(metrics.DELIVERY_SECONDS, 0.02)"
    before = 0.0
    for _ in range(8):
        process = counting(directory, 1, forever)
        time.sleep(0.05)
        seen = counted(directory)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before < seen <= (before := counted(directory))
    buckets = metrics.read_counts(directory)["orderflow_delivery_seconds", metrics.DELIVERY_SECONDS.size]
    assert sum(buckets[:-1]) <= before <= sum(buckets[:-1]) + 16
    assert files(directory) == ["slot-1"]


def test_a_child_that_outlives_its_parent_does_not_keep_its_slot(directory):
    """As a worker process that lives on a moment longer than the consumer that was killed."""
    then = "import os; child = os.fork(); child and (print(child, flush=True), os.kill(os.getpid(), 9)); time.sleep(60)"
    process = counting(directory, 1, then)
    child = int(process.stdout.readline())
    process.wait()
    try:
        with open(directory / "slot-1") as first:
            assert wait_until(lambda: is_free(first), 60)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_full_disk_ends_no_process_and_what_is_known_is_counted_on(place, caplog):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
    try:
        metrics.start(place / "metrics")
        count()
        with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                continue
        count()
        metrics.count(metrics.DELIVERIES, "", "BACKEND_DOWN")  # new, and there is room for it
        for number in range(300):
            metrics.count(metrics.DELIVERIES, f"org-{number}", "DELIVERED")  # more than there is room for
        assert counted(place / "metrics") == 2
        assert metrics.read_counts(place / "metrics")["orderflow_deliveries_total - BACKEND_DOWN", 1] == [1.0]
        assert [r.message for r in caplog.records] == ["Metrics cannot be written."]
        assert caplog.records[0].reason == "ENOSPC (No space left on device)"
    finally:
        metrics.stop()
        subprocess.run(["umount", place], check=True)


def test_every_slot_taken_is_no_error(directory, monkeypatch):
    monkeypatch.setattr(slots, "_MAX_FILES", 1)
    other = counting(directory, 1, "time.sleep(60)")
    count()
    other.kill()
    other.wait()
    assert counted(directory) == 1


def test_root_writes_no_file_that_the_deployments_user_could_not_go_on_with(place):
    os.chown(place, 65534, 65534)
    metrics.start(place / "metrics")
    count()
    assert list(place.iterdir()) == []
    (place / "metrics").mkdir()
    os.chown(place / "metrics", 65534, 65534)
    metrics.start(place / "metrics")
    count()
    assert files(place / "metrics") == []
    metrics.stop()
