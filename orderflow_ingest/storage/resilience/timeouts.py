"""How long a backend may keep us waiting, in seconds; the delivery's deadline stands above it all.

A server can refuse, hang, or be cut off while a connection is open. Each of the three ends here: by the
connect timeout, by the server's own statement timeout, and, where no server is left to keep that, by
the kernel, which gives up a connection whose other end acknowledges nothing. A server that acknowledges and
hangs is what `answered` is for.

The other way round, a program that is paused or cut off in a transaction holds its locks no longer than IDLE; who waits
for them gives up before a statement's time is over, and so can tell a lock from a server that is slow.

What one call to a backend may take, all its attempts together, is less than half of a delivery's deadline, from 15
seconds on: so a backend that hangs is told as such, before the deadline is.
"""

from dataclasses import dataclass
from typing import Any

DEADLINE = 60  # of a delivery, where nothing else is set
CONNECT = 3
STATEMENT = 15
READ = 10
GLANCE = 2  # for a question that nothing depends on, such as how late the workers are
IDLE = 60  # in a transaction between two statements; an operator's decision puts an object there
S3_ATTEMPTS = 2
S3_CONNECTIONS = 50  # that stay open; with fewer than there are threads each put would open its own
CONNECTIONS = 15  # to the database, at the most, of one process; work is grouped, and few are in use
LONGEST_BACKOFF = 64  # times the delay after a failure; see `retry`
QUEUE = 3  # a task is only a bell, and no delivery waits for it long


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a connection, for a statement, for an answer of S3."""

    connect: float
    statement: float
    read: float


def scaled_to(deadline: float = DEADLINE) -> Timeouts:
    """Give the times that fit into a deadline; not less than a quarter: who is slow is not away."""
    share = min(1.0, max(0.25, deadline / DEADLINE))
    return Timeouts(CONNECT * share, STATEMENT * share, READ * share)


def session_limits(statement: float) -> dict[str, int | str]:
    """Return what holds in each session, times in milliseconds.

    Programs ask for it when they connect. A pooler such as pgbouncer drops that, so the roles have it too.
    """
    milliseconds = int(1000 * statement)
    return {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds // 3,
        "idle_in_transaction_session_timeout": 1000 * IDLE,
        "timezone": "UTC",
    }


def postgresql(connect: float, statement: float) -> dict[str, Any]:
    """Give libpq's connection parameters; it waits for a connection for whole seconds, and at least for two.

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
    """The time of a task is over. No Exception: nobody on the way may take it for a failure of what he tries."""


def raise_task_deadline(*_: object) -> None:
    """Raise TaskDeadlineReached: a handler of signals."""
    raise TaskDeadlineReached
