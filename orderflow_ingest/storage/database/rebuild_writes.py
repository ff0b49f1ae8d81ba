"""Rows made again from what the archive says: organizations, and messages with their documents, whole or not at all.

Idempotent by the ids, which come out of the archive, and by the unique identities: existing rows stay as it
is, and is counted as such. A message comes with its documents and an event of its own in one transaction of several
mails, so that one that is there is there whole.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import exc

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.states import HandOver, HoldReason, Status

from .connection import NO_TENANT, Database
from .events import add_events
from .rows import Event, Mail, NewDocument, NewMessage, SkippedPart, column_values, field_names
from .tables import document, held_mail, inbound_message, organization, skipped_part


@dataclass(frozen=True)
class OrganizationRecord:
    """All of an organization's row that is not a time."""

    id: int
    slug: str
    name: str
    is_active: bool
    settings: dict[str, Any] = field(default_factory=dict)


class OrganizationMismatchError(OrderflowError):
    """The database has another organization of this id, or this one under another id: mail would get mixed up."""


@dataclass(frozen=True)
class RebuiltMessage:
    """A message as it was: its documents, what was skipped, and how far it is."""

    new: NewMessage
    status: Status
    handover: HandOver
    due: datetime
    event: Event
    documents: tuple[NewDocument, ...] = ()
    skipped: tuple[SkippedPart, ...] = ()
    error_json: dict[str, Any] | None = None
    erased_at: dict[str, datetime] = field(default_factory=dict)  # by digest


@dataclass(frozen=True)
class RebuiltHeld:
    """A mail that is held or was, the identity that it clashes with, and the message that an operator made of it."""

    new: NewMessage
    reason: HoldReason
    resolution: str | None
    event: Event
    accepted: RebuiltMessage | None = None


class Presence(StrEnum):
    """What became of a mail of the archive."""

    BACK = "messages that came back"
    HELD_BACK = "held mails that came back"
    THERE = "there already"
    COPY = "copies of a message, by another delivery of it"
    CLASH = "held, since which of two is the message is not known"


