"""Figures for plots: how many messages came when, what became of them, and how long it took.

They are about a stretch of time that ends now, so that they cost what came in it and not what came before: one
organization's by (org_id, received_at), all tenants' by received_at.

How long a message took is counted by bounds: the database counts, and no quantile needs its rows. It is the time from
its arrival to the last change of its row, hence for one that was replayed the time to the end of that.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from orderflow_ingest.domain.states import Status

from .connection import Database, whose
from .tables import inbound_message, owned

BOUNDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400)  # seconds


@dataclass(frozen=True)
class Numbers:
    """How many messages are where."""

    parsed: int = 0
    failed: int = 0
    unfinished: int = 0

    @property
    def received(self) -> int:
        """Return the number of all."""
        return self.parsed + self.failed + self.unfinished


@dataclass(frozen=True)
class TimeBucket:
    """The messages that came from `begin` on. `took` counts those PARSED by BOUNDS, and last those that took longer."""

    begin: datetime
    numbers: Numbers
    took: tuple[int, ...]


@dataclass(frozen=True)
class OrgCount:
    """The messages of one organization."""

    org_id: int
    numbers: Numbers


class Figures:
    """What the table inbound_message says when it is counted."""

    def __init__(self, database: Database):
        self._database = database

    def over(self, since: datetime, until: datetime, step: int, org_id: int | None = None) -> list[TimeBucket]:
        """Count in slots of `step` seconds, which begin at whole multiples of it. Empty ones are there too."""
        t = inbound_message.c
        second = sa.extract("epoch", t.received_at)
        begin = (second - second % sa.literal_column(str(int(step)))).label("begin")
        took = sa.case(
            *(
                (sa.extract("epoch", t.updated_at) - second <= sa.literal_column(str(b)), i)
                for i, b in enumerate(BOUNDS)
            ),
            else_=len(BOUNDS),
        )
        bound = sa.case((t.status == Status.PARSED.value, took), else_=-1).label("bound")
        columns = (begin, t.status, bound, sa.func.count())
        grouped = sa.select(*columns).where(*_came(since, until, org_id)).group_by("begin", t.status, "bound")
        with self._database.read(whose(org_id)) as connection:
            rows = [(int(at), Status(status), bound, n) for at, status, bound, n in connection.execute(grouped)]
        return _slots(rows, since, until, step)

    def by_organization(
        self, since: datetime, until: datetime, org_id: int | None = None, limit: int = 20
    ) -> list[OrgCount]:
        """Count by organization, those with the most messages first."""
        t = inbound_message.c
        sums = [sa.func.count().filter(of_status) for of_status in (t.status == "PARSED", t.status == "FAILED")]
        statement = sa.select(t.org_id, *sums, sa.func.count().label("received")).where(*_came(since, until, org_id))
        statement = statement.group_by(t.org_id).order_by(sa.text("received DESC"), t.org_id).limit(limit)
        with self._database.read(whose(org_id)) as connection:
            rows = connection.execute(statement).all()
        return [OrgCount(org, Numbers(parsed, failed, n - parsed - failed)) for org, parsed, failed, n in rows]


def quantile(took: tuple[int, ...], share: float) -> int | None:
    """Return the bound within which so large a share of the messages was PARSED. None of none, or past the last one."""
    wanted, seen = share * sum(took), 0
    for bound, number in zip(BOUNDS, took, strict=False):
        seen += number
        if seen and seen >= wanted:
            return bound
    return None


def _came(since: datetime, until: datetime, org_id: int | None) -> tuple[sa.ColumnElement[bool], ...]:
    t = inbound_message.c
    return owned(inbound_message, org_id), t.received_at >= since, t.received_at < until


def _slots(rows: list[tuple[int, Status, int, int]], since: datetime, until: datetime, step: int) -> list[TimeBucket]:
    numbers: dict[int, Any] = defaultdict(lambda: defaultdict(int))
    took: dict[int, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
    for begin, status, bound, number in rows:
        place = {Status.PARSED: "parsed", Status.FAILED: "failed"}.get(status, "unfinished")
        numbers[begin][place] += number
        if bound >= 0:
            took[begin][bound] += number
    first = int(since.timestamp()) // step * step
    begins = range(first, int(until.timestamp()) + 1, step)
    return [TimeBucket(datetime.fromtimestamp(at, UTC), Numbers(**numbers[at]), tuple(took[at])) for at in begins]
