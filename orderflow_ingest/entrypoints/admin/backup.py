"""The command backup: copy the embedded databases while mail is delivered. See `maintenance.backup`."""

import signal
import sys
from pathlib import Path
from typing import Any

import click

from orderflow_ingest.entrypoints.cli.terminal import examples, json_option, loaded, print_rows, settings_option
from orderflow_ingest.maintenance.backup import BackupError, back_up


@click.command(epilog=examples("orderflow-admin backup /var/backups/orderflow/2026-12-01"))
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@settings_option
def backup(directory: Path, *, as_json: bool, settings_file: str | None) -> None:
    """Copy SQLite's rows and queue into a new DIRECTORY, while mail is delivered. Copy the archive after it.

    Nothing is overwritten, and DIRECTORY is there only when it is whole. Of PostgreSQL it tells what to use instead.
    """
    former = signal.signal(signal.SIGTERM, _end)
    try:
        copies = back_up(loaded(settings_file), directory)
    except BackupError as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, former)
    print_rows([{"file": str(path), "bytes": size} for path, size in copies], as_json=as_json)


def _end(*_: Any) -> None:
    """End as Ctrl-C does: what is unfinished is removed."""
    sys.exit(128 + signal.SIGTERM)
