"""A unix socket that a killed program has left, out of the way of the one that is to listen at its path."""

import os
import socket
import stat
from pathlib import Path

from orderflow_ingest.domain.errors import OrderflowError


class SocketInUseError(OrderflowError):
    """Another program listens at this path."""


def remove_stale_socket(path: Path) -> None:
    """Remove a socket at which nobody listens, and nothing else. Raise SocketInUseError where somebody does."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(os.fspath(path)) == 0:
            raise SocketInUseError(f"{path}: another program listens here")
    path.unlink()
