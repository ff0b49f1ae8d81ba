"""Holdings: which rows name which object of the archive. Read by an organization's keys, page by page.

A raw object may be named by several rows (a message by mail and by upload, a held mail that was accepted), and a
document's by very many. No index leads from a digest to its rows, and none is wanted where mail is delivered: so who
asks for all rows of an object reads all rows of the organization, in short transactions, and sorts them elsewhere
(see `maintenance.reference_index`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.states import UNFINISHED, EventKind, HandOver, Status

from .connection import NO_TENANT, Database
from .tables import PENDING, document, held_mail, inbound_message, message_event, organization
from .tables import UNFINISHED as UNFINISHED_ROWS

PAGE = 1000
ODD_KEY = "its object key is not of its digest"
_UNFINISHED = [status.value for status in UNFINISHED]


class Area(StrEnum):
    """The two kinds of objects that an organization has, as their keys name them."""

    RAW = "raw"
    DOCUMENTS = "documents"


class Kind(StrEnum):
    """What kind of row it is that names an object."""

    MESSAGE = "message"
    HELD = "held mail"
    DOCUMENT = "document"

    @property
    def area(self) -> Area:
        """Return where the objects lie that such rows name."""
        return Area.DOCUMENTS if self is Kind.DOCUMENT else Area.RAW


@dataclass(frozen=True)
class ObjectReference:
    """A row that names an object.

    `message_id` is the message's of a document, else the row's own id. `is_unfinished`: there is work to do that may
    need the object, or an operator is to decide. `is_failed`: it may be replayed. `odd`: what cannot be, "" mostly.
    `documents`: how many documents the last extraction counted, where it was asked for.
    """

    kind: Kind
    org_id: int
    id: UUID
    message_id: UUID
    digest: str
    key: str
    received_at: datetime
    erased_at: datetime | None
    is_unfinished: bool
    is_failed: bool
    odd: str
    documents: int | None = None


@dataclass(frozen=True)
class Keeping:
    """How many days an organization's objects are kept since their mail came. None: for ever."""

    raw_days: int | None
    document_days: int | None


def _odd(*cases: tuple[sa.ColumnElement[bool], str]) -> sa.ColumnElement[str]:
    return sa.case(*cases, else_="")


def _key(table: sa.Table, area: Area) -> sa.ColumnElement[str]:
    org = sa.cast(table.c.org_id, sa.Text)
    return sa.literal("org/").concat(org).concat(f"/{area.value}/")