class RebuildWrites:
    """Writes rows that were there before. An operator's alone."""

    def __init__(self, database: Database):
        self._database = database

    def organization_records(self) -> list[OrganizationRecord]:
        """List all organizations as their rows are, by id."""
        columns = [organization.c[name] for name in field_names(OrganizationRecord)]
        with self._database.read(NO_TENANT) as connection:
            return [
                OrganizationRecord(*row) for row in connection.execute(sa.select(*columns).order_by(organization.c.id))
            ]

    def organization_record(self, slug: str) -> OrganizationRecord | None:
        """Get an organization as its row is."""
        return next((org for org in self.organization_records() if org.slug == slug), None)

    def has_organization(self, org: OrganizationRecord) -> bool:
        """Return whether an organization is there under its id. Raise OrganizationMismatchError."""
        o = organization.c
        with self._database.read(NO_TENANT) as connection:
            found = connection.execute(sa.select(o.id, o.slug).where((o.id == org.id) | (o.slug == org.slug))).all()
        if any((row.id, row.slug) != (org.id, org.slug) for row in found):
            known = ", ".join(f"{row.slug} has id {row.id}" for row in found)
            raise OrganizationMismatchError(f"in the archive {org.slug} has id {org.id}, in the database {known}")
        return bool(found)

    def add_organization(self, org: OrganizationRecord) -> bool:
        """Add an organization under its id, or False if it is there. Raise OrganizationMismatchError."""
        if self.has_organization(org):
            return False
        try:
            with self._database.write(NO_TENANT) as connection:
                connection.execute(organization.insert().values(column_values(org)))
                if not self._database.is_sqlite:
                    # The next one that is added must not be given an id that the archive knows.
                    connection.exec_driver_sql(_NEXT_ID)
        except exc.IntegrityError as error:
            raise OrganizationMismatchError(f"{org.slug}, id {org.id}: another was added at this moment") from error
        return True

    def remove_new(self, slug: str) -> None:
        """Take back an organization that was added a moment ago. One that has any row stays (foreign keys)."""
        with self._database.write(NO_TENANT) as connection:
            connection.execute(organization.delete().where(organization.c.slug == slug))

    def known(self, org_id: int, messages: list[UUID], held: list[UUID]) -> set[UUID]:
        """Return which of these are there: messages, and held mails, by id."""
        t, c = inbound_message.c, held_mail.c
        with self._database.read(org_id) as connection:
            found = set(connection.scalars(sa.select(t.id).where(t.org_id == org_id, t.id.in_(messages))))
            if held:
                found |= set(connection.scalars(sa.select(c.id).where(c.org_id == org_id, c.id.in_(held))))
        return found

    def judge(self, org_id: int, mails: list[RebuiltMessage | RebuiltHeld]) -> list[Presence]:
        """Return what restore() would make of these mails, each by itself."""
        with self._database.read(org_id) as connection:
            return [self._judged(connection, mail)[0] for mail in mails]

    def restore(self, org_id: int, mails: list[RebuiltMessage | RebuiltHeld]) -> Counter[Presence]:
        """Write what is not there, in one transaction."""
        with self._database.write(org_id) as connection:
            return Counter(self._restore(connection, mail) for mail in mails)

    def digests_of_documents(self, org_id: int) -> Iterator[str]:
        """Iterate over the digests of an organization's documents in their order, each once."""
        d = document.c
        # Grouped: of what is DISTINCT, PostgreSQL sorts by nothing but itself.
        grouped = sa.select(d.digest).where(d.org_id == org_id).group_by(d.digest)
        statement = grouped.order_by(sa.collate(d.digest, self._bytes))
        with self._database.read(org_id) as connection:
            if not self._database.is_sqlite:
                # It sorts all of them first, and between two the caller may take its time.
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            streamed = connection.execution_options(yield_per=1000)
            yield from streamed.scalars(statement)

    @property
    def _bytes(self) -> str:
        return "BINARY" if self._database.is_sqlite else "C"

    def _judged(self, connection: sa.Connection, mail: RebuiltMessage | RebuiltHeld) -> tuple[Presence, UUID | None]:
        """Return what becomes of a mail, and the message that has its identity, if there is one."""
        t, new = inbound_message.c, mail.new
        same = (t.org_id == new.org_id, t.source == new.source, t.source_message_id == new.source_message_id)
        owner = connection.execute(sa.select(t.id, t.digest, t.fingerprint).where(*same)).one_or_none()
        if isinstance(mail, RebuiltHeld):
            clashes = owner.id if owner and mail.reason is HoldReason.MESSAGE_ID_REUSED else None
            return (Presence.THERE if self._is_held(connection, new, clashes) else Presence.HELD_BACK), clashes
        if owner is None:
            return Presence.BACK, None
        if owner.digest == new.digest:
            return Presence.THERE, owner.id
        if owner.fingerprint == new.fingerprint:
            return Presence.COPY, owner.id
        return (Presence.THERE if self._is_held(connection, new, owner.id) else Presence.CLASH), owner.id

    def _is_held(self, connection: sa.Connection, new: NewMessage, clashes: UUID | None) -> bool:
        c = held_mail.c
        either = (c.id == new.id) | ((c.inbound_message_id == clashes) & (c.fingerprint == new.fingerprint))
        return connection.scalar(sa.select(c.id).where(c.org_id == new.org_id, either).limit(1)) is not None

    def _restore(self, connection: sa.Connection, mail: RebuiltMessage | RebuiltHeld) -> Presence:
        came, owner = self._judged(connection, mail)
        if came is Presence.BACK and isinstance(mail, RebuiltMessage):
            self._add_message(connection, mail)
        elif came is Presence.CLASH:
            self._add_held(connection, mail.new, owner, HoldReason.MESSAGE_ID_REUSED, None)
        elif isinstance(mail, RebuiltHeld):
            if came is Presence.HELD_BACK:
                self._add_held(connection, mail.new, owner, mail.reason, mail.resolution)
                add_events(connection, [mail.event])
            if mail.accepted:
                self._restore(connection, mail.accepted)
        return came

    def _add_held(
        self,
        connection: sa.Connection,
        new: NewMessage,
        clashes: UUID | None,
        reason: HoldReason,
        resolution: str | None,
    ) -> None:
        values = column_values(new, Mail)
        values |= {"inbound_message_id": clashes, "source_message_id": new.source_message_id}
        values |= {"reason": reason.value, "resolution": resolution}
        connection.execute(self._database.insert(held_mail).values(values).on_conflict_do_nothing())

    def _add_message(self, connection: sa.Connection, mail: RebuiltMessage) -> None:
        values = {**column_values(mail.new), "status": mail.status.value, "next_attempt_at": mail.due}
        values["error_json"] = mail.error_json
        insert = self._database.insert(inbound_message).values(values).on_conflict_do_nothing()
        if connection.scalar(insert.returning(inbound_message.c.id)) is None:
            return  # it came by another way at this very moment
        owner = {"org_id": mail.new.org_id, "inbound_message_id": mail.new.id}
        rows = [
            {
                **owner,
                **column_values(new),
                "handover": mail.handover.value,
                "next_attempt_at": mail.due,
                "erased_at": mail.erased_at.get(new.digest),
            }
            for new in mail.documents
        ]
        if rows:
            connection.execute(document.insert(), rows)
        if mail.skipped:
            connection.execute(skipped_part.insert(), [{**owner, **column_values(part)} for part in mail.skipped])
        add_events(connection, [replace(mail.event, inbound_message_id=mail.new.id)])


_NEXT_ID = (
    "SELECT setval(pg_get_serial_sequence('organization', 'id'), "
    "greatest((SELECT max(id) FROM organization), (SELECT last_value FROM organization_id_seq)))"
)
