"""What `orderflow-admin check` looks at: every part is really used, and told in a line what to change."""

import hashlib
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from ..archive import ArchiveUnavailable, ObjectDamaged, ObjectMissing
from ..assembly import Parts, open_parts
from ..attempts import HandlerUnavailable
from ..handover import load_handler
from ..logs import place
from ..queue import QueueUnavailable
from ..records import RecordsUnavailable, recipients_path, schema
from ..settings import BadSettings, Settings, read_file
from ..spool import SpoolFull
from .openness import check_openness
from .postconf import Postconf
from .postfix_check import check_postfix, open_postfix
from .postfix_ways import way_of
from .service_check import check_service


class Level(Enum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    TROUBLE = 2


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    part: str
    level: Level
    text: str


def check_all(settings: Settings, postfix_config: str | None, with_postfix: bool = True) -> Iterator[Finding]:
    """Look at every part; one that fails does not hide the next."""
    parts = open_parts(settings, guarded=False)
    postfix = open_postfix(postfix_config) if with_postfix else None
    way = way_of(postfix) if isinstance(postfix, Postconf) else None
    with _as_owner(settings.spool_dir):
        yield from _check_parts(parts)
        yield from (Finding("openness", Level[level], text) for level, text in check_openness(parts))
    yield from (Finding("service", Level[level], text) for level, text in check_service(settings, way))
    if isinstance(postfix, Postconf):
        yield from (Finding("postfix", Level[level], text) for level, text in check_postfix(parts, postfix))
    elif postfix:
        yield Finding("postfix", Level[postfix[0]], postfix[1])


class Trouble(Exception):
    """A finding that keeps mail from being delivered."""


def _check_parts(parts: Parts) -> Iterator[Finding]:
    steps: list[tuple[str, Callable[[Parts], str]]] = [
        ("settings", _settings),
        ("spool", _spool),
        ("breaker", _breaker),
        ("archive", _archive),
        ("database", _database),
        ("schema", _schema),
        ("queue", _queue),
        ("organisations", _organizations),
        ("document handler", _handler),
        ("worker", _worker),
    ]
    for name, look in steps:
        try:
            yield Finding(name, Level.OK, look(parts))
        except Trouble as trouble:
            yield Finding(name, Level.TROUBLE, str(trouble))
        except Exception as error:
            yield Finding(name, Level.TROUBLE, f"could not be checked: {place(error)}")


@contextmanager
def _as_owner(directory: Path) -> Iterator[None]:
    """Be the user that the spool belongs to, who delivers: root would find everything in order."""
    if os.geteuid() or not directory.is_dir():
        yield
        return
    owner = directory.stat()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _settings(parts: Parts) -> str:
    file = parts.settings.file
    if file is None:
        return "no file, everything as it comes"
    try:
        read_file(str(file))
    except BadSettings as error:
        raise Trouble(f"{error} by {_user()}, who delivers") from error
    if file.stat().st_mode & 0o007 and file.is_file():
        raise Trouble(f"{file} can hold passwords and is open to every user: chmod 640 {file}")
    return str(file)


def _spool(parts: Parts) -> str:
    directory = parts.settings.spool_dir
    if not directory.is_dir():
        raise Trouble(f"{directory} is not there: run orderflow-admin init")
    if not parts.spool.is_on_one_file_system():
        raise Trouble(f"the directories in {directory} lie on several file systems: a rename cannot move an entry")
    blocks = iter((b"probe", b""))
    try:
        parts.spool.finish(parts.spool.write(b"recipient: probe", lambda _: next(blocks), limit=100))
    except SpoolFull as error:
        raise Trouble(f"{directory} cannot be written by {_user()}: {error}") from error
    if os.stat(directory).st_mode & 0o077:
        raise Trouble(f"{directory} is open to other users: chmod 700 {directory}")
    free = shutil.disk_usage(directory).free
    if free < 20 * parts.settings.max_message_size:
        raise Trouble(f"{directory} has {free >> 20} MiB left")
    return f"{directory} can be written, {free >> 20} MiB left, {len(parts.spool.entries())} entries"


def _archive(parts: Parts) -> str:
    data = os.urandom(16)
    digest = hashlib.sha256(data).hexdigest()
    key = f"probe/{digest}"
    try:
        parts.archive.put(key, data, digest)
        parts.archive.read(key, digest)
        parts.archive.delete(key)
    except (ArchiveUnavailable, ObjectMissing, ObjectDamaged) as error:
        raise Trouble(f"{parts.settings.archive_url}: {error}") from error
    return f"{parts.settings.archive_url}: put, read and delete work"


def _database(parts: Parts) -> str:
    try:
        parts.records.organizations.find("probe")
    except RecordsUnavailable as error:
        raise Trouble(f"{error}; look at DATABASE_URL, or run orderflow-admin init") from error
    return f"{parts.records.database.engine.dialect.name} answers"


def _schema(parts: Parts) -> str:
    try:
        current = schema.current_version(parts.records.database)
    except RecordsUnavailable as error:
        raise Trouble(str(error)) from error
    if schema.is_newer(current):
        return f"version {current} is newer than this program: install the new one here too"
    if current != schema.needed_version():
        raise Trouble(f"version {current}, needed is {schema.needed_version()}: run orderflow-admin init")
    return f"version {current}"


def _queue(parts: Parts) -> str:
    try:
        depth = parts.queue.depth()
    except QueueUnavailable as error:
        raise Trouble(f"{error}; look at QUEUE_URL, or run orderflow-admin init") from error
    return f"answers, {depth} tasks waiting"


def _organizations(parts: Parts) -> str:
    organizations = parts.records.organizations
    active = {org.slug for org in organizations.all() if org.is_active}
    if not active:
        raise Trouble("none is active, so no mail is accepted: run orderflow-admin org add SLUG")
    published = recipients_path(parts.settings.database_url)
    if published and organizations.published(published) != active:
        raise Trouble(f"{published}, which Postfix reads, differs from the table: run orderflow-admin init")
    return f"{len(active)} active"


def _handler(parts: Parts) -> str:
    target = parts.settings.document_handler
    try:
        load_handler(target)
    except HandlerUnavailable as error:
        raise Trouble(f"ORDERFLOW_DOCUMENT_HANDLER {error}") from error
    return target


def _worker(parts: Parts) -> str:
    """Judge the worker by what it has left undone."""
    found = []
    lag = parts.records.messages.lag(datetime.now(UTC))
    if lag > parts.settings.lease + parts.settings.sweep_after:
        found.append(f"work is overdue for {lag:.0f} s: does orderflow-worker run? does it keep up? see its log")
    if dead := len(parts.spool.dead()):
        found.append(f"{dead} messages were set aside: see orderflow-replay dead")
    if found:
        raise Trouble("; ".join(found))
    return "nothing is left undone"


def _breaker(parts: Parts) -> str:
    """Look whether deliveries of this host are told that a backend is away, and could tell each other."""
    directory = parts.settings.away_dir
    if not os.access(directory if directory.exists() else directory.parent, os.W_OK):
        raise Trouble(f"{directory} cannot be written by {_user()}, who delivers: chown it")
    away = sorted(path.name for path in directory.glob("*"))
    if away:
        raise Trouble(f"{' and '.join(away)}: deliveries here have found it away, and are deferred while it is")
    return "no backend is known to be away"


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
