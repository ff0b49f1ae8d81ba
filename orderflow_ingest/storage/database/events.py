"""Events: what happened to a message, in one list that is only added to, and what a row says of its beginning.

An event is written in the transaction of what it records, so that neither is there without the other. RECEIVED and
RECORDED are not written: they are in the message's row. `details` holds counts, reasons and ids, never what a sender
wrote. A mail that is held has events of its own, under its own id.

`actor` is who did it: a worker's name on the row, or an operator's user and host.
"""

import getpass
import os
import socket
from collections.abc import Iterable
from functools import cache
from typing import Any
from uuid import UUID, uuid4, uuid5

import sqlalchemy as sa

from orderflow_ingest.domain.states import EventKind

from .connection import Database, whose
from .rows import Event, column_values, field_names
from .tables import message_event

_COLUMNS = [message_event.c[name] for name in field_names(Event)]


@cache
def operator_name() -> str:
    """Return who runs this program, for the audit trail: user@host, root's caller where sudo names them.

    The same for the life of a process: asked for before it becomes another user.
    """
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the password file
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def add_events(connection: sa.Connection, events: Iterable[Event]) -> None:
    """Add events in the transaction of what they record."""
    rows = [{**column_values(event), "id": uuid4()} for event in events]
    if rows:
        connection.execute(message_event.insert(), rows)


def add_once(database: Database, connection: sa.Connection, event: Event, run_id: UUID) -> bool:
    """Add an event of a run in the transaction of what it records, or False if this run has written it before.

    Idempotent by the key (org_id, id): the id is made of the run, what happened, the message and the document. Of two
    processes that go on with one run, the second waits here for the first, and must undo what it has done.
    """
    same = uuid5(run_id, f"{event.kind.value}/{event.inbound_message_id}/{event.document_id}")
    values = {**column_values(event), "id": same}
    statement = database.insert(message_event).values(values).on_conflict_do_nothing()
    return connection.scalar(statement.returning(message_event.c.id)) is not None


class Events:
    """The table message_event."""

    def __init__(self, database: Database):
        self._database = database

    def of(self, org_id: int, id: UUID) -> list[Event]:
        """List the events that were written of a message or a held mail, the oldest first."""
        e = message_event.c
        statement = sa.select(*_COLUMNS).where(e.org_id == org_id, e.inbound_message_id == id)
        with self._database.read(org_id) as connection:
            return [_event(row) for row in connection.execute(statement.order_by(e.at, e.id))]

    def of_run(self, run_id: UUID, ids: Iterable[UUID], org_id: int | None = None) -> set[UUID]:
        """Return which of these messages a run has an event of already."""
        e = message_event.c
        statement = sa.select(e.inbound_message_id).where(e.run_id == run_id, e.inbound_message_id.in_(tuple(ids)))
        statement = statement.where(e.run_id.is_not(None))
        with self._database.read(whose(org_id)) as connection:
            return set(connection.scalars(statement))

    def count_of_run(self, run_id: UUID) -> int:
        """Count the messages that a run has an event of."""
        e = message_event.c
        mine = sa.select(e.org_id, e.inbound_message_id).where(e.run_id == run_id, e.run_id.is_not(None)).distinct()
        with self._database.read(whose(None)) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(mine.subquery())) or 0


def _event(row: Any) -> Event:
    return Event(**{**row._mapping, "kind": EventKind(row.kind)})
