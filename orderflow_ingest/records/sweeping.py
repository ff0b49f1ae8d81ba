"""Who sweeps: one host of all at a time.

A claim is a row that ends by itself, so that a host that was killed holds nothing, and no session has to live: a
transaction pooler may stand before the database. It is not in the queue, where whoever can add a task could claim.
"""

from datetime import datetime, timedelta

from .database import NO_TENANT, Database
from .tables import sweep_claim

_ROW = 1
LASTS = timedelta(seconds=50)  # less than the minute from one sweep of a host to its next


class SweepClaim:
    """The one row of the table sweep_claim; the first claim makes it."""

    def __init__(self, database: Database):
        self._database = database

    def take(self, who: str, now: datetime) -> bool:
        """Claim the sweep for a host; False if another has it.

        A claim of the host itself is one of before its worker was restarted. One that ends later than it can have been
        meant was written by a clock that was wrong.
        """
        claim, ends_at = sweep_claim.c, now + LASTS
        is_free = (claim.ends_at <= now) | (claim.ends_at > ends_at) | (claim.claimed_by == who)
        statement = self._database.insert(sweep_claim).values(id=_ROW, claimed_by=who, ends_at=ends_at)
        made = statement.on_conflict_do_update(
            index_elements=[claim.id], set_={"claimed_by": who, "ends_at": ends_at}, where=is_free
        )
        with self._database.write(NO_TENANT) as connection:
            return connection.execute(made.returning(claim.id)).first() is not None

    def give_back(self, who: str, now: datetime) -> None:
        """End a claim of ours, so that another host sweeps at once."""
        statement = sweep_claim.update().where(sweep_claim.c.claimed_by == who).values(ends_at=now)
        with self._database.write(NO_TENANT) as connection:
            connection.execute(statement)
