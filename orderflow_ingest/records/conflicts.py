"""Conflicts: mail that was held, since its identity is known with other content.

Idempotent by UNIQUE (org_id, inbound_message_id, fingerprint). A conflict is resolved once; accepting it
records the message in the same transaction.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from .database import Database, whose
from .messages import Known, Mail, Messages, NewMessage
from .tables import OPEN, message_conflict, owned


@dataclass(frozen=True)
class Conflict(Mail):
    """A mail that is held, and the message whose identity it has."""

    inbound_message_id: UUID


_MAIL = [field.name for field in fields(Mail)]
_OPEN = sa.text(OPEN)


class Conflicts:
    """The table message_conflict."""

    def __init__(self, database: Database, messages: Messages):
        self._database = database
        self._messages = messages

    def insert(self, known: Known, new: NewMessage) -> bool:
        """Record `new` as held, since it clashes with `known`; False if it is there already."""
        values = {name: getattr(new, name) for name in _MAIL} | {"inbound_message_id": known.id}
        statement = self._database.insert(message_conflict).values(values).on_conflict_do_nothing()
        with self._database.write(new.org_id) as connection:
            return connection.scalar(statement.returning(message_conflict.c.id)) is not None

    def open(self, org_id: int | None = None, ids: tuple[UUID, ...] = (), limit: int = 1000) -> list[Conflict]:
        """List the conflicts that nobody has resolved, the oldest first."""
        c = message_conflict.c
        columns = [c[field.name] for field in fields(Conflict)]
        statement = sa.select(*columns).where(owned(message_conflict, org_id), _OPEN)
        if ids:
            statement = statement.where(c.id.in_(ids))
        with self._database.read(whose(org_id)) as connection:
            return [Conflict(*row) for row in connection.execute(statement.order_by(c.received_at).limit(limit))]

    def count_open(self, org_id: int | None = None) -> int:
        """Count the conflicts that nobody has resolved."""
        statement = (
            sa.select(sa.func.count()).select_from(message_conflict).where(owned(message_conflict, org_id), _OPEN)
        )
        with self._database.read(whose(org_id)) as connection:
            return connection.scalar(statement) or 0

    def resolve(self, conflict: Conflict, resolution: str, accepted: NewMessage | None, now: datetime) -> bool:
        """Close a conflict, and record `accepted` as a message due now; False if it is closed already."""
        c = message_conflict.c
        close = message_conflict.update().where(c.org_id == conflict.org_id, c.id == conflict.id, _OPEN)
        with self._database.write(conflict.org_id) as connection:
            if connection.execute(close.values(resolution=resolution)).rowcount != 1:
                return False
            if accepted is not None:
                self._messages.insert_in(connection, accepted, now)
            return True
