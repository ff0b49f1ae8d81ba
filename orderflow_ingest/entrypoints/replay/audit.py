"""The audit trail of operators' commands: a row in the table of runs, and the log of the program.

A command over many messages has a run that can be resumed, see `run`. A command over named things has a run that only
records who did what, with the counts of how it ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.terminal import command_line
from orderflow_ingest.observability import logs, metrics
from orderflow_ingest.storage.database import Run


@dataclass
class RunCounts:
    """Counts of what a command has done so far."""

    run_id: UUID
    done: int = 0
    passed_over: int = 0
    failed: int = 0


def start_logging(app: App) -> None:
    """Start the log and the metrics of the program."""
    logs.configure(app.settings.log, "replay", app.settings.state_dir, on_standard_error=False)
    metrics.start(app.settings.metrics_dir)


@contextmanager
def recorded_run(app: App, kind: str, chosen: list[Any]) -> Iterator[RunCounts]:
    """Record a command over named things in a run, and its counts when it ends, also by an error."""
    start_logging(app)
    run = Run.new(command_line(), {"kind": kind, "ids": [str(one) for one in chosen]}, len(chosen))
    app.records.runs.begin(run)
    tally = RunCounts(run.id)
    try:
        yield tally
    finally:
        counts = (tally.done, tally.passed_over, tally.failed)
        app.records.runs.advance(run.id, None, *counts, datetime.now(UTC), is_over=True)
