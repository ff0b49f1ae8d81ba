"""RateLimiter: how fast a run goes, so that live mail does not wait for it.

It keeps two limits: messages per second, and tasks that wait in the queue. The second matters more. It makes a run as
fast as the workers are, and a run that filled the queue would defer live mail (ORDERFLOW_MAX_QUEUE).

The depth of the queue is read once a second. Messages that the run began since count as waiting.
"""

import time
from collections.abc import Callable

_DEPTH_INTERVAL = 1.0  # seconds
_STEP = 0.1  # seconds; a run that is stopped waits no longer


class RateLimiter:
    """Limits one run. `rate` is messages per second, None for no limit. `max_waiting` 0 means no limit of tasks."""

    def __init__(self, rate: float | None, max_waiting: int, depth: Callable[[], int]):
        self._rate, self._max_waiting, self._depth = rate, max_waiting, depth
        self._next = self._depth_read_at = 0.0
        self._waiting = 0
        self.waiting_tasks = 0

    def wait(self, is_stopped: Callable[[], bool], on_progress: Callable[[], None]) -> bool:
        """Wait until the next message may begin. Return False if the run was stopped. Raise QueueUnavailable."""
        while not is_stopped():
            self.waiting_tasks = self._waiting_if_too_many()
            delay = _STEP if self.waiting_tasks else min(_STEP, self._next - time.monotonic())
            if delay <= 0:
                self._count_one()
                return True
            on_progress()
            time.sleep(delay)
        return False

    def _waiting_if_too_many(self) -> int:
        """Return how many tasks wait if they are too many, else 0."""
        if not self._max_waiting:
            return 0
        if time.monotonic() - self._depth_read_at >= _DEPTH_INTERVAL:
            self._waiting, self._depth_read_at = self._depth(), time.monotonic()
        return self._waiting if self._waiting >= self._max_waiting else 0

    def _count_one(self) -> None:
        self._waiting += 1
        if self._rate:
            # What was not used is not made up for, but for one step's worth.
            self._next = max(self._next, time.monotonic() - _STEP) + 1 / self._rate
