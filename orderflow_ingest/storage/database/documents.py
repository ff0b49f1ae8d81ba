"""Documents: the parts that were stored, the parts that were skipped, the way to the handler.

Idempotent by UNIQUE (org_id, inbound_message_id, part_path): extracting a message again keeps a
document of the same bytes, with its id and the state of its hand-over, and brings names and types up to
date. Other bytes in the same part are a new document, with a new id. What is not found any more goes. A
document's hand-over is tried, leased and fenced like a message's extraction.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.states import EventKind, HandOver, Status
from orderflow_ingest.parsing.documents.part import PartKind

from .connection import Database, whose
from .events import add_events, add_once
from .messages import Claim, Messages, by_keys
from .rows import Document, Event, InboundMessage, NewDocument, SkippedPart, column_values, field_names
from .selection import Filter, condition, of_document
from .tables import FAILED_HANDOVER, PENDING, document, inbound_message, owned, skipped_part

_LOST = ("ObjectMissing", "ObjectDamaged")  # errors of a document whose object is not what was put


class _AlreadyDoneError(OrderflowError):
    """What a transaction would do has been done by the same run: nothing of it stays."""


_KEPT = ("id", "part_path")
_CONTENT = [name for name in field_names(NewDocument) if name not in _KEPT]
_COLUMNS = [document.c[name] for name in field_names(Document)]
_OWNER = (document.c.org_id, document.c.inbound_message_id)
_OWNED = [column for column in _COLUMNS if column not in set(_OWNER)]


class Documents:
    """The tables document and skipped_part."""

    def __init__(self, database: Database, messages: Messages):
        self._database = database
        self._messages = messages

    def record(
        self,
        attempt: InboundMessage,
        found: list[NewDocument],
        skipped: list[SkippedPart],
        next_attempt_at: datetime,
        *,
        is_complete: bool,
    ) -> bool:
        """Record what an attempt took out of a message, in one transaction, and STORED if that was all.

        False, and nothing is written, if the attempt has lost its lease.
        """
        owner = {"org_id": attempt.org_id, "inbound_message_id": attempt.id}
        with self._database.write(attempt.org_id) as connection:
            if not self._messages.holds(attempt, connection):
                return False
            if is_complete:
                self._messages.move(attempt, Status.STORED, connection)
                self._remove_others(connection, owner, [new.part_path for new in found])
            for new in found:
                self._store(connection, {**owner, **column_values(new), "next_attempt_at": next_attempt_at})
            of_message = [skipped_part.c[name] == value for name, value in owner.items()]
            connection.execute(skipped_part.delete().where(*of_message))
            if skipped:
                connection.execute(skipped_part.insert(), [{**owner, **column_values(part)} for part in skipped])
        return True

    def get(self, org_id: int, id: UUID) -> Document | None:
        """Get one document."""
        statement = sa.select(*_COLUMNS).where(document.c.org_id == org_id, document.c.id == id)
        with self._database.read(org_id) as connection:
            row = connection.execute(statement).one_or_none()
        return _document(row) if row else None

    def of_message(self, org_id: int, message_id: UUID) -> list[Document]:
        """List a message's documents by part path."""
        d = document.c
        statement = sa.select(*_COLUMNS).where(d.org_id == org_id, d.inbound_message_id == message_id)
        with self._database.read(org_id) as connection:
            return [_document(row) for row in connection.execute(statement.order_by(d.part_path))]

    def skipped(self, org_id: int, message_id: UUID) -> list[SkippedPart]:
        """List the parts of a message that were skipped."""
        s = skipped_part.c
        columns = [s[name] for name in field_names(SkippedPart)]
        statement = sa.select(*columns).where(s.org_id == org_id, s.inbound_message_id == message_id)
        with self._database.read(org_id) as connection:
            return [SkippedPart(*row) for row in connection.execute(statement.order_by(s.part_path))]

    def claim(self, org_id: int, id: UUID, worker: str, now: datetime, lease: timedelta) -> Document | None:
        """Begin a hand-over, or None if it is done, in other hands, or not due yet."""
        d, own = document.c, Claim(document, worker, now, lease, self._database.is_odd(document, now))
        statement = (
            document.update()
            # Not in the words of the partial index, which PostgreSQL might read from end to end instead of the key.
            .where(d.org_id == org_id, d.id == id, d.handover.concat("") == HandOver.PENDING.value)
            .where(own.may_begin)
            .values(**own.values)
            .returning(*_COLUMNS)
        )
        with self._database.write(org_id) as connection:
            row = own.of(connection.execute(statement).one_or_none())
        return _document(row) if row else None

    def finish(self, attempt: Document) -> bool:
        """Record that the handler has taken a document, or False if the attempt has lost its lease."""
        return self._end(attempt, EventKind.HANDED_OVER, {}, handover=HandOver.DONE.value, error_json=None)

    def retry_later(self, attempt: Document, error: dict[str, Any], attempts: int, due: datetime) -> bool:
        """Record the failure of an attempt, how many count so far, and when the next one may begin."""
        values = {"error_json": error, "attempts": attempts, "next_attempt_at": due}
        return self._end(attempt, EventKind.ATTEMPT_FAILED, error, **values)

    def give_up(self, attempt: Document, error: dict[str, Any]) -> bool:
        """Record that a document is not handed over any more."""
        return self._end(attempt, EventKind.FAILED, error, handover=HandOver.FAILED.value, error_json=error)

    def replay(self, message: InboundMessage, due: datetime, event: Event) -> bool:
        """Move a message back to RECEIVED and its documents to PENDING, or False if another process moved it.

        The sweep enqueues it from `due` on. `event` is written with it, once by one run: False if that has done it.
        """
        d = document.c
        mine = (d.org_id == message.org_id, d.inbound_message_id == message.id)
        try:
            with self._database.write(message.org_id) as connection:
                if not self._messages.replay_in(connection, message, due):
                    return False
                connection.execute(document.update().where(*mine).values(_pending_again(due)))
                self._add_event(connection, event)
        except _AlreadyDoneError:
            return False
        return True

    def replay_handover(self, seen: list[tuple[Document, Event]], now: datetime, due: datetime) -> list[UUID]:
        """Move documents of one message back to PENDING, with an event. Return the ids of those that had not moved.

        What a worker has in hand is left alone. The sweep enqueues the others from `due` on. A run does it once for a
        message: a second time it returns none.
        """
        d, done = document.c, []
        try:
            with self._database.write({one.org_id for one, _ in seen}) as connection:
                for one, event in seen:
                    statement = (
                        document.update()
                        .where(d.org_id == one.org_id, d.id == one.id, d.handover.concat("") == one.handover.value)
                        .where(d.attempts == one.attempts, d.worker.is_(None) | (d.next_attempt_at <= now))
                        .where(d.erased_at.is_(None))
                    )
                    if connection.execute(statement.values(_pending_again(due))).rowcount == 1:
                        self._add_event(connection, event)
                        done.append(one.id)
        except _AlreadyDoneError:
            return []
        return done

    def of_messages(self, messages: list[InboundMessage], chosen: Filter | None = None) -> dict[UUID, list[Document]]:
        """Return the documents of these messages by their message, all or those that `chosen` selects."""
        if not messages:
            return {}
        statement, values = by_keys(_OWNER, [(message.org_id, message.id) for message in messages], *_OWNED)
        if chosen:
            statement = statement.where(*of_document(chosen, is_sqlite=self._database.is_sqlite))
        found: dict[UUID, list[Document]] = {message.id: [] for message in messages}
        with self._database.read({message.org_id for message in messages}) as connection:
            for row in connection.execute(statement, values):
                found[row.inbound_message_id].append(_document(row))
        return {id: sorted(documents, key=lambda one: one.part_path) for id, documents in found.items()}

    def count(self, chosen: Filter) -> tuple[int, int]:
        """Count the documents that are meant, and their messages."""
        d, t, is_sqlite = document.c, inbound_message.c, self._database.is_sqlite
        both = sa.join(inbound_message, document, sa.and_(d.org_id == t.org_id, d.inbound_message_id == t.id))
        numbers = sa.select(sa.func.count(), sa.func.count(sa.distinct(t.id))).select_from(both)
        with self._database.read(whose(chosen.org_id)) as connection:
            wanted = numbers.where(condition(chosen, is_sqlite=is_sqlite), *of_document(chosen, is_sqlite=is_sqlite))
            documents, messages = connection.execute(wanted).one()
        return documents, messages

    def extract_again(self, message: InboundMessage, due: datetime, event: Event) -> bool:
        """Move a message back to RECEIVED whose documents keep the state of their hand-over, as far as they are there.

        One that FAILED since its object was missing or damaged is PENDING again: it is put again.

        False if another process moved the message, or its raw mail was erased. `event` is written with it.
        """
        with self._database.write(message.org_id) as connection:
            if message.erased_at is not None or not self._messages.replay_in(connection, message, due):
                return False
            d = document.c
            lost = d.error_json["error"].as_string().in_(_LOST)
            mine = (d.org_id == message.org_id, d.inbound_message_id == message.id)
            failed = d.handover == HandOver.FAILED.value
            connection.execute(document.update().where(*mine, failed, lost).values(**_pending_again(due)))
            add_events(connection, [event])
            return True

    def count_undone(self, org_id: int | None = None) -> dict[HandOver, int]:
        """Count the documents that are not handed over: PENDING and FAILED."""
        rows = {HandOver.PENDING: PENDING, HandOver.FAILED: FAILED_HANDOVER}
        # One aggregate for each: a GROUP BY over both would read the whole table.
        counts = [
            sa.select(sa.func.count())
            .select_from(document)
            .where(sa.text(wanted), owned(document, org_id))
            .scalar_subquery()
            for wanted in rows.values()
        ]
        with self._database.read(whose(org_id)) as connection:
            found = connection.execute(sa.select(*counts)).one()
        return dict(zip(rows, found, strict=True))

    def due(self, now: datetime, limit: int) -> list[tuple[int, UUID]]:
        """List documents whose hand-over is due: (org_id, id), see Database.due."""
        return self._database.due("documents", document, PENDING, now, limit)

    def in_hand(self, host: str) -> list[tuple[int, UUID, str]]:
        """List what the workers whose marks begin so have in hand: (org_id, id, worker)."""
        return self._database.in_hand("documents", document, PENDING, host)

    def _end(self, attempt: Document, kind: EventKind, details: dict[str, Any], **values: Any) -> bool:
        d = document.c
        mine = (d.org_id == attempt.org_id, d.id == attempt.id, d.worker == (attempt.worker or ""))
        owner = (attempt.org_id, attempt.inbound_message_id, attempt.worker)
        with self._database.write(attempt.org_id) as connection:
            if connection.execute(document.update().where(*mine).values(worker=None, **values)).rowcount != 1:
                return False
            add_events(connection, [Event.by_worker(*owner, kind, details, attempt.id)])
            return True

    def _add_event(self, connection: sa.Connection, event: Event) -> None:
        """Write an event in the transaction of what it records. Undo all if its run has written it before."""
        if event.run_id is None:
            add_events(connection, [event])
        elif not add_once(self._database, connection, event, event.run_id):
            raise _AlreadyDoneError

    def _store(self, connection: sa.Connection, values: dict[str, Any]) -> None:
        """Insert a document, or bring the one of this part up to date: other bytes are a new document."""
        insert = self._database.insert(document).values(values)
        is_other = document.c.digest != insert.excluded.digest
        fresh = {"handover": HandOver.PENDING.value, "attempts": 0, "worker": None, "error_json": None}
        changes = {name: insert.excluded[name] for name in _CONTENT}
        changes["erased_at"] = sa.null()  # its object has just been put again
        for name in ("id", "next_attempt_at", *fresh):
            column = document.c[name]
            new = sa.literal(fresh[name], column.type) if name in fresh else insert.excluded[name]
            changes[name] = sa.case((is_other, new), else_=column)
        key = ["org_id", "inbound_message_id", "part_path"]
        connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changes))

    def _remove_others(self, connection: sa.Connection, owner: dict[str, Any], paths: list[str]) -> None:
        conditions = [document.c[name] == value for name, value in owner.items()]
        connection.execute(document.delete().where(*conditions, document.c.part_path.not_in(paths)))


def _pending_again(due: datetime) -> dict[str, Any]:
    """Return what a document's row says before it is handed over for the first time."""
    values = {"handover": HandOver.PENDING.value, "attempts": 0, "next_attempt_at": due, "worker": None}
    return {**values, "error_json": None}


def _document(row: Any) -> Document:
    # What the version before wrote has no content type of its own.
    content_type = row.content_type or row.detected_type or row.declared_type
    enums = {"handover": HandOver(row.handover), "kind": PartKind(row.kind)}
    return Document(**{**row._mapping, **enums, "content_type": content_type})
