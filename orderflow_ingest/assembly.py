"""The parts of a deployment, opened as its settings name them; every door takes them from here."""

from dataclasses import dataclass

from .archive import Archive, open_archive
from .queue import Body, Queue
from .records import Records
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


def open_parts(
    settings: Settings, extract: Body | None = None, hand_over: Body | None = None, create: bool = False
) -> Parts:
    """Open the parts; nothing is connected before it is used. `create` makes a missing SQLite file."""
    return Parts(
        settings=settings,
        spool=Spool(settings.spool_dir),
        archive=open_archive(settings.archive_url, settings.s3_endpoint_url),
        records=Records(settings.database_url, create),
        queue=Queue(settings.queue_url, extract, hand_over, create, settings.task_time_limit),
    )
