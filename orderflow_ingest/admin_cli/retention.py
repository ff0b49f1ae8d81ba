"""orderflow-admin retention: delete raw mail and documents that are kept for no longer; the rows stay.

How long is an organisation's setting, keep_raw_days and keep_documents_days, or --raw-days and --document-days; where
nothing is said objects are kept for ever. Without --yes it only tells what would go.
"""

from datetime import UTC, datetime
from typing import Any

import click

from .. import keeping
from ..asking import org_option, organizations
from ..keeping import Retained
from ..org_settings import MOST_DAYS
from ..records import Filter, Run
from ..terminal import json_option, opened, print_rows, progress, settings_option

DAYS = click.IntRange(1, MOST_DAYS)


@click.command()
@org_option
@click.option(
    "--raw-days", type=DAYS, metavar="N", help="Keep raw mail N days, whatever the organisations' settings say."
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
    also_failed: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Tell which raw mail and documents are kept for no longer; with --yes, delete them. Their rows stay."""
    parts = opened(settings_file)
    rules = [
        (org, rule)
        for org in organizations(parts, slug)
        if (rule := keeping.rule_of(org, parts, raw_days, document_days, also_failed)).is_any
    ]
    run = Run.new("retention")
    if yes:
        parts.records.runs.begin(run)
    rows: list[dict[str, Any]] = []
    total = sum(parts.records.messages.count(Filter(org_id=org.id)) for org, _ in rules)
    with progress(total, "Deleting" if yes else "Looking") as bar:
        for org, rule in rules:
            for one in keeping.retain(org, rule, parts, run.actor, run.id, not yes, bar.update):
                rows.append(_row(org.slug, one))
            done, busy = sum(row["objects"] for row in rows), sum(row["busy"] for row in rows)
            if yes:
                parts.records.runs.advance(run.id, org.slug, done, busy, 0, datetime.now(UTC))
    if yes:
        done, busy = sum(row["objects"] for row in rows), sum(row["busy"] for row in rows)
        parts.records.runs.advance(run.id, None, done, busy, 0, datetime.now(UTC), is_over=True)
    print_rows(rows, as_json)
    if not rules:
        click.echo("every organisation keeps all for ever", err=True)
    elif not yes:
        click.echo("nothing was deleted: say --yes", err=True)


def _row(slug: str, one: Retained) -> dict[str, Any]:
    told = {"org": slug, "kind": one.area.value, "objects": one.objects, "bytes": one.bytes, "rows": one.rows}
    return {**told, "kept": one.kept, "busy": one.busy, "extracted_again": one.extracted_again}
