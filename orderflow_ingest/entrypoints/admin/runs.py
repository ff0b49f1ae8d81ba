"""The command runs: show who ran what. `orderflow-replay resume` continues a run that was stopped or killed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from orderflow_ingest.entrypoints.cli.terminal import (
    examples,
    json_option,
    load_app,
    local_option,
    print_rows,
    settings_option,
)
from orderflow_ingest.storage.database import Run

_SILENT = timedelta(seconds=60)


@click.command("runs", epilog=examples("orderflow-admin runs --limit 5"))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@local_option
@json_option
@settings_option
def list_runs(limit: int, *, as_json: bool, settings_file: str | None) -> None:
    """Show who ran what: when, by which command, how far it has come, and how it ended."""
    app = load_app(settings_file)
    now = datetime.now(UTC)
    print_rows([_row(run, now) for run in app.records.runs.latest(limit)], as_json=as_json)


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
