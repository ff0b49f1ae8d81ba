"""A probe that runs in a thread of its own, and whose result is kept for a while.

One measurement runs at a time, so a server that hangs has one query to answer, however often a page is requested.
A result is valid for some seconds, and for twenty times as long as the measurement took: measuring keeps no server
busy for more than a twentieth of its time. A page waits for a result until its own time limit, and no longer.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from orderflow_ingest.observability.logs import WARNING, error_location, event

from .gauges import Sample

_MAX_SHARE = 20


@dataclass(frozen=True)
class Snapshot:
    """The samples of a part, or None if it was unavailable or too slow."""

    samples: list[Sample] | None
    seconds: float


class BackgroundProbe:
    """The probe of one part. `measure` returns its samples, or raises if it is unavailable."""

    def __init__(self, name: str, measure: Callable[[], list[Sample]], max_age: float):
        self.name = name
        self._measure, self._max_age = measure, max_age
        self._changed = threading.Condition()
        self._is_running = False
        self._last = Snapshot(None, 0.0)
        self._started_at, self._due = 0.0, 0.0
        self._last_error = ""

    def start(self) -> None:
        """Start a measurement, unless one runs or the last result is still valid."""
        with self._changed:
            if self._is_running or time.monotonic() < self._due:
                return
            self._is_running, self._started_at = True, time.monotonic()
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def result(self, until: float) -> Snapshot:
        """Return the result, waiting for it until a time of time.monotonic()."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_running, max(0.0, until - time.monotonic())):
                return Snapshot(None, time.monotonic() - self._started_at)
            return self._last

    def _run(self) -> None:
        samples, why = None, ""
        try:
            samples = self._measure()
        except Exception as error:
            ours = type(error).__module__.startswith("orderflow_ingest.")
            why = str(error) if ours else error_location(error)
        took = time.monotonic() - self._started_at
        if why and why != self._last_error:
            event("metrics", "A part could not be measured.", WARNING, part=self.name, reason=why)
        self._last_error = why
        with self._changed:
            self._last, self._is_running = Snapshot(samples, took), False
            self._due = time.monotonic() + (max(self._max_age, _MAX_SHARE * took) if self._max_age else 0.0)
            self._changed.notify_all()
