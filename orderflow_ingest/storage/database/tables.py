"""The tables, as SQLAlchemy sees them. `migrations/` builds them, and a test holds the two together.

The columns of mail are the fields of `rows`. What is of no row there is declared here.

Every tenant table has org_id first in its keys, so that it can be partitioned by it. Every query of
tenant data names it. Times are aware UTC on both databases. Rows are the truth about a message: how
often it was tried, when it may be tried again, who is at it. A queue's task is only a bell.

History grows, and no query may grow with it: what is asked of one tenant goes by a key or an index that
begins with org_id, what is asked of all by an index of its own. Those of what is unfinished, failed or
held are partial, so that they are as small as what they list. test_growth.py holds each to its index.

    attempts         how often a worker began
    next_attempt_at  no attempt begins before it: the lease of who is at it, then the backoff after a failure
    worker           who is at it, and the fence: who finds another mark there has lost the lease
    erased_at        when its object was deleted from the archive, by a retention or on somebody's demand

message_event is what a row does not keep: what happened to a message (or to a mail that is held) before. It is
only added to. operator_run is who had which program do what, and how far that has come. It belongs to no tenant.
sweep_claim has one row, which names the consumer that sweeps.
"""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from orderflow_ingest.domain.states import HandOver, HoldReason, Status
from orderflow_ingest.parsing.documents.part import PartKind

from .rows import Document, Event, HeldMail, InboundMessage, SkippedPart

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SOURCES = ("EMAIL", "UPLOAD")

metadata = sa.MetaData(naming_convention=NAMING)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC in Python. Timestamptz in PostgreSQL, sortable text in SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


Identifier = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


_NOW = sa.func.current_timestamp()
_EMPTY_LIST, _EMPTY_OBJECT = sa.text("'[]'"), sa.text("'{}'")
_TYPES: dict[Any, Any] = {
    str: sa.Text(), int: sa.Integer(), bool: sa.Boolean(), UUID: sa.Uuid(), datetime: UtcDateTime(),
    list: Json, dict: Json,
}  # fmt: skip


def _columns(row: type, key: tuple[str, ...] = ("org_id", "id"), **defaults: Any) -> Iterator[sa.Column[Any]]:
    """Make a column of each field of a row, those of its `key` first. `defaults` are what the server fills in."""
    for one in sorted(fields(row), key=lambda one: key.index(one.name) if one.name in key else len(key)):
        found, is_nullable = one.type, False
        if get_origin(found) in (Union, UnionType):
            found, is_nullable = get_args(found)[0], True
        yield sa.Column(
            one.name,
            Identifier if one.name == "org_id" else _column_type(found),
            primary_key=one.name in key,
            nullable=is_nullable,
            server_default=defaults.get(one.name),
        )


