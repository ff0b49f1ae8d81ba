"""How long a backend may keep us waiting, in seconds; the delivery's deadline stands above it all.

A server can refuse, hang, or be cut off while a connection is open. Each of the three ends here: by the
connect timeout, by the server's own statement timeout, and, where no server is left to keep that, by
the kernel, which gives up a connection whose other end acknowledges nothing.
"""

from typing import Any

CONNECT = 5
STATEMENT = 20
READ = 15
S3_ATTEMPTS = 3
S3_CONNECTIONS = 50  # that stay open; with fewer than there are threads each put would open its own
QUEUE = 3  # a task is only a bell, and no delivery waits for it long


def postgresql(statement: float | None = None) -> dict[str, Any]:
    """Give libpq's connection parameters, with the time for one statement.

    No prepared statements: a transaction pooler such as pgbouncer loses them.
    """
    milliseconds = int(1000 * (statement or STATEMENT))
    return {
        "connect_timeout": CONNECT,
        "options": f"-c statement_timeout={milliseconds} -c timezone=UTC",
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": "orderflow",
        "client_encoding": "utf8",
        "prepare_threshold": None,
    }


class TimeUp(BaseException):
    """The time of a task is over. No Exception: nobody on the way may take it for a failure of what he tries."""


def time_up(*_: object) -> None:
    """Raise TimeUp: a handler of signals."""
    raise TimeUp
