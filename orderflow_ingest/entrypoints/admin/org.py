"""orderflow-admin org: organizations, their settings, and what would become of a mail to one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from orderflow_ingest.app import App, publish_recipients
from orderflow_ingest.domain.addresses import is_slug
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.domain.org_settings import KEYS, OrgSettingsError, current_name, with_current_names
from orderflow_ingest.entrypoints.cli.options import named_org
from orderflow_ingest.entrypoints.cli.terminal import (
    CommandGroup,
    examples,
    json_option,
    load_app,
    print_rows,
    settings_option,
)
from orderflow_ingest.pipeline.archive_manifest import claim_organization, write_organization
from orderflow_ingest.storage.archive import ArchiveUnavailable
from orderflow_ingest.storage.database import OrganizationExistsError, OrganizationMismatchError

from .org_test import dry_run_delivery


@click.group("org", cls=CommandGroup)
def org() -> None:
    """Add, list, enable, disable and set up organizations, and try what would become of a mail."""


@org.command("add", epilog=examples("orderflow-admin org add acme"))
@click.argument("slug")
@click.option("--name", help="Name for people; default: the slug.")
@settings_option
def add_org(slug: str, name: str | None, settings_file: str | None) -> None:
    """Add the organization SLUG. Its mail comes to LOCAL_PART+SLUG@DOMAIN."""
    if not is_slug(slug):
        raise click.UsageError("a slug is of a-z, 0-9 and inner hyphens, at most 63 characters")
    app = load_app(settings_file)
    try:
        app.records.organizations.add(slug, name or slug)
    except OrganizationExistsError:
        raise click.ClickException(f"an organization {slug} exists already") from None
    _claim(slug, app)
    publish_recipients(app)
    settings = app.settings
    click.echo(f"added {slug}: {settings.addresses.of(slug)}")


@org.command("list", epilog=examples("orderflow-admin org list"))
@json_option
@settings_option
def list_orgs(*, as_json: bool, settings_file: str | None) -> None:
    """List all organizations, with what is set for each."""
    app = load_app(settings_file)
    orgs = app.records.organizations.all()
    print_rows(
        [
            {
                "slug": o.slug,
                "name": o.name,
                "active": o.is_active,
                "id": o.id,
                "settings": _listed(o.stored, as_json=as_json),
            }
            for o in orgs
        ],
        as_json=as_json,
    )


@org.command("enable", epilog=examples("orderflow-admin org enable acme"))
@click.argument("slug")
@settings_option
def enable_org(slug: str, settings_file: str | None) -> None:
    """Let the organization SLUG receive mail."""
    _set_active(slug, settings_file, is_active=True)


@org.command("disable", epilog=examples("orderflow-admin org disable acme"))
@click.argument("slug")
@settings_option
def disable_org(slug: str, settings_file: str | None) -> None:
    """Refuse the mail of the organization SLUG. Its rows and documents stay."""
    _set_active(slug, settings_file, is_active=False)


@org.command("show", epilog=examples("orderflow-admin org show acme"))
@click.argument("slug")
@json_option
@settings_option
def show_org(slug: str, *, as_json: bool, settings_file: str | None) -> None:
    """Show the settings of the organization SLUG, and what there is to set."""
    stored = with_current_names(named_org(load_app(settings_file), slug).stored)
    rows = [
        {
            "setting": key.name,
            "value": stored.get(key.name, key.default) or key.default_meaning,
            "set": key.name in stored,
            "meaning": key.meaning,
        }
        for key in KEYS
    ]
    known = {key.name for key in KEYS}
    rows += [
        {"setting": name, "value": value, "set": True, "meaning": "unknown to this version, and not heeded"}
        for name, value in stored.items()
        if name not in known
    ]
    print_rows(rows, as_json=as_json)


@org.command("set", epilog=examples("orderflow-admin org set acme allowed_senders=@shop.example keep_raw_days=365"))
@click.argument("slug")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@settings_option
def set_org(slug: str, settings: tuple[str, ...], settings_file: str | None) -> None:
    """Set each KEY of the organization SLUG. Deliveries heed it within a second or two."""
    changes = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text} is not of the form KEY=VALUE")
        changes[name.strip()] = value
    _change(slug, changes, settings_file)


@org.command("unset", epilog=examples("orderflow-admin org unset acme keep_raw_days"))
@click.argument("slug")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@settings_option
def unset_org(slug: str, keys: tuple[str, ...], settings_file: str | None) -> None:
    """Make each KEY of the organization SLUG what it is for everybody."""
    _change(slug, dict.fromkeys(keys, ""), settings_file)


@org.command("test", epilog=examples("orderflow-admin org test orders+acme@example.com order.eml"))
@click.argument("address")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--sender", metavar="ADDRESS", help="The address in From, where there is no FILE.")
@click.option("--size", type=click.IntRange(0), metavar="BYTES", help="The size of the mail, where there is no FILE.")
@click.option("--queue-id", metavar="ID", help="The queue id of FILE's delivery, which our own Received names.")
@click.option("--envelope-sender", metavar="ADDRESS", default="", help="The envelope's sender, of FILE.")
@click.option("--before-queue", is_flag=True, help="Postfix asks before it queues the mail: no milter has seen it.")
@json_option
@settings_option
def test_mail(
    address: str,
    file: BinaryIO | None,
    sender: str | None,
    size: int | None,
    queue_id: str | None,
    envelope_sender: str,
    *,
    before_queue: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Show what a delivery would do with a mail to ADDRESS, such as the .eml FILE. Nothing is changed."""
    raw = file.read() if file else None
    if raw is not None and (sender or size is not None):
        raise click.UsageError("--sender and --size are for a mail that is not there: leave them out, or FILE")
    if raw is None and (queue_id is not None or envelope_sender):
        raise click.UsageError("--queue-id and --envelope-sender are of a FILE")
    app = load_app(settings_file)
    facts = dry_run_delivery(address, raw, sender, size, app, queue_id, envelope_sender, is_before_queue=before_queue)
    rows = [{"name": name, "value": value} for name, value in facts]
    print_rows(rows, as_json=as_json)


