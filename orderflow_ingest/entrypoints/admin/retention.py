"""The command retention: delete raw mail and documents past their retention. The rows stay.

The limits are an organization's settings keep_raw_days and keep_documents_days, or --raw-days and --document-days.
Without any of them objects are kept for ever. Without --yes the command only prints what would go.
"""

from datetime import UTC, datetime
from typing import Any

import click

from orderflow_ingest.domain.org_settings import MOST_DAYS
from orderflow_ingest.entrypoints.cli.options import org_option, organizations
from orderflow_ingest.entrypoints.cli.terminal import json_option, load_app, print_rows, progress, settings_option
from orderflow_ingest.maintenance.retention import RetentionResult, apply_retention, retention_rule
from orderflow_ingest.storage.database import Filter, Run

DAYS = click.IntRange(1, MOST_DAYS)


@click.command()
@org_option
@click.option(
    "--raw-days", type=DAYS, metavar="N", help="Keep raw mail N days, whatever the organizations' settings say."
)
@click.option("--document-days", type=DAYS, metavar="N", help="The same for documents.")
@click.option("--also-failed", is_flag=True, help="Do not keep what FAILED for a replay.")
@click.option("--yes", is_flag=True, help="Delete; without it nothing is changed.")
@json_option
@settings_option
def retention(
    slug: str | None,
    raw_days: int | None,
    document_days: int | None,
    *,
    also_failed: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Tell which raw mail and documents are kept for no longer; with --yes, delete them. Their rows stay."""
    app = load_app(settings_file)
    rules = [
        (org, rule)
        for org in organizations(app, slug)
        if (rule := retention_rule(org, app, raw_days, document_days, also_failed=also_failed)).is_any
    ]
    run = Run.new("retention")
    if yes:
        app.records.runs.begin(run)
    rows: list[dict[str, Any]] = []
    total = sum(app.records.messages.count(Filter(org_id=org.id)) for org, _ in rules)
    with progress(total, "Deleting" if yes else "Looking") as bar:
        for org, rule in rules:
            for one in apply_retention(org, rule, app, run.actor, run.id, bar.update, dry_run=not yes):
                rows.append(_row(org.slug, one))
            done, busy = sum(row["objects"] for row in rows), sum(row["busy"] for row in rows)
            if yes:
                app.records.runs.advance(run.id, org.slug, done, busy, 0, datetime.now(UTC))
    if yes:
        done, busy = sum(row["objects"] for row in rows), sum(row["busy"] for row in rows)
        app.records.runs.advance(run.id, None, done, busy, 0, datetime.now(UTC), is_over=True)
    print_rows(rows, as_json=as_json)
    if not rules:
        click.echo("every organization keeps all for ever", err=True)
    elif not yes:
        click.echo("nothing was deleted: say --yes", err=True)


def _row(slug: str, one: RetentionResult) -> dict[str, Any]:
    row = {"org": slug, "kind": one.area.value, "objects": one.objects, "bytes": one.bytes, "rows": one.rows}
    return {**row, "kept": one.kept, "busy": one.busy, "extracted_again": one.extracted_again}
