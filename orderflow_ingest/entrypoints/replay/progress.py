"""What a run prints: a preview, its progress, and how it ended."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.message_rows import message_row
from orderflow_ingest.entrypoints.cli.selection import pages
from orderflow_ingest.entrypoints.cli.terminal import print_rows, progress
from orderflow_ingest.storage.database import Filter, Run

from .actions import ACTIONS, REPLAYED, SKIPPED, ActionResult, ReplayItem, count_text
from .run import Runner, RunPlan

_REDRAWN = 0.1  # seconds
_DONE = {
    "message": "led back to RECEIVED and enqueued: {}",
    "handover": "led back to PENDING and enqueued: the documents of {}",
}


def print_preview(kind: str, chosen: Filter, limit: int | None, app: App, *, as_json: bool) -> None:
    """Print what a run would do with each message."""

    def rows() -> Iterator[dict[str, Any]]:
        left = limit
        for page in pages(chosen, app):
            for item in ACTIONS[kind].items(page, chosen, app):
                if left == 0:
                    return
                left = left and left - 1
                result = ACTIONS[kind].preview(item)
                yield {**message_row(item.message), "outcome": result.outcome, "detail": result.detail}

    print_rows(rows() if as_json else list(rows()), as_json=as_json)


def run_to_end(run: Run, app: App, *, as_json: bool) -> None:
    """Run a run to its end, with a progress bar, and print how it ended."""
    skipped: Counter[str] = Counter()
    kind = RunPlan.from_json(run.chosen).kind

    def on_result(item: ReplayItem, result: ActionResult) -> None:
        skipped.update([result.detail] if result.outcome == SKIPPED else [])
        if as_json:
            message = item.message
            row = {"id": message.id, "received": message.received_at, "recipient": message.envelope_recipient}
            row |= {"outcome": result.outcome, "detail": result.detail}
            print_rows([row], as_json=True)

    with progress(run.selected or 0, "Replaying") as bar:
        runner = Runner(run, app, on_result, _RunProgress(bar))
        try:
            is_over = runner.run()
        except Exception:
            click.echo(f"broken off; go on with: orderflow-replay resume {run.id}", err=True)
            raise
    if as_json:
        counts = {"selected": run.selected, "replayed": runner.counts[REPLAYED], "skipped": runner.counts[SKIPPED]}
        counts["passed_over"] = counts["skipped"]  # its name before 0.1.0
        click.echo(json.dumps({"run": str(run.id), "outcome": "ENDED" if is_over else "STOPPED", **counts}))
    else:
        click.echo(_DONE[kind].format(count_text(runner.counts[REPLAYED], "message")))
        for detail, count in skipped.most_common():
            click.echo(f"{count} skipped: {detail}")
    if not is_over:
        click.echo(
            f"stopped at {runner.done} of {run.selected}; go on with: orderflow-replay resume {run.id}", err=True
        )
        raise click.exceptions.Exit(1)


class _RunProgress:
    """Redraws the progress bar a few times a second: position, speed, and what the run waits for."""

    def __init__(self, bar: Any):
        self._bar, self._began = bar, time.monotonic()
        self._first: int | None = None
        self._drawn, self._shown, self._was_printed = 0.0, 0, False

    def __call__(self, runner: Runner) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = runner.done
        if now - self._drawn < _REDRAWN and runner.done < runner.selected:
            return
        self._drawn = now
        text = f"{(runner.done - self._first) / max(now - self._began, 0.001):.0f}/s"
        if runner.rate_limiter.waiting_tasks:
            text = f"waiting: {runner.rate_limiter.waiting_tasks} tasks in the queue"
            self._print_once(text, runner)
        self._bar.update(runner.done - self._shown, text)
        self._bar.render_progress()
        self._shown = runner.done

    def _print_once(self, text: str, runner: Runner) -> None:
        """Print once that the run waits, where there is no bar."""
        if not self._was_printed and not sys.stderr.isatty():
            self._was_printed = True
            click.echo(f"{text}; the run goes on when there are fewer than {runner.plan.max_waiting}", err=True)
