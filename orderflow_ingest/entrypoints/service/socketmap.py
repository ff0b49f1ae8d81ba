"""The door for Postfix's recipient map, on recipients.sock: one answer for each RCPT TO, by socketmap_table(5).

    Postfix   NETSTRING of: recipients ADDRESS
    service   NETSTRING of: OK SLUG          250: this organization takes mail
                            NOTFOUND         550: the address names none that does
                            TEMP REASON      451: nobody can say that now, see `known`

A netstring is LENGTH:BYTES, (https://cr.yp.to/proto/netstrings.txt). smtpd(8) asks by proxymap(8), which connects as
Postfix's user from outside the chroot. It looks up the whole address alone, since a socketmap has no parts of keys.
Where nobody listens, or a connection ends without an answer, Postfix connects once more, and then answers 451 itself.

Bounds, for each of the users that may connect is trusted with no more than questions: a request of Postfix's own
length at the most, so many connections at a time, one question of each in hand, and nothing read while its answers
are not taken. A connection that completes no request for IDLE seconds is closed: Postfix closes its own after 10.
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
MOST_CONNECTIONS = 1000
_LONGEST = 10_000 + len(MAP_NAME) + 1  # dict_sockmap.c: a longer key is not asked for
_LOOK = 0.02  # seconds


class MapDoor:
    """The listener: calling it makes the protocol of one connection, for asyncio's create_server()."""

    def __init__(
        self,
        known: KnownOrganizations,
        addresses: Addresses,
        allowed_uids: Collection[int],
        idle: float = IDLE,
        most: int = MOST_CONNECTIONS,
    ):
        self.known, self.addresses, self.allowed_uids, self.idle, self.most = known, addresses, allowed_uids, idle, most
        self.connections: set[MapConnection] = set()

    def __call__(self) -> "MapConnection":
        return MapConnection(self)

    async def finish(self) -> None:
        """Close the connections once they wait for no answer; Postfix connects again, to another instance."""
        while self.connections:
            for connection in tuple(self.connections):
                connection.end_if_idle()
            await asyncio.sleep(_LOOK)


class MapConnection(asyncio.Protocol):
    """One connection of Postfix's."""

    def __init__(self, door: MapDoor):
        self._door = door
        self._read = bytearray()
        self._question: asyncio.Future[bool] | None = None
        self._is_full = False
        self._completed = 0.0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._loop = cast(asyncio.Transport, transport), asyncio.get_running_loop()
        uid = peer_uid(transport)
        if uid not in self._door.allowed_uids or len(self._door.connections) >= self._door.most:
            why = "too many connections" if uid in self._door.allowed_uids else "a stranger"
            event("recipients", "A connection to recipients.sock was closed.", WARNING, uid=uid, reason=why)
            self._transport.abort()
            return
        self._door.connections.add(self)
        self._completed = self._loop.time()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()
        self._question = None  # others may wait for it

    def data_received(self, data: bytes) -> None:
        self._read += data
        self._go_on()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._go_on()

    def end_if_idle(self) -> None:
        """Close the connection unless a question is in hand."""
        if self._question is None:
            self._transport.close()

    def _go_on(self) -> None:
        """Answer what has been read, one question after the other."""
        while self._question is None and not self._is_full and not self._transport.is_closing():
            try:
                request = _taken(self._read)
            except ValueError:
                event("recipients", "A request that is no socketmap's came to recipients.sock.", WARNING)
                self._transport.abort()
                return
            if request is None:
                self._transport.resume_reading()
                return
            self._completed = self._loop.time()
            self._answer(request)
        # Not before more has come: Postfix waits for its answer, and each pause costs two system calls.
        if self._read and not self._transport.is_closing():
            self._transport.pause_reading()

    def _answer(self, request: bytes) -> None:
        name, _, key = request.partition(b" ")
        if name != MAP_NAME:
            self._say(b"PERM no such map")
            return
        slug = self._slug(key)
        if slug is None:
            self._say(b"NOTFOUND ")
        elif self._door.known.remembers(slug):
            self._say(b"OK " + slug.encode())
        else:
            self._question = self._door.known.takes_mail(slug)
            self._question.add_done_callback(partial(self._answered, slug))

    def _slug(self, key: bytes) -> str | None:
        try:
            return self._door.addresses.slug(key.decode())
        except (ForeignDomainError, UnicodeDecodeError):  # another map's domain, or no address of ours
            return None

    def _answered(self, slug: str, question: "asyncio.Future[bool]") -> None:
        if self._question is not question:  # the connection has ended
            return
        self._question = None
        why = question.exception()
        if why is not None:
            self._say(b"TEMP " + str(why).encode("ascii", "replace")[:200])
        else:
            self._say(b"OK " + slug.encode() if question.result() else b"NOTFOUND ")
        self._go_on()

    def _say(self, answer: bytes) -> None:
        self._transport.write(b"%d:%b," % (len(answer), answer))

    def _wait(self) -> None:
        """Close the connection unless a further request is complete in time.

        One timer for all its requests: it looks when the latest was complete.
        """
        left = self._completed + self._door.idle - self._loop.time()
        if left > 0:
            self._idle = self._loop.call_later(left, self._wait)
        else:
            self._transport.abort()


def _taken(read: bytearray) -> bytes | None:
    """Take the first netstring out of what was read; None while it is not whole. Raise ValueError for anything else."""
    digits, colon, _ = read[:6].partition(b":")
    if digits and not (digits.isdigit() and len(digits) < 6):
        raise ValueError("no length")
    if not colon:
        if len(read) > 5:
            raise ValueError("no length")
        return None
    start, size = len(digits) + 1, int(digits or b"x")
    if size > _LONGEST:
        raise ValueError("too long")
    if len(read) <= start + size:
        return None
    if read[start + size] != ord(","):
        raise ValueError("no end")
    request = bytes(read[start : start + size])
    del read[: start + size + 1]
    return request
