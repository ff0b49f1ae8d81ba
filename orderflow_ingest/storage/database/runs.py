"""Runs: who had which program do what, when, and how far that has come. What is broken off can be resumed.

A run belongs to no tenant. What it did to a message stands in that message's events, under the run's id. `chosen` is
the selection as the program needs it to go on, `position` the place up to which all is done. `command` and `chosen`
are what an operator typed.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from .connection import NO_TENANT, Database
from .events import operator_name
from .rows import column_values, field_names
from .tables import operator_run


@dataclass(frozen=True)
class Run:
    """One run of an operator's program over many things."""

    id: UUID
    command: str
    actor: str
    chosen: dict[str, Any]
    position: Any
    selected: int | None
    done: int
    passed_over: int
    failed: int
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @classmethod
    def new(cls, command: str, chosen: dict[str, Any] | None = None, selected: int | None = None) -> "Run":
        """Make a run of whoever runs this program, that has yet to begin."""
        now = datetime.now(UTC)
        return cls(uuid4(), command, operator_name(), chosen or {}, None, selected, 0, 0, 0, now, now, None)


_COLUMNS = [operator_run.c[name] for name in field_names(Run)]


class Runs:
    """The table operator_run."""

    def __init__(self, database: Database):
        self._database = database

    def begin(self, run: Run) -> None:
        """Record a run that begins. The same one again is the same run (by its id)."""
        statement = self._database.insert(operator_run).values(column_values(run)).on_conflict_do_nothing()
        with self._database.write(NO_TENANT) as connection:
            connection.execute(statement)

    def advance(
        self,
        id: UUID,
        position: Any,
        done: int,
        passed_over: int,
        failed: int,
        now: datetime,
        *,
        is_over: bool = False,
    ) -> None:
        """Record how far a run has come: the counts are of all of it, so that a second time changes nothing."""
        values = {"position": position, "done": done, "passed_over": passed_over, "failed": failed, "updated_at": now}
        ended = {"ended_at": now} if is_over else {}
        with self._database.write(NO_TENANT) as connection:
            connection.execute(operator_run.update().where(operator_run.c.id == id).values(**values, **ended))

    def get(self, id: UUID) -> Run | None:
        """Get one run."""
        found = self._select(operator_run.c.id == id, 1)
        return found[0] if found else None

    def latest(self, limit: int = 20) -> list[Run]:
        """List runs, the newest first."""
        return self._select(sa.true(), limit)

    def _select(self, condition: sa.ColumnElement[bool], limit: int) -> list[Run]:
        statement = sa.select(*_COLUMNS).where(condition).order_by(operator_run.c.started_at.desc()).limit(limit)
        with self._database.read(NO_TENANT) as connection:
            return [Run(**row._mapping) for row in connection.execute(statement)]
