"""What systemd gives a service and wants to hear of it: sockets (sd_listen_fds(3)), notices (sd_notify(3))."""

import os
import socket

_FIRST = 3


def activated_sockets() -> dict[str, socket.socket]:
    """Take over the sockets that systemd has opened for this process, by the last part of their paths."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return {}
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=fd) for fd in range(_FIRST, _FIRST + count)]
    for one in sockets:
        os.set_inheritable(one.fileno(), False)
    return {os.path.basename(one.getsockname()): one for one in sockets if one.family == socket.AF_UNIX}


def notify(state: str) -> None:
    """Tell systemd, e.g. READY=1; outside systemd nobody hears it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notices:
            notices.connect("\0" + path[1:] if path.startswith("@") else path)
            notices.sendall(state.encode())


def watchdog_interval() -> float | None:
    """Give how often, in seconds, systemd wants to hear WATCHDOG=1, half of the time that it waits; None if never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 2e6 if microseconds.isdigit() and mine else None
