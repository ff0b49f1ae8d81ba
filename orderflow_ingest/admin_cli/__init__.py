"""orderflow-admin: set up, show and verify a deployment.

orderflow-admin init       create directories, tables and queue; safe to repeat
orderflow-admin org        add, list, enable and disable organisations
orderflow-admin check      verify every part, and that Postfix's settings agree; 1 on trouble
orderflow-admin status     show what is where
orderflow-admin postfix    print the Postfix configuration for these settings
orderflow-admin roles      print roles and policies, least privilege for each program
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from .. import __version__
from ..archive import ArchiveUnavailable
from ..archived import claim_organization, write_organization, write_organizations
from ..assembly import Parts
from ..envelope import is_slug
from ..records import OrganizationDiffers, OrganizationExists, recipients_path, schema
from ..settings import load
from ..status import Status
from ..terminal import json_option, opened, print_rows, program, settings_option
from . import postfix_config, roles
from .check import Level, check_all

PARSED_SINCE = timedelta(hours=24)
WINDOW = {Status.PARSED: ", last 24 h"}
MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.TROUBLE: "TROUBLE"}


@click.group(help="Set up, show and verify a deployment of OrderFlow ingest.")
@click.version_option(__version__)
def cli() -> None:
    """See the module's header."""


@cli.command()
@settings_option
def init(settings_file: str | None) -> None:
    """Create directories, tables and queue; safe to repeat, also to bring the schema up to date.

    Run it as the user that delivers mail and works on it.
    """
    parts = opened(settings_file, create=True)
    parts.settings.state_dir.mkdir(parents=True, exist_ok=True)
    parts.settings.state_dir.chmod(0o711)  # Postfix's map reads recipients.db in it, and nothing else
    parts.settings.away_dir.mkdir(mode=0o700, exist_ok=True)
    parts.spool.prepare()
    parts.archive.prepare()
    schema.upgrade(parts.records.database)
    parts.queue.create_tables()
    _publish(parts)
    with _archive_may_be_away():
        write_organizations(parts.records, parts.archive)
    click.echo(f"ready: {parts.settings.state_dir}, schema {schema.needed_version()}")


@cli.group()
def org() -> None:
    """Add, list, enable and disable organisations."""


@org.command("add")
@click.argument("slug")
@click.option("--name", help="Name for people; default: the slug.")
@settings_option
def add_org(slug: str, name: str | None, settings_file: str | None) -> None:
    """Add the organisation SLUG; its mail comes to LOCAL_PART+SLUG@DOMAIN."""
    if not is_slug(slug):
        raise click.UsageError("a slug is of a-z, 0-9 and inner hyphens, at most 63 characters")
    parts = opened(settings_file)
    try:
        parts.records.organizations.add(slug, name or slug)
    except OrganizationExists:
        raise click.ClickException(f"an organisation {slug} exists already") from None
    _claim(slug, parts)
    _publish(parts)
    settings = parts.settings
    click.echo(f"added {slug}: {settings.local_part}+{slug}@{settings.domains[0]}")


@org.command("list")
@json_option
@settings_option
def list_orgs(as_json: bool, settings_file: str | None) -> None:
    """List all organisations."""
    parts = opened(settings_file)
    orgs = parts.records.organizations.all()
    print_rows([{"slug": o.slug, "name": o.name, "active": o.is_active, "id": o.id} for o in orgs], as_json)


@org.command("enable")
@click.argument("slug")
@settings_option
def enable_org(slug: str, settings_file: str | None) -> None:
    """Let the organisation SLUG receive mail."""
    _set_active(slug, True, settings_file)


@org.command("disable")
@click.argument("slug")
@settings_option
def disable_org(slug: str, settings_file: str | None) -> None:
    """Refuse the mail of the organisation SLUG; its rows and documents stay."""
    _set_active(slug, False, settings_file)


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


@cli.command()
@click.option("--org", "slug", help="Of this organisation alone.")
@json_option
@settings_option
def status(slug: str | None, as_json: bool, settings_file: str | None) -> None:
    """Show what is unfinished, failed or held, the messages of the last 24 hours, spool, dead letters and queue."""
    parts = opened(settings_file)
    print_rows([{"what": what, "value": value} for what, value in _status(parts, slug)], as_json)


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


def _set_active(slug: str, is_active: bool, settings_file: str | None) -> None:
    parts = opened(settings_file)
    if not parts.records.organizations.set_active(slug, is_active):
        raise click.ClickException(f"no organisation is named {slug}")
    _publish(parts)
    org = parts.records.restoring.charter(slug)
    if org:
        with _archive_may_be_away():
            write_organization(org, parts.archive)
    click.echo(f"{'enabled' if is_active else 'disabled'} {slug}")


def _claim(slug: str, parts: Parts) -> None:
    """Write a new organisation into the archive, which may know its id as another's: nothing must get mixed up."""
    org = parts.records.restoring.charter(slug)
    try:
        if org:
            claim_organization(org, parts.archive)
    except ArchiveUnavailable:
        parts.records.restoring.remove_new(slug)
        raise
    except OrganizationDiffers as error:
        parts.records.restoring.remove_new(slug)
        raise click.ClickException(f"{error}: this archive has organisations; run orderflow-replay archive") from None


@contextmanager
def _archive_may_be_away() -> Iterator[None]:
    """Go on without the archive: what it is to know of an organisation is written by the next init."""
    try:
        yield
    except ArchiveUnavailable as error:
        told = (
            "the archive was not told of every organisation; run init again, with an operator's rights in the archive"
        )
        click.echo(f"warning: {told}: {error}", err=True)


def _publish(parts: Parts) -> None:
    path = recipients_path(parts.settings.database_url)
    if path:
        parts.records.organizations.publish(path)


def _status(parts: Parts, slug: str | None) -> list[tuple[str, Any]]:
    org = parts.records.organizations.find(slug) if slug else None
    if slug and org is None:
        raise click.ClickException(f"no organisation is named {slug}")
    org_id = org.id if org else None
    messages, documents = parts.records.messages, parts.records.documents
    counts = messages.count_by_status(datetime.now(UTC) - PARSED_SINCE, org_id)
    rows: list[tuple[str, Any]] = [(f"messages {s.value}{WINDOW.get(s, '')}", n) for s, n in counts.items()]
    rows += [(f"documents {s.value}", n) for s, n in documents.count_undone(org_id).items()]
    rows.append(("oldest unfinished message", messages.oldest_unfinished(org_id)))
    rows.append(("conflicts held", parts.records.conflicts.count_open(org_id)))
    if org is None:
        rows.append(("spool entries", len(parts.spool.entries())))
        rows.append(("dead letters", len(parts.spool.dead())))
        rows.append(("tasks waiting", parts.queue.depth()))
        rows.append(("seconds overdue", round(messages.lag(datetime.now(UTC)))))
    return rows


def main() -> None:
    """Run the program."""
    program(cli)
