"""orderflow-admin init: directories, tables and queue of a deployment."""

import click

from ..archived import write_organizations
from ..assembly import publish_recipients
from ..records import schema
from ..terminal import opened, settings_option
from .organizations import archive_may_be_away


@click.command()
@settings_option
def init(settings_file: str | None) -> None:
    """Create directories, tables and queue; safe to repeat, also to bring the schema up to date.

    Run it as the user that delivers mail and works on it.
    """
    parts = opened(settings_file, create=True)
    parts.settings.state_dir.mkdir(parents=True, exist_ok=True)
    parts.settings.state_dir.chmod(0o711)  # Postfix's map reads recipients.db in it, and nothing else
    for directory in (parts.settings.away_dir, parts.settings.metrics_dir):
        directory.mkdir(mode=0o700, exist_ok=True)
    parts.spool.prepare()
    parts.archive.prepare()
    schema.upgrade(parts.records.database)
    parts.queue.create_tables()
    publish_recipients(parts)
    with archive_may_be_away():
        write_organizations(parts.records, parts.archive)
    if parts.settings.state_dir.stat().st_uid == 0:
        told = f"{parts.settings.state_dir} is root's, and Postfix starts no delivery as root"
        click.echo(f"warning: {told}: chown -R USER: {parts.settings.state_dir}, for the USER that delivers", err=True)
    click.echo(f"ready: {parts.settings.state_dir}, schema {schema.needed_version()}")
