"""Periodic tasks: what the workers of each host do once a minute, before all tasks that wait in the queue.

They are no rows of the queue. So they wait for no other task, they run while the queue is unavailable, and each host
runs its own. A worker process looks for a due one before it asks the queue for a task, and at least once a second.

The processes of one consumer share some bytes of memory: the time at which each task is due, by the monotonic clock. A
process that runs one holds a lock, which the kernel releases if it is killed. So a task that takes longer than a minute
is not started a second time, and never occupies all workers.
"""

import fcntl
import mmap
import os
import struct
import threading
import time
from contextlib import suppress

INTERVAL = 60.0  # seconds
_TIME = struct.Struct("d")


class PeriodicTasks:
    """The rounds of these names. Made before the processes that share it are forked. The first of each is due now."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._file = os.memfd_create("orderflow-rounds")
        os.ftruncate(self._file, len(names) * _TIME.size)
        self._due = mmap.mmap(self._file, len(names) * _TIME.size)
        self._lock = threading.Lock()
        self._running: dict[str, threading.Thread] = {}  # of this process; a lock of the file binds no thread of it

    def take(self) -> str | None:
        """Return the name of a round that is due and that nobody does. It ends when this thread asks again."""
        me = threading.current_thread()
        with self._lock:
            for name in [name for name, thread in self._running.items() if thread is me or not thread.is_alive()]:
                del self._running[name]
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._names.index(name))
            return next((name for name in self._names if self._start(name, me)), None)

    def postpone(self, name: str, seconds: float) -> None:
        """Let a round be due in so many seconds from now."""
        _TIME.pack_into(self._due, self._names.index(name) * _TIME.size, time.monotonic() + seconds)

    def _start(self, name: str, me: threading.Thread) -> bool:
        number = self._names.index(name)
        if name in self._running or not self._is_due(number):
            return False
        with suppress(BlockingIOError, PermissionError):  # held by another process: lockf(3) knows both
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            if self._is_due(number):
                self.postpone(name, INTERVAL)
                self._running[name] = me
                return True
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return False

    def _is_due(self, number: int) -> bool:
        due: float = _TIME.unpack_from(self._due, number * _TIME.size)[0]
        return due <= time.monotonic()
