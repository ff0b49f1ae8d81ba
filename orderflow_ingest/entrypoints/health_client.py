"""The health of orderflow-service, read over deliver.sock.

The service greets clients that may connect: root and its own user. After its greeting, or its refusal of new mail, it
answers `health` with one JSON object in one line, and closes. No listener is a valid result, since orderflow-deliver
works without a service. One that does not answer raises ServiceNotRespondingError.
"""

import json
import socket
from pathlib import Path
from typing import Any

from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason

PIPE_SOCKET, LMTP_SOCKET, SMTP_SOCKET, MAP_SOCKET = "deliver.sock", "lmtp.sock", "smtp.sock", "recipients.sock"
SOCKETS = PIPE_SOCKET, LMTP_SOCKET, SMTP_SOCKET, MAP_SOCKET
_LINE = 65536


class ServiceNotRespondingError(OrderflowError):
    """Something listens and does not answer as the service does."""


def read_health(socket_dir: Path, timeout: float = 5.0) -> dict[str, Any] | None:
    """Return what the service says of itself, or None if nobody listens. Raise ServiceNotRespondingError."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(socket_dir / PIPE_SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ServiceNotRespondingError(f"{PIPE_SOCKET} cannot be asked: {os_reason(error)}") from error
        try:
            with client.makefile("rwb") as lines:
                if not lines.readline(_LINE):
                    raise ServiceNotRespondingError(
                        "the service sends this user away: only root and its own user may ask"
                    )
                lines.write(b"health\n")
                lines.flush()
                answer = json.loads(lines.readline(_LINE))
        except (OSError, ValueError) as error:
            raise ServiceNotRespondingError(f"the service does not answer: {os_reason(error)}") from error
    if not isinstance(answer, dict):
        raise ServiceNotRespondingError("the service does not answer with an object")
    return answer
