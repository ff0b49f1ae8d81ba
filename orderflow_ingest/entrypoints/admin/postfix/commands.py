"""orderflow-admin postfix and roles: what belongs into Postfix, PostgreSQL and S3, printed for these settings."""

import click

from orderflow_ingest.entrypoints.admin import roles
from orderflow_ingest.entrypoints.cli.terminal import CommandGroup, examples, loaded, settings_option

from . import render


@click.command(
    "postfix", epilog=examples("orderflow-admin postfix main --way lmtp", "orderflow-admin postfix master --way lmtp")
)
@click.argument("part", type=click.Choice(["main", "master", "map", "passfile"]))
@click.option(
    "--way",
    type=click.Choice(render.WAYS),
    default=render.PIPE,
    show_default=True,
    help="How mail gets from Postfix to a delivery.",
)
@click.option("--user", default="orderflow", show_default=True, help="The user that the pipe's program runs as.")
@click.option("--program", "program_path", help="What the pipe starts, say orderflow-deliver; default: Python itself.")
@click.option(
    "--passfile",
    default=render.PASSFILE,
    show_default=True,
    help="Where the map for PostgreSQL finds its password.",
)
@click.option(
    "--map",
    "map_by",
    type=click.Choice(render.MAPS),
    default=render.BY_SERVICE,
    show_default=True,
    help="What answers RCPT TO: the service, or Postfix from the database, which needs the parts map and passfile.",
)
@settings_option
def print_postfix(
    part: str, way: str, user: str, program_path: str | None, passfile: str, map_by: str, settings_file: str | None
) -> None:
    """Print main.cf lines, master.cf entries, the recipient map, or the map's password, for these settings."""
    text = render.render(part, loaded(settings_file), way, user, program_path, passfile, map_by)
    click.echo(text, nl=False)


@click.group("roles", cls=CommandGroup)
def print_roles() -> None:
    """Print roles and policies, least privilege for each program."""


@print_roles.command("postgresql", epilog=examples("orderflow-admin roles postgresql | sudo -u postgres psql orders"))
@click.option("--schema", "name", default="public", show_default=True, help="The schema that holds the tables.")
@settings_option
def print_postgresql_roles(name: str, settings_file: str | None) -> None:
    """Print the SQL script that makes the roles in the database. A superuser runs it, after init."""
    click.echo(roles.postgresql(loaded(settings_file), name), nl=False)


@print_roles.command("s3", epilog=examples("orderflow-admin roles s3"))
@settings_option
def print_s3_policies(settings_file: str | None) -> None:
    """Print an example policy for each role, for this bucket and prefix, as JSON."""
    click.echo(roles.s3(loaded(settings_file)), nl=False)
