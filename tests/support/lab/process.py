"""Children that cannot outlive us, and the ports and directories they need.

Guarantees: a child gets SIGKILL when the thread that started it ends, by whatever cause (PR_SET_PDEATHSIG;
the kernel drops it if the child changes its credentials, as Postfix's master does). start() returns only when
the server answers, or raises LabError with the end of its log. After stop() and kill() neither the child nor
anything it started is left, except what had lost its parent before.
"""

import contextlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .family import family, left, send_signal

DOMAIN = "orderflow.example.com"
# pipe(8) gives a program next to nothing, and so do we.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_FAKETIME = "faketime/libfaketimeMT.so.1"  # of Debian's package faketime, below the machine's architecture
FAKETIME = next(Path("/usr/lib").glob(f"*/{_FAKETIME}"), Path("/usr/lib", _FAKETIME))
_LOOK = 0.1  # seconds between two looks at what a process that is to end has started
_reservations: dict[int, socket.socket] = {}


class LabError(Exception):
    """A server of the lab did not do what it should."""


def free_port() -> int:
    """Reserve a loopback port that nothing listens on, for the rest of this interpreter's life.

    It lies below the kernel's range for outgoing connections, so that none of those can take it while a
    server is down. The reservation is an abstract unix socket, seen by other interpreters that ask here.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0orderflow-lab-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
            continue
        _reservations[port] = reservation
        return port


def listening(port: int) -> bool:
    """Return whether a loopback port accepts connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory that every user may pass through, and remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix="orderflow-lab-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(command: Sequence[str | Path], *, user: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed; raise LabError if it fails or takes a minute."""
    done = subprocess.run(
        command, cwd="/", env=env, text=True, timeout=60, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **_credentials(user),
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return str(done.stdout)


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.02) -> bool:
    """Poll a condition until it holds or the time is up; tell which. Times in seconds."""
    deadline = time.monotonic() + timeout
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(interval)
    return holds


def _credentials(user: str | None, groups: Sequence[str] = ()) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": list(groups)}


class Server:
    """Something that starts, stops and can be killed; as a context manager it is up inside the block."""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def died(self) -> list["Process"]:
        """Return those of its processes that have ended although nobody stopped them."""
        parts = [part for value in vars(self).values() for part in (value if isinstance(value, list) else [value])]
        return [process for part in parts if isinstance(part, Server) for process in part.died()]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Process(Server):
    """One child process: its output goes to `log`, and `ready` tells when it serves."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        ready: Callable[[], bool] = lambda: True,
        user: str | None = None,
        groups: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stop_signal: int = signal.SIGTERM,
        timeout: float = 60,
    ) -> None:
        self.command, self.log, self.ready, self.user, self.env = command, log, ready, user, env
        self.groups, self.stop_signal, self.timeout = groups, stop_signal, timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._is_wanted = False

    @property
    def pid(self) -> int:
        """Return the process id of the running child."""
        if self._child is None:
            raise LabError(f"{self.command[0]} is not started")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Return whether the child is there."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the child and wait until it is ready."""
        if self.running:
            raise LabError(f"{self.command[0]} is already running")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command], cwd="/", env=self.env,
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                **_credentials(self.user, self.groups),
            )  # fmt: skip
        if not wait_until(lambda: not self.running or self.ready(), self.timeout) or not self.running:
            state = "is not ready" if self.running else f"ended with status {self._child.returncode}"
            self.kill()
            raise LabError(f"{self.command[0]} {state}; the end of {self.log}:\n{self.tail()}")
        self._is_wanted = True

    def died(self) -> list["Process"]:
        """Return the process if it has ended although nobody stopped it."""
        return [self] if self._is_wanted and not self.running else []

    def end(self) -> str:
        """Return how a process that has ended did so."""
        return f"{Path(self.command[0]).name} ended with status {self._child and self._child.returncode}"

    def tail(self) -> str:
        """Read the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:]) if self.log.exists() else ""

    def stop(self) -> None:
        """Ask the child to end; after ten seconds kill it, and half a second later what it left behind."""
        self._is_wanted = False
        if (child := self._child) is None:
            return
        seen: dict[int, str] = {}
        due = 0.0

        def ended() -> bool:
            nonlocal due
            if self.running and time.monotonic() >= due:  # to look through /proc each time would keep a core busy
                seen.update(family(child.pid))
                due = time.monotonic() + _LOOK
            return not self.running

        if not ended():
            child.send_signal(self.stop_signal)
        if not wait_until(ended, 10):
            self.kill()
        wait_until(lambda: not left(seen), 0.5)
        send_signal(seen, signal.SIGKILL)
        wait_until(lambda: not left(seen), 10)

    def kill(self) -> None:
        """Kill the child and its descendants at once; all are frozen first, so that none escapes."""
        self._is_wanted = False
        if self._child is None:
            return
        frozen: dict[int, str] = {}
        while self.running and (new := {p: s for p, s in family(self._child.pid).items() if p not in frozen}):
            send_signal(new, signal.SIGSTOP)
            frozen.update(new)
        send_signal(frozen, signal.SIGKILL)
        self._child.wait()
        wait_until(lambda: not left(frozen), 10)
