"""The HTTP server of the console and the exporter: waitress, with bounds on connections that bring no request.

    accepted    waits for the first byte of a request, IDLE_TIME seconds
    begun       waits for the rest of it, REQUEST_TIME seconds from its first byte on
    received    the whole request is here; only now a thread works on it
    answered    as accepted, or closed

Guarantees: a connection is closed when its request does not end in time, however steadily its bytes drip. The server
never stops to accept: beyond `max_connections` the connection that has waited longest for its request is closed for
each new one, so that clients that send nothing cannot keep others out. Only a request that was received takes a thread.
A request whose length can be read in two ways is refused with 400, and its connection is closed (RFC 9112, sections 6.1
to 6.3 and 11.2): one with Transfer-Encoding, which no browser and no proxy that buffers sends. One with two values of
Content-Length.

It overrides `maintenance`, `handle_accept`, `received`, `service` and `parse_header` of waitress, which its source
alone documents. Tests of the running program hold each of them.
"""

import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.task import ThreadedTaskDispatcher

from .unix_socket import remove_stale_socket

THREADS = 8
REQUEST_TIME = 20.0  # seconds
IDLE_TIME = 75  # seconds; more than a proxy keeps a connection that it means to use again: 60 for nginx
_MAX_CONNECTIONS = 512  # connections
_OTHER_FILES = 256  # that may be open beside connections: of the database, the queue, the archive
_MAX_LENGTH_DIGITS = 12  # of a Content-Length
_TRANSFER_ENCODING = re.compile(rb"^transfer-encoding:", re.IGNORECASE | re.MULTILINE)
_OPTIONS = {
    "threads": THREADS,
    "ident": "",
    # What is sent to us are forms of a few fields.
    "max_request_body_size": 1 << 16,
    "max_request_header_size": 1 << 15,
    "channel_timeout": IDLE_TIME,  # also for a client that takes nothing of its answer
    "cleanup_interval": 1,
    # Whoever can reach us is on this host: the proxy's word on client and scheme is taken.
    "trusted_proxy": "*",
    "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"},
    "clear_untrusted_proxy_headers": True,
}


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Reads a request. One whose length is not certain is refused."""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the header. Raise ParsingError, which is answered with 400 and the end of the connection."""
        try:
            super().parse_header(header_plus)
        except ParsingError:
            raise
        except ValueError:  # a target or a number that Python's own functions refuse
            raise ParsingError("The request cannot be read") from None
        if _TRANSFER_ENCODING.search(header_plus):  # of HTTP/1.1 the library has taken the field out
            raise ParsingError("Transfer-Encoding is not taken: send Content-Length")
        if len(self.headers.get("CONTENT_LENGTH", "")) > _MAX_LENGTH_DIGITS:
            raise ParsingError("Content-Length is invalid")


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows since when a request, or the rest of one, is waited for."""

    parser_class = _Parser

    def __init__(self, *arguments: Any, **options: Any):
        self.waits_since = time.monotonic()
        super().__init__(*arguments, **options)

    def received(self, data: bytes) -> bool:
        """Take bytes. The first one of a request begins its time."""
        if self.request is None:
            self.waits_since = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer one request. From its end on the next one is waited for."""
        super().service()
        self.waits_since = time.monotonic()

    @property
    def is_working(self) -> bool:
        """Return whether a request is being answered, or waits for a thread."""
        return bool(self.requests)

    @property
    def is_sending(self) -> bool:
        """Return whether the client has not taken all of its answer."""
        return bool(self.total_outbufs_len)


class _Bounded:
    """Bounds the connections of a server, and the time of those that wait."""

    channel_class = _Channel
    active_channels: dict[int, _Channel]
    _map: dict[int, Any]

    def handle_accept(self) -> None:
        """Accept a connection. Beyond the bound another one is closed for it."""
        super().handle_accept()  # type: ignore[misc]
        # Of all servers: a name such as localhost has one for each of its addresses.
        channels = [one for one in self._map.values() if isinstance(one, _Channel)]
        if len(channels) > max_connections():
            waiting = [channel for channel in channels if not channel.is_working]
            # What takes an answer goes last. The new connection is one of them, so that none is left only by a race.
            if waiting:
                min(waiting, key=lambda channel: (channel.is_sending, channel.waits_since)).handle_close()

    def maintenance(self, now: float) -> None:
        """Close what has waited too long. The library's own asks how long ago the last byte came, and no more."""
        super().maintenance(now)  # type: ignore[misc]
        for channel in list(self.active_channels.values()):
            is_late = time.monotonic() - channel.waits_since > REQUEST_TIME
            if is_late and channel.request is not None and not channel.is_working:
                channel.will_close = True


class _Tcp(_Bounded, TcpWSGIServer):  # type: ignore[misc]
    pass


class _Unix(_Bounded, UnixWSGIServer):  # type: ignore[misc]
    pass


def serve(app: Any, address: str, started: Callable[[], None] = lambda: None) -> None:
    """Serve a WSGI application at host:port or unix:/path until SystemExit. Call `started` when it listens.

    Raise OSError where nothing can listen there, SocketInUseError where another program does.
    """
    is_unix = address.startswith("unix:")
    listen: dict[str, Any] = {"listen": address}
    if is_unix:
        remove_stale_socket(Path(address.removeprefix("unix:")))
        listen = {"unix_socket": address.removeprefix("unix:"), "unix_socket_perms": "660"}
    # Our own bound comes first: at this one the library would stop to accept.
    chosen = Adjustments(connection_limit=4 * _MAX_CONNECTIONS, **_OPTIONS, **listen)
    connections: dict[int, Any] = {}
    threads = ThreadedTaskDispatcher()
    threads.set_thread_count(chosen.threads)
    common = {"map": connections, "dispatcher": threads, "adj": chosen}
    if is_unix:
        _Unix(app, **common)
    else:
        for sockinfo in chosen.listen:  # localhost is two addresses
            _Tcp(app, sockinfo=sockinfo, **common)
    started()
    try:
        # poll(2): select(2) knows no file beyond the 1024th.
        wasyncore.loop(timeout=chosen.asyncore_loop_timeout, map=connections, use_poll=True)
    finally:
        threads.shutdown()


def max_connections() -> int:
    """Return how many connections may be open at a time: what the limit of open files leaves, and no more than 512."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(16, min(_MAX_CONNECTIONS, soft - _OTHER_FILES))
