"""Who sweeps: one host of all at a time.

A claim is a row that ends by itself, so that a host that was killed holds nothing, and no session has to live: a
transaction pooler may stand before the database. It is not in the queue, where whoever can add a task could claim.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa

from .database import NO_TENANT, Database
from .tables import sweep_claim

LASTS = timedelta(seconds=50)  # less than the minute from one sweep of a host to its next


class SweepClaim:
    """The one row of the table sweep_claim."""

    def __init__(self, database: Database):
        self._database = database

    def take(self, who: str, now: datetime) -> bool:
        """Claim the sweep for a host; False if another has it.

        A claim of the host itself is one of before its worker was restarted. One that ends later than it can have been
        meant was written by a clock that was wrong.
        """
        claim = sweep_claim.c
        is_free = (claim.ends_at <= now) | (claim.ends_at > now + LASTS) | (claim.claimed_by == who)
        return self._write(is_free, who, now + LASTS)

    def give_back(self, who: str, now: datetime) -> None:
        """End a claim of ours, so that another host sweeps at once."""
        self._write(sweep_claim.c.claimed_by == who, who, now)

    def _write(self, where: sa.ColumnElement[bool], who: str, ends_at: datetime) -> bool:
        statement = sweep_claim.update().where(where).values(claimed_by=who, ends_at=ends_at)
        with self._database.write(NO_TENANT) as connection:
            return connection.execute(statement).rowcount == 1
