"""A circuit breaker: no delivery waits for a backend that is known to be unavailable.

    closed    calls go through. A call that fails after more than SLOW seconds opens the circuit. A failure at once,
              refused credentials say, costs nothing and changes nothing. Nor does an answer of the backend itself, or
              a call that began before one of this process that succeeded: it hung at a server that was replaced
    open      calls fail at once, for PROBE seconds
    probing   then one call goes through, and the others fail at once until it has ended. If it failed as slowly, the
              circuit is open for another PROBE seconds, else closed. A probe that takes over PATIENCE seconds proves
              nothing, since its process may be paused: then all calls go through

A call says which organizations it is about, since a node of a sharded database or a partition of a bucket may be
unavailable alone. There is one shared circuit, and one for each organization:

    a slow failure of a call about                      opens
    no organization, or before a server was reached     the shared circuit
    one organization                                    that organization's; and the shared one, unless a later call of
                                                        another organization has succeeded
    several, or all of them                             the shared one, unless a later call has succeeded

Only calls of the same kind count, read or write: a server whose disk hangs may still read. The probe of an
organization's circuit passes the shared one and does not probe it, so it keeps no other call waiting. So the mail of
other organizations stops for PROBE seconds at most, and not at all where a call of theirs is known to have succeeded.

Circuits are files, shared by all programs of this host: the instances of the service, the workers, and each
orderflow-deliver that Postfix starts. NAME and NAME.ORG exist while the circuit is open, and are changed when it is
opened and when it is probed. A probe holds an flock on the file, which the kernel releases for a killed process.
NAME.read and NAME.write hold the start of the latest call that succeeded while a circuit was open. A clock that was set
back closes nothing for longer than PROBE seconds. Where a file cannot be written, every call goes through.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path

from orderflow_ingest.domain.outcomes import DeadlineReached
from orderflow_ingest.observability import metrics

SLOW = 1.0  # seconds
PROBE = 2.0  # seconds; a failover is over for at most this long before mail goes on
PATIENCE = 40.0  # seconds, more than a call takes, see `timeouts`
STALE = 300.0  # seconds; an older file of an organization is ignored: no mail of it has come since
READ, WRITE = "read", "write"
_TICK = 1_000_000_000  # nanoseconds; a later change than this has another time
Orgs = Collection[int] | None  # that a call is about: None for no organization, () for all of them
Guard = Callable[[Orgs, str], AbstractContextManager[None]]


def unguarded(_orgs: Orgs, _kind: str) -> AbstractContextManager[None]:
    """Let every call through: the guard of the programs that an operator runs."""
    return nullcontext()


class CircuitBreaker:
    """Guards the calls to one backend. `name` names it in texts. `error` is what the calls and the guard raise."""

    def __init__(self, path: Path, name: str, error: type[Exception]):
        self._path, self._name, self._error = path, name, error
        self._unremovable: set[int] = set()  # inodes of files that could not be removed
        # Of each kind: the start of the latest call that succeeded, and of the latest of another organization.
        self._successes: dict[str, tuple[_CallStart, _CallStart]] = {}
        self._empty_at = -1  # the change time of the directory when it held no open circuit

    @contextmanager
    def __call__(self, orgs: Orgs = None, kind: str = READ) -> Iterator[None]:
        """Guard a call. Raise `error` at once while a circuit that concerns it is open."""
        org = next(iter(orgs)) if orgs is not None and len(orgs) == 1 else None
        has_failed, is_whole, began, at = False, orgs is None, time.monotonic(), time.time()
        # File objects: an exception of any kind, a signal's too, closes them and so releases their locks.
        probes = self._enter(orgs, org)
        try:
            yield
            self._record_success(kind, org, began, at)
        except (self._error, DeadlineReached) as error:
            has_failed = not getattr(error, "is_answer", False)
            is_whole = is_whole or getattr(error, "is_unreached", False)
            raise
        finally:
            if has_failed:
                metrics.count(metrics.BACKEND_ERRORS, self._name)
            about = None if is_whole else org
            if has_failed and time.monotonic() - began > SLOW and not self._is_outdated(kind, about, began):
                if org is not None and (not is_whole or self._file(org) in probes):
                    self._open(self._file(org))
                if is_whole or not self._others_succeeded(kind, org, began, at):
                    self._open(self._path)
            else:
                for path, probe in probes.items():
                    self._close(path, probe)
            for probe in probes.values():
                probe.close()

    def _file(self, org: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{org}")

    def _enter(self, orgs: Orgs, org: int | None) -> dict[Path, FileIO]:
        """Let a call through, or raise. Return the locked files if the call probes them."""
        for one in orgs if orgs is not None and org is None else ():
            if (age := _age(self._file(one))) is not None and 0 <= age < PATIENCE:
                raise self._circuit_open(" for an organization")
        if org is not None and (probe := self._probe(self._file(org), " for this organization")):
            return {self._file(org): probe, **self._shared_file()}
        probe = self._probe(self._path, "")
        return {self._path: probe} if probe else {}

    def _shared_file(self) -> dict[Path, FileIO]:
        """Return the file of the shared circuit, unlocked, so that another call can probe it."""
        with suppress(OSError):
            return {self._path: FileIO(self._path, opener=_open_at_once)}
        return {}

    def _probe(self, path: Path, whose: str) -> FileIO | None:
        """Let a call pass one circuit, or raise. Return the locked file if the call is the probe."""
        try:
            file = FileIO(path, opener=_open_at_once)
        except OSError:  # as a rule there is no such file
            return None
        with suppress(OSError):
            about = os.fstat(file.fileno())
            if about.st_ino in self._unremovable or not stat.S_ISREG(about.st_mode):
                return None
            age = time.time() - about.st_mtime
            if not 0 <= age < PROBE:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if 0 <= age < PATIENCE:
                        raise
                    return None
                with suppress(OSError):  # a file of another user
                    os.utime(file.fileno())
                return file
        file.close()
        raise self._circuit_open(whose)

    def _circuit_open(self, whose: str) -> Exception:
        return self._error(f"{self._name}: known to be unavailable{whose}, tried again within {PROBE:.0f} s")

    def _record_success(self, kind: str, org: int | None, began: float, at: float) -> None:
        """Record the start of a call that succeeded, for other programs too while a circuit is open."""
        latest, other = self._successes.get(kind, (_NEVER, _NEVER))
        if latest[0] != org:
            self._successes[kind] = ((org, began), latest)
        else:
            self._successes[kind] = ((org, max(began, latest[1])), other)
        with suppress(OSError):
            directory, name = self._path.parent, self._path.name
            changed_at = os.stat(directory).st_mtime_ns
            if changed_at == self._empty_at:
                return
            open_ones = {one for one in os.listdir(directory) if one.startswith(f"{name}.") and one[-1].isdigit()}
            if open_ones - {f"{name}.{org}"}:
                note = self._path.with_name(f"{name}.{kind}")
                note.touch(mode=0o600)
                os.utime(note, (at, at))
            elif not open_ones and time.time_ns() - changed_at > _TICK:
                self._empty_at = changed_at

    def _is_outdated(self, kind: str, org: int | None, began: float) -> bool:
        """Return whether a later call about the same has succeeded: this one hung at a server that was replaced."""
        latest, other = self._successes.get(kind, (_NEVER, _NEVER))
        return any(began < one[1] for one in (latest, other) if org is None or one[0] == org)

    def _others_succeeded(self, kind: str, org: int | None, began: float, at: float) -> bool:
        latest, other = self._successes.get(kind, (_NEVER, _NEVER))
        noted = _age(self._path.with_name(f"{self._path.name}.{kind}"))
        is_noted = noted is not None and 0 <= noted < time.time() - at
        return is_noted or began < (latest if latest[0] != org else other)[1]

    def _close(self, path: Path, probe: FileIO) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # a file system that became read-only: this process ignores the file from now on
            self._unremovable.add(os.fstat(probe.fileno()).st_ino)

    def _open(self, path: Path) -> None:
        self._unremovable.clear()
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            for old in path.parent.glob(f"{self._path.name}.[0-9]*"):
                if (age := _age(old)) is not None and age > STALE:
                    old.unlink(missing_ok=True)


_CallStart = tuple[int | None, float]  # an organization, and the time at which its call began
_NEVER: _CallStart = (None, -1.0)


def unavailable_organizations(path: Path) -> int:
    """Return for how many organizations alone the backend of this breaker is known to be unavailable."""
    ages = (_age(file) for file in path.parent.glob(f"{path.name}.[0-9]*"))
    return sum(age is not None and age < STALE for age in ages)


def _age(path: Path) -> float | None:
    """Return the seconds since a file was changed, or None if there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return time.time() - about.st_mtime if stat.S_ISREG(about.st_mode) else None


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting, whatever kind of file it is."""
    return os.open(path, flags | os.O_NONBLOCK)
