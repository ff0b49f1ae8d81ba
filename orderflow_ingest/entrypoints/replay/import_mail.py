"""The command import: import mail from files, mbox and Maildir, as source UPLOAD.

A mail that cannot be imported is reported by its file's name with the reason, and the rest goes on. The exit status is
then 1. An import that was stopped at any moment can be started again, and imports what is left.
"""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.identity import read_mail
from orderflow_ingest.entrypoints.cli.options import named_org
from orderflow_ingest.entrypoints.cli.safety import changes_many, confirm
from orderflow_ingest.entrypoints.cli.terminal import (
    Row,
    examples,
    json_option,
    load_app,
    print_rows,
    printable,
    progress,
    settings_option,
)
from orderflow_ingest.maintenance.imports.importer import Importer, ImportOutcome, ImportResult
from orderflow_ingest.maintenance.imports.sources import FileMail, count_bytes, read_paths
from orderflow_ingest.observability import logs
from orderflow_ingest.storage.database import Organization, Run

_WAIT = 1.0  # seconds
_BATCH = 100  # mails between two notes of how far it has come


@click.command("import", epilog=examples("orderflow-replay import /srv/mail/2025.mbox --org acme --dry-run"))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--org", "slug", required=True, help="For this organization.")
@click.option("--again", is_flag=True, help="Take in, too, what came by mail with the same content.")
@changes_many
@json_option
@settings_option
def import_mail(
    paths: tuple[Path, ...],
    slug: str,
    *,
    again: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Import the mail of PATHS: .eml and mbox files, directories of them, Maildirs.

    Mail that is recorded already is skipped. Imported mail waits behind live mail.
    """
    app = load_app(settings_file)
    org = _organization(slug, app)
    chosen = {"org": org.slug, "paths": [str(path) for path in paths], "again": again}
    run = Run.new("import", chosen)
    importer = Importer(app, org, run.actor, run.id, again, lambda: time.sleep(_WAIT))
    mails = read_paths(list(paths), app.settings.max_message_size)
    size = count_bytes(list(paths))
    if not dry_run:
        confirm(f"Import {size:,} bytes of mail for {org.slug}?", yes=yes)
    with progress(size, "Looking" if dry_run else "Importing") as bar:
        verdicts: Iterator[tuple[FileMail, ImportResult]]
        if dry_run:
            verdicts = ((mail, importer.preview(mail, read_mail(mail.raw or b""))) for mail in mails)
        else:
            logs.configure(app.settings.log, "replay", app.settings.state_dir, on_standard_error=False)
            app.records.runs.begin(run)
            verdicts = _imported(mails, importer, run, app)
        counts: Counter[ImportOutcome] = Counter()
        for mail, verdict in verdicts:
            counts[verdict.outcome] += 1
            bar.update(mail.size)
            _report(mail, verdict, as_json=as_json, dry_run=dry_run)
    rows: list[Row] = [{"name": one.value, "count": counts[one]} for one in ImportOutcome if counts[one]]
    if not as_json or not dry_run:
        print_rows(rows, as_json=as_json)
    if counts[ImportOutcome.FAILED]:
        raise SystemExit(1)


def _imported(
    mails: Iterator[FileMail], importer: Importer, run: Run, app: App
) -> Iterator[tuple[FileMail, ImportResult]]:
    """Import mail by mail, and save the progress in the run."""
    done = passed_over = failed = 0
    for number, mail in enumerate(mails, 1):
        verdict = importer.import_mail(mail)
        done += verdict.outcome in (ImportOutcome.IMPORTED, ImportOutcome.HELD)
        failed += verdict.outcome is ImportOutcome.FAILED
        passed_over = number - done - failed
        if number % _BATCH == 0:
            app.records.runs.advance(run.id, number, done, passed_over, failed, datetime.now(UTC))
        yield mail, verdict
    app.records.runs.advance(run.id, None, done, passed_over, failed, datetime.now(UTC), is_over=True)


def _report(mail: FileMail, verdict: ImportResult, *, as_json: bool, dry_run: bool) -> None:
    """Print the result of a mail: all in a dry run, else failures only, on standard error."""
    row = {"file": mail.name, "outcome": verdict.outcome.value, "reason": verdict.reason, "id": verdict.message_id}
    if dry_run:
        rows = [row] if as_json else iter([{**row, "file": printable(mail.name)}])
        print_rows(rows, as_json=as_json)
    elif verdict.outcome is ImportOutcome.FAILED:
        click.echo(f"failed: {printable(mail.name)}: {verdict.reason}", err=True)


def _organization(slug: str, app: App) -> Organization:
    org = named_org(app, slug)
    if not org.is_active:
        raise click.ClickException(f"{org.slug} is disabled; orderflow-admin org enable {org.slug} first")
    return org
