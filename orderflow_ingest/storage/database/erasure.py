"""Erasure: what rows say of objects that go, and rows that go themselves.

A row is marked before its object is deleted, so that nobody begins anything with it in between: mark() holds the
rows that it has looked at to the end of its transaction, and a replay refuses a row that is marked. What is marked and
was not deleted is found by who lists the archive.

A message that is to go with all it has is taken from the workers first, by take(): for so long as the lease lasts
nobody puts objects for it, and no replay leads it back. Every write can be done twice: it is about rows by their keys,
and those that are gone are no fault.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from .connection import NO_TENANT, Database
from .events import add_events
from .messages import ERASER
from .object_references import Kind, ObjectReference, read_in
from .rows import Event
from .tables import (
    SOURCES,
    UNFINISHED,
    document,
    held_mail,
    inbound_message,
    message_event,
    operator_run,
    organization,
    skipped_part,
)

_CHUNK = 500
_TABLES = {Kind.MESSAGE: inbound_message, Kind.HELD: held_mail, Kind.DOCUMENT: document}


class Erasure:
    """Writes of those who delete objects or rows."""

    def __init__(self, database: Database):
        self._database = database

    def mark(
        self,
        org_id: int,
        rows: Callable[[], Iterable[ObjectReference]],
        is_needed: Callable[[ObjectReference], bool],
        event_of: Callable[[ObjectReference], Event],
    ) -> set[str]:
        """Mark rows as erased, in one transaction, and return the keys of those that no row needs any more.

        `rows` are all the rows of some objects, and are gone through twice. An object that one of them needs by now,
        or another row with the same identity, is left out, and none of its rows is marked.
        """
        keys: set[str] = set()
        blocked: set[str] = set()
        with self._database.write(org_id) as connection:
            for chunk in _chunks(rows()):
                keys |= {one.key for one in chunk}
                for kind in {one.kind for one in chunk}:
                    ids = [one.id for one in chunk if one.kind is kind]
                    ids += _others(connection, org_id, ids) if kind is Kind.MESSAGE else []
                    found = read_in(connection, kind, org_id, ids, lock=True)
                    blocked |= {one.key for one in found if is_needed(one)}
            for chunk in _chunks(one for one in rows() if one.key not in blocked):
                for kind in {one.kind for one in chunk}:
                    _mark(connection, org_id, [one for one in chunk if one.kind is kind], event_of)
        return keys - blocked

    def take(self, org_id: int, ids: list[UUID], now: datetime, lease: timedelta) -> set[UUID]:
        """Take messages from workers and replays for the time of a lease. Give those that a worker has in hand."""
        t = inbound_message.c
        mine = (t.org_id == org_id, t.id.in_(ids))
        values = {"worker": ERASER, "next_attempt_at": now + lease}
        with self._database.write(org_id) as connection:
            in_hand = set(connection.scalars(sa.select(t.id).where(*mine, *_in_hand(now)).with_for_update()))
            free = inbound_message.update().where(*mine, t.id.not_in(in_hand))
            connection.execute(free.values(**values, attempts=sa.func.coalesce(sa.func.nullif(t.attempts, 0), 1)))
        return in_hand

    def unseat(self, org_id: int, now: datetime) -> list[UUID]:
        """Have the attempts that workers have in hand lose their lease, and be made again. Return their messages.

        A worker puts objects before he writes the rows that name them: what he has put may have been deleted since.
        """
        t = inbound_message.c
        statement = inbound_message.update().where(t.org_id == org_id, *_in_hand(now)).returning(t.id)
        with self._database.write(org_id) as connection:
            return list(connection.scalars(statement.values(worker=None, next_attempt_at=now, attempts=t.attempts - 1)))

    def delete_messages(self, org_id: int, ids: list[UUID]) -> int:
        """Delete messages with their documents, skipped parts and events. Return their number.

        A mail that is held since it clashes with one of them stays held, and clashes with nothing from then on.
        """
        t = inbound_message.c
        with self._database.write(org_id) as connection:
            _detach(connection, org_id, ids)
            for table in (document, skipped_part, message_event):
                owned = (table.c.org_id == org_id, table.c.inbound_message_id.in_(ids))
                connection.execute(table.delete().where(*owned))
            return connection.execute(inbound_message.delete().where(t.org_id == org_id, t.id.in_(ids))).rowcount

    def delete_held(self, org_id: int, ids: list[UUID]) -> int:
        """Delete held mail with its events. Return its number."""
        c, e = held_mail.c, message_event.c
        with self._database.write(org_id) as connection:
            connection.execute(message_event.delete().where(e.org_id == org_id, e.inbound_message_id.in_(ids)))
            return connection.execute(held_mail.delete().where(c.org_id == org_id, c.id.in_(ids))).rowcount

    def held_from(self, org_id: int, sender: str, until: datetime) -> list[UUID]:
        """List the mail, held or decided on, received before, from an address by its header or its envelope."""
        c = held_mail.c
        is_from = (sa.func.lower(c.from_email) == sender) | (sa.func.lower(c.envelope_sender) == sender)
        with self._database.read(org_id) as connection:
            return list(connection.scalars(sa.select(c.id).where(c.org_id == org_id, c.received_at < until, is_from)))

    def forget_settings(self, org_id: int) -> None:
        """Let an organization's row say no more than that its address is refused: its name and settings go."""
        o = organization.c
        with self._database.write(NO_TENANT) as connection:
            connection.execute(organization.update().where(o.id == org_id).values(name=o.slug, settings={}))

    def forget_runs(self, word: str) -> int:
        """Blank what operators typed where it names an address. Return the number of such runs."""
        r = operator_run.c
        with self._database.write(NO_TENANT) as connection:
            typed = connection.execute(sa.select(r.id, r.command, r.chosen)).all()
            named = [id for id, command, chosen in typed if word in _plain(command, chosen)]
            for id in named:
                connection.execute(operator_run.update().where(r.id == id).values(command="erased", chosen={}))
        return len(named)


