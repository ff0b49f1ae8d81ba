"""Inbound messages: identity, status, and who is at work on one.

Idempotent by UNIQUE (org_id, source, source_message_id): a second insert writes nothing and says so.

An attempt is taken by one UPDATE: it counts up `attempts`, moves `next_attempt_at` to the lease's end
and writes a token into `worker`, where nobody else holds the message. All that the attempt writes later
names that token, so that a worker that was thought lost and is not writes nothing any more.
"""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Self
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.states import UNFINISHED, EventKind, Status, allowed_from
from orderflow_ingest.storage.resilience.cached_measurement import CachedMeasurement
from orderflow_ingest.storage.resilience.group_commit import GroupCommit

from .connection import Database, DatabaseUnavailable, whose
from .events import add_events
from .rows import Event, InboundMessage, NewMessage, column_values, field_names
from .selection import Cursor, Filter, WordSearchPlan, condition, plan_word_search, stands_at
from .tables import FAILED, UtcDateTime, held_mail, inbound_message, owned
from .tables import UNFINISHED as UNFINISHED_ROWS

_LAG_SECONDS = 5.0


@dataclass(frozen=True)
class ExistingMessage:
    """What is known of an identity: the message's row, and the digests under each fingerprint, the message's first.

    Of a mail that is held and clashes with nothing: its row, and its own digest (`is_message` is false).
    """

    id: UUID
    digests: dict[str, str]
    is_message: bool = True

    @classmethod
    def from_held(cls, id: UUID, fingerprint: str, digest: str) -> Self:
        """Return what is known of a mail that is held by itself."""
        return cls(id, {fingerprint: digest}, is_message=False)

    def is_held(self, fingerprint: str) -> bool:
        """Return whether a mail of this content is held, and is not the message."""
        return fingerprint in self.digests and not (self.is_message and fingerprint == next(iter(self.digests)))


_COLUMNS = [inbound_message.c[name] for name in field_names(InboundMessage)]
_KEY = (inbound_message.c.org_id, inbound_message.c.id)
_KEYED = [column for column in _COLUMNS if column not in set(_KEY)]
_IDENTITY = (inbound_message.c.org_id, inbound_message.c.source, inbound_message.c.source_message_id)
_OWNER = (held_mail.c.org_id, held_mail.c.inbound_message_id)


@cache
def _by_keys(key: tuple[sa.Column[Any], ...], number: int, *more: sa.Column[Any]) -> sa.Select[Any]:
    """Make the query for the rows of so many keys, once: making it costs more than asking it.

    An OR of whole keys, which both databases look up in the index. SQLite scans the table for an IN of rows.
    """
    whole = (sa.and_(*(column == sa.bindparam(f"{column.name}_{n}") for column in key)) for n in range(number))
    return sa.select(*key, *more).where(sa.or_(*whole))


def by_keys(
    key: tuple[sa.Column[Any], ...], values: list[Any], *more: sa.Column[Any]
) -> tuple[sa.Select[Any], dict[str, Any]]:
    """Return the query for the rows of these keys, and its parameters."""
    number = 1 << (len(values) - 1).bit_length()  # few sizes, so that few queries are made
    padded = values + values[-1:] * (number - len(values))
    named = {f"{c.name}_{n}": value for n, one in enumerate(padded) for c, value in zip(key, one, strict=True)}
    return _by_keys(key, number, *more), named


def _found(connection: sa.Connection, key: tuple[sa.Column[Any], ...], values: list[Any], *more: sa.Column[Any]) -> Any:
    """Find the rows of these keys."""
    return connection.execute(*by_keys(key, values, *more))


