"""A circuit breaker: a backend that is known to be away is not waited for again by every delivery.

    closed    calls go through. One that fails after more than SLOW seconds opens it; what fails at once, a refusal
              of these credentials say, costs nothing and changes nothing, nor does what the backend itself answers, or
              a call that began before one of this process that went well: it hung at a server whose place is taken
    open      calls fail at once, for PROBE seconds
    probing   then one call goes through, and the others fail at once until it has ended: if it failed as slowly, it
              is open for another PROBE seconds, else closed. A probe that takes over PATIENCE seconds tells nothing,
              its process was paused say: then all go through

It is a file, so that all programs of this host know of it together: the instances of the service, the workers, and
each orderflow-deliver that Postfix starts without one. There while it is open, changed when it is opened and when
it is probed; who probes holds an flock on it, which the kernel takes back from a killed process. A clock that was
set back closes nothing for longer than PROBE seconds. Where the file cannot be written every call goes through.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from pathlib import Path

from . import metrics
from .outcomes import DeadlineReached

SLOW = 1.0  # seconds
PROBE = 2.0  # seconds; a failover is over for at most this long before mail goes on
PATIENCE = 40.0  # seconds, more than a call takes, see `limits`
Guard = Callable[[], AbstractContextManager[None]]


class Breaker:
    """Guards the calls to one backend, named in texts by `name`; what it raises is an `error`, as what they raise."""

    def __init__(self, path: Path, name: str, error: type[Exception]):
        self._path, self._name, self._error = path, name, error
        self._void: int | None = None  # the file that could not be removed
        self._went_well = 0.0  # when the latest call began of those that went well

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Guard a call. Raises `error` at once while the breaker is open."""
        # A file object: whatever interrupts us, a signal's exception too, it is closed, and its lock with it.
        probe, is_away, began = self._enter(), False, time.monotonic()
        try:
            yield
            self._went_well = max(self._went_well, began)
        except (self._error, DeadlineReached) as error:
            is_away = not getattr(error, "is_answer", False)
            raise
        finally:
            if is_away:
                metrics.count(metrics.BACKEND_ERRORS, self._name)
            if is_away and time.monotonic() - began > SLOW and began >= self._went_well:
                self._open()
            elif probe is not None:
                self._close(probe)
            if probe is not None:
                probe.close()

    def _enter(self) -> FileIO | None:
        """Let a call through, or raise; give the locked file where the call is the probe."""
        try:
            file = FileIO(self._path, opener=_open_at_once)
        except OSError:  # not there, as a rule
            return None
        with suppress(OSError):
            about = os.fstat(file.fileno())
            if about.st_ino == self._void or not stat.S_ISREG(about.st_mode):
                return None
            age = time.time() - about.st_mtime
            if not 0 <= age < PROBE:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if 0 <= age < PATIENCE:
                        raise
                    return None
                with suppress(OSError):  # another user's
                    os.utime(file.fileno())
                return file
        file.close()
        raise self._error(f"{self._name}: known to be away, tried again within {PROBE:.0f} s")

    def _close(self, probe: FileIO) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError:  # a file system that became read-only: this process at least goes by it no more
            self._void = os.fstat(probe.fileno()).st_ino

    def _open(self) -> None:
        self._void = None
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._path.touch(mode=0o600)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, and wait for nobody at what is none."""
    return os.open(path, flags | os.O_NONBLOCK)
