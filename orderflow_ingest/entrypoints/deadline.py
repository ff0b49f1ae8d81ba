"""A time limit for one delivery that runs in the main thread of its program.

A signal raises DeadlineReached wherever the delivery waits. Threads get no signals: there the block runs without this
limit, and the time limits of the backends have to do. A library that does not return to Python is not interrupted.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orderflow_ingest.domain.outcomes import DeadlineReached


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise DeadlineReached inside the block when so many seconds are over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def reached(*_: object) -> None:
        raise DeadlineReached

    before = signal.signal(signal.SIGALRM, reached)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