class Messages:
    """The table inbound_message. `recent_lag` is lag() of now, asked for every few seconds at the most."""

    def __init__(self, database: Database):
        self._database = database
        self.recent_lag = CachedMeasurement(
            lambda: self.lag(database.now()), _LAG_SECONDS, 0.0, errors=(DatabaseUnavailable,)
        )
        self._find = GroupCommit(self._find_all, shared=(DatabaseUnavailable,), owner=lambda identity: identity[0])
        self._insert = GroupCommit(self._insert_all, shared=(DatabaseUnavailable,), owner=lambda row: row[0].org_id)
        self._new_row = database.insert(inbound_message).on_conflict_do_nothing().returning(inbound_message.c.id)

    def find_identity(self, org_id: int, source: str, source_message_id: str) -> ExistingMessage | None:
        """Look up an identity: the message of this id and the held mail that clashes with it."""
        return self._find((org_id, source, source_message_id))

    def _find_all(self, identities: list[tuple[int, str, str]]) -> list[ExistingMessage | None]:
        t, c = inbound_message.c, held_mail.c
        known: dict[tuple[int, UUID], ExistingMessage] = {}
        found: dict[tuple[int, str, str], ExistingMessage] = {}
        with self._database.read({org_id for org_id, _, _ in identities}) as connection:
            for *identity, id, fingerprint, digest in _found(
                connection, _IDENTITY, identities, t.id, t.fingerprint, t.digest
            ):
                one = ExistingMessage(id, {fingerprint: digest})
                found[tuple(identity)] = known[identity[0], id] = one
            if known:  # asked of those alone that are known: new mail clashes with nothing
                for org_id, id, fingerprint, digest in _found(connection, _OWNER, list(known), c.fingerprint, c.digest):
                    known[org_id, id].digests[fingerprint] = digest
        return [found.get(identity) for identity in identities]

    def insert(self, new: NewMessage, next_attempt_at: datetime, event: Event | None = None) -> bool:
        """Record a message as RECEIVED, with an event, or False if its identity or id is taken (unique constraints)."""
        return self._insert((new, next_attempt_at, event))

    def insert_in(self, connection: sa.Connection, new: NewMessage, next_attempt_at: datetime) -> bool:
        """Record a message in a transaction that is there already."""
        return self._insert_into(connection, [(new, next_attempt_at, None)])[0]

    def _insert_all(self, rows: list[tuple[NewMessage, datetime, Event | None]]) -> list[bool]:
        with self._database.write({new.org_id for new, _, _ in rows}) as connection:
            return self._insert_into(connection, rows)

    def _insert_into(
        self, connection: sa.Connection, rows: list[tuple[NewMessage, datetime, Event | None]]
    ) -> list[bool]:
        received = Status.RECEIVED.value
        values = [{**column_values(new), "status": received, "next_attempt_at": due} for new, due, _ in rows]
        # In one order: two processes that insert the same identities in different ones would wait for each other.
        values.sort(key=lambda row: (row["org_id"], row["source"], row["source_message_id"]))
        found = set(connection.scalars(self._new_row, values))
        is_new = []
        for new, _, _ in rows:  # of the same mail twice, whose id is one, the first alone is new
            is_new.append(new.id in found)
            found.discard(new.id)
        add_events(connection, [event for (_, _, event), new in zip(rows, is_new, strict=True) if event and new])
        return is_new

    def get(self, org_id: int, id: UUID) -> InboundMessage | None:
        """Get one message."""
        with self._database.read(org_id) as connection:
            row = _found(connection, _KEY, [(org_id, id)], *_KEYED).one_or_none()
        return _message(row) if row else None

    def select(self, chosen: Filter, limit: int, after: InboundMessage | Cursor | None = None) -> list[InboundMessage]:
        """Select messages, the newest first. `after` the last one of the page before, or its place."""
        t = inbound_message.c
        with self._database.read(whose(chosen.org_id)) as connection:
            by = WordSearchPlan() if self._database.is_sqlite else plan_word_search(chosen, connection)
            wanted = condition(chosen, by, is_sqlite=self._database.is_sqlite)
            if after is not None:
                wanted &= sa.tuple_(t.received_at, t.id) < sa.tuple_(after.received_at, after.id)
            newest = t.received_at.desc()
            if chosen.is_of_most and by.is_as_it_came:
                newest = newest.nulls_last()  # the order of the index over all organizations, and of no other
            statement = sa.select(*_COLUMNS).where(wanted).order_by(newest, t.id.desc()).limit(limit)
            return [_message(row) for row in connection.execute(statement)]

    def count(self, chosen: Filter) -> int:
        """Count messages."""
        with self._database.read(whose(chosen.org_id)) as connection:
            statement = (
                sa.select(sa.func.count())
                .select_from(inbound_message)
                .where(condition(chosen, is_sqlite=self._database.is_sqlite))
            )
            return connection.scalar(statement) or 0

    def count_by_status(self, since: datetime, org_id: int | None = None) -> dict[Status, int]:
        """Count messages by status. PARSED is the whole history, so of these the ones received since a time count."""
        t, mine = inbound_message.c, owned(inbound_message, org_id)
        parsed = (t.status == Status.PARSED.value) & (t.received_at >= since)
        # One SELECT for each index: over all at once, the whole table would be read.
        of_index = [
            sa.select(t.status, sa.func.count()).where(rows, mine).group_by(t.status)
            for rows in (sa.text(UNFINISHED_ROWS), sa.text(FAILED), parsed)
        ]
        with self._database.read(whose(org_id)) as connection:
            found = {Status(name): int(number) for name, number in connection.execute(sa.union_all(*of_index))}
        return {status: found.get(status, 0) for status in Status}

    def oldest_unfinished(self, org_id: int | None = None) -> datetime | None:
        """Return when the oldest message came that is neither PARSED nor FAILED."""
        t = inbound_message.c
        # Grouped, or PostgreSQL takes the minimum from an index on received_at: through all history from its far end.
        statement = sa.select(sa.func.min(t.received_at)).group_by(t.status)
        with self._database.read(whose(org_id)) as connection:
            chosen = statement.where(sa.text(UNFINISHED_ROWS), owned(inbound_message, org_id))
            return min(connection.scalars(chosen), default=None)

    def lag(self, now: datetime) -> float:
        """Return for how many seconds the longest-due unfinished message has been overdue, or 0 if none is.

        It is about all tenants, and returns a time alone: on PostgreSQL by a function of the owner's. A database that
        does not answer within a moment, or not for all tenants, raises DatabaseUnavailable, and no breaker opens for
        it.
        """
        t, is_odd = inbound_message.c, self._database.is_odd(inbound_message, now)
        since: list[Any] = [sa.select(sa.func.min(t.next_attempt_at)).where(sa.text(UNFINISHED_ROWS))]
        if not self._database.is_sqlite:
            since = [sa.select(sa.func.orderflow_overdue_since(type_=UtcDateTime))]
        elif is_odd is not None:  # its times are by a clock of a host, which may have been wrong
            since.append(sa.select(sa.func.min(t.received_at)).where(sa.text(UNFINISHED_ROWS), is_odd))
        with self._database.glance() as connection:
            found: list[datetime | None] = [connection.scalar(statement) for statement in since]
        return max((0.0, *((now - due).total_seconds() for due in found if due)))

    def claim(self, org_id: int, id: UUID, worker: str, now: datetime, lease: timedelta) -> InboundMessage | None:
        """Begin an attempt, or None if the message is finished, in other hands, or not due yet."""
        is_odd = self._database.is_odd(inbound_message, now)
        t, own = inbound_message.c, Claim(inbound_message, worker, now, lease, is_odd)
        statement = (
            inbound_message.update()
            .where(t.org_id == org_id, t.id == id, stands_at(UNFINISHED))
            .where(own.may_begin)
            .values(**own.values)
            .returning(*_COLUMNS)
        )
        with self._database.write(org_id) as connection:
            row = own.of(connection.execute(statement).one_or_none())
        return _message(row) if row else None

    def move(self, attempt: InboundMessage, target: Status, connection: sa.Connection | None = None) -> bool:
        """Move the message of an attempt on to STORED, or False if the attempt has lost its lease."""
        return self._update(attempt, target, {}, connection=connection)

    def finish(self, attempt: InboundMessage, details: dict[str, Any]) -> bool:
        """Move the message of an attempt to PARSED, with an event, or False if the attempt has lost its lease."""
        done = {"worker": None, "error_json": None}
        return self._update(attempt, Status.PARSED, done, (EventKind.EXTRACTED, details))

    def holds(self, attempt: InboundMessage, connection: sa.Connection) -> bool:
        """Return whether an attempt has its lease still, and make sure of it to the end of the transaction."""
        return self._update(attempt, None, {"worker": attempt.worker}, connection=connection)

    def retry_later(self, attempt: InboundMessage, error: dict[str, Any], attempts: int, due: datetime) -> bool:
        """Record the failure of an attempt, how many count so far, and when the next one may begin."""
        values = {"worker": None, "error_json": error, "attempts": attempts, "next_attempt_at": due}
        return self._update(attempt, None, values, (EventKind.ATTEMPT_FAILED, error))

    def give_up(self, attempt: InboundMessage, error: dict[str, Any]) -> bool:
        """Move the message of an attempt to FAILED."""
        values = {"worker": None, "error_json": error}
        return self._update(attempt, Status.FAILED, values, (EventKind.FAILED, error))

    def replay_in(self, connection: sa.Connection, message: InboundMessage, due: datetime) -> bool:
        """Move a message back to RECEIVED, to be extracted again, or False if another process moved or erased it."""
        t = inbound_message.c
        values = {"status": Status.RECEIVED.value, "attempts": 0, "next_attempt_at": due, "worker": None}
        statement = (
            inbound_message.update()
            .where(t.org_id == message.org_id, t.id == message.id)
            .where(stands_at((message.status,)), t.attempts == message.attempts, t.erased_at.is_(None))
            .where(stands_at(allowed_from(Status.RECEIVED)))
            .where(t.worker.is_(None) | t.worker.not_like(f"{ERASER}%") | (t.next_attempt_at <= due))
            .values(**values, error_json=None)
        )
        return connection.execute(statement).rowcount == 1

    def due(self, now: datetime, limit: int) -> list[tuple[int, UUID]]:
        """List unfinished messages whose next attempt is due: (org_id, id), see Database.due."""
        return self._database.due("messages", inbound_message, UNFINISHED_ROWS, now, limit)

    def in_hand(self, host: str) -> list[tuple[int, UUID, str]]:
        """List what the workers whose marks begin so have in hand: (org_id, id, worker)."""
        return self._database.in_hand("messages", inbound_message, UNFINISHED_ROWS, host)

    def _update(
        self,
        attempt: InboundMessage,
        target: Status | None,
        values: dict[str, Any],
        event: tuple[EventKind, dict[str, Any]] | None = None,
        connection: sa.Connection | None = None,
    ) -> bool:
        t = inbound_message.c
        allowed = allowed_from(target) if target else UNFINISHED
        statement = (
            inbound_message.update()
            .where(t.org_id == attempt.org_id, t.id == attempt.id, t.worker == (attempt.worker or ""))
            .where(stands_at(allowed))
            .values(**values, **({"status": target.value} if target else {}))
        )
        if connection is not None:
            return connection.execute(statement).rowcount == 1
        with self._database.write(attempt.org_id) as own:
            is_done = own.execute(statement).rowcount == 1
            if is_done and event:
                add_events(own, [Event.by_worker(attempt.org_id, attempt.id, attempt.worker, *event)])
            return is_done


