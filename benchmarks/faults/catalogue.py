"""The faults: what each breaks, how it is injected, and how it is healed.

A fault is a context manager over a Plant: entering injects, leaving heals, as the cause going away would; nothing else
is done for the stack to recover. Between the two it may tick, for what happens again and again. What it `touches` no
other fault may touch at the same time. An Injury counts what it has hit, where that can be counted: kills, or
connections and answers at a wire; where not, what is counted is what was put off while it was on.
"""

import errno
import json
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from tests.support.lab.deployment import ENVIRONMENT
from tests.support.lab.process import FAKETIME, LabError, run

from .plant import BUCKET, DATABASE, MAP_ROLE, QUEUES, ROLE, WAYS, Plant

_PIPE = frozenset({"pipe"})
_UNITS, _SETTINGS, _POSTFIX = "units", "settings", "postfix"


@dataclass
class Injury:
    """A fault that is on: what it does each while, and how often it has hit; None where that is not counted."""

    tick: Callable[[], None] = lambda: None
    hits: Callable[[], int | None] = lambda: None
    details: Callable[[], str] = lambda: ""
    is_through: Callable[[], bool] = lambda: True  # whether all that it is to hit has been hit


Inject = Callable[[Plant, random.Random], AbstractContextManager[Injury]]


@dataclass(frozen=True)
class Fault:
    """A fault: its name, what it breaks, and how."""

    name: str
    breaks: str
    inject: Inject
    touches: frozenset[str]
    ways: frozenset[str] = frozenset(WAYS)
    queues: frozenset[str] = frozenset(QUEUES)
    mounts: bool = False
    library: Path | None = None
    seconds: float = 4.0  # it is on for so long at the least: a hang until deadlines are over

    def lacks(self, way: str, queue: str, may_mount: bool) -> str:
        """Return why it cannot be injected here; "" if it can."""
        if way not in self.ways or queue not in self.queues:
            return f"is of the way {'/'.join(sorted(self.ways))} with the queue {'/'.join(sorted(self.queues))}"
        if self.mounts and not may_mount:
            return "needs mount(2), which is refused here"
        if self.library and not self.library.exists():
            return f"needs {self.library}"
        return ""


class _Every:
    """Does something again and again, so many seconds apart."""

    def __init__(self, seconds: float, action: Callable[[], object]) -> None:
        self._seconds, self._action, self._due = seconds, action, 0.0
        self.count = 0

    def tick(self) -> None:
        if time.monotonic() >= self._due:
            if self._action() is not False:
                self.count += 1
            self._due = time.monotonic() + self._seconds

    def injury(self) -> Injury:
        return Injury(self.tick, lambda: self.count)


# Kills.


