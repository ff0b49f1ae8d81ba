"""Who sweeps: one consumer of all hosts' at a time.

A claim is a row that ends by itself, so that a host that was killed holds nothing, and no session has to live: a
transaction pooler may stand before the database. It is not in the queue, where whoever can add a task could claim.

It names a consumer, not a host: hosts may have one name, and one host may have two consumers. The claim of a consumer
whose process is gone is free at once for whoever can know that, see `attempt_files`. It ends by the clock of the
database, asked in the statement: a host that slept knows no time. Such a host finds out by hold(), before it
enqueues more.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .connection import NO_TENANT, Database
from .tables import sweep_claim

_ROW = 1
LASTS = timedelta(seconds=50)  # less than the minute from one sweep of a host to its next


class SweepClaim:
    """The one row of the table sweep_claim. The first claim makes it.

    `who` is a name that no other consumer has, and `is_gone` returns whether the process of such a name is gone.
    """

    def __init__(self, database: Database, who: str, is_gone: Callable[[str], bool]):
        self._database, self._who, self._is_gone = database, who, is_gone

    def take(self, now: datetime | None = None) -> bool:
        """Claim the sweep, or False if another consumer has it.

        A claim that ends much later than it can have been meant was written by a clock that was wrong.
        """
        holder = self._take(None, now)
        return holder is None or (self._is_gone(holder) and self._take(holder, now) is None)

    def hold(self, now: datetime | None = None) -> bool:
        """Claim for as long again what is claimed by us still, or False if another consumer has claimed it."""
        return self._is_updated(self._times(now)[1])

    def give_back(self, now: datetime | None = None) -> None:
        """End a claim of ours, so that another host sweeps at once."""
        self._is_updated(self._times(now)[0])

    def _take(self, gone: str | None, now: datetime | None) -> str | None:
        """Return None for a claim that was made, else who has it. The claim of one who is gone is free."""
        claim, (time, ends_at, beyond) = sweep_claim.c, self._times(now)
        is_ours = claim.claimed_by.in_([self._who, gone or self._who])
        is_free = (claim.ends_at <= time) | (claim.ends_at > beyond) | is_ours
        statement = self._database.insert(sweep_claim).values(id=_ROW, claimed_by=self._who, ends_at=ends_at)
        made = statement.on_conflict_do_update(
            index_elements=[claim.id], set_={"claimed_by": self._who, "ends_at": ends_at}, where=is_free
        )
        with self._database.write(NO_TENANT) as connection:
            if connection.execute(made.returning(claim.id)).first() is not None:
                return None
            return str(connection.scalar(sa.select(claim.claimed_by)))

    def _is_updated(self, ends_at: Any) -> bool:
        claim = sweep_claim.c
        statement = sweep_claim.update().where(claim.claimed_by == self._who).values(ends_at=ends_at)
        with self._database.write(NO_TENANT) as connection:
            return connection.execute(statement.returning(claim.id)).first() is not None

    def _times(self, now: datetime | None) -> tuple[Any, Any, Any]:
        """Return the time, the end of a claim that begins now, and what no claim ends after.

        On PostgreSQL they are by the server's clock, when the statement runs.
        """
        if now is None and not self._database.is_sqlite:
            server_now = sa.func.clock_timestamp(type_=sa.DateTime(timezone=True))
            return (
                server_now,
                server_now + sa.literal(LASTS, sa.Interval),
                server_now + sa.literal(2 * LASTS, sa.Interval),
            )
        time = now or self._database.now()
        return time, time + LASTS, time + 2 * LASTS
