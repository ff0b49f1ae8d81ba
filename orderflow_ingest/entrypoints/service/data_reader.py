"""Input of an SMTP session: command lines or a message, in bounded memory.

A command line ends with CR LF. One that is too long, or holds a bare CR, a bare LF or a NUL, is read to its end
and returned as an empty line, which is no command. While unread lines wait, reading from the client is paused.

A message is stored block by block. At its end its bytes are in memory once, and at most one block on the way. Bytes
are reserved in the dispatcher's in-flight budget before they are kept. Beyond the size limit or the budget the kept
bytes are dropped, and the rest is read and not kept: a client only listens to the reply after its end mark.
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
    """A part of the dispatcher's in-flight budget. It may be released twice."""

    def __init__(self, dispatcher: "Dispatcher"):
        self._dispatcher = dispatcher
        self.size = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes in place of those that are reserved. After False none are.

        Those are released first: the dispatcher lets one message alone pass whatever its size.
        """
        self.release()
        if not self._dispatcher.reserve(size):
            return False
        self.size = size
        return True

    def shrink(self, size: int) -> None:
        """Keep no more than `size` bytes."""
        if size < self.size:
            self._dispatcher.release(self.size - size)
            self.size = size

    def release(self) -> None:
        """Release all bytes."""
        self.shrink(0)


class MessageReader:
    """A message that is being received: its bytes, or the outcome that refuses it."""

    def __init__(self, reservation: BudgetReservation, limit: int):
        self.refusal: Outcome | None = None
        self.size = 0
        self._reservation = reservation
        self._limit = limit
        self._kept = BytesIO()
        self._stuffing = DataDecoder()

    def feed(self, block: bytes) -> bytes | None:
        """Take one block. Return what follows the end mark, None before that."""
        content = self._stuffing.feed(block)
        self.size += len(content)
        if self.size > self._limit:
            self.refusal = Outcome.TOO_BIG
        elif not self.refusal and not self._has_room():
            self.refusal = Outcome.OVERLOADED
        if self.refusal:
            self._kept = BytesIO()
            self._reservation.release()
        else:
            self._kept.write(content)
        return self._stuffing.rest

    def _has_room(self) -> bool:
        return self.size <= self._reservation.size or self._reservation.take(min(self.size + _STEP, self._limit))

    def raw(self) -> bytes:
        """Return the message. It is not copied."""
        return self._kept.getvalue()


class InputBuffer:
    """The client's input that has not been read."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport = transport
        self._loop = loop
        self._waiting = bytearray()
        self._is_paused = False
        self._is_skipping = False
        self._reader: MessageReader | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_in_message(self) -> bool:
        """Return whether the next bytes are content and no command."""
        return self._reader is not None

    def feed(self, block: bytes) -> None:
        """Take what the transport has read."""
        if self._reader:
            rest = self._reader.feed(block)
            if rest is None:
                return
            block, self._reader = rest, None
        self._waiting += block
        if len(self._waiting) > _READ_AHEAD and not self._is_paused:
            self._transport.pause_reading()
            self._is_paused = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def readuntil(self) -> bytes:
        """Return the next command line with its CR LF. (aiosmtpd calls it by this name.)"""
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

    async def read_message(self, reader: MessageReader) -> None:
        """Feed `reader` up to the end of the message."""
        self._reader = reader
        pipelined, self._waiting = bytes(self._waiting), bytearray()
        self.feed(pipelined)
        while self._reader:
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
