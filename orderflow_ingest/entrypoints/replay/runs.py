"""The commands runs and resume: show who ran what, and go on with a run that was stopped or killed."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.terminal import json_option, load_app, print_rows, printable, settings_option
from orderflow_ingest.storage.database import Run

from .actions import ACTIONS
from .audit import start_logging
from .progress import run_to_end

_SILENT = timedelta(seconds=60)


@click.command("runs")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@json_option
@settings_option
def list_runs(limit: int, *, as_json: bool, settings_file: str | None) -> None:
    """Show who ran what: when, by which command, how far it has come, and how it ended."""
    app = load_app(settings_file)
    now = datetime.now(UTC)
    rows = [_row(run, now) for run in app.records.runs.latest(limit)]
    print_rows(rows, as_json=as_json, former_keys={"skipped": "passed_over"})


@click.command("resume")
@click.argument("run_id", metavar="[RUN]", required=False, type=click.UUID)
@json_option
@settings_option
def resume_run(run_id: UUID | None, *, as_json: bool, settings_file: str | None) -> None:
    """Resume a run of message or handover that was stopped or killed: RUN, or the latest one.

    It begins where the run ended, and does nothing twice. Selection and rate stay as they were.
    """
    app = load_app(settings_file)
    run = _named(run_id, app) if run_id else _latest(app)
    click.echo(
        f"going on with {run.id}, {run.done + run.passed_over} of {run.selected}: {printable(run.command)}", err=True
    )
    start_logging(app)
    run_to_end(run, app, as_json=as_json)


def _named(run_id: UUID, app: App) -> Run:
    run = app.records.runs.get(run_id)
    if run is None:
        raise click.ClickException("no run has this id")
    if run.ended_at:
        raise click.ClickException("this run has ended; begin another")
    if run.chosen.get("kind") not in ACTIONS:
        raise click.ClickException(f"this run is gone on with by its own command: {printable(run.command)}")
    return run


def _latest(app: App) -> Run:
    for run in app.records.runs.latest(1000):
        if not run.ended_at and run.chosen.get("kind") in ACTIONS:
            return run
    raise click.ClickException("no run was broken off")


def _row(run: Run, now: datetime) -> dict[str, Any]:
    return {
        "run": run.id,
        "started": run.started_at,
        "by": run.actor,
        "state": _state(run, now),
        "selected": run.selected,
        "done": run.done,
        "skipped": run.passed_over,
        "failed": run.failed,
        "last_seen": run.ended_at or run.updated_at,
        "command": run.command,
    }


def _state(run: Run, now: datetime) -> str:
    if run.ended_at:
        return "ended"
    if isinstance(run.position, dict) and run.position.get("stopped"):
        return "stopped"
    return "at work" if now - run.updated_at < _SILENT else "broken off"
