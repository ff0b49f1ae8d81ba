"""Pace: how fast an operator's run goes, so that live mail does not wait for it.

Two limits, kept together: so many a second, and no more than so many tasks in the queue. The second is the brake that
matters: it lets the workers tell how fast they are, and a run that filled the queue would defer live mail
(ORDERFLOW_MAX_QUEUE).

How many wait is asked once a second; what was begun since counts as waiting.
"""

import time
from collections.abc import Callable

_ASKED = 1.0  # seconds
_STEP = 0.1  # seconds; a run that is told to stop waits no longer


class Pace:
    """One run's pace. `rate` is a second's most, None for no limit; 0 for `most_waiting` is no brake."""

    def __init__(self, rate: float | None, most_waiting: int, depth: Callable[[], int]):
        self._rate, self._most, self._depth = rate, most_waiting, depth
        self._next = self._asked = 0.0
        self._waiting = 0
        self.braked_by = 0

    def wait(self, is_stopped: Callable[[], bool], meanwhile: Callable[[], None]) -> bool:
        """Wait until the next one may begin; False if the run was stopped. Raises QueueUnavailable."""
        while not is_stopped():
            self.braked_by = self._brake()
            delay = _STEP if self.braked_by else min(_STEP, self._next - time.monotonic())
            if delay <= 0:
                self._begin()
                return True
            meanwhile()
            time.sleep(delay)
        return False

    def _brake(self) -> int:
        """Tell how many tasks wait, where these are too many; 0 if they are not."""
        if not self._most:
            return 0
        if time.monotonic() - self._asked >= _ASKED:
            self._waiting, self._asked = self._depth(), time.monotonic()
        return self._waiting if self._waiting >= self._most else 0

    def _begin(self) -> None:
        self._waiting += 1
        if self._rate:
            # What was not used is not made up for, but for one step's worth.
            self._next = max(self._next, time.monotonic() - _STEP) + 1 / self._rate
