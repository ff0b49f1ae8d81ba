"""A run over all selected messages, several at a time. It can be stopped or killed at any point, and resumed.

It goes from the newest message to the oldest, page by page. Every few seconds, and at its end, it saves in its row the
position up to which everything is done. Ctrl-C and SIGTERM let it finish what is in hand. A second signal ends it at
once. A resumed run begins at the saved position. A message after that position that was done already has an event of
the run, and is skipped without a report. Doing it again would be harmless.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Self
from uuid import UUID

from orderflow_ingest.app import App
from orderflow_ingest.entrypoints.cli.selection import pages
from orderflow_ingest.storage.database import Cursor, Filter, InboundMessage, Run

from .actions import ACTIONS, REPLAYED, SKIPPED, ActionResult, ReplayItem
from .rate_limit import RateLimiter
from .saved_filter import filter_from_json, filter_to_json

_SAVE_INTERVAL = 5.0  # seconds
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OnResult = Callable[[ReplayItem, ActionResult], None]


@dataclass(frozen=True)
class RunPlan:
    """What a run does. Its row keeps it as JSON, so field names outlive a version."""

    kind: str
    chosen: Filter
    limit: int | None
    concurrency: int
    rate: float | None
    max_waiting: int

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON for the run's row."""
        return {**asdict(self), "chosen": filter_to_json(self.chosen)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what to_json() has written."""
        return cls(**{**values, "chosen": filter_from_json(values["chosen"])})


class Runner:
    """Runs or resumes one run, from the position in its row."""

    def __init__(self, run: Run, app: App, on_result: OnResult, on_progress: Callable[["Runner"], None]):
        self.plan = RunPlan.from_json(run.chosen)
        self.run_id, self.selected = run.id, run.selected or 0
        self.counts = {REPLAYED: app.records.events.count_of_run(run.id), SKIPPED: run.passed_over}
        self.rate_limiter = RateLimiter(self.plan.rate, self.plan.max_waiting, app.queue.depth)
        self._action, self._app, self._on_result, self._on_progress = (
            ACTIONS[self.plan.kind],
            app,
            on_result,
            on_progress,
        )
        self._position = _read_position(run.position)
        self._saved_at = time.monotonic()
        self._signals = 0

    @property
    def done(self) -> int:
        """Return how many messages the run has handled so far."""
        return sum(self.counts.values())

    def run(self) -> bool:
        """Run to the end. Return False if stopped. Raises what a replay raises, after saving the position."""
        try:
            with ThreadPoolExecutor(self.plan.concurrency) as pool, self._stoppable():
                for last, items in self._fresh_pages():
                    self._process(items, pool)
                    if self._signals:
                        self._save_progress(is_stopped=True)
                        return False
                    self._position = Cursor(last.received_at, last.id)
        except Exception:
            self._save_progress(is_stopped=True)
            raise
        self._save_progress(is_over=True)
        return True

    def _fresh_pages(self) -> Iterator[tuple[InboundMessage, list[ReplayItem]]]:
        """Yield pages of items that this run has not done, each with its last message."""
        chosen, limit = self.plan.chosen, self.plan.limit
        left = None if limit is None else limit - self.done
        for page in pages(chosen, self._app, None, self._position):
            if left is not None and left <= 0:
                return
            known = self._app.records.events.of_run(self.run_id, [message.id for message in page], chosen.org_id)
            items = self._action.items([one for one in page if one.id not in known], chosen, self._app)[:left]
            left = left and left - len(items)
            yield page[-1], items

    def _process(self, items: list[ReplayItem], pool: ThreadPoolExecutor) -> None:
        """Perform items. The position moves in their order, never past one that is not done."""
        in_hand: deque[tuple[ReplayItem, Future[ActionResult]]] = deque()
        try:
            for item in items:
                if not self.rate_limiter.wait(lambda: self._signals > 0, lambda: self._finish_done(in_hand)):
                    break
                in_hand.append((item, pool.submit(self._action.perform, item, self._app, self.run_id)))
                if len(in_hand) > 2 * self.plan.concurrency:
                    self._finish(*in_hand.popleft())
                self._finish_done(in_hand)
            while in_hand:
                self._finish(*in_hand.popleft())
        finally:  # after an error: what was done beyond it counts too
            for item, future in in_hand:
                if future.exception() is None:
                    self._count(item, future.result())

    def _finish_done(self, in_hand: deque[tuple[ReplayItem, Future[ActionResult]]]) -> None:
        while in_hand and in_hand[0][1].done():
            self._finish(*in_hand.popleft())
        self._report_progress()

    def _finish(self, item: ReplayItem, future: Future[ActionResult]) -> None:
        self._count(item, future.result())
        self._position = Cursor(item.message.received_at, item.message.id)
        self._report_progress()

    def _count(self, item: ReplayItem, result: ActionResult) -> None:
        self.counts[result.outcome] += 1
        self._on_result(item, result)

    def _report_progress(self) -> None:
        """Show the progress, and save it in the run's row every few seconds."""
        self._on_progress(self)
        if time.monotonic() - self._saved_at > _SAVE_INTERVAL:
            self._save_progress()

    def _save_progress(self, *, is_over: bool = False, is_stopped: bool = False) -> None:
        self._saved_at = time.monotonic()
        position = self._position and {
            "received_at": self._position.received_at.isoformat(),
            "id": str(self._position.id),
        }
        position_json = {**(position or {}), "stopped": True} if is_stopped else position
        counts = (self.counts[REPLAYED], self.counts[SKIPPED], 0)
        self._app.records.runs.advance(self.run_id, position_json, *counts, datetime.now(UTC), is_over=is_over)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Count the first signal. The second one ends the program at once."""

        def count(number: int, _frame: FrameType | None) -> None:
            self._signals += 1
            if self._signals > 1:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        before = {number: signal.signal(number, count) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def start_run(plan: RunPlan, command: str, selected: int, app: App) -> Run:
    """Record a new run. Mail that arrives from now on is not selected, unless by id."""
    now = datetime.now(UTC)
    chosen = plan.chosen
    if not (chosen.ids or chosen.document_ids):
        chosen = replace(chosen, until=min(now, chosen.until or now))
    written = replace(plan, chosen=chosen).to_json()
    run = Run.new(command, written, selected)
    app.records.runs.begin(run)
    return run


def _read_position(position: Any) -> Cursor | None:
    if not position or "id" not in position:
        return None
    return Cursor(datetime.fromisoformat(position["received_at"]), UUID(position["id"]))
