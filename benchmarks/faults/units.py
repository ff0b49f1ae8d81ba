"""What systemd is to the service and the workers: holds the sockets, and starts again what has ended.

As the units in `systemd/` say: the sockets stay while instances come and go; what ends, however it ends, is started
again after RESTART seconds, for ever; what its main process leaves behind is killed with it, as a control group
is; a service that gives no sign of life for WATCHDOG seconds is killed. The environment of a unit is read again at
each start, so a fault can change it.
"""

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orderflow_ingest.entrypoints.health_client import SOCKETS
from tests.support.lab.activation import listen
from tests.support.lab.family import family
from tests.support.lab.process import Server, wait_until

RESTART, WATCHDOG, STOP = 1.0, 30.0, 20.0  # seconds
# Puts the sockets where sd_listen_fds(3) says, and gives the program to its user; what is to be loaded before it
# (PRELOAD) is not loaded as root.
_LAUNCH = """
import fcntl, json, os, sys
fds, user, *command = json.loads(sys.argv[1])
held = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in fds]
for number, fd in enumerate(held, 3):
    os.dup2(fd, number)
if fds:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
if "PRELOAD" in os.environ:
    command = ["env", "LD_PRELOAD=" + os.environ["PRELOAD"], *command]
os.execvp("setpriv", ["setpriv", "--reuid", user[0], "--regid", user[1], "--groups", user[1], "--pdeathsig", "KILL",
                      *command])
"""


@dataclass
class Unit:
    """A program that is to run: with `is_service` on the sockets and under the watchdog."""

    name: str
    command: Sequence[str | Path]
    is_service: bool = False
    stop_signal: int = signal.SIGTERM
    starts: int = 0
    is_wanted: bool = True
    process: "subprocess.Popen[bytes] | None" = None
    due: float = 0.0
    sign: float = 0.0
    notices: socket.socket | None = field(default=None, repr=False)


class Units(Server):
    """Units of one user in `directory`, their sockets in `sockets`, their output in `log`."""

    def __init__(
        self,
        directory: Path,
        sockets: Path,
        user: str,
        group: str,
        units: Sequence[Unit],
        environment: Callable[[], Mapping[str, str]],
    ) -> None:
        self.directory, self.units = directory, {unit.name: unit for unit in units}
        self.log = directory / "units.log"
        self._sockets_directory, self._user, self._group = sockets, user, group
        self._environment = environment
        self._sockets: list[socket.socket] = []
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="units")
        self._watchdogs = 0

    def start(self) -> None:
        """Open the sockets and start all units."""
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o755)
        self._sockets = [listen(self._sockets_directory / name, self._user, self._group) for name in SOCKETS]
        self._thread.start()
        wait_until(lambda: all(unit.starts for unit in self.units.values()), 10)

    def stop(self) -> None:
        """End all units."""
        self.pause()
        self._is_over.set()
        if self._thread.ident:
            self._thread.join()
        for one in self._sockets:
            one.close()

    def kill(self) -> None:
        """Kill all units, and keep none."""
        for name in self.units:
            self.end(name)
        self.stop()

    def restart(self) -> None:
        """Restart all as `systemctl restart` does: ask, wait, start."""
        with self._lock:
            for unit in self.units.values():
                if _runs(unit) and unit.process:
                    unit.process.send_signal(unit.stop_signal)
            wait_until(lambda: not any(_runs(unit) for unit in self.units.values()), STOP)
            for unit in self.units.values():
                self.end(unit.name)
                unit.process, unit.due = None, 0.0

    def pause(self) -> None:
        """Kill all, and do not start them again before resume()."""
        with self._lock:
            for unit in self.units.values():
                unit.is_wanted = False
                self.end(unit.name)

    def resume(self) -> None:
        """Start all again."""
        with self._lock:
            for unit in self.units.values():
                unit.is_wanted, unit.process, unit.due = True, None, 0.0

    def end(self, name: str) -> None:
        """Kill a unit with all that belongs to it; it is started again."""
        with self._lock:
            if process := self.units[name].process:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # a session of its own, and so a group
                process.wait()

    def pids(self, name: str) -> list[int]:
        """Return the processes of a unit, its main process first."""
        process = self.units[name].process
        return list(family(process.pid)) if process and process.poll() is None else []

    def names(self, is_service: bool) -> list[str]:
        """Name the services, or the other units."""
        return [unit.name for unit in self.units.values() if unit.is_service is is_service]

    @property
    def starts(self) -> int:
        """Count the starts of all units."""
        return sum(unit.starts for unit in self.units.values())

    def are_running(self) -> bool:
        """Return whether every unit has run for a while."""
        now = time.monotonic()
        return all(_runs(unit) and now - unit.due > RESTART for unit in self.units.values())

    def _watch(self) -> None:
        while not self._is_over.wait(0.05):
            with self._lock:
                for unit in self.units.values():
                    self._tend(unit)

    def _tend(self, unit: Unit) -> None:
        now = time.monotonic()
        if not _runs(unit):
            if unit.process is not None:
                self.end(unit.name)  # what it has left behind
                unit.process, unit.due = None, max(unit.due, now + RESTART)
            if unit.is_wanted and now >= unit.due:
                self._start(unit)
        elif unit.notices is not None:
            with contextlib.suppress(BlockingIOError):
                while unit.notices.recv(4096):
                    unit.sign = now
            if now - unit.sign > WATCHDOG:
                self.end(unit.name)

    def _start(self, unit: Unit) -> None:
        user = pwd.getpwnam(self._user)
        environment, fds = dict(self._environment()), []
        if unit.is_service:
            fds = [one.fileno() for one in self._sockets]
            path = self.directory / f"{unit.name}.notify"
            path.unlink(missing_ok=True)
            if unit.notices:
                unit.notices.close()
            unit.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            unit.notices.bind(str(path))
            unit.notices.setblocking(False)
            path.chmod(0o666)
            environment |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
        order = json.dumps([fds, [str(user.pw_uid), str(user.pw_gid)], *map(str, unit.command)])
        with self.log.open("ab") as log:
            unit.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, order], cwd="/", env=environment, pass_fds=fds,
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        unit.starts += 1
        unit.due = unit.sign = time.monotonic()


def _runs(unit: Unit) -> bool:
    return unit.process is not None and unit.process.poll() is None
