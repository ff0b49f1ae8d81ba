"""SMTP input: what a session's client has sent, as command lines or as a message, in bounded memory.

A command line ends with CR LF. One that is too long, or holds a bare CR, a bare LF or a NUL, is read to its end
and given as an empty line, which is no command. While lines wait that nobody has read, the client's writing is
paused.

A message is taken block by block as it comes, without a copy of its own of it waiting anywhere: at its end there
are its bytes once, and at most one block on the way. Its bytes are held against the desk's in-flight budget before
they are kept. Where they are over the limit or the budget, what was kept is dropped, and the rest is read and
not kept: only the reply after the end mark is one that a client listens to.
"""

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING

from orderflow_ingest.domain.outcomes import Outcome

from .dot_stuffing import DataDecoder

if TYPE_CHECKING:
    from .dispatcher import Dispatcher

_LINE_LIMIT = 2048  # RFC 5321 has 512, SMTPUTF8, SIZE and the rest of the parameters come on top
_READ_AHEAD = 65536
_STEP = 262144
_NO_COMMAND = b"\r\n"


class BudgetReservation:
    """A part of the desk's in-flight budget; releasing twice is releasing once."""

    def __init__(self, desk: "Dispatcher"):
        self._desk = desk
        self.size = 0

    def take(self, size: int) -> bool:
        """Hold `size` bytes in place of what is held; on False nothing is held.

        What is held is given back first: the desk lets one message alone pass whatever its size.
        """
        self.release()
        if not self._desk.reserve(size):
            return False
        self.size = size
        return True

    def shrink(self, size: int) -> None:
        """Hold no more than `size` bytes."""
        if size < self.size:
            self._desk.free(self.size - size)
            self.size = size

    def release(self) -> None:
        """Give back what is held."""
        self.shrink(0)


class MessageReader:
    """A message on its way in: its bytes, or the outcome that refuses it."""

    def __init__(self, hold: BudgetReservation, limit: int):
        self.refusal: Outcome | None = None
        self.size = 0
        self._hold = hold
        self._limit = limit
        self._kept = BytesIO()
        self._stuffing = DataDecoder()

    def feed(self, block: bytes) -> bytes | None:
        """Take one block; give what came after the end mark, None while that has not come."""
        content = self._stuffing.feed(block)
        self.size += len(content)
        if self.size > self._limit:
            self.refusal = Outcome.TOO_BIG
        elif not self.refusal and not self._is_held():
            self.refusal = Outcome.OVERLOADED
        if self.refusal:
            self._kept = BytesIO()
            self._hold.release()
        else:
            self._kept.write(content)
        return self._stuffing.rest

    def _is_held(self) -> bool:
        return self.size <= self._hold.size or self._hold.take(min(self.size + _STEP, self._limit))

    def raw(self) -> bytes:
        """Give the message; shared with what is kept here, not a copy."""
        return self._kept.getvalue()


class InputBuffer:
    """What the client has sent and nobody has taken."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport = transport
        self._loop = loop
        self._waiting = bytearray()
        self._is_paused = False
        self._is_skipping = False
        self._intake: MessageReader | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_in_message(self) -> bool:
        """Tell whether what comes next is content and not a command."""
        return self._intake is not None

    def feed(self, block: bytes) -> None:
        """Take what the transport has read."""
        if self._intake:
            rest = self._intake.feed(block)
            if rest is None:
                return
            block, self._intake = rest, None
        self._waiting += block
        if len(self._waiting) > _READ_AHEAD and not self._is_paused:
            self._transport.pause_reading()
            self._is_paused = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def readuntil(self) -> bytes:
        """Give the next command line with its CR LF. (The name is the one that aiosmtpd calls.)"""
        while self._transport.is_closing():
            await self._more()  # commands after QUIT or a 421; the end of the connection cancels this
        while (end := self._waiting.find(b"\r\n")) < 0:
            if len(self._waiting) > _LINE_LIMIT:
                self._is_skipping = True
                del self._waiting[:-1]  # the last byte may be the CR
            await self._more()
        line = bytes(self._waiting[: end + 2])
        del self._waiting[: end + 2]
        is_bad = self._is_skipping or end > _LINE_LIMIT or any(byte in line[:-2] for byte in b"\r\n\0")
        self._is_skipping = False
        return _NO_COMMAND if is_bad else line

    async def read_message(self, intake: MessageReader) -> None:
        """Fill `intake` up to the end of the message."""
        self._intake = intake
        pipelined, self._waiting = bytes(self._waiting), bytearray()
        self.feed(pipelined)
        while self._intake:
            await self._more()

    async def _more(self) -> None:
        if self._is_paused:
            self._transport.resume_reading()
            self._is_paused = False
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
