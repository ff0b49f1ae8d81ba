"""orderflow-admin init: directories, tables and queue of a deployment.

The owner of the database makes and changes the tables. On a further host, whose settings name a role that may do
neither, init makes the directories, sees that the tables are there and of this version, and ends with 0.
"""

import click

from ..archived import write_organizations
from ..assembly import Parts, publish_recipients
from ..queue import QueueUnavailable
from ..records import schema
from ..terminal import NotSetUp, opened, settings_option
from .organizations import archive_may_be_away


@click.command()
@settings_option
def init(settings_file: str | None) -> None:
    """Create directories, tables and queue; safe to repeat, also to bring the schema up to date.

    Run it as the user that delivers mail and works on it. Where the database is set up already, and its role here may
    make no tables, directories are all that is missing.
    """
    parts = opened(settings_file, create=True)
    parts.settings.state_dir.mkdir(parents=True, exist_ok=True)
    parts.settings.state_dir.chmod(0o711)  # Postfix's map reads recipients.db in it, and nothing else
    for directory in (parts.settings.away_dir, parts.settings.metrics_dir):
        directory.mkdir(mode=0o700, exist_ok=True)
    parts.spool.prepare()
    parts.archive.prepare()
    is_owner = schema.may_create(parts.records.database)
    if is_owner:
        schema.upgrade(parts.records.database)
        parts.queue.create_tables()
        publish_recipients(parts)
        with archive_may_be_away():
            write_organizations(parts.records, parts.archive)
    else:
        _find_tables(parts)
    if parts.settings.state_dir.stat().st_uid == 0:
        told = f"{parts.settings.state_dir} is root's, and Postfix starts no delivery as root"
        click.echo(f"warning: {told}: chown -R USER: {parts.settings.state_dir}, for the USER that delivers", err=True)
    left = "" if is_owner else "; the tables are another role's, and were left as they are"
    click.echo(f"ready: {parts.settings.state_dir}, schema {schema.needed_version()}{left}")


def _find_tables(parts: Parts) -> None:
    """Look whether another role has made all tables. Raise NotSetUp, RecordsUnavailable, QueueUnavailable."""
    database = parts.records.database
    version, needed = schema.current_version(database), schema.needed_version()
    if version != needed and not schema.is_newer(version):
        told = f"its tables are of version {version}, needed is {needed}" if version else "it has no tables"
        raise NotSetUp(
            f"database {database.name}: {told}, and the role of DATABASE_URL may make none: run orderflow-admin init "
            "as their owner first"
        )
    try:
        parts.queue.create_tables()  # QUEUE_URL may name a database where its role may
    except QueueUnavailable:
        parts.queue.depth()  # works where another role has made them, and says what is wrong where none has
