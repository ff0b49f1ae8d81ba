"""The trace of an operator's command: its log, and the row that says who had what done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from .. import logs, metrics
from ..assembly import Parts
from ..records import Run
from ..terminal import typed


@dataclass
class Tally:
    """What a command has done so far."""

    run_id: UUID
    done: int = 0
    passed_over: int = 0
    failed: int = 0


def start_log(parts: Parts) -> None:
    """Log what is done from here on, and count it."""
    logs.configure(parts.settings.log, "replay", parts.settings.state_dir, on_standard_error=False)
    metrics.start(parts.settings.metrics_dir)


@contextmanager
def traced(parts: Parts, kind: str, chosen: list[Any]) -> Iterator[Tally]:
    """Record a command over a few things that were named; its row says so when it has ended, however it did."""
    start_log(parts)
    run = Run.new(typed(), {"kind": kind, "ids": [str(one) for one in chosen]}, len(chosen))
    parts.records.runs.begin(run)
    tally = Tally(run.id)
    try:
        yield tally
    finally:
        counts = (tally.done, tally.passed_over, tally.failed)
        parts.records.runs.advance(run.id, None, *counts, datetime.now(UTC), is_over=True)
