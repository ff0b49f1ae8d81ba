"""A circuit breaker: a backend that is known to be away is not waited for again by every delivery.

    closed    calls go through. One that fails after more than SLOW seconds opens it; what fails at once costs
              nothing and changes nothing
    open      calls fail at once, for PROBE seconds
    probing   then one call goes through, and the others fail at once until it has ended: well, and it is closed;
              badly, and it is open for another PROBE seconds

It is a file, so that all programs of this host know of it together: the instances of the service, the workers, and
each orderflow-deliver that Postfix starts without one. There while it is open, changed when it was opened; who
probes holds an flock on it, which the kernel takes back from a killed process. A clock that was set back closes
nothing for longer than PROBE seconds. Where the file cannot be written every call goes through.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from .outcomes import DeadlineReached

SLOW = 1.0  # seconds
PROBE = 5.0  # seconds
Guard = Callable[[], AbstractContextManager[None]]


class Breaker:
    """Guards the calls to one backend, named in texts by `name`; what it raises is an `error`, as what they raise."""

    def __init__(self, path: Path, name: str, error: type[Exception]):
        self._path, self._name, self._error = path, name, error

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Guard a call. Raises `error` at once while the breaker is open."""
        probe, is_away, began = self._enter(), False, time.monotonic()
        try:
            yield
        except (self._error, DeadlineReached):
            is_away = True
            raise
        finally:
            if is_away and (probe is not None or time.monotonic() - began > SLOW):
                self._open()
            elif probe is not None and not is_away:
                self._path.unlink(missing_ok=True)
            if probe is not None:
                os.close(probe)

    def _enter(self) -> int | None:
        """Let a call through, or raise; give the locked file where the call is the probe."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not there, as a rule
            return None
        with suppress(BlockingIOError):
            age = time.time() - os.fstat(fd).st_mtime
            if not 0 <= age < PROBE:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
        os.close(fd)
        raise self._error(f"{self._name}: known to be away, tried again within {PROBE:.0f} s")

    def _open(self) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._path.touch(mode=0o600)
