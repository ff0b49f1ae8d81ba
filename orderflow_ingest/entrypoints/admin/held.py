"""The command held: show mail that is held. `orderflow-replay held` accepts or discards it."""

import click

from orderflow_ingest.entrypoints.cli.message_rows import held_row
from orderflow_ingest.entrypoints.cli.options import org_id_of, org_option
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    local_option,
    print_rows,
    settings_option,
)


@click.command("held", epilog=examples("orderflow-admin held --org acme"))
@org_option
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@local_option
@json_option
@settings_option
def list_held_mail(slug: str | None, limit: int, *, as_json: bool, settings_file: str | None) -> None:
    """Show mail that is held, and why.

    REASON is IDENTITY where the Message-ID is known with other content, and SENDER where the organization takes no mail
    from this sender by itself.
    """
    app = load_app(settings_file)
    found = app.records.held_mail.open(org_id_of(app, slug), (), limit)
    print_rows([held_row(mail) for mail in found], as_json=as_json)