def _in_hand(now: datetime) -> tuple[sa.ColumnElement[bool] | sa.TextClause, ...]:
    t = inbound_message.c
    return sa.text(UNFINISHED), t.worker.is_not(None), t.worker.not_like(f"{ERASER}%"), t.next_attempt_at > now


def _plain(command: str, chosen: dict[str, Any]) -> str:
    """Return what was typed without the shell's quotes around an apostrophe, and without JSON's escapes of letters."""
    return f"{command} {json.dumps(chosen, ensure_ascii=False)}".replace("'\"'\"'", "'").lower()


def _mark(
    connection: sa.Connection, org_id: int, chunk: list[ObjectReference], event_of: Callable[[ObjectReference], Event]
) -> None:
    table = _TABLES[chunk[0].kind]
    events = {one.id: event_of(one) for one in chunk}
    now = next(iter(events.values())).at
    unmarked = (table.c.org_id == org_id, table.c.id.in_(list(events)), table.c.erased_at.is_(None))
    marked = connection.scalars(table.update().where(*unmarked).values(erased_at=now).returning(table.c.id))
    add_events(connection, [events[id] for id in marked])


def _others(connection: sa.Connection, org_id: int, ids: list[UUID]) -> list[UUID]:
    """List the messages of the same identity and object, by mail or upload, that may have come since."""
    mine, other = inbound_message.alias("mine"), inbound_message.alias("other")
    is_same = (other.c.org_id == mine.c.org_id) & (other.c.raw_key == mine.c.raw_key)
    is_same &= other.c.source.in_(SOURCES) & (other.c.source_message_id == mine.c.source_message_id)
    statement = sa.select(other.c.id).select_from(mine).join(other, is_same)
    return list(
        connection.scalars(statement.where(mine.c.org_id == org_id, mine.c.id.in_(ids), other.c.id.not_in(ids)))
    )


def _detach(connection: sa.Connection, org_id: int, ids: list[UUID]) -> None:
    c = held_mail.c
    clashing = sa.select(c.id, c.fingerprint).where(c.org_id == org_id, c.inbound_message_id.in_(ids))
    for id, fingerprint in connection.execute(clashing).all():
        one: tuple[Any, ...] = (c.org_id == org_id, c.id == id)
        alone = (c.org_id == org_id, c.inbound_message_id.is_(None), c.fingerprint == fingerprint)
        if connection.scalar(sa.select(c.id).where(*alone)) is None:
            connection.execute(held_mail.update().where(*one).values(inbound_message_id=None))
        else:  # the very same content is held already
            connection.execute(held_mail.delete().where(*one))


def _chunks(rows: Iterable[ObjectReference]) -> Iterator[list[ObjectReference]]:
    left = iter(rows)
    while chunk := list(islice(left, _CHUNK)):
        yield chunk
