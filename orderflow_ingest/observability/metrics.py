"""Metrics: what the programs of this host count while they work, for `orderflow-metrics` to show.

    metrics.start(directory)      once per program: from here on this process counts; before, nothing here has an effect
    metrics.count(DELIVERIES, "acme", "DELIVERED")
    metrics.observe(DELIVERY_SECONDS, 0.02)

Each process has a file of its own in the directory, see `metric_files`. It is taken at the first count, and again after
a fork. The sum of all files is the host's counts. They continue over restarts and kills, and begin at zero when the
machine starts.

No failure in here reaches the caller: a count that cannot be written is lost, logged once, and tried again a minute
later. An organization becomes a label only where it exists: callers pass "" otherwise, since strangers can invent any
number of recipients. prometheus_client is not imported here: that takes longer than a delivery.
"""

import logging
import os
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from orderflow_ingest.domain.os_errors import os_reason

from .metric_files import ProcessFile, read_counts

__all__ = ["COUNTERS", "HISTOGRAMS", "Counter", "Histogram", "count", "observe", "read_counts", "start", "stop"]

_TRY_AGAIN = 60.0  # seconds
_PATIENCE = 1.0  # seconds
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 480.0)


@dataclass(frozen=True)
class Counter:
    """A number that only grows, for each combination of its labels' values."""

    name: str
    meaning: str
    labels: tuple[str, ...]

    size = 1


@dataclass(frozen=True)
class Histogram:
    """How many values were at most so large, for each of the bounds, and their sum."""

    name: str
    meaning: str
    bounds: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.bounds) + 2


DELIVERIES = Counter(
    "orderflow_deliveries_total",
    "Deliveries that ended, by outcome; org is empty where there is no such organization, or none was found out",
    ("org", "outcome"),
)
REFUSALS = Counter(
    "orderflow_refusals_total",
    "Answers that were given without a delivery's end: no room, past the deadline, not spooled, refused at RCPT TO",
    ("outcome",),
)
EXTRACTIONS = Counter(
    "orderflow_extractions_total", "Attempts at a message, by end: parsed, retry, failed or lost", ("org", "end")
)
HANDOVERS = Counter(
    "orderflow_handovers_total", "Attempts at a document, by end: done, retry, failed or lost", ("org", "end")
)
BACKEND_ERRORS = Counter(
    "orderflow_backend_errors_total", "Calls to archive, database or queue that found it away", ("backend",)
)
DELIVERY_SECONDS = Histogram("orderflow_delivery_seconds", "How long a delivery took", _SHORT)
MESSAGE_BYTES = Histogram(
    "orderflow_message_bytes", "How large a delivered message was", tuple(float(1 << n) for n in range(10, 27, 2))
)
EXTRACTION_SECONDS = Histogram("orderflow_extraction_seconds", "How long an attempt at a message took", _LONG)
HANDOVER_SECONDS = Histogram("orderflow_handover_seconds", "How long an attempt at a document took", _LONG)

COUNTERS = (DELIVERIES, REFUSALS, EXTRACTIONS, HANDOVERS, BACKEND_ERRORS)
HISTOGRAMS = (DELIVERY_SECONDS, MESSAGE_BYTES, EXTRACTION_SECONDS, HANDOVER_SECONDS)


class _ProcessCounts:
    """The counts of this process. Threads share them."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._lock = threading.Lock()
        self._file: ProcessFile | None = None
        self._not_before = 0.0
        self._is_failure_logged = False

    def add(self, key: str, size: int, *changes: tuple[int, float]) -> None:
        """Add to the numbers of a key. It raises nothing and does not wait long."""
        # A time limit's signal may have left the lock behind: who comes next must not wait for ever.
        if not self._lock.acquire(timeout=_PATIENCE):
            return
        try:
            if self._file is None and time.monotonic() >= self._not_before:
                self._file = ProcessFile(self.directory)
            if self._file is not None:
                self._file.add(key, size, changes)
        except Exception as error:
            self._give_up(error)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: Exception) -> None:
        self.close()
        self._not_before = time.monotonic() + _TRY_AGAIN
        if not self._is_failure_logged:
            self._is_failure_logged = True
            fields = {"action": "metrics", "reason": os_reason(error)}
            logging.getLogger("orderflow_ingest").warning("Metrics cannot be written.", extra=fields)


_counts: _ProcessCounts | None = None


def start(directory: str | os.PathLike[str]) -> None:
    """Count from now on, in this directory. Nothing is opened before there is something to count."""
    global _counts
    stop()
    _counts = _ProcessCounts(Path(directory))


def stop() -> None:
    """Stop counting."""
    global _counts
    if _counts is not None:
        _counts.close()
    _counts = None


def count(metric: Counter, *labels: str) -> None:
    """Count one."""
    if _counts is not None:
        _counts.add(" ".join((metric.name, *(label or "-" for label in labels))), 1, (0, 1.0))


def observe(metric: Histogram, value: float) -> None:
    """Count a value in its bucket."""
    if _counts is not None:
        _counts.add(metric.name, metric.size, (bisect_left(metric.bounds, value), 1.0), (metric.size - 1, value))


def _after_fork() -> None:
    """Open a file of its own for a forked process. Its parent keeps the one that it has locked."""
    if _counts is not None:
        start(_counts.directory)


os.register_at_fork(after_in_child=_after_fork)
