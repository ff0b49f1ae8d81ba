"""What an operator looks at: counts and last errors of all tenants or of one, and what belongs to listed messages.

Nothing here grows with history. What is unfinished, failed or held is counted by its partial index. What has come
lately by the index over the time it came.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from orderflow_ingest.domain.states import HandOver, Status

from .connection import ALL_TENANTS, Database, whose
from .rows import InboundMessage
from .selection import begins
from .tables import (
    FAILED,
    FAILED_HANDOVER,
    OPEN,
    PENDING,
    UNFINISHED,
    document,
    held_mail,
    inbound_message,
    owned,
)

_AT_A_TIME = 50


@dataclass(frozen=True)
class RecentCounts:
    """How many messages of one status came in the last day, and in the last seven."""

    day: int = 0
    week: int = 0


@dataclass(frozen=True)
class LastError:
    """A kind of error that rows have now: its class, where it was raised, when last, on how many rows."""

    what: str
    error: str
    where: str
    last_at: str
    rows: int


@dataclass
class OrganizationCounts:
    """What is where, of one organization."""

    org_id: int
    counts: Counter[str] = field(default_factory=Counter)
    oldest_unfinished: datetime | None = None

    @property
    def trouble(self) -> int:
        """Count what somebody has to look at."""
        return sum(self.counts[what] for what in ("FAILED", "held", "documents FAILED"))


class Overview:
    """Counts over the tables."""

    def __init__(self, database: Database):
        self._database = database

    def recent_counts(self, day: datetime, week: datetime, org_id: int | None = None) -> dict[Status, RecentCounts]:
        """Count the messages that came since two moments, by the status that they have now."""
        t = inbound_message.c
        statement = (
            sa.select(t.status, _since(t.received_at, day), sa.func.count())
            .where(owned(inbound_message, org_id), t.received_at >= week)
            .group_by(t.status)
        )
        with self._database.read(whose(org_id)) as connection:
            found = {
                Status(name): RecentCounts(of_day or 0, of_week)
                for name, of_day, of_week in connection.execute(statement)
            }
        return {status: found.get(status, RecentCounts()) for status in Status}

    def by_organization(self, day: datetime, week: datetime) -> list[OrganizationCounts]:
        """Count by organization, those with the most trouble first. Those of which there is nothing are left out."""
        t, d, c = inbound_message.c, document.c, held_mail.c
        nothing = sa.cast(sa.null(), t.received_at.type)
        queries = [
            sa.select(t.org_id, sa.literal("unfinished"), sa.func.count(), sa.func.min(t.received_at)).where(
                sa.text(UNFINISHED)
            ),
            sa.select(t.org_id, sa.literal("FAILED"), sa.func.count(), nothing).where(sa.text(FAILED)),
            sa.select(c.org_id, sa.literal("held"), sa.func.count(), nothing).where(sa.text(OPEN)),
            sa.select(d.org_id, sa.literal("documents PENDING"), sa.func.count(), nothing).where(sa.text(PENDING)),
            sa.select(d.org_id, sa.literal("documents FAILED"), sa.func.count(), nothing).where(
                sa.text(FAILED_HANDOVER)
            ),
            sa.select(t.org_id, sa.literal("day"), sa.func.count(), nothing).where(t.received_at >= day),
            sa.select(t.org_id, sa.literal("week"), sa.func.count(), nothing).where(t.received_at >= week),
        ]
        found: dict[int, OrganizationCounts] = {}
        with self._database.read(ALL_TENANTS) as connection:
            for query in queries:
                for org_id, what, count, oldest in connection.execute(query.group_by(query.selected_columns[0])):
                    one = found.setdefault(org_id, OrganizationCounts(org_id))
                    one.counts[what] = count
                    one.oldest_unfinished = oldest or one.oldest_unfinished
        return sorted(found.values(), key=lambda one: (-one.trouble, -one.counts["week"], one.org_id))

    def last_errors(self, since: datetime, limit: int, org_id: int | None = None) -> list[LastError]:
        """List the errors of what is unfinished, and of what has failed lately: the latest kinds first."""
        t, d = inbound_message.c, document.c
        sources: tuple[tuple[str, sa.Table, sa.TextClause, sa.ColumnElement[bool]], ...] = (
            ("extraction", inbound_message, sa.text(UNFINISHED), t.error_json.is_not(None)),
            ("extraction", inbound_message, sa.text(FAILED), t.received_at >= since),
            ("hand-over", document, sa.text(PENDING), d.error_json.is_not(None)),
            ("hand-over", document, sa.text(FAILED_HANDOVER), d.updated_at >= since),
        )
        found: dict[tuple[str, str, str], tuple[str, int]] = {}
        with self._database.read(whose(org_id)) as connection:
            for what, table, rows_of, wanted in sources:
                details = [table.c.error_json[name].as_string() for name in ("error", "where", "at")]
                statement = (
                    sa.select(details[0], details[1], sa.func.max(details[2]), sa.func.count())
                    .where(owned(table, org_id), rows_of, wanted)
                    .group_by(details[0], details[1])
                )
                for error, where, at, rows in connection.execute(statement):
                    key = (what, error or "", where or "")
                    last, count = found.get(key, ("", 0))
                    found[key] = (max(last, at or ""), count + rows)
        kinds = [LastError(*key, last_at=at, rows=rows) for key, (at, rows) in found.items()]
        return sorted(kinds, key=lambda one: one.last_at, reverse=True)[:limit]

    def hand_overs(self, messages: Sequence[InboundMessage]) -> dict[tuple[int, UUID], Counter[HandOver]]:
        """Count the documents of each of these messages by their hand-over; (org_id, id) names a message."""
        d = document.c
        found: dict[tuple[int, UUID], Counter[HandOver]] = {(m.org_id, m.id): Counter() for m in messages}
        keys = list(found)
        for first in range(0, len(keys), _AT_A_TIME):
            some = keys[first : first + _AT_A_TIME]
            mine = sa.or_(*(sa.and_(d.org_id == org_id, d.inbound_message_id == id) for org_id, id in some))
            statement = sa.select(d.org_id, d.inbound_message_id, d.handover).where(mine)
            with self._database.read({org_id for org_id, _ in some}) as connection:
                for org_id, id, handover in connection.execute(statement):
                    found[org_id, id][HandOver(handover)] += 1
        return found

    def ids_that_begin(self, org_id: int, beginning: str, limit: int) -> list[UUID]:
        """List the ids of an organization's messages that begin with these hexadecimal digits."""
        t = inbound_message.c
        statement = sa.select(t.id).where(t.org_id == org_id, begins(t.id, beginning)).order_by(t.id).limit(limit)
        with self._database.read(org_id) as connection:
            return list(connection.scalars(statement))


def _since(column: sa.ColumnElement[Any], moment: datetime) -> sa.ColumnElement[Any]:
    return sa.func.sum(sa.case((column >= moment, 1), else_=0))
