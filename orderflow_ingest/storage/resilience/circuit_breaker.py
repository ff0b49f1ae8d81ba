"""A circuit breaker: a backend that is known to be away is not waited for again by every delivery.

    closed    calls go through. One that fails after more than SLOW seconds opens it; what fails at once, a refusal
              of these credentials say, costs nothing and changes nothing, nor does what the backend itself answers, or
              a call that began before one of this process that went well: it hung at a server whose place is taken
    open      calls fail at once, for PROBE seconds
    probing   then one call goes through, and the others fail at once until it has ended: if it failed as slowly, it
              is open for another PROBE seconds, else closed. A probe that takes over PATIENCE seconds tells nothing,
              its process was paused say: then all go through

A call says which organizations it is about, since a part of the backend may be away that only some of them have: a
node of a sharded database, a partition of a bucket. There is one breaker for all, and one for each organization:

    a slow failure of a call about                      opens
    no organization, or before anything was reached     the one for all
    one organization                                    that organization's; and the one for all, unless a call of
                                                        another one that began later has gone well
    several, or all of them                             the one for all, unless a later call has gone well

Only calls of the same kind count, read or write: a server whose disk hangs may still read. A probe of an organization's
breaker passes the one for all, and is not its probe: a part that hangs keeps nobody else waiting. So the mail of others
stops for PROBE seconds where no call of theirs is known to have gone well meanwhile, and not at all where one is.

They are files, so that all programs of this host know of them together: the instances of the service, the workers, and
each orderflow-deliver that Postfix starts without one. NAME and NAME.ORG are there while they are open, changed when
they are opened and when they are probed; who probes holds an flock on it, which the kernel takes back from a killed
process. NAME.read and NAME.write say when the latest call began that went well while one of them was there. A clock
that was set back closes nothing for longer than PROBE seconds. Where a file cannot be written every call goes through.
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
LEFT = 300.0  # seconds; an organization's file that is older says nothing: no mail of it has come since
READ, WRITE = "read", "write"
_TICK = 1_000_000_000  # nanoseconds; a later change than this has another time
Orgs = Collection[int] | None  # whom a call is about: None for no organization, () for all of them
Guard = Callable[[Orgs, str], AbstractContextManager[None]]


def unguarded(_orgs: Orgs, _kind: str) -> AbstractContextManager[None]:
    """Let every call through: the guard of programs that an operator runs."""
    return nullcontext()


class CircuitBreaker:
    """Guards the calls to one backend, named in texts by `name`; what it raises is an `error`, as what they raise."""

    def __init__(self, path: Path, name: str, error: type[Exception]):
        self._path, self._name, self._error = path, name, error
        self._void: set[int] = set()  # the files that could not be removed
        # Of each kind: when the latest call began of those that went well, and the latest of another organization.
        self._went_well: dict[str, tuple[_Begun, _Begun]] = {}
        self._empty_at = -1  # when the directory was changed last that held no file of ours

    @contextmanager
    def __call__(self, orgs: Orgs = None, kind: str = READ) -> Iterator[None]:
        """Guard a call. Raises `error` at once while a breaker is open that it is about."""
        org = next(iter(orgs)) if orgs is not None and len(orgs) == 1 else None
        is_away, is_whole, began, at = False, orgs is None, time.monotonic(), time.time()
        # File objects: whatever interrupts us, a signal's exception too, they are closed, and their locks with them.
        probes = self._enter(orgs, org)
        try:
            yield
            self._note_well(kind, org, began, at)
        except (self._error, DeadlineReached) as error:
            is_away = not getattr(error, "is_answer", False)
            is_whole = is_whole or getattr(error, "is_unreached", False)
            raise
        finally:
            if is_away:
                metrics.count(metrics.BACKEND_ERRORS, self._name)
            about = None if is_whole else org
            if is_away and time.monotonic() - began > SLOW and not self._is_outdated(kind, about, began):
                if org is not None and (not is_whole or self._file(org) in probes):
                    self._open(self._file(org))
                if is_whole or not self._others_went_well(kind, org, began, at):
                    self._open(self._path)
            else:
                for path, probe in probes.items():
                    self._close(path, probe)
            for probe in probes.values():
                probe.close()

    def _file(self, org: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{org}")

    def _enter(self, orgs: Orgs, org: int | None) -> dict[Path, FileIO]:
        """Let a call through, or raise; return the locked files where the call is the probe of them."""
        for one in orgs if orgs is not None and org is None else ():
            if (age := _age(self._file(one))) is not None and 0 <= age < PATIENCE:
                raise self._known_away(" for an organization")
        if org is not None and (probe := self._probe(self._file(org), " for this organization")):
            return {self._file(org): probe, **self._pass_by()}
        probe = self._probe(self._path, "")
        return {self._path: probe} if probe else {}

    def _pass_by(self) -> dict[Path, FileIO]:
        """Return the file for all, if it is there and nobody probes it: without a lock on it, so that others do."""
        with suppress(OSError):
            return {self._path: FileIO(self._path, opener=_open_at_once)}
        return {}

    def _probe(self, path: Path, whose: str) -> FileIO | None:
        """Let a call pass one breaker, or raise; return the locked file where the call is the probe."""
        try:
            file = FileIO(path, opener=_open_at_once)
        except OSError:  # not there, as a rule
            return None
        with suppress(OSError):
            about = os.fstat(file.fileno())
            if about.st_ino in self._void or not stat.S_ISREG(about.st_mode):
                return None
            age = time.time() - about.st_mtime
            if not 0 <= age < PROBE:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if 0 <= age < PATIENCE:
                        raise
                    return None
                with suppress(OSError):  # another user's
                    os.utime(file.fileno())
                return file
        file.close()
        raise self._known_away(whose)

    def _known_away(self, whose: str) -> Exception:
        return self._error(f"{self._name}: known to be away{whose}, tried again within {PROBE:.0f} s")

    def _note_well(self, kind: str, org: int | None, began: float, at: float) -> None:
        """Note when a call began that went well; for other programs where a breaker is open."""
        latest, other = self._went_well.get(kind, (_NEVER, _NEVER))
        if latest[0] != org:
            self._went_well[kind] = ((org, began), latest)
        else:
            self._went_well[kind] = ((org, max(began, latest[1])), other)
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
        """Tell whether a later call about the same has gone well: this one hung at a server whose place is taken."""
        latest, other = self._went_well.get(kind, (_NEVER, _NEVER))
        return any(began < one[1] for one in (latest, other) if org is None or one[0] == org)

    def _others_went_well(self, kind: str, org: int | None, began: float, at: float) -> bool:
        latest, other = self._went_well.get(kind, (_NEVER, _NEVER))
        noted = _age(self._path.with_name(f"{self._path.name}.{kind}"))
        is_noted = noted is not None and 0 <= noted < time.time() - at
        return is_noted or began < (latest if latest[0] != org else other)[1]

    def _close(self, path: Path, probe: FileIO) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # a file system that became read-only: this process at least goes by it no more
            self._void.add(os.fstat(probe.fileno()).st_ino)

    def _open(self, path: Path) -> None:
        self._void.clear()
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            for old in path.parent.glob(f"{self._path.name}.[0-9]*"):
                if (age := _age(old)) is not None and age > LEFT:
                    old.unlink(missing_ok=True)


_Begun = tuple[int | None, float]  # an organization, and when its call began
_NEVER: _Begun = (None, -1.0)


def organizations_away(path: Path) -> int:
    """Count the organizations for which the backend of this breaker is known to be away."""
    ages = (_age(file) for file in path.parent.glob(f"{path.name}.[0-9]*"))
    return sum(age is not None and age < LEFT for age in ages)


def _age(path: Path) -> float | None:
    """Return the seconds since a file was changed; None if there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return time.time() - about.st_mtime if stat.S_ISREG(about.st_mode) else None


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, and wait for nobody at what is none."""
    return os.open(path, flags | os.O_NONBLOCK)
