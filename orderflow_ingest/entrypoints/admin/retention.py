"""The command retention: delete raw mail and documents past their retention. The rows stay.

The limits are an organization's settings keep_raw_days and keep_documents_days, or --raw-days and --document-days.
Without any of them objects are kept for ever.
"""

from datetime import UTC, datetime
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.org_settings import MOST_DAYS
from orderflow_ingest.entrypoints.cli.options import org_option, organizations
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    print_rows,
    progress,
    settings_option,
)
from orderflow_ingest.maintenance.retention import RetentionResult, RetentionRule, apply_retention, retention_rule
from orderflow_ingest.storage.database import Filter, Organization, Run

DAYS = click.IntRange(1, MOST_DAYS)


@click.command(
    epilog=examples("orderflow-admin retention --dry-run", "orderflow-admin retention --org acme --raw-days 365")
)
@org_option
@click.option(
    "--raw-days", type=DAYS, metavar="N", help="Keep raw mail N days, whatever the organizations' settings say."
)
@click.option("--document-days", type=DAYS, metavar="N", help="The same for documents.")
@click.option("--also-failed", is_flag=True, help="Do not keep what FAILED for a replay.")
@changes_many
@json_option
@settings_option
def retention(
    slug: str | None,
    raw_days: int | None,
    document_days: int | None,
    *,
    also_failed: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Delete raw mail and documents that are past their retention. Their rows stay.

    The command shows what it would delete, and asks.
    """
    app = load_app(settings_file)
    rules = [
        (org, rule)
        for org in organizations(app, slug)
        if (rule := retention_rule(org, app, raw_days, document_days, also_failed=also_failed)).is_any
    ]
    if not rules:
        click.echo("every organization keeps all for ever", err=True)
        return
    if dry_run or not yes:
        rows = _apply(rules, app, dry_run=True)
        print_rows(rows, as_json=as_json)
        if dry_run or not sum(row["objects"] for row in rows):
            return
        confirm("Delete these objects?", yes=False)
    print_rows(_apply(rules, app, dry_run=False), as_json=as_json)


def _apply(rules: list[tuple[Organization, RetentionRule]], app: App, *, dry_run: bool) -> list[dict[str, Any]]:
    """Apply the rules, with a run that records it, and return the rows to print."""
    run = Run.new("retention")
    if not dry_run:
        app.records.runs.begin(run)
    rows: list[dict[str, Any]] = []
    done = busy = 0
    total = sum(app.records.messages.count(Filter(org_id=org.id)) for org, _ in rules)
    with progress(total, "Looking" if dry_run else "Deleting") as bar:
        for org, rule in rules:
            for one in apply_retention(org, rule, app, run.actor, run.id, bar.update, dry_run=dry_run):
                rows.append(_row(org.slug, one))
            done, busy = sum(row["objects"] for row in rows), sum(row["busy"] for row in rows)
            if not dry_run:
                app.records.runs.advance(run.id, org.slug, done, busy, 0, datetime.now(UTC))
    if not dry_run:
        app.records.runs.advance(run.id, None, done, busy, 0, datetime.now(UTC), is_over=True)
    return rows


def _row(slug: str, one: RetentionResult) -> dict[str, Any]:
    row = {"org": slug, "kind": one.area.value, "objects": one.objects, "bytes": one.bytes, "rows": one.rows}
    return {**row, "kept": one.kept, "busy": one.busy, "extracted_again": one.extracted_again}
