"""The command reconcile: compare spool, rows, archive and queue.

Findings are printed as they come, then a table with the number of each kind and how many were repaired. The command
handles one organization after the other, and saves its position in its run, so that --resume continues a run that was
stopped. The exit status is 1 if anything is left.
"""

import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.ascii_case import ascii_lower
from orderflow_ingest.entrypoints.cli.options import moment, org_option, organizations
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    print_rows,
    progress,
    settings_option,
)
from orderflow_ingest.maintenance.reconcile.findings import DigestCheck, Finding, ReconcileOptions
from orderflow_ingest.maintenance.reconcile.reconciler import reconcile_host, reconcile_organization
from orderflow_ingest.storage.database import Filter, Organization, Run

_QUESTION = "Repair what is safe to repair, and delete the documents that no row names?"


@click.command(epilog=examples("orderflow-admin reconcile --org acme --since 7d", "orderflow-admin reconcile --fix"))
@org_option
@click.option(
    "--since",
    type=moment,
    metavar="TIME",
    help="Mail received, objects put since (UTC, or 2h, 3d ago).",
)
@click.option("--until", type=moment, metavar="TIME", help="Mail received, objects put before (UTC, or 2h ago).")
@click.option(
    "--digests",
    type=click.Choice([one.value for one in DigestCheck]),
    default=DigestCheck.SAMPLE.value,
    show_default=True,
    help="Which objects are read and verified.",
)
@click.option(
    "--sample",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Objects of a kind in an organization's sample.",
)
@click.option(
    "--minutes",
    default=15,
    show_default=True,
    type=click.IntRange(1, 525600),
    help="When spool entries and due work are too old.",
)
@click.option("--fix", is_flag=True, help="Repair what is safe to repair.")
@click.option("--orphan-documents", is_flag=True, help="With --fix, ask and delete documents that no row names.")
@changes_many
@click.option("--resume", "resumed", type=click.UUID, metavar="RUN", help="Go on with a run that was broken off.")
@json_option
@settings_option
def reconcile(
    slug: str | None,
    since: datetime | None,
    until: datetime | None,
    digests: str,
    sample: int,
    minutes: int,
    *,
    fix: bool,
    orphan_documents: bool,
    dry_run: bool,
    yes: bool,
    resumed: UUID | None,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Compare spool, rows, archive and queue, and show what does not fit together.

    --fix repairs what is safe to repair. The exit status is 1 if anything is wrong and was not repaired.
    """
    if orphan_documents and not fix:
        raise click.UsageError("--orphan-documents goes with --fix")
    if fix and not dry_run:
        confirm(_QUESTION if orphan_documents else "Repair what is safe to repair?", yes=yes)
    fix = fix and not dry_run
    app = load_app(settings_file)
    run = _run(app, resumed, fix=fix)
    scope = ReconcileOptions(
        actor=run.actor,
        fix=fix,
        run_id=run.id,
        since=since,
        until=until,
        digests=DigestCheck(digests),
        sample=sample,
        overdue=timedelta(minutes=minutes),
        orphan_documents=orphan_documents,
    )
    found, fixed = _reconcile_all(app, organizations(app, slug), slug, scope, run, as_json=as_json)
    _conclude(app, found, fixed, run.failed, as_json=as_json)


def _run(app: App, resumed: UUID | None, *, fix: bool) -> Run:
    if resumed is None:
        run = Run.new("reconcile --fix" if fix else "reconcile")
        app.records.runs.begin(run)
        return run
    found = app.records.runs.get(resumed)
    if found is None or not found.command.startswith("reconcile"):
        raise click.ClickException("no run of reconcile has this id")
    if found.ended_at is not None:
        raise click.ClickException("this run has come to its end")
    return found


def _reconcile_all(
    app: App, orgs: list[Organization], slug: str | None, scope: ReconcileOptions, run: Run, *, as_json: bool
) -> tuple[Counter[str], Counter[str]]:
    found: Counter[str] = Counter()
    fixed: Counter[str] = Counter()

    def report(finding: Finding) -> None:
        found[finding.kind.value] += 1
        fixed[finding.kind.value] += bool(finding.fixed)
        _print(finding, as_json=as_json)

    def save_progress(position: str | None, *, is_over: bool) -> None:
        counts = run.done + fixed.total(), 0, run.failed + found.total() - fixed.total()
        app.records.runs.advance(run.id, position, *counts, datetime.now(UTC), is_over=is_over)

    left = [org for org in orgs if run.position is None or org.slug > run.position]
    click.echo(f"run {run.id}", err=True)
    total = sum(app.records.messages.count(Filter(org_id=org.id)) for org in left)
    with progress(total, "Reconciling") as bar:
        for org in left:
            for finding in reconcile_organization(org, scope, app, bar.update):
                report(finding)
            save_progress(org.slug, is_over=False)
    for finding in reconcile_host(slug and ascii_lower(slug), scope, app):
        report(finding)
    save_progress(None, is_over=True)
    return found, fixed


def _print(finding: Finding, *, as_json: bool) -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[2K", err=True, nl=False)  # the bar, which is drawn again
    row: dict[str, Any] = {"finding": finding.kind.value, "org": finding.org or None, "target": finding.subject}
    row |= {"detail": finding.detail, "fixed": finding.fixed or None}
    print_rows(iter([row]), as_json=as_json)


def _conclude(app: App, found: Counter[str], fixed: Counter[str], before: int, *, as_json: bool) -> None:
    """Print how many there are of each kind, and what waits in the queue beside what is due. Exit 1 if any is left.

    `before` it was broken off the run had found so many that are not mended.
    """
    rows = [{"name": name, "found": number, "fixed": fixed[name]} for name, number in sorted(found.items())]
    rows += [{"name": "before this was broken off", "found": before, "fixed": 0}] if before else []
    rows.append({"name": "all findings", "found": found.total() + before, "fixed": fixed.total()})
    if not as_json:
        click.echo()
    print_rows(rows, as_json=as_json)
    late = round(app.records.messages.lag(app.records.database.now()))
    click.echo(f"{app.queue.depth()} tasks wait in the queue; the oldest due message is {late} s overdue", err=True)
    if found.total() + before > fixed.total():
        raise SystemExit(1)
