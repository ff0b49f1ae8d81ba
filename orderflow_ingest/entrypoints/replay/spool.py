"""The commands spool and dead: deliver what is left in the spool of this host, and its dead letters."""

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.entrypoints.cli.output_file import output
from orderflow_ingest.entrypoints.cli.terminal import (
    NotSetUpError,
    json_option,
    load_app,
    print_rows,
    printable,
    progress,
    settings_option,
)
from orderflow_ingest.entrypoints.deadline import deadline
from orderflow_ingest.parsing.mime.fields import split_header
from orderflow_ingest.pipeline import receive, replay
from orderflow_ingest.pipeline.deliver import Delivery
from orderflow_ingest.storage.envelope_header import EnvelopeError, decode_envelope
from orderflow_ingest.storage.spool import EntryDamagedError, last_line

from .actions import count_text
from .audit import recorded_run, start_logging
from .selection import dry_run_option, yes_option


@click.command("spool")
@dry_run_option
@json_option
@settings_option
def drain_spool(*, dry_run: bool, as_json: bool, settings_file: str | None) -> None:
    """Deliver the mail that is left in the spool of this host."""
    app = load_app(settings_file)
    _need_spool(app)
    names = app.spool.entries()
    if dry_run:
        print_rows([{"entry": name} for name in names], as_json=as_json)
        return
    start_logging(app)
    rows = []
    with progress(len(names), "Draining") as bar:
        for name, ended in receive.drain(app, lambda: deadline(app.settings.deadline)):
            rows.append({"entry": name, **_ended(ended)})
            bar.update(1)
    print_rows(rows, as_json=as_json)


@click.command("dead")
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--show", metavar="NAME", help="Show the envelope, the failures and the header of one.")
@click.option("--export", nargs=2, metavar="NAME FILE", help="Write the mail of one, as it came; - is standard output.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@dry_run_option
@yes_option
@json_option
@settings_option
def deliver_dead(
    names: tuple[str, ...],
    *,
    every: bool,
    show: str | None,
    export: tuple[str, str] | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Show dead letters; with NAMES or --all, deliver them again; exit 1 if some are left."""
    if sum(map(bool, (names, every, show, export))) > 1:
        raise click.UsageError("NAMES, --all, --show and --export exclude each other")
    with output(export[1], overwrite=force) if export else nullcontext() as write:
        app = load_app(settings_file)
        _need_spool(app)
        dead = dict(app.spool.dead())
        unknown = [name for name in (*names, *filter(None, (show, export and export[0]))) if name not in dead]
        if unknown:
            raise click.ClickException(f"no dead letter is named {printable(unknown[0])}")
        if export and write:
            write(_read(export[0], app)[1])
            return
    if show:
        _show(show, dead[show], app, as_json=as_json)
    elif dry_run or not (names or every):
        rows = [_dead_row(name, dead[name], app) for name in names or dead]
        print_rows(rows, as_json=as_json, former_keys={"reason": "why"})
    else:
        if every and not yes:
            click.confirm(f"Deliver {count_text(len(dead), 'dead letter')} again?", abort=True, err=True)
        rows, left = _deliver(list(names or dead), app)
        print_rows(rows, as_json=as_json)
        if left:
            raise SystemExit(1)


def _need_spool(app: App) -> None:
    """Raise NotSetUpError where there is no spool: an empty answer would say that nothing was left in it."""
    if not app.settings.spool_dir.is_dir():
        raise NotSetUpError(
            f"{app.settings.spool_dir} is not there: run orderflow-admin init, as the user that delivers"
        )


def _deliver(names: list[str], app: App) -> tuple[list[dict[str, Any]], int]:
    """Deliver dead letters again; return the outcome of each, and how many are left."""
    rows = []
    with recorded_run(app, "dead", names) as tally, progress(len(names), "Delivering") as bar:
        for name in names:
            ended = replay.redeliver_dead_letter(name, app)
            rows.append({"entry": name, **(_ended(ended) if ended else {"outcome": "in other hands"})})
            is_done = ended is not None and ended.outcome.is_accepted
            tally.done += is_done
            tally.failed += not is_done
            bar.update(1)
    return rows, tally.failed


def _show(name: str, why: str, app: App, *, as_json: bool) -> None:
    """Print everything about a dead letter except its content."""
    header, raw = _read(name, app)
    try:
        envelope = asdict(decode_envelope(header))
    except EnvelopeError as error:
        envelope = {"envelope": str(error)}
    end, _ = split_header(raw)
    fields = raw[:end].decode("utf-8", "replace").splitlines()
    if as_json:
        row = {"entry": name, "size": len(raw), **envelope, "failures": why.splitlines(), "header": fields}
        print_rows([row], as_json=as_json)
        return
    for title, value in {"entry": name, "size": len(raw), **envelope}.items():
        click.echo(printable(f"{title.replace('_', ' ')}: {value}"))
    for heading, lines in (("failures:", why.splitlines()), ("header:", fields)):
        click.echo(heading)
        for line in lines:
            click.echo(printable(f"  {line.expandtabs()}"))


def _read(name: str, app: App) -> tuple[bytes, bytes]:
    try:
        return app.spool.read_dead(name)
    except FileNotFoundError:
        raise click.ClickException(f"{name} is no dead letter any more") from None
    except EntryDamagedError as error:
        raise click.ClickException(f"{error}; its file is {app.spool.directory}/dead/{name}") from error


def _dead_row(name: str, why: str, app: App) -> dict[str, Any]:
    try:
        recipient = decode_envelope(app.spool.read_dead(name)[0]).recipient
    except (EntryDamagedError, EnvelopeError, OSError) as error:
        recipient = f"unreadable: {os_reason(error)}"
    return {"entry": name, "recipient": recipient, "reason": last_line(why)}


def _ended(ended: Delivery) -> dict[str, Any]:
    return {"outcome": ended.outcome.name, "org": ended.org, "message": ended.message_id}
