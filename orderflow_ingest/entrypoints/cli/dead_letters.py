"""Dead letters of this host: rows, one shown, one written to a file."""

from dataclasses import asdict
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.parsing.mime.fields import split_header
from orderflow_ingest.storage.envelope_header import EnvelopeError, decode_envelope
from orderflow_ingest.storage.spool import EntryDamagedError, last_line

from .output_file import output
from .terminal import NotSetUpError, load_app, print_rows, printable


def check_spool(app: App) -> None:
    """Raise NotSetUpError where there is no spool: an empty answer would say that nothing was left in it."""
    if not app.settings.spool_dir.is_dir():
        raise NotSetUpError(
            f"{app.settings.spool_dir} is not there: run orderflow-admin init, as the user that delivers"
        )


def find_dead(names: tuple[str, ...], app: App) -> dict[str, str]:
    """Return the dead letters of these names, or all, with their failures. Raise ClickException if one is unknown."""
    check_spool(app)
    dead = dict(app.spool.dead())
    for name in names:
        if name not in dead:
            raise click.ClickException(f"no dead letter is named {printable(name)}")
    return {name: dead[name] for name in names or dead}


def print_dead(dead: dict[str, str], app: App, *, as_json: bool) -> None:
    """Print a row for each dead letter."""
    print_rows([_row(name, failures, app) for name, failures in dead.items()], as_json=as_json)


def export_dead(name: str, path: str, settings_file: str | None, *, force: bool) -> None:
    """Write the mail of a dead letter to a file, as it came. The file is opened as the user who calls."""
    with output(path, overwrite=force) as write:
        app = load_app(settings_file)
        find_dead((name,), app)
        write(_read(name, app)[1])


def show_dead(name: str, failures: str, app: App, *, as_json: bool) -> None:
    """Print everything about a dead letter except its content."""
    header, raw = _read(name, app)
    try:
        envelope = asdict(decode_envelope(header))
    except EnvelopeError as error:
        envelope = {"envelope": str(error)}
    end, _ = split_header(raw)
    fields = raw[:end].decode("utf-8", "replace").splitlines()
    if as_json:
        row = {"entry": name, "size": len(raw), **envelope, "failures": failures.splitlines(), "header": fields}
        print_rows([row], as_json=as_json)
        return
    for title, value in {"entry": name, "size": len(raw), **envelope}.items():
        click.echo(printable(f"{title.replace('_', ' ')}: {value}"))
    for heading, lines in (("failures:", failures.splitlines()), ("header:", fields)):
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


def _row(name: str, failures: str, app: App) -> dict[str, Any]:
    try:
        recipient = decode_envelope(app.spool.read_dead(name)[0]).recipient
    except (EntryDamagedError, EnvelopeError, OSError) as error:
        recipient = f"unreadable: {os_reason(error)}"
    return {"entry": name, "recipient": recipient, "reason": last_line(failures)}
