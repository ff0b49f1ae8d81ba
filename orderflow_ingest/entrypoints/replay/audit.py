"""The trace of an operator's command: its log, and the row that says who had what done."""

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
class Tally:
    """What a command has done so far."""

    run_id: UUID
    done: int = 0
    passed_over: int = 0
    failed: int = 0


def start_log(app: App) -> None:
    """Log what is done from here on, and count it."""
    logs.configure(app.settings.log, "replay", app.settings.state_dir, on_standard_error=False)
    metrics.start(app.settings.metrics_dir)


@contextmanager
def traced(app: App, kind: str, chosen: list[Any]) -> Iterator[Tally]:
    """Record a command over a few things that were named; its row says so when it has ended, however it did."""
    start_log(app)
    run = Run.new(command_line(), {"kind": kind, "ids": [str(one) for one in chosen]}, len(chosen))
    app.records.runs.begin(run)
    tally = Tally(run.id)
    try:
        yield tally
    finally:
        counts = (tally.done, tally.passed_over, tally.failed)
        app.records.runs.advance(run.id, None, *counts, datetime.now(UTC), is_over=True)
