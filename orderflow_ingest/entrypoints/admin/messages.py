"""The commands list and documents: show messages, and the documents and skipped parts of one."""

from typing import Any
from uuid import UUID

import click

from orderflow_ingest.entrypoints.cli.message_rows import message_row, part_row
from orderflow_ingest.entrypoints.cli.selection import build_filter, pages, selection
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    local_option,
    print_rows,
    settings_option,
)
from orderflow_ingest.storage.database import Filter


@click.command(
    "list", epilog=examples("orderflow-admin list --org acme --since 2h", "orderflow-admin list --status failed --json")
)
@selection
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@local_option
@json_option
@settings_option
def list_messages(limit: int, *, as_json: bool, settings_file: str | None, **selected: Any) -> None:
    """Show messages, the newest first, by IDS or by options."""
    app = load_app(settings_file)
    meant = build_filter(app, selected)
    print_rows([message_row(message) for page in pages(meant, app, limit) for message in page], as_json=as_json)


@click.command("documents", epilog=examples("orderflow-admin documents b516e273-0e3c-5e5a-ad8d-7a2bdf4ad4bc"))
@click.argument("id", type=click.UUID)
@local_option
@json_option
@settings_option
def list_documents(id: UUID, *, as_json: bool, settings_file: str | None) -> None:
    """Show the documents of the message ID, and its skipped parts."""
    app = load_app(settings_file)
    found = app.records.messages.select(Filter(ids=(id,)), 1)
    if not found:
        raise click.ClickException("no message has this id")
    documents = app.records.documents.of_message(found[0].org_id, id)
    skipped = app.records.documents.skipped(found[0].org_id, id)
    rows = [part_row(d, d.content_type, d.handover.value) for d in documents]
    rows += [part_row(s, s.detected_type or s.declared_type, "skipped") for s in skipped]
    rows.sort(key=lambda row: [int(number) for number in row["part"].split(".") if number])
    print_rows(rows, as_json=as_json)
