"""What the commands print: rows of messages and their parts, and a run on its way."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.terminal import print_rows, progress
from orderflow_ingest.storage.database import Document, Filter, InboundMessage, Run, SkippedPart

from .actions import KINDS, PASSED_OVER, REPLAYED, Ending, Item, number
from .run import Plan, Walk, pages

_REDRAWN = 0.1  # seconds
_DONE = {
    "message": "led back to RECEIVED and enqueued: {}",
    "handover": "led back to PENDING and enqueued: the documents of {}",
}


def message_row(message: InboundMessage) -> dict[str, Any]:
    """Give the row of a message."""
    return {
        "id": message.id,
        "received": message.received_at,
        "status": message.status.value,
        "attempts": message.attempts,
        "recipient": message.envelope_recipient,
        "sender": message.envelope_sender,
        "from": message.from_email,
        "subject": message.subject,
        "traits": ", ".join(message.traits),
        "error": (message.error_json or {}).get("error"),
    }


def part_row(part: Document | SkippedPart, content_type: str, state: str) -> dict[str, Any]:
    """Give the row of a part of a message."""
    told = {"part": part.part_path, "filename": part.filename, "type": content_type, "size": part.size}
    return {**told, "state": state, "why": part.reason, "defects": "; ".join(part.defects)}


def print_foreseen(kind: str, chosen: Filter, limit: int | None, app: App, as_json: bool) -> None:
    """Print what would become of each message."""

    def rows() -> Iterator[dict[str, Any]]:
        left = limit
        for page in pages(chosen, app):
            for item in KINDS[kind].items(page, chosen, app):
                if left == 0:
                    return
                left = left and left - 1
                ending = KINDS[kind].foresee(item)
                yield {**message_row(item.message), "outcome": ending.outcome, "says": ending.says}

    print_rows(rows() if as_json else list(rows()), as_json)


def walk(run: Run, app: App, as_json: bool) -> None:
    """Walk a run to its end with its progress, and say how it ended."""
    passed_over: Counter[str] = Counter()
    kind = Plan.from_json(run.chosen).kind

    def tell(item: Item, ending: Ending) -> None:
        passed_over.update([ending.says] if ending.outcome == PASSED_OVER else [])
        if as_json:
            message = item.message
            told = {"id": message.id, "received": message.received_at, "recipient": message.envelope_recipient}
            print_rows([{**told, "outcome": ending.outcome, "says": ending.says}], as_json)

    with progress(run.selected or 0, "Replaying") as bar:
        walk = Walk(run, app, tell, _Meter(bar))
        try:
            is_over = walk.go()
        except Exception:
            click.echo(f"broken off; go on with: orderflow-replay resume {run.id}", err=True)
            raise
    if as_json:
        counts = {"selected": run.selected, "replayed": walk.counts[REPLAYED], "passed_over": walk.counts[PASSED_OVER]}
        click.echo(json.dumps({"run": str(run.id), "outcome": "ENDED" if is_over else "STOPPED", **counts}))
    else:
        click.echo(_DONE[kind].format(number(walk.counts[REPLAYED], "message")))
        for says, count in passed_over.most_common():
            click.echo(f"{count} passed over: {says}")
    if not is_over:
        click.echo(f"stopped at {walk.done} of {run.selected}; go on with: orderflow-replay resume {run.id}", err=True)
        raise click.exceptions.Exit(1)


class _Meter:
    """Draws the bar anew, a few times a second: how far, how fast, and what is waited for."""

    def __init__(self, bar: Any):
        self._bar, self._began = bar, time.monotonic()
        self._first: int | None = None
        self._drawn, self._shown, self._is_told = 0.0, 0, False

    def __call__(self, walk: Walk) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = walk.done
        if now - self._drawn < _REDRAWN and walk.done < walk.selected:
            return
        self._drawn = now
        text = f"{(walk.done - self._first) / max(now - self._began, 0.001):.0f}/s"
        if walk.pace.braked_by:
            text = f"waiting: {walk.pace.braked_by} tasks in the queue"
            self._tell_once(text, walk)
        self._bar.update(walk.done - self._shown, text)
        self._bar.render_progress()
        self._shown = walk.done

    def _tell_once(self, text: str, walk: Walk) -> None:
        """Tell of the brake where there is no bar."""
        if not self._is_told and not sys.stderr.isatty():
            self._is_told = True
            click.echo(f"{text}; the run goes on when there are fewer than {walk.plan.max_waiting}", err=True)
