"""What systemd makes of the service's units: opens the sockets, and runs instances of the service on them.

    python activation.py DIRECTORY USER GROUP COUNT COMMAND...

The sockets lie in DIRECTORY and belong to USER and GROUP, mode 0660. SIGTERM is passed on; it ends when all have
ended. Root alone can give sockets away. An instance does not outlive this process.
"""

import os
import pwd
import shutil
import signal
import socket
import sys
from pathlib import Path

from orderflow_ingest.entrypoints.health_client import SOCKETS


def main(directory: Path, user: str, group: str, count: int, command: list[str]) -> None:
    """Listen, start the instances, and wait for their end."""
    sockets = [listen(directory / name, user, group) for name in SOCKETS]
    pids = [start(sockets, user, group, command) for _ in range(count)]

    def end(*_: object) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    for pid in pids:
        os.waitpid(pid, 0)
    for name in SOCKETS:
        (directory / name).unlink()


def listen(path: Path, user: str, group: str) -> socket.socket:
    """Open one socket."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    path.chmod(0o660)
    shutil.chown(path, user, group)
    server.listen(1024)
    return server


def start(sockets: list[socket.socket], user: str, group: str, command: list[str]) -> int:
    """Start one instance; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    duplicates = [os.dup(one.fileno()) for one in sockets]
    for number, fd in enumerate(duplicates, 3):
        os.dup2(fd, number)
    own = str(pwd.getpwnam(user).pw_gid)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
    os.execvp("setpriv", ["setpriv", "--reuid", user, "--regid", own, "--groups", own, "--pdeathsig", "KILL", *command])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
