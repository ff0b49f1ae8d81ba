"""The parts of a deployment, opened as its settings name them; every door takes them from here."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from . import limits
from .archive import Archive, ArchiveUnavailable, open_archive
from .breaker import Breaker, unguarded
from .logs import WARNING, event
from .queue import Body, Queue
from .records import Records, RecordsUnavailable, recipients_path
from .settings import Settings
from .spool import Spool


@dataclass(frozen=True)
class Parts:
    """What the use cases work with."""

    settings: Settings
    spool: Spool
    archive: Archive
    records: Records
    queue: Queue

    def swept_at(self) -> datetime:
        """Say when the sweep rings for what is rung for now, by the database's clock. Raises RecordsUnavailable."""
        return self.records.database.now() + timedelta(seconds=self.settings.sweep_after)


def open_parts(
    settings: Settings,
    extract: Body | None = None,
    hand_over: Body | None = None,
    create: bool = False,
    guarded: bool = True,
) -> Parts:
    """Open the parts; nothing is connected before it is used. `create` makes a missing SQLite file.

    What delivers and works is `guarded`: it does not wait for a backend that is known to be away.
    """
    times = limits.within(settings.deadline)
    archive = Breaker(settings.away_dir / "archive", "archive", ArchiveUnavailable) if guarded else unguarded
    records = Breaker(settings.away_dir / "database", "database", RecordsUnavailable) if guarded else unguarded
    longest = timedelta(seconds=settings.longest_delay)
    return Parts(
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
        records=Records(settings.database_url, create, times, records, longest),
        queue=Queue(settings.queue_url, extract, hand_over, create, settings.task_time_limit),
    )


def publish_recipients(parts: Parts) -> None:
    """Write the active organisations where Postfix's sqlite: map reads them, if it is that."""
    path = recipients_path(parts.settings.database_url)
    if path:
        parts.records.organizations.publish(path)


def keep_recipients(parts: Parts) -> None:
    """Write Postfix's recipient file again where it is gone, closed, damaged or old. Raise RecordsUnavailable."""
    path = recipients_path(parts.settings.database_url)
    if path and parts.records.organizations.keep_published(path):
        event("recipients", "Postfix's recipient file was not right, and was written again.", WARNING)
