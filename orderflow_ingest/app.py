"""App: the settings, spool, archive, database and queue of a deployment. Every program opens one and passes it on."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from orderflow_ingest.config import Settings
from orderflow_ingest.observability.logs import WARNING, event
from orderflow_ingest.storage.archive import Archive, ArchiveUnavailable, open_archive
from orderflow_ingest.storage.database import DatabaseUnavailable, Records, recipients_path
from orderflow_ingest.storage.queue import Queue, TaskHandler
from orderflow_ingest.storage.resilience import timeouts
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker, unguarded
from orderflow_ingest.storage.spool import Spool


@dataclass(frozen=True)
class App:
    """What the use cases work with."""

    settings: Settings
    spool: Spool
    archive: Archive
    records: Records
    queue: Queue

    def swept_at(self) -> datetime:
        """Return when the sweep takes up what is enqueued now, by the database's clock. Raise DatabaseUnavailable."""
        return self.records.database.now() + timedelta(seconds=self.settings.sweep_after)


def open_app(
    settings: Settings,
    extract: TaskHandler | None = None,
    hand_over: TaskHandler | None = None,
    *,
    create: bool = False,
    guarded: bool = True,
) -> App:
    """Open the parts. Nothing is connected before it is used. `create` makes a missing SQLite file.

    What delivers and works is `guarded`: it does not wait for a backend that is known to be unavailable.
    """
    times = timeouts.scaled_to(settings.deadline)
    archive = CircuitBreaker(settings.circuits_dir / "archive", "archive", ArchiveUnavailable) if guarded else unguarded
    records = (
        CircuitBreaker(settings.circuits_dir / "database", "database", DatabaseUnavailable) if guarded else unguarded
    )
    longest = timedelta(seconds=settings.longest_delay)
    return App(
        settings=settings,
        spool=Spool(settings.spool_dir),
        archive=open_archive(
            settings.archive_url,
            settings.s3_endpoint_url,
            settings.s3_encryption,
            times,
            archive,
            settings.s3_checksum,
            settings.s3_addressing,
        ),
        records=Records(settings.database_url, times, records, longest, create=create),
        queue=Queue(settings.queue_url, extract, hand_over, settings.task_time_limit, create=create),
    )


def publish_recipients(app: App) -> None:
    """Write the active organizations where Postfix's sqlite: map reads them, if it is that."""
    path = recipients_path(app.settings.database_url)
    if path:
        app.records.organizations.publish(path)


def keep_recipients(app: App) -> None:
    """Write Postfix's recipient file again where it is gone, closed, damaged or old. Raise DatabaseUnavailable."""
    path = recipients_path(app.settings.database_url)
    if path and app.records.organizations.keep_published(path):
        event("recipients", "Postfix's recipient file was not right, and was written again.", WARNING)
