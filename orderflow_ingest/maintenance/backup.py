"""Back up the embedded databases, rows and queue, while mail is delivered.

Copying the file alone is not enough: in WAL mode the latest writes are in a second file. SQLite's backup API reads one
state of the database in one transaction, and stops no writer. The copies are checked and synced in a temporary
directory beside the target, which is renamed at the end. So a directory with the target's name is complete, and only
the user who made it can read it. SIGKILL or a power cut leaves a directory whose name begins with a dot.

Rows are copied first, then the queue. A task whose row is in no copy is dropped, and a row without a task is found by
the sweep. A delivery writes the object before the row, so copy the archive after this.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from orderflow_ingest.config import Settings, SettingsError
from orderflow_ingest.domain.errors import OrderflowError
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.storage.fsync import sync_directory, sync_file
from orderflow_ingest.storage.resilience import error_hints

_WAIT = 10.0  # seconds for a lock; only a file that is being made WAL has one that a reader waits for


class BackupError(OrderflowError):
    """A back-up that was not made. Nothing has the name that was asked for."""


def back_up(settings: Settings, directory: Path) -> list[tuple[Path, int]]:
    """Copy the databases of SQLite into a new directory. Return the copies and their sizes.

    Raise SettingsError if rows are not in SQLite, BackupError for any other reason.
    """
    if not settings.database_url.startswith("sqlite"):
        raise SettingsError(
            "DATABASE_URL is PostgreSQL, which has its own: pg_dump -Fc as the owner of the tables, or pg_basebackup "
            "with an archive of its write-ahead log"
        )
    directory = directory.absolute()
    if os.path.lexists(directory):
        raise BackupError(f"{directory} is there already, and nothing is overwritten")
    urls = {"DATABASE_URL": settings.database_url, "QUEUE_URL": settings.queue_url}
    sources = {name: Path(url.removeprefix("sqlite:///")) for name, url in urls.items() if url.startswith("sqlite")}
    if len({source.name for source in sources.values()}) < len(sources):
        raise SettingsError("DATABASE_URL and QUEUE_URL name files of one name: give them different ones")
    try:
        with _named_at_the_end(directory) as unfinished:
            for setting, source in sources.items():
                _copy(setting, source, unfinished / source.name)
    except OSError as error:
        raise BackupError(f"{directory} cannot be written: {os_reason(error)}") from error
    return [(path, path.stat().st_size) for path in (directory / source.name for source in sources.values())]


@contextmanager
def _named_at_the_end(directory: Path) -> Iterator[Path]:
    """Return a new directory that gets its name if all goes well, and is removed if not. Raise OSError."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield unfinished
        sync_directory(unfinished)
        # Refuses a directory that somebody has made meanwhile, unless that is empty.
        os.rename(unfinished, directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _copy(setting: str, source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=_WAIT)) as database,
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            target.chmod(0o600)  # it holds the mail of all tenants, and may be moved out of its directory
            database.backup(copy)
            found = [row[0] for row in copy.execute("PRAGMA quick_check(1)")]
            copy.execute("PRAGMA journal_mode=DELETE")  # so that one file is all there is of it
    except sqlite3.Error as error:
        is_of_copy = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"  # reading takes no room
        about = target.parent.parent if is_of_copy else source
        raise BackupError(error_hints.explain_database_error(error, setting, f"sqlite:///{about}")) from error
    if found != ["ok"]:
        raise BackupError(f"{source}: it is damaged, and so is its copy: restore it from the archive or a backup")
    sync_file(target)