@contextmanager
def archive_may_be_unavailable() -> Iterator[None]:
    """Go on without the archive: what it is to know of an organization is written by the next init."""
    try:
        yield
    except ArchiveUnavailable as error:
        warning = "the archive does not know every organization; run init again, with an operator's rights in it"
        click.echo(f"warning: {warning}: {error}", err=True)


def _claim(slug: str, app: App) -> None:
    """Write a new organization into the archive, which may know its id as another's: nothing must get mixed up."""
    record = app.records.rebuild_writes.organization_record(slug)
    try:
        if record:
            claim_organization(record, app.archive)
    except ArchiveUnavailable:
        app.records.rebuild_writes.remove_new(slug)
        raise
    except OrganizationMismatchError as error:
        app.records.rebuild_writes.remove_new(slug)
        raise click.ClickException(f"{error}: this archive has organizations; run orderflow-replay archive") from None


def _archive(slug: str, app: App) -> None:
    """Write an organization as it is now into the archive, so that a rebuild can make its row."""
    record = app.records.rebuild_writes.organization_record(slug)
    if record:
        with archive_may_be_unavailable():
            write_organization(record, app.archive)


def _listed(stored: Mapping[str, Any], *, as_json: bool) -> Any:
    stored = with_current_names(stored)
    return dict(stored) if as_json else " ".join(f"{name}={value}" for name, value in stored.items()) or None


def _set_active(slug: str, settings_file: str | None, *, is_active: bool) -> None:
    app, slug = load_app(settings_file), ascii_lower(slug)
    if not app.records.organizations.set_active(slug, is_active=is_active):
        raise click.ClickException(f"no organization is named {slug}")
    publish_recipients(app)
    _archive(slug, app)
    click.echo(f"{'enabled' if is_active else 'disabled'} {slug}")


def _change(slug: str, changes: dict[str, str], settings_file: str | None) -> None:
    app, slug = load_app(settings_file), ascii_lower(slug)
    changes = {current_name(name): value for name, value in changes.items()}
    try:
        is_known = app.records.organizations.change_settings(slug, changes)
    except OrgSettingsError as error:
        raise click.UsageError(str(error)) from None
    if not is_known:
        raise click.ClickException(f"no organization is named {slug}")
    _archive(slug, app)
    chosen = ", ".join(name for name, value in changes.items() if value.strip())
    usual = ", ".join(name for name, value in changes.items() if not value.strip())
    done = (f"{chosen} set" if chosen else "", f"{usual} as for everybody" if usual else "")
    click.echo(f"{slug}: {'; '.join(filter(None, done))}")
