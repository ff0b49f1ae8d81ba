"""The desk: where the service's doors bring their messages; it holds the bounds and knows the outcomes.

    places     so many deliveries run at a time, each in a thread; the others wait
    bytes      so many bytes are in memory for messages at a time, by what `cost` says a delivery makes of each; beyond
               them OVERLOADED. One message alone always passes
    deadline   an answer comes within the delivery's deadline, DEADLINE if no other. A thread cannot be ended
               from outside: it goes on, keeps its place and its bytes, and what it records is recorded; its
               backends' own time limits end it. While such have every place, nothing new is taken. What has
               waited for a place till then is dropped: who was answered DEADLINE has the message, and comes again

All methods belong to the event loop's thread. Nothing here raises: a door gets an outcome.
"""

import asyncio
import os
import pwd
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from threading import Thread

from orderflow_ingest import __version__
from orderflow_ingest.app import App
from orderflow_ingest.domain.addresses import ForeignDomainError
from orderflow_ingest.domain.envelope import Envelope
from orderflow_ingest.domain.os_errors import os_reason
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import ERROR, WARNING, event, place
from orderflow_ingest.pipeline import deliver as delivery
from orderflow_ingest.storage.spool import Entry

from . import systemd
from .cost import cost, cost_of_read

Answer = Callable[[Outcome | None], None]


