"""orderflow-admin: set up, show and verify a deployment.

orderflow-admin init       create directories, tables and queue; safe to repeat
orderflow-admin org        add, list, enable, disable and set up organisations; try what would become of a mail
orderflow-admin check      verify every part, and that Postfix's settings agree; 1 on trouble
orderflow-admin canary     send a probe mail through the real MX and time it; 1 if it does not come through
orderflow-admin status     show what is where
orderflow-admin find       find mail by words, sender, Message-ID, document, time
orderflow-admin show       tell the whole story of one mail; write out its raw bytes or a document
orderflow-admin postfix    print the Postfix configuration for these settings
orderflow-admin roles      print roles and policies, least privilege for each program
orderflow-admin reconcile  hold spool, rows, archive and queue against each other; 1 if anything is wrong
orderflow-admin retention  delete raw mail and documents that are kept for no longer
orderflow-admin erase      delete all that there is of an organisation, a sender or one mail
"""

import click

from .. import __version__
from ..archived import write_organizations
from ..records import schema
from ..settings import load
from ..terminal import json_option, opened, print_rows, program, settings_option
from . import canary_command, postfix_config, roles
from .check import check_all
from .erase import erase
from .find import find
from .findings import Level
from .organizations import archive_may_be_away, org, publish
from .reconcile import reconcile
from .retention import retention
from .show import show
from .status import status

MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.TROUBLE: "TROUBLE"}


@click.group(help="Set up, show and verify a deployment of OrderFlow ingest.")
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


for command in (org, status, find, show, canary_command.canary, reconcile, retention, erase):
    cli.add_command(command)


@cli.command()
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
    publish(parts)
    with archive_may_be_away():
        write_organizations(parts.records, parts.archive)
    click.echo(f"ready: {parts.settings.state_dir}, schema {schema.needed_version()}")


@cli.command()
@click.option("--postfix-config", metavar="DIR", help="Postfix's configuration directory; default: the system's.")
@click.option("--no-postfix", is_flag=True, help="Leave Postfix out, on a host that has none.")
@json_option
@settings_option
def check(postfix_config: str | None, no_postfix: bool, as_json: bool, settings_file: str | None) -> None:
    """Verify every part, and that Postfix's settings agree with these; exit 1 on trouble."""
    settings = load(settings_file)
    findings = list(check_all(settings, postfix_config, with_postfix=not no_postfix))
    print_rows(
        [{"part": found.part, "finding": MARKS[found.level], "says": found.text} for found in findings],
        as_json,
    )
    if any(found.level is Level.TROUBLE for found in findings):
        raise SystemExit(1)


@cli.command("postfix")
@click.argument("part", type=click.Choice(["main", "master", "map"]))
@click.option(
    "--way",
    type=click.Choice(postfix_config.WAYS),
    default=postfix_config.PIPE,
    show_default=True,
    help="How mail gets from Postfix to a delivery.",
)
@click.option("--user", default="orderflow", show_default=True, help="The user that the pipe's program runs as.")
@click.option("--program", "program_path", help="What the pipe starts, say orderflow-deliver; default: Python itself.")
@settings_option
def print_postfix(part: str, way: str, user: str, program_path: str | None, settings_file: str | None) -> None:
    """Print main.cf lines, master.cf entries, or the recipient map, for these settings."""
    click.echo(postfix_config.render(part, load(settings_file), way, user, program_path), nl=False)


@cli.group("roles")
def print_roles() -> None:
    """Print roles and policies, least privilege for each program."""


@print_roles.command("postgresql")
@click.option("--schema", "name", default="public", show_default=True, help="The schema that holds the tables.")
@settings_option
def print_postgresql_roles(name: str, settings_file: str | None) -> None:
    """Print the SQL script that makes the roles in the database; a superuser runs it, after init."""
    click.echo(roles.postgresql(load(settings_file), name), nl=False)


@print_roles.command("s3")
@settings_option
def print_s3_policies(settings_file: str | None) -> None:
    """Print an example policy for each role, for this bucket and prefix, as JSON."""
    click.echo(roles.s3(load(settings_file)), nl=False)


def main() -> None:
    """Run the program."""
    program(cli)
