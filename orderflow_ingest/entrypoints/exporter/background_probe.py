"""A measure that nobody waits for longer than he wants, and that is not taken more often than it is good for.

It is taken in a thread of its own, one at a time: a server that hangs has one question of ours to answer, however often
we are asked. What was found is good for some seconds, and for twenty times as long as it took: so measuring keeps no
server busy for more than a twentieth of its time.
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
    """What a look at a part has shown; None if it was away or too slow."""

    samples: list[Sample] | None
    seconds: float


class BackgroundProbe:
    """One part. `measure` gives its samples, or raises if it is away."""

    def __init__(self, name: str, measure: Callable[[], list[Sample]], max_age: float):
        self.name = name
        self._measure, self._max_age = measure, max_age
        self._changed = threading.Condition()
        self._is_running = False
        self._last = Snapshot(None, 0.0)
        self._started_at, self._due = 0.0, 0.0
        self._last_error = ""

    def start(self) -> None:
        """Begin to measure, unless that is being done, or was not long ago."""
        with self._changed:
            if self._is_running or time.monotonic() < self._due:
                return
            self._is_running, self._started_at = True, time.monotonic()
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def result(self, until: float) -> Snapshot:
        """Give what was found, waiting for it till then (time.monotonic())."""
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
