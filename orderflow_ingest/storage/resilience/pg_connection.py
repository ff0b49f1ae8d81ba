"""PostgreSQL connections with a response timeout, which prefer the server that accepts writes.

The server's own statement timeout ends a slow statement, and the kernel gives up a server that acknowledges nothing.
Neither helps where the server's process hangs and its kernel acknowledges: the client would wait for ever.

A server that has become a standby, or read-only, keeps its connections and refuses each write in them. The first
refusal closes such a connection, as if the server had ended, so that a pool replaces it. Of several hosts, the one that
accepted the last connection is tried first: a dead and silent host costs each connection its timeout.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.errors import ReadOnlySqlTransaction

from orderflow_ingest.storage import postgresql_url

_latest: dict[str, tuple[str, str]] = {}  # by URL: the host and port that accepted the last connection


class TimeoutConnection(psycopg.Connection[Any]):
    """A connection that closes when a command has no answer within `response_timeout` seconds. None waits for ever."""

    response_timeout: float | None = None

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for a command as psycopg does. Raises psycopg.OperationalError."""
        try:
            return super().wait(self._in_time(gen) if self.response_timeout else gen, *arguments, **options)
        except ReadOnlySqlTransaction:
            self.pgconn.finish()
            raise

    def _in_time(self, gen: Any) -> Generator[Any, Any, Any]:
        until = time.monotonic() + (self.response_timeout or 0)
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


def connect(url: str, parameters: dict[str, Any], response_timeout: float) -> TimeoutConnection:
    """Connect to the first server of a URL that accepts the connection. Raise psycopg.Error."""
    fitted = postgresql_url.with_url(parameters, url)
    try:
        servers = postgresql_url.read(url).servers
    except postgresql_url.PostgresqlUrlError:  # libpq reports what is wrong with it
        servers = ()
    if len(servers) > 1:
        latest = _latest.get(url)
        hosts, ports = zip(*sorted(servers, key=lambda server: server != latest), strict=True)
        fitted |= {"host": ",".join(hosts), "port": ",".join(ports)}
    connection = TimeoutConnection.connect(postgresql_url.libpq(url), **fitted)
    connection.response_timeout = response_timeout
    accepted = connection.info.host, connection.info.port
    _latest[url] = next((server for server in servers if (server[0], int(server[1] or 5432)) == accepted), ("", ""))
    return connection