class Claim:
    """What an attempt writes on a row when it begins, and whether it may begin.

    What `is_odd` was written by a clock that was wrong, see Database.is_odd. It is due, but for what a worker has in
    hand: that one gets a lease by today's clock, and is nobody else's before its end.
    """

    def __init__(
        self, table: sa.Table, worker: str, now: datetime, lease: timedelta, is_odd: sa.ColumnElement[bool] | None
    ):
        t = table.c
        self._mark = token(worker)
        self.may_begin: sa.ColumnElement[bool] = (t.attempts == 0) | (t.next_attempt_at <= now)
        self.values: dict[str, Any] = {"attempts": t.attempts + 1, "next_attempt_at": now + lease, "worker": self._mark}
        if is_odd is not None:
            begins = self.may_begin | (is_odd & t.worker.is_(None))
            self.values["attempts"] = sa.case((begins, t.attempts + 1), else_=t.attempts)
            self.values["worker"] = sa.case((begins, self._mark), else_=t.worker)
            self.may_begin |= is_odd

    def of(self, row: Any) -> Any:
        """Return the row if the attempt has begun."""
        return row if row is not None and row.worker == self._mark else None


ERASER = "erase/"  # the mark of who erases a message


def token(worker: str) -> str:
    """Make the mark of one attempt out of the worker's name."""
    return f"{worker}/{os.urandom(4).hex()}"


def _message(row: Any) -> InboundMessage:
    return InboundMessage(**{**row._mapping, "status": Status(row.status)})
