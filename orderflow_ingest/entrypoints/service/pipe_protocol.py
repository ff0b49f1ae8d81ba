"""The door for orderflow-deliver, on deliver.sock: one connection, one line each way, one delivery.

    service   orderflow 1 LIMIT PATIENCE DIRECTORY     bytes, seconds, the spool to write the entry into
              75 D.S.N text                            instead, where nothing new is taken
    client    NAME                                     an entry that is committed and not locked any more
              health                                   after either greeting
    service   STATUS D.S.N text                        the outcome, for the exit status and output
              {...}                                    the health, as JSON

What the client needs to know of the settings stands in the greeting, so that it reads no settings. PATIENCE
is how long it waits for its answer: beyond the deadline, where the answer is the service's. A client that is
gone in between changes nothing: its entry is delivered.
"""

import asyncio
import json
import os
from typing import cast

from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.observability.logs import WARNING, event
from orderflow_ingest.storage.spool_entry import GREETING

from .dispatcher import Dispatcher
from .peer_credentials import peer_uid

_GRACE = 10
_LINE_LIMIT = 200
_IDLE = 900.0  # seconds; the longest that a pipe(8) may take to write a message


class PipeDoor(asyncio.Protocol):
    """One connection of a delivery program."""

    def __init__(self, desk: Dispatcher, uids: frozenset[int]):
        self._desk, self._uids = desk, uids
        self._line = b""
        self._is_asked = False
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        uid = peer_uid(transport)
        if uid not in self._uids:
            event("deliver", "A stranger knocked at deliver.sock.", WARNING, uid=uid)
            self._transport.abort()
            return
        self._transport.write(self._greeting())
        self._idle = asyncio.get_running_loop().call_later(_IDLE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_asked:
            return
        self._line += data
        name, end, _ = self._line.partition(b"\n")
        if not end and len(self._line) <= _LINE_LIMIT:
            return
        self._is_asked = True
        if self._idle is not None:
            self._idle.cancel()
        if name == b"health":
            self._transport.write(json.dumps(self._desk.health()).encode() + b"\n")
            self._transport.close()
        else:
            self._desk.settle(name.decode("ascii", "replace"), self._answer)

    def _greeting(self) -> bytes:
        if self._desk.is_draining or self._desk.is_stuck:
            return _said(Outcome.OVERLOADED)
        settings = self._desk.settings
        limit, patience = settings.max_message_size, settings.deadline + _GRACE
        return b"%b%d %g %b\n" % (GREETING, limit, patience, os.fsencode(settings.spool_dir))

    def _answer(self, outcome: Outcome) -> None:
        self._transport.write(_said(outcome))
        self._transport.close()


def _said(outcome: Outcome) -> bytes:
    return b"%d %s" % (outcome.exit_status, outcome.line)