def _names_mail(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a row's key is one of those that `keys` gives to mail of its digest."""
    places = ("", "held/", "upload/", "upload/held/")
    name = table.c.digest.concat(".eml")
    return table.c.raw_key.in_([_key(table, Area.RAW).concat(place).concat(name) for place in places])


def _of_messages() -> sa.Select[Any]:
    t = inbound_message.c
    is_unfinished = t.status.concat("").in_(_UNFINISHED)
    is_failed = t.status.concat("") == Status.FAILED.value
    odd = _odd(
        (~_names_mail(inbound_message), ODD_KEY),
        (is_unfinished & t.erased_at.is_not(None), "unfinished, and its raw mail was erased"),
        (is_failed & t.error_json.is_(None), "FAILED without an error"),
        (~is_unfinished & t.worker.is_not(None), "finished, and in a worker's hands"),
    )
    return sa.select(
        t.org_id, t.id, t.id.label("message_id"), t.digest, t.raw_key.label("key"), t.received_at, t.erased_at,
        is_unfinished.label("is_unfinished"), is_failed.label("is_failed"), odd.label("odd"),
    )  # fmt: skip


def _of_held() -> sa.Select[Any]:
    c = held_mail.c
    odd = _odd(
        (~_names_mail(held_mail), ODD_KEY),
        (c.resolution.is_(None) & c.erased_at.is_not(None), "undecided, and its raw mail was erased"),
    )
    return sa.select(
        c.org_id, c.id, c.id.label("message_id"), c.digest, c.raw_key.label("key"), c.received_at, c.erased_at,
        c.resolution.is_(None).label("is_unfinished"), sa.false().label("is_failed"), odd.label("odd"),
    )  # fmt: skip


def _of_documents() -> sa.Select[Any]:
    d, t = document.c, inbound_message.c
    is_pending = d.handover.concat("") == HandOver.PENDING.value
    is_failed = d.handover.concat("") == HandOver.FAILED.value
    odd = _odd(
        (d.object_key != _key(document, Area.DOCUMENTS).concat(d.digest), ODD_KEY),
        (is_failed & d.error_json.is_(None), "FAILED without an error"),
        (~is_pending & d.worker.is_not(None), "handed over, and in a worker's hands"),
    )
    return sa.select(
        d.org_id, d.id, d.inbound_message_id.label("message_id"), d.digest, d.object_key.label("key"), t.received_at,
        d.erased_at, (is_pending | t.status.concat("").in_(_UNFINISHED)).label("is_unfinished"),
        (is_failed | (t.status.concat("") == Status.FAILED.value)).label("is_failed"), odd.label("odd"),
    ).join(inbound_message, (t.org_id == d.org_id) & (t.id == d.inbound_message_id))  # fmt: skip


_ROWS = {
    Kind.MESSAGE: (inbound_message, _of_messages()),
    Kind.HELD: (held_mail, _of_held()),
    Kind.DOCUMENT: (document, _of_documents()),
}


class ObjectReferences:
    """The rows of all tables that name objects. It changes nothing."""

    def __init__(self, database: Database):
        self._database = database

    def iterate(self, org_id: int, kind: Kind, *, with_events: bool = False) -> Iterator[ObjectReference]:
        """Iterate over an organization's rows of a kind by their ids. Rows that come later may be left out."""
        table, statement = _ROWS[kind]
        after: UUID | None = None
        while True:
            wanted = statement.where(table.c.org_id == org_id)
            if after is not None:
                wanted = wanted.where(table.c.id > after)
            with self._database.read(org_id) as connection:
                page = _read(connection, kind, wanted.order_by(table.c.id).limit(PAGE))
                if with_events and kind is Kind.MESSAGE:
                    page = _with_documents(connection, org_id, page)
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].id

    def again(self, holding: ObjectReference) -> ObjectReference | None:
        """Read a row again, or None if it is gone."""
        with self._database.read(holding.org_id) as connection:
            found = read_in(connection, holding.kind, holding.org_id, [holding.id])
            if holding.documents is not None:
                found = _with_documents(connection, holding.org_id, found)
        return found[0] if found else None

    def count_documents(self, org_id: int, message_id: UUID) -> int:
        """Count a message's documents."""
        d = document.c
        mine = (d.org_id == org_id, d.inbound_message_id == message_id)
        with self._database.read(org_id) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(document).where(*mine)) or 0

    def overdue(self, org_id: int, kind: Kind, before: datetime) -> Iterator[tuple[UUID, datetime]]:
        """Iterate over what should have been begun before a time and was not, the longest due first: (id, due)."""
        table, rows = (document, PENDING) if kind is Kind.DOCUMENT else (inbound_message, UNFINISHED_ROWS)
        due, id = table.c.next_attempt_at, table.c.id
        statement = sa.select(id, due).where(table.c.org_id == org_id, sa.text(rows), due < before)
        last: tuple[datetime, UUID] | None = None
        while True:
            wanted = statement if last is None else statement.where(sa.tuple_(due, id) > sa.tuple_(*last))
            with self._database.read(org_id) as connection:
                page = [
                    (row.id, row.next_attempt_at) for row in connection.execute(wanted.order_by(due, id).limit(PAGE))
                ]
            yield from page
            if len(page) < PAGE:
                return
            last = (page[-1][1], page[-1][0])

    def keeping(self, org_id: int) -> Keeping:
        """Return how long an organization's settings have its objects kept: `keep_raw_days`, `keep_documents_days`."""
        with self._database.read(NO_TENANT) as connection:
            found = connection.scalar(sa.select(organization.c.settings).where(organization.c.id == org_id)) or {}
        return Keeping(found.get("keep_raw_days"), found.get("keep_documents_days"))

    def changed_at(self, org_id: int) -> datetime | None:
        """Return when an organization's own row was changed last, by being disabled say."""
        with self._database.read(NO_TENANT) as connection:
            changed: datetime | None = connection.scalar(
                sa.select(organization.c.updated_at).where(organization.c.id == org_id)
            )
        return changed


def read_in(
    connection: sa.Connection, kind: Kind, org_id: int, ids: Iterable[UUID], *, lock: bool = False
) -> list[ObjectReference]:
    """Read rows again in a transaction that is there already, locked to its end with is_locked."""
    table, statement = _ROWS[kind]
    wanted = statement.where(table.c.org_id == org_id, table.c.id.in_(tuple(ids))).order_by(table.c.id)
    return _read(connection, kind, wanted.with_for_update(of=table) if lock else wanted)


def _read(connection: sa.Connection, kind: Kind, statement: sa.Select[Any]) -> list[ObjectReference]:
    found = []
    for row in connection.execute(statement):
        flags = {"is_unfinished": bool(row.is_unfinished), "is_failed": bool(row.is_failed)}
        found.append(ObjectReference(kind, **{**row._mapping, **flags}))
    return found


def _with_documents(connection: sa.Connection, org_id: int, page: list[ObjectReference]) -> list[ObjectReference]:
    """Add how many documents the last extraction of each message counted. Messages of an old version have no event."""
    e = message_event.c
    extracted = sa.select(e.inbound_message_id, e.details).where(
        e.org_id == org_id,
        e.inbound_message_id.in_([one.id for one in page]),
        e.kind == EventKind.EXTRACTED.value,
    )
    counts = {id: details.get("documents") for id, details in connection.execute(extracted.order_by(e.at, e.id))}
    return [one if one.is_unfinished or one.is_failed else replace(one, documents=counts.get(one.id)) for one in page]
