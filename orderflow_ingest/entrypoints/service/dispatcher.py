"""The dispatcher: runs deliveries in worker threads, within the bounds of the service.

    workers    ORDERFLOW_CONCURRENCY threads, each with one delivery at a time; further deliveries wait in a queue
    bytes      the memory that messages may take at a time, by the estimate of `cost`. Beyond it the outcome is
               OVERLOADED. One message alone always passes
    deadline   every delivery is answered by its deadline, with DEADLINE if it has not ended. A thread cannot be ended
               from outside: it goes on, keeps its worker and its bytes, and what it records stays recorded. The time
               limits of its backends end it. While all workers are overdue, no new delivery is taken. A delivery that
               no worker has begun by its deadline is dropped: its client still has the message and sends it again

All methods are for the event loop's thread. They raise nothing: a listener always gets an outcome.

The threads are daemons of our own. A ThreadPoolExecutor waits at exit for each of its threads. One delivery that hangs
would keep the process from ending.
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
from orderflow_ingest.observability.logs import ERROR, WARNING, error_location, event
from orderflow_ingest.pipeline.admission import check_recipient
from orderflow_ingest.pipeline.receive import deliver_from_memory, deliver_spooled
from orderflow_ingest.storage.spool import Entry

from . import systemd
from .cost import cost, cost_of_read

Reply = Callable[[Outcome | None], None]


class Dispatcher:
    """Starts all deliveries of this process."""

    def __init__(self, app: App):
        self.app = app
        self.settings = app.settings
        self.is_draining = False
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._reserved_bytes = self._running = self._overdue = 0
        self._outcomes: Counter[str] = Counter()
        self._started_at = datetime.now(UTC)
        self._unit = systemd.unit()
        for number in range(self.settings.concurrency):
            Thread(target=self._run_worker, name=f"delivery-{number}", daemon=True).start()

    @property
    def is_stuck(self) -> bool:
        """Return whether every worker has a delivery that is past its deadline."""
        return self._overdue >= self.settings.concurrency

    @property
    def is_idle(self) -> bool:
        """Return whether every client has been answered."""
        return self._running == self._overdue

    def reserve(self, size: int, held: int = 0) -> bool:
        """Reserve `size` bytes for a message that has reserved `held` already. Return False where there is no room."""
        if self._reserved_bytes > held and self._reserved_bytes + size > self.settings.max_in_flight:
            return False
        self._reserved_bytes += size
        return True

    def release(self, size: int) -> None:
        """Release bytes that were reserved."""
        self._reserved_bytes -= size

    def organization_slug(self, recipient: str) -> str | None:
        """Return the slug that a recipient names, whether there is such an organization or not."""
        try:
            return self.settings.addresses.slug(recipient)
        except ForeignDomainError:
            return None

    async def check_recipient(self, recipient: str) -> Outcome | None:
        """Return the outcome that mail for this recipient would have, or None where it would be accepted."""
        known = self.app.records.organizations.remembered(self.organization_slug(recipient) or "")
        if known is not None and known.is_active:
            return None
        if self.is_stuck:
            return _count_refusal(Outcome.OVERLOADED)
        reply: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._submit(partial(_check_recipient, recipient, self.app), 0, partial(_set_result, reply))
        return await reply

    async def deliver(self, envelope: Envelope, raw: bytes) -> Outcome:
        """Deliver a message that its sender still has. Its bytes are reserved by the listener that has read it."""
        size = cost(0, raw)
        if self.is_stuck or not self.reserve(size, held=len(raw)):
            event("deliver", "No room for a message.", WARNING, outcome=Outcome.OVERLOADED.name, size=len(raw))
            return self._count_outcome(_count_refusal(Outcome.OVERLOADED))
        reply: asyncio.Future[Outcome | None] = self._loop.create_future()
        work = partial(_deliver_from_memory, envelope, raw, self.app)
        self._submit(work, size, partial(_set_result, reply), bytes_if_late=len(raw), name=envelope.queue_id)
        return self._count_outcome(await reply)

    def deliver_spooled(self, name: str, reply: Callable[[Outcome], None]) -> None:
        """Deliver a spool entry by its name, and call `reply` with the outcome."""
        try:
            entry = self.app.spool.claim(name)
        except OSError as error:
            entry, reason = None, os_reason(error)
        else:
            reason = "gone, or locked by another process"
        if entry is None:
            event("spool", "Spool entry could not be claimed.", WARNING, entry=name, reason=reason)
            reply(self._count_outcome(_count_refusal(Outcome.INTERNAL)))
            return
        size = cost_of_read(entry.size, entry.peek)
        if self.is_stuck or not self.reserve(size):
            event(
                "deliver", "No room for a message.", WARNING, outcome=Outcome.OVERLOADED.name,
                entry=name, size=entry.size,
            )  # fmt: skip
            self._discard_entry(entry)
            reply(self._count_outcome(_count_refusal(Outcome.OVERLOADED)))
            return
        work, discard = partial(_deliver_spooled, entry, self.app), partial(self._discard_entry, entry)
        self._submit(work, size, partial(self._count_and_reply, reply), name=name, discard=discard)

    def health(self) -> dict[str, object]:
        """Return the state of the service, as JSON holds it."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "unit": self._unit,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "spool": self.app.spool.directory,
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "draining": self.is_draining,
            "workers": self.settings.concurrency,
            "busy": self._running,
            "overdue": self._overdue,
            "in_flight": self._reserved_bytes,
            "max_in_flight": self.settings.max_in_flight,
            "deliveries": self._outcomes.total(),
            "outcomes": dict(self._outcomes),
        }

    async def drain(self) -> None:
        """Wait until every client has been answered."""
        while not self.is_idle:
            await asyncio.sleep(0.02)

    def _discard_entry(self, entry: Entry) -> None:
        """Remove an entry whose message Postfix still has."""
        try:
            self.app.spool.finish(entry)
        except OSError as error:
            event("spool", "Spool entry could not be removed.", ERROR, entry=entry.name, reason=error)
            entry.release()  # to the drain

    def _count_and_reply(self, reply: Callable[[Outcome], None], outcome: Outcome | None) -> None:
        reply(self._count_outcome(outcome))

    def _submit(
        self,
        work: Callable[[], Outcome | None],
        size: int,
        reply: Reply,
        bytes_if_late: int = 0,
        name: str = "",
        discard: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a worker do the work, and reply once: with its outcome, or with DEADLINE at the deadline.

        Work that no worker has begun by then is not done. `discard` is called in its place. A delivery that is late
        takes `bytes_if_late` more: its client has been answered and releases its own reservation.
        """
        job = _Job(reply, size)
        job.timer = self._loop.call_later(self.settings.deadline, self._on_deadline, job, bytes_if_late, name)
        self._running += 1
        self._jobs.put(partial(self._run, work, discard, job))

    def _run_worker(self) -> None:
        while True:
            self._jobs.get()()

    def _run(self, work: Callable[[], Outcome | None], discard: Callable[[], None], job: "_Job") -> None:
        """Do the work, in a thread."""
        try:
            if job.is_late:
                discard()
                outcome = None
            else:
                outcome = work()
        except BaseException as error:
            event(
                "deliver",
                "Delivery failed unexpectedly.",
                ERROR,
                outcome=Outcome.INTERNAL.name,
                reason=error_location(error),
            )
            outcome = _count_refusal(Outcome.INTERNAL)
        self._loop.call_soon_threadsafe(self._finish, job, outcome)

    def _finish(self, job: "_Job", outcome: Outcome | None) -> None:
        self._running -= 1
        self._reserved_bytes -= job.size
        if job.is_late:
            self._overdue -= 1
        else:
            job.timer.cancel()
            job.reply(outcome)

    def _on_deadline(self, job: "_Job", size: int, name: str) -> None:
        """Reply. The thread goes on, and keeps its worker and its bytes."""
        job.is_late = True
        job.size += size
        self._reserved_bytes += size
        self._overdue += 1
        event("deliver", "Delivery has not ended by its deadline.", ERROR, outcome=Outcome.DEADLINE.name, of=name)
        job.reply(_count_refusal(Outcome.DEADLINE))

    def _count_outcome(self, outcome: Outcome | None) -> Outcome:
        outcome = outcome or Outcome.INTERNAL
        self._outcomes[outcome.name] += 1
        return outcome


class _Job:
    """Work for a worker: where its outcome goes, and the bytes that are reserved for it."""

    __slots__ = ("is_late", "reply", "size", "timer")
    timer: asyncio.TimerHandle

    def __init__(self, reply: Reply, size: int):
        self.reply, self.size, self.is_late = reply, size, False


def _count_refusal(outcome: Outcome) -> Outcome:
    """Count an outcome that no delivery has returned, and return it."""
    metrics.count(metrics.REFUSALS, outcome.name)
    return outcome


def _set_result(reply: "asyncio.Future[Outcome | None]", outcome: Outcome | None) -> None:
    """Set the result, unless the client has disconnected."""
    if not reply.done():
        reply.set_result(outcome)


def _check_recipient(recipient: str, app: App) -> Outcome | None:
    refusal = check_recipient(recipient, app)
    return refusal and _count_refusal(refusal)


def _deliver_from_memory(envelope: Envelope, raw: bytes, app: App) -> Outcome:
    return deliver_from_memory(envelope, raw, app).outcome


def _deliver_spooled(entry: Entry, app: App) -> Outcome:
    return deliver_spooled(entry, app).outcome