class Dispatcher:
    """The one place where deliveries of this process are begun."""

    def __init__(self, app: App):
        self.app = app
        self.settings = app.settings
        self.is_draining = False
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._in_flight = self._running = self._overdue = 0
        self._ended: Counter[str] = Counter()
        self._started_at = datetime.now(UTC)
        self._unit = systemd.unit()
        for number in range(self.settings.concurrency):
            Thread(target=self._take_place, name=f"place {number}", daemon=True).start()

    @property
    def is_stuck(self) -> bool:
        """Tell whether as many deliveries as there are places are past their deadline."""
        return self._overdue >= self.settings.concurrency

    @property
    def is_idle(self) -> bool:
        """Tell whether everyone has been answered."""
        return self._running == self._overdue

    def reserve(self, size: int, held: int = 0) -> bool:
        """Take so many bytes of the bound for a message that holds others already; False if there are not as many."""
        if self._in_flight > held and self._in_flight + size > self.settings.max_in_flight:
            return False
        self._in_flight += size
        return True

    def free(self, size: int) -> None:
        """Give bytes back."""
        self._in_flight -= size

    def organization(self, recipient: str) -> str | None:
        """Give the slug that a recipient names, whether there is such an organisation or not."""
        try:
            return self.settings.addresses.slug(recipient)
        except ForeignDomainError:
            return None

    async def welcome(self, recipient: str) -> Outcome | None:
        """Tell what keeps mail for this recipient from being delivered; None if nothing does."""
        known = self.app.records.organizations.remembered(self.organization(recipient) or "")
        if known is not None and known.is_active:
            return None
        if self.is_stuck:
            return _refused(Outcome.OVERLOADED)
        answer: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._begin(partial(_welcomed, recipient, self.app), 0, partial(_tell, answer))
        return await answer

    async def deliver(self, envelope: Envelope, raw: bytes) -> Outcome:
        """Deliver a message that its sender still has. Its bytes are reserved by the door that has read it."""
        made = cost(0, raw)
        if self.is_stuck or not self.reserve(made, held=len(raw)):
            event("deliver", "No room for a message.", WARNING, outcome=Outcome.OVERLOADED.name, size=len(raw))
            return self._counted(_refused(Outcome.OVERLOADED))
        answer: asyncio.Future[Outcome | None] = self._loop.create_future()
        work = partial(_received, envelope, raw, self.app)
        self._begin(work, made, partial(_tell, answer), if_late=len(raw), name=envelope.queue_id)
        return self._counted(await answer)

    def settle(self, name: str, answer: Callable[[Outcome], None]) -> None:
        """Deliver a spool entry by its name, and call `answer` with the outcome."""
        try:
            entry = self.app.spool.claim(name)
        except OSError as error:
            entry, why = None, os_reason(error)
        else:
            why = "gone, or another process is at it"
        if entry is None:
            event("spool", "Spool entry could not be claimed.", WARNING, entry=name, reason=why)
            answer(self._counted(_refused(Outcome.INTERNAL)))
            return
        size = cost_of_read(entry.size, entry.peek)
        if self.is_stuck or not self.reserve(size):
            event(
                "deliver", "No room for a message.", WARNING, outcome=Outcome.OVERLOADED.name,
                entry=name, size=entry.size,
            )  # fmt: skip
            self._discard(entry)
            answer(self._counted(_refused(Outcome.OVERLOADED)))
            return
        told = partial(self._tell_counted, answer)
        self._begin(partial(_settled, entry, self.app), size, told, name=name, drop=partial(self._discard, entry))

    def health(self) -> dict[str, object]:
        """Tell how the service does."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "unit": self._unit,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "spool": self.app.spool.directory,
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "draining": self.is_draining,
            "places": self.settings.concurrency,
            "busy": self._running,
            "overdue": self._overdue,
            "in_flight": self._in_flight,
            "max_in_flight": self.settings.max_in_flight,
            "deliveries": self._ended.total(),
            "outcomes": dict(self._ended),
        }

    async def drain(self) -> None:
        """Wait until everyone has been answered."""
        while not self.is_idle:
            await asyncio.sleep(0.02)

    def _discard(self, entry: Entry) -> None:
        """Remove an entry whose message Postfix keeps."""
        try:
            self.app.spool.finish(entry)
        except OSError as error:
            event("spool", "Spool entry could not be removed.", ERROR, entry=entry.name, reason=error)
            entry.release()  # to the drain

    def _tell_counted(self, answer: Callable[[Outcome], None], outcome: Outcome | None) -> None:
        answer(self._counted(outcome))

    def _begin(
        self,
        work: Callable[[], Outcome | None],
        size: int,
        answer: Answer,
        if_late: int = 0,
        name: str = "",
        drop: Callable[[], None] = lambda: None,
    ) -> None:
        """Have the work done by a place, and answer once: with its outcome, or with DEADLINE when that is over.

        Work that no place has begun by then is not done: `drop` takes away what it would have ended.
        """
        delivery = _Delivery(answer, size)
        delivery.timer = self._loop.call_later(self.settings.deadline, self._late, delivery, if_late, name)
        self._running += 1
        self._work.put(partial(self._do, work, drop, delivery))

    def _take_place(self) -> None:
        while True:
            self._work.get()()

    def _do(self, work: Callable[[], Outcome | None], drop: Callable[[], None], delivery: "_Delivery") -> None:
        """Do the work, in a thread."""
        try:
            if delivery.is_late:
                drop()
                outcome = None
            else:
                outcome = work()
        except BaseException as error:
            event("deliver", "Delivery broke.", ERROR, outcome=Outcome.INTERNAL.name, reason=place(error))
            outcome = _refused(Outcome.INTERNAL)
        self._loop.call_soon_threadsafe(self._over, delivery, outcome)

    def _over(self, delivery: "_Delivery", outcome: Outcome | None) -> None:
        self._running -= 1
        self._in_flight -= delivery.size
        if delivery.is_late:
            self._overdue -= 1
        else:
            delivery.timer.cancel()
            delivery.answer(outcome)

    def _late(self, delivery: "_Delivery", size: int, name: str) -> None:
        """Answer; the thread goes on, and so does its hold on its place and on its bytes."""
        delivery.is_late = True
        delivery.size += size
        self._in_flight += size
        self._overdue += 1
        event("deliver", "Delivery has not ended by its deadline.", ERROR, outcome=Outcome.DEADLINE.name, of=name)
        delivery.answer(_refused(Outcome.DEADLINE))

    def _counted(self, outcome: Outcome | None) -> Outcome:
        outcome = outcome or Outcome.INTERNAL
        self._ended[outcome.name] += 1
        return outcome


class _Delivery:
    """Work that a place has in hand: who is told its outcome, and the bytes that it holds."""

    __slots__ = ("answer", "is_late", "size", "timer")
    timer: asyncio.TimerHandle

    def __init__(self, answer: Answer, size: int):
        self.answer, self.size, self.is_late = answer, size, False


def _refused(outcome: Outcome) -> Outcome:
    """Count an answer that no delivery has given."""
    metrics.count(metrics.REFUSALS, outcome.name)
    return outcome


def _tell(answer: "asyncio.Future[Outcome | None]", outcome: Outcome | None) -> None:
    """Give an answer to who may be gone: a client that dropped."""
    if not answer.done():
        answer.set_result(outcome)


def _welcomed(recipient: str, app: App) -> Outcome | None:
    refusal = delivery.check_recipient(recipient, app)
    return refusal and _refused(refusal)


def _received(envelope: Envelope, raw: bytes, app: App) -> Outcome:
    return delivery.deliver_from_memory(envelope, raw, app).outcome


def _settled(entry: Entry, app: App) -> Outcome:
    return delivery.deliver_spooled(entry, app).outcome
