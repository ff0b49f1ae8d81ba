"""Postfix's recipient map, on recipients.sock: one answer for each RCPT TO, by socketmap_table(5).

    Postfix   NETSTRING of: recipients ADDRESS
    service   NETSTRING of: OK SLUG          250: this organization takes mail
                            NOTFOUND         550: the address names no organization that does
                            TEMP REASON      451: it is not known now, see `known_recipients`

A netstring is LENGTH:BYTES, (https://cr.yp.to/proto/netstrings.txt). smtpd(8) asks by proxymap(8), which connects as
Postfix's user from outside the chroot. It looks up the whole address alone, since a socketmap has no partial keys.
Where nobody listens, or a connection ends without an answer, Postfix connects once more, and then answers 451 itself.

Bounds, since the users that may connect are trusted with questions only: a request is at most as long as Postfix's
own, the number of connections is limited, each has one question at a time, and nothing is read while its answers are
not taken. A connection without a complete request for IDLE seconds is closed. Postfix closes its own after 10.
"""

import asyncio
from collections.abc import Collection
from functools import partial
from typing import cast

from orderflow_ingest.domain.addresses import Addresses, ForeignDomainError
from orderflow_ingest.observability.logs import WARNING, event

from .known_recipients import KnownOrganizations
from .peer_credentials import peer_uid

MAP_NAME = b"recipients"
IDLE = 120.0  # seconds
MAX_CONNECTIONS = 1000
_MAX_REQUEST = 10_000 + len(MAP_NAME) + 1  # dict_sockmap.c: a longer key is not asked for
_POLL_INTERVAL = 0.02  # seconds


class MapListener:
    """The listener. Asyncio's create_server() calls it for the protocol of each connection."""

    def __init__(
        self,
        known: KnownOrganizations,
        addresses: Addresses,
        allowed_uids: Collection[int],
        idle: float = IDLE,
        max_connections: int = MAX_CONNECTIONS,
    ):
        self.known, self.addresses, self.allowed_uids = known, addresses, allowed_uids
        self.idle, self.max_connections = idle, max_connections
        self.connections: set[MapConnection] = set()

    def __call__(self) -> "MapConnection":
        return MapConnection(self)

    async def finish(self) -> None:
        """Close the connections that wait for no answer. Postfix connects again, to another instance."""
        while self.connections:
            for connection in tuple(self.connections):
                connection.end_if_idle()
            await asyncio.sleep(_POLL_INTERVAL)


class MapConnection(asyncio.Protocol):
    """One connection of Postfix."""

    def __init__(self, listener: MapListener):
        self._listener = listener
        self._read = bytearray()
        self._pending: asyncio.Future[bool] | None = None
        self._is_paused = False
        self._last_request_at = 0.0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._loop = cast(asyncio.Transport, transport), asyncio.get_running_loop()
        uid = peer_uid(transport)
        if uid not in self._listener.allowed_uids or len(self._listener.connections) >= self._listener.max_connections:
            reason = "too many connections" if uid in self._listener.allowed_uids else "this user may not connect"
            event("recipients", "Connection to recipients.sock was refused.", WARNING, uid=uid, reason=reason)
            self._transport.abort()
            return
        self._listener.connections.add(self)
        self._last_request_at = self._loop.time()
        self._watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()
        self._pending = None  # others may wait for it

    def data_received(self, data: bytes) -> None:
        self._read += data
        self._answer_next()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._answer_next()

    def end_if_idle(self) -> None:
        """Close the connection unless it waits for an answer."""
        if self._pending is None:
            self._transport.close()

    def _answer_next(self) -> None:
        """Answer the requests that have been read, one after the other."""
        while self._pending is None and not self._is_paused and not self._transport.is_closing():
            try:
                request = _take_netstring(self._read)
            except ValueError:
                event("recipients", "Malformed request on recipients.sock.", WARNING)
                self._transport.abort()
                return
            if request is None:
                self._transport.resume_reading()
                return
            self._last_request_at = self._loop.time()
            self._answer(request)
        # Not before more has come: Postfix waits for its answer, and each pause costs two system calls.
        if self._read and not self._transport.is_closing():
            self._transport.pause_reading()

    def _answer(self, request: bytes) -> None:
        name, _, key = request.partition(b" ")
        if name != MAP_NAME:
            self._send(b"PERM no such map")
            return
        slug = self._slug(key)
        if slug is None:
            self._send(b"NOTFOUND ")
        elif self._listener.known.remembers(slug):
            self._send(b"OK " + slug.encode())
        else:
            self._pending = self._listener.known.takes_mail(slug)
            self._pending.add_done_callback(partial(self._on_lookup_done, slug))

    def _slug(self, key: bytes) -> str | None:
        try:
            return self._listener.addresses.slug(key.decode())
        except (ForeignDomainError, UnicodeDecodeError):  # another map's domain, or no address of ours
            return None

    def _on_lookup_done(self, slug: str, lookup: "asyncio.Future[bool]") -> None:
        if self._pending is not lookup:  # the connection has ended
            return
        self._pending = None
        error = lookup.exception()
        if error is not None:
            self._send(b"TEMP " + str(error).encode("ascii", "replace")[:200])
        else:
            self._send(b"OK " + slug.encode() if lookup.result() else b"NOTFOUND ")
        self._answer_next()

    def _send(self, answer: bytes) -> None:
        self._transport.write(b"%d:%b," % (len(answer), answer))

    def _watch_idle(self) -> None:
        """Close the connection where no request has been complete for too long. One timer for all its requests."""
        left = self._last_request_at + self._listener.idle - self._loop.time()
        if left > 0:
            self._idle = self._loop.call_later(left, self._watch_idle)
        else:
            self._transport.abort()


def _take_netstring(read: bytearray) -> bytes | None:
    """Remove the first netstring from `read` and return it. None while it is not complete. Raise ValueError."""
    digits, colon, _ = read[:6].partition(b":")
    if digits and not (digits.isdigit() and len(digits) < 6):
        raise ValueError("no length")
    if not colon:
        if len(read) > 5:
            raise ValueError("no length")
        return None
    start, size = len(digits) + 1, int(digits or b"x")
    if size > _MAX_REQUEST:
        raise ValueError("too long")
    if len(read) <= start + size:
        return None
    if read[start + size] != ord(","):
        raise ValueError("no end")
    request = bytes(read[start : start + size])
    del read[: start + size + 1]
    return request
