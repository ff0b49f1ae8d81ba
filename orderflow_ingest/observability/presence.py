"""The worker processes of this host and their last sweep, as files below `workers/` in the state directory.

    PID      one for each worker process, which holds an flock on it: the kernel releases it when a process is killed
    swept    its time is that of the last sweep

Every working deployment sweeps each minute, with or without mail. The host that swept last of all is in the queue, see
`Queue.record_sweep`. These files show this host without any server, and to a role that may not read the queue. A
directory that cannot be written changes nothing but that: work goes on.
"""

import fcntl
import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

SWEPT = "swept"
_YOUNG = 60.0  # seconds: such a file may be about to be locked by who has just made it
_held: list[FileIO] = []  # to the end of the process


def announce(directory: Path) -> None:
    """Show for as long as this process lives that it does. Files of dead ones are removed."""
    with suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        own = FileIO(directory / str(os.getpid()), "a")
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held already: another thread of this worker
        os.utime(own.fileno())
        _held.append(own)
        for path in _files(directory):
            if not _is_held(path) and time.time() - path.stat().st_mtime > _YOUNG:
                path.unlink(missing_ok=True)


def record_sweep(directory: Path) -> float:
    """Note that a sweep has ended. Give when, in seconds since 1970."""
    now = time.time()
    with suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / SWEPT).touch(mode=0o600)
        os.utime(directory / SWEPT, (now, now))
    return now


def workers(directory: Path) -> list[int]:
    """List the worker processes of this host that live."""
    return sorted(int(path.name) for path in _files(directory) if _is_held(path))


def last_sweep(directory: Path) -> float | None:
    """Return when a worker of this host swept last, in seconds since 1970, or None if none is known to."""
    try:
        return (directory / SWEPT).stat().st_mtime
    except OSError:
        return None


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*") if path.name.isdigit()]


def _is_held(path: Path) -> bool:
    """Return whether a living process holds the file."""
    try:
        with FileIO(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
