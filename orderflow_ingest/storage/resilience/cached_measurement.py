"""A measurement that is made at most once in so many seconds, however many threads ask for it.

Of the threads that ask when it is due, one makes it. The others get the last one, so that they do not wait in a row for
a server that hangs. An error is remembered for a second at most, since its cause may be over.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")
_ERROR_SECONDS = 1.0


class CachedMeasurement(Generic[Value]):
    """A function without arguments over `measure`. It returns `first` while the first measurement runs."""

    def __init__(self, measure: Callable[[], Value], seconds: float, first: Value, errors: tuple[type[Exception], ...]):
        self._measure, self._seconds, self._errors = measure, seconds, errors
        self._lock = threading.Lock()
        self._due_at = 0.0
        self._value = first
        # Class and text alone: its frames would keep the memory of a delivery.
        self._error: tuple[type[Exception], str] | None = None

    def __call__(self) -> Value:
        """Return the measurement. Raise its error again, if it is one of `errors`."""
        if time.monotonic() >= self._due_at and self._lock.acquire(blocking=False):
            try:
                self._measure_now()
            finally:
                self._lock.release()
        if self._error is not None:
            kind, text = self._error
            raise kind(text)
        return self._value

    def _measure_now(self) -> None:
        try:
            self._value, self._error = self._measure(), None
            seconds = self._seconds
        except self._errors as error:
            self._error = (type(error), str(error))
            seconds = min(_ERROR_SECONDS, self._seconds)
        self._due_at = time.monotonic() + seconds
