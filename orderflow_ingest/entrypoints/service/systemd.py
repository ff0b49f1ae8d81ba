"""The interface to systemd: sockets (sd_listen_fds(3)), notifications (sd_notify(3)), the unit's name.

O_NONBLOCK belongs to the open file, not to the process (fcntl(2)): all instances on an inherited socket share it, and
each process that has the socket can clear it for all. systemd does so whenever it starts a unit that lacks
NonBlocking=yes. An event loop then waits in accept(2) until a client connects. So `ActivatedSocket` sets the flag
before each accept. What is left of the race costs a loop a tenth of a second once: the socket has a receive timeout,
which bounds accept(2) too (socket(7)) and ends it with EAGAIN, as asyncio expects.
"""

import os
import re
import socket
import struct

_FIRST = 3
_UNIT = re.compile(r"/([^/\n]+)\.service$", re.MULTILINE)
_ACCEPT_TIMEOUT = 0.1  # seconds
_NOTICE_TIMEOUT = 5.0  # seconds
_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds


class ActivatedSocket(socket.socket):
    """A listening socket that no other process can make an event loop wait at."""

    def __init__(self, fileno: int):
        super().__init__(fileno=fileno)
        os.set_inheritable(fileno, False)  # noqa: FBT003 (it takes no keyword)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(0, int(_ACCEPT_TIMEOUT * 1e6)))

    def accept(self) -> tuple[socket.socket, object]:
        """Accept one connection. Raise BlockingIOError where nobody has connected."""
        self.setblocking(False)  # noqa: FBT003 (it takes no keyword)
        return super().accept()


def activated_sockets() -> dict[str, socket.socket]:
    """Take over the sockets that systemd has opened for this process, by the last part of their paths."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return {}
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    sockets = [ActivatedSocket(fd) for fd in range(_FIRST, _FIRST + count)]
    return {os.path.basename(one.getsockname()): one for one in sockets if one.family == socket.AF_UNIX}


def notify(state: str) -> None:
    """Send systemd a notice, e.g. READY=1. Outside systemd there is nobody to send it to. Raise OSError.

    The notices' socket is systemd's, and a full one makes the sender wait: for five seconds at the most, so this is
    no call for an event loop's thread.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notices:
            notices.settimeout(_NOTICE_TIMEOUT)
            notices.connect("\0" + path[1:] if path.startswith("@") else path)
            notices.sendall(state.encode())


def unit() -> str:
    """Return the unit that this process belongs to, `orderflow-service@1`, by its control group. "" outside systemd."""
    try:
        with open("/proc/self/cgroup") as groups:
            return unit_of(groups.read())
    except OSError:  # no more than a name for an operator
        return ""


def unit_of(groups: str) -> str:
    """Return the unit that a process's control groups name (cgroups(7)), or "" where none is a service."""
    found = _UNIT.search(groups)
    return found[1] if found else ""


def watchdog_interval() -> float | None:
    """Return how often, in seconds, systemd wants WATCHDOG=1, half of the time that it waits, or None if never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 2e6 if microseconds.isdigit() and mine else None
