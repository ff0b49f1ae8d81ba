"""A walk: a run over all messages that are meant, several at a time, that can be broken off anywhere and gone on with.

It goes from the newest message to the oldest, page by page, and notes in the run's row the place up to which all is
done, every few seconds and at its end. Ctrl-C and SIGTERM let it finish what is in hand; a second one ends it at once.
Whatever ends it, a walk from that place on does the rest: what was done beyond the place has an event of the run, is
passed by without a word, and could not be done again even so.
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
from orderflow_ingest.storage.database import Cursor, Filter, InboundMessage, Run

from .actions import KINDS, PASSED_OVER, REPLAYED, Ending, Item
from .rate_limit import Pace
from .selection import from_json, to_json

PAGE = 500
_NOTED = 5.0  # seconds
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Tell = Callable[[Item, Ending], None]


@dataclass(frozen=True)
class Plan:
    """What a run is to do, as its row keeps it."""

    kind: str
    chosen: Filter
    limit: int | None
    concurrency: int
    rate: float | None
    max_waiting: int

    def to_json(self) -> dict[str, Any]:
        """Write it down."""
        return {**asdict(self), "chosen": to_json(self.chosen)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what to_json() has written."""
        return cls(**{**values, "chosen": from_json(values["chosen"])})


def pages(
    chosen: Filter, app: App, limit: int | None = None, after: Cursor | None = None
) -> Iterator[list[InboundMessage]]:
    """Go through the messages that are meant, the newest first, page by page."""
    last: InboundMessage | Cursor | None = after
    left = limit
    while left is None or left > 0:
        page = app.records.messages.select(chosen, min(PAGE, left or PAGE), last)
        if not page:
            return
        yield page
        last, left = page[-1], left and left - len(page)


class Walk:
    """One walk of a run, from the place that its row tells."""

    def __init__(self, run: Run, app: App, tell: Tell, meanwhile: Callable[["Walk"], None]):
        self.plan = Plan.from_json(run.chosen)
        self.run_id, self.selected = run.id, run.selected or 0
        self.counts = {REPLAYED: app.records.events.count_of_run(run.id), PASSED_OVER: run.passed_over}
        self.pace = Pace(self.plan.rate, self.plan.max_waiting, app.queue.depth)
        self._kind, self._app, self._tell, self._meanwhile = KINDS[self.plan.kind], app, tell, meanwhile
        self._place = _place(run.position)
        self._noted = time.monotonic()
        self._signals = 0

    @property
    def done(self) -> int:
        """Count what the run has met so far."""
        return sum(self.counts.values())

    def go(self) -> bool:
        """Go to the end; False if it was stopped. Raises what a message's replay raises, its place noted."""
        try:
            with ThreadPoolExecutor(self.plan.concurrency) as pool, self._stoppable():
                for last, items in self._fresh_pages():
                    self._do(items, pool)
                    if self._signals:
                        self._note(is_stopped=True)
                        return False
                    self._place = Cursor(last.received_at, last.id)
        except Exception:
            self._note(is_stopped=True)
            raise
        self._note(is_over=True)
        return True

    def _fresh_pages(self) -> Iterator[tuple[InboundMessage, list[Item]]]:
        """Give the pages of what this run has not done, each with its last message."""
        chosen, limit = self.plan.chosen, self.plan.limit
        left = None if limit is None else limit - self.done
        for page in pages(chosen, self._app, None, self._place):
            if left is not None and left <= 0:
                return
            known = self._app.records.events.of_run(self.run_id, [message.id for message in page], chosen.org_id)
            items = self._kind.items([one for one in page if one.id not in known], chosen, self._app)[:left]
            left = left and left - len(items)
            yield page[-1], items

    def _do(self, items: list[Item], pool: ThreadPoolExecutor) -> None:
        """Put items through; the place moves on in their order, never past one that is not done."""
        in_hand: deque[tuple[Item, Future[Ending]]] = deque()
        try:
            for item in items:
                if not self.pace.wait(lambda: self._signals > 0, lambda: self._settle_done(in_hand)):
                    break
                in_hand.append((item, pool.submit(self._kind.act, item, self._app, self.run_id)))
                if len(in_hand) > 2 * self.plan.concurrency:
                    self._settle(*in_hand.popleft())
                self._settle_done(in_hand)
            while in_hand:
                self._settle(*in_hand.popleft())
        finally:  # after an error: what was done beyond it is told too
            for item, future in in_hand:
                if future.exception() is None:
                    self._count(item, future.result())

    def _settle_done(self, in_hand: deque[tuple[Item, Future[Ending]]]) -> None:
        while in_hand and in_hand[0][1].done():
            self._settle(*in_hand.popleft())
        self._look_up()

    def _settle(self, item: Item, future: Future[Ending]) -> None:
        self._count(item, future.result())
        self._place = Cursor(item.message.received_at, item.message.id)
        self._look_up()

    def _count(self, item: Item, ending: Ending) -> None:
        self.counts[ending.outcome] += 1
        self._tell(item, ending)

    def _look_up(self) -> None:
        """Tell the terminal, and now and then the run's row, how far this is."""
        self._meanwhile(self)
        if time.monotonic() - self._noted > _NOTED:
            self._note()

    def _note(self, is_over: bool = False, is_stopped: bool = False) -> None:
        self._noted = time.monotonic()
        position = self._place and {"received_at": self._place.received_at.isoformat(), "id": str(self._place.id)}
        told = {**(position or {}), "stopped": True} if is_stopped else position
        counts = (self.counts[REPLAYED], self.counts[PASSED_OVER], 0)
        self._app.records.runs.advance(self.run_id, told, *counts, datetime.now(UTC), is_over)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Have the first signal counted; the second one ends the program at once."""

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


def begin(plan: Plan, command: str, selected: int, app: App) -> Run:
    """Record a run that begins. What comes in from now on is not meant, unless it is named."""
    now = datetime.now(UTC)
    chosen = plan.chosen
    if not (chosen.ids or chosen.document_ids):
        chosen = replace(chosen, until=min(now, chosen.until or now))
    written = replace(plan, chosen=chosen).to_json()
    run = Run.new(command, written, selected)
    app.records.runs.begin(run)
    return run


def _place(position: Any) -> Cursor | None:
    if not position or "id" not in position:
        return None
    return Cursor(datetime.fromisoformat(position["received_at"]), UUID(position["id"]))
