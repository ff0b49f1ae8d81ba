"""The command erase: delete everything about an organization, a sender or one mail.

It prints what would go, and asks for the organization's slug. What remains is a run with the counts, under a digest of
the request: no name, no address.
"""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.options import organizations
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm_by_name
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    print_rows,
    progress,
    settings_option,
)
from orderflow_ingest.maintenance import erasure
from orderflow_ingest.maintenance.erasure import ErasureRequest, ErasureResult
from orderflow_ingest.storage.database import Filter, Organization, Run

_SLACK = 5  # seconds: an organization that was found is remembered by a delivery for one


@click.command(
    epilog=examples(
        "orderflow-admin erase --org acme --sender buyer@shop.example --dry-run",
        "orderflow-admin erase --org acme --message b516e273-0e3c-5e5a-ad8d-7a2bdf4ad4bc",
    )
)
@click.option("--org", "slug", required=True, help="Of this organization; all of it, if nothing else is said.")
@click.option("--sender", metavar="ADDRESS", help="Only what is from this address, by its header or its envelope.")
@click.option("--message", "mail_id", type=click.UUID, metavar="ID", help="Only this message or held mail.")
@changes_many
@json_option
@settings_option
def erase(
    slug: str,
    sender: str | None,
    mail_id: UUID | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Delete everything of an organization, of a sender within it, or of one mail.

    The command shows what it would delete, and asks for the organization's slug. The exit status is 1 if some is left.
    """
    if sender and (mail_id or "@" not in sender[1:]):
        raise click.UsageError("--sender is a whole address, and goes without --message")
    app = load_app(settings_file)
    (org,) = organizations(app, slug)
    request = ErasureRequest(org, sender and sender.strip().lower(), mail_id)
    if request.is_of_all:
        _need_disabled(app, org)
    if dry_run or not yes:
        _print(_with_bar(request, app, dry_run=True), as_json=as_json)
        if dry_run:
            return
        confirm_by_name(f"This cannot be undone. Type {org.slug} to erase it", org.slug)
    done = _with_bar(request, app, dry_run=False)
    _print(done, as_json=as_json)
    if not any(vars(done).values()):
        click.echo(f"there was nothing to erase: {org.slug} has no such mail", err=True)
    if app.archive.keeps_versions():
        click.echo("the bucket keeps versions: what was deleted is there until its rules let old versions go", err=True)
    if not done.is_complete:
        again = f"run this again in {app.settings.lease:.0f} s"
        click.echo(f"{done.in_hand} are left, in the hands of a worker or a delivery: {again}", err=True)
        raise SystemExit(1)


def _need_disabled(app: App, org: Organization) -> None:
    """Refuse an organization that may get mail, or that a delivery from before it was disabled may be at."""
    if org.is_active:
        raise click.ClickException(f"{org.slug} takes mail: first orderflow-admin org disable {org.slug}")
    changed = app.records.holdings.changed_at(org.id)
    left = app.settings.deadline + _SLACK - (datetime.now(UTC) - changed).total_seconds() if changed else 0
    if left > 0:
        raise click.ClickException(f"a delivery may be at work still: run this again in {left:.0f} s")


def _with_bar(request: ErasureRequest, app: App, *, dry_run: bool) -> ErasureResult:
    run = Run.new("erase")
    if not dry_run:
        words = f"{run.id} {request.org.slug} {request.sender or ''} {request.mail_id or ''}"
        chosen = {"org_id": request.org.id, "request": hashlib.sha256(words.encode()).hexdigest()}
        app.records.runs.begin(replace(run, chosen=chosen))
    total = app.records.messages.count(Filter(org_id=request.org.id))
    with progress(total, "Looking" if dry_run else "Erasing") as bar:
        done = erasure.erase(request, app, run.actor, run.id, bar.update, dry_run=dry_run)
    if not dry_run:
        rows = done.messages + done.held
        app.records.runs.advance(run.id, vars(done), rows, done.in_hand, 0, datetime.now(UTC), is_over=done.is_complete)
    return done


def _print(done: ErasureResult, *, as_json: bool) -> None:
    print_rows(
        [{"name": name.replace("_", " "), "count": number} for name, number in vars(done).items()],
        as_json=as_json,
    )
