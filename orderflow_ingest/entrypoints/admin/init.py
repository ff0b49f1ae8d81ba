"""The command init: create directories, tables and queue of a deployment.

The owner of the database creates and changes the tables. On another host, the settings may name a role that may do
neither. There init creates the directories, checks that the tables exist and have this version, and exits with 0.
"""

import click

from orderflow_ingest.app import App, publish_recipients
from orderflow_ingest.entrypoints.cli.terminal import NotSetUpError, examples, load_app, settings_option
from orderflow_ingest.pipeline.archive_manifest import write_organizations
from orderflow_ingest.storage.database import schema
from orderflow_ingest.storage.queue import QueueUnavailable

from .org import archive_may_be_unavailable


@click.command(epilog=examples("orderflow-admin init"))
@settings_option
def init(settings_file: str | None) -> None:
    """Create directories, tables and queue. Safe to repeat, also to bring the schema up to date.

    Run it as the user that delivers mail and works on it. Where the database is set up already, and its role here may
    make no tables, directories are all that is missing.
    """
    app = load_app(settings_file, create=True)
    app.settings.state_dir.mkdir(parents=True, exist_ok=True)
    app.settings.state_dir.chmod(0o711)  # Postfix's map reads recipients.db in it, and nothing else
    for directory in (app.settings.circuits_dir, app.settings.metrics_dir):
        directory.mkdir(mode=0o700, exist_ok=True)
    app.spool.prepare()
    app.archive.prepare()
    is_owner = schema.may_create(app.records.database)
    if is_owner:
        schema.upgrade(app.records.database)
        app.queue.create_tables()
        publish_recipients(app)
        with archive_may_be_unavailable():
            write_organizations(app.records, app.archive)
    else:
        _find_tables(app)
    if app.settings.state_dir.stat().st_uid == 0:
        problem = f"{app.settings.state_dir} is root's, and Postfix starts no delivery as root"
        click.echo(f"warning: {problem}: chown -R USER: {app.settings.state_dir}, for the USER that delivers", err=True)
    left = "" if is_owner else "; the tables are another role's, and were left as they are"
    click.echo(f"ready: {app.settings.state_dir}, schema {schema.needed_version()}{left}")


def _find_tables(app: App) -> None:
    """Look whether another role has made all tables. Raise NotSetUpError, DatabaseUnavailable, QueueUnavailable."""
    database = app.records.database
    version, needed = schema.current_version(database), schema.needed_version()
    if version != needed and not schema.is_newer(version):
        problem = f"its tables are of version {version}, needed is {needed}" if version else "it has no tables"
        raise NotSetUpError(
            f"database {database.name}: {problem}, and the role of DATABASE_URL may make none: run orderflow-admin "
            "init as their owner first"
        )
    try:
        app.queue.create_tables()  # QUEUE_URL may name a database where its role may
    except QueueUnavailable:
        app.queue.depth()  # works where another role has made them, and says what is wrong where none has
