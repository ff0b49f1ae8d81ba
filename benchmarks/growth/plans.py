"""PostgreSQL's plans of what a call sends, as the role that sends it: EXPLAIN (ANALYZE, BUFFERS), and what it tells.

Each statement is explained right before it is run, in the same transaction, with the same organizations named and
the same parameters; what explaining wrote is undone. What a use of a connection begins with (BEGIN and what comes with
it, or SELECT 1) has no plan worth telling and is skipped, as is a SET.
The body of a function of ours is explained in place of its call, whose plan says nothing: as the owner, who it runs
as, and prepared with a generic plan, since that is how PostgreSQL plans a statement inside an SQL function.
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from benchmarks.growth import partitions

_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)"
_CALLED = re.compile(r"\b(orderflow_(?:due_\w+|\w+_to_sweep|\w+_in_hand|overdue_since))\(")


def explain(engines: Collection[sa.Engine], owner: sa.Engine, call: Callable[[], Any]) -> list[str]:
    """Explain what a call sends by these engines: each statement, and its plan."""
    found: list[str] = []

    def before(_c: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("BEGIN", "SET ")) or statement == "SELECT 1":
            return
        if called := _CALLED.search(statement):
            values = [parameters[name] for name in re.findall(r"%\((\w+)\)s", statement)]
            body, plan = _of_function(owner, called[1], values)
            found.append(f"{statement.strip()}\n-- {called[1]}:\n{body}\n\n{plan}")
        else:
            found.append(f"{statement.strip()}\n\n{_of_statement(cursor.connection, statement, parameters)}")

    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", before)
    try:
        call()
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", before)
    return found


def _of_statement(connection: psycopg.Connection[Any], statement: str, parameters: Any) -> str:
    is_begun = connection.info.transaction_status is TransactionStatus.INTRANS
    with connection.cursor() as cursor:
        if is_begun:
            cursor.execute("SAVEPOINT explained")
        plan = _text(cursor.execute(f"{_EXPLAIN} {statement}".encode(), parameters))
        if is_begun:
            cursor.execute("ROLLBACK TO SAVEPOINT explained")
    return plan


def _of_function(owner: sa.Engine, name: str, values: Sequence[Any]) -> tuple[str, str]:
    with owner.connect() as lent:
        connection = lent.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        asked = "SELECT prosrc, array_to_string(proargtypes::regtype[], ', ') FROM pg_proc WHERE proname = %s"
        found = connection.execute(asked, (name,)).fetchone()
        assert found is not None
        body, types = found
        connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE explained{f' ({types})' if types else ''} AS {body}".encode())
        with psycopg.ClientCursor(connection) as cursor:
            given = f" ({', '.join(['%s'] * len(values))})" if values else ""
            plan = _text(cursor.execute(f"{_EXPLAIN} EXECUTE explained{given}", values or None))
        connection.execute("DEALLOCATE explained")
    return "\n".join(line.strip() for line in body.strip().splitlines()), plan


def _text(explained: psycopg.Cursor[Any]) -> str:
    return "\n".join(row[0] for row in explained.fetchall())


def scans(plan: str) -> list[str]:
    """Find the tenant tables that a plan reads from end to end."""
    tenant = "|".join(table.name for table in partitions.TENANT_TABLES)
    return re.findall(rf"Seq Scan on ((?:{tenant})\w*)", plan)


def indexes(plan: str) -> list[str]:
    """Name the indexes that a plan uses, in order."""
    return list(dict.fromkeys(re.findall(r"(?:Scan(?: Backward)? using|Bitmap Index Scan on) (\w+)", plan)))


def buffers(plan: str) -> int:
    """Count the pages that a plan's execution touched."""
    counted = re.search(r"^ *Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", plan, re.MULTILINE)
    return sum(int(number or 0) for number in counted.groups()) if counted else 0
