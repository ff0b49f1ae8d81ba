"""The protocol of deliver.sock, for orderflow-deliver: one connection, one line each way, one delivery.

    service   orderflow 1 LIMIT PATIENCE DIRECTORY     bytes, seconds, the spool to write the entry into
              75 D.S.N text                            instead, where nothing new is taken
    client    NAME                                     an entry that is committed and no longer locked
              health                                   after either greeting
    service   STATUS D.S.N text                        the outcome, for the exit status and output
              {...}                                    the health, as JSON

The greeting holds all that the client needs to know of the settings, so the client reads none. PATIENCE is how long
it waits for its answer. It is longer than the deadline, so that the answer is the service's. A client that disconnects
in between changes nothing: its entry is delivered.
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


class PipeConnection(asyncio.Protocol):
    """One connection of orderflow-deliver."""

    def __init__(self, dispatcher: Dispatcher, uids: frozenset[int]):
        self._dispatcher, self._uids = dispatcher, uids
        self._line = b""
        self._has_request = False
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        uid = peer_uid(transport)
        if uid not in self._uids:
            event("deliver", "Connection to deliver.sock was refused.", WARNING, uid=uid)
            self._transport.abort()
            return
        self._transport.write(self._greeting())
        self._idle = asyncio.get_running_loop().call_later(_IDLE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        if self._has_request:
            return
        self._line += data
        name, end, _ = self._line.partition(b"\n")
        if not end and len(self._line) <= _LINE_LIMIT:
            return
        self._has_request = True
        if self._idle is not None:
            self._idle.cancel()
        if name == b"health":
            self._transport.write(json.dumps(self._dispatcher.health()).encode() + b"\n")
            self._transport.close()
        else:
            self._dispatcher.deliver_spooled(name.decode("ascii", "replace"), self._answer)

    def _greeting(self) -> bytes:
        if self._dispatcher.is_draining or self._dispatcher.is_stuck:
            return _encode_reply(Outcome.OVERLOADED)
        settings = self._dispatcher.settings
        limit, patience = settings.max_message_size, settings.deadline + _GRACE
        return b"%b%d %g %b\n" % (GREETING, limit, patience, os.fsencode(settings.spool_dir))

    def _answer(self, outcome: Outcome) -> None:
        self._transport.write(_encode_reply(outcome))
        self._transport.close()


def _encode_reply(outcome: Outcome) -> bytes:
    return b"%d %s" % (outcome.exit_status, outcome.line)