@contextmanager
def _kill_deliver(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Kill what pipe(8) has started, found as the children of Postfix's pipe processes."""

    def kill() -> bool:
        time.sleep(rng.random() * 0.1)
        for _ in range(200):
            if found := _children_of_pipe(plant):
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    return True
            time.sleep(0.002)
        return False

    yield _Every(0.1, kill).injury()


def _children_of_pipe(plant: Plant) -> list[int]:
    found: list[int] = []
    master = plant.deployment.postfix.pid
    for service in _children(master):
        with suppress(OSError):
            if Path(f"/proc/{service}/comm").read_text().strip() == "pipe":
                found += _children(service)
    return found


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextmanager
def _kill_service(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    yield _Every(1.5, lambda: plant.units.end(rng.choice(plant.units.names(is_service=True)))).injury()


@contextmanager
def _kill_worker(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Kill a process of a worker, its main process now and then."""

    def kill() -> bool:
        pids = plant.units.pids(rng.choice(_workers(plant)))
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)
            return True
        return False

    yield _Every(1.5, kill).injury()


def _workers(plant: Plant) -> list[str]:
    return [name for name in plant.units.names(is_service=False) if "worker" in name]


@contextmanager
def _kill_database(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    yield _Every(4, lambda: _kill_and_start(plant.postgres, rng)).injury()


@contextmanager
def _kill_archive(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    yield _Every(6, lambda: _kill_and_start(plant.s3, rng)).injury()


@contextmanager
def _kill_queue(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    yield _Every(4, lambda: _kill_and_start(plant.redis, rng)).injury()


def _kill_and_start(server, rng: random.Random) -> None:  # type: ignore[no-untyped-def]
    server.kill()
    time.sleep(0.5 + rng.random())
    server.start()


@contextmanager
def _kill_postfix(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Fill Postfix's queue while the archive refuses, kill Postfix, start it with its queue."""
    postfix, archive = plant.deployment.postfix, plant.wires["archive"]

    def kill() -> None:
        archive.turn("refuse")
        time.sleep(3)
        postfix.kill()
        time.sleep(0.5 + rng.random())
        postfix.start()
        archive.turn("pass")

    yield _Every(5, kill).injury()


@contextmanager
def _restart_everything(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Kill all there is at once, as a power cut does, and start it again, in any order."""

    def restart() -> None:
        servers = [plant.postgres, plant.s3, plant.deployment.postfix]
        servers += [plant.redis] if plant.queue == "redis" else []
        plant.units.pause()
        for server in servers:
            server.kill()
        rng.shuffle(servers)
        early = rng.random() < 0.5
        if early:
            plant.units.resume()
        for server in servers:
            server.start()
        if not early:
            plant.units.resume()

    yield _Every(30, restart).injury()


# Kills at named steps, see `steps`.

_SERVICE_STEPS = (
    ("s3.py", "S3Archive.put"), ("messages.py", "Messages.insert"), ("deliver.py", "enqueue_extraction"),
    ("deliver.py", "deliver"), ("receive.py", "_apply_spool_policy"),
)  # fmt: skip
_SPOOL_STEPS = (("receive.py", "_apply_spool_policy"),)
_WORKER_STEPS = (
    ("messages.py", "Messages.claim"), ("extract.py", "_archived"), ("documents.py", "Documents.record"),
    ("extract.py", "_enqueue_documents"), ("messages.py", "Messages.move"), ("documents.py", "Documents.claim"),
    ("hand_over.py", "_call_handler"), ("documents.py", "Documents.finish"),
)  # fmt: skip
_DELIVER_STEPS = (
    ("spool_entry.py", "write_entry"), ("spool_entry.py", "_copy"), ("spool_entry.py", "_commit"),
    ("pipe.py", "_deliver_by_service"),
)  # fmt: skip
STEPS = {"service": _SERVICE_STEPS, "worker": _WORKER_STEPS, "deliver": _DELIVER_STEPS}


class _Plan:
    """What processes read that kill themselves at a step, and what they write."""

    def __init__(self, plant: Plant, who: str, rng: random.Random, least: int, most: int, chance: float) -> None:
        self.directory = plant.place / "steps"
        self.file = self.directory / f"{who}-{rng.getrandbits(32):x}.json"
        drawn, self._hits = self.file.with_suffix(".drawn"), self.file.with_suffix(".hits")
        # A process whose step is never reached would live on: mail that Postfix waits for in SMTP is in no spool.
        reached = [step for step in STEPS[who] if plant.way == "pipe" or step not in _SPOOL_STEPS]
        self._steps = [(*step, when) for step in reached for when in ("before", "after")]
        plan = {"steps": self._steps, "least": least, "most": most, "chance": chance, "seed": rng.getrandbits(32)}
        self.file.write_text(json.dumps(plan | {"drawn": str(drawn), "hits": str(self._hits)}))
        for file in (drawn, self._hits):
            file.touch()
            file.chmod(0o666)

    def injury(self) -> Injury:
        return Injury(hits=lambda: len(self._lines()), details=self._details, is_through=self._is_through)

    def _is_through(self) -> bool:
        return set(self._lines()) >= {" ".join(step) for step in self._steps}

    def _lines(self) -> list[str]:
        return self._hits.read_text().splitlines()

    def _details(self) -> str:
        counts = Counter(self._lines())
        named = [" ".join(step) for step in self._steps]
        return "; ".join(f"{step}: {counts[step]}" for step in named)


@contextmanager
def _deliver_at_steps(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    plan = _Plan(plant, "deliver", rng, 1, 1, 0.25)
    with plant.before_delivery(f"sys.path.append('{plan.directory}'); import steps; steps.arm('{plan.file}');"):
        yield plan.injury()


@contextmanager
def _units_at_steps(plant: Plant, rng: random.Random, who: str, least: int, most: int) -> Iterator[Injury]:
    plan = _Plan(plant, who, rng, least, most, 1.0)
    changes = {"PYTHONPATH": str(plan.directory), "FAULT_STEPS": str(plan.file)}
    with _environment(plant, **changes):
        yield plan.injury()


@contextmanager
def _environment(plant: Plant, **changes: str) -> Iterator[None]:
    """Run the units with another environment."""
    plant.environment.update(changes)
    plant.restart()
    try:
        yield
    finally:
        for name in changes:
            del plant.environment[name]
        plant.restart()


# Wires.


def _wire(name: str, mode: str, detail: str = "") -> Inject:
    @contextmanager
    def inject(plant: Plant, _: random.Random) -> Iterator[Injury]:
        wire = plant.wires[name]
        wire.turn(mode, detail)
        counted: list[int] = []
        try:
            yield Injury(hits=lambda: sum(counted) if counted else wire.hits())
        finally:
            counted.append(wire.turn("pass"))

    return inject


@contextmanager
def _flapping(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Refuse and pass again, all backends, for a moment each."""
    counts = [0]

    def flap() -> None:
        wire = plant.wires[rng.choice(sorted(plant.wires))]
        wire.turn("refuse")
        time.sleep(rng.random() * 0.5)
        wire.turn("pass")
        counts[0] += 1

    yield Injury(_Every(0.5, flap).tick, lambda: counts[0])


@contextmanager
def _frozen(pids: list[int]) -> Iterator[Injury]:
    """Freeze processes with what they have in hand, and let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield Injury(hits=lambda: len(pids))
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _database_stopped(plant: Plant, _: random.Random) -> AbstractContextManager[Injury]:
    return _frozen(plant.postgres.processes())


def _worker_paused(plant: Plant, rng: random.Random) -> AbstractContextManager[Injury]:
    return _frozen(plant.units.pids(rng.choice(_workers(plant))))


# Credentials, names, settings.


@contextmanager
def _database_login(plant: Plant, _: random.Random) -> Iterator[Injury]:
    for role in (ROLE, MAP_ROLE):
        plant.sql(f"ALTER ROLE {role} NOLOGIN")
    try:
        yield Injury(_Every(1, lambda: _end_sessions(plant)).tick)
    finally:
        for role in (ROLE, MAP_ROLE):
            plant.sql(f"ALTER ROLE {role} LOGIN")


def _end_sessions(plant: Plant) -> bool:
    ended = plant.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() "
        "AND application_name <> 'campaign'",
        DATABASE,
    )
    return bool(ended)


@contextmanager
def _archive_login(plant: Plant, _: random.Random) -> Iterator[Injury]:
    plant.s3.suspend_user()
    try:
        yield Injury()
    finally:
        plant.s3.suspend_user(False)


def _settings(**changes: Callable[[Plant], str]) -> Inject:
    @contextmanager
    def inject(plant: Plant, _: random.Random) -> Iterator[Injury]:
        plant.change_settings(**{name: value(plant) for name, value in changes.items()})
        try:
            yield Injury()
        finally:
            plant.change_settings()

    return inject


def _unresolved(name: str) -> Callable[[Plant], str]:
    return lambda plant: plant.settings[name].replace("127.0.0.1", "backend.invalid")


@contextmanager
def _settings_file(plant: Plant, rng: random.Random, is_gone: bool) -> Iterator[Injury]:
    """Take the settings file away, or cut it off, and start everything again that reads it."""
    file = plant.deployment.settings_file
    text = file.read_text()
    if is_gone:
        file.unlink()
    else:
        os.truncate(file, rng.randrange(1, len(text) // 2))

    def kill() -> None:
        for name in plant.units.units:
            plant.units.end(name)

    try:
        yield _Every(10, kill).injury()
    finally:
        plant.deployment.write_settings(plant.settings)


# Room.


@contextmanager
def _spool_full(plant: Plant, _: random.Random) -> Iterator[Injury]:
    with _filled(plant.spool) as fill:
        yield Injury(fill)  # again and again: entries that are delivered make room for others


@contextmanager
def _filled(directory: Path) -> Iterator[Callable[[], None]]:
    """Fill a file system to the last byte; return what fills it up again."""
    filler = directory / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    try:
        fill()
        yield fill
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def _spool_no_inodes(plant: Plant, _: random.Random) -> Iterator[Injury]:
    place = plant.spool / "filler"
    place.mkdir()
    try:
        for number in range(1_000_000):
            try:
                (place / str(number)).touch()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
        yield Injury()
    finally:
        shutil.rmtree(place)


@contextmanager
def _spool_read_only(plant: Plant, _: random.Random) -> Iterator[Injury]:
    _remount(plant.spool, "ro")
    try:
        yield Injury()
    finally:
        _remount(plant.spool, "rw")


def _remount(path: Path, how: str) -> None:
    """Remount, again where it is busy: a file is open for writing."""
    for attempt in range(600):
        try:
            run(["mount", "-o", f"remount,{how}", path])
            return
        except LabError:
            if attempt == 599:
                raise
            time.sleep(0.05)


@contextmanager
def _no_connections(plant: Plant, _: random.Random) -> Iterator[Injury]:
    """Take every connection that PostgreSQL has for those who are no superusers."""
    held: list[psycopg.Connection[object]] = []
    conninfo = plant.postgres.url(DATABASE, ROLE).replace("+psycopg", "")

    def take() -> bool:
        with suppress(psycopg.OperationalError):
            while len(held) < 1000:
                held.append(psycopg.connect(conninfo, connect_timeout=5, application_name="campaign"))
        return _end_sessions(plant)

    try:
        yield Injury(_Every(0.3, take).tick)
    finally:
        for connection in held:
            connection.close()


@contextmanager
def _database_disk_full(plant: Plant, _: random.Random) -> Iterator[Injury]:
    """Fill PostgreSQL's disk; it may end itself, and is started again as long as it does."""

    def revive() -> bool:
        if plant.postgres.is_running:
            return False
        with suppress(LabError):
            plant.postgres.start()
        return True

    with _filled(plant.place / "database"):
        yield Injury(_Every(1, revive).tick)
    while not plant.postgres.is_running:
        revive()


# Time, deploys, migrations.


def _clock_behind(hours: float) -> Inject:
    @contextmanager
    def inject(plant: Plant, _: random.Random) -> Iterator[Injury]:
        clock = plant.place / "clock"
        clock.write_text("+0\n")
        clock.chmod(0o644)
        preload = {
            "PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "PYTHONPATH": str(plant.place / "sleep"),
        }  # fmt: skip
        with _environment(plant, **preload):
            time.sleep(2)
            since = plant.units.log.stat().st_size
            clock.write_text(f"{-int(3600 * hours):+d}\n")
            counted: list[int] = []
            yield Injury(hits=lambda: counted[0] if counted else _records_of_another_time(plant.units.log, since))
            counted.append(_records_of_another_time(plant.units.log, since))

    return inject


def _records_of_another_time(log: Path, since: int) -> int:
    """Count the log records whose time is over five minutes away."""
    with log.open("rb") as file:
        file.seek(since)
        times = re.findall(rb'"timestamp": "([^"]+)"', file.read())
    now, limit = datetime.now(UTC), timedelta(minutes=5)
    return sum(abs(datetime.fromisoformat(text.decode()) - now) > limit for text in times)


DEPLOYED = (
    *("__init__", "config", "pipeline/deliver", "pipeline/extract", "entrypoints/pipe", "domain/outcomes"),
    *("storage/archive/s3", "storage/spool_entry"),
)


@contextmanager
def _broken_deploy(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Put a module there that raises, is empty or cut off, one after the other, restarting the units each time."""
    bad = ("raise RuntimeError('by the campaign')\n{}", "import no_such_module\n{}", "", "{:.300}", "def (\n{}")
    done: list[str] = []

    def deploy() -> None:
        file = plant.package / f"{rng.choice(DEPLOYED)}.py"
        text = file.read_text()
        how = rng.choice(bad)
        replace(file, how.format(text) if how else "")
        done.append(f"{file.name}: {how.partition(chr(10))[0] or 'empty'}")
        for name in plant.units.units:
            plant.units.end(name)
        time.sleep(2.5)
        replace(file, text)

    yield Injury(_Every(0.5, deploy).tick, lambda: len(done), lambda: "; ".join(done))


def replace(file: Path, text: str) -> None:
    """Write a module as an installer does: beside it, then renamed; its compiled form goes."""
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(file)


_STEP = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    op.add_column("inbound_message", sa.Column("campaign_{revision}", sa.Text()))
    op.add_column("document", sa.Column("campaign_{revision}", sa.Integer(), nullable=False, server_default="7"))
    op.create_index("ix_campaign_{revision}", "inbound_message", ["org_id", "from_email"])
    op.create_table("campaign_{revision}", sa.Column("id", sa.BigInteger(), primary_key=True))
"""


@contextmanager
def _migration(plant: Plant, rng: random.Random) -> Iterator[Injury]:
    """Bring the schema to the next version, by the next version's own `orderflow-admin init`, while old code runs."""
    next_version = plant.place / "next"
    package = next_version / plant.package.name
    if not next_version.exists():
        shutil.copytree(plant.package, package)
        for path in plant.packages.iterdir():
            if path.name != package.name:
                (next_version / path.name).symlink_to(path.resolve())
    versions = package / "migrations" / "versions"
    before = max(re.findall(r'^revision = "(\w+)"', "\n".join(f.read_text() for f in versions.glob("*.py")), re.M))
    revision = f"{int(before) + 1:04}"
    (versions / f"{revision}_campaign.py").write_text(_STEP.format(revision=revision, before=before))
    code = f"import sys; sys.path.insert(0, '{next_version}'); "
    code += "from orderflow_ingest.entrypoints.admin.main import main; main()"
    command = [plant.deploy / "bin" / "python3", "-I", "-S", "-c", code, "init"]
    settings = {"ORDERFLOW_SETTINGS": str(plant.deployment.settings_file), **plant.deployment.environment}
    time.sleep(rng.random())
    run(command, user=plant.deployment.user, env={**ENVIRONMENT, **settings})
    ((version,),) = plant.sql("SELECT version_num FROM alembic_version")
    if version != revision:
        raise LabError(f"the schema is {version} after the step {revision}")
    yield Injury(hits=lambda: 1, details=lambda: f"schema {revision}, code of {before}")


def _faults() -> Iterator[Fault]:
    def fault(name: str, breaks: str, inject: Inject, *touches: str, **options: object) -> Fault:
        return Fault(name, breaks, inject, frozenset(touches), **options)  # type: ignore[arg-type]

    redis = frozenset({"redis"})
    service = lambda plant, rng: _units_at_steps(plant, rng, "service", 1, 8)  # noqa: E731
    worker = lambda plant, rng: _units_at_steps(plant, rng, "worker", 2, 10)  # noqa: E731
    yield fault("kill-deliver", "kill -9 of orderflow-deliver, at random", _kill_deliver, _POSTFIX, ways=_PIPE)
    yield fault("kill-deliver-at-steps", "kill -9 of orderflow-deliver, before and after each named step",
                _deliver_at_steps, _POSTFIX, ways=_PIPE, seconds=15.0)  # fmt: skip
    yield fault("kill-service", "kill -9 of a service, at random", _kill_service, _UNITS)
    yield fault(
        "kill-service-at-steps",
        "kill -9 of each service, before and after each named step",
        service,
        _UNITS,
        seconds=25.0,
    )
    yield fault("kill-worker", "kill -9 of a worker's processes, at random", _kill_worker, _UNITS)
    yield fault("kill-worker-at-steps", "kill -9 of each worker process, before and after each named step", worker,
                _UNITS, seconds=25.0)  # fmt: skip
    yield fault("kill-database", "kill -9 of PostgreSQL, started again", _kill_database, "database", "recipients")
    yield fault("kill-archive", "kill -9 of the S3 server, started again", _kill_archive, "archive")
    yield fault("kill-queue", "kill -9 of Redis, started again", _kill_queue, "queue", queues=redis)
    yield fault("kill-postfix", "kill -9 of Postfix with a full queue, started again", _kill_postfix, _POSTFIX,
                "archive")  # fmt: skip
    yield fault("restart-everything", "kill -9 of all there is at once, with mail in all states", _restart_everything,
                _POSTFIX, "database", "recipients", "archive", "queue", _UNITS)  # fmt: skip
    wires = {"database": "PostgreSQL", "archive": "the S3 server", "queue": "Redis", "recipients": "Postfix's table"}
    modes = (
        ("refuses", "connections refused", "refuse", "", 4.0),
        ("hangs", "accepts and never answers", "hang", "", 12.0),
        ("slow", "each answer 2 s late", "slow", "2", 6.0),
        ("resets", "each answer broken off", "reset", "", 4.0),
    )
    for wire, server in wires.items():
        queues = redis if wire == "queue" else frozenset(QUEUES)
        for name, breaks, mode, detail, seconds in modes[:2] if wire == "recipients" else modes:
            inject = _wire(wire, mode, detail)
            yield fault(f"{wire}-{name}", f"{server}: {breaks}", inject, wire, queues=queues, seconds=seconds)
    yield fault("database-hangs-for-good", "PostgreSQL: open connections are silent for ever, later new ones serve",
                _wire("database", "hang for good"), "database", seconds=12.0)  # fmt: skip
    yield fault("archive-hangs-for-good", "the S3 server: open connections are silent for ever, later new ones serve",
                _wire("archive", "hang for good"), "archive", seconds=12.0)  # fmt: skip
    yield fault("worker-paused", "a worker's processes frozen by SIGSTOP past their lease, then let go on",
                _worker_paused, _UNITS, seconds=40.0)  # fmt: skip
    yield fault("database-stopped", "PostgreSQL: frozen by SIGSTOP, goes on by SIGCONT", _database_stopped, "database",
                "recipients")  # fmt: skip
    yield fault("archive-500", "the S3 server answers 500", _wire("archive", "answer", "500 InternalError"), "archive")
    yield fault("archive-503", "the S3 server answers 503 SlowDown", _wire("archive", "answer", "503 SlowDown"),
                "archive")  # fmt: skip
    yield fault("flapping", "every backend refuses for a moment, again and again", _flapping, *wires)
    yield fault("database-login", "PostgreSQL refuses the role", _database_login, "database", "recipients")
    yield fault("archive-login", "the S3 server refuses the credentials", _archive_login, "archive")
    yield fault("archive-no-bucket", "there is no such bucket", _settings(ARCHIVE_URL=lambda _: f"s3://no-{BUCKET}"),
                _SETTINGS, _UNITS)  # fmt: skip
    yield fault("dns-fails", "the backends' names do not resolve",
                _settings(DATABASE_URL=_unresolved("DATABASE_URL"), S3_ENDPOINT_URL=_unresolved("S3_ENDPOINT_URL")),
                _SETTINGS, _UNITS)  # fmt: skip
    yield fault("spool-full", "the spool's file system is full", _spool_full, "spool", ways=_PIPE, mounts=True)
    yield fault("spool-no-inodes", "the spool's file system has no inodes", _spool_no_inodes, "spool", ways=_PIPE,
                mounts=True)  # fmt: skip
    yield fault("spool-read-only", "the spool's file system is read-only", _spool_read_only, "spool", ways=_PIPE,
                mounts=True)  # fmt: skip
    yield fault("database-no-connections", "PostgreSQL has no connection left", _no_connections, "database",
                "recipients")  # fmt: skip
    yield fault("database-disk-full", "PostgreSQL's disk is full", _database_disk_full, "database", "recipients",
                mounts=True)  # fmt: skip
    yield fault("clock-back", "the clock of service and workers steps back 10 minutes", _clock_behind(1 / 6), _UNITS,
                library=FAKETIME)  # fmt: skip
    yield fault("clock-back-hour", "the clock of service and workers steps back an hour: S3 refuses signatures",
                _clock_behind(1), _UNITS, library=FAKETIME)  # fmt: skip
    yield fault("clock-ahead", "the clock of service and workers is a year ahead: S3 refuses signatures",
                _clock_behind(-24 * 365), _UNITS, library=FAKETIME)  # fmt: skip
    yield fault("broken-deploy", "a module raises on import, is empty or cut off; all is restarted", _broken_deploy,
                _UNITS)  # fmt: skip
    yield fault("settings-gone", "the settings file is gone, and all is restarted",
                lambda plant, rng: _settings_file(plant, rng, is_gone=True), _SETTINGS, _UNITS)  # fmt: skip
    yield fault("settings-half", "the settings file is cut off, and all is restarted",
                lambda plant, rng: _settings_file(plant, rng, is_gone=False), _SETTINGS, _UNITS)  # fmt: skip
    yield fault("migration", "the schema goes to the next version while old code runs", _migration, "schema",
                "database")  # fmt: skip


FAULTS = {fault.name: fault for fault in _faults()}
SHORT = (
    "kill-deliver", "kill-service", "kill-worker", "kill-database", "kill-archive", "kill-postfix", "archive-hangs",
    "archive-503", "spool-full", "settings-gone",
)  # fmt: skip
