"""Connections to PostgreSQL that are answered in time, or closed.

The server's own statement timeout ends a slow statement, and the kernel gives up a server that acknowledges nothing.
Neither helps where the server's process hangs and its kernel acknowledges all the same: who asked would wait for ever.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg


class AnsweredConnection(psycopg.Connection[Any]):
    """A connection that is closed when a command is not answered within so many seconds; None: it waits for ever."""

    answer_within: float | None = None

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for a command as psycopg does. Raises psycopg.OperationalError."""
        return super().wait(self._in_time(gen) if self.answer_within else gen, *arguments, **options)

    def _in_time(self, gen: Any) -> Generator[Any, Any, Any]:
        until = time.monotonic() + (self.answer_within or 0)
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() >= until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("no answer in time")
                wanted = gen.send(ready)
        except StopIteration as ended:
            return ended.value
