"""orderflow-admin canary: the command around a flight. Its status is 0 if all came, and 1 with the step that did not.

The flight looks at documents, which the role that delivers may not read. So it has the worker's settings, as its unit
has: worker.env beside the settings file is read over that file where --settings names no other, and where this user may
read it, as root may. A role that may not look is found out before a mail is sent.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App, open_app
from orderflow_ingest.config import Settings, read_file
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.entrypoints.cli.run_as import as_owner
from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    explain,
    json_option,
    loaded,
    print_rows,
    printable,
    settings_option,
)
from orderflow_ingest.storage.database import DatabaseUnavailable, Organization

from .flight import Canary, Step, StepMissedError
from .smtp_probe import new_probe
from .textfile import write_textfile

_NO_MESSAGE = UUID(int=0)
_NO_RIGHT = "42501"  # insufficient_privilege, as PostgreSQL says it
_OTHER_ROLE = "run this as root, who may read the worker's worker.env, or name an operator's settings by --settings"


@click.command(epilog=examples("orderflow-admin canary --server mx1.example.com:25"))
@click.option("--org", "slug", default="canary", show_default=True, help="The organization that the probe is for.")
@click.option("--server", default="localhost:25", show_default=True, metavar="HOST:PORT", help="The MX to send it to.")
@click.option("--sender", metavar="ADDRESS", help="Envelope sender; default: postmaster of the first domain.")
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(1), help="Seconds for all of it.")
@click.option("--postfix-config", metavar="DIR", help="Postfix's configuration directory; default: the system's.")
@click.option("--textfile", metavar="FILE", help="Write metrics there, for node_exporter; a name that ends in .prom.")
@json_option
@settings_option
def canary(
    slug: str,
    server: str,
    sender: str | None,
    timeout: float,
    postfix_config: str | None,
    textfile: str | None,
    *,
    as_json: bool,
    settings_file: str | None,
) -> None:
    """Send a probe mail through the real MX and time it until its documents are handed over.

    It leaves one small message in the organization canary, and touches no other. Exit 1 names the step that did not
    come.
    """
    began, steps = time.monotonic(), list[Step]()
    missed: StepMissedError | None = None
    try:
        for step in _flight(slug, server, sender, timeout, postfix_config, settings_file):
            steps.append(step)
            _clear()
            if not as_json:
                click.echo(f"{step.name:<10} {step.seconds:7.2f} s  {printable(step.says)}")
    except StepMissedError as error:
        missed = error
    total = time.monotonic() - began
    _clear()
    if as_json:
        _print_json(steps, missed)
    if textfile:
        _write(textfile, steps, total, is_success=missed is None)
    if missed is not None:
        raise click.ClickException(f"{missed.step}: {printable(str(missed))}")
    if not as_json:
        click.echo(f"{'total':<10} {total:7.2f} s")


def _flight(
    slug: str, server: str, sender: str | None, timeout: float, postfix_config: str | None, settings_file: str | None
) -> Iterator[Step]:
    """Prepare the flight and fly. Raise StepMissedError, also where the organization is not there."""
    settings = _worker_settings() if settings_file is None else loaded(settings_file)
    domain = settings.domains[0]
    try:
        probe = new_probe(server, sender or f"postmaster@{domain}", settings.addresses.of(slug))
    except ValueError:
        raise click.UsageError("--server must be HOST:PORT") from None
    with as_owner(settings.state_dir):
        app = open_app(settings, guarded=False)
        yield from Canary(app, _organization(app, slug), probe, timeout, _show).fly(postfix_config)


def _worker_settings() -> Settings:
    """Load the settings that the worker's unit has. Raise SettingsError."""
    settings = loaded(None)
    worker = settings.file and settings.file.parent / "worker.env"
    if worker and os.access(worker, os.R_OK):
        for name, value in read_file(str(worker)).items():
            os.environ.setdefault(name, value)
        settings = loaded(None)
    return settings


def _organization(app: App, slug: str) -> Organization:
    try:
        org = app.records.organizations.find(slug)
        if org is not None:
            app.records.documents.of_message(org.id, _NO_MESSAGE)
    except DatabaseUnavailable as error:
        todo = _OTHER_ROLE if _NO_RIGHT in str(error) else "see orderflow-admin check"
        raise StepMissedError("organization", f"{explain(error)}; {todo}") from error
    if org is None:
        raise StepMissedError("organization", f"there is none named {slug}: run orderflow-admin org add {slug}")
    if not org.is_active:
        raise StepMissedError("organization", f"{slug} is switched off: run orderflow-admin org enable {slug}")
    return org


def _show(step: str, seconds: float) -> None:
    """Show on a terminal what is waited for."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{step:<10} {seconds:7.2f} s  waiting", nl=False, err=True)


def _clear() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def _print_json(steps: list[Step], missed: StepMissedError | None) -> None:
    rows: list[dict[str, Any]] = [
        {"step": s.name, "seconds": round(s.seconds, 3), "arrived": True, "detail": s.says} for s in steps
    ]
    if missed is not None:
        rows.append({"step": missed.step, "seconds": None, "arrived": False, "detail": str(missed)})
    print_rows(rows, as_json=True)


def _write(textfile: str, steps: list[Step], total: float, *, is_success: bool) -> None:
    try:
        write_textfile(Path(textfile), steps, total, is_success=is_success)
    except OSError as error:
        raise click.ClickException(f"{textfile} cannot be written: {os_reason(error)}") from error
