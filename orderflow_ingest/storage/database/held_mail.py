"""Held mail: its identity is known with other content, or its sender is not to be trusted alone.

Idempotent by UNIQUE (org_id, inbound_message_id, fingerprint), and by (org_id, fingerprint) for what clashes with
no message. A held mail is resolved once. Accepting it records the message in the same transaction.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.states import EventKind, HoldReason

from .connection import Database, whose
from .events import add_events
from .messages import ExistingMessage, Messages
from .rows import Event, HeldMail, Mail, NewMessage, column_values, field_names
from .selection import Filter, begins, held_condition
from .tables import ALONE, OPEN, held_mail, of_any, owned


class IdentityTakenError(OrderflowError):
    """The identity of a held mail that is to become a message is another message's. Nothing was written."""


_COLUMNS = [held_mail.c[name] for name in field_names(HeldMail)]
_OPEN = sa.text(OPEN)


class HeldMails:
    """The table held_mail."""

    def __init__(self, database: Database, messages: Messages):
        self._database = database
        self._messages = messages

    def insert(
        self, known: ExistingMessage | None, new: NewMessage, reason: HoldReason = HoldReason.MESSAGE_ID_REUSED
    ) -> bool:
        """Record `new` as held because of `known` or for another reason. Return False if it is recorded already."""
        values = column_values(new, Mail)
        values |= {"source_message_id": new.source_message_id, "reason": reason.value}
        values["inbound_message_id"] = known and known.id
        statement = self._database.insert(held_mail).values(values).on_conflict_do_nothing()
        with self._database.write(new.org_id) as connection:
            return connection.scalar(statement.returning(held_mail.c.id)) is not None

    def open(self, org_id: int | None = None, ids: tuple[UUID, ...] = (), limit: int = 1000) -> list[HeldMail]:
        """List the held mail that nobody has decided on, the oldest first."""
        c = held_mail.c
        statement = sa.select(*_COLUMNS).where(owned(held_mail, org_id), _OPEN)
        if ids:
            statement = statement.where(c.id.in_(ids))
        with self._database.read(whose(org_id)) as connection:
            return [_held_mail(row) for row in connection.execute(statement.order_by(c.received_at).limit(limit))]

    def alone(self, org_id: int, fingerprint: str) -> HeldMail | None:
        """Find what was held of this content and clashes with no message, whether it is decided or not."""
        found = self._of(org_id, sa.text(ALONE), held_mail.c.fingerprint == fingerprint)
        return found[0] if found else None

    def of_message(self, org_id: int, message_id: UUID) -> list[HeldMail]:
        """List what was held since it clashes with a message, the oldest first."""
        return self._of(org_id, held_mail.c.inbound_message_id == message_id)

    def of_id(self, id: UUID, org_id: int | None = None) -> list[HeldMail]:
        """List what was held under an id, of one organization or of all, whether it is decided or not."""
        mine = owned(held_mail, org_id) if org_id is not None else of_any(held_mail)
        statement = sa.select(*_COLUMNS).where(mine, held_mail.c.id == id)
        with self._database.read(whose(org_id)) as connection:
            return [_held_mail(row) for row in connection.execute(statement)]

    def that_begin(self, org_id: int, digits: str, limit: int) -> list[HeldMail]:
        """List what was held under ids that begin with these hexadecimal digits, whether it is decided or not."""
        return self._of(org_id, begins(held_mail.c.id, digits))[:limit]

    def count_open_by_reason(self, org_id: int | None = None) -> dict[HoldReason, int]:
        """Count the held mails that nobody has decided on, by the reason."""
        c = held_mail.c
        statement = sa.select(c.reason, sa.func.count()).where(owned(held_mail, org_id), _OPEN)
        with self._database.read(whose(org_id)) as connection:
            found = {HoldReason(reason): count for reason, count in connection.execute(statement.group_by(c.reason))}
        return {reason: found.get(reason, 0) for reason in HoldReason}

    def find(self, chosen: Filter, limit: int) -> list[HeldMail]:
        """Find held mail by time, sender, words and Message-ID, the newest first.

        That is what nobody has decided on, and by its Message-ID also what was discarded. Accepted mail is a message.
        """
        c = held_mail.c
        wanted = held_condition(chosen, is_sqlite=self._database.is_sqlite)
        is_left = _OPEN if chosen.message_id is None else c.resolution.is_distinct_from(EventKind.ACCEPTED.value)
        statement = sa.select(*_COLUMNS).where(wanted, is_left).order_by(c.received_at.desc(), c.id).limit(limit)
        with self._database.read(whose(chosen.org_id)) as connection:
            return [_held_mail(row) for row in connection.execute(statement)]

    def resolution(self, org_id: int, id: UUID) -> str | None:
        """Return what was decided on a held mail, or None if nothing was, or it is not there."""
        c = held_mail.c
        with self._database.read(org_id) as connection:
            found: str | None = connection.scalar(sa.select(c.resolution).where(c.org_id == org_id, c.id == id))
        return found

    def count_open(self, org_id: int | None = None) -> int:
        """Count the held mail that nobody has decided on."""
        statement = sa.select(sa.func.count()).select_from(held_mail).where(owned(held_mail, org_id), _OPEN)
        with self._database.read(whose(org_id)) as connection:
            return connection.scalar(statement) or 0

    def resolve(
        self,
        held: HeldMail,
        accepted: NewMessage | None,
        now: datetime,
        event: Event,
        before_commit: Callable[[], None] = lambda: None,
    ) -> bool:
        """Close a held mail, and record `accepted` as a message due now, or False if it is closed already.

        `before_commit` is called when this is settled, while the others that decide on it wait.

        `event`, ACCEPTED or DISCARDED, is written with it, of the held mail and of the message that it becomes. Raises
        IdentityTakenError, and leaves the held mail open, where that message cannot be recorded.
        """
        c = held_mail.c
        close = held_mail.update().where(c.org_id == held.org_id, c.id == held.id, _OPEN)
        with self._database.write(held.org_id) as connection:
            if connection.execute(close.values(resolution=event.kind.value)).rowcount != 1:
                return False
            add_events(connection, [event])
            if accepted is not None:
                if not self._messages.insert_in(connection, accepted, now):
                    raise IdentityTakenError
                add_events(connection, [replace(event, inbound_message_id=accepted.id)])
            before_commit()
            return True

    def _of(self, org_id: int, *wanted: sa.ColumnElement[bool] | sa.TextClause) -> list[HeldMail]:
        c = held_mail.c
        statement = sa.select(*_COLUMNS).where(c.org_id == org_id, *wanted).order_by(c.received_at, c.id)
        with self._database.read(org_id) as connection:
            return [_held_mail(row) for row in connection.execute(statement)]


def _held_mail(row: Any) -> HeldMail:
    return HeldMail(**{**row._mapping, "reason": HoldReason(row.reason)})
