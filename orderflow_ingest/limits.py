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


def postgresql() -> dict[str, Any]:
    """Give libpq's connection parameters.

    No prepared statements: a transaction pooler such as pgbouncer loses them.
    """
    return {
        "connect_timeout": CONNECT,
        "options": f"-c statement_timeout={STATEMENT}s -c timezone=UTC",
        "tcp_user_timeout": int(1000 * STATEMENT),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": "orderflow",
        "prepare_threshold": None,
    }