def _column_type(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        found = get_args(annotation)[1]
        return Json if isinstance(found, sa.JSON) else found
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return sa.String(10)
    return _TYPES[get_origin(annotation) or annotation]


def _times() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (
        sa.Column("created_at", UtcDateTime, nullable=False, server_default=_NOW),
        sa.Column("updated_at", UtcDateTime, nullable=False, server_default=_NOW),
    )


STATUSES = _one_of("status", tuple(status.value for status in Status))
UNFINISHED = _one_of("status", (Status.RECEIVED.value, Status.STORED.value))
HANDOVERS = _one_of("handover", tuple(state.value for state in HandOver))
PENDING = _one_of("handover", (HandOver.PENDING.value,))
FAILED = _one_of("status", (Status.FAILED.value,))
FAILED_HANDOVER = _one_of("handover", (HandOver.FAILED.value,))
OPEN = "resolution IS NULL"
ALONE = "inbound_message_id IS NULL"
# What mail is found by: runs of letters and digits. PostgreSQL's index holds the very same expression.
_WORDS = "to_tsvector('simple'::regconfig, regexp_replace({}, '[\\W_]+', ' ', 'g'))"
MESSAGE_TEXT = "from_email || ' ' || envelope_sender || ' ' || subject"
DOCUMENT_TEXT = "coalesce(filename, '')"
MESSAGE_WORDS, DOCUMENT_WORDS = _WORDS.format(MESSAGE_TEXT), _WORDS.format(DOCUMENT_TEXT)


def _own(column: str, place: str) -> sa.CheckConstraint:
    """Tie a key to the row's tenant: on PostgreSQL. SQLite cannot add one to a table, and has triggers that say so."""
    rule = f"starts_with({column}, 'org/' || org_id || '/{place}/') AND strpos({column}, '..') = 0"
    return sa.CheckConstraint(rule, name=column).ddl_if(dialect="postgresql")


def _partial(name: str, rows: str, *columns: sa.Column[Any], unique: bool = False) -> None:
    """Index some rows of a table. Who asks must write the same words, by which SQLite knows them."""
    sa.Index(name, *columns, unique=unique, postgresql_where=sa.text(rows), sqlite_where=sa.text(rows))


def _words(name: str, expression: str) -> sa.Index:
    """Index the words of a text, on PostgreSQL alone: it is the only one that has such an index."""
    return sa.Index(name, sa.text(expression), postgresql_using="gin").ddl_if(dialect="postgresql")


organization = sa.Table(
    "organization",
    metadata,
    sa.Column("id", Identifier, primary_key=True),
    sa.Column("slug", sa.String(63), nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("settings", Json, nullable=False, server_default=sa.text("'{}'")),
    *_times(),
)

inbound_message = sa.Table(
    "inbound_message",
    metadata,
    *_columns(InboundMessage, traits=_EMPTY_LIST, attempts="0", created_at=_NOW, updated_at=_NOW),
    sa.ForeignKeyConstraint(["org_id"], ["organization.id"]),
    sa.UniqueConstraint("org_id", "source", "source_message_id"),
    sa.CheckConstraint(_one_of("source", SOURCES), name="source"),
    sa.CheckConstraint(STATUSES, name="status"),
    _own("raw_key", "raw"),
    sa.Index(None, "org_id", "received_at"),
    # Its order is asked for by name, and no plan for one organization can take it: one that has been silent for
    # long would be looked for through all that came since.
    sa.Index(None, "received_at", postgresql_ops={"received_at": "DESC NULLS LAST"}),
    _words("ix_inbound_message_words", MESSAGE_WORDS),
)
_partial("ix_inbound_message_unfinished", UNFINISHED, inbound_message.c.next_attempt_at)
_partial("ix_inbound_message_failed", FAILED, inbound_message.c.org_id, inbound_message.c.received_at)

document = sa.Table(
    "document",
    metadata,
    *_columns(
        Document,
        kind=PartKind.ATTACHMENT.value,
        content_type="",
        reason="",
        defects=_EMPTY_LIST,
        handover=HandOver.PENDING.value,
        attempts="0",
    ),
    *_times(),
    sa.UniqueConstraint("org_id", "inbound_message_id", "part_path"),
    sa.ForeignKeyConstraint(["org_id", "inbound_message_id"], ["inbound_message.org_id", "inbound_message.id"]),
    sa.CheckConstraint(HANDOVERS, name="handover"),
    _own("object_key", "documents"),
    _words("ix_document_words", DOCUMENT_WORDS),
)
_partial("ix_document_pending", PENDING, document.c.next_attempt_at)
_partial("ix_document_failed", FAILED_HANDOVER, document.c.org_id)

skipped_part = sa.Table(
    "skipped_part",
    metadata,
    sa.Column("org_id", Identifier, primary_key=True),
    sa.Column("inbound_message_id", sa.Uuid, primary_key=True),
    *_columns(SkippedPart, ("part_path",), defects=_EMPTY_LIST),
    sa.ForeignKeyConstraint(["org_id", "inbound_message_id"], ["inbound_message.org_id", "inbound_message.id"]),
)

held_mail = sa.Table(
    "held_mail",
    metadata,
    *_columns(HeldMail, reason=HoldReason.MESSAGE_ID_REUSED.value),
    *_times(),
    sa.UniqueConstraint("org_id", "inbound_message_id", "fingerprint"),
    _own("raw_key", "raw"),
    sa.ForeignKeyConstraint(["org_id", "inbound_message_id"], ["inbound_message.org_id", "inbound_message.id"]),
)
_partial("ix_held_mail_open", OPEN, held_mail.c.org_id, held_mail.c.received_at)
_partial("uq_held_mail_alone", ALONE, held_mail.c.org_id, held_mail.c.fingerprint, unique=True)

message_event = sa.Table(
    "message_event",
    metadata,
    *_columns(Event, ("org_id",), details=_EMPTY_OBJECT),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Index(None, "org_id", "inbound_message_id"),
)
_partial("ix_message_event_run", "run_id IS NOT NULL", message_event.c.run_id, message_event.c.inbound_message_id)

operator_run = sa.Table(
    "operator_run",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("chosen", Json, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("position", Json),
    sa.Column("selected", sa.BigInteger),
    sa.Column("done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("passed_over", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Index(None, "started_at"),
)

sweep_claim = sa.Table(
    "sweep_claim",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("claimed_by", sa.Text, nullable=False),
    sa.Column("ends_at", UtcDateTime, nullable=False),
)


def owned(table: sa.Table, org_id: int | None) -> sa.ColumnElement[bool]:
    """Name the tenant of a query. None stands for all, which needs an index that does not begin with org_id."""
    return table.c.org_id == org_id if org_id is not None else sa.true()


def of_any(table: sa.Table) -> sa.ColumnElement[bool]:
    """Name all tenants by their ids: a look-up in the table's key for each of them, instead of a scan."""
    return table.c.org_id.in_(sa.select(organization.c.id))
