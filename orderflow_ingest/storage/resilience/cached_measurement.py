"""A measure that is taken at most once in so many seconds, however many ask for it.

Of the threads that ask when it is due, one takes it; the others get the one before: a server that hangs is not waited
for in a row. What it raised is remembered for a second at the most: it may be over.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")
_ERROR_SECONDS = 1.0


class CachedMeasurement(Generic[Value]):
    """A function without arguments over `measure`; `first` is given while the first measure is being taken."""

    def __init__(self, measure: Callable[[], Value], seconds: float, first: Value, errors: tuple[type[Exception], ...]):
        self._measure, self._seconds, self._errors = measure, seconds, errors
        self._turn = threading.Lock()
        self._due_at = 0.0
        self._value = first
        # Its class and text alone: with its frames it would keep what a delivery holds.
        self._error: tuple[type[Exception], str] | None = None

    def __call__(self) -> Value:
        """Give the measure. Raises what it raised, where that is one of `errors`."""
        if time.monotonic() >= self._due_at and self._turn.acquire(blocking=False):
            try:
                self._take()
            finally:
                self._turn.release()
        if self._error is not None:
            kind, text = self._error
            raise kind(text)
        return self._value

    def _take(self) -> None:
        try:
            self._value, self._error = self._measure(), None
            seconds = self._seconds
        except self._errors as error:
            self._error = (type(error), str(error))
            seconds = min(_ERROR_SECONDS, self._seconds)
        self._due_at = time.monotonic() + seconds
