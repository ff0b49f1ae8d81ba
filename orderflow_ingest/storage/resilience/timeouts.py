"""How long a call to a backend may take, in seconds. The deadline of the delivery stands above all of them.

A server can refuse, hang, or lose the network while a connection is open. The connect timeout ends the first case and
the server's own statement timeout the second. In the third the kernel gives up a connection whose other end
acknowledges nothing. A server that hangs while its kernel acknowledges is ended by `pg_connection`.

A program that is paused or cut off in a transaction holds its locks no longer than IDLE. A session that waits for a
lock gives up before its statement timeout, so that a lock is not mistaken for a slow server.

One call to a backend with all its attempts takes less than half of a delivery's deadline, from deadlines of 15 seconds
on. So a hanging backend is reported as such before the deadline ends the delivery.
"""

from dataclasses import dataclass
from typing import Any

DEADLINE = 60  # of a delivery, where nothing else is set
CONNECT = 3
STATEMENT = 15
READ = 10
GLANCE = 2  # for a query that nothing depends on, such as how late the workers are
IDLE = 60  # in a transaction between two statements; an operator's decision writes an object there
S3_ATTEMPTS = 2
S3_CONNECTIONS = 50  # that stay open; with fewer than threads, each put would open its own
CONNECTIONS = 15  # of one process to the database, at most; work is grouped, and few are in use
LONGEST_BACKOFF = 64  # times the delay after a failure; see `retry`
QUEUE = 3  # a task only saves time, so no delivery waits for it long


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a connection, for a statement, and for an answer of S3, in seconds."""

    connect: float
    statement: float
    read: float


def scaled_to(deadline: float = DEADLINE) -> Timeouts:
    """Return the timeouts that fit a deadline, but no less than a quarter: a slow server is not an unavailable one."""
    share = min(1.0, max(0.25, deadline / DEADLINE))
    return Timeouts(CONNECT * share, STATEMENT * share, READ * share)


def session_limits(statement: float) -> dict[str, int | str]:
    """Return the parameters of each session, times in milliseconds.

    Programs set them when they connect. A pooler such as pgbouncer drops that, so the roles have them too.
    """
    milliseconds = int(1000 * statement)
    return {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds // 3,
        "idle_in_transaction_session_timeout": 1000 * IDLE,
        "timezone": "UTC",
    }


def postgresql(connect: float, statement: float) -> dict[str, Any]:
    """Return libpq's connection parameters. It waits for a connection for whole seconds, and at least for two.

    No prepared statements: a transaction pooler such as pgbouncer loses them.
    """
    milliseconds = int(1000 * statement)
    session = {
        **session_limits(statement),
        "tcp_keepalives_idle": 10,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
    }
    return {
        "connect_timeout": max(2, round(connect)),
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": "orderflow",
        "client_encoding": "utf8",
        "prepare_threshold": None,
    }


class TaskDeadlineReached(BaseException):
    """The time of a task is over. No Exception, so that no caller takes it for a failure of its own step."""


def raise_task_deadline(*_: object) -> None:
    """Raise TaskDeadlineReached, as a signal handler."""
    raise TaskDeadlineReached
