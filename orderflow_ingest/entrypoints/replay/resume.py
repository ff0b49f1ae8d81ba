"""The command resume: continue a run that was stopped or killed."""

from uuid import UUID

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.terminal import examples, json_option, load_app, printable, settings_option
from orderflow_ingest.storage.database import Run

from .actions import ACTIONS
from .audit import start_logging
from .progress import run_to_end


@click.command("resume", epilog=examples("orderflow-replay resume"))
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
        raise click.ClickException("no run has this id; orderflow-admin runs shows the latest ones")
    if run.ended_at:
        raise click.ClickException("this run has ended; begin another")
    if run.chosen.get("kind") not in ACTIONS:
        raise click.ClickException(f"its own command resumes this run: {printable(run.command)}")
    return run


def _latest(app: App) -> Run:
    for run in app.records.runs.latest(1000):
        if not run.ended_at and run.chosen.get("kind") in ACTIONS:
            return run
    raise click.ClickException("no run was broken off")
